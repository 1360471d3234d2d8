"""Reviewed corrections in the database of an exporter: reviewing so many over HTTP would take too long."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

from support.servers import Served

_ROW: dict[str, Any] = {
    "joined": True, "model": "credit", "version": "3", "predicted": 1.7e9, "prediction": "yes", "confidence": 0.9,
    "confident": True, "inputs": None, "verdict": "corrected", "label": "no", "user": "clerk", "created": 1.7e9,
    "updated": 1, "counted": True, "status": "accepted", "revision": 2, "reviewed_label": None, "reviewer": "ada",
    "reviewed": 2, "released": False, "sampled": False,
}  # fmt: skip
_JSON = ("prediction", "label", "inputs", "reviewed_label")


def put_examples(served: Served, rows: list[dict[str, Any]]) -> None:
    """Put accepted corrections into the database; a row has the members that differ from those of a correction."""
    full = [{"prediction_id": f"x-{number}", **_ROW, **row} for number, row in enumerate(rows)]
    for row in full:
        row |= {name: None if row[name] is None else json.dumps(row[name]) for name in _JSON}
    names = list(full[0])
    statement = f"INSERT INTO feedback ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"
    with closing(sqlite3.connect(served.folder / "data" / "model-exporter.db", timeout=20)) as database, database:
        database.executemany(statement, full)


def sample(**row: Any) -> dict[str, Any]:
    """Return a prediction that was sampled for review, and accepted."""
    return {"verdict": "sampled", "sampled": True, "user": None, "label": row.get("prediction", "yes"), **row}
