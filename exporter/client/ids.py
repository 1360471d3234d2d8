"""Identifiers that sort by the time they were made."""

from __future__ import annotations

import os

_BLOCK = 512
_tails: list[str] = []


def time_ordered(now: int) -> str:
    """A UUID of version 7 (RFC 9562) whose 12 bits after the version carry the fraction of the millisecond.

    Parameters
    ----------
    now
        Nanoseconds since the epoch.
    """
    try:
        tail = _tails.pop()
    except IndexError:
        tail = _refill()
    milliseconds, rest = divmod(now, 1_000_000)
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7{rest * 4096 // 1_000_000:03x}-{tail}"


def _refill() -> str:
    """Random ends in a block: the system's generator costs as much for one as for many."""
    block = os.urandom(8 * _BLOCK)
    tails = []
    for start in range(0, len(block), 8):
        text = block[start : start + 8].hex()
        tails.append(f"{'89ab'[block[start] & 3]}{text[1:4]}-{text[4:]}")
    _tails.extend(tails[1:])
    return tails[0]


def forget() -> None:
    """Use no random number that another process has, too: after a fork."""
    _tails.clear()
