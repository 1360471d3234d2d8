"""The requests of a pass of the event loop are bounded, and pipelined ones come last."""

from __future__ import annotations

import asyncio
import itertools

from exporter.server.protocol import REQUESTS, Turns


def test_few_requests_begin_in_a_pass() -> None:
    """However many requests are there, few begin in a pass, in their order, and pipelined ones after all others."""
    begun: list[str] = []
    passes: list[int] = []

    async def run() -> None:
        turns = Turns()
        for number in range(5 * REQUESTS):
            turns.add(lambda number=number: begun.append(f"pipelined {number}"), True)
        turns.add(lambda: begun.append("single"), False)
        while len(begun) <= 5 * REQUESTS:
            passes.append(len(begun))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        turns.add(lambda: begun.append("at once"), True)

    asyncio.run(run())
    assert passes[0] == REQUESTS
    assert all(later - earlier <= REQUESTS for earlier, later in itertools.pairwise(passes))
    assert begun[REQUESTS] == "single"
    assert [text for text in begun if text.startswith("pipelined")] == [f"pipelined {n}" for n in range(5 * REQUESTS)]
    assert begun[-1] == "at once"
