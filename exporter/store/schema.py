"""The tables, and rows as they are written into them."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.config import sampled
from exporter.errors import StoreError
from exporter.events import NO_VERSION, Prediction

SCHEMA_VERSION = 1

metadata = sa.MetaData()
schema_table = sa.Table("schema", metadata, sa.Column("version", sa.Integer, primary_key=True))
predictions = sa.Table(
    "predictions",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    # A client's identifiers are random: the day before them keeps the index's growing end in memory.
    sa.Column("day", sa.Integer, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("received", sa.Float, nullable=False),
    sa.Column("prediction", sa.Text),
    sa.Column("confidence", sa.Float),
    sa.Column("code", sa.Integer, nullable=False),
    sa.Column("duration_seconds", sa.Float),
    sa.Column("confident", sa.Boolean, nullable=False),
    sa.Column("inputs", sa.Text),
    sa.Column("segment", sa.Text),
    sa.Index("predictions_day_id", "day", "id"),
)
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    # Unique together with the model that the prediction turns out to be of: two services may both count from 1.
    sa.Column("prediction_id", sa.Text, index=True),
    sa.Column("joined", sa.Boolean, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("version", sa.Text),
    sa.Column("predicted", sa.Float),
    sa.Column("prediction", sa.Text),
    sa.Column("confidence", sa.Float),
    sa.Column("confident", sa.Boolean),
    sa.Column("inputs", sa.Text),
    sa.Column("segment", sa.Text),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("label", sa.Text),
    sa.Column("user", sa.Text),
    sa.Column("comment", sa.Text),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
    sa.Column("counted", sa.Boolean, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("reviewed_label", sa.Text),
    sa.Column("reviewer", sa.Text),
    sa.Column("reviewed", sa.Float),
    sa.Column("released", sa.Boolean, nullable=False, default=False),
    sa.Column("sampled", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
    sa.Index("feedback_released", "released", "model"),
    sa.Index("feedback_review", "verdict", "status", "model", "created"),
    sa.Index("feedback_waiting", "joined", "updated"),
)
history = sa.Table(
    "feedback_history",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("feedback_id", sa.Integer, nullable=False, index=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("label", sa.Text),
    sa.Column("user", sa.Text),
    sa.Column("comment", sa.Text),
    sa.Column("idempotency_key", sa.Text, unique=True),
)


decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("feedback_id", sa.Integer, nullable=False, index=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("reviewer", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("label", sa.Text),
    sa.Column("revision", sa.Integer, nullable=False),
)
windows = sa.Table(
    "windows",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
draws = sa.Table(
    "draws",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    # When the oldest prediction that could be drawn came, and how many confident ones there were.
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("confident", sa.Integer, nullable=False),
)
sureness = sa.func.coalesce(feedback.c.confidence, sa.literal_column("-1.0"))
"""A confidence that can be ordered by: databases disagree about where NULL stands."""
# Labels are in no index: PostgreSQL refuses keys above 2.7 kB.
sa.Index("feedback_queue", *(feedback.c[name] for name in ("verdict", "joined", "status", "model", "created", "id")))
sa.Index("feedback_newest", *(feedback.c[name] for name in ("verdict", "joined", "model", "created", "id")))
sa.Index(
    "feedback_surest",
    *(feedback.c[name] for name in ("verdict", "joined", "status", "model")),
    sureness,
    feedback.c.id,
)
sa.Index(
    "feedback_known",
    *(feedback.c[name] for name in ("model", "version", "confident", "verdict", "status", "created", "predicted")),
)
relabelled = feedback.c.reviewed_label.is_not(None)
sa.Index(
    "feedback_relabelled",
    *(feedback.c[name] for name in ("model", "version", "confident", "status", "verdict")),
    sqlite_where=relabelled,
    postgresql_where=relabelled,
)


COLUMNS = tuple(column.name for column in predictions.columns if column.name != "seq")
"""What a row of `prediction_rows` holds, in order."""


def prediction_rows(
    events: Sequence[Prediction],
    confident: Sequence[bool],
    inputs: Sequence[bytes],
    received: float,
    segments: Sequence[str | None] | None = None,
) -> list[tuple[Any, ...]]:
    """Predictions of one model and version as rows of `COLUMNS`.

    Parameters
    ----------
    events
        The predictions; they have identifiers.
    confident
        Whether each counts as confident.
    inputs
        The JSON of each one's inputs that is to be kept; empty for none.
    received
        Unix time in seconds at which they came.
    segments
        The name of each one's segment, where the model has segments.
    """
    day, version = int(received // 86400), events[0].version or NO_VERSION
    labels = {event.prediction for event in events}
    spelt = {(type(label), label): spelling(label) for label in labels}
    return [
        (
            day,
            event.id,
            event.model,
            version,
            event.time.timestamp() if event.time else received,
            received,
            spelt.get((type(event.prediction), event.prediction)) or spelling(event.prediction),
            event.confidence,
            event.code or 200,
            event.duration_seconds,
            sure,
            kept.decode("utf-8", "replace") or None,
            segment,
        )
        for event, sure, kept, segment in zip(
            events, confident, inputs, segments or itertools.repeat(None, len(events)), strict=True
        )
    ]


class InputsPolicy:
    """Whose inputs are kept: ``store.inputs`` of the configuration."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._share = sampled(text)

    def keeps(self, event: Prediction, confident: bool) -> bool:
        """Whether this event's inputs are stored."""
        if self._share is not None:  # by the identifier: the same choice wherever it is made
            return zlib.crc32((event.id or "").encode()) < self._share * 2**32
        return self._text == "all" or (self._text == "confident" and confident)


def spelling(value: Any) -> str | None:
    """A label or a prediction as the JSON text that is stored; None for none."""
    return None if value is None else msgspec.json.encode(value).decode()


def check_url(url: str) -> sa.URL:
    """The parts of a database's URL.

    Raises
    ------
    StoreError
        When it is none, or of a database that is not supported.
    """
    try:
        address = sa.make_url(url)
        kind = address.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise StoreError("store.url: expected sqlite:///PATH") from None  # not quoted: it may hold a password
    if kind != "sqlite" or not address.database or address.database == ":memory:":
        raise StoreError(f"store.url: expected sqlite:///PATH, got {address!r}")
    return address


def open_engine(url: str) -> sa.Engine:
    """Open the database of an SQLAlchemy URL; its folder is made.

    Raises
    ------
    StoreError
        When it is of a kind that is not supported.
    """
    address = check_url(url)
    if address.database:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(address, connect_args={"timeout": 10, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "journal_size_limit=67108864"):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def find_prediction(connection: sa.Connection, prediction_id: str, model: str | None) -> Mapping[str, Any] | None:
    """The first prediction of that identifier, of any model if ``model`` is None; looked up day by day."""
    # Two queries: the least and the greatest together would read the whole index.
    first = connection.execute(sa.select(sa.func.min(predictions.c.day))).scalar()
    last = connection.execute(sa.select(sa.func.max(predictions.c.day))).scalar()
    if first is None or last is None:
        return None
    chosen = predictions.c.day.in_(range(last, first - 1, -1)) & (predictions.c.id == prediction_id)
    if model is not None:
        chosen &= predictions.c.model == model
    query = sa.select(predictions).where(chosen).order_by(predictions.c.seq).limit(1)
    found: Mapping[str, Any] | None = connection.execute(query).mappings().first()  # type: ignore[assignment]
    return found
