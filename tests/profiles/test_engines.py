from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import ibis
import numpy as np
import psycopg
import pytest
import sqlglot

from exporter.cli import main
from exporter.errors import ProfileError
from exporter.profiles.builder import build_file
from exporter.profiles.engines import order
from exporter.profiles.engines.build import build_table
from exporter.profiles.engines.connection import EngineTable, open_file, open_table
from exporter.profiles.engines.expressions import row_hash
from exporter.profiles.engines.numeric_bins import PARTS
from exporter.profiles.engines.spark import spark_settings
from exporter.profiles.options import Options
from exporter.profiles.profile import CategoricalFeature, NumericFeature, Profile
from exporter.profiles.profile_file import load

ROWS = 20_000
TABLE = f"""
    SELECT 1700000000 + (7919 * i) % {ROWS} AS at,
        sqrt(-2 * ln(random() + 1e-12)) * cos(6.283 * random()) AS normal,
        CASE WHEN random() < 0.05 THEN NULL ELSE exp(8 * random()) END AS skewed,
        CASE WHEN random() < 0.02 THEN 'nan'::DOUBLE WHEN random() < 0.02 THEN 'inf'::DOUBLE
            ELSE random() END AS faulty,
        (10 * random())::INTEGER AS digit, random() < 0.3 AS flag, 7 AS constant,
        CASE WHEN i = 0 THEN 1e300 ELSE random() END AS outlier,
        'c' || (80 * random() * random())::INTEGER AS city, 7919 * i % {ROWS} // 90 % 5 AS shift,
        (100 * random())::DECIMAL(9, 2) AS price, random()::FLOAT AS single,
        (random() < 0.4)::INTEGER AS answer, random() AS sure
    FROM range({ROWS}) rows(i)
"""
OUTPUTS = {"prediction_column": "answer", "confidence_column": "sure", "time_column": "at"}


