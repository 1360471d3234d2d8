"""Find and clean rows that were stored before an input was redacted."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import sqlalchemy as sa

from exporter.features.stored_inputs import remove_inputs
from exporter.storage._bins import has_bins
from exporter.storage._engine import is_shared
from exporter.storage._predictions import InputsPacker, dictionary_of, parts, retired_dictionaries, unpack
from exporter.storage._schema import (
    bin_codes,
    feedback,
    input_dictionaries,
    predictions,
    release_chunks,
)

STEP_ROWS, STEP_CHARACTERS = 500, 4 * 2**20
"""Rows and characters of inputs that are changed in one transaction: an exporter may wait for it."""
PACKED_CHARACTERS = 10
"""Assumed characters of inputs for each byte that they take compressed."""
TABLES = {"predictions": (predictions, predictions.c.seq), "feedback": (feedback, feedback.c.id)}
"""The tables with inputs, by name, and the key of each."""

MAX_NAMES = 200
"""Names that one condition looks for; with more, every row may hold one of them."""


def may_hold(inputs: sa.ColumnElement[str | None], names: Collection[str]) -> sa.ColumnElement[bool]:
    """Return whether a column of inputs may hold one of these: true if it does, and for few others.

    Inputs that were stored while something is redacted are canonical JSON, in which a name is written in one way. Of
    others, only those with an escape sequence may write it differently.
    """
    if len(names) > MAX_NAMES:
        return sa.true()
    texts = ["\\u", *(["\\/"] if any("/" in name for name in names) else [])]
    texts += [msgspec.json.encode(name).decode() for name in names]
    return sa.or_(*(inputs.contains(text, autoescape=True) for text in texts))


def redact_rows(
    connection: sa.Connection, table: str, redacted: Mapping[str, Collection[str]], *, after: int = 0, dry_run: bool
) -> tuple[int, int]:
    """Remove redacted inputs from the rows of one of `TABLES`, in short transactions.

    A row is only changed if it still is as it was read, so that nothing that an exporter writes meanwhile is lost.

    Parameters
    ----------
    connection
        Of `open_database`.
    table
        A key of `TABLES`.
    redacted
        Names of inputs by model.
    after
        The key after which to start.
    dry_run
        Whether to count only.

    Returns
    -------
    tuple
        The number of rows that had redacted inputs, and the last key of the table.
    """
    rows, key = TABLES[table]
    packed = rows.c.packed if table == "predictions" else sa.null()
    held = [
        (rows.c.model == model) & (may_hold(rows.c.inputs, names) | packed.is_not(None))
        for model, names in redacted.items()
    ]
    last = connection.execute(sa.select(sa.func.max(key))).scalar() or 0
    changed, packer = 0, InputsPacker()
    while True:
        size = sa.func.coalesce(sa.func.length(rows.c.inputs), PACKED_CHARACTERS * sa.func.length(packed), 0)
        query = sa.select(key, size).where(key > after, key <= last, sa.or_(*held))
        sizes = connection.execute(query.order_by(key).limit(STEP_ROWS)).all()
        connection.rollback()
        if not sizes:
            return changed, last
        step = next(parts(sizes, STEP_CHARACTERS))
        changed += _redact_step(connection, table, redacted, step, packer, dry_run=dry_run)
        after = step[-1]


def _redact_step(
    connection: sa.Connection,
    table: str,
    redacted: Mapping[str, Collection[str]],
    keys: Collection[int],
    packer: InputsPacker,
    *,
    dry_run: bool,
) -> int:
    rows, key = TABLES[table]
    columns = [rows.c[name] for name in ("model", "inputs", "packed") if name in rows.c]
    stored = connection.execute(sa.select(key.label("key"), *columns).where(key.in_(keys))).mappings().all()
    retired = retired_dictionaries(connection)
    connection.rollback()
    changed = 0
    with connection.begin():
        packer.begin(connection, redacted)
        for row in stored:
            text = unpack(connection, row) or ""  # one at a time in memory
            cleaned = remove_inputs(text, redacted[row["model"]])
            changed += cleaned != text
            if dry_run or (cleaned == text and dictionary_of(row.get("packed")) not in retired):
                continue
            values: dict[str, str | bytes | None] = {"inputs": cleaned or None}
            is_unchanged = key == row["key"]
            if "packed" in row:
                (packed,) = packer.pack(connection, row["model"], [cleaned])
                values = {"inputs": None if packed else cleaned or None, "packed": packed}
            else:
                is_unchanged &= rows.c.inputs == row["inputs"]
            connection.execute(rows.update().where(is_unchanged).values(values))
    return changed


def delete_bins(connection: sa.Connection, model: str, kept: Collection[str], *, dry_run: bool) -> int:
    """Delete the recorded bins of a model, except those of some layouts; return of how many predictions they are.

    Which inputs bins are of cannot be seen in them: after a change of what is redacted, they have another layout. The
    blocks of `PAIRED` have no bins.
    """
    is_old = (bin_codes.c.model == model) & has_bins & bin_codes.c.layout.not_in(list(kept))
    number = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(bin_codes.c.rows), 0)).where(is_old)).scalar()
    connection.rollback()
    if not dry_run:
        with connection.begin():
            connection.execute(bin_codes.delete().where(is_old))
    return int(number or 0)


def purge(connection: sa.Connection) -> bool:
    """Free the space of removed inputs, so that the files hold no copy of them; return whether that was possible."""
    connection.rollback()
    if not is_shared(connection):
        busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        return not busy
    connection = connection.execution_options(isolation_level="AUTOCOMMIT")
    for table in (predictions, input_dictionaries, feedback, bin_codes, release_chunks):
        connection.exec_driver_sql(f"VACUUM {table.name}")
    return True
