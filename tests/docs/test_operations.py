"""docs/operations.md, run as it stands in a folder in the place of the root directory, and the systemd units."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import yaml
from support import scripts
from support.paths import ROOT
from support.postgres import Postgres, program
from support.servers import ask, eventually, free_port, serving, write_config

TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
UNITS = ROOT / "deploy" / "systemd"
COMMAND = Path(sys.executable).with_name("model-exporter")

# What the shell has in the place of programs that need root and systemd. The unit's own ExecStart is run.
FUNCTIONS = r"""
set -eo pipefail
useradd() { :; }
chgrp() { :; }
runuser() { shift 3; "$@"; }
curl() { command curl --noproxy '*' -sS "$@"; }
install() {
  local arguments=()
  while (($#)); do case $1 in -o|-g) shift 2 ;; *) arguments+=("$1"); shift ;; esac; done
  command install "${arguments[@]}"
}
systemctl() {
  case "$1" in
    daemon-reload) ;;
    enable|start) start ;;
    restart) stop; start ;;
    stop) stop ;;
    *) echo "systemctl $*: unexpected" >&2; return 1 ;;
  esac
}
start() {
  source "$ROOT/etc/default/model-exporter"
  local command=$(sed -n 's/^ExecStart=//p' "$ROOT/etc/systemd/system/model-exporter.service")
  command=${command//\$ARGS/$ARGS}
  : > "$ROOT/log"
  (cd "$ROOT/var/lib/model-exporter"; exec $command) > /dev/null 2> "$ROOT/log" &
  echo $! > "$ROOT/pid"
  until grep -q 'listening on' "$ROOT/log"; do
    kill -0 "$(< "$ROOT/pid")" || { cat "$ROOT/log" >&2; return 1; }
    sleep 0.1
  done
}
stop() {
  kill "$(< "$ROOT/pid")"
  while kill -0 "$(< "$ROOT/pid")" 2> /dev/null; do sleep 0.1; done
  rm "$ROOT/pid"
}
"""


def blocks(language: str) -> list[str]:
    """Return the code of a language, without the indentation of the list that it is in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", TEXT, re.M | re.S)
    return ["\n".join(line.removeprefix(indent) for line in code.splitlines()) + "\n" for indent, code in found]


class Host:
    """A folder in the place of the root directory, in which the page's commands run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        for folder in ("opt/model-exporter/bin", "etc/default", "etc/systemd/system", "var/lib", "var/backups"):
            (root / folder).mkdir(parents=True)
        (root / "opt/model-exporter/bin/model-exporter").symlink_to(COMMAND)
        shutil.copytree(UNITS, root / "checkout/deploy/systemd")
        for unit in (root / "checkout/deploy/systemd").iterdir():
            unit.write_text(self.here(unit.read_text()))

    def here(self, text: str) -> str:
        """Return a text with the paths of this root and a free port."""
        text = re.sub(r"(?<![\w.$-])/(?=(?:etc|opt|var)/)", f"{self.root}/", text)
        return text.replace(":9877", f":{self.port}")

    def run(self, script: str) -> str:
        return scripts.run(FUNCTIONS + self.here(script), self.root / "checkout", ROOT=str(self.root))

    def correct(self, label: str) -> None:
        feedback = {"model": "loans", "prediction": "yes", "verdict": "corrected", "label": label}
        assert ask(f"http://127.0.0.1:{self.port}/v1/feedback", feedback).status == 201

    def labels(self) -> set[str]:
        with closing(sqlite3.connect(self.root / "var/lib/model-exporter/model-exporter.db")) as database:
            return {label for (label,) in database.execute("SELECT label FROM feedback")}

    def stop(self) -> None:
        pid = self.root / "pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.stop()


def test_the_commands_work_in_their_order(host: Host) -> None:
    """Install, TLS and tokens, backup, restore and the backup before an upgrade; the restored state is the backup's."""
    create, start, tls, backup, restore, before_upgrade = blocks("sh")
    assert "is valid" in host.run(create)
    assert "model-exporter is ready." in host.run(start)
    host.correct("before")
    printed = host.run(backup)
    assert "1 feedback" in printed
    host.correct("after")
    assert host.labels() == {'"before"', '"after"'}
    assert "is restored" in host.run(restore)
    assert host.labels() == {'"before"'}
    host.run(tls.replace("listen-address=:9877", "listen-address=127.0.0.1:9877"))
    assert (
        "tokens may do what their scopes allow: loans-service (feedback, ingest), prometheus (read)"
        in (host.root / "log").read_text()
    )
    for name, mode in (("exporter.key", 0o640), ("tokens.yml", 0o640), ("prometheus.token", 0o600)):
        assert (host.root / "etc/model-exporter" / name).stat().st_mode & 0o777 == mode
    assert "before-upgrade.db: " in host.run(before_upgrade)


def test_the_backup_unit_writes_and_deletes_old_backups(host: Host) -> None:
    """A backup of more than 14 days is deleted once a new one was verified; other files stay."""
    create, start, *_ = blocks("sh")
    host.run(create + start)
    backups = host.root / "var/backups/model-exporter"
    for name, days in (("model-exporter-old.db", 16), ("model-exporter-recent.db", 13), ("before-upgrade.db", 16)):
        (backups / name).touch()
        host.run(f"touch -d '{days} days ago' {backups / name}")
    unit = (host.root / "etc/systemd/system/model-exporter-backup.service").read_text()
    for command in re.findall(r"^ExecStart(?:Post)?=(.*)$", unit, re.M):
        host.run(command)
    names = {path.name for path in backups.iterdir()}
    assert {"model-exporter-recent.db", "before-upgrade.db"} < names
    assert "model-exporter-old.db" not in names
    assert len(names) == 3


@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.iterdir()))
def test_the_units_are_valid(tmp_path: Path, name: str) -> None:
    """systemd finds nothing to say about a unit."""
    shutil.copytree(UNITS, tmp_path / "units")
    for unit in (tmp_path / "units").iterdir():
        unit.write_text(unit.read_text().replace("/opt/model-exporter/bin/model-exporter", str(COMMAND)))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / "units" / name)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in result.stderr.splitlines() if str(tmp_path) in line or name in line]
    assert (result.returncode, complaints) == (0, [])


