from __future__ import annotations

import argparse
import re
from types import ModuleType

import numpy as np
import pytest
from support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "quality-study.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks" / "studies"))
        import quality_study  # type: ignore[import-not-found]

        return quality_study


def test_the_study_finds_what_the_document_says(study):
    """Where only covariates move, a classifier's estimate beats a constant; under a concept change nothing narrows.

    Late labels widen the intervals until they cover a concept change, too, and no others by much.
    """
    rng = np.random.default_rng(study.SEED)
    cases = [case for _ in range(2) for case in study.quality_data.simulated(rng, 10, 2000, kinds=[True])]
    results = {result.case.name: result for result in study.pooled(study.evaluate(case, None) for case in cases)}
    moved, same, changed = (
        results[f"{change}, classifier"] for change in ("covariate shift", "no change", "concept change")
    )
    error = abs(moved.estimates - moved.measured).mean()
    assert error < 0.6 * abs(moved.constant - moved.measured).mean()
    for result in (moved, same):
        assert len(result.covered) == 20
        assert result.covered.mean() >= 0.85
        assert result.half <= study.widened(result).half < 1.25 * result.half
    width = np.median(same.upper - same.lower)
    assert (changed.upper - changed.lower).min() > 0.9 * width
    assert changed.covered.mean() < 0.5
    assert study.widened(changed).covered.mean() >= 2 * changed.covered.mean()


def test_the_document_has_every_table_of_the_study(study):
    """Each part of the study is in the document, with the columns that the study has now."""
    tables = dict(re.findall(r"<!-- study: (\w+) -->\n\n(.*?)\n\n<!-- end -->", DOCUMENT, re.S))
    assert {*tables} == {*study.parts(argparse.Namespace(quick=False, seed=study.SEED, nannyml=None))}
    assert sum(table.startswith(f"| {' | '.join(study.HEADER)} |\n") for table in tables.values()) == 5


def test_data_that_are_not_installed_are_left_out(study, monkeypatch, capsys):
    """Without the packages that bring the data, the study says so and goes on."""
    monkeypatch.setattr("sys.path", [])
    real = study.quality_real.REAL
    assert [*study.quality_real.cases(real)] == []
    assert capsys.readouterr().err.count("left out") == len(real)
