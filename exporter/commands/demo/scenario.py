"""The demo's story: phases in which things go wrong and come right, told line by line."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exporter.commands.common import DIRECT
from exporter.commands.demo.incidents import INCIDENTS, NOTHING, Happening
from exporter.config import parse_duration
from exporter.errors import ExporterError, StackError
from exporter.validation import suggestion

HEALTHY = "healthy"
STEPS = ("retrain", "compare")
"""Phases that take the time they need."""
DEFAULT = "healthy=3m,errors=2m30s,healthy=1m30s,dark=8m,healthy=5m,retrain,dark=8m,compare"
"""Long enough for each alert: its rate's window and its ``for`` are real time."""

_WELL = "the service is well"
_LOOK_WELL = "steady rates, drift far below 0.3, corrections far below 1 %; no alert begins to fire"
_LOOK_AFTER = (
    "what looks at 5 minutes is well again after 5; what looks at an hour (the 1h window, the correction ratio, "
    "the error budget) ends later; after drift ModelFeatureChanged may fire once more: the return is a change too"
)


@dataclass(frozen=True)
class Phase:
    """One phase: ``healthy`` or the name of an incident, and its length; or one of `STEPS`, without one."""

    name: str
    seconds: float

    def told(self, after: str | None) -> tuple[str, str]:
        """What happens, and what to look for, when ``after`` was the incident before."""
        if self.name == HEALTHY:
            return (f"{_WELL} again", _LOOK_AFTER) if after else (_WELL, _LOOK_WELL)
        return INCIDENTS[self.name].happens, INCIDENTS[self.name].look


def parse(text: str) -> tuple[Phase, ...]:
    """Phases as ``healthy=3m,dark=8m`` spells them.

    Raises
    ------
    ValueError
        Says which phase is wrong and what would be right.
    """
    phases = []
    for part in text.split(","):
        name, _, length = part.strip().partition("=")
        if name in STEPS:
            if length:
                raise ValueError(f"{name}: takes the time it needs; expected no length")
            phases.append(Phase(name, 0.0))
            continue
        if name != HEALTHY and name not in INCIDENTS:
            raise ValueError(f"{name!r} is no phase; {suggestion(name, [HEALTHY, *INCIDENTS, *STEPS])}")
        try:
            phases.append(Phase(name, parse_duration(length)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return tuple(phases)


def spelt(seconds: float) -> str:
    """
    >>> spelt(150)
    '2m30s'
    """
    minutes, rest = divmod(round(seconds), 60)
    return (f"{minutes}m" if minutes else "") + (f"{rest}s" if rest or not minutes else "")


def program() -> str:
    """How this command is typed: by its name if that finds it, else by its path, from the working directory on."""
    path = Path(sys.executable).with_name("model-exporter")
    if not path.exists() or shutil.which(path.name) == str(path):
        return path.name
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def trigger(service: str, name: str | None, seconds: float, *, by_hand: bool = True) -> Happening:
    """Let an incident happen in the service, or with None end it.

    Returns
    -------
    Happening
        What it takes the place of; what was begun by hand goes on if this is not.

    Raises
    ------
    StackError
        When the service is not there or refuses.
    """
    url = service.rstrip("/") + "/incident"
    body = json.dumps({"name": name, "seconds": seconds, "by_hand": by_hand}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with DIRECT.open(request, timeout=5) as answer:
            return Happening(**json.load(answer)["before"])
    except urllib.error.HTTPError as error:
        with error:
            raise StackError(f"{url}: {error.code}: {error.read(500).decode(errors='replace')}") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = getattr(error, "reason", error)
        raise StackError(
            f"{url}: no model service answers there ({reason}); start one with 'make up' or "
            f"'{program()} demo', or name another with --service URL"
        ) from None


def happening(service: str) -> Happening:
    """What goes wrong in the service now; nothing, as far as one knows, when it does not answer."""
    try:
        with DIRECT.open(service.rstrip("/") + "/incident", timeout=5) as answer:
            document = json.load(answer)
            return Happening(document["name"], document["seconds_left"], document["by_hand"])
    except (OSError, ValueError, LookupError, TypeError):
        return NOTHING


@dataclass
class Scenario:
    """Phases that are lived through, and what is said at each change.

    Parameters
    ----------
    service
        URL of the model service, in which the incidents happen.
    counts
        Of the traffic, for the line that ends a phase.
    wait
        Sleeps for so many seconds; true when all shall stop.
    say
        Takes one line.
    steps
        What is done in each of `STEPS`.
    """

    service: str
    counts: Counter[str]
    wait: Callable[[float], bool]
    say: Callable[[str], None]
    steps: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    _by_hand: tuple[str, float] | None = field(default=None, init=False)

    def tell(self, phases: Sequence[Phase], *, repeat: bool = False) -> None:
        """Live through the phases, until all shall stop.

        Parameters
        ----------
        phases
            In their order. While an incident runs that was begun by hand, their time stands still.
        repeat
            Whether to begin anew after the last phase; otherwise the service stays well.
        """
        after: str | None = None
        while True:
            for phase in phases:
                if phase.name in STEPS:
                    self._do(phase.name)
                    continue
                happens, look = phase.told(after)
                self.say(f"{phase.name} for {spelt(phase.seconds)}: {happens}.")
                self.say(f"  look for: {look}.")
                before = self.counts.copy()
                if self._live(phase):
                    return
                self.say(f"  {phase.name} is over: {_summary(self.counts, before)}.")
                after = None if phase.name == HEALTHY else phase.name
            if not repeat:
                break
        self.say(f"the story is told, and the service stays well. Next: {program()} demo --incident=dark")
        self._live(Phase(HEALTHY, math.inf))

    def _do(self, step: str) -> None:
        """Take a step; where it fails the story goes on."""
        self.say(f"{step}:")
        try:
            self.steps[step]()
        except ExporterError as error:
            self.say(f"  it failed: {error}")

    def _live(self, phase: Phase) -> bool:
        """Let a phase pass; true when all shall stop."""
        left, begun = phase.seconds, phase.name == HEALTHY
        while left > 0:
            if waited := self._hand():
                begun = phase.name == HEALTHY  # an incident of the story goes on after the one by hand
            elif not begun:
                trigger(self.service, phase.name, left, by_hand=False)
                begun = True
                continue  # a hand may have been faster
            now = time.monotonic()
            if self.wait(min(left, 1.0)):
                return True
            left -= 0.0 if waited else time.monotonic() - now
        return False

    def _hand(self) -> bool:
        """Whether an incident by hand runs; its beginning and its end are told."""
        now = happening(self.service)
        until = time.monotonic() + now.seconds_left
        name = now.name if now.by_hand else None
        if self._by_hand and (name != self._by_hand[0] or abs(until - self._by_hand[1]) > 1.5):
            self.say(f"  {self._by_hand[0]} by hand is over{'' if name else ', and the story goes on'}.")
            self._by_hand = None
        if name and not self._by_hand:
            self._by_hand = name, until
            self.say(f"{name} by hand for {spelt(now.seconds_left)}: {INCIDENTS[name].happens}; the story waits.")
            self.say(f"  look for: {INCIDENTS[name].look}.")
        return bool(name)


def _summary(counts: Counter[str], before: Counter[str]) -> str:
    new = {name: counts[name] - before[name] for name in counts}
    words = ("requests", "failed", "confident", "corrected", "accepted")
    return ", ".join(f"{new.get(name, 0)} {name}" for name in words)
