"""The archive: predictions as Parquet files in a folder or an object store, before the retention deletes them.

A part holds the predictions that follow the last archived one, in the order of their numbers, and is named after its
first number. The database keeps the last archived number, and is told of a part once it is complete: whatever is killed
in between, the next attempt writes the same predictions to the same name.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.storage.archive_files import ArchiveFiles, another_database, schema, schema_with_day
from exporter.storage.packed_inputs import unpack
from exporter.storage.prediction_rows import is_sampled
from exporter.storage.schema import archived, feedback, predictions

PART_ROWS, PART_BYTES = 250_000, 64 * 2**20
"""Predictions of a part, and bytes of its files, at most; a part is made in memory."""
GROUP_ROWS, GROUP_CHARACTERS = 20_000, 16 * 2**20
"""Predictions of a row group, and characters of their inputs, at most."""
FETCHED_ROWS = 200
"""Predictions that are fetched at a time."""
ROW_BYTES = 1000
"""Assumed bytes of memory of a prediction without its inputs, until its row group is written."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


HasDrift = Callable[[sa.Connection, str, str, float], bool]
"""Whether a version of a model had drift when a prediction was received, at a Unix time in seconds."""


class Part(NamedTuple):
    """The part that was written.

    Attributes
    ----------
    last
        The number of the last prediction; None if there was none to archive.
    rows
        How many predictions.
    is_full
        Whether there may be more.
    """

    last: int | None
    rows: int
    is_full: bool


def archived_up_to(connection: sa.Connection) -> int:
    """Return the number of the last archived prediction; 0 for none."""
    return connection.execute(sa.select(sa.func.max(archived.c.seq))).scalar() or 0


def set_archived(connection: sa.Connection, seq: int) -> None:
    """Store the number of the last archived prediction."""
    connection.execute(archived.delete())
    connection.execute(archived.insert().values(seq=seq))


class ArchiveFilter(NamedTuple):
    """Selects archived predictions.

    Attributes
    ----------
    model, version
        Of the predictions, which have inputs; any when None.
    since, until
        Unix time in seconds from which, and before which, they were received: files of other days are not opened.
    up_to
        The number of the last prediction.
    after
        The number after which the first one comes.
    ids
        Their identifiers; any when None.
    """

    model: str | None
    version: str | None
    since: float
    up_to: int
    until: float = math.inf
    after: int = 0
    ids: Collection[str] | None = None

    @property
    def expression(self) -> Any:
        """The condition, as an expression of pyarrow."""
        from pyarrow import dataset

        field = dataset.field
        start = datetime.fromtimestamp(max(self.since, 0.0), UTC)
        chosen = (field("date") >= start.date()) & (field("received") >= start)
        chosen &= (field("seq") > self.after) & (field("seq") <= self.up_to)
        if self.until < math.inf:
            end = datetime.fromtimestamp(self.until, UTC)
            chosen &= (field("date") <= end.date()) & (field("received") < end)
        if self.model is not None:
            chosen &= (field("model") == self.model) & field("inputs").is_valid()
        if self.version is not None:
            chosen &= field("version") == self.version
        return chosen if self.ids is None else chosen & field("id").isin(list(self.ids))


