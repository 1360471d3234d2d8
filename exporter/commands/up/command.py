"""``model-exporter up``: start the programs, watch over them, and stop them all."""

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
from exporter.commands.up.display import Display, say
from exporter.commands.up.plan import ADDRESSES, Plan, find_grafana
from exporter.commands.up.process import Child, Program, require_free
from exporter.errors import StackError

DRAW_SECONDS = 2.0
RESTARTS = 3
"""Times that a program is started again; then everything stops."""
STEADY_SECONDS = 300.0
"""After so long without an end, a program's restarts are forgiven."""
STOP_SECONDS = 9.0
"""Time for all programs together to stop by themselves."""

_SOURCE = Path(__file__).resolve().parents[3]
_OPTIONS = {
    "exporter": "the exporter",
    "prometheus": "Prometheus",
    "alertmanager": "Alertmanager",
    "grafana": "Grafana",
    "service": "the demo's model service",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``model-exporter up``."""
    parser.add_argument(
        "--directory", type=Path, default=Path("run"), help="folder for state, logs and data (%(default)s)"
    )
    parser.add_argument("--down", action="store_true", help="only stop the stack of this folder, even after a crash")
    parser.add_argument("--keep", action="store_true", help="keep the data of the previous run, even with the demo")
    parser.add_argument("--no-demo", action="store_true", help="run without the demo's service and users")
    parser.add_argument("--no-grafana", action="store_true", help="run without Grafana, even if it is on the PATH")
    parser.add_argument(
        "--phases", type=_phases, metavar="PHASES", help="phases of the demo's scenario; see 'demo --help'"
    )
    parser.add_argument("--smarthost", type=_address, metavar="HOST:PORT", help="mail server that accepts e-mails")
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
        ended = pidfile.down(directory)
        say(f"Stopped {', '.join(ended)}." if ended else f"Nothing of {directory} runs.")
    else:
        with common.stopping(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as stopping:
            _up(args, plan, stopping)
    return 0


def _up(args: argparse.Namespace, plan: Plan, stopping: threading.Event) -> None:
    lock = pidfile.State(plan.directory)
    left = lock.acquire()
    try:
        if ended := pidfile.end(left):
            say(f"Ended what a crash had left behind: {', '.join(ended)}.")
        lock.write({})
        programs = _programs(args, plan)
        if stopping.is_set():
            return
        if not (args.keep or args.no_demo) and plan.clear():
            say("Begins without the data of the run before; --keep goes on with them.")
        plan.write(say)
        logs = plan.directory / "logs"
        logs.mkdir(exist_ok=True)
        supervisor = _Supervisor(
            [Child(program, logs / f"{program.name}.log") for program in programs], stopping.wait, lock
        )
        try:
            if supervisor.start():
                supervisor.watch(plan.addresses)
        finally:
            supervisor.stop()
    finally:
        lock.release()


def _programs(args: argparse.Namespace, plan: Plan) -> list[Program]:
    """What shall run; its ports are free and its binaries are there."""
    plan.check()
    grafana = None if args.no_grafana else find_grafana()
    demo = None if args.no_demo else [f"--phases={args.phases}"] if args.phases else []
    for program in plan.programs("", "", grafana, demo):  # a busy port is said before the long wait
        require_free(program)
    prometheus, alertmanager = install.find(say)
    return plan.programs(prometheus, alertmanager, grafana, demo)


@dataclass
class _Supervisor:
    """Starts the children in order, restarts the ones that end, stops them in the reverse order."""

    children: list[Child]
    wait: Callable[[float], bool]
    lock: pidfile.State
    restarts: dict[str, list[float]] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)

    def start(self) -> bool:
        """Start each and wait until it is ready; false when all shall stop."""
        for child in self.children:
            began = time.monotonic()
            self._start(child)
            if not child.await_ready(self.wait):
                return False
            say(f"{child.program.title} is ready at {child.program.url} ({time.monotonic() - began:.1f} s)")
        return True

    def _start(self, child: Child) -> None:
        child.start()
        self.lock.write({child.program.name: child.pid for child in self.children if child.pid})

    def watch(self, addresses: dict[str, str]) -> None:
        """Show the state, and restart what ends, until all shall stop.

        Raises
        ------
        StackError
            When a program keeps ending.
        """
        display = Display({child.program.name: child.program.url for child in self.children})
        logs = {child.program.name: child.log for child in self.children}
        servers = (f"http://{addresses['prometheus']}", f"http://{addresses['alertmanager']}")
        drawn = float("-inf")
        while not self.wait(0.2):
            for child in self.children:
                self._look_after(child, display)
            if time.monotonic() - drawn >= DRAW_SECONDS:
                drawn = time.monotonic()
                display.show(status.take(*servers, logs.get("demo")))

    def _look_after(self, child: Child, display: Display) -> None:
        name, title, now = child.program.name, child.program.title, time.monotonic()
        if name in self.due:
            if now >= self.due[name]:
                del self.due[name]
                self._start(child)
                display.event(f"{title} is started again")
            return
        if not (ended := child.ended()):
            return
        recent = [at for at in self.restarts.get(name, []) if now - at < STEADY_SECONDS]
        if len(recent) >= RESTARTS:
            raise StackError(f"{title} {ended} after {RESTARTS} restarts: everything stops. {child.last_lines()}")
        self.restarts[name] = [*recent, now]
        delay = 2.0 ** len(recent)
        self.due[name] = now + delay
        display.event(f"{title} {ended}; starting it again in {delay:g} s. {child.last_lines()}")

    def stop(self) -> None:
        """Stop all, the last started first."""
        running = [child for child in reversed(self.children) if child.pid]
        if not running:
            return
        say("Stopping ...")
        deadline = time.monotonic() + STOP_SECONDS
        for number, child in enumerate(running, start=1):
            # The slow one must not use up the time of those after it.
            child.stop(max(0.5, deadline - time.monotonic() - (len(running) - number)))
        say("Everything has stopped.")


def _phases(text: str) -> str:
    try:
        scenario.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _address(text: str) -> str:
    if not all(address(text)):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT with a host and a port above 0, got {text!r}")
    return text
