"""Flush senders when a process forks or ends, and reset them in forked children."""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref
from typing import Protocol

from exporter.client import ids

_FORK_SECONDS = 0.25
"""How long a fork waits at most for events to be sent."""
_EXIT_SECONDS = 2.0
"""How long the end of a process waits for each sender."""


class _Sender(Protocol):
    """See `exporter.client.sender.Sender`."""

    def flush(self, timeout: float) -> bool: ...
    def close(self, timeout: float) -> None: ...
    def before_fork(self, timeout: float) -> None: ...
    def reset_in_child(self) -> None: ...


_senders: set[weakref.ref[_Sender]] = set()
_workers: set[int] = set()


def register(sender: _Sender) -> None:
    """Flush this sender at forks and at the end of the process."""
    _senders.add(weakref.ref(sender, _senders.discard))


def _living() -> list[_Sender]:
    """Return the senders. Another thread may make one meanwhile, which a `weakref.WeakSet` refuses during iteration."""
    return [sender for reference in list(_senders) if (sender := reference()) is not None]


def flush_at_exit_of_worker() -> None:
    """Flush at the end of a child of multiprocessing, which does not run ``atexit``."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process and util and process.parent_process() is not None and os.getpid() not in _workers:
        _workers.add(os.getpid())
        util.Finalize(None, _flush_all, exitpriority=0)


def _flush_all() -> None:
    for sender in _living():
        sender.flush(_EXIT_SECONDS)


def _close_all() -> None:
    for sender in _living():
        sender.close(_EXIT_SECONDS)


def _before_fork() -> None:
    deadline = time.monotonic() + _FORK_SECONDS
    for sender in _living():
        sender.before_fork(deadline - time.monotonic())


def _after_fork_in_child() -> None:
    ids.discard_random()
    for sender in _living():
        sender.reset_in_child()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
