"""Run the exporter, Prometheus, Alertmanager, Grafana and the demo on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from demo import model, receivers, scenario, status
from demo.processes import Child, PidFile, Program, require_free, stop_leftovers, stop_stack
from demo.status import METRICS, Display, print_line
from exporter.commands import common
from exporter.commands.common import address
from exporter.errors import StackError

ADDRESSES = {
    "exporter": "127.0.0.1:9877",
    "prometheus": "127.0.0.1:9090",
    "alertmanager": "127.0.0.1:9093",
    "grafana": "127.0.0.1:3000",
    "service": "127.0.0.1:8000",
}
"""The default addresses, also in ``prometheus/targets/``; ``service`` is the demo's model service."""
PROMETHEUS_FLAGS = (
    "--web.enable-lifecycle",
    "--storage.tsdb.retention.time=35d",
    "--rules.alert.for-grace-period=30s",
)
"""The error budget looks back 30 days. After a restart, alerts continue to wait where they were."""
ALERTMANAGER_FLAGS = ("--cluster.listen-address=", "--data.maintenance-interval=1m")
"""One that is killed forgets what it announced in the last minute alone, not in 15."""

BINARIES = {
    "prometheus": ("prometheus",),
    # Debian's binary has the name of the package, the binary of the project's archive does not.
    "prometheus-alertmanager": ("prometheus-alertmanager", "alertmanager"),
}
"""Names of the binaries, by Debian package."""


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
        if is_debian("prometheus"):
            links["prometheus"] = f"{links['prometheus']}/classic"
        if is_debian("prometheus-alertmanager"):
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
        python, config = (sys.executable, "-m"), f"--config.file={demo_folder / model.CONFIG_FILE}"
        serve = (*python, "exporter.cli", "serve", config, f"--web.listen-address={at['exporter']}")
        programs = [
            self._program("exporter", "The exporter", *serve),
            self._server("alertmanager", "Alertmanager", alertmanager, "--storage.path", *ALERTMANAGER_FLAGS),
            self._server("prometheus", "Prometheus", prometheus, "--storage.tsdb.path", *PROMETHEUS_FLAGS),
        ]
        if grafana:
            programs.append(self._grafana(grafana))
        if demo is not None:
            command = (
                *python,
                "demo",
                "run",
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
        (folder / "plugins").mkdir(parents=True, exist_ok=True)
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
            "GF_AUTH_DISABLE_LOGIN_FORM": "true",
            "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
            "GF_PLUGINS_PREINSTALL_DISABLED": "true",
            "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED": "true",
            "GF_NEWS_NEWS_FEED_ENABLED": "false",
        }
        command = (binary, *server, f"--homepath={home}")
        return self._program("grafana", "Grafana", *command, health="/api/health", **environment)


def find_servers() -> tuple[str, str]:
    """Return the paths of Prometheus and Alertmanager.

    Raises
    ------
    StackError
        When one is not on the PATH; the message says what to install.
    """
    paths = {package: _which(package) for package in BINARIES}
    if missing := [package for package, path in paths.items() if not path]:
        names = " and ".join(BINARIES[package][-1] for package in missing)
        raise StackError(
            f"{names} not found on the PATH: as root on Debian or Ubuntu, run "
            f"'apt-get install {' '.join(missing)}'; elsewhere, install what https://prometheus.io/download/ has"
        )
    return paths["prometheus"] or "", paths["prometheus-alertmanager"] or ""


def _which(package: str) -> str | None:
    return next((path for name in BINARIES[package] if (path := shutil.which(name))), None)


def is_debian(package: str) -> bool:
    """Return whether the program is the one of Debian's package, which lacks the web pages."""
    path = _which(package)
    if path is None or not shutil.which("dpkg-query"):
        return False
    return not subprocess.run(["dpkg-query", "--search", path], capture_output=True, check=False).returncode


def find_grafana() -> str | None:
    """Return the path of Grafana's binary; None if none is on the PATH."""
    return shutil.which("grafana") or shutil.which("grafana-server")


SHOW_SECONDS = 2.0
RESTARTS = 3
"""How often a program is restarted before everything is stopped."""
STEADY_SECONDS = 300.0
"""Restarts that are longer ago do not count."""
STOP_SECONDS = 9.0
"""Time that all programs together have to stop after SIGTERM."""

_SOURCE = Path(__file__).resolve().parents[1]
_OPTIONS = {
    "exporter": "the exporter",
    "prometheus": "Prometheus",
    "alertmanager": "Alertmanager",
    "grafana": "Grafana",
    "service": "the demo's model service",
}


def up_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    text = "folder for state, logs and data"
    parser.add_argument("--directory", type=Path, default=Path("run"), metavar="FOLDER", help=text)
    parser.add_argument("--down", action="store_true", help="only stop the stack of this folder, even after a crash")
    parser.add_argument("--keep", action="store_true", help="keep the data of the previous run, even with the demo")
    parser.add_argument("--no-demo", action="store_true", help="run without the demo's service and users")
    parser.add_argument("--no-grafana", action="store_true", help="run without Grafana, even if it is on the PATH")
    phases = "phases of the demo's scenario; see 'run --help'"
    parser.add_argument("--phases", type=common.checked(_phases), metavar="PHASES", help=phases)
    parser.add_argument("--smarthost", type=_address, metavar="HOST:PORT", help="SMTP server that sends the e-mails")
    for name, program in _OPTIONS.items():
        text = f"address of {program}"
        parser.add_argument(f"--{name}-address", type=_address, default=ADDRESSES[name], metavar="HOST:PORT", help=text)


