"""The study of wrong labels: its quick form, and the table that documents it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from support.paths import ROOT

PAGE = ROOT / "docs" / "review.md"
OVERLAPPING = "breast cancer, two features"


def rows(text: str) -> dict[str, tuple[int, int]]:
    """Recall and precision in percent by the name of the case."""
    return {name.strip(): (int(found), int(right)) for name, found, right in _ROW.findall(text)}


_ROW = re.compile(r"^\| ([a-z][^|]+) \| [\d,]+ \| (\d+) · (\d+) % \|", re.M)


def test_most_wrong_labels_are_found_and_most_that_are_found_are_wrong() -> None:
    """At least 60 % of each, in the table and in a quick run; less where classes overlap, as the page says."""
    command = [sys.executable, ROOT / "benchmarks/wrong_labels_study.py", "--quick"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # small matrices, many processes
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment)
    quick, shown = rows(run.stdout), rows(PAGE.read_text(encoding="utf-8"))
    assert quick.keys() == shown.keys()
    assert len(quick) == 9
    for table in (quick, shown):
        assert min(table[OVERLAPPING]) >= 45
        assert {name: row for name, row in table.items() if min(row) < 60} == {OVERLAPPING: table[OVERLAPPING]}
