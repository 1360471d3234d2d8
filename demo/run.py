"""Run a model service with simulated users, and incidents that the alerts detect."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from demo import model, retraining, scenario, service
from demo.incidents import INCIDENTS, ActiveIncident
from demo.retraining import retrain
from demo.scenario import say
from demo.traffic import Traffic
from exporter.client import Monitor
from exporter.commands import common
from exporter.comparison.measures import Period, sentence, utc_time
from exporter.comparison.prometheus import compare_shared
from exporter.errors import StackError
from exporter.http_client import Client, RequestError
from exporter.prometheus import DEFAULT_URL, Prometheus

ADDRESS = "127.0.0.1:8000"
NONE = "none"
_INCIDENTS = "\n".join(
    textwrap.fill(
        f"{name:<8} {scenario.format_seconds(incident.seconds):<5} {incident.description}",
        width=78,
        subsequent_indent=" " * 15,
    )
    for name, incident in INCIDENTS.items()
)
"""Each incident with its usual duration, for the help."""


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    text = "folder of the model, its profile and its exporter.yml"
    add("--directory", type=Path, default=Path("run/demo"), metavar="FOLDER", help=text)
    add("--exporter", default="http://127.0.0.1:9877", metavar="URL", help="URL of the exporter")
    variable = "MODEL_EXPORTER_CA_FILE"
    text = f"file with the certificates to trust instead of the system's, in PEM (${variable})"
    add("--ca-file", default=os.environ.get(variable), metavar="FILE", help=text)
    text = "address of the model service"
    add("--listen-address", type=common.address, default=ADDRESS, metavar="HOST:PORT", help=text)
    add("--service", metavar="URL", help="use the model service at this URL instead of starting one")
    text = "URL of Prometheus, for the comparison of two versions"
    add("--prometheus", default=DEFAULT_URL, metavar="URL", help=text)
    add("--rate", type=_rate, default=10.0, metavar="N", help="user requests per second (%(default)g)")
    add("--phases", type=common.checked(scenario.parse), default=scenario.DEFAULT, help="phases of the scenario")
    add("--repeat", action="store_true", help="repeat the scenario until Ctrl-C")
    add("--prepare", action="store_true", help="only write the files into the folder")
    text = "only review the corrections, train a version on a release of them, and serve both versions"
    add("--retrain", action="store_true", help=text)
    add = parser.add_argument_group(
        "incidents, each with the time that its alerts take to fire", _INCIDENTS
    ).add_argument
    text = f"only start this incident in the running service; the scenario pauses; '{NONE}' ends the active one"
    add("--incident", choices=[*sorted(INCIDENTS), NONE], help=text)
    add("--seconds", type=common.seconds, metavar="N", help="duration of the incident; default: the time above")


def run(args: argparse.Namespace) -> int:
    """Run a model service with simulated users, and incidents that the alerts detect.

    Example::

        python -m demo run --incident=dark

    See demo/README.md.
    """
    if args.incident:
        _incident(args)
    elif args.retrain:
        with _exporter_client(args) as exporter, _service_client(args) as client:
            version = retrain(args.directory, exporter, client, say)
        exporter_command = scenario.program("model-exporter")
        say(f"next: {scenario.demo()} run --incident=dark, and then {exporter_command} compare --after={version}")
    elif args.prepare:
        model.prepare(args.directory)
        print(f"{args.directory}: wrote {', '.join(model.FILES)}")
    else:
        _demo(args)
    return 0


def _exporter_client(args: argparse.Namespace) -> Client:
    return Client(args.exporter, "--exporter", ca_file=args.ca_file, timeout=30)


def _service_client(args: argparse.Namespace) -> Client:
    return Client(_service_url(args), "--service", timeout=30)


def _incident(args: argparse.Namespace) -> None:
    client = scenario.service_client(_service_url(args))
    if args.incident == NONE:
        previous = scenario.trigger(client, None, 0)
        print(
            f"Ended {_describe(previous)}." if previous.name else "No incident is active, so there is nothing to end."
        )
        return
    incident = INCIDENTS[args.incident]
    seconds = incident.seconds if args.seconds is None else args.seconds
    previous = scenario.trigger(client, args.incident, seconds)
    print(f"For {scenario.format_seconds(seconds)} {incident.description}.")
    print("Look for:")
    for symptom in incident.symptoms.split("; "):
        print(textwrap.fill(symptom, width=100, initial_indent="- ", subsequent_indent="  "))
    if "ModelInputsChanged" in incident.symptoms:
        print("ModelInputsChanged compares the last 5 minutes with the traffic before, which must have been healthy.")
        print("It is less sensitive when the same incident was active within the last hour.")
    if previous.name:
        print(f"It replaces {_describe(previous)}.")
    option = "" if client.url == f"http://{ADDRESS}" else f" --service={client.url}"
    print("The scenario pauses until the incident is over. To end it now:")
    print(f"  {scenario.demo()} run --incident={NONE}{option}")


def _describe(incident: ActiveIncident) -> str:
    origin = "started by hand" if incident.by_hand else "of the scenario"
    return f"{incident.name}, {origin}, with {scenario.format_seconds(incident.seconds_left)} left"


def _demo(args: argparse.Namespace) -> None:
    model.ensure(args.directory, say)
    with common.stopping(signal.SIGINT, signal.SIGTERM) as stopping, contextlib.ExitStack() as stack:
        prometheus = Prometheus(args.prometheus)
        exporter = stack.enter_context(_exporter_client(args))
        _wait_until_healthy(exporter, "/-/healthy", stopping, 5, _no_exporter(args))
        child = None if args.service else stack.enter_context(_service(args))
        client = stack.enter_context(_service_client(args))
        _wait_until_healthy(client, "/healthz", stopping, 30, f"{client.url}: no model service responds", child=child)
        users = Monitor(args.exporter, model.NAME, model.VERSION, ca_file=args.ca_file)
        monitor = stack.enter_context(contextlib.closing(users))
        traffic = Traffic(
            client.url, monitor, *model.held_out(args.directory), rate=args.rate, exporter=exporter, say=say
        )
        traffic.start()
        stack.callback(traffic.stop)
        say(f"{args.rate:g} requests a second to the model service at {client.url}, monitored by {args.exporter}")
        if not stopping.is_set():
            steps = _Steps(args, exporter, client, traffic, prometheus)
            functions = {"sample": steps.sample, "retrain": steps.retrain, "compare": steps.compare}
            wait = functools.partial(_wait, stopping, child)
            events = scenario.Scenario(scenario.service_client(client.url), traffic.counts, wait, say, functions)
            events.run(args.phases, repeat=args.repeat)
        say("stopping")


def _wait(stopping: threading.Event, child: subprocess.Popen[bytes] | None, seconds: float) -> bool:
    """Sleep, and return whether to stop."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stopping.wait(min(left, 0.5)):
            return True
        if child is not None and child.poll() is not None:
            raise StackError(f"the model service exited unexpectedly with status {child.returncode}")
    return stopping.is_set()


