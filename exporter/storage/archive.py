"""Read the archive: predictions as Parquet files in a folder or an object store.

`exporter.storage.archive_writer` writes them. The database keeps the number of the last archived prediction.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.storage.archive_files import ArchiveFiles, schema_with_day
from exporter.storage.schema import archived

_ONE_AT_A_TIME: Mapping[str, Any] = {"use_threads": False, "batch_readahead": 1, "fragment_readahead": 1}


def archived_up_to(connection: sa.Connection) -> int:
    """Return the number of the last archived prediction; 0 for none."""
    return connection.execute(sa.select(sa.func.max(archived.c.seq))).scalar() or 0


def archived_before(connection: sa.Connection) -> int:
    """Return the day, since 1970, before which predictions are or are being archived; 0 for none."""
    return connection.execute(sa.select(sa.func.max(archived.c.day))).scalar() or 0


def set_archived(connection: sa.Connection, **values: int) -> None:
    """Store ``seq``, the number of the last archived prediction, or ``day``, see `archived_before`."""
    stored = connection.execute(sa.select(archived)).mappings().first() or {"seq": 0}
    connection.execute(archived.delete())
    connection.execute(archived.insert().values({**stored, **values}))


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

    @property
    def of_late_labels(self) -> Any:
        """The condition for late labels that can be compared with their prediction, as an expression of pyarrow."""
        from pyarrow import dataset

        field = dataset.field
        chosen = field("loss").is_valid() & (field("date") >= datetime.fromtimestamp(max(self.since, 0.0), UTC).date())
        if self.until < math.inf:
            chosen &= field("date") <= datetime.fromtimestamp(self.until, UTC).date()
        return chosen if self.model is None else chosen & (field("model") == self.model)


class Archive:
    """The Parquet files of the archive, in a folder or an object store.

    Parameters
    ----------
    location
        ``store.archive``: the path of a folder, or a URL of pyarrow's file systems such as ``s3://bucket/folder``.
    share
        ``store.archive_share``, see `exporter.storage.archive_writer.ArchiveWriter`.
    """

    def __init__(self, location: str, share: float = 1.0) -> None:
        self._files, self.share = ArchiveFiles(location), share

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

    def late_losses(self, chosen: ArchiveFilter) -> Iterator[tuple[list[str], list[float]]]:
        """Yield identifiers of predictions and their losses, of labels that came too late for `batches`, oldest first.

        Parameters
        ----------
        chosen
            Of the predictions; of it, the model and the times are looked at.
        """
        first = datetime.fromtimestamp(max(chosen.since, 0.0), UTC).date()
        with self._files.explained("cannot be read"):
            labels = self._files.late_labels(first)
            read = partial(labels.to_batches, columns=["id", "loss"], filter=chosen.of_late_labels)
            for batch in read(batch_size=100_000, **_ONE_AT_A_TIME):
                yield batch["id"].to_pylist(), batch["loss"].to_pylist()

    def _newest(self, expression: Any) -> list[Any]:
        files = self._files.dataset().get_fragments(filter=expression)
        return sorted(files, key=lambda file: str(file.path), reverse=True)

    def count(self, chosen: ArchiveFilter) -> int:
        """Return the number of predictions that `batches` yields."""
        with self._files.explained("cannot be read"):
            return int(self._files.dataset().count_rows(filter=chosen.expression))


def _read(source: Any, names: list[str], chosen: Any, **options: Any) -> Iterator[list[Mapping[str, Any]]]:
    """Yield rows of a data set of pyarrow, or with the option ``schema`` of one of its files."""
    for batch in source.to_batches(columns=names, filter=chosen, batch_size=2000, **_ONE_AT_A_TIME, **options):
        if batch.num_rows:
            yield batch.to_pylist()
