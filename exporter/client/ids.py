"""Identifiers that sort by the time of their creation."""

from __future__ import annotations

import os

_COUNTERS = [f"7{count:03x}-" for count in reversed(range(4096))]
_tails: list[str] = []


def time_ordered_id(now: int) -> str:
    """Return a UUID of version 7 (RFC 9562); its 12 bits after the version are a counter from 0 to 4,095.

    Parameters
    ----------
    now
        Nanoseconds since the epoch.
    """
    try:
        tail = _tails.pop()
    except IndexError:
        tail = _refill()
    milliseconds = now // 1_000_000
    return "%08x-%04x-%s" % (milliseconds >> 16, milliseconds & 0xFFFF, tail)  # noqa: UP031 (the faster one)


def _refill() -> str:
    """Make the tails of the next identifiers, and return one: many random numbers cost about as much as one."""
    variant = "8" + os.urandom(2).hex()[1:] + "-"
    random = os.urandom(6 * len(_COUNTERS)).hex("-", 6).split("-")
    tails = [counter + variant + digits for counter, digits in zip(_COUNTERS, random, strict=True)]
    tail = tails.pop()
    _tails.extend(tails)
    return tail


def discard_random() -> None:
    """Discard random numbers that the parent process has, too: after a fork."""
    _tails.clear()
