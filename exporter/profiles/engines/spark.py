"""Sessions of Spark."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import ibis

from exporter.errors import ProfileError


def connect_spark(host: str, options: Mapping[str, str]) -> Any:
    """Return a backend of Ibis with a session of Spark; see `spark_settings`.

    Raises
    ------
    ProfileError
        When PySpark or Java is missing, or no master takes the application.
    """
    try:
        from pyspark.sql import SparkSession
    except ModuleNotFoundError:
        detail = "Spark needs PySpark of the version of the cluster: pip install pyspark"
        raise ProfileError(f"--database: {detail}") from None
    settings = spark_settings(host, options)
    try:
        session = SparkSession.builder.config(map=settings).getOrCreate()
    except Exception as error:
        if "JAVA_GATEWAY_EXITED" in str(error):
            raise ProfileError("--database: Spark could not start Java: it needs Java 17 or 21") from None
        if "stopped SparkContext" not in str(error):  # as Spark stops it where no master answers
            raise
        master = settings.get("spark.master", "the configured one")
        detail = f"the master {master} did not accept the application: see the messages of Spark"
        raise ProfileError(f"--database: {detail}") from None
    threading.Thread(target=_watch, args=(session.sparkContext,), daemon=True).start()
    return ibis.pyspark.connect(session)


def spark_settings(host: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a Spark session.

    Parameters
    ----------
    host
        Host and port of a standalone master; empty where ``options``, ``spark-defaults.conf`` or Spark's default names
        the master.
    options
        Other settings, which come first.
    """
    master = {"spark.master": f"spark://{host}"} if host else {}
    return {"spark.ui.showConsoleProgress": "false", **master, **options}


def spark_error(text: str) -> str | None:
    """Return what an error means that follows from `_watch`; None for another error."""
    stopped = "SparkContext was shut down", "stopped SparkContext"
    return "Spark has lost all executors" if any(words in text for words in stopped) else None


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
