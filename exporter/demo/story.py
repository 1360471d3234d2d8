"""The demo's story: phases in which things go wrong and come right, told line by line."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exporter.commands import DIRECT
from exporter.config import duration
from exporter.demo.incidents import INCIDENTS
from exporter.errors import StackError
from exporter.validation import suggestion

HEALTHY = "healthy"
DEFAULT = "healthy=3m,errors=2m30s,healthy=1m30s,dark=8m,healthy=5m"
"""Long enough for each alert: its rate's window and its ``for`` are real time."""

_WELL = "the service is well"
_LOOK_WELL = "steady rates, drift below its noise, corrections far below 1 %; no alert begins to fire"
_LOOK_AFTER = (
    "what looks at 5 minutes is well again after 5; what looks at an hour (the 1h window, the correction ratio, "
    "the error budget) ends later; after drift ModelFeatureChanged may fire once more: the return is a change too"
)


@dataclass(frozen=True)
class Phase:
    """One phase: ``healthy`` or the name of an incident, and its length."""

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
        if name != HEALTHY and name not in INCIDENTS:
            raise ValueError(f"{name!r} is no phase; {suggestion(name, [HEALTHY, *INCIDENTS])}")
        try:
            phases.append(Phase(name, duration(length)))
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


def trigger(service: str, name: str | None, seconds: float) -> None:
    """Let an incident happen in the service, or with None end it.

    Raises
    ------
    StackError
        When the service is not there or refuses.
    """
    url = service.rstrip("/") + "/incident"
    body = json.dumps({"name": name, "seconds": seconds}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with DIRECT.open(request, timeout=5):
            pass
    except urllib.error.HTTPError as error:
        with error:
            raise StackError(f"{url}: {error.code}: {error.read(500).decode(errors='replace')}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StackError(
            f"{url}: no model service answers there ({reason}); start one with 'model-exporter demo' or "
            "'make up', or name another with --service URL"
        ) from None


def tell(
    phases: Sequence[Phase],
    *,
    service: str,
    counts: Counter[str],
    wait: Callable[[float], bool],
    say: Callable[[str], None],
    repeat: bool = False,
) -> None:
    """Live through the phases, saying at each change what happens and what to look for.

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
    repeat
        Whether to begin anew after the last phase; otherwise the service stays well.
    """
    after: str | None = None
    while True:
        for phase in phases:
            happens, look = phase.told(after)
            say(f"{phase.name} for {spelt(phase.seconds)}: {happens}.")
            say(f"  look for: {look}.")
            before = counts.copy()
            if phase.name != HEALTHY:
                trigger(service, phase.name, phase.seconds)
            if wait(phase.seconds):
                return
            say(f"  {phase.name} is over: {_summary(counts, before)}.")
            after = None if phase.name == HEALTHY else phase.name
        if not repeat:
            break
    say("the story is told, and the service stays well. Next: model-exporter demo --incident=dark")
    while not wait(600):
        pass


def _summary(counts: Counter[str], before: Counter[str]) -> str:
    new = {name: counts[name] - before[name] for name in counts}
    words = ("requests", "failed", "confident", "corrected", "accepted")
    return ", ".join(f"{new.get(name, 0)} {name}" for name in words)
