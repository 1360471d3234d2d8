"""Read live predictions from the store in batches."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.features.lenient_json import lenient_inputs
from exporter.features.stored_inputs import remove_inputs
from exporter.profiles.sources.base import Batch, Column, Source, to_columns
from exporter.storage._archive import Archive, ArchiveFilter
from exporter.storage._engine import check_url, error_message, is_shared, open_engine, shown_url
from exporter.storage._predictions import is_sampled, unpack
from exporter.storage._retention import archived_up_to
from exporter.storage._schema import decode_label, has_inputs, predictions

PREDICTION, CONFIDENCE, TIME = "(prediction)", "(confidence)", "(time)"
"""Columns of a `StoreSource` beside the inputs."""
_COLUMNS = ("id", "inputs", "prediction", "confidence", "received")
PASS_SECONDS = 3600.0
"""Timeout of a query in seconds."""


class StoreSource(Source):
    """Stored predictions of one model that have their inputs.

    Parameters
    ----------
    store
        The database.
    model, version
        The model, and its version; any version when None.
    since
        Unix time in seconds of the oldest prediction.
    redacted
        Inputs that are left out: they may have been stored when less was redacted.

    Raises
    ------
    StoreError
        When the database does not exist or cannot be read.
    """

    keeps_order = False  # members of JSON objects have none

    def __init__(
        self, store: StoreConfig, model: str, version: str | None, since: float, redacted: Collection[str] = ()
    ) -> None:
        self.name = model
        self._redacted = redacted
        self.where = f"{shown_url(store.url)}: {model}{f' version {version}' if version else ''}"
        address = check_url(store.url)
        if not is_shared(address) and not Path(address.database or "").is_file():
            raise StoreError(f"store.url: there is no database {store.url}")
        self._engine = open_engine(store, PASS_SECONDS)
        table = predictions.c
        self._chosen = (
            (table.day >= int(since // 86400)) & (table.received >= since) & (table.model == model) & has_inputs
        )
        if version:
            self._chosen &= table.version == version
        self._archive = (
            Archive(store.archive, store.archive_share, self._reading) if store.archive is not None else None
        )
        with self._reading() as connection:
            self._archived = archived_up_to(connection) if self._archive else 0
            self._chosen &= table.seq > self._archived
            last = connection.execute(sa.select(sa.func.max(table.seq)).where(self._chosen)).scalar()
            self._chosen &= table.seq <= (last or 0)  # the same rows in each pass, although new ones arrive
            self._rows = connection.execute(sa.select(sa.func.count()).where(self._chosen)).scalar() or 0
        self._of_archive = ArchiveFilter(model, version, since, self._archived)
        if self._archive and self._archived:
            self._rows += self._archive.count(self._of_archive)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"{self.where}: cannot be read: {error_message(error)}") from None
        finally:
            self._engine.dispose()

    def batches(self, names: Collection[str] | None = None) -> Iterator[Batch]:  # noqa: ARG002
        """See `Source.batches`."""
        read = 0
        share = self._archive.share if self._archive and self._archived else 1.0
        for rows in self._parts():
            read += len(rows)
            # Of a sampled archive, and of what is not in it yet, the same random share is read.
            part = [row for row in rows if is_sampled(row["id"], share)]
            columns: dict[str, Column] = dict(to_columns([self._inputs(row["inputs"]) for row in part]))
            columns[PREDICTION] = [decode_label(row["prediction"]) for row in part]
            columns[CONFIDENCE] = [row["confidence"] for row in part]
            columns[TIME] = [row["received"] for row in part]
            yield Batch(columns, len(part), read / max(self._rows, 1))

    def _parts(self) -> Iterator[list[Mapping[str, Any]]]:
        """Yield the predictions of the archive, then those of the database."""
        if self._archive and self._archived:
            for part in self._archive.batches(list(_COLUMNS), self._of_archive):
                yield [{**row, "received": row["received"].timestamp()} for row in part]
        query = sa.select(*(predictions.c[name] for name in (*_COLUMNS, "packed"))).where(self._chosen)
        with self._reading() as connection:
            query = query.order_by(predictions.c.seq).execution_options(yield_per=2000)
            for rows in connection.execute(query).mappings().partitions():
                yield [{**row, "inputs": unpack(connection, row)} for row in rows]

    def _inputs(self, stored: str | None) -> dict[str, Any]:
        text = remove_inputs(stored or "", self._redacted)
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            return lenient_inputs(text.encode("utf-8", "replace"))
