"""Versions of the schema: a new database gets the latest, an older one is migrated at the start.

A migration runs in one transaction and in one exporter at a time. It names tables and columns itself, so that later
changes of `exporter.storage.schema` do not change it; only new, empty tables are created from the current schema.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.storage.engine import is_shared, open_engine, shown_url, write_alone
from exporter.storage.schema import metadata, schema_table

log = logging.getLogger(__name__)

MIGRATION_SECONDS = 3600.0
"""How long one statement of a migration may take."""


def _migrate_to_2(connection: sa.Connection) -> None:
    """Give snapshots of windows a replica and a time; mark feedback on samples; add indexes of feedback."""
    for statement in (
        "ALTER TABLE windows RENAME TO windows_of_one",
        "CREATE TABLE windows (replica TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL, "
        "saved FLOAT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (replica, model, version))",
        "INSERT INTO windows (replica, model, version, saved, data) "
        "SELECT '', model, version, CAST(strftime('%s', 'now') AS FLOAT), data FROM windows_of_one",
        "DROP TABLE windows_of_one",
        "ALTER TABLE feedback ADD COLUMN sampled BOOLEAN DEFAULT 0 NOT NULL",
        "CREATE INDEX feedback_queue ON feedback (verdict, joined, status, model, created, id)",
        "CREATE INDEX feedback_newest ON feedback (verdict, joined, model, created, id)",
        "CREATE INDEX feedback_surest ON feedback (verdict, joined, status, model, coalesce(confidence, -1.0), id)",
        "CREATE INDEX feedback_known ON feedback (model, version, confident, verdict, status, created, predicted)",
        "CREATE INDEX feedback_relabelled ON feedback (model, version, confident, status, verdict) "
        "WHERE reviewed_label IS NOT NULL",
        "DROP INDEX feedback_review",
        "DROP INDEX feedback_waiting",
        "CREATE INDEX feedback_waiting ON feedback (updated, prediction_id) WHERE joined = 0",
        "CREATE INDEX feedback_dataset ON feedback (model, id) WHERE status = 'accepted'",
        "DROP INDEX feedback_released",
        "CREATE INDEX feedback_released ON feedback (model) WHERE released = 1",
    ):
        connection.exec_driver_sql(statement)


def _migrate_to_3(connection: sa.Connection) -> None:
    """Keep the current feedback in its own table alone, with its key; the history holds what was replaced."""
    for statement in (
        "ALTER TABLE feedback ADD COLUMN idempotency_key TEXT",
        "UPDATE feedback SET idempotency_key = (SELECT idempotency_key FROM feedback_history "
        "WHERE feedback_id = feedback.id ORDER BY id DESC LIMIT 1) WHERE verdict <> 'sampled'",
        "DELETE FROM feedback_history WHERE verdict <> 'sampled' AND id IN "
        "(SELECT max(id) FROM feedback_history GROUP BY feedback_id)",
        "CREATE UNIQUE INDEX feedback_key ON feedback (idempotency_key) WHERE idempotency_key IS NOT NULL",
        "DROP INDEX feedback_newest",
    ):
        connection.exec_driver_sql(statement)


def _migrate_to_4(connection: sa.Connection) -> None:
    """Index feedback that waits for its prediction and describes it."""
    unjoined = "NOT joined" if is_shared(connection) else "joined = 0"
    connection.exec_driver_sql(
        f"CREATE INDEX feedback_described ON feedback (model, status, created) WHERE {unjoined} AND version IS NOT NULL"
    )


def _migrate_to_5(connection: sa.Connection) -> None:
    """Add the table of labels, which `migrate` creates as it does all new tables."""


def _migrate_to_6(connection: sa.Connection) -> None:
    """Store the strata of draws; index feedback with its confidence, to count it by stratum."""
    if sa.inspect(connection).has_table("draws"):
        connection.exec_driver_sql("ALTER TABLE draws ADD COLUMN strata TEXT")
    connection.exec_driver_sql("DROP INDEX feedback_known")
    connection.exec_driver_sql(
        "CREATE INDEX feedback_known ON feedback "
        "(model, version, confident, verdict, status, created, predicted, confidence)"
    )


def _migrate_to_7(connection: sa.Connection) -> None:
    """Add the table of requests for retraining, which `migrate` creates as it does all new tables."""


def _migrate_to_8(connection: sa.Connection) -> None:
    """Add the table of the bins of predictions, which `migrate` creates as it does all new tables."""


def _migrate_to_9(connection: sa.Connection) -> None:
    """Index decisions by their time; `migrate` creates the tables of rankings as it does all new tables."""
    if sa.inspect(connection).has_table("decisions"):
        connection.exec_driver_sql("CREATE INDEX decisions_time ON decisions (time)")


def _migrate_to_10(connection: sa.Connection) -> None:
    """Add the table of leases, which `migrate` creates as it does all new tables."""


def _migrate_to_11(connection: sa.Connection) -> None:
    """Add the tables of labels that may be wrong, which `migrate` creates as it does all new tables."""


def _migrate_to_12(connection: sa.Connection) -> None:
    """Add the table of second opinions, which `migrate` creates as it does all new tables."""


def _migrate_to_13(connection: sa.Connection) -> None:
    """Add the compressed inputs of predictions; `migrate` creates the table of dictionaries as it does all new ones."""
    kind = "BYTEA" if is_shared(connection) else "BLOB"
    connection.exec_driver_sql(f"ALTER TABLE predictions ADD COLUMN packed {kind}")


def _migrate_to_14(connection: sa.Connection) -> None:
    """Add the table of what is archived, which `migrate` creates as it does all new tables."""


def _migrate_to_15(connection: sa.Connection) -> None:
    """Add the day before which predictions are archived; `migrate` creates the table of late labels."""
    if sa.inspect(connection).has_table("archived"):
        connection.exec_driver_sql("ALTER TABLE archived ADD COLUMN day INTEGER")


# Version 1 supported SQLite only: the migration to 2 may use its dialect, later ones must run on both databases.
MIGRATIONS: Mapping[int, Callable[[sa.Connection], None]] = {
    2: _migrate_to_2,
    3: _migrate_to_3,
    4: _migrate_to_4,
    5: _migrate_to_5,
    6: _migrate_to_6,
    7: _migrate_to_7,
    8: _migrate_to_8,
    9: _migrate_to_9,
    10: _migrate_to_10,
    11: _migrate_to_11,
    12: _migrate_to_12,
    13: _migrate_to_13,
    14: _migrate_to_14,
    15: _migrate_to_15,
}
"""The migration to each version from the one before it."""
SCHEMA_VERSION = max(MIGRATIONS)


def migrate(config: StoreConfig) -> None:
    """Create the tables, or migrate those of an older version.

    Raises
    ------
    StoreError
        When a newer version of the exporter created the database, or it cannot be opened.
    sqlalchemy.exc.SQLAlchemyError
        When it cannot be read or written.
    """
    engine = open_engine(config, MIGRATION_SECONDS)
    try:
        with _exclusive_transaction(engine) as connection:
            if is_shared(connection):
                encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
                if encoding != "UTF8":
                    raise StoreError(f"store.url: expected a database with the encoding UTF8, got {encoding}")
            current = stored_version(connection)
            if current is not None and current > SCHEMA_VERSION:
                raise StoreError(
                    f"store.url: the database has schema {current}, newer than this version understands; "
                    f"it knows {SCHEMA_VERSION}: use the newer exporter"
                )
            for version in range((current or SCHEMA_VERSION) + 1, SCHEMA_VERSION + 1):
                log.info("migrating the database from schema %d to %d", version - 1, version)
                MIGRATIONS[version](connection)
            if current is None:
                log.info("%s has no tables yet: creating them, with schema %d", shown_url(config.url), SCHEMA_VERSION)
            if current != SCHEMA_VERSION:
                metadata.create_all(connection)
                connection.execute(schema_table.delete())
                connection.execute(schema_table.insert().values(version=SCHEMA_VERSION))
    finally:
        engine.dispose()


def stored_version(connection: sa.Connection) -> int | None:
    """Return the version of the database's schema; None if it has no tables yet."""
    if not sa.inspect(connection).has_table(schema_table.name):
        return None
    return connection.execute(sa.select(sa.func.max(schema_table.c.version))).scalar()


@contextlib.contextmanager
def _exclusive_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a transaction, changes of tables included, during which no other exporter writes."""
    if is_shared(engine):
        with engine.begin() as connection:
            write_alone(connection)
            yield connection
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # Python's driver does not begin a transaction before CREATE or ALTER.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")
