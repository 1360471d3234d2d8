"""Find and clean rows that were stored before an input was redacted."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.features.json_inputs import remove_inputs
from exporter.storage import _database as db
from exporter.storage._archive import Change, cleaned, rewrite_archive, without_predictions
from exporter.storage._database import feedback, inputs, predictions, releases
from exporter.storage._predictions import compress_block, find_aliased, parts, stored_days, unpack_block
from exporter.storage._releases import Row, read_chunks, replace_content, write_chunk, write_content
from exporter.storage._sqlite import count_damaged

STEP_ROWS, STEP_CHARACTERS = 500, 4 * 2**20
"""Rows and characters of inputs that are changed in one transaction: an exporter may wait for it."""
STEP_KEYS = 5000
"""Rows in which segments are looked for in one transaction."""
PACKED_CHARACTERS = 10
"""Assumed characters of inputs for each byte that they take compressed."""
TABLES = {"predictions": (inputs, inputs.c.id), "feedback": (feedback, feedback.c.id)}
"""The tables with inputs, by name, and the key of each."""

MAX_NAMES = 200
"""Names that one condition looks for; with more, every row may hold one of them."""


Redacted = Mapping[str, Collection[str]]
"""Names of inputs by model."""


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


class Forgotten(NamedTuple):
    """What belongs to a person or a prediction.

    Attributes
    ----------
    feedback
        Identifiers of the feedback.
    predictions
        Identifiers of the predictions by model; under None those of any model.
    """

    feedback: set[int]
    predictions: dict[str | None, set[str]]


@contextlib.contextmanager
def open_redaction(config: StoreConfig) -> Iterator[Redaction]:
    """Open a database to remove inputs from it, beside the exporters that use it.

    Raises
    ------
    StoreError
        When there is none, it is of another version, another command works on it, or it cannot be read or written.
    """
    with db.open_database(config) as connection:
        yield Redaction(connection, config)


class Redaction:
    """Removes inputs from a database that were stored before they were redacted.

    Parameters
    ----------
    connection
        Of `open_database`.
    config
        The configuration of the store.
    """

    def __init__(self, connection: sa.Connection, config: StoreConfig) -> None:
        self._connection, self._config = connection, config

    def clean_rows(self, redacted: Redacted, *, dry_run: bool) -> tuple[dict[str, int], int]:
        """Clean the tables of predictions and feedback.

        Parameters
        ----------
        redacted
            Names of inputs by model.
        dry_run
            Whether to count only.

        Returns
        -------
        tuple
            How many rows of each table had redacted inputs; and how many were stored meanwhile, and cleaned, too.
        """
        if not dry_run:
            with self._connection.begin():
                db.write_alone(self._connection)  # no prediction that is stored at this moment is committed later
        changed, later = {}, 0
        for table in TABLES:
            changed[table], last = redact_rows(self._connection, table, redacted, dry_run=dry_run)
            if not dry_run:
                later += redact_rows(self._connection, table, redacted, after=last, dry_run=False)[0]
        return changed, later

    def clean_copies(self, models: Collection[str], segmented: Collection[str], *, dry_run: bool) -> Mapping[str, int]:
        """Clean what was copied from inputs: the slices in requests for retraining, and the names of segments.

        Parameters
        ----------
        models
            Models with redacted inputs.
        segmented
            Those that have segments of an input that is not redacted: theirs stay.
        dry_run
            Whether to count only.

        Returns
        -------
        Mapping
            The numbers of rows by what they are.
        """
        changed = {"requests for retraining": 0, "segments": 0}
        with self._changing(dry_run) as connection:
            changed["requests for retraining"] = _clear_requests(connection, models)
        for table in (predictions, feedback, db.labels):
            (key,) = table.primary_key.columns
            with self._reading() as connection:
                first, last = connection.execute(sa.select(sa.func.min(key), sa.func.max(key))).one()
            holds = table.c.model.in_(set(models).difference(segmented)) & table.c.segment.is_not(None)
            for start in range(first or 0, (last or -1) + 1, STEP_KEYS):
                step = table.update().where(key >= start, key < start + STEP_KEYS, holds).values(segment=None)
                with self._changing(dry_run) as connection:
                    changed["segments"] += connection.execute(step).rowcount
        return changed

    def delete_bins(self, model: str, kept: Collection[str], *, dry_run: bool) -> int:
        """Delete the recorded bins of a model, except those of some layouts; return of how many predictions they are.

        Which inputs bins are of cannot be seen in them: after a change of what is redacted, they have another layout.
        """
        is_old = (db.bin_codes.c.model == model) & db.bin_codes.c.layout.not_in([*kept])
        query = sa.select(sa.func.coalesce(sa.func.sum(db.bin_codes.c.rows), 0)).where(is_old)
        number = self._connection.execute(query).scalar()
        self._connection.rollback()
        if not dry_run:
            with self._connection.begin():
                self._connection.execute(db.bin_codes.delete().where(is_old))
        return int(number or 0)

    def find_forgotten(self, user: str | None, prediction: str | None, model: str | None) -> Forgotten:
        """Find the feedback of a user, replaced or not, and its predictions; or a prediction and its feedback."""
        if prediction is not None:
            with self._reading() as connection:
                wanted = prediction, model
                prediction, model = find_aliased(connection, [wanted]).get(wanted, wanted)
        replaced = sa.select(db.history.c.feedback_id).where(db.history.c.user == user)
        is_users = (feedback.c.user == user) | feedback.c.id.in_(replaced)
        condition = is_users if prediction is None else feedback.c.prediction_id == prediction
        condition &= _is_of_model(feedback, model)
        with self._reading() as connection:
            query = sa.select(feedback.c.id, feedback.c.model, feedback.c.prediction_id).where(condition)
            rows = connection.execute(query).all()
        found = Forgotten({row.id for row in rows}, {} if prediction is None else {model: {prediction}})
        for row in rows:
            found.predictions.setdefault(row.model, set()).update({row.prediction_id} - {None})
        return found

    def forget(self, found: Forgotten, *, dry_run: bool) -> dict[str, int]:
        """Delete predictions with inputs, labels and feedback, in short transactions; return the rows by table."""
        archived = self._rewrite_archive(partial(without_predictions, found.predictions), dry_run)
        deleted = {"predictions": 0, "feedback": 0, "labels": 0} | ({"archive": archived[1]} if archived else {})
        with self._changing(dry_run) as connection:
            deleted["requests for retraining"] = _clear_requests(connection, found.predictions)
        for model, all_ids in found.predictions.items():
            for ids in parts([(id_, 1) for id_ in sorted(all_ids)], STEP_ROWS):
                with self._changing(dry_run) as connection:
                    deleted["predictions"] += _forget_predictions(connection, model, ids)
                    for table, id_ in ((db.labels, db.labels.c.prediction_id), (db.late_labels, db.late_labels.c.id)):
                        is_on_one = id_.in_(ids) & _is_of_model(table, model)
                        deleted["labels"] += connection.execute(table.delete().where(is_on_one)).rowcount
        for numbers in parts([(number, 1) for number in sorted(found.feedback)], STEP_ROWS):
            with self._changing(dry_run) as connection:
                for table in (db.history, db.decisions, db.suspects):
                    connection.execute(table.delete().where(table.c.feedback_id.in_(numbers)))
                rows = connection.execute(feedback.delete().where(feedback.c.id.in_(numbers))).rowcount
                deleted["feedback"] += rows
        return deleted

    @contextlib.contextmanager
    def _changing(self, dry_run: bool) -> Iterator[sa.Connection]:
        """Change rows in a transaction, in which no exporter writes; a dry run takes it back."""
        with self._connection.begin() as transaction:
            db.write_beside(self._connection)
            yield self._connection
            if dry_run:
                transaction.rollback()

    def releases(self, model: str | None) -> Sequence[Row]:
        """Return the releases of a model, or of all."""
        is_chosen = sa.true() if model is None else releases.c.model == model
        query = sa.select(releases).where(is_chosen).order_by(releases.c.seq.desc())
        with self._reading() as connection:
            return connection.execute(query).mappings().all()

    def chunks(self, row: Row) -> Iterator[bytes]:
        """Yield the content of a release, chunk by chunk."""
        return read_chunks(self._reading, row)

    def rewrite(self, row: Row, content: Iterator[bytes], lineage: str, examples: int) -> str:
        """Give a release another content, lineage and number of examples; return its SHA-256.

        Raises
        ------
        StoreError
            When another process has changed the release meanwhile.
        """
        build = uuid.uuid4().hex

        def write(number: int, data: bytes) -> None:
            with self._connection.begin():
                write_chunk(self._connection, build, number, data)

        written = write_content(build, content, write)
        values = {"build": build, "sha256": written.sha256, "bytes": written.bytes, "lineage": lineage}
        values["examples"] = examples
        with self._connection.begin():
            replaced = replace_content(self._connection, row, values)
        if not replaced:
            raise StoreError(f"the release {row['name']} was changed by another process: run the command again")
        return written.sha256

    def clean_archive(self, redacted: Redacted, segmented: Collection[str], *, dry_run: bool) -> tuple[int, int] | None:
        """Remove inputs from the archive; return the files and predictions that had them, None without an archive."""
        return self._rewrite_archive(partial(cleaned, redacted, segmented), dry_run)

    def _rewrite_archive(self, change: Change, dry_run: bool) -> tuple[int, int] | None:
        self._connection.rollback()
        location = self._config.archive
        return None if location is None else rewrite_archive(location, change, dry_run=dry_run)

    def purge(self) -> bool:
        """Free the space of removed inputs, so that no file holds a copy of them; return whether that was possible."""
        self._connection.rollback()
        tables = (inputs, feedback, db.bin_codes, db.release_chunks)
        return db.backend(self._connection).purge(self._connection, [table.name for table in tables])

    def count_damaged(self) -> int:
        """Return the number of damaged databases beside this one, which are not cleaned."""
        return count_damaged(self._config)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """Read without holding a transaction afterwards."""
        yield self._connection
        self._connection.rollback()


def _clear_requests(connection: sa.Connection, models: Collection[str | None]) -> int:
    """Remove the documents of requests for retraining, which are made anew when they are sent; return their number."""
    of_models = sa.true() if None in models else db.retrain_requests.c.model.in_(models)
    holds = of_models & db.retrain_requests.c.body.is_not(None)
    return connection.execute(db.retrain_requests.update().where(holds).values(body=None)).rowcount


def _is_of_model(table: sa.Table, model: str | None) -> sa.ColumnElement[bool]:
    """Return whether rows are of a model, or of none; with None of any."""
    return sa.true() if model is None else (table.c.model == model) | table.c.model.is_(None)


def _forget_predictions(connection: sa.Connection, model: str | None, ids: Collection[str]) -> int:
    """Delete predictions and their inputs; return how many there were."""
    is_stored_day = predictions.c.day.in_(stored_days(connection))
    condition = is_stored_day & predictions.c.id.in_(ids) & _is_of_model(predictions, model)
    positions: dict[int, list[int]] = {}
    for row in connection.execute(sa.select(predictions.c.block, predictions.c.position).where(condition)):
        if row.block is not None:
            positions.setdefault(row.block, []).append(row.position)
    for block, emptied in positions.items():
        data = connection.execute(sa.select(inputs.c.data).where(inputs.c.id == block)).scalar()
        texts = [b"" if index in emptied else text for index, text in enumerate(unpack_block(data))] if data else []
        connection.execute(inputs.update().where(inputs.c.id == block).values(data=compress_block(texts)))
    return connection.execute(predictions.delete().where(condition)).rowcount


def redact_rows(
    connection: sa.Connection, table: str, redacted: Redacted, *, after: int = 0, dry_run: bool
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
    is_block = rows is inputs
    held = [
        (rows.c.model == model) & (sa.true() if is_block else may_hold(rows.c.inputs, names))
        for model, names in redacted.items()
    ]
    last = connection.execute(sa.select(sa.func.max(key))).scalar() or 0
    changed = 0
    while True:
        size = PACKED_CHARACTERS * sa.func.length(rows.c.data) if is_block else sa.func.length(rows.c.inputs)
        query = sa.select(key, sa.func.coalesce(size, 0)).where(key > after, key <= last, sa.or_(*held))
        sizes = connection.execute(query.order_by(key).limit(STEP_ROWS)).all()
        connection.rollback()
        if not sizes:
            return changed, last
        step = next(parts(sizes, STEP_CHARACTERS))
        query = sa.select(rows.c.id, rows.c.model, rows.c.data if is_block else rows.c.inputs)
        stored = connection.execute(query.where(key.in_(step))).all()
        connection.rollback()
        with connection.begin():
            redact = _redact_block if is_block else _redact_feedback
            changed += sum(redact(connection, row, redacted[row.model], dry_run=dry_run) for row in stored)
        after = step[-1]


def _redact_block(connection: sa.Connection, row: Any, names: Collection[str], *, dry_run: bool) -> int:
    """Write a block of inputs again; return how many predictions had redacted ones."""
    texts = unpack_block(row.data)
    cleaned = [remove_inputs(text.decode("utf-8", "replace"), names).encode() for text in texts]
    changed = sum(text != before for text, before in zip(cleaned, texts, strict=True))
    if changed and not dry_run:
        connection.execute(inputs.update().where(inputs.c.id == row.id).values(data=compress_block(cleaned)))
    return changed


def _redact_feedback(connection: sa.Connection, row: Any, names: Collection[str], *, dry_run: bool) -> int:
    """Write the inputs of feedback again, if they still are as they were read; return whether some were redacted."""
    cleaned = remove_inputs(row.inputs, names)
    if cleaned != row.inputs and not dry_run:
        is_unchanged = (feedback.c.id == row.id) & (feedback.c.inputs == row.inputs)
        connection.execute(feedback.update().where(is_unchanged).values(inputs=cleaned or None))
    return int(cleaned != row.inputs)
