from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from support.paths import ROOT

from exporter.monitoring.binner import Binner
from exporter.profiles.builder import build_file

BLOCK = re.compile(r"<!-- study: ([\w.-]+) -->\n\n(.*?)(?=\n\n<!--|\Z)", re.S)


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "studies"))


def first_cells(text: str) -> list[str]:
    return [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]


def test_the_study_runs_and_its_document_has_its_tables():
    """A quick run produces the tables that docs/drift-study.md shows, with the expected detections."""
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks/studies/drift_study.py", "--quick"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    quick = dict(BLOCK.findall(run.stdout.strip()))
    shown = dict(BLOCK.findall((ROOT / "docs/drift-study.md").read_text(encoding="utf-8")))
    others = ("slow-", "many-false", "many-power", "live-", "season-")  # tables of other studies
    assert quick.keys() == {name for name in shown if not name.startswith(others)}
    for name in ("goals", "power", "delays", "running"):
        assert first_cells(quick[name]) == first_cells(shown[name]), name
    power = {row[0]: row[1:] for row in (line.strip("| ").split(" | ") for line in quick["power"].splitlines())}
    assert int(power["mean + 1 sd"][0].split(" · ")[1].strip("%<> ")) >= 90
    false = re.search(r"^\| normal \| (.*) \|$", quick["false-alarms"], re.M)
    assert false
    assert float(false[1].split(" | ")[2].split(" · ")[1].strip("%<> ")) <= 0.5
    dependent = re.search(r"^\| AR\(1\) 0\.97 \| 10,000 \| (.*) \|$", quick["dependent-false-alarms"], re.M)
    assert dependent
    ordered, shuffled = (float(share.strip("%<> ")) for share in dependent[1].split(" | ")[1].split(", "))
    assert shuffled > 50
    assert ordered < 10


def test_the_study_bins_and_scores_as_the_exporter_does(tmp_path: Path):
    """Counts, scores and noise floors of a window equal the exporter's, with missing and out-of-range values."""
    from drift_bins import Bins  # type: ignore[import-not-found]
    from drift_streams import CASES, seeded  # type: ignore[import-not-found]

    case = CASES["AR(1) 0.9"]
    training = case.training(seeded("bins"), 2000)
    live = np.append(2 + 2 * case.draw(seeded("live"), 1, 300)[0], [np.nan, np.nan])
    path = tmp_path / "training.csv"
    path.write_text("\n".join(["x", *map(repr, training.tolist())]), encoding="utf-8")
    profile = build_file(path, name="m")
    binner = Binner(profile)
    events = [{"x": None if np.isnan(value) else value} for value in live.tolist()]
    counts = binner.split(binner.count(events, [])[0]).counts
    bins = Bins(training, case)
    assert bins.counts(live[None, :])[0].tolist() == counts.tolist()
    observed = np.array([302.0])
    assert bins.floors.training(observed).tolist() == binner.profile_noise.training(observed).tolist()
    assert bins.floors.training(observed)[0] > 2 * bins.independent.training(observed)[0]


def test_codes_of_categories_have_their_bins():
    """Each code has the bin of its category; a new one and a missing one have those of the exporter."""
    from drift_bins import Bins
    from drift_streams import CASES, SHARES

    bins = Bins(np.repeat(np.arange(len(SHARES)), 50).astype(float), CASES["categories"])
    places = bins.places(np.array([*range(len(SHARES) + 1), np.nan]))
    assert len(set(places[: len(SHARES)].tolist())) == len(SHARES)
    assert places[len(SHARES)] not in places[: len(SHARES)]
    assert places[-1] == bins.size - 2


@pytest.mark.parametrize("name", ["AR(1) 0.9", "AR(1) 0.97, half noise", "long memory"])
def test_means_of_windows_vary_as_the_best_test_assumes(name: str):
    """The variance of the mean of a window is that which the power of the best test is computed from."""
    from drift_streams import CASES, seeded

    case = CASES[name]
    for size in (7, 100):
        means = case.draw(seeded("means", name), 4000, size).mean(axis=1)
        assert means.var() == pytest.approx(case.variance(size), rel=0.1)


@pytest.mark.parametrize("name", ["sessions", "season", "bursts", "AR(1) 0.97", "long memory"])
def test_streams_have_a_standard_deviation_of_one(name: str):
    """Each position of a window has the same distribution, so that a shift by 1 is one standard deviation."""
    from drift_streams import CASES, seeded

    values = CASES[name].draw(seeded("sd", name), 20_000, 60)
    for column in (values[:, 0], values[:, -1]):
        assert column.mean() == pytest.approx(0, abs=0.04)
        assert column.std() == pytest.approx(1, abs=0.04)


def test_the_sessions_of_windows_are_as_long_as_those_of_a_long_draw():
    """A window that begins within a session shows as many changes of the value as any part of a long stream."""
    from drift_streams import CASES, seeded

    changes = []
    for windows, size in ((20_000, 50), (1, 1_000_000)):
        values = CASES["sessions"].draw(seeded("sessions", size), windows, size)
        changes.append((np.diff(values, axis=1) != 0).mean())
    assert changes[0] == pytest.approx(changes[1], rel=0.03)
    assert changes[1] == pytest.approx(1 / 55, rel=0.03)


def test_the_alert_of_the_study_waits_for_five_minutes():
    """A stuck sensor fires after the five minutes that the alert waits, and not much later."""
    from drift_running import Running, Traffic  # type: ignore[import-not-found]
    from drift_streams import CASES, CHANGES, seeded

    for step in (5, 60):
        minutes = Running(quick=True).delay(
            seeded("stream"), CASES["normal"], Traffic(100, step), CHANGES["stuck sensor"][1], rows=5000
        )
        assert 5 <= minutes <= 8


def test_the_peer_formulas_are_correct():
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