def up(args: argparse.Namespace) -> int:
    """Run the exporter, Prometheus, Alertmanager, Grafana and the demo on this machine, until Ctrl-C.

    Example::

        python -m demo up --no-demo

    See demo/README.md.
    """
    directory = args.directory.resolve()
    addresses = {name: getattr(args, f"{name}_address") for name in ADDRESSES}
    plan = Plan(directory, _SOURCE, addresses, args.smarthost)
    if args.down:
        stopped = stop_stack(directory)
        print_line(f"Stopped {', '.join(stopped)}." if stopped else f"No stack is running in {directory}.")
    else:
        with common.stopping(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as stopping:
            _up(args, plan, stopping)
    return 0


def _up(args: argparse.Namespace, plan: Plan, stopping: threading.Event) -> None:
    pid_file = PidFile(plan.directory)
    leftovers = pid_file.acquire()
    try:
        if stopped := stop_leftovers(leftovers):
            print_line(f"Stopped what a crash had left running: {', '.join(stopped)}.")
        pid_file.write({})
        programs = _programs(args, plan)
        if stopping.is_set():
            return
        if not (args.keep or args.no_demo) and plan.clear():
            print_line("Deleted the data of the previous run; --keep keeps it.")
        plan.write(print_line, grafana=any(program.name == "grafana" for program in programs))
        logs = plan.directory / "logs"
        logs.mkdir(exist_ok=True)
        children = [Child(program, logs / f"{program.name}.log") for program in programs]
        supervisor = _Supervisor(children, stopping.wait, pid_file)
        try:
            if supervisor.start():
                supervisor.supervise(plan.addresses)
        finally:
            supervisor.stop()
    finally:
        pid_file.release()


def _programs(args: argparse.Namespace, plan: Plan) -> list[Program]:
    """Return the programs to run; check that their ports are free."""
    demo = None if args.no_demo else [f"--phases={args.phases}"] if args.phases else []
    programs = plan.programs(*find_servers(), None if args.no_grafana else find_grafana(), demo)
    for program in programs:
        require_free(program)
    return programs


@dataclass
class _Supervisor:
    """Starts the children in order, restarts those that exit, and stops them in reverse order."""

    children: list[Child]
    wait: Callable[[float], bool]
    pid_file: PidFile
    restarts: dict[str, list[float]] = field(default_factory=dict)
    restart_at: dict[str, float] = field(default_factory=dict)

    def start(self) -> bool:
        """Start each child and wait until it is ready; return False when the stack is to stop."""
        for child in self.children:
            started = time.monotonic()
            self._start(child)
            if not child.await_ready(self.wait):
                return False
            seconds = time.monotonic() - started
            print_line(f"{child.program.title} is ready at {child.program.url} ({seconds:.1f} s)")
        print_line(f"Open {self.children[0].program.url}/ in a browser. Ctrl-C stops everything.")
        return True

    def _start(self, child: Child) -> None:
        child.start()
        self.pid_file.write({child.program.name: child.pid for child in self.children if child.pid})

    def supervise(self, addresses: dict[str, str]) -> None:
        """Show the state and restart children that exit, until the stack is to stop.

        Raises
        ------
        StackError
            When a child exits again and again.
        """
        logs = {child.program.name: child.log for child in self.children}
        servers = (f"http://{addresses['prometheus']}", f"http://{addresses['alertmanager']}")
        shown_at = float("-inf")
        display = Display()
        while not self.wait(0.2):
            for child in self.children:
                self._restart_if_exited(child)
            if time.monotonic() - shown_at >= SHOW_SECONDS:
                shown_at = time.monotonic()
                display.show(status.take_snapshot(*servers, METRICS, logs.get("demo")))

    def _restart_if_exited(self, child: Child) -> None:
        name, title, now = child.program.name, child.program.title, time.monotonic()
        if name in self.restart_at:
            if now >= self.restart_at[name]:
                del self.restart_at[name]
                self._start(child)
                print_line(f"{title} was restarted")
            return
        if not (reason := child.exit_reason()):
            return
        recent = [at for at in self.restarts.get(name, []) if now - at < STEADY_SECONDS]
        if len(recent) >= RESTARTS:
            raise StackError(f"{title} {reason} after {RESTARTS} restarts: stopping everything. {child.log_end()}")
        self.restarts[name] = [*recent, now]
        delay = 2.0 ** len(recent)
        self.restart_at[name] = now + delay
        print_line(f"{title} {reason}; restarting it in {delay:g} s. {child.log_end()}")

    def stop(self) -> None:
        """Stop all children, the last started first."""
        running = [child for child in reversed(self.children) if child.pid]
        if not running:
            return
        print_line("Stopping ...")
        deadline = time.monotonic() + STOP_SECONDS
        for index, child in enumerate(running, start=1):
            # A slow one must leave a second to each of those after it.
            child.stop(max(0.5, deadline - time.monotonic() - (len(running) - index)))
        print_line("Everything has stopped.")


def _phases(text: str) -> str:
    scenario.parse(text)
    return text


def _address(text: str) -> str:
    if not all(address(text)):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT with a host and a port above 0, got {text!r}")
    return text
