"""The tables, and how values are spelt in them."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A number that the database gives: of 64 bits on both, though SQLite has but one name for it."""

metadata = sa.MetaData()
schema_table = sa.Table("schema", metadata, sa.Column("version", sa.Integer, primary_key=True))
predictions = sa.Table(
    "predictions",
    metadata,
    sa.Column("seq", Key, primary_key=True, autoincrement=True),
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
    sa.Column("id", Key, primary_key=True, autoincrement=True),
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
    sa.Column("idempotency_key", sa.Text),
)
# Words that others replaced, and draws for review: the word that stands is in its feedback alone.
history = sa.Table(
    "feedback_history",
    metadata,
    sa.Column("id", Key, primary_key=True, autoincrement=True),
    sa.Column("feedback_id", Key, nullable=False, index=True),
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
    sa.Column("id", Key, primary_key=True, autoincrement=True),
    sa.Column("feedback_id", Key, nullable=False, index=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("reviewer", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("label", sa.Text),
    sa.Column("revision", sa.Integer, nullable=False),
)
windows = sa.Table(
    "windows",
    metadata,
    sa.Column("replica", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("saved", sa.Float, nullable=False),
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
waiting = ~feedback.c.joined
released = feedback.c.released == sa.true()
accepted = feedback.c.status == sa.literal_column("'accepted'")  # in the text: what is bound finds no such index
# Of few rows each: a new word is in none of them but that of its key, and what need not be written makes it durable the
# sooner.
_PARTIAL = {
    "feedback_relabelled": (("model", "version", "confident", "status", "verdict"), relabelled),
    "feedback_waiting": (("updated", "prediction_id"), waiting),
    "feedback_dataset": (("model", "id"), accepted),
    "feedback_released": (("model",), released),
    "feedback_key": (("idempotency_key",), feedback.c.idempotency_key.is_not(None)),
}
for _name, (_columns, _where) in _PARTIAL.items():
    sa.Index(_name, *(feedback.c[name] for name in _columns), sqlite_where=_where, unique=_name == "feedback_key")
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("model", sa.Text, nullable=False, index=True),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("examples", sa.Integer, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("by", sa.Text),
    sa.Column("lineage", sa.Text, nullable=False),
    # Whose chunks; and whether its examples are marked as released, which comes after.
    sa.Column("build", sa.Text, nullable=False),
    sa.Column("marked", sa.Boolean, nullable=False),
)
release_chunks = sa.Table(
    "release_chunks",
    metadata,
    sa.Column("build", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)


def storage_options() -> None:
    """Say what only PostgreSQL is to know of the tables: its part of the library is not loaded for SQLite."""
    # The space of what is deleted by age or size is to be found again soon.
    predictions.dialect_kwargs["postgresql_with"] = {"autovacuum_vacuum_scale_factor": 0.02}
    for index in feedback.indexes:
        if index.name in _PARTIAL:
            index.dialect_kwargs["postgresql_where"] = _PARTIAL[str(index.name)][1]


def spelling(value: Any) -> str | None:
    """A label or a prediction as the JSON text that is stored; None for none."""
    return None if value is None else msgspec.json.encode(value).decode()


def storable(text: str) -> str:
    """A text as both databases can keep it: PostgreSQL takes no NUL."""
    return text.replace("\0", "\ufffd") if "\0" in text else text
