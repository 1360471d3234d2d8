"""The walls between the packages, the kinds of threads, and what `serve` loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading
from contextlib import closing
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support.paths import ROOT
from support.servers import write_config

from exporter.server.application import Exporter
from exporter.server.asgi import POOLS, THREADS
from exporter.server.routes import ROUTES

KNOW_NO_STORE = ("wire", "features", "stats", "profiles", "monitoring")
HEAVY = ("scipy", "pyarrow", "sklearn", "pandas", "duckdb")
PATHS = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "exporter").rglob("*.py")]
MODULES = {".".join(path.parts[: -1 if path.name == "__init__" else None]): path for path in PATHS}
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(heading: str, end: str = "\n##") -> str:
    """What architecture.md says below a heading."""
    return ARCHITECTURE.partition(f"{heading}\n")[2].partition(end)[0]


PACKAGES = re.findall(r"^\| `(\w+)` ", section("## Packages"), re.M)
"""In the order of architecture.md, from the top."""


@cache
def imports() -> list[tuple[str, str]]:
    """Each module and a module that it imports, anywhere in it, for types alone or not."""
    found = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse((ROOT / path).with_suffix(".py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [(module, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                found += [(module, name if name in MODULES else node.module) for name in inner]
    return found


def imported_by(package: str) -> set[str]:
    return {name for module, name in imports() if f"{module}.".startswith(f"exporter.{package}.")}


@pytest.mark.parametrize("package", KNOW_NO_STORE)
def test_what_counts_knows_neither_store_nor_server(package: str) -> None:
    """Events, input types, statistics, profiles and monitors are used by the store and the server, not the reverse."""
    assert not [name for name in imported_by(package) if re.match(r"exporter\.(storage|server)\b", name)]


def test_only_the_store_imports_sqlalchemy() -> None:
    """Everybody else has the verbs of `Store`, and imports none of its modules: their names begin with ``_``."""
    others = [pair for pair in imports() if not pair[0].startswith("exporter.storage")]
    assert not [pair for pair in others if re.match(r"sqlalchemy|exporter\.storage\._", pair[1])]


def test_the_client_imports_the_standard_library_alone() -> None:
    """It is installed in the processes of model services."""
    names = imported_by("client")
    assert {name.partition(".")[0] for name in names} - {"exporter"} <= sys.stdlib_module_names
    own = {name for name in names if name.startswith("exporter")}
    assert {name for name in own if not name.startswith("exporter.client")} <= {"exporter.errors"}


def test_every_package_is_in_the_architecture() -> None:
    """The table of packages in architecture.md has each module and package of the first level, and nothing else."""
    assert set(PACKAGES) == {module.split(".")[1] for module in MODULES if "." in module and "._" not in module}


def test_packages_import_only_from_below() -> None:
    """No package imports from one that stands above it in the table of architecture.md."""
    for module, imported in imports():
        if module != "exporter" and imported.startswith("exporter."):
            above, below = (PACKAGES.index(name.split(".")[1]) for name in (module, imported))
            assert below >= above, f"{module} imports {imported}"


def test_no_two_modules_import_each_other() -> None:
    """The imports between modules have no cycle, those for types alone included.

    But for the modules of the two databases, which build on the engine that chooses one of them.
    """
    graph: dict[str, set[str]] = {}
    for module, imported in imports():
        chosen = module == "exporter.storage._database" and imported.endswith(("._sqlite", "._postgresql"))
        if imported in MODULES and not chosen and not module.startswith(imported):  # a package's front hands on
            graph.setdefault(module, set()).add(imported)
    TopologicalSorter(graph).prepare()


def test_serve_loads_no_heavy_library() -> None:
    """What only commands need is not imported to serve, neither for requests nor for pages."""
    code = (
        "import importlib, sys, exporter.commands.serve, exporter.server.serve, exporter.server.flask_app\n"
        "for route in exporter.server.flask_app.ROUTES.values():\n"
        "    importlib.import_module('exporter.server.' + route.handler.partition(':')[0])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "[]\n"


def test_the_kinds_of_threads_are_in_one_table(tmp_path: Path) -> None:
    """At most twelve; architecture.md repeats them with their numbers, and the exporter has no others."""
    assert len(THREADS) <= 12
    found = re.findall(r"^\| ([\w-]+)(?:, (\d+) threads?)? \|", section("## Threads and bounds", "###"), re.M)
    rows = {name: int(number or 1) for name, number in found}
    rows.pop("thread")
    assert rows == {name: number for name, (number, _) in THREADS.items()}
    assert {route.pool for route in ROUTES.values()} <= set(POOLS)
    before = set(threading.enumerate())
    with closing(Exporter(write_config(tmp_path))):
        names = [thread.name for thread in threading.enumerate() if thread not in before]
    assert {name: names.count(name) for name in names} == {
        name: THREADS[name][0] for name in ("aggregator", "store-writer", "tasks")
    }


def test_repeated_work_is_in_the_architecture(tmp_path: Path) -> None:
    """The table of repeated work has the tasks of the scheduler."""
    with closing(Exporter(write_config(tmp_path))) as exporter:
        tasks = {task.name for task in exporter.scheduler.tasks}
    assert set(re.findall(r"^\| ([\w -]+) \|", section("### Repeated work"), re.M)) - {"task"} == tasks


def test_structs_are_described_before_requests() -> None:
    """msgspec 0.22 crashes the process when two threads are the first to convert to a struct that has others."""
    kinds = "kinds = [msgspec.Struct]; [kinds.extend(one.__subclasses__()) for one in kinds]; "
    found = "print([one.__name__ for one in kinds[1:] if 'StructInfo' not in f'{[*map(type, gc.get_referents(one))]}'])"
    code = f"import gc, msgspec; from exporter.server import flask_app; flask_app.create_app(None); {kinds}{found}"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "['Batch']\n"  # not converted
