"""`make up` with the real programs, on free ports."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.servers import eventually, free_port

from demo import model
from demo.processes import PidFile, stop_stack
from demo.up import ADDRESSES
from exporter.errors import StackError

NAMES = ("exporter", "alertmanager", "prometheus", "demo")


class Stack:
    """A stack in a folder and on ports of its own."""

    def __init__(self, folder: Path, prepared: Path) -> None:
        self.directory = folder / "run"
        shutil.copytree(prepared, self.directory / "demo")
        self.ports = {name: free_port() for name in ADDRESSES}
        self.output = folder / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *flags: str) -> list[str]:
        addresses = [f"--{name}-address=127.0.0.1:{port}" for name, port in self.ports.items()]
        command = [sys.executable, "-m", "demo", "up", f"--directory={self.directory}", "--no-grafana"]
        return [*command, *addresses, *flags]

    def run(self, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        env = os.environ | environment
        return subprocess.run(self.command(*flags), capture_output=True, text=True, timeout=60, check=False, env=env)

    def start(self, *flags: str) -> Stack:
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(self.command(*flags), stdout=output, stderr=output)
        return self

    def says(self, text: str, seconds: float = 30) -> str:
        """The output, once a text is in it."""

        def said() -> bool:
            assert self.process is None or self.process.poll() is None or text in self.said, self.said
            return text in self.said

        eventually(said, seconds)
        return self.said

    @property
    def said(self) -> str:
        return self.output.read_text()

    def pids(self) -> dict[str, int]:
        return {name: pid for name, (pid, _) in PidFile(self.directory).read().items()}

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def left(self) -> list[str]:
        """Processes of this stack that still run, its ports that are taken, its files that should be gone."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            command = " ".join(process.info["cmdline"] or [])
            if str(self.directory) in command and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(command)
        for name, port in self.ports.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    found.append(f"{name} port {port}")
        if (self.directory / "stack.json").exists():
            found.append("stack.json")
        return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    model.prepare(folder)
    return folder


@pytest.fixture
def stack(tmp_path: Path, prepared: Path) -> Iterator[Stack]:
    """A stack that is not started yet; whatever a test leaves is ended."""
    stack = Stack(tmp_path, prepared)
    yield stack
    if stack.process is not None:
        stack.end()
    stop_stack(stack.directory)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[Stack]:
    """One whole stack for tests that leave it well."""
    stack = Stack(tmp_path_factory.mktemp("running"), prepared).start()
    stack.says("The demo is ready")
    yield stack
    assert stack.end() == 0
    assert eventually(lambda: not stack.left(), 5)


def test_plain_output_reports_readiness_targets_layers_and_demo(running: Stack) -> None:
    """Without a terminal, the output is plain lines: readiness, targets, the three layers and the demo's messages."""
    for target in ("model-exporter", "prometheus", "alertmanager"):
        port = running.ports["exporter" if target == "model-exporter" else target]
        running.says(f"target {target} 127.0.0.1:{port} is up")
    output = running.says("business: ")
    assert re.search(r"system: .* requests/s, .* errors, p95 .* s, CPU \d+%, memory \d+%", output)
    assert re.search(r"data: worst KL ", output)
    assert "Alerts reach the home page. Not configured: E-mail, Slack, Webhook; see docs/notifications.md.\n" in output
    last = output.partition("The demo is ready at ")[2].splitlines()[1]
    assert last.startswith(f"Open http://127.0.0.1:{running.ports['exporter']}/ in a browser.")
    assert "demo: healthy for 3m: the service is healthy" in output
    assert "\x1b" not in output


def test_a_second_start_is_refused(running: Stack) -> None:
    """A second stack in the same folder is refused with the process id of the first, which continues."""
    before = running.pids()
    second = running.run()
    assert second.returncode == 1
    assert f"a stack is already running in {running.directory} (process {before['stack']})" in second.stderr
    assert running.pids() == before


@pytest.mark.parametrize(("name", "title"), [("exporter", "The exporter"), ("prometheus", "Prometheus")])
def test_a_busy_port_is_an_error_before_the_start(
    running: Stack, tmp_path: Path, prepared: Path, name: str, title: str
) -> None:
    """A port in use is reported before anything starts, with the program that needs it, its user and a solution."""
    other = Stack(tmp_path, prepared)
    other.ports[name] = running.ports[name]
    failed = other.run()
    assert failed.returncode == 1
    assert f"{title} needs 127.0.0.1:{running.ports[name]}" in failed.stderr
    assert f"(process {running.pids()[name]}:" in failed.stderr
    assert f"--{name}-address HOST:PORT" in failed.stderr
    assert "make down" in failed.stderr
    assert not (other.directory / "stack.json").exists()
    assert not (other.directory / "logs").exists()


