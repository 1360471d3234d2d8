"""Profiles of the rows of a query: of DuckDB, SQLite and PostgreSQL, equal to those of a file with the same rows."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import psycopg
import pytest
from support.postgres import Postgres
from support.processes import Run

from exporter.cli import main
from exporter.errors import ProfileError
from exporter.profiles.builder import Options, build, build_file
from exporter.profiles.profile import SHUFFLED, Profile, load
from exporter.profiles.sources.queries import QuerySource

ROWS = 20_000
TABLE = f"""
    SELECT i AS place, to_timestamp(1700000000 + 60 * i)::TIMESTAMP AS at,
        sqrt(-2 * ln(random() + 1e-12)) * cos(6.283 * random()) AS normal,
        CASE WHEN random() < 0.05 THEN NULL ELSE exp(8 * random()) END AS skewed,
        (10 * random())::INTEGER AS digit, random() < 0.3 AS flag, 7 AS constant,
        'c' || (80 * random() * random())::INTEGER AS city, i // 90 % 5 AS shift,
        (100 * random())::DECIMAL(9, 2) AS price, random()::FLOAT AS single,
        (random() < 0.4)::INTEGER AS answer, random() AS sure, (random() < 0.4)::INTEGER AS label
    FROM range({ROWS}) rows(i)
"""
OUTPUTS: dict[str, Any] = {
    "prediction_column": "answer",
    "confidence_column": "sure",
    "time_column": "at",
    "label_column": "label",
    "ignore": ["place"],
}
QUERY = "SELECT * FROM training ORDER BY place"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same rows as ``training.parquet`` and in ``training.db``."""
    path = tmp_path_factory.mktemp("sql")
    with duckdb.connect(path / "training.db", config={"threads": 1}) as connection:  # the same rows each time
        connection.execute("SELECT setseed(0.5)")
        connection.execute(f"CREATE TABLE training AS {TABLE}")
        connection.execute(f"COPY (FROM training ORDER BY place) TO '{path / 'training.parquet'}'")
    return path


@pytest.fixture(scope="module")
def expected(folder: Path) -> Profile:
    """The profile of the file."""
    profile = build_file(folder / "training.parquet", **OUTPUTS)
    assert profile.features["single"].precision == "single"
    assert profile.blocks.targets["shift"].dependent
    assert profile.correlation
    assert profile.quality
    return profile


def profile_of(url: str, query: str = QUERY, **options: Any) -> Profile:
    """The profile of a query."""
    chosen = Options(**{**OUTPUTS, **options})
    return build(QuerySource(url, query, chosen.known_types()), chosen)


def statistics(profile: Profile) -> Profile:
    return msgspec.structs.replace(profile, name="", created=None, hash="")


def test_a_table_of_duckdb_has_the_profile_of_the_file(folder: Path, expected: Profile) -> None:
    """All statistics are equal to the last digit, and the columns have the order of the query."""
    found = profile_of(f"duckdb:///{folder / 'training.db'}")
    assert statistics(found) == statistics(expected)
    assert found.input_names == ("normal", "skewed", "digit", "flag", "constant", "city", "shift", "price", "single")


def test_a_table_of_postgresql_has_the_profile_of_the_file(folder: Path, expected: Profile, postgres: Postgres) -> None:
    """Numbers of any width, decimals, booleans and times are those of the file."""
    url = postgres.url()
    with duckdb.connect(folder / "training.db", read_only=True) as source:
        source.execute(f"COPY (FROM training ORDER BY place) TO '{folder / 'training.csv'}' (HEADER)")
    with psycopg.connect(url) as connection:
        connection.execute(
            "CREATE TABLE training (place int, at timestamp, normal float8, skewed float8, digit int, flag boolean, "
            "constant smallint, city text, shift bigint, price numeric(9, 2), single real, answer int, sure float8, "
            "label int)"
        )
        with connection.cursor() as cursor, cursor.copy("COPY training FROM STDIN (FORMAT csv, HEADER)") as copy:
            copy.write((folder / "training.csv").read_bytes())
        connection.commit()
    found = profile_of(url)
    assert [name for name, feature in found.targets().items() if feature != expected.targets()[name]] == []
    assert statistics(found) == statistics(expected)


