from __future__ import annotations

import re
from types import ModuleType

import numpy as np
import pytest
from support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import quality_study  # type: ignore[import-not-found]

        return quality_study


def test_the_study_finds_what_the_document_says(study):
    """Where only covariates move, the estimate beats a constant; under a concept change nothing narrows."""
    rng = np.random.default_rng(study.SEED)
    results = {case.name: study.evaluate(case, None) for case in study.quality_data.simulated(rng, 15, 2000)}
    for kind in ("classifier", "regression"):
        moved, same, changed = (
            results[f"{change}, {kind}"] for change in ("covariate shift", "no change", "concept change")
        )
        error = abs(moved.estimates - moved.measured).mean()
        assert error < 0.6 * abs(moved.constant - moved.measured).mean()
        for result in (moved, same):
            covered = (result.lower <= result.measured) & (result.measured <= result.upper)
            assert covered.mean() >= 0.85
        width = np.median(same.upper - same.lower)
        assert (changed.upper - changed.lower).min() > 0.9 * width


def test_the_document_has_every_table_of_the_study(study):
    """Each part of the study is in the document, with the columns that the study has now."""
    tables = dict(re.findall(r"<!-- study: (\w+) -->\n\n(.*?)\n\n<!-- end -->", DOCUMENT, re.S))
    assert [*tables] == ["simulated", "resampled", "real", "sizes", "cost"]
    for name in ("simulated", "resampled", "real"):
        assert tables[name].splitlines()[0] == f"| {' | '.join(study.HEADER)} |"


def test_data_that_are_not_installed_are_left_out(study, monkeypatch, capsys):
    """Without the packages that bring the data, the study says so and goes on."""
    monkeypatch.setattr("sys.path", [])
    assert [*study.quality_data.real()] == []
    assert capsys.readouterr().err.count("left out") == len(study.quality_data.REAL)
