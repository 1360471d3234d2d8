"""Identifiers that sort by the time they were made."""

from __future__ import annotations

import os

_COUNTS = [f"7{count:03x}-" for count in reversed(range(4096))]
_rests: list[str] = []


def time_ordered(now: int) -> str:
    """A UUID of version 7 (RFC 9562) whose 12 bits after the version count, from 0 to 4,095 and anew.

    Parameters
    ----------
    now
        Nanoseconds since the epoch.
    """
    try:
        rest = _rests.pop()
    except IndexError:
        rest = _refill()
    milliseconds = now // 1_000_000
    return "%08x-%04x-%s" % (milliseconds >> 16, milliseconds & 0xFFFF, rest)  # noqa: UP031 (the faster one)


def _refill() -> str:
    """The ends of the next identifiers: the system's random numbers cost about as much for one as for many."""
    variant = "8" + os.urandom(2).hex()[1:] + "-"
    random = os.urandom(6 * len(_COUNTS)).hex("-", 6).split("-")
    rests = [count + variant + tail for count, tail in zip(_COUNTS, random, strict=True)]
    rest = rests.pop()
    _rests.extend(rests)
    return rest


def forget() -> None:
    """Use no random number that another process has, too: after a fork."""
    _rests.clear()
