"""What is behind the store stays there: the rest of the package knows no SQL, and none of its modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import exporter

PACKAGE = Path(exporter.__file__).parent


def imports() -> Iterator[tuple[str, str]]:
    """The file of each import outside of the storage, and what it imports."""
    for file in sorted(PACKAGE.rglob("*.py")):
        name = str(file.relative_to(PACKAGE))
        if name.startswith("storage/"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((name, f"{node.module}.{alias.name}") for alias in node.names)


def test_only_the_storage_imports_sqlalchemy() -> None:
    """Pages, routes, monitors, profiles and commands get values, never a connection, a table or a statement."""
    assert [found for found in imports() if found[1].split(".")[0] == "sqlalchemy"] == []


def test_modules_of_the_storage_are_private() -> None:
    """Whoever needs the store imports it from the package."""
    private = [found for found in imports() if found[1].startswith("exporter.storage.") and "._" in found[1]]
    assert private == []


def test_only_the_storage_has_connections() -> None:
    """Outside, verbs of the store are called; what runs in a transaction is behind them."""
    found = [
        (str(file.relative_to(PACKAGE)), node.attr)
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.parent.name != "storage"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in {"reading", "write", "submit"}
        and ast.unparse(node.value).endswith("store")
    ]
    assert found == []
