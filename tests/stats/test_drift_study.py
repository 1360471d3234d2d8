from __future__ import annotations

import os
import re
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from support.paths import ROOT

from exporter.monitoring.binner import Binner
from exporter.profiles.bin_edges import numeric_feature
from exporter.profiles.profile import Profile

BLOCK = re.compile(r"<!-- study: ([\w.-]+) -->\n\n(.*?)(?=\n\n<!--|\Z)", re.S)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import drift_study  # type: ignore[import-not-found]

    return drift_study


def first_cells(text: str) -> list[str]:
    return [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]


def test_the_study_runs_and_its_document_has_its_tables():
    """A quick run produces the tables that docs/drift.md shows, with the expected detections."""
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks/drift_study.py", "--quick"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    quick = dict(BLOCK.findall(run.stdout.strip()))
    shown = dict(BLOCK.findall((ROOT / "docs/drift.md").read_text(encoding="utf-8")))
    assert quick.keys() == shown.keys()
    for name in ("goals", "power", "delays", "running"):
        assert first_cells(quick[name]) == first_cells(shown[name]), name
    power = {row[0]: row[1:] for row in (line.strip("| ").split(" | ") for line in quick["power"].splitlines())}
    assert int(power["mean + 1 sd"][0].split(" · ")[1].strip("%<> ")) >= 90
    false = re.search(r"10,000 training rows:\n\n.*?\n\| normal \| (.*?) \|\n", quick["false-alarms"], re.S)
    assert false
    assert float(false[1].split(" | ")[2].strip("%<> ")) <= 0.5


def test_the_study_bins_as_the_exporter_does(study):
    """The study's counts of a window equal the exporter's, including missing and out-of-range values."""
    rng = np.random.default_rng(7)
    training, live = rng.normal(size=800), np.append(rng.normal(2, 2, size=300), [np.nan, np.nan])
    binner = Binner(Profile(name="m", rows=800, inputs={"x": "numeric"}, features={"x": numeric_feature(training)}))
    events = [{"x": None if np.isnan(value) else value} for value in live.tolist()]
    counts = binner.split(binner.count(events, [])[0]).counts
    assert study.Bins(training, study.CASES["normal"]).counts(live[None, :])[0].tolist() == counts.tolist()


def test_the_alert_of_the_study_waits_for_five_minutes(study):
    """A stuck sensor fires after the five minutes that the alert waits, and not much later."""
    case = study.CASES["normal"]
    bins = study.Bins(study.seeded("training").normal(size=5000), case)
    rng, alter = study.seeded("stream"), study.CHANGES["stuck sensor"][1]
    firing = study.Study(quick=True)._firing(rng, bins, case, 100, 2 * study.LONG, alter, study.LONG)
    first = int(firing.argmax()) - study.LONG
    assert study.HOLD <= first <= study.HOLD + 36


def test_the_peer_formulas_are_correct(study):
    """NannyML's distance is scipy's; without empty bins, Evidently's and boxkite's scores are the plain sums."""
    import drift_peers  # type: ignore[import-not-found]

    rng = np.random.default_rng(2)
    training, live = (
        rng.choice(4, size=size, p=p).astype(float) for size, p in ((900, [0.4, 0.3, 0.2, 0.1]), (300, [0.25] * 4))
    )
    r, c = (np.bincount(side.astype(int), minlength=4) for side in (training, live))
    assert drift_peers.nannyml_formula(training, True)(live) == pytest.approx(jensenshannon(r, c, base=2))
    assert drift_peers.evidently_formula("kl", training, live, True) == pytest.approx(entropy(r, c))
    both = entropy(r, c) + entropy(c, r)
    assert drift_peers.evidently_formula("psi", training, live, True) == pytest.approx(both)
    smooth = entropy(r + 1, c + 1) + entropy(c + 1, r + 1)
    assert drift_peers.boxkite_scorer(training, True)(live) == pytest.approx(smooth)
