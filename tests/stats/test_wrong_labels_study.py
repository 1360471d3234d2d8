"""The study of wrong labels: the table that documents it."""

from __future__ import annotations

import re

from support.paths import ROOT

PAGE = ROOT / "docs" / "review.md"
OVERLAPPING = "breast cancer, two features"
_ROW = re.compile(r"^\| ([a-z][^|]+) \| [\d,]+ \| (\d+) · (\d+) % \|", re.M)


def test_most_wrong_labels_are_found_and_most_that_are_found_are_wrong() -> None:
    """At least 60 % of each in the table; less where classes overlap, as the page says."""
    rows = {name.strip(): (int(found), int(right)) for name, found, right in _ROW.findall(PAGE.read_text())}
    assert len(rows) == 9
    assert min(rows[OVERLAPPING]) >= 45
    assert {name: row for name, row in rows.items() if min(row) < 60} == {OVERLAPPING: rows[OVERLAPPING]}