def test_a_table_of_sqlite_has_the_profile_of_the_file(tmp_path: Path) -> None:
    """SQLite has numbers and texts."""
    rows = [(place, place * 1.1 % 7, f"c{place % 5}", 1.7e9 + place) for place in range(3000)]
    with contextlib.closing(sqlite3.connect(tmp_path / "training.sqlite")) as connection:
        connection.execute("CREATE TABLE training (place integer, ratio real, city text, at real)")
        connection.executemany("INSERT INTO training VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    (tmp_path / "training.csv").write_text(
        "place,ratio,city,at\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    )
    options = {"time_column": "at", "ignore": ["place"]}
    found = build(QuerySource(f"sqlite:///{tmp_path / 'training.sqlite'}", QUERY, {}), Options(**options))
    assert statistics(found) == statistics(build_file(tmp_path / "training.csv", **options))


def test_a_sample_is_a_random_share_without_an_order(folder: Path) -> None:
    """The same rows are chosen each time; nothing is said of successive ones."""
    url, chosen = f"duckdb:///{folder / 'training.db'}", Options(shuffled=True, ignore=["at"])
    found = [build(QuerySource(url, QUERY, {}, sample=0.1), chosen) for _ in range(2)]
    assert statistics(found[0]) == statistics(found[1])
    assert 1850 < found[0].rows < 2150
    assert found[0].blocks.order == SHUFFLED
    assert found[0].features["normal"].mean == pytest.approx(0, abs=0.1)


def test_types_that_no_input_has_are_left_out_with_a_warning(postgres: Postgres, tmp_path: Path, run: Run) -> None:
    """A network address, an interval and an array of records are named; enumerations and identifiers are texts."""
    url, output = postgres.url(), tmp_path / "types.json"
    query = (
        "SELECT n, n::numeric / 3 AS third, ('{a,b}'::text[])[1 + n % 2] AS letter, interval '1 day' * n AS gap, "
        "md5(n::text)::uuid AS key, NULL AS nothing FROM generate_series(1, 300) AS n"
    )
    error = run("profile", f"--sql={query}", f"--database={url}", f"--output={output}", "--ignore=key").err
    assert "gap: has the type" in error
    assert load(output).inputs == {
        "n": "numeric",
        "third": "numeric",
        "letter": "categorical",
        "nothing": "numeric",
    }


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://u:s3cret/x@host/a", "--database: is not a URL such as duckdb:///"),
        ("postgresql://u:12#s3cret@host/a", "--database: has an @ after the host: pass a password"),
        ("training.db", "--database: expected a URL such as"),
        ("duckdb:///none.db", "none.db: there is no such file"),
        ("nowhere://host/a", "profile: --database needs adbc-driver-nowhere: pip install"),
        ("postgresql://u:s3cret@127.0.0.1:1/none", "postgresql://127.0.0.1:1/none: cannot be read: "),
    ],
)
def test_what_is_wrong_with_a_database_is_said_without_its_password(
    url: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each mistake is one line, and no file is written."""
    status = main(["profile", "--sql=SELECT 1", f"--database={url}", f"--output={tmp_path / 'p.json'}"])
    error = capsys.readouterr().err
    assert status > 0
    assert message in error
    assert error.count("\n") == 1
    assert "s3cret" not in error
    assert not [*tmp_path.iterdir()]


def test_a_mistake_in_a_query_is_one_line(folder: Path, postgres: Postgres) -> None:
    """The message is that of the database."""
    for url in (f"duckdb:///{folder / 'training.db'}", postgres.url()):
        with pytest.raises(ProfileError, match=r"cannot be read: .*trainings"):
            QuerySource(url, "SELECT * FROM trainings", {})