class Archive:
    """The Parquet files of the archive, in a folder or an object store.

    Parameters
    ----------
    location
        ``store.archive``: the path of a folder, or a URL of pyarrow's file systems such as ``s3://bucket/folder``.
    share
        ``store.archive_share``: the share of confident predictions without feedback or drift that is archived.

    Attributes
    ----------
    shown : str
        The location for messages: without its query, which may hold a key.
    """

    def __init__(self, location: str, share: float = 1.0) -> None:
        self._files, self.share = ArchiveFiles(location), share
        self.shown = self._files.shown

    def write_part(
        self,
        connection: sa.Connection,
        before_day: int,
        redact: Callable[[str, str | None], str | None],
        has_drift: HasDrift,
        redacted: Callable[[], object],
    ) -> Part:
        """Write the predictions that follow the last archived one.

        Parameters
        ----------
        connection
            To read with.
        before_day
            Predictions that were received before this day, in days since 1970, are archived.
        redact
            See `exporter.storage.feedback_join.Redact`.
        has_drift
            See `HasDrift`.
        redacted
            Returns what is redacted: if that changes before all is read, nothing is written, as rows have more inputs.

        Raises
        ------
        StoreError
            When the files cannot be written.
        """
        first, redacted_before = archived_up_to(connection) + 1, redacted()
        query = sa.select(predictions).where(predictions.c.seq >= first).order_by(predictions.c.seq).limit(PART_ROWS)
        files: defaultdict[int, _DayFile] = defaultdict(_DayFile)
        last, read, rows, is_full = None, 0, 0, False
        with connection.execute(query, execution_options={"yield_per": FETCHED_ROWS}) as result:
            for fetched in result.mappings().partitions():
                old = list(itertools.takewhile(lambda row: row["day"] < before_day, fetched))
                for row, weight in zip(old, self._weights(connection, old, has_drift), strict=True):
                    if weight:
                        inputs = redact(row["model"], unpack(connection, row))
                        files[row["day"]].add({**row, "inputs": inputs, "weight": weight})
                        rows += 1
                if old:
                    last, read = old[-1]["seq"], read + len(old)
                is_full = read == PART_ROWS or sum(file.size for file in files.values()) > PART_BYTES
                if is_full or len(old) < len(fetched):
                    break
        connection.rollback()
        if redacted() != redacted_before:
            return Part(None, 0, is_full=True)
        self._write(files, first)
        return Part(last, rows, is_full)

    def _weights(
        self, connection: sa.Connection, rows: Sequence[Mapping[Any, Any]], has_drift: HasDrift
    ) -> list[float]:
        """Return for how many predictions each of these stands in the archive; 0 for one that is left out."""
        if self.share == 1:
            return [1.0] * len(rows)
        ids = [row["id"] for row in rows if row["confident"]]
        query = sa.select(feedback.c.prediction_id).where(feedback.c.prediction_id.in_(ids))
        known = set(connection.execute(query).scalars())
        chance = [
            row["confident"]
            and row["id"] not in known
            and not has_drift(connection, row["model"], row["version"], row["received"])
            for row in rows
        ]
        return [
            1.0 if not by_chance else is_sampled(row["id"], self.share) / self.share
            for row, by_chance in zip(rows, chance, strict=True)
        ]

    def _write(self, files: Mapping[int, _DayFile], first: int) -> None:
        named = {f"date={_EPOCH + timedelta(day):%Y-%m-%d}/{first:020}.parquet": file for day, file in files.items()}
        with self._files.explained("cannot be written"):
            # Before its first part is recorded, a database has no other files than those of this part.
            if first == 1 and named and (others := set(self._files.names()) - named.keys()):
                raise another_database(f"{self.shown}/{min(others)}")
            for name, file in named.items():
                self._files.write(name, file.content())

    def batches(self, names: list[str], chosen: ArchiveFilter) -> Iterator[list[Mapping[str, Any]]]:
        """Yield columns of archived predictions in the order of their numbers.

        Raises
        ------
        StoreError
            When the archive cannot be read.
        """
        with self._files.explained("cannot be read"):
            yield from _read(self._files.dataset(), names, chosen.expression)

    def newest_files(self, names: list[str], chosen: ArchiveFilter) -> Iterator[Iterator[list[Mapping[str, Any]]]]:
        """Yield the batches of each file, the file with the newest predictions first."""
        with self._files.explained("cannot be read"):
            expression = chosen.expression
            for file in self._newest(expression):
                yield _read(file, names, expression, schema=schema_with_day())

    def find(self, names: list[str], ids: Collection[str], up_to: int) -> Iterator[list[Mapping[str, Any]]]:
        """Yield columns of the predictions with some identifiers, the newest file first; nothing of others is read.

        Parameters
        ----------
        names, up_to
            See `batches` and `ArchiveFilter`.
        ids
            The identifiers.

        Yields
        ------
        list
            Found predictions; none, once for each file without any.
        """
        with self._files.explained("cannot be read"):
            chosen = ArchiveFilter(None, None, 0.0, up_to, ids=ids).expression
            for file in self._newest(chosen):
                numbers = _read(file, ["seq"], chosen, schema=schema_with_day())
                found = [row["seq"] for batch in numbers for row in batch]
                if not found:
                    yield []
                    continue
                between = ArchiveFilter(None, None, 0.0, max(found), ids=ids, after=min(found) - 1)
                yield from _read(file, names, between.expression, schema=schema_with_day())

    def _newest(self, expression: Any) -> list[Any]:
        files = self._files.dataset().get_fragments(filter=expression)
        return sorted(files, key=lambda file: str(file.path), reverse=True)

    def count(self, chosen: ArchiveFilter) -> int:
        """Return the number of predictions that `batches` yields."""
        with self._files.explained("cannot be read"):
            return int(self._files.dataset().count_rows(filter=chosen.expression))


def _read(source: Any, names: list[str], chosen: Any, **options: Any) -> Iterator[list[Mapping[str, Any]]]:
    """Yield rows of a data set of pyarrow, or with the option ``schema`` of one of its files."""
    options |= {"batch_size": 2000, "use_threads": False, "batch_readahead": 1, "fragment_readahead": 1}
    for batch in source.to_batches(columns=names, filter=chosen, **options):
        if batch.num_rows:
            yield batch.to_pylist()


class _DayFile:
    """The Parquet file of a part's predictions of one day, in memory."""

    def __init__(self) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        self._buffer = pa.BufferOutputStream()
        self._writer = ParquetWriter(self._buffer, schema(), compression="zstd")
        self._rows: list[Mapping[str, Any]] = []
        self._characters = 0

    @property
    def size(self) -> int:
        """Bytes in memory: those that are written, and about those that wait for their row group."""
        return int(self._buffer.tell()) + self._characters + ROW_BYTES * len(self._rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a prediction."""
        times = {name: datetime.fromtimestamp(row[name], UTC) for name in ("time", "received")}
        self._rows.append({**row, **times})
        self._characters += len(row["inputs"] or "")
        if len(self._rows) == GROUP_ROWS or self._characters > GROUP_CHARACTERS:
            self._flush()

    def content(self) -> Any:
        """Return the whole file."""
        self._flush()
        self._writer.close()
        return self._buffer.getvalue()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema()))
        self._rows, self._characters = [], 0
