"""Checks all connections from time to time, and closes those that cost too much."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from typing import Any

from exporter.server.http.protocol import BoundedProtocol

HELD_BYTES = 128 * 2**20
"""Bytes that all connections together may hold: answers that nobody reads, and requests that wait."""


def check_connections(connections: Collection[Any], now: float, most: int) -> None:
    """Close connections that take too long or hold too much memory and, if there are many, those idle for longest.

    Of ``most`` connections, a tenth stays free for clients that are yet to come.
    """
    held: dict[BoundedProtocol, int] = {connection: connection.check(now) for connection in list(connections)}
    total = sum(held.values())
    for connection in sorted(held, key=lambda one: held[one], reverse=True) if total > HELD_BYTES else ():
        if connection.holds_long(now):
            connection.transport.abort()
            total -= held[connection]
        if total <= HELD_BYTES:
            break
    surplus = len(held) - most * 9 // 10
    for connection in heapq.nsmallest(surplus, held, key=lambda one: one.idle_since) if surplus > 0 else ():
        if connection.idle_since < now:
            connection.transport.abort()


def all_finished(connections: Collection[Any]) -> bool:
    """Return whether all connections are closed, except that clients may have to confirm it."""
    transports = [connection.transport for connection in connections]
    return all(transport.is_closing() and not transport.get_write_buffer_size() for transport in transports)
