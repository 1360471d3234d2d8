"""The walls between the packages, the kinds of threads, and what `serve` loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import write_config

from exporter.server.application import Exporter
from exporter.server.asgi import POOLS, THREADS
from exporter.server.routes import ROUTES

ROOT = Path(__file__).parents[1]
KNOW_NO_STORE = ("wire", "features", "stats", "profiles", "monitoring")
HEAVY = ("scipy", "pyarrow", "sklearn", "pandas", "duckdb")


def imports(package: str) -> Iterator[tuple[str, str]]:
    """Each module of a package and a module that it imports, anywhere in it."""
    for path in sorted((ROOT / "exporter" / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            yield from ((str(path.relative_to(ROOT)), name) for name in names)


@pytest.mark.parametrize("package", KNOW_NO_STORE)
def test_what_counts_knows_neither_store_nor_server(package: str) -> None:
    """Events, input types, statistics, profiles and monitors are used by the store and the server, not the reverse."""
    wrong = {path for path, name in imports(package) if re.match(r"exporter\.(storage|server)\b", name)}
    assert not wrong


def test_only_the_store_imports_sqlalchemy() -> None:
    """Everybody else has the verbs of `Store`, and imports none of its modules: their names begin with ``_``."""
    packages = [path.parent.name for path in (ROOT / "exporter").glob("*/__init__.py")]
    others = [pair for package in packages if package != "storage" for pair in imports(package)]
    assert not [pair for pair in others if re.match(r"sqlalchemy|exporter\.storage\._", pair[1])]


def test_the_client_imports_the_standard_library_alone() -> None:
    """It is installed in the processes of model services."""
    names = {name for _, name in imports("client")}
    assert {name.partition(".")[0] for name in names} - {"exporter"} <= sys.stdlib_module_names
    own = {name for name in names if name.startswith("exporter")}
    assert {name for name in own if not name.startswith("exporter.client")} <= {"exporter.errors"}


def test_serve_loads_no_heavy_library() -> None:
    """What only commands need is not imported to serve, neither for requests nor for pages."""
    code = (
        "import importlib, sys, exporter.commands.serve, exporter.server.serve, exporter.server.flask_app\n"
        "for route in exporter.server.flask_app.ROUTES.values():\n"
        "    importlib.import_module('exporter.server.' + route.handler.partition(':')[0])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_kinds_of_threads_are_in_one_table(tmp_path: Path) -> None:
    """At most twelve; architecture.md repeats them with their numbers, and the exporter has no others."""
    assert len(THREADS) <= 12
    section = (ROOT / "docs" / "architecture.md").read_text().partition("## Threads and bounds")[2].partition("###")[0]
    rows = {
        name: int(number or 1) for name, number in re.findall(r"^\| ([\w-]+)(?:, (\d+) threads?)? \|", section, re.M)
    }
    rows.pop("thread")
    assert rows == {name: number for name, (number, _) in THREADS.items()}
    assert {route.pool for route in ROUTES.values()} <= set(POOLS)
    before = set(threading.enumerate())
    exporter = Exporter(write_config(tmp_path))
    try:
        names = [thread.name for thread in threading.enumerate() if thread not in before]
    finally:
        exporter.close()
    assert {name: names.count(name) for name in names} == {
        name: THREADS[name][0] for name in ("aggregator", "store-writer", "tasks")
    }


def test_repeated_work_is_in_the_architecture(tmp_path: Path) -> None:
    """The table of repeated work has the tasks of the scheduler."""
    section = (ROOT / "docs" / "architecture.md").read_text().partition("### Repeated work")[2].partition("\n##")[0]
    exporter = Exporter(write_config(tmp_path))
    try:
        tasks = {task.name for task in exporter.scheduler.tasks}
    finally:
        exporter.close()
    assert set(re.findall(r"^\| ([\w -]+) \|", section, re.M)) - {"task"} == tasks