@pytest.mark.parametrize("name", ["model-exporter.service", "model-exporter-backup.service"])
def test_the_units_are_hardened(name: str) -> None:
    """systemd rates the exposure of each service below 1.5 of 10."""
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=15", str(UNITS / name)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    if name == "model-exporter.service":
        (documented,), (rated,) = re.findall(r"rates it (\S+) of", TEXT), re.findall(rf"{name}: (\S+) ", result.stdout)
        assert float(rated) == pytest.approx(float(documented), abs=0.11)  # versions of systemd differ


def test_the_limits_of_the_unit_fit_the_exporter() -> None:
    """It may open as many files as it serves connections, and has the time to stop."""
    from exporter.server.serve import CONNECTIONS, SPARE_FILES

    unit = (UNITS / "model-exporter.service").read_text()
    (files,) = re.findall(r"^LimitNOFILE=(\d+)$", unit, re.M)
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)s$", unit, re.M)
    assert int(files) >= CONNECTIONS + SPARE_FILES
    assert int(seconds) > 5 + 5 + 10


def test_the_configuration_of_prometheus_is_valid(tmp_path: Path) -> None:
    """promtool accepts the example, with the rules and the files where the page puts them."""
    prometheus, _ = blocks("yaml")
    folder = tmp_path / "model-exporter"
    shutil.copytree(ROOT / "prometheus" / "rules", folder)
    for name in ("exporter.crt", "prometheus.token"):
        (folder / name).write_text("x")
    (tmp_path / "prometheus.yml").write_text(prometheus)
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert yaml.safe_load(prometheus)["scrape_configs"][0]["job_name"] == "model-exporter"


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=ModelFeatureDrift layer=data severity=warning model=m", "model-team"),
        ("alertname=ModelErrorRatioHigh layer=system severity=critical model=m", "pager,model-team"),
        ("alertname=ModelStoreFailing layer=exporter severity=warning", "model-team"),
        ("alertname=Watchdog layer=exporter severity=none", "nobody"),
        ("alertname=DiskFull severity=critical", "default"),
    ],
)
def test_the_route_of_alertmanager_is_taken(tmp_path: Path, labels: str, receiver: str) -> None:
    """amtool accepts the example, and each alert reaches the receiver that the page means."""
    _, alertmanager = blocks("yaml")
    (tmp_path / "alertmanager.yml").write_text(alertmanager)
    command = ["amtool", "config", "routes", "test", f"--config.file={tmp_path / 'alertmanager.yml'}"]
    result = subprocess.run(
        [*command, f"--verify.receivers={receiver}", *labels.split()], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_postgresql_is_dumped_and_restored(tmp_path: Path, postgres: Postgres) -> None:
    """pg_dump beside a running exporter and pg_restore, as on the page, keep every acknowledged correction."""
    (block,) = (text for text in blocks("text") if "pg_dump" in text)
    source, target = postgres.url(), postgres.url()
    url = "postgresql://exporter@db.example/monitoring"
    steps = [line for line in block.splitlines() if not line.startswith("createdb")]
    script = "\n".join(steps).replace(f"{url}_restored", f"'{target}'").replace(url, f"'{source}'")
    for name in ("pg_dump", "pg_restore"):
        script = re.sub(rf"^{name}\b", program(name), script, flags=re.M)

    def config(url: str) -> None:
        write_config(tmp_path, {"models": [{"name": "loans"}], "store": {"url": url}})

    feedback = {"model": "loans", "prediction": "yes", "verdict": "corrected"}
    config(source)
    with serving(tmp_path) as server:
        for number in range(20):
            assert server.post("/v1/feedback", {**feedback, "label": f"no-{number}"}).status == 201
        scripts.run(f"set -e\n{script}", tmp_path)
    config(target)
    with server.start():
        rows = server.get("/v1/corrections?limit=100").json["corrections"]
        assert {row["label"] for row in rows} == {f"no-{number}" for number in range(20)}


def test_a_deleted_database_is_rescued_from_the_running_exporter(tmp_path: Path) -> None:
    """The runbook's copy of the open files of the process holds what was acknowledged."""
    write_config(tmp_path, {"models": [{"name": "loans"}], "store": {"url": "sqlite:///data/store.db"}})
    with serving(tmp_path) as server:
        feedback = {"model": "loans", "prediction": "yes", "verdict": "corrected", "label": "no"}
        assert server.post("/v1/feedback", feedback).status == 201
        shutil.rmtree(tmp_path / "data")
        eventually(lambda: server.get("/-/ready").status == 503, 30)
        for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
            name = ""
            with suppress(FileNotFoundError):  # a connection that has ended
                name = str(link.readlink())
            if name.endswith(("store.db (deleted)", "store.db-wal (deleted)")):
                ending = "-wal" if "-wal" in name else ""
                shutil.copyfile(link, tmp_path / f"rescued.db{ending}")
        with closing(sqlite3.connect(tmp_path / "rescued.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert database.execute("SELECT label FROM feedback").fetchall() == [('"no"',)]
