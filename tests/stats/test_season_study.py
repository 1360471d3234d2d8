"""The study of features that follow the time of day."""

from __future__ import annotations

import re

import pytest
from support.paths import ROOT


def test_the_study_runs_and_finds_what_a_season_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its quick form: false alarms without a season, none with one, and the shift by a standard deviation is found."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import season_study  # type: ignore[import-not-found]

    tables = dict(season_study.tables(quick=True))
    assert list(tables) == ["season-windows", "season-evidence"]
    without, within = (row.split(" | ")[1] for row in tables["season-windows"].splitlines()[2:])
    still, _, _ = (float(share) for share in re.findall(r"[\d.]+", without))
    quiet, _, moved = (float(share) for share in re.findall(r"[\d.]+", within))
    assert still > 30
    assert quiet < 1
    assert moved > 80
    evidence = tables["season-evidence"].splitlines()[-1]
    assert evidence.startswith("| day, 10,000 rows of 14 days, `--season=day` | 0 in")
    assert "> 1 d" not in evidence
