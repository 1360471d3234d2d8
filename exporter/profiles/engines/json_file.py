"""Keys of JSON lines as DuckDB reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exporter.errors import ProfileError
from exporter.validation import preview

_RENAMED = re.compile(r"(.+)_\d+", re.DOTALL)
_HAS_KEY = """
    SELECT count(*) FROM read_json_objects(?, format = 'newline_delimited')
    WHERE list_contains(json_keys(json), ?)
"""


def check_keys(connection: Any, path: Path, pattern: str, columns: Sequence[str]) -> None:
    """Check that DuckDB renamed no key: of two that differ in the case of letters only, one gets the ending ``_1``.

    Parameters
    ----------
    connection
        A backend of Ibis for DuckDB.
    path, pattern
        The file, and the pattern that matches it alone.
    columns
        The names of the columns that DuckDB found.

    Raises
    ------
    ProfileError
        When it renamed one.
    """
    for name in columns:
        found = _RENAMED.fullmatch(name)
        others = [other for other in columns if found and other != name and other.lower() == found[1].lower()]
        if found and others and connection.con.execute(_HAS_KEY, [pattern, name]).fetchall() == [(0,)]:
            detail = f"DuckDB cannot tell the keys {preview(others[0])} and {preview(found[1])} apart: rename one"
            raise ProfileError(f"{path}: {detail}, or leave out --engine")
