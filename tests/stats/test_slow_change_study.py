"""The study of slow change: its streams are what they say, and its parts give figures."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from support.paths import ROOT


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "studies"))
    import slow_change_study  # type: ignore[import-not-found]

    return slow_change_study


@pytest.mark.parametrize("name", ["AR(1) 0.5", "AR(1) 0.9", "sessions of 10 to 100"])
def test_the_dispersion_of_a_stream_is_that_of_its_sums(study: ModuleType, name: str) -> None:
    """The variance of sums of a thousand values, in training and minute by minute, over that of independent ones."""
    rng, stream = np.random.default_rng(3), study.STREAMS[name]
    training = np.concatenate([stream.draw(rng, 50_000) for _ in range(20)]).reshape(-1, 1000).sum(axis=1)
    live = np.concatenate(list(stream.minutes(rng, 50, 20, 1000))).sum(axis=0)
    for sums in (training, live):
        assert (sums**2).mean() / 1000 == pytest.approx(stream.dispersion, rel=0.2)


def test_the_parts_of_the_study_give_figures(study: ModuleType) -> None:
    """Few features for a short time: no false alarm, and a large change is found and forgotten within minutes."""
    assert study.false_alarms("normal", 1000, 20.0, 0.05).alarms == 0
    assert study.false_alarms("categories", 1000, 20.0, 0.05).alarms == 0
    assert study.false_alarms("AR(1) 0.9", 1000, 20.0, 0.02, dispersion=1.0).alarms > 0
    assert study.delay("mean + 1 sd", 1000, 20.0, 5, 60).endswith("min)")
    assert "min" in study.recovery("mean + 1 sd", 1000, 20.0, 5, 30, 600)


def test_every_table_has_its_place_on_the_page(study: ModuleType) -> None:
    """The page has the marks of the study, each once, and none that is empty."""
    page = study.DOCS.read_text()
    for name in ("false-alarms", "dependent", "delays", "delays-by-rate", "recovery"):
        assert page.count(f"<!-- study: slow-{name} -->\n\n| ") == 1
