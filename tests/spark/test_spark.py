"""Profiles of the rows of a query of Spark; ``make test-spark`` runs these tests, and ``make test`` does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyspark
import pytest
from support.paths import ROOT
from support.servers import ask, eventually, free_port

from exporter.profiles.builder import build_file
from exporter.profiles.profile import SHUFFLED, Blocks, Profile, load

ROWS = 20_000
TABLE = f"""
    SELECT *, (price + 20 * random() > 60)::INTEGER AS answer, random() AS sure FROM (
        SELECT 1700000000 + 7919 * i % {ROWS} AS at, 7919 * i % {ROWS} // 90 % 5 AS shift, random() < 0.3 AS flag,
            CASE WHEN random() < 0.05 THEN NULL WHEN random() < 0.02 THEN 'nan'::DOUBLE
                WHEN random() < 0.02 THEN 'inf'::DOUBLE ELSE exp(8 * random()) END AS skewed,
            'c' || (80 * random() * random())::INTEGER AS city, (100 * random())::DECIMAL(9, 2) AS price
        FROM range({ROWS}) rows(i))
"""
COLUMNS = ["--prediction-column=answer", "--confidence-column=sure", "--label-column=answer", "--time-column=at"]
SETTINGS = {
    "spark.driver.host": "127.0.0.1",
    "spark.executor.memory": "512m",
    "spark.sql.files.maxPartitionBytes": "200000",
    "spark.ui.enabled": "false",
}
ENVIRONMENT = {
    **os.environ,
    "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # most of the time goes into compiling
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "PYSPARK_PYTHON": sys.executable,
    "SPARK_DAEMON_MEMORY": "256m",
    "SPARK_LOCAL_IP": "127.0.0.1",
}
SPARK = Path(pyspark.__file__).parent
SECONDS = 600.0
"""How long a profile may take on a busy machine."""


class Command:
    """A running ``model-exporter profile`` in Spark.

    Parameters
    ----------
    folder
        Folder with ``training.parquet``.
    output
        The profile.
    master
        The master.
    columns
        Options of the command; `COLUMNS` when empty.
    settings
        Settings of Spark beside `SETTINGS`.
    """

    def __init__(self, folder: Path, output: Path, master: str, *columns: str, **settings: Any) -> None:
        query = f"SELECT * FROM parquet.`{folder / 'training.parquet'}`"
        options = [f"--sql={query}", f"--spark={master}", f"--output={output}", *(columns or COLUMNS)]
        configuration = output.parent / "configuration"
        configuration.mkdir()
        lines = [f"{name} {value}\n" for name, value in (SETTINGS | settings).items()]
        (configuration / "spark-defaults.conf").write_text("".join(lines))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "exporter.cli", "profile", *options],
            cwd=folder,
            env={**ENVIRONMENT, "SPARK_CONF_DIR": str(configuration)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str]:
        """Wait for its end; return the exit status and what it wrote to standard error."""
        try:
            _, errors = self.process.communicate(timeout=SECONDS)
        finally:
            self.process.kill()
        return self.process.returncode, errors


class Cluster:
    """A standalone master and two workers, each in a session of its own with the executors that it starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        port, self._page = free_port(), free_port()
        self.master = f"127.0.0.1:{port}"
        at = ["--host=127.0.0.1", f"--port={port}", f"--webui-port={self._page}"]
        self._master = self._start("master.Master", *at)
        self.workers: list[subprocess.Popen[bytes]] = []
        try:
            eventually(lambda: self._state() is not None, seconds=SECONDS)
            for name in ("one", "two"):
                at = ["--host=127.0.0.1", "--webui-port=0", f"--work-dir={folder / name}"]
                self.workers.append(
                    self._start("worker.Worker", *at, "--cores=1", "--memory=600m", f"spark://{self.master}")
                )
            eventually(lambda: (self._state() or {}).get("aliveworkers") == 2, seconds=SECONDS)
        except BaseException:
            self.stop()
            raise

    def _start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        words = [word for option in options for word in option.split("=")]
        with (self._folder / "cluster.log").open("ab") as log:
            return subprocess.Popen(
                [SPARK / "bin" / "spark-class", f"org.apache.spark.deploy.{name}", *words],
                cwd=self._folder, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _state(self) -> dict[str, Any] | None:
        try:
            return ask(f"http://127.0.0.1:{self._page}/json/").json
        except (OSError, ValueError):  # it is starting
            return None

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End a worker with its executors, or the master, as a machine that fails."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in (*self.workers, self._master):
            if process.poll() is None:
                self.end(process)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``training.parquet``."""
    path = tmp_path_factory.mktemp("spark")
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SELECT setseed(0.5)")
        connection.execute(f"COPY ({TABLE}) TO '{path / 'training.parquet'}' (ROW_GROUP_SIZE 4096)")
    return path


@pytest.fixture(scope="module")
def expected(folder: Path) -> Profile:
    """The profile of the same rows in a file that is sorted by time."""
    with duckdb.connect() as connection:
        source, target = folder / "training.parquet", folder / "sorted.parquet"
        connection.execute(f"COPY (FROM '{source}' ORDER BY \"at\") TO '{target}'")
    profile = build_file(
        target, prediction_column="answer", confidence_column="sure", label_column="answer", time_column="at"
    )
    assert profile.blocks.targets["shift"].dependent
    assert profile.blocks.correlation
    return profile


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A standalone cluster; the last tests end one of its workers, and then all of it."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


def statistics(profile: Profile) -> Profile:
    return msgspec.structs.replace(profile, name="", created=None, hash="")


def test_local_spark_gives_the_profile_of_the_file(folder, expected, tmp_path):
    """With ``local[2]`` all statistics are equal to the last digit, though the rows were not sorted."""
    status, errors = Command(folder, tmp_path / "spark.json", "local[2]").end()
    assert status == 0, errors
    assert statistics(load(tmp_path / "spark.json")) == statistics(expected)


def test_rows_without_a_time_have_no_order(folder, expected, tmp_path):
    """Bins are those of the file; nothing is said of successive rows."""
    columns = ["--prediction-column=answer", "--confidence-column=sure", "--ignore=at"]
    status, errors = Command(folder, tmp_path / "spark.json", "local[2]", *columns).end()
    assert status == 0, errors
    found = load(tmp_path / "spark.json")
    assert found.targets() == expected.targets()
    assert found.blocks == Blocks(SHUFFLED)


def test_a_mistake_in_a_query_is_one_line(folder, tmp_path):
    """The message of Spark is the last line, and no profile is written."""
    (tmp_path / "none").mkdir()
    status, errors = Command(tmp_path / "none", tmp_path / "spark.json", "local[1]").end()
    assert status == 1
    assert errors.splitlines()[-1].startswith("model-exporter: local[1]: cannot be read: [")


def test_a_cluster_gives_the_profile_of_the_file(folder, expected, tmp_path, cluster):
    """So it is on a standalone master with two workers."""
    status, errors = Command(folder, tmp_path / "spark.json", f"spark://{cluster.master}").end()
    assert status == 0, errors
    assert statistics(load(tmp_path / "spark.json")) == statistics(expected)


def jobs(page: int) -> int:
    """Return how many jobs of the application with this page have ended."""
    try:
        (application,) = ask(f"http://127.0.0.1:{page}/api/v1/applications").json
        return len(ask(f"http://127.0.0.1:{page}/api/v1/applications/{application['id']}/jobs?status=succeeded").json)
    except (OSError, ValueError):
        return 0


@pytest.fixture
def running(folder: Path, tmp_path: Path, cluster: Cluster) -> Command:
    """A command in the middle of its work on the cluster."""
    page = free_port()
    settings = {"spark.ui.enabled": "true", "spark.ui.port": page, "spark.network.timeout": "60s"}
    command = Command(folder, tmp_path / "spark.json", f"spark://{cluster.master}", **settings)
    eventually(lambda: jobs(page) >= 3 or command.process.poll() is not None, seconds=SECONDS)
    if command.process.poll() is not None:
        pytest.fail(command.end()[1])
    return command


def test_a_cluster_that_loses_a_worker_gives_the_same_profile(expected, tmp_path, cluster, running):
    """Spark repeats on the other worker what the lost one had."""
    cluster.end(cluster.workers[0])
    status, errors = running.end()
    assert status == 0, errors
    assert statistics(load(tmp_path / "spark.json")) == statistics(expected)


def test_a_cluster_that_is_lost_is_an_error(tmp_path, cluster, running):
    """Without executors the command ends, and writes no profile."""
    cluster.stop()
    status, errors = running.end()
    assert status == 1
    assert errors.splitlines()[-1].endswith(": cannot be read: Spark has lost all executors")
    assert not (tmp_path / "spark.json").exists()
