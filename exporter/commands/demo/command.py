"""``model-exporter demo``: prepare, serve, send traffic, tell the story, and leave nothing behind."""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from exporter.client import Monitor
from exporter.commands import common
from exporter.commands.compare import command as comparing
from exporter.commands.compare.counts import Period, moment
from exporter.commands.compare.prometheus import Prometheus
from exporter.commands.compare.report import sentence
from exporter.commands.demo import model, scenario, service
from exporter.commands.demo.incidents import INCIDENTS, Happening
from exporter.commands.demo.retrain import retrain
from exporter.commands.demo.traffic import Traffic
from exporter.errors import StackError
from exporter.server import sockets

ADDRESS = "127.0.0.1:8000"
NONE = "none"
_INCIDENT = f"only let this happen in the running service, while the story waits; '{NONE}' ends what happens there"
_RETRAIN = "only review the corrections, train the next version on a release of them, and serve it beside the old one"
_LENGTHS = ", ".join(f"{scenario.spelt(incident.seconds)} for {name}" for name, incident in INCIDENTS.items())
_SECONDS = f"how long it happens, then it ends by itself; by default long enough for its alerts to fire: {_LENGTHS}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``model-exporter demo``."""
    parser.add_argument(
        "--directory", type=Path, default=Path("run/demo"), help="model, profile and exporter.yml (%(default)s)"
    )
    parser.add_argument("--exporter", default="http://127.0.0.1:9877", metavar="URL", help="default: %(default)s")
    parser.add_argument(
        "--listen-address",
        type=sockets.address,
        default=ADDRESS,
        metavar="HOST:PORT",
        help="default: %(default)s",
    )
    parser.add_argument("--service", metavar="URL", help="a model service that runs already, instead of a new one")
    parser.add_argument(
        "--prometheus", default="http://127.0.0.1:9090", metavar="URL", help="asked for the comparison (%(default)s)"
    )
    parser.add_argument("--rate", type=_rate, default=10.0, help="users' requests a second (%(default)g)")
    parser.add_argument("--phases", type=_phases, default=scenario.DEFAULT, help="the story (%(default)s)")
    parser.add_argument("--repeat", action="store_true", help="tell the story again and again")
    parser.add_argument("--prepare", action="store_true", help="only write the files into the directory")
    parser.add_argument("--retrain", action="store_true", help=_RETRAIN)
    parser.add_argument("--incident", choices=[*sorted(INCIDENTS), NONE], help=_INCIDENT)
    parser.add_argument("--seconds", type=_seconds, help=_SECONDS)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns
    -------
    int
        Exit status, 0.

    Raises
    ------
    ExporterError
        When a port is busy, the exporter or the service is not there, scikit-learn is missing, ...
    """
    if args.incident:
        _incident(args)
    elif args.retrain:
        version = retrain(args.directory, args.exporter.rstrip("/"), _service_url(args), _say)
        _say(
            f"next: {scenario.program()} demo --incident=dark, and then {scenario.program()} compare --after={version}"
        )
    elif args.prepare:
        model.prepare(args.directory)
        print(f"{args.directory}: wrote {', '.join(model.FILES)}")
    else:
        _demo(args)
    return 0


def _incident(args: argparse.Namespace) -> None:
    if args.incident == NONE:
        before = scenario.trigger(_service_url(args), None, 0)
        print(f"Ended {_named(before)}." if before.name else "Nothing went wrong, so there is nothing to end.")
        return
    incident = INCIDENTS[args.incident]
    seconds = incident.seconds if args.seconds is None else args.seconds
    before = scenario.trigger(_service_url(args), args.incident, seconds)
    print(f"For {scenario.spelt(seconds)} {incident.happens}. Look for: {incident.look}.")
    if "ModelFeatureChanged" in incident.look:
        print(
            "ModelFeatureChanged compares the last 5 minutes with those before them: it needs healthy traffic that is "
            "older than that, and notices less when the same thing happened within the hour before."
        )
    if before.name:
        print(f"It takes the place of {_named(before)}.")
    there = "" if (url := _service_url(args)) == f"http://{ADDRESS}" else f" --service={url}"
    print(f"The story waits until it is over. To end it earlier: {scenario.program()} demo --incident={NONE}{there}")


def _named(now: Happening) -> str:
    whose = "begun by hand" if now.by_hand else "of the story"
    return f"{now.name} {whose}, which had {scenario.spelt(now.seconds_left)} left"


def _demo(args: argparse.Namespace) -> None:
    if not model.prepared(args.directory):
        _say(f"training the model into {args.directory} ...")
        model.prepare(args.directory)
    with common.stopping(signal.SIGINT, signal.SIGTERM) as stopping, contextlib.ExitStack() as stack:
        _await(f"{args.exporter.rstrip('/')}/-/healthy", stopping, 5, _no_exporter(args))
        url, child = _service_url(args), None
        if not args.service:
            child = stack.enter_context(_service(args))

        def wait(seconds: float) -> bool:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                if stopping.wait(min(left, 0.5)):
                    return True
                if child is not None and child.poll() is not None:
                    raise StackError(f"the model service ended by itself, with status {child.returncode}")
            return stopping.is_set()

        _await(f"{url}/healthz", stopping, 30, f"{url}: no model service answers there", child)
        monitor = stack.enter_context(contextlib.closing(Monitor(args.exporter, model.NAME, model.VERSION)))
        traffic = Traffic(url, monitor, *model.held_out(args.directory), rate=args.rate, say=_say)
        traffic.start()
        stack.callback(traffic.stop)
        _say(f"{args.rate:g} requests a second to the model service at {url}, monitored by {args.exporter}")
        if not stopping.is_set():
            steps = _Steps(args, url, traffic)
            told = {"retrain": steps.retrain, "compare": steps.compare}
            scenario.Scenario(url, traffic.counts, wait, _say, told).tell(args.phases, repeat=args.repeat)
        _say("stopping")


class _Steps:
    """The steps of the story that are no incidents."""

    def __init__(self, args: argparse.Namespace, service: str, traffic: Traffic) -> None:
        self._args = args
        self._service = service
        self._traffic = traffic
        self._since = time.time()

    def retrain(self) -> None:
        """Train and deploy the next version; from now on only images come that it has not learnt from."""
        retrain(self._args.directory, self._args.exporter.rstrip("/"), self._service, lambda line: _say(f"  {line}"))
        self._traffic.only(model.HELD_BACK)
        self._since = time.time()
        _say(f"  until the comparison only pupils of {', '.join(sorted(model.HELD_BACK))} send images")

    def compare(self) -> None:
        """Compare the last two versions, since the newer one was deployed."""
        self._traffic.only()
        if len(versions := model.versions(self._args.directory)) < 2:
            raise StackError("there is no second version: the retraining before failed, or the story has none")
        before, after = versions[-2:]
        period = Period(self._since, time.time())
        found = comparing.of(Prometheus(self._args.prometheus), model.NAME, (before, period), (after, period))
        _say(f"  all numbers: {scenario.program()} compare --model={model.NAME} --from={moment(period.start)}")
        told = sorted(found.measures, key=lambda measure: measure.name == "correction_ratio")
        for measure in told:  # what the loop is for comes last: a terminal shows the last two lines
            _say(f"  {sentence(found, measure)}")


@contextlib.contextmanager
def _service(args: argparse.Namespace) -> Iterator[subprocess.Popen[bytes]]:
    """The service as a child; should this process be killed, the end of its input ends the child."""
    with service.listen(args.listen_address) as listener:
        command = [sys.executable, "-m", "exporter.commands.demo.service", f"--directory={args.directory}"]
        command += [f"--exporter={args.exporter}", f"--fd={listener.fileno()}"]
        # A session of its own: Ctrl-C reaches the parent alone, which first lets the users go.
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()], start_new_session=True)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=8)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdin:
            child.stdin.close()


def _await(
    url: str,
    stopping: threading.Event,
    seconds: float,
    otherwise: str,
    child: subprocess.Popen[bytes] | None = None,
) -> None:
    until = time.monotonic() + seconds
    while not stopping.is_set():
        try:
            with common.DIRECT.open(url, timeout=5):
                return
        except (OSError, ValueError) as error:
            if child is not None and child.poll() is not None:
                raise StackError(f"the model service did not start: it ended with status {child.returncode}") from None
            if time.monotonic() > until:
                raise StackError(f"{otherwise} ({getattr(error, 'reason', error)})") from None
        stopping.wait(0.2)


def _no_exporter(args: argparse.Namespace) -> str:
    config = args.directory / model.CONFIG_FILE
    return (
        f"{args.exporter}: no exporter answers there; start one with "
        f"'{scenario.program()} serve --config.file={config}', or name another with --exporter URL"
    )


def _service_url(args: argparse.Namespace) -> str:
    if args.service:
        return str(args.service).rstrip("/")
    host, port = args.listen_address
    return f"http://{sockets.Address('127.0.0.1' if host in {'', '0.0.0.0'} else host, port)}"  # noqa: S104 (compared)


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def _phases(text: str) -> tuple[scenario.Phase, ...]:
    try:
        return scenario.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(text: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= most:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and up to {most:g}, got {text!r}")
    return number


def _rate(text: str) -> float:
    return _number(text, 1000)


def _seconds(text: str) -> float:
    return _number(text, 86400)
