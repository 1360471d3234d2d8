"""Clients take turns in a thread pool."""

from __future__ import annotations

import asyncio
import threading

import pytest

from exporter.errors import QueueFullError
from exporter.server import asgi
from exporter.server.asgi import ThreadPool


def test_clients_take_turns() -> None:
    """A client's request waits for one of each other client, however many those have sent before."""
    order: list[str] = []

    async def run() -> None:
        pool, begun, go_on = ThreadPool("test", 1), threading.Event(), threading.Event()

        def first() -> None:
            begun.set()
            go_on.wait(60)

        async def ask(client: str) -> None:
            await pool.run(lambda: order.append(client), client)

        running = [asyncio.create_task(pool.run(first, "flood"))]
        await asyncio.to_thread(begun.wait, 10)
        running += [asyncio.create_task(ask("flood")) for _ in range(50)]
        await asyncio.sleep(0)
        running += [asyncio.create_task(ask(client)) for client in ("one", "other", "one")]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*running)
        assert await pool.run(lambda: "free again", "one") == "free again"
        pool.close()

    asyncio.run(run())
    assert order[:5] == ["flood", "one", "other", "flood", "one"]
    assert len(order) == 53


def test_a_cancelled_request_gives_up_its_turn() -> None:
    """Requests that are cancelled while they wait, or as their turn comes, keep no thread from the others."""

    async def run() -> None:
        pool, go_on = ThreadPool("test", 1), threading.Event()
        running = asyncio.create_task(pool.run(lambda: go_on.wait(60), "one"))
        waiting = [asyncio.create_task(pool.run(str, client)) for client in ("one", "other", "third")]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        running.add_done_callback(lambda _: waiting[1].cancel())  # its turn has come by then
        go_on.set()
        await asyncio.wait([running, *waiting])
        assert [task.cancelled() for task in waiting] == [True, True, False]
        assert await asyncio.wait_for(pool.run(lambda: "free again", "one"), 10) == "free again"
        pool.close()

    asyncio.run(run())


def test_a_client_cannot_fill_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has the most requests waiting that it may have is refused, and others are not."""
    monkeypatch.setattr(asgi, "WAITING_OF_CLIENT", 3)
    monkeypatch.setattr(asgi, "WAITING", 5)

    async def run() -> None:
        pool, go_on = ThreadPool("test", 1), threading.Event()
        running = [
            asyncio.create_task(pool.run(lambda: go_on.wait(60), client)) for client in ("one", "one", "one", "other")
        ]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await pool.run(str, "one")
        running.append(asyncio.create_task(pool.run(lambda: go_on.wait(60), "other")))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await pool.run(str, "third")
        go_on.set()
        await asyncio.gather(*running)
        assert await pool.run(lambda: "free again", "one") == "free again"
        pool.close()

    asyncio.run(run())
