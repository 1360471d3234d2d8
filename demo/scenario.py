"""The demo's scenario: phases with and without incidents, announced line by line."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demo.incidents import INCIDENTS, NO_INCIDENT, ActiveIncident
from exporter.errors import ExporterError, StackError
from exporter.http_client import Client, RequestError
from exporter.validation import parse_duration, suggestion

HEALTHY = "healthy"
STEPS = ("sample", "retrain", "compare")
"""Phases without a length: they take the time they need."""
DEFAULT = "healthy=3m,sample,errors=2m30s,healthy=1m30s,dark=8m,healthy=5m,retrain,dark=8m,compare"
"""Long enough for each alert: the range of its rate and its ``for`` are real time."""

_HEALTHY = "the service is healthy"
_HEALTHY_SYMPTOMS = "steady rates, drift far below 0.3, corrections far below 1%; no alert is pending"
_RECOVERY_SYMPTOMS = (
    "figures over 5 minutes recover within 5 minutes; those over an hour (the 1h window, the correction ratio, the "
    "error budget) take longer"
)


@dataclass(frozen=True)
class Phase:
    """One phase: ``healthy`` or the name of an incident, and its length; or one of `STEPS`, without one."""

    name: str
    seconds: float

    def describe(self, previous: str | None) -> tuple[str, str]:
        """Describe a phase: what happens and what to look for, after another phase or at the start (None)."""
        if self.name == HEALTHY:
            return (f"{_HEALTHY} again", _RECOVERY_SYMPTOMS) if previous else (_HEALTHY, _HEALTHY_SYMPTOMS)
        return INCIDENTS[self.name].description, INCIDENTS[self.name].symptoms


def parse(text: str) -> tuple[Phase, ...]:
    """Parse phases such as ``healthy=3m,dark=8m``.

    Raises
    ------
    ValueError
        When a phase is not valid; the text says which, and what would be.
    """
    phases = []
    for part in text.split(","):
        name, _, length = part.strip().partition("=")
        if name in STEPS:
            if length:
                raise ValueError(f"{name}: takes the time it needs; expected no duration")
            phases.append(Phase(name, 0.0))
            continue
        if name != HEALTHY and name not in INCIDENTS:
            raise ValueError(f"{name!r} is not a valid phase; {suggestion(name, [HEALTHY, *INCIDENTS, *STEPS])}")
        try:
            phases.append(Phase(name, parse_duration(length)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return tuple(phases)


def format_seconds(seconds: float) -> str:
    """
    >>> format_seconds(150)
    '2m30s'
    """
    minutes, rest = divmod(round(seconds), 60)
    return (f"{minutes}m" if minutes else "") + (f"{rest}s" if rest or not minutes else "")


def say(text: str) -> None:
    """Print a line with the time: ``up`` shows such lines of the demo's log."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def program(name: str) -> str:
    """Return how to type a program of this environment: its name if it is on the PATH, else its path from here."""
    path = Path(sys.executable).with_name(name)
    if not path.exists() or shutil.which(name) == str(path):
        return name
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def demo() -> str:
    """Return how to type ``python -m demo`` in this environment."""
    return f"{program('python')} -m demo"


def service_client(url: str) -> Client:
    """Return an HTTP client of the model service, for requests that are answered at once."""
    return Client(url, "--service", example="http://127.0.0.1:8000", timeout=5)


def trigger(service: Client, name: str | None, seconds: float, *, by_hand: bool = True) -> ActiveIncident:
    """Start an incident in the service, or with None end the active one.

    Returns
    -------
    ActiveIncident
        The one that was active before; if it was started by hand and this one is not, it stays.

    Raises
    ------
    StackError
        When the service cannot be reached or refuses.
    """
    url = f"{service.url}/incident"
    document = {"name": name, "seconds": seconds, "by_hand": by_hand}
    try:
        response = service.request("POST", "/incident", json=document)
        if response.status >= 300:
            raise StackError(f"{url}: {response.error_message()}")
        return ActiveIncident(**json.loads(response.body)["before"])
    except (RequestError, ValueError, LookupError, TypeError) as error:
        reason = getattr(error, "reason", error)
        raise StackError(
            f"{url}: no model service responds ({reason}); start one with 'make up' or "
            f"'{demo()} run', or set another with --service URL"
        ) from None