def build(table: EngineTable, **options: object) -> Profile:
    """The profile of a table, with the options of `Options`."""
    with table:
        return build_table(table, Options(**options), lambda *_: None).profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same table as ``training.parquet`` and in ``training.db``."""
    path = tmp_path_factory.mktemp("engines")
    with duckdb.connect(path / "training.db", config={"threads": 1}) as connection:  # the same rows each time
        connection.execute("SELECT setseed(0.5)")
        connection.execute(f"CREATE TABLE training AS {TABLE}")
        connection.execute(f"COPY training TO '{path / 'training.parquet'}'")
    return path


def agrees(found: NumericFeature | CategoricalFeature, expected: NumericFeature | CategoricalFeature) -> bool:
    """Whether bins are those of the file: the same categories, or the same shares of the numbers within the error."""
    if isinstance(expected, CategoricalFeature):
        return found == expected
    assert isinstance(found, NumericFeature)
    error = 2 * sum(expected.counts[:-2]) / 20 / PARTS + 1
    same = found.counts[-2:] == expected.counts[-2:] and np.allclose(
        *((bins.min, bins.max, bins.mean, bins.stddev) for bins in (found, expected)),
        rtol=1e-6,
        atol=1e-6 * (expected.stddev or 1),
    )
    return same and bool(np.abs(np.subtract(found.counts, expected.counts)).max() <= error)


def test_a_table_has_the_profile_of_the_file(folder):
    """Bins agree within the stated error, and all else to the last row; the same table gives the same profile twice."""
    expected = build_file(folder / "training.parquet", **OUTPUTS)
    table = open_table(f"duckdb:///{folder / 'training.db'}", "training", None)
    found = build(table, **OUTPUTS)
    assert found.inputs == expected.inputs
    assert [*found.targets()] == [*expected.targets()]
    assert [name for name, bins in found.targets().items() if not agrees(bins, expected.targets()[name])] == []
    assert found.features["single"].precision == "single"
    assert found.correlation.features == expected.correlation.features
    assert np.abs(np.subtract(found.correlation.values, expected.correlation.values)).max() < 1e-3
    assert found.correlation.scale == pytest.approx(expected.correlation.scale, abs=0.2)
    assert (found.blocks.order, found.blocks.sizes, found.blocks.times) == (
        "time",
        expected.blocks.sizes,
        expected.blocks.times,
    )
    for name, scores in expected.blocks.targets.items():
        if isinstance(expected.targets()[name], CategoricalFeature):
            assert found.blocks.targets[name] == scores
        else:
            assert np.allclose(found.blocks.targets[name].quantiles, scores.quantiles, rtol=0.3)
    assert [name for name, scores in found.blocks.targets.items() if scores.dependent] == ["shift"]
    assert build(open_file(folder / "training.parquet"), **OUTPUTS).digest() == found.digest()


def test_postgresql_gives_the_same_bins_as_duckdb(folder, postgres, monkeypatch):
    """Engines agree on each edge, count and moment; a name may have capitals, spaces, quotes and a schema.

    Blocks are the same whether the rows are sorted at once or in parts.
    """
    url = postgres.url()
    with duckdb.connect(folder / "training.db", read_only=True) as connection:
        rows = connection.execute("SELECT * FROM training").fetchall()
        names = [column[0] for column in connection.description]
    types = {
        "flag": "boolean",
        "city": "text",
        "price": "numeric(9, 2)",
        "normal": "numeric",
        "single": "real",
        "digit": "int",
        "answer": "int",
        "at": "bigint",
        "shift": "int",
    }
    columns = ", ".join(f'"{name}" {types.get(name, "double precision")}' for name in names)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA lake; CREATE TABLE lake."The ""Table""" ({columns})')
        with connection.cursor().copy('COPY lake."The ""Table""" FROM STDIN') as copy:
            for row in rows:
                copy.write_row(row)
    expected = build(open_file(folder / "training.parquet"), **OUTPUTS)
    monkeypatch.setattr(order, "PART", 1_000)
    found = build(open_table(url, 'lake.The "Table"', None), **OUTPUTS)
    assert (found.targets(), found.blocks) == (expected.targets(), expected.blocks)