def test_a_program_is_restarted_three_times_before_the_stack_stops(stack: Stack) -> None:
    """A killed program is reported with its last lines and restarted with backoff; after three restarts all stops."""
    stack.start("--no-demo").says("Prometheus is ready")
    for count in (1, 2, 3):
        os.kill(stack.pids()["alertmanager"], signal.SIGKILL)
        eventually(lambda n=count: stack.said.count("Alertmanager was restarted") == n, 20)
    os.kill(stack.pids()["alertmanager"], signal.SIGKILL)
    assert stack.process is not None
    assert stack.process.wait(timeout=20) == 1
    assert "Alertmanager was killed by SIGKILL; restarting it in 1 s. The end of " in stack.said
    assert "restarting it in 4 s" in stack.said
    assert "Alertmanager was killed by SIGKILL after 3 restarts: stopping everything" in stack.said
    assert not stack.left()


def test_ctrl_c_on_a_terminal_stops_the_stack(stack: Stack) -> None:
    """On a terminal, Ctrl-C stops all programs in order."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, stack.command("--no-demo"))
    seen, pressed = b"", 0.0
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline, seen
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # Linux says so when the other side is gone
            break
        if not pressed and b"in a browser. Ctrl-C stops everything." in seen:
            pressed = time.monotonic()
            os.write(terminal, b"\x03")
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert time.monotonic() - pressed < 30
    assert seen.rstrip().endswith(b"Everything has stopped.")
    assert not stack.left()


def test_children_do_not_outlive_a_killed_supervisor(stack: Stack) -> None:
    """After SIGKILL the children end by themselves, and `--down` removes the rest."""
    stack.start().says("The demo is ready")
    stack.end(signal.SIGKILL)
    eventually(lambda: stack.left() == ["stack.json"], 20)
    assert "No stack is running in" in stack.run("--down").stdout
    assert not stack.left()


def test_down_stops_a_running_stack(stack: Stack) -> None:
    """`--down` from another terminal stops a running stack in order, and a second one finds nothing."""
    stack.start("--no-demo").says("Prometheus is ready")
    assert "Stopped stack, exporter, alertmanager, prometheus." in stack.run("--down").stdout
    assert stack.process is not None
    assert stack.process.wait(timeout=60) == 0
    assert "Everything has stopped." in stack.said
    assert not stack.left()
    assert "No stack is running in" in stack.run("--down").stdout


def test_a_start_deletes_old_data_unless_keep_is_given(stack: Stack) -> None:
    """Data of the previous run and later versions are deleted, unless `--keep` is given."""
    trained = (stack.directory / "demo" / "model.joblib").stat()
    marks = [stack.directory / name / "data" / "mark" for name in ("prometheus", "alertmanager")]
    database = stack.directory / "demo" / "model-exporter.db"
    for mark in marks:
        mark.parent.mkdir(parents=True)
        mark.touch()
    with contextlib.closing(sqlite3.connect(database)) as before:
        before.execute("CREATE TABLE mark (n)")
    stack.start("--keep").says("Prometheus is ready")
    assert stack.end() == 0
    assert all(mark.exists() for mark in marks)
    later = stack.directory / "demo" / "model-2.joblib"
    later.touch()
    stack.start().says("Prometheus is ready")
    assert "Deleted the data of the previous run; --keep keeps it." in stack.said
    assert stack.end() == 0
    assert not any(mark.exists() for mark in (later, *marks))
    with contextlib.closing(sqlite3.connect(database)) as after:
        assert not after.execute("SELECT 1 FROM sqlite_master WHERE name = 'mark'").fetchone()
    assert (stack.directory / "demo" / "model.joblib").stat().st_mtime_ns == trained.st_mtime_ns
    text = (stack.directory / "demo" / "exporter.yml").read_text()
    assert text.count("links:") == text.count("prometheus_url:") == 1 and '"grafana": null' in text, (
        "no Grafana runs: alerts link to the exporter"
    )


def test_a_program_that_does_not_start_is_reported_with_its_last_lines(stack: Stack, tmp_path: Path) -> None:
    """When a program ends before it is ready, its last lines are shown and everything stops."""
    broken = tmp_path / "bin" / "prometheus"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho cannot open storage >&2\nexit 3\n")
    broken.chmod(0o755)
    failed = stack.run("--no-demo", PATH=f"{broken.parent}:{os.environ['PATH']}")
    assert failed.returncode == 1
    assert "Prometheus did not start: it exited with status 3." in failed.stderr
    assert "cannot open storage" in failed.stderr
    assert not stack.left()


def test_missing_programs_are_named_with_what_to_install(stack: Stack, tmp_path: Path) -> None:
    """Without the programs, the message says how to install them."""
    failed = stack.run(PATH=str(tmp_path))
    assert failed.returncode == 1
    assert "prometheus and alertmanager not found on the PATH: " in failed.stderr
    assert "'apt-get install prometheus prometheus-alertmanager'" in failed.stderr
    assert not stack.left()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A folder that is a file is one clear message."""
    (tmp_path / "run").write_text("")
    with pytest.raises(StackError, match="set another --directory"):
        PidFile(tmp_path / "run").acquire()


@pytest.mark.parametrize("address", ["9090", "127.0.0.1:0", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:http"])
def test_an_address_must_be_host_and_port(stack: Stack, address: str) -> None:
    """An invalid address is a usage error."""
    wrong = stack.run(f"--prometheus-address={address}")
    assert wrong.returncode == 2
    assert "expected HOST:PORT" in wrong.stderr
