"""The command ``model-exporter up``: start the programs, supervise them, and stop them all."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from exporter.commands import common
from exporter.commands.addresses import address
from exporter.commands.demo import scenario
from exporter.commands.up import install, pidfile, status
from exporter.commands.up.display import METRICS, Display, create_display, print_line
from exporter.commands.up.plan import ADDRESSES, Plan, find_grafana
from exporter.commands.up.process import Child, Program, require_free
from exporter.errors import StackError

SHOW_SECONDS = 2.0
RESTARTS = 3
"""How often a program is restarted before everything is stopped."""
STEADY_SECONDS = 300.0
"""Restarts that are longer ago do not count."""
STOP_SECONDS = 9.0
"""Time that all programs together have to stop after SIGTERM."""

_SOURCE = Path(__file__).resolve().parents[3]
_OPTIONS = {
    "exporter": "the exporter",
    "prometheus": "Prometheus",
    "alertmanager": "Alertmanager",
    "grafana": "Grafana",
    "service": "the demo's model service",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    text = "folder for state, logs and data (%(default)s)"
    parser.add_argument("--directory", type=Path, default=Path("run"), metavar="FOLDER", help=text)
    parser.add_argument("--down", action="store_true", help="only stop the stack of this folder, even after a crash")
    parser.add_argument("--keep", action="store_true", help="keep the data of the previous run, even with the demo")
    parser.add_argument("--no-demo", action="store_true", help="run without the demo's service and users")
    parser.add_argument("--no-grafana", action="store_true", help="run without Grafana, even if it is on the PATH")
    phases = "phases of the demo's scenario; see 'demo --help'"
    parser.add_argument("--phases", type=common.checked(_phases), metavar="PHASES", help=phases)
    parser.add_argument("--smarthost", type=_address, metavar="HOST:PORT", help="SMTP server that sends the e-mails")
    for name, program in _OPTIONS.items():
        text = f"address of {program} (%(default)s)"
        parser.add_argument(f"--{name}-address", type=_address, default=ADDRESSES[name], metavar="HOST:PORT", help=text)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns
    -------
    int
        Exit status, 0.

    Raises
    ------
    ExporterError
        When a program is missing, its port is taken, it does not start, or it keeps ending.
    """
    directory = args.directory.resolve()
    addresses = {name: getattr(args, f"{name}_address") for name in ADDRESSES}
    plan = Plan(directory, _SOURCE, addresses, args.smarthost)
    if args.down:
        stopped = pidfile.stop_stack(directory)
        print_line(f"Stopped {', '.join(stopped)}." if stopped else f"No stack is running in {directory}.")
    else:
        with common.stopping(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as stopping:
            _up(args, plan, stopping)
    return 0


def _up(args: argparse.Namespace, plan: Plan, stopping: threading.Event) -> None:
    pid_file = pidfile.PidFile(plan.directory)
    leftovers = pid_file.acquire()
    try:
        if stopped := pidfile.stop_leftovers(leftovers):
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
    """Return the programs to run; check that their ports are free, and install what is missing."""
    plan.check()
    grafana = None if args.no_grafana else find_grafana()
    demo = None if args.no_demo else [f"--phases={args.phases}"] if args.phases else []
    for program in plan.programs("", "", grafana, demo):  # before an installation, which takes long
        require_free(program)
    prometheus, alertmanager = install.find(print_line)
    return plan.programs(prometheus, alertmanager, grafana, demo)


@dataclass
class _Supervisor:
    """Starts the children in order, restarts those that exit, and stops them in reverse order."""

    children: list[Child]
    wait: Callable[[float], bool]
    pid_file: pidfile.PidFile
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
        with create_display({child.program.name: child.program.url for child in self.children}) as display:
            while not self.wait(0.2):
                for child in self.children:
                    self._restart_if_exited(child, display)
                if time.monotonic() - shown_at >= SHOW_SECONDS:
                    shown_at = time.monotonic()
                    display.show(status.take_snapshot(*servers, METRICS, logs.get("demo")))

    def _restart_if_exited(self, child: Child, display: Display) -> None:
        name, title, now = child.program.name, child.program.title, time.monotonic()
        if name in self.restart_at:
            if now >= self.restart_at[name]:
                del self.restart_at[name]
                self._start(child)
                display.show_event(f"{title} was restarted")
            return
        if not (reason := child.exit_reason()):
            return
        recent = [at for at in self.restarts.get(name, []) if now - at < STEADY_SECONDS]
        if len(recent) >= RESTARTS:
            raise StackError(f"{title} {reason} after {RESTARTS} restarts: stopping everything. {child.log_end()}")
        self.restarts[name] = [*recent, now]
        delay = 2.0 ** len(recent)
        self.restart_at[name] = now + delay
        display.show_event(f"{title} {reason}; restarting it in {delay:g} s. {child.log_end()}")

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
