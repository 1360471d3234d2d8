"""What a profile costs that an engine computes, against the engine's own quantiles and counts of the same columns.

``python benchmarks/engines_study.py --folder FOLDER`` makes tables of 1, 10 and 100 million rows of 30 columns, and
profiles each with DuckDB. The floor is what DuckDB alone takes for 19 approximate quantiles, mean and deviation of each
number, the counts between the quantiles, and the 50 most frequent values of each other column. All have 1.5 GB of
memory. The tables need 1.2 GB of disk: the largest is a view of ten links to the file of 10 million rows, whose numbers
and keys differ by file. ``--few`` takes four of the columns. ``--timed`` takes a column of times with them, and counts
blocks of successive rows; the floor then sorts the bins by time, too, and counts them by thousand rows.

``--spark MASTER`` profiles the first table in Spark instead, by number of partitions, and the floor is that of Spark.
MASTER is ``local[2]`` or ``spark://HOST:PORT``; pyspark must be installed. It goes with ``--few`` and ``--timed``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUMBERS = [f"n{place}" for place in range(22)]
OTHERS = [f"c{place}" for place in range(8)]
MEMORY = "1500MB"
SIZES = [1_000_000, 10_000_000, 100_000_000]
BASE = SIZES[0]
FEW_NUMBERS, FEW_OTHERS = 3, 1
SHARES = [share / 20 for share in range(1, 20)]
SORTED = "CREATE TEMPORARY TABLE study_sorted"


def table_sql(rows: int) -> str:
    """Return a query of so many rows of 30 columns: 22 of numbers of several shapes, and 8 of categories and truths."""
    shapes = (
        "round(sqrt(-2 * ln(random() + 1e-12)) * cos(6.283185 * random()), 4)",
        "round(exp(2 * random() + random()), 3)",
        "(1000 * random() * random())::INTEGER",
        "CASE WHEN random() < 0.03 THEN NULL ELSE round(-ln(random() + 1e-9), 3) END",
        "CASE WHEN random() < 0.6 THEN 0 ELSE round(100 * random(), 1) END",
    )
    numbers = [f"{shapes[place % len(shapes)]} AS {name}" for place, name in enumerate(NUMBERS)]
    others = [
        f"random() < 0.{place + 1} AS {name}"
        if place % 4 == 3
        else f"'v' || ({10 ** (place + 1)} * random()^3)::BIGINT AS {name}"
        for place, name in enumerate(OTHERS[:-1])
    ]
    others.append(f"'k' || ({rows} * random())::BIGINT AS {OTHERS[-1]}")
    return f"SELECT {', '.join([*numbers, *others])} FROM range({rows})"


def write_table(path: Path, rows: int) -> None:
    """Write the table, unless it is there. A large one repeats a million rows with other numbers and keys."""
    import duckdb

    query = table_sql(rows)
    if rows > BASE:
        base = path.with_name(f"{BASE}.parquet")
        write_table(base, BASE)
        numbers = [f"{name} + j * 0.0001 AS {name}" for name in NUMBERS]
        columns = ", ".join([*numbers, *OTHERS[:-1], f"{OTHERS[-1]} || (j % 10) AS {OTHERS[-1]}"])
        query = f"SELECT {columns} FROM range({rows // BASE}) times(j), '{base}'"
    if not path.exists():
        with duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": f"{path}.tmp"}) as connection:
            connection.execute("SET preserve_insertion_order = false")
            connection.execute(f"COPY ({query}) TO '{path}'")


def make_tables(folder: Path) -> Path:
    """Return a database with a view of each size."""
    import duckdb

    folder.mkdir(parents=True, exist_ok=True)
    for rows in SIZES[:2]:
        write_table(folder / f"{rows}.parquet", rows)
    links = folder / "links"
    links.mkdir(exist_ok=True)
    for place in range(SIZES[2] // SIZES[1]):
        if not (link := links / f"{place}.parquet").exists():
            link.hardlink_to(folder / f"{SIZES[1]}.parquet")
    numbers = [f"{name} + file_index * 0.00001 AS {name}" for name in NUMBERS]
    columns = ", ".join([*numbers, *OTHERS[:-1], f"{OTHERS[-1]} || file_index AS {OTHERS[-1]}"])
    few = ", ".join([*numbers[:FEW_NUMBERS], *OTHERS[:FEW_OTHERS]])
    path = folder / "study.db"
    with duckdb.connect(path) as connection:
        for rows in SIZES[:2]:
            file = folder / f"{rows}.parquet"
            connection.execute(f"CREATE OR REPLACE VIEW rows{rows} AS SELECT * FROM '{file}'")
            few_here = ", ".join([*NUMBERS[:FEW_NUMBERS], *OTHERS[:FEW_OTHERS]])
            connection.execute(f"CREATE OR REPLACE VIEW few{rows} AS SELECT {few_here} FROM '{file}'")
            connection.execute(
                f"CREATE OR REPLACE VIEW timed{rows} AS SELECT {few_here}, "
                f"(7919 * file_row_number % {rows})::DOUBLE AS arrived "
                f"FROM read_parquet('{file}', file_row_number = true)"
            )
        connection.execute(f"CREATE OR REPLACE VIEW rows{SIZES[2]} AS SELECT {columns} FROM '{links}/*.parquet'")
        connection.execute(f"CREATE OR REPLACE VIEW few{SIZES[2]} AS SELECT {few} FROM '{links}/*.parquet'")
    return path


def floor_queries(run: Callable[[str], list[Any]], quantiles: str, table: str) -> None:
    """Compute quantiles and counts in plain SQL, and counts of blocks of a table with times."""
    few = not table.startswith("rows")
    bins = []
    for name in NUMBERS[:FEW_NUMBERS] if few else NUMBERS:
        found = f"{quantiles.format(name)}, avg({name}), stddev({name}), min({name}), max({name})"
        edges = sorted({float(edge) for edge in run(f"SELECT {found} FROM {table}")[0][0]})
        above = [f"{name} < CAST({edge!r} AS DOUBLE)" for edge in edges]
        run(f"SELECT {', '.join(f'count(*) FILTER (WHERE {part})' for part in above)} FROM {table}")
        bins.append(" + ".join(f"CAST({part} AS TINYINT)" for part in above))
    for name in OTHERS[:FEW_OTHERS] if few else OTHERS:
        top = run(f"SELECT {name}, count(*) n FROM {table} GROUP BY 1 ORDER BY n DESC LIMIT 50")
        cases = (f"WHEN {name} = '{row[0]}' THEN {index}" for index, row in enumerate(top))
        bins.append(f"CASE {' '.join(cases)} END")
    if table.startswith("timed"):
        columns = ", ".join(f"{part} AS b{index}" for index, part in enumerate(bins))
        block = "CAST(floor((row_number() OVER (ORDER BY arrived) - 1) / 1000) AS BIGINT)"
        run(f"{SORTED} AS SELECT {block} AS block, {columns} FROM {table}")
        for index in range(len(bins)):
            run(f"SELECT count(*) FROM (SELECT block, b{index}, count(*) FROM study_sorted GROUP BY 1, 2)")


def floor(path: Path, table: str) -> None:
    """Compute quantiles and counts with DuckDB alone."""
    import duckdb

    settings = {"memory_limit": MEMORY, "temp_directory": str(path.parent)}
    with duckdb.connect(path, read_only=True, config=settings) as connection:
        floor_queries(lambda sql: connection.execute(sql).fetchall(), f"approx_quantile({{}}, {SHARES})", table)


def engine(path: Path, table: str) -> None:
    """Profile with DuckDB."""
    from exporter.profiles.engines.build import build_table
    from exporter.profiles.engines.connection import open_table
    from exporter.profiles.options import Options

    with open_table(f"duckdb:///{path}", table, None) as opened:
        start = time.monotonic()
        seen = {"": start}

        def progress(step: str, *_: float) -> None:
            seen[step] = time.monotonic()

        options = Options(time_column="arrived" if table.startswith("timed") else None)
        profile = build_table(opened, options, progress).profile
        print(profile.digest()[:12], f"bins {seen.get('values', start) - start:.1f} s")


def reader(path: Path, table: str) -> None:
    """Profile with the reader of files."""
    from exporter.profiles.builder import build_file

    print(build_file(path.with_name(f"{table.removeprefix('rows')}.parquet"), shuffled=True).digest()[:12])


def spark(master: str, path: Path, partitions: int, table: str) -> None:
    """Profile with Spark, and compute the floor there, by number of partitions."""
    import ibis
    from pyspark.sql import SparkSession

    from exporter.profiles.engines.build import build_table
    from exporter.profiles.engines.connection import EngineTable
    from exporter.profiles.options import Options

    session = SparkSession.builder.master(master).config("spark.sql.shuffle.partitions", partitions).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    rows = session.read.parquet(str(path)).repartition(partitions)
    if not table.startswith("rows"):
        names = [*NUMBERS[:FEW_NUMBERS], *OTHERS[:FEW_OTHERS]]
        times = [f"pmod(xxhash64({', '.join(names)}), {BASE}) AS arrived"] if table.startswith("timed") else []
        rows = rows.selectExpr(*names, *times)
    rows.createOrReplaceTempView(table)
    options = Options(time_column="arrived" if table.startswith("timed") else None)

    def run(sql: str) -> list[Any]:
        if sql.startswith(SORTED):
            session.sql(sql.partition(" AS ")[2]).cache().createOrReplaceTempView("study_sorted")
            return []
        return session.sql(sql).collect()

    with EngineTable(master, table, ibis.pyspark.connect(session).table(table)) as opened:
        session.sql(f"SELECT count(*) FROM {table}").collect()  # the executors have started
        start = time.monotonic()
        profile = build_table(opened, options, lambda *_: None).profile
        profiled = time.monotonic()
        floor_queries(run, f"percentile_approx({{}}, array({', '.join(map(str, SHARES))}))", table)
        found = f"profile {profiled - start:.1f} s, floor {time.monotonic() - profiled:.1f} s"
        print(f"{table} {partitions} partitions: {found}, {profile.digest()[:12]}", flush=True)


def measure(part: str, path: Path, table: str) -> None:
    """Run one part in a process of its own, and print its seconds and its memory."""
    command = [sys.executable, __file__, "--part", part, "--table", table, "--folder", str(path.parent)]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    seconds, used = time.monotonic() - start, usage.ru_utime + usage.ru_stime
    print(
        f"{table} {part}: {seconds:.1f} s, processors {used:.1f} s, {usage.ru_maxrss / 1024:.0f} MiB, "
        f"status {status}, {out.strip()}",
        flush=True,
    )


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--few", action="store_true", help="four of the columns instead of all thirty")
    parser.add_argument("--timed", action="store_true", help="these and a column of times")
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--table")
    parser.add_argument("--spark", metavar="MASTER")
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    path = options.folder / "study.db"
    if options.part:
        PARTS[options.part](path, options.table)
        return
    make_tables(options.folder)
    kind = "timed" if options.timed else "few" if options.few else "rows"
    if options.spark:
        for partitions in options.partitions:
            spark(options.spark, options.folder / f"{BASE}.parquet", partitions, f"{kind}{BASE}")
        return
    for rows in options.rows:
        for part in PARTS if kind == "rows" and rows < SIZES[2] else ["engine", "floor"]:
            measure(part, path, f"{kind}{rows}")


PARTS = {"engine": engine, "floor": floor, "reader": reader}

if __name__ == "__main__":
    main()
