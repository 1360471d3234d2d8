"""What a profile costs that an engine computes, against the engine's own quantiles and counts of the same columns.

``python benchmarks/engines_study.py --folder FOLDER`` makes tables of 1, 10 and 100 million rows of 30 columns, and
profiles each with DuckDB. The floor is what DuckDB alone takes for 19 approximate quantiles, mean and deviation of each
number, the counts between the quantiles, and the 50 most frequent values of each other column. All have 1.5 GB of
memory. The tables need 1.2 GB of disk: the largest is a view of ten links to the file of 10 million rows, whose numbers
and keys differ by file. ``--few`` takes four of the columns.

``--spark MASTER`` profiles the first table in Spark instead, by number of partitions. MASTER is ``local[2]`` or
``spark://HOST:PORT``; pyspark must be installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

NUMBERS = [f"n{place}" for place in range(22)]
OTHERS = [f"c{place}" for place in range(8)]
MEMORY = "1500MB"
SIZES = [1_000_000, 10_000_000, 100_000_000]
BASE = SIZES[0]
FEW_NUMBERS, FEW_OTHERS = 3, 1


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
        connection.execute(f"CREATE OR REPLACE VIEW rows{SIZES[2]} AS SELECT {columns} FROM '{links}/*.parquet'")
        connection.execute(f"CREATE OR REPLACE VIEW few{SIZES[2]} AS SELECT {few} FROM '{links}/*.parquet'")
    return path


def floor(path: Path, table: str) -> None:
    """Compute quantiles and counts with DuckDB alone."""
    import duckdb

    settings = {"memory_limit": MEMORY, "temp_directory": str(path.parent)}
    with duckdb.connect(path, read_only=True, config=settings) as connection:
        few = table.startswith("few")
        shares = [share / 20 for share in range(1, 20)]
        for name in NUMBERS[:FEW_NUMBERS] if few else NUMBERS:
            found = f"approx_quantile({name}, {shares}), avg({name}), stddev({name}), min({name}), max({name})"
            row = connection.execute(f"SELECT {found} FROM {table}").fetchone()
            edges = sorted({float(edge) for edge in row[0]})
            counts = ", ".join(f"count(*) FILTER ({name} < {edge!r}::DOUBLE)" for edge in edges)
            connection.execute(f"SELECT {counts} FROM {table}").fetchall()
        for name in OTHERS[:FEW_OTHERS] if few else OTHERS:
            connection.execute(f"SELECT {name}, count(*) n FROM {table} GROUP BY 1 ORDER BY n DESC LIMIT 50").fetchall()


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

        profile = build_table(opened, Options(), progress).profile
        print(profile.digest()[:12], f"bins {seen.get('values', start) - start:.1f} s")


def reader(path: Path, table: str) -> None:
    """Profile with the reader of files."""
    from exporter.profiles.builder import build_file

    print(build_file(path.with_name(f"{table.removeprefix('rows')}.parquet"), shuffled=True).digest()[:12])


def spark(master: str, path: Path, partitions: int) -> None:
    """Profile with Spark, by number of partitions."""
    import ibis
    from pyspark.sql import SparkSession

    from exporter.profiles.engines.build import build_table
    from exporter.profiles.engines.connection import EngineTable
    from exporter.profiles.options import Options

    session = SparkSession.builder.master(master).config("spark.sql.shuffle.partitions", partitions).getOrCreate()
    session.read.parquet(str(path)).repartition(partitions).createOrReplaceTempView("study")
    with EngineTable(master, "study", ibis.pyspark.connect(session).table("study")) as table:
        start = time.monotonic()
        profile = build_table(table, Options(), lambda *_: None).profile
        print(f"{partitions} partitions: {time.monotonic() - start:.1f} s, {profile.digest()[:12]}", flush=True)


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
    if options.spark:
        for partitions in options.partitions:
            spark(options.spark, options.folder / f"{SIZES[0]}.parquet", partitions)
        return
    for rows in options.rows:
        for part in ["engine", "floor"] if options.few or rows == SIZES[2] else PARTS:
            measure(part, path, f"{'few' if options.few else 'rows'}{rows}")


PARTS = {"engine": engine, "floor": floor, "reader": reader}

if __name__ == "__main__":
    main()