class _Steps:
    """The steps of the scenario that are not incidents."""

    def __init__(
        self, args: argparse.Namespace, exporter: Client, service: Client, traffic: Traffic, prometheus: Prometheus
    ) -> None:
        self._args = args
        self._prometheus = prometheus
        self._exporter = exporter
        self._service = service
        self._traffic = traffic
        self._since = time.time()

    def sample(self) -> None:
        """Review a random sample, from which the accuracy of the confident predictions is estimated."""
        reviewed = retraining.review_sample(self._exporter, self._args.directory)
        say(
            f"  the demo reviews a random sample of confident predictions: {reviewed['right']} are right, "
            f"{reviewed['wrong']} wrong, {reviewed['left']} impossible to judge"
        )

    def retrain(self) -> None:
        """Train and deploy the next version; from then on users send only images that it was not trained on."""
        retrain(self._args.directory, self._exporter, self._service, lambda line: say(f"  {line}"))
        self._traffic.use_teachers(model.HELD_BACK)
        self._since = time.time()
        say(f"  until the comparison only pupils of {', '.join(sorted(model.HELD_BACK))} send images")

    def compare(self) -> None:
        """Compare the last two versions, since the newer one was deployed."""
        self._traffic.use_teachers()
        if len(versions := model.versions(self._args.directory)) < 2:
            raise StackError("there is no second version: the retraining failed, or the scenario has none")
        before, after = versions[-2:]
        period = Period(self._since, time.time())
        comparison = compare_shared(self._prometheus, model.NAME, (before, after), period)
        command = f"{scenario.program('model-exporter')} compare --model={model.NAME} --from={utc_time(period.start)}"
        say(f"  all numbers: {command}")
        # The correction ratio, which the demo is about, comes last: `up` shows the last two lines.
        for measure in sorted(comparison.measures, key=lambda measure: measure.name == "correction_ratio"):
            say(f"  {sentence(comparison, measure)}")


@contextlib.contextmanager
def _service(args: argparse.Namespace) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service as a child; should this process be killed, the end of its standard input ends the child."""
    with service.listen(args.listen_address) as listener:
        command = [sys.executable, "-m", "demo.service", f"--directory={args.directory}"]
        command += [f"--exporter={args.exporter}", f"--fd={listener.fileno()}"]
        command += [f"--ca-file={args.ca_file}"] if args.ca_file else []
        # In a session of its own, so that Ctrl-C reaches the parent alone, which first stops the traffic.
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


def _wait_until_healthy(
    client: Client,
    path: str,
    stopping: threading.Event,
    seconds: float,
    message: str,
    *,
    child: subprocess.Popen[bytes] | None = None,
) -> None:
    until = time.monotonic() + seconds
    while not stopping.is_set():
        try:
            response = client.request("GET", path)
            reason = "" if response.status < 400 else response.error_message()
        except RequestError as error:
            reason = error.reason
        if not reason:
            return
        if child is not None and child.poll() is not None:
            raise StackError(f"the model service did not start: it exited with status {child.returncode}")
        if time.monotonic() > until:
            raise StackError(f"{message} ({reason})")
        stopping.wait(0.2)


def _no_exporter(args: argparse.Namespace) -> str:
    config = args.directory / model.CONFIG_FILE
    return (
        f"{args.exporter}: no exporter responds; start one with "
        f"'{scenario.program('model-exporter')} serve --config.file={config}', or set another with --exporter URL"
    )


def _service_url(args: argparse.Namespace) -> str:
    if args.service:
        return str(args.service).rstrip("/")
    host, port = args.listen_address
    return f"http://{common.Address('127.0.0.1' if host in {'', '0.0.0.0'} else host, port)}"  # noqa: S104 (compared)


def _rate(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (rate := float(text)) <= 1000:
            return rate
    raise argparse.ArgumentTypeError(f"expected a number above 0 and up to 1000, got {text!r}")