def test_types_of_postgresql_are_read_left_out_or_named_in_the_error(postgres, tmp_path, capsys):
    """Enumerations are categories, infinite times are invalid, domains are what they are based on; others are named."""
    url, output = postgres.url(), tmp_path / "types.json"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("""
            CREATE TYPE mood AS ENUM ('good', 'bad');
            CREATE DOMAIN price AS numeric(9, 2) CHECK (VALUE >= 0);
            CREATE DOMAIN "Sale" AS price;
            CREATE DOMAIN kind AS varchar(9);
            CREATE DOMAIN spans AS int4range;
            CREATE TABLE types AS SELECT i % 50 AS n, (i % 70)::"Sale" AS sale, ('k' || i % 3)::kind AS kind,
                int4range(i, i + 2)::spans AS spans, (CASE WHEN i % 4 = 0 THEN 'good' ELSE 'bad' END)::mood AS mood,
                CASE WHEN i % 8 = 0 THEN 'infinity' ELSE '2026-01-01' END::timestamptz AS at,
                i::numeric::money AS paid, int4range(i, i + 2) AS span, 'pg_class'::regclass AS object, i::oid AS row
                FROM generate_series(0, 399) i;
            CREATE SCHEMA "my.lake";
            CREATE MATERIALIZED VIEW "my.lake"."t.1" AS SELECT n, mood FROM types;
            CREATE TABLE objects AS SELECT object FROM types;
            CREATE VIEW vast AS SELECT n, CASE WHEN row_number() OVER () > 1000 THEN 10.0 ^ 400 END AS v
                FROM types, generate_series(1, 3);
            CREATE TABLE bare ();
        """)
    command = ["profile", f"--database={url}", f"--output={output}"]
    assert main([*command, "--table=types"]) == 0
    printed = capsys.readouterr().err
    assert "paid: cannot be read, and is left out: cannot cast type money to double precision: cast it" in printed
    for name, kind in {"span": "INT4RANGE", "spans": "INT4RANGE", "object": "regclass", "row": "oid"}.items():
        assert f"{name}: has the type {kind}, which no input has, and is left out: set --ignore={name}" in printed
    assert main([*command, "--table=types", "--ignore=paid"]) == 0
    assert "paid" not in capsys.readouterr().err
    features = load(output).features
    assert (features["mood"].categories, features["mood"].counts[:2]) == (("bad", "good"), (300, 100))
    assert features["at.age_seconds"].counts[-2:] == (0, 50)
    assert (features["sale"].max, features["kind"].categories) == (69.0, ("k0", "k1", "k2"))
    assert main([*command, "--table=my.lake.t.1"]) == 0
    assert {*load(output).features} == {"n", "mood"}
    for options, message in {
        "--table=types --prediction-column=paid": '"paid" has the type decimal(19, 4), and cannot be read: cannot cast',
        "--table=vast": 'vast: "v" cannot be read: "1000',
        "--table=bare": "bare: has no columns",
        "--table=objects": 'objects: has no input: "object" has the type regclass, which no input has',
        "--table=my.lake.t.2": 'has no table "my.lake.t.2"; did you mean "t.1"?',
    }.items():
        assert main([*command, *options.split()]) == 1
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a database with tables that are unusual."""
    path = tmp_path_factory.mktemp("odd") / "odd.db"
    with duckdb.connect(path) as connection:
        connection.execute("""
            CREATE TABLE empty (x DOUBLE);
            CREATE TABLE "a ""b"" c" AS SELECT i AS "the ""x", {'a': i} AS nested, i % 3 || ' o''clock' AS "c'd",
                TIMESTAMP '2026-01-01' + INTERVAL (i) HOUR AS made, DATE '2026-02-01' AS arrived,
                NULL::DOUBLE AS nothing, NULL::VARCHAR AS blank, NULL::BOOLEAN AS "no flag",
                union_value(number := i) AS mixed, CASE WHEN i = 0 THEN 'infinity'::TIMESTAMP WHEN i = 1
                    THEN TIMESTAMP '20000-01-01' ELSE TIMESTAMP '2026-02-01' - INTERVAL (i) DAY END AS "far",
                'a long text of many words ' || i AS note, 'NaN'::DOUBLE AS nan
                FROM range(400) rows(i);
            CREATE TABLE wide AS SELECT 'k' || least(i, 290000) AS key,
                1.7976931348623157e308 * (i % 2 * 2 - 1) AS huge,
                1e-310 * (i % 5) AS tiny FROM range(300000) rows(i);
            CREATE TABLE ids AS SELECT (18446744073709551614 + (i % 2)::UBIGINT)::UBIGINT AS id FROM range(300) rows(i);
        """)
    return f"duckdb:///{path}"


def test_a_table_of_unusual_columns_is_profiled(odd, tmp_path, capsys):
    """Quotes are only names; times have an age; columns of other types are left out with a message.

    A column without any value is numeric whatever its type, as it is in a file.
    """
    output = tmp_path / "odd.json"
    command = ["profile", '--table=a "b" c', f"--database={odd}", f"--output={output}", "--time-column=arrived"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert (
        "nested: has the type struct<a: int64>, which no input has, and is left out: set --ignore=nested" in printed.err
    )
    assert "mixed: has the type UNION<number BIGINT>, which no input has, and is left out" in printed.err
    assert "note: holds text values of the type string, and is left out: set --type=note=categorical" in printed.err
    profile = load(output)
    assert profile.inputs == {
        'the "x': "numeric",
        "c'd": "categorical",
        "made": "timestamp",
        "nothing": "numeric",
        "blank": "numeric",
        "no flag": "numeric",
        "far": "timestamp",
        "nan": "numeric",
    }
    assert profile.name == 'a "b" c'
    assert profile.features["made.age_seconds"].max == 31 * 86400
    assert profile.features["made.hour"].max == 23
    for name in ("nothing", "nan", "blank", "no flag"):
        assert profile.features[name].counts == (0, 400, 0)
    assert (profile.features["far.age_seconds"].min < -5e11, profile.features["far.age_seconds"].counts[-2]) == (
        True,
        1,
    )
    assert profile.features["c'd"].categories == ("0 o'clock", "1 o'clock", "2 o'clock")


def test_many_categories_and_extreme_numbers_are_profiled(odd):
    """Only the most frequent categories are kept, and numbers at the limits of floats have their bins."""
    profile = build(open_table(odd, "wide", None))
    key, huge, tiny = (profile.features[name] for name in ("key", "huge", "tiny"))
    assert (key.categories[0], key.counts[0], len(key.rare)) == ("k290000", 10_000, 10_000)
    assert sum(key.counts) == 300_000
    assert (huge.min, huge.max, huge.counts[1]) == (-1.7976931348623157e308, 1.7976931348623157e308, 150_000)
    assert [count for count in tiny.counts if count] == [60_000] * 5
    ids = build(open_table(odd, "ids", None), types={"id": "categorical"}).features["id"]
    assert ids.categories == ("18446744073709551614", "18446744073709551615")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--table=empty"], "odd.db: empty: has no rows to profile"),
        (["--table=emtpy"], 'odd.db: has no table "emtpy"; did you mean "empty"?'),
        (["--table=wide", "--ignore=hug"], 'odd.db: wide: has no column "hug"; did you mean "huge"?'),
        (["--table=wide", "--type=huge=text"], '"huge" has the type float64, which cannot be text: cast it in a view'),
        (
            ["--table=wide", "--label-column=key", "--prediction-column=huge", "--type=huge=numeric"],
            '"key" has the type string, and predictions have the type float64: expected labels that are numbers',
        ),
        (
            ['--table=a "b" c', "--label-column=made", "--prediction-column=c'd"],
            "predictions have the type string: expected labels that are numbers or booleans or texts; cast them",
        ),
        (
            ["--table=wide", "--label-column=ky", "--prediction-column=tiny"],
            'wide: has no column "ky"; did you mean "key"?',
        ),
        (["--table=wide", "--time-column=key"], '"key" has the type string, which is not one of times'),
        (["--table=wide", "--database=duckdb:///no.db"], f"--database: {Path.cwd() / 'no.db'}: there is no such file"),
        (
            ["--table=t", "--database=bigquery://project/a"],
            "bigquery://project/a: cannot be read: Failed to import the bigquery backend",
        ),
    ],
)
def test_what_cannot_be_profiled_is_explained(odd, capsys, options, message):
    """A message names the table, the column, what is wrong, and what would be right."""
    assert main(["profile", f"--database={odd}", *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "s3cret" not in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--table=wide", "--database="], "--table=wide: set --database, or MODEL_EXPORTER_DATABASE, to the URL"),
        (["--engine=duckdb"], "profile: expected one of TRAINING_FILE, --table, --from-store or --describe"),
        (["--table=wide", "--database=wide.db"], "--database: expected a URL such as duckdb:///training.db"),
        (
            ["--table=t", "--database=snowflak://u:s3cret@host/a"],
            '--database: Ibis has no engine "snowflak"; did you mean "snowflake"?',
        ),
        (["--table=t", "--database=postgresql://u:s3cret/x@host/a"], "--database: is not a URL such as duckdb:///"),
        (
            ["--table=t", "--database=postgresql://u:12/s3cret@host/a"],
            "--database: has an @ after the host: pass a password",
        ),
        (
            ["--table=t", "--database=postgresql://u:12#s3cret@host/a"],
            "--database: has an @ after the host: pass a password",
        ),
    ],
)
def test_a_wrong_database_or_none_is_invalid_usage(capsys, options, message):
    """The exit status is 2, and the message names what is missing or wrong, but no password."""
    assert main(["profile", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "s3cret" not in error


def test_a_database_that_goes_away_is_an_error_without_its_password(postgres, tmp_path):
    """The message names the table, and neither it nor the profile holds the password."""
    (tmp_path / "password").write_text("s3cret\n")
    url = postgres.url().replace("postgresql://postgres@", "postgresql://postgres:s3cret@")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE rows AS SELECT i AS a, i AS b FROM generate_series(1, 1000) i")
        table = open_table(url.replace(":s3cret", ""), "rows", str(tmp_path / "password"))
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = "

        def interrupt(*_: object) -> None:
            connection.execute(end + "current_database()")

        with (
            table,
            pytest.raises(ProfileError, match=r"^postgresql:///test_\d+: rows: cannot be read: .*terminat") as raised,
        ):
            build_table(table, Options(), interrupt)
    with pytest.raises(ProfileError) as refused:
        open_table("postgresql://postgres:s3cret@127.0.0.1:1/none", "rows", None)
    assert "cannot be read" in str(refused.value)
    assert "s3cret" not in f"{raised.value}{refused.value}"


CSV = """price;kind;prediction;truth;code;at;day;clock;gap;empty
"""
CSV_ROW = "{n},5;k{k};{answer};{truth};0{n};2026-09-{day:02d}T10:00:00Z;{day}.9.2026;22:15:00;{gap};"


@pytest.mark.parametrize("types", [[], ["--type=price=categorical", "--type=code=numeric"]])
def test_a_csv_file_is_read_as_it_is_without_an_engine(tmp_path, types):
    """The options and types of CSV hold for an engine, too, and a name with brackets is the name of one file."""
    path = tmp_path / "train[1].csv"
    rows = (
        CSV_ROW.format(
            n=n, k=n % 3, answer=["no", "yes"][n % 3 > 0], truth=["True", "false"][n % 2], day=1 + n % 28,
            gap=["NA", " 7 "][n % 2],
        )
        for n in range(300)
    )  # fmt: skip
    path.write_text(CSV + "\n".join(rows))
    (tmp_path / "train1.csv").write_text("price\n1\n")
    profiles = []
    for engine in ([], ["--engine=duckdb"]):
        output = tmp_path / f"{len(engine)}.json"
        options = ["--shuffled", "--delimiter=;", "--decimal=,", "--prediction-column=prediction", *types]
        assert main(["profile", str(path), *options, *engine, f"--output={output}"]) == 0
        profiles.append(load(output))
    one, other = profiles
    assert one.inputs == other.inputs
    assert one.prediction == other.prediction
    for name in ("kind", "truth", "day", "clock", "gap"):
        assert one.features[name] == other.features[name]
    if not types:
        assert one.features["code"] == other.features["code"]
        assert (one.features["price"].min, one.features["price"].max) == (0.5, 299.5)


def test_keys_that_duckdb_would_rename_are_refused(tmp_path: Path) -> None:
    """It takes keys that differ in case for one; a key that has such an ending itself is read."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1, "a_1": 2}\n')
    with open_file(path) as table:
        assert table.rows.columns == ("a", "a_1")
    path.write_text('{"a": 1, "A": 2}\n')
    with pytest.raises(ProfileError, match='cannot tell the keys "a" and "A" apart: rename one, or leave out --engine'):
        open_file(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,a\n", 'is not CSV: the column "a" is duplicated'),
        ("a,b,A\n", 'DuckDB cannot tell the columns "a" and "A" apart: rename one, or leave out --engine'),
        ("\xe9,b,c\n", "is not CSV: the header is not UTF-8"),
        ("\n", "has no rows to profile"),
        ("a,b,c\n1,2,3\n4,5\n", 'cannot be read: line 3, "4,5": expected 3 fields, got 2'),
        ("a,b,c\n1,2,3\n4,5,6,7\n", 'cannot be read: line 3, "4,5,6,7": expected 3 fields, got 4'),
        ('a,b\n1,"x\n2,y\n', 'line 2, "1,\\"x": a field in quotes does not end, or goes on after its quote'),
        ("a,b\n1,\xe9\n", 'line 2, "1,?": is not UTF-8'),
        ("a,b\n1,2\n3,4\r\n", "cannot be read: is not CSV, or its lines end in different ways"),
    ],
)
def test_a_csv_file_that_duckdb_cannot_read_is_explained_in_one_line(tmp_path, capsys, text, message):
    """The message names the file, the line, and what is wrong, without DuckDB's own advice."""
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode("latin-1"))
    assert main(["profile", str(path), "--engine=duckdb"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"model-exporter: {path}: ")
    assert error.endswith(f"{message}\n")


@pytest.mark.parametrize(
    ("host", "options", "master"),
    [
        ("host:7077", {}, "spark://host:7077"),
        ("", {"spark.master": "local[2]"}, "local[2]"),
        ("", {"spark.sql.catalogImplementation": "hive"}, None),
    ],
)
def test_the_url_of_spark_names_the_master_or_leaves_it_to_the_settings(host, options, master):
    """Without a host, the master is that of spark.master in the URL, else the one that Spark is configured with."""
    settings = spark_settings(host, options)
    assert settings.get("spark.master") == master
    assert settings.items() >= options.items()


def test_spark_without_its_package_says_what_to_install(monkeypatch, capsys):
    """The message names the package."""
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    assert main(["profile", "--table=t", "--database=spark://host:7077"]) == 1
    assert "--database: Spark needs PySpark of the version of the cluster: pip install" in capsys.readouterr().err


DIALECTS = ("bigquery", "databricks", "postgres", "snowflake", "trino")


def test_every_query_compiles_for_the_warehouses(folder, monkeypatch):
    """The queries of a profile are valid SQL of each warehouse, as its dialect's parser reads it again.

    Of queries with the same operations on the same types, one is compiled.
    """
    found = {}

    def recorded(method: Callable[[EngineTable, Any], Any]) -> Callable[[EngineTable, Any], Any]:
        return lambda table, query: (found.setdefault(operations(query), query), method(table, query))[1]

    def operations(query: Any) -> frozenset[tuple[type, Any]]:
        nodes = query.op().find(ibis.expr.operations.Node)
        return frozenset((type(node), getattr(node, "dtype", None)) for node in nodes)

    for method in ("_read", "kept"):
        monkeypatch.setattr(EngineTable, method, recorded(getattr(EngineTable, method)))
    with open_file(folder / "training.parquet") as table:
        table.engine = "another"  # DuckDB has a hash of its own
        names = ["skewed", "single", "price", "flag", "city", "at", "digit"]
        table.rows = table.rows.mutate(at=table.rows["at"] * 60)  # the rows of two weeks
        table.rows = table.rows.select(*names, made=table.rows["at"].cast("timestamp"))
        outputs = {"prediction_column": "digit", "confidence_column": "single", "label_column": "city"}
        build_table(table, Options(time_column="at", season="day", bins=4, categories=4, **outputs), lambda *_: None)
        outputs = {"prediction_column": "price", "label_column": "single"}
        table.rows = table.rows.select("skewed", "price", "single")
        build_table(table, Options(bins=4, **outputs), lambda *_: None)
        hash_of_trino = table.rows.select(hash=row_hash(table.rows, "trino"))
    queries = [*found.values()]
    for dialect in DIALECTS:
        others = [query for query in queries if not query.op().find(ibis.expr.operations.Hash)]
        for query in queries if dialect != "trino" else [*others, hash_of_trino]:
            [statement] = sqlglot.parse(ibis.to_sql(query, dialect=dialect), read=dialect)
            assert statement.find(sqlglot.exp.Select)
