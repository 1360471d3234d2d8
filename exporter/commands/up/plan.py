"""The files in the folder of the stack, and the command line of each program."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exporter.commands.addresses import address
from exporter.commands.demo import model
from exporter.commands.up import install, receivers
from exporter.commands.up.process import Program
from exporter.errors import StackError

ADDRESSES = {
    "exporter": "127.0.0.1:9877",
    "prometheus": "127.0.0.1:9090",
    "alertmanager": "127.0.0.1:9093",
    "grafana": "127.0.0.1:3000",
    "service": "127.0.0.1:8000",
}
"""The default addresses, also in ``prometheus/targets/``; ``service`` is the demo's model service."""


@dataclass(frozen=True)
class Plan:
    """The stack that is to be started.

    Parameters
    ----------
    directory
        The folder for state, configuration and logs.
    source
        The folder with ``prometheus/``, ``alertmanager/`` and ``grafana/``.
    addresses
        Addresses with the keys of `ADDRESSES`.
    smarthost
        ``HOST:PORT`` of a mail server; None for none.
    """

    directory: Path
    source: Path
    addresses: dict[str, str]
    smarthost: str | None = None

    def check(self) -> None:
        """Check that the source is a checkout.

        Raises
        ------
        StackError
            When a file is missing; names it.
        """
        for name in ("prometheus/prometheus.yml", "alertmanager/alertmanager.yml"):
            if not (self.source / name).is_file():
                raise StackError(
                    f"{self.source / name} does not exist: install this package from a checkout of the project "
                    "with 'make install'; Prometheus and Alertmanager run on the files of the checkout"
                )

    def clear(self) -> bool:
        """Delete the data of the previous run; return whether there was any.

        Raises
        ------
        StackError
            When something cannot be deleted.
        """
        folders = [self.directory / name / "data" for name in ("prometheus", "alertmanager")]
        folders = [folder for folder in folders if folder.exists()]
        databases = list((self.directory / "demo").glob("model-exporter.db*"))
        try:
            for folder in folders:
                shutil.rmtree(folder)
            for file in databases:
                file.unlink()
            model.forget(self.directory / "demo")
        except OSError as error:
            raise StackError(f"{error.filename}: {error.strerror}; set another --directory") from None
        return bool(folders or databases)

    def write(self, report: Callable[[str], None], *, grafana: bool) -> None:
        """Write the files that the programs read; report progress and what is off with ``report``.

        Without Grafana, alerts link to pages of the exporter.

        Raises
        ------
        ExporterError
            When something cannot be read or written.
        """
        model.ensure(self.directory / "demo", report)
        try:
            service = f"http://{self.addresses['service']}"
            prometheus = f"http://{self.addresses['prometheus']}"
            model.link(self.directory / "demo", prometheus, self._links(grafana), service)
            self._write_alertmanager(report)
            self._write_prometheus()
        except OSError as error:
            raise StackError(f"{error.filename}: {error.strerror}; set another --directory") from None

    def _links(self, grafana: bool) -> dict[str, str | None]:
        """Return what browsers can open. Debian's packages have no web page but Prometheus' old one."""
        names = ("prometheus", "alertmanager", "grafana")
        links: dict[str, str | None] = {name: f"http://{self.addresses[name]}" for name in names}
        if install.is_debian("prometheus"):
            links["prometheus"] = f"{links['prometheus']}/classic"
        if install.is_debian("prometheus-alertmanager"):
            links["alertmanager"] = None
        return links if grafana else links | {"grafana": None}

    def _write_alertmanager(self, report: Callable[[str], None]) -> None:
        target = self.directory / "alertmanager" / "alertmanager.yml"
        target.parent.mkdir(parents=True, exist_ok=True)
        inbox = f"http://{self.addresses['exporter']}/v1/notifications"
        source = self.source / "alertmanager" / "alertmanager.yml"
        if off := receivers.write(source, target, inbox=inbox, smarthost=self.smarthost):
            report(receivers.describe(off))

    def _write_prometheus(self) -> None:
        """Link to the files of the checkout, so that a reload applies an edit, and write this stack's targets."""
        folder = self.directory / "prometheus"
        (folder / "targets").mkdir(parents=True, exist_ok=True)
        for name in ("prometheus.yml", "rules"):
            link = folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(self.source / "prometheus" / name)
        moved = {ADDRESSES[name]: address for name, address in self.addresses.items()}
        pattern = re.compile("|".join(re.escape(address) + r"(?!\d)" for address in moved))
        for file in (self.source / "prometheus" / "targets").glob("*.yml"):
            text = pattern.sub(lambda match: moved[match[0]], file.read_text(encoding="utf-8"))
            (folder / "targets" / file.name).write_text(text, encoding="utf-8")

    def programs(
        self, prometheus: str, alertmanager: str, grafana: str | None, demo: list[str] | None
    ) -> list[Program]:
        """Return the programs in the order in which they start.

        Parameters
        ----------
        prometheus, alertmanager, grafana
            Paths of the binaries.
        demo
            More arguments for the demo; None for no demo.
        """
        at, demo_folder = self.addresses, self.directory / "demo"
        python = (sys.executable, "-m", "exporter.cli")
        config = f"--config.file={demo_folder / model.CONFIG_FILE}"
        programs = [
            self._program(
                "exporter", "The exporter", *python, "serve", config, f"--web.listen-address={at['exporter']}"
            ),
            self._server("alertmanager", "Alertmanager", alertmanager, "--storage.path", "--cluster.listen-address="),
            self._server("prometheus", "Prometheus", prometheus, "--storage.tsdb.path", "--web.enable-lifecycle"),
        ]
        if grafana:
            programs.append(self._grafana(grafana))
        if demo is not None:
            command = (
                *python,
                "demo",
                f"--directory={demo_folder}",
                f"--exporter=http://{at['exporter']}",
                f"--prometheus=http://{at['prometheus']}",
                f"--listen-address={at['service']}",
                *demo,
            )
            programs.append(Program("demo", "The demo", command, at["service"], "--service-address", "/healthz"))
        return programs

    def _program(self, name: str, title: str, *command: str, health: str = "/-/ready", **environment: str) -> Program:
        return Program(name, title, command, self.addresses[name], f"--{name}-address", health, environment)

    def _server(self, name: str, title: str, binary: str, storage: str, *flags: str) -> Program:
        """Return Prometheus or Alertmanager; ``storage`` is the flag that sets the folder of its data."""
        folder, at = self.directory / name, self.addresses[name]
        files = (f"--config.file={folder / f'{name}.yml'}", f"{storage}={folder / 'data'}")
        web = (f"--web.listen-address={at}", f"--web.external-url=http://{at}")
        return self._program(name, title, binary, *files, *web, *flags)

    def _grafana(self, binary: str) -> Program:
        at = self.addresses
        host, port = address(at["grafana"])
        folder = self.directory / "grafana"
        dashboards = self.source / "grafana" / "dashboards"
        folder.mkdir(exist_ok=True)
        # A package has its files in /usr/share, an archive beside bin/.
        homes = (Path(binary).resolve().parents[1], Path("/usr/share/grafana"))
        home = next((path for path in homes if (path / "conf" / "defaults.ini").is_file()), homes[0])
        server = ("server",) if Path(binary).name == "grafana" else ()
        environment = {
            "PROMETHEUS_URL": f"http://{at['prometheus']}",
            "DASHBOARDS_FOLDER": str(dashboards),
            "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": str(dashboards / "model-fleet.json"),
            "GF_PATHS_PROVISIONING": str(self.source / "grafana" / "provisioning"),
            "GF_PATHS_DATA": str(folder / "data"),
            "GF_PATHS_LOGS": str(folder / "logs"),
            "GF_PATHS_PLUGINS": str(folder / "plugins"),
            "GF_LOG_MODE": "console",
            "GF_SERVER_HTTP_ADDR": host,
            "GF_SERVER_HTTP_PORT": str(port),
            "GF_SERVER_ROOT_URL": f"http://{at['grafana']}/",
            "GF_AUTH_ANONYMOUS_ENABLED": "true",
            "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
            "GF_PLUGINS_PREINSTALL_DISABLED": "true",
        }
        command = (binary, *server, f"--homepath={home}")
        return self._program("grafana", "Grafana", *command, health="/api/health", **environment)


def find_grafana() -> str | None:
    """Return the path of Grafana's binary; None if none is on the PATH."""
    return shutil.which("grafana") or shutil.which("grafana-server")
