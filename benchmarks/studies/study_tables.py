"""Format the figures of studies, and write their tables into documents."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np


def number(value: int) -> str:
    """Format an integer as in the documents."""
    return f"{value:,}"


def percent(share: float, digits: int = 1) -> str:
    """Format a share in percent. Only an exact 0 or 1 is printed as 0 or 100%."""
    least = 10.0**-digits
    if 0 < 100 * share < least:
        return f"< {least:g}%"
    if 100 - least < 100 * share < 100:
        return f"> {100 - least:g}%"
    return f"{100 * share:.{digits}f}%" if 0 < share < 1 else f"{100 * share:.0f}%"


def percents(shares: Iterable[float], digits: int = 1, separator: str = " · ") -> str:
    """Format shares of one cell in percent, without the sign."""
    return separator.join(percent(share, digits).removesuffix("%") for share in shares)


def late(minutes: float) -> str:
    """Format a delay in minutes, up to two hours."""
    return f"{minutes:.0f}" if np.isfinite(minutes) else "> 120"


def table(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table with names aligned left and figures right."""
    rows = [[str(cell) for cell in row] for row in body]
    first = (next((row[i] for row in rows if row[i]), "") for i in range(1, len(head)))
    rule = ["---", *("---:" if re.match(r"[-+]?[\d<>]", cell) else "---" for cell in first)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def write(path: Path, tables: Mapping[str, str]) -> None:
    """Put each table between its marks in a document."""
    text = path.read_text(encoding="utf-8")
    for name, content in tables.items():
        pattern = rf"(<!-- study: {re.escape(name)} -->\n).*?(<!-- end -->)"
        text, found = re.subn(pattern, lambda m, new=content: f"{m[1]}\n{new}\n\n{m[2]}", text, flags=re.S)
        if found != 1:
            raise SystemExit(f"{path}: expected the marks of the table {name} once, found them {found} times")
    path.write_text(text, encoding="utf-8")


def run(description: str | None, page: Path, tables: Callable[[bool], Iterable[tuple[str, str]]]) -> None:
    """Run the command of a study: print the name and the text of each table, and write them into a document.

    With ``--quick``, the tables are small, and are not written.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="print small tables, and write nothing")
    quick = parser.parse_args().quick
    for name, text in tables(quick):
        print(f"{name}\n\n{text}\n", flush=True)
        if not quick:
            write(page, {name: text})
