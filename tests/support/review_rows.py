"""Corrections and predictions as rows of a store, for tests of what stands behind the review page."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from exporter.storage import Filter, Store
from exporter.storage._database import feedback, inputs, predictions
from exporter.storage._predictions import compress_block

_WEEK = 7 * 86400.0
START = 1_790_000_000.0 + ((time.time() - 1_790_000_000.0) // _WEEK - 1) * _WEEK
"""One to two weeks ago, always at the same time of the week: the store deletes rows that are older than a month."""
_ROW: dict[str, Any] = {
    "joined": True, "model": "digits", "version": "1", "predicted": START, "prediction": '"1"', "confidence": 0.9,
    "confident": True, "inputs": None, "segment": None, "verdict": "corrected", "label": '"7"', "user": None,
    "comment": None, "created": START, "updated": START, "counted": True, "status": "pending", "revision": 1,
    "reviewed_label": None,
}  # fmt: skip


def put(store: Store, rows: list[dict[str, Any]]) -> None:
    """Corrections, identified from 1 on."""
    full = [{"prediction_id": f"p-{number}", **_ROW, **row} for number, row in enumerate(rows, 1)]
    store.write(lambda connection: connection.execute(feedback.insert(), full))


def predict(store: Store, rows: list[dict[str, Any]], start: int = 1) -> None:
    """Predictions, by default confident ones."""
    plain = {"day": 1, "model": "digits", "version": "1", "time": START, "received": START, "prediction": '"1"',
             "confidence": 0.9, "code": 200, "confident": True, "inputs": '{"age":1,"name":"Ada"}'}  # fmt: skip
    full = [{**plain, "id": f"p-{number}", **row} for number, row in enumerate(rows, start)]
    texts = [(row.pop("inputs") or "").encode() for row in full]

    def insert(connection: sa.Connection) -> None:
        block = {"model": "digits", "rows": len(full), "data": compress_block(texts)}
        number = connection.execute(inputs.insert().values(block).returning(inputs.c.id)).scalar_one()
        for position, (row, text) in enumerate(zip(full, texts, strict=True)):
            row.update({"block": number, "position": position} if text else {"block": None, "position": None})
        connection.execute(predictions.insert(), full)

    store.write(insert)


def pick(store: Store, order: str = "newest", **chosen: Any) -> list[int]:
    """Identifiers of the corrections that a filter leaves."""
    return [int(correction["id"]) for correction in store.review.page(Filter(**chosen), 1000, None, order).corrections]


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Collect the queries that this thread executes, with their values."""
    found: list[tuple[str, Any]] = []
    caller = threading.get_ident()  # the store's writer has queries of its own

    def collect(*args: Any) -> None:
        if args[2].startswith("SELECT") and threading.get_ident() == caller:
            found.append((args[2], args[3]))

    sa.event.listen(sa.Engine, "before_cursor_execute", collect)
    try:
        yield found
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", collect)


def plans(store: Store, found: list[tuple[str, Any]]) -> list[list[str]]:
    """Return the steps in which SQLite executes each statement."""
    with store.reading() as connection:
        return [
            [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
            for statement, values in found
        ]


def redact(_: str, inputs: str | None) -> str | None:
    """Remove the name of a prediction's inputs."""
    return inputs and inputs.replace(',"name":"Ada"', "")