def active_incident(service: Client) -> ActiveIncident:
    """Return the incident that is active in the service; none when the service does not respond."""
    try:
        document = json.loads(service.request("GET", "/incident").body)
        return ActiveIncident(document["name"], document["seconds_left"], document["by_hand"])
    except (RequestError, ValueError, LookupError, TypeError):
        return NO_INCIDENT


@dataclass
class Scenario:
    """Runs phases, and announces each change.

    Parameters
    ----------
    service
        HTTP client of the model service, in which the incidents happen.
    counts
        Of the traffic, for the line that ends a phase.
    wait
        Sleeps for some seconds; returns true when the scenario is to stop.
    say
        Prints a line.
    steps
        What to do in each of `STEPS`.
    """

    service: Client
    counts: Counter[str]
    wait: Callable[[float], bool]
    say: Callable[[str], None]
    steps: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    _by_hand: tuple[str, float] | None = field(default=None, init=False)

    def run(self, phases: Sequence[Phase], *, repeat: bool = False) -> None:
        """Run the phases, and go on in a healthy state until `wait` says to stop.

        Parameters
        ----------
        phases
            In their order. While an incident that was started by hand is active, their time does not pass.
        repeat
            Whether to start again after the last phase.
        """
        previous: str | None = None
        while True:
            for phase in phases:
                if phase.name in STEPS:
                    self._run_step(phase.name)
                    continue
                description, symptoms = phase.describe(previous)
                self.say(f"{phase.name} for {format_seconds(phase.seconds)}: {description}.")
                self.say(f"  look for: {symptoms}.")
                before = self.counts.copy()
                if self._run_phase(phase):
                    return
                self.say(f"  {phase.name} ended: {_summary(self.counts, before)}.")
                previous = None if phase.name == HEALTHY else phase.name
            if not repeat:
                break
        self.say(f"the scenario has ended, and the service stays healthy. Next: {demo()} run --incident=dark")
        self._run_phase(Phase(HEALTHY, math.inf))

    def _run_step(self, step: str) -> None:
        """Run a step; when it fails the scenario goes on."""
        self.say(f"{step}:")
        try:
            self.steps[step]()
        except ExporterError as error:
            self.say(f"  failed: {error}")

    def _run_phase(self, phase: Phase) -> bool:
        """Run a phase; return true when the scenario is to stop."""
        left, started = phase.seconds, phase.name == HEALTHY
        while left > 0:
            if paused := self._check_by_hand():
                started = phase.name == HEALTHY  # the phase's incident is started again afterwards
            elif not started:
                trigger(self.service, phase.name, left, by_hand=False)
                started = True
                continue  # an incident may have been started by hand meanwhile
            now = time.monotonic()
            if self.wait(min(left, 1.0)):
                return True
            left -= 0.0 if paused else time.monotonic() - now
        return False

    def _check_by_hand(self) -> bool:
        """Return whether an incident that was started by hand is active; announce its start and its end."""
        current = active_incident(self.service)
        until = time.monotonic() + current.seconds_left
        name = current.name if current.by_hand else None
        if self._by_hand and (name != self._by_hand[0] or abs(until - self._by_hand[1]) > 1.5):
            self.say(f"  {self._by_hand[0]}, started by hand, ended{'' if name else '; the scenario goes on'}.")
            self._by_hand = None
        if name and not self._by_hand:
            self._by_hand = name, until
            duration = format_seconds(current.seconds_left)
            self.say(f"{name}, started by hand, for {duration}: {INCIDENTS[name].description}; the scenario pauses.")
            self.say(f"  look for: {INCIDENTS[name].symptoms}.")
        return bool(name)


def _summary(counts: Counter[str], before: Counter[str]) -> str:
    new = {name: counts[name] - before[name] for name in counts}
    names = {name: name for name in ("requests", "failed", "confident", "corrected")} | {"accepted": "confirmed"}
    return ", ".join(f"{new.get(name, 0)} {word}" for name, word in names.items())
