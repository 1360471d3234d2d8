"""The rows of a query of Spark: each partition is read by a state of its own, and the driver merges the states."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from exporter.errors import ProfileError
from exporter.profiles.sources.base import ROWS, AnyPass, Batch, Column, Progress, Source
from exporter.profiles.sources.parquet import arrow_columns, as_arrays, is_number
from exporter.profiles.sources.sql import database_errors, plain_type, skipped_type

_PARTITIONS = 64  # at most, so that their states fit into the memory of the driver
_PARTITIONS_OF_CORE = 4
_STOPPED = re.compile("SparkContext was shut down|stopped SparkContext")


class SparkSource(Source):
    """The rows of a query of Spark SQL, such as ``SELECT * FROM parquet.`/data/loans```.

    They are kept on the disks of the executors while they are profiled, so that all passes see the same rows in the
    same order. With a column of times, partitions are ranges of time, and sorted; otherwise they have no order.

    Parameters
    ----------
    master
        Where Spark runs, such as ``local[*]`` or ``spark://host:7077``; that of Spark's configuration when empty.
    query
        The query.
    types
        Input types that were chosen, by column.
    time_column
        The column of times.
    sample
        Share of the rows that is kept, at random.

    Raises
    ------
    ProfileError
        When PySpark or Java is missing, or the query cannot be read.
    """

    reads_columns = True

    def __init__(
        self, master: str, query: str, types: Mapping[str, str], time_column: str | None = None, sample: float = 1.0
    ) -> None:
        self.where, self.name = master or "Spark", "query"
        session = _session(master)
        with _errors(self.where):
            frame = session.sql(query)
            schema = frame.limit(0).toArrow().schema
            self.skipped = {field.name: skipped_type(field) for field in schema if plain_type(field) is None}
            frame = frame.drop(*self.skipped)
            if sample < 1:
                frame = frame.sample(sample, seed=0)
            partitions = min(_PARTITIONS, _PARTITIONS_OF_CORE * session.sparkContext.defaultParallelism)
            if time_column and time_column in frame.columns:
                frame = _in_order(frame, time_column, partitions)
            elif frame.rdd.getNumPartitions() > partitions:
                frame = frame.coalesce(partitions)
            from pyspark import StorageLevel

            self._frame = frame.persist(StorageLevel.DISK_ONLY)
        kept = [field for field in schema if field.name not in self.skipped]
        self._numbers = {field.name: is_number(field.type) for field in kept}
        self._codes = {name for name, kind in types.items() if kind == "categorical" and self._numbers.get(name)}
        self._starts: dict[int, int] = {}

    def columns(self) -> dict[str, bool]:
        """See `Source.columns`."""
        return {name: numbers and name not in self._codes for name, numbers in self._numbers.items()}

    def run(self, state: AnyPass, title: str, names: Collection[str] | None, progress: Progress) -> AnyPass:
        """See `Source.run`."""
        work = _work(pickle.dumps(state), self._starts, self._codes)
        with _errors(self.where):
            frame = self._chosen(names)
            found = frame.mapInArrow(work, "part int, number long, state binary").collect()
        parts = sorted((part, number, bytes(packed)) for part, number, packed in found)
        self.rows = 0
        merged: AnyPass | None = None
        for part, number, packed in parts:
            self._starts[part] = self.rows
            self.rows += number
            one: AnyPass = pickle.loads(packed)  # noqa: S301 (made by our own code on the executors)
            if merged is None:
                merged = one
            else:
                merged.merge(one)
        progress(title, 1.0, self.rows)
        return state if merged is None else merged

    def _chosen(self, names: Collection[str] | None) -> Any:
        chosen = [name for name in self._numbers if names is None or name in names] or [*self._numbers][:1]
        return self._frame.select(*(self._frame[f"`{name.replace('`', '``')}`"] for name in chosen))

    def read_columns(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """See `Source.read_columns`."""
        for name in names:
            with _errors(self.where):
                column = self._chosen([name]).toArrow().column(0).combine_chunks()
            yield name, as_arrays(column).copy()

    def batches(self, names: Collection[str] | None = None) -> Iterator[Batch]:
        """Yield the first rows: those that `run` reads are on the executors."""
        with _errors(self.where):
            table = self._chosen(names).limit(ROWS).toArrow().combine_chunks()
        for batch in table.to_batches():
            yield Batch(arrow_columns(batch, self._codes), batch.num_rows, 1.0)


def _work(packed: bytes, starts: Mapping[int, int], codes: Collection[str]) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return what each partition does: read its rows with a state, and return it."""

    def work(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa
        from pyspark import TaskContext

        part = TaskContext.get().partitionId()
        state, first, rows = pickle.loads(packed), starts.get(part, 0), 0  # noqa: S301 (made by the driver)
        for batch in batches:
            state.add(Batch(arrow_columns(batch, codes), batch.num_rows, 0.0), first + rows)
            rows += batch.num_rows
        columns = [
            pa.array([part], pa.int32()),
            pa.array([rows], pa.int64()),
            pa.array([pickle.dumps(state)], pa.binary()),
        ]
        yield pa.RecordBatch.from_arrays(columns, ["part", "number", "state"])

    return work


def _in_order(frame: Any, time_column: str, partitions: int) -> Any:
    """Return rows in ranges of time, sorted within; those of one time in the order in which they were read."""
    from pyspark.sql import functions

    place = "(place)"
    numbered = frame.withColumn(place, functions.monotonically_increasing_id())
    column = numbered[f"`{time_column.replace('`', '``')}`"].asc_nulls_last()
    ranges = numbered.repartitionByRange(partitions, column)
    return ranges.sortWithinPartitions(column, numbered[f"`{place}`"]).drop(place)


def _session(master: str) -> Any:
    try:
        from pyspark.sql import SparkSession
    except ModuleNotFoundError:
        detail = "Spark needs PySpark of the version of the cluster: pip install pyspark"
        raise ProfileError(f"--spark: {detail}") from None
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("model-exporter profile")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", str(ROWS))
    with database_errors(master or "Spark", []):
        try:
            session = (builder.master(master) if master else builder).getOrCreate()
            threading.Thread(target=_watch, args=(session.sparkContext,), daemon=True).start()
            return session
        except Exception as error:
            if "JAVA_GATEWAY_EXITED" in str(error):
                raise ProfileError("--spark: Spark could not start Java: it needs Java 17 or 21") from None
            if _STOPPED.search(str(error)):  # as Spark stops it where no master answers
                detail = f"the master {master or 'of the configuration'} did not accept the application"
                raise ProfileError(f"--spark: {detail}: see the messages of Spark") from None
            raise


def _watch(context: Any) -> None:
    """Stop an application that has lost all its executors, whose jobs would otherwise wait for others for ever.

    It waits for others for ``spark.network.timeout``, 120 seconds by default.
    """
    spark = context._jsc.sc()
    if spark.isLocal():
        return
    patience = spark.conf().getTimeAsSeconds("spark.network.timeout", "120s")
    known, seen = False, time.monotonic()
    while not spark.isStopped():
        executors = spark.getExecutorMemoryStatus().size() - 1  # without the driver
        known = known or executors > 0
        if executors or not known or not context.statusTracker().getActiveJobsIds():
            seen = time.monotonic()
        elif time.monotonic() - seen > patience:
            spark.stop()  # not the session of Python, which another thread is using
            return
        time.sleep(1)


@contextlib.contextmanager
def _errors(where: str) -> Iterator[None]:
    """See `database_errors`; say what an error means that follows from `_watch`."""
    try:
        with database_errors(where, []):
            yield
    except ProfileError as error:
        if _STOPPED.search(str(error)):
            raise ProfileError(f"{where}: cannot be read: Spark has lost all executors") from None
        raise
