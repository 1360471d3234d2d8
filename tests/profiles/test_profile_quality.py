from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from exporter.errors import ProfileError
from exporter.monitoring.binner import Binner
from exporter.profiles.builder import build_file
from exporter.profiles.describe import quality_lines
from exporter.profiles.profile import Profile, load, save
from exporter.profiles.quality import QualityEstimator

Columns = dict[str, np.ndarray]
CLASSIFIER = {"prediction_column": "predicted", "confidence_column": "sure", "label_column": "label"}
REGRESSION = {"prediction_column": "predicted", "label_column": "label"}


def classified(rng: np.random.Generator, rows: int, shift: float = 0.0, flipped: float = 0.0) -> Columns:
    """Overconfident predictions whose accuracy follows from ``x``; a share of the labels is ``flipped``."""
    x, z = rng.normal(shift, 1, rows), rng.normal(size=rows)
    yes = 1 / (1 + np.exp(-1.5 * x))
    sure = np.maximum(yes, 1 - yes)
    truth = (rng.random(rows) < yes) ^ (rng.random(rows) < flipped)
    names = np.array(["no", "yes"])
    return {
        "x": x,
        "z": z,
        "predicted": names[(yes > 0.5).astype(int)],
        "sure": sure**0.5,
        "label": names[truth.astype(int)],
    }


def regressed(rng: np.random.Generator, rows: int, shift: float = 0.0) -> Columns:
    """Predictions whose error grows with the distance of ``x`` from 0."""
    x, z = rng.normal(shift, 1, rows), rng.normal(size=rows)
    return {"x": x, "z": z, "predicted": x + z, "label": x + z + rng.normal(size=rows) * (0.2 + abs(x))}


def profiled(folder: Path, columns: Columns, **options: str) -> Profile:
    np.savez(folder / "held_out.npz", **columns)
    return build_file(folder / "held_out.npz", **options)


def counts(binner: Binner, columns: Columns) -> np.ndarray:
    inputs = {name: columns[name] for name in binner.inputs}
    rows = len(columns["predicted"])
    row, *_ = binner.count_columns(
        inputs, rows, columns["predicted"].tolist(), confidences=columns.get("sure", np.empty(0))
    )
    return binner.split(row).counts


def estimator(profile: Profile) -> tuple[Binner, QualityEstimator]:
    binner = Binner(profile)
    assert binner.quality is not None
    return binner, binner.quality


def accuracy(columns: Columns) -> float:
    return float((columns["predicted"] == columns["label"]).mean())


def error(columns: Columns) -> float:
    return float(abs(columns["predicted"] - columns["label"]).mean())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    rows = classified(np.random.default_rng(1), 8000)
    return profiled(tmp_path_factory.mktemp("quality"), rows, **CLASSIFIER)


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return profiled(tmp_path_factory.mktemp("quality"), regressed(np.random.default_rng(1), 8000), **REGRESSION)


def test_the_overall_accuracy_and_the_calibration_are_those_of_all_rows(classifier):
    """The label is no feature; overconfident predictions get the accuracy that the labels show."""
    rows = classified(np.random.default_rng(1), 8000)
    assert [*classifier.features] == ["x", "z"]
    assert classifier.quality.overall == pytest.approx(accuracy(rows), abs=1e-6)
    assert sum(classifier.quality.calibration_rows) == classifier.quality.rows == 8000
    _, made = estimator(classifier)
    assert made.expected(rows["sure"]).mean() == pytest.approx(accuracy(rows), abs=1e-9)
    assert rows["sure"].mean() > accuracy(rows) + 0.05
    assert (np.diff(made.table[:-2]) >= 0).all()
    assert np.isnan(made.expected(np.array([np.nan, np.inf]))).all()
    assert np.isnan(made.table[-2:]).all()


@pytest.mark.parametrize(("shift", "tolerance"), [(0.0, 0.02), (1.0, 0.02), (2.0, 0.02), (-1.5, 0.02)])
def test_accuracy_is_estimated_where_inputs_move(classifier, shift, tolerance):
    """The estimate follows a covariate shift, and the dot product that Prometheus computes equals it."""
    binner, made = estimator(classifier)
    rows = classified(np.random.default_rng(2), 4000, shift)
    live = counts(binner, rows)
    found = made.estimate(live)
    assert found.value == pytest.approx(accuracy(rows), abs=tolerance)
    assert found.lower < accuracy(rows) < found.upper
    in_bins = live[-len(made.table) :][:-2]
    assert found.value == made.value(live) == pytest.approx(in_bins @ made.table[:-2] / in_bins.sum(), abs=1e-12)
    assert made.expected(rows["sure"]).mean() == pytest.approx(found.value, abs=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, -1.0])
def test_the_error_is_estimated_where_inputs_move(regression, shift):
    """The components are those inputs that the error depends on."""
    binner, made = estimator(regression)
    assert made.kind == "absolute_error"
    assert [*regression.quality.components] == ["x"]
    rows = regressed(np.random.default_rng(2), 6000, shift)
    found = made.estimate(counts(binner, rows))
    assert found.value == pytest.approx(error(rows), rel=0.08)
    assert found.lower < error(rows) < found.upper
    assert found.value == pytest.approx(made.value(counts(binner, rows)))


@pytest.mark.parametrize("rows", [20, 100, 1000])
def test_intervals_cover_what_the_labels_show(classifier, regression, rows):
    """Of windows without drift, 95% are within the interval, whatever their size."""
    rng = np.random.default_rng(5)
    for profile, draw, measure in ((classifier, classified, accuracy), (regression, regressed, error)):
        binner, made = estimator(profile)
        hits = []
        for _ in range(150):
            window = draw(rng, rows)
            found = made.estimate(counts(binner, window))
            hits.append(found.lower <= measure(window) <= found.upper)
        assert np.mean(hits) >= 0.9


def test_a_concept_change_is_invisible_and_never_narrows_the_interval(classifier):
    """The same inputs with other labels give the same estimate: it knows nothing of the labels."""
    binner, made = estimator(classifier)
    same = classified(np.random.default_rng(7), 3000)
    changed = classified(np.random.default_rng(7), 3000, flipped=0.3)
    assert accuracy(changed) < accuracy(same) - 0.1
    assert made.estimate(counts(binner, changed)) == made.estimate(counts(binner, same))


def test_a_shifted_input_that_the_confidence_does_not_know_widens_the_interval(tmp_path):
    """Where accuracy depends on an input beyond the confidence, a shift of that input makes the estimate uncertain."""
    rng = np.random.default_rng(3)

    def draw(rows: int, share: float) -> Columns:
        columns = classified(rng, rows)
        columns["z"] = np.where(rng.random(rows) < share, 1.0, 0.0)
        wrong = (columns["z"] == 1) & (rng.random(rows) < 0.4)
        columns["label"] = np.where(wrong, np.where(columns["label"] == "yes", "no", "yes"), columns["label"])
        return columns

    binner, made = estimator(profiled(tmp_path, draw(8000, 0.3), **CLASSIFIER))
    usual, shifted = draw(3000, 0.3), draw(3000, 0.8)
    narrow, wide = (made.estimate(counts(binner, rows)) for rows in (usual, shifted))
    assert narrow.lower < accuracy(usual) < narrow.upper
    assert wide.upper - wide.lower > 3 * (narrow.upper - narrow.lower)
    assert wide.lower < accuracy(shifted) < wide.upper


@pytest.mark.parametrize("unsupported", [0.1, 0.4, 0.6])
def test_values_without_labelled_rows_widen_the_interval_and_beyond_half_there_is_no_estimate(
    regression, classifier, unsupported
):
    """Values outside the training range may have any loss."""
    for profile, draw in ((regression, regressed), (classifier, classified)):
        binner, made = estimator(profile)
        rows = draw(np.random.default_rng(4), 2000)
        before = made.estimate(counts(binner, rows))
        column = "sure" if "sure" in rows else "x"
        rows[column][: int(2000 * unsupported)] = -5.0 if column == "sure" else 500.0
        found = made.estimate(counts(binner, rows))
        if unsupported > 0.5:
            assert found is None
        else:
            assert found.upper - found.lower > before.upper - before.lower + 0.5 * unsupported


def test_a_feature_that_did_not_matter_may_still_leave_what_the_labelled_rows_know(tmp_path):
    """Where most of its values are unlike all of training, nothing is known of the model there: no estimate."""
    rng = np.random.default_rng(5)
    made_of = {**classified(rng, 4000), "idle": rng.random(4000)}
    binner, made = estimator(profiled(tmp_path, made_of, **CLASSIFIER))
    rows = {**classified(rng, 2000), "idle": rng.random(2000)}
    before = made.estimate(counts(binner, rows))
    rows["idle"][:800] = 9.0
    assert made.estimate(counts(binner, rows)) == before
    rows["idle"][:1200] = 9.0
    assert made.estimate(counts(binner, rows)) is None
    assert (made.absence(live := counts(binner, rows)), made.unlike(live)) == ("unsupported", ["idle"])


@pytest.mark.parametrize(
    ("sure", "accuracy_range"),
    [("constant", 0.0), ("reversed", 0.0), ("random", 0.05), ("perfect", 1.0)],
)
def test_odd_confidences_give_sane_estimates(tmp_path, sure, accuracy_range):
    """A confidence that is constant, reversed or random gives the overall accuracy; a perfect one gives certainty."""
    rng = np.random.default_rng(6)
    rows = classified(rng, 5000)
    right = rows["predicted"] == rows["label"]
    rows["sure"] = {
        "constant": np.full(5000, 0.9),
        "reversed": 1 - rows["sure"],
        "random": rng.random(5000),
        "perfect": right * 1.0,
    }[sure]
    binner, made = estimator(profiled(tmp_path, rows, **CLASSIFIER))
    assert np.ptp(made.table[:-2]) <= accuracy_range + 0.05
    found = made.estimate(counts(binner, rows))
    assert found.value == pytest.approx(accuracy(rows), abs=0.01)
    assert 0 <= found.lower < found.upper <= 1
    all_sure = made.estimate(counts(binner, {**rows, "sure": np.full(5000, rows["sure"].max())}))
    if sure == "reversed":  # nothing rises with the confidence, but it shifted and it mattered
        assert all_sure.upper - all_sure.lower > 0.2


@pytest.mark.parametrize("rows", [1, 19, 20, 40])
def test_a_handful_of_labels_estimates_nothing_or_widely(tmp_path, rows):
    """Below 20 labelled rows there is no estimate; with 20 its interval is wide."""
    for draw, options in ((classified, CLASSIFIER), (regressed, REGRESSION)):
        columns = draw(np.random.default_rng(8), 400)
        label = columns["label"]
        columns["label"] = label.astype(object)
        columns["label"][rows:] = None
        path = tmp_path / "rows.jsonl"
        lines = [
            dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)
        ]
        path.write_text("\n".join(map(json.dumps, lines)))
        binner, made = estimator(build_file(path, **options))
        found = made.estimate(counts(binner, columns))
        if rows < 20:
            assert found is None
            assert np.isnan(made.value(counts(binner, columns)))
        else:
            assert found.upper - found.lower > 0.1


def test_a_window_without_observations_has_no_estimate(classifier, regression):
    """Nothing observed, nothing estimated; predictions without a confidence do not count for a classifier."""
    for profile in (classifier, regression):
        binner, made = estimator(profile)
        assert made.estimate(np.zeros(binner.bins)) is None
        assert np.isnan(made.value(np.zeros(binner.bins)))
    binner, made = estimator(classifier)
    rows = classified(np.random.default_rng(0), 100)
    rows["sure"][:] = np.nan
    assert made.estimate(counts(binner, rows)) is None


def unconfident(rows: Columns, share: float, right: bool = True) -> Columns:
    """Rows of which the first ``share`` has no confidence, and is always right, or always wrong."""
    first = np.arange(len(rows["sure"])) < share * len(rows["sure"])
    label = np.where(first, rows["predicted"] if right else "neither", rows["label"])
    return {**rows, "sure": np.where(first, np.nan, rows["sure"]), "label": label}


def live_counts(binner: Binner, rows: Columns) -> np.ndarray:
    """Counts as a monitor makes them: confidences that are missing are not counted."""
    return counts(binner, {**rows, "sure": rows["sure"][~np.isnan(rows["sure"])]})


@pytest.mark.parametrize("always", [True, False])
def test_an_estimate_is_compared_with_the_rows_with_a_confidence(tmp_path, always):
    """Where rows without one are much better or worse, unchanged live data are near the reference of estimates."""
    rows = unconfident(classified(np.random.default_rng(1), 8000), 0.5, always)
    profile = profiled(tmp_path, rows, **CLASSIFIER)
    binner, made = estimator(profile)
    confident = ~np.isnan(rows["sure"])
    right = rows["predicted"] == rows["label"]
    assert made.overall == profile.quality.overall == pytest.approx(right.mean(), abs=1e-6)
    assert made.estimated_overall == pytest.approx(right[confident].mean(), abs=1e-9)
    assert (made.rows, made.estimated_rows) == (8000, 4000)
    live = unconfident(classified(np.random.default_rng(2), 8000), 0.5, always)
    found = made.estimate(live_counts(binner, live))
    assert found.lower < made.estimated_overall < found.upper
    assert found.upper < made.overall - 0.05 if always else found.lower > made.overall + 0.05
    assert found.upper - found.lower < 0.06
    (line,) = [line for line in quality_lines(profile) if "no valid confidence" in line]
    assert line.startswith("  50.0% of the labelled rows have no valid confidence, and are left out")
    assert line.endswith(
        f"{100 * made.estimated_overall:.1f}% of the others are right, {100 * right.mean():.1f}% of all"
    )


@pytest.mark.parametrize("labelled", [1.0, 0.99, 0.5])
def test_too_few_labelled_rows_with_a_confidence_leave_the_overall_accuracy(tmp_path, labelled):
    """With fewer than 20 of them nothing is estimated, so no other rows are the reference of an estimate."""
    rows = unconfident(classified(np.random.default_rng(1), 1500), labelled)
    profile = profiled(tmp_path, rows, **CLASSIFIER)
    _, made = estimator(profile)
    assert (made.overall, made.rows) == (profile.quality.overall, 1500)
    assert (made.estimated_overall == made.overall) == (labelled > 0.9)
    assert made.estimated_rows == (1500 if labelled > 0.9 else 750)


def test_an_interval_that_excludes_nothing_is_no_estimate(tmp_path):
    """Where past estimates were so far off that any accuracy is possible, there is none, and it is said why."""
    rng = np.random.default_rng(6)
    binner, made = estimator(profiled(tmp_path, classified(rng, 2000), **CLASSIFIER))
    live = counts(binner, classified(rng, 100))
    assert made.estimate(live, 0.05).lower > 0
    assert made.estimate(live, 1.0) is None
    assert made.absence(live) == "wide"


@pytest.mark.parametrize("own", [0.0, 0.5])
def test_predictions_that_lack_a_confidence_are_unsupported(tmp_path, own):
    """More of them than among the labelled rows widen the interval, and beyond half of them there is no estimate."""
    draw = np.random.default_rng
    profile = profiled(tmp_path, unconfident(classified(draw(1), 8000), own), **CLASSIFIER)
    binner, made = estimator(profile)
    rows = classified(draw(2), 4000)
    same = made.estimate(live_counts(binner, unconfident(rows, own)))
    assert same.upper - same.lower < 0.08
    for lacking in (0.2, 0.4):
        live = live_counts(binner, unconfident(rows, own + (1 - own) * lacking))
        found = made.estimate(live)
        assert found.upper - found.lower > same.upper - same.lower + 0.9 * lacking
        in_bins = live[-len(made.table) :][:-2]
        assert found.value == pytest.approx(in_bins @ made.table[:-2] / in_bins.sum(), abs=1e-12)
    for lacking in (0.6, 0.995):
        live = live_counts(binner, unconfident(rows, own + (1 - own) * lacking))
        assert made.estimate(live) is None
        assert made.absence(live) == "unconfident"
    assert made.absence(live_counts(binner, unconfident(rows, 1.0))) == "empty"


def test_redacted_inputs_are_left_out(regression, classifier):
    """An estimator of fewer features reads the counts of those alone."""
    for profile, draw in ((regression, regressed), (classifier, classified)):
        binner = Binner(profile, ["x"])
        found = binner.quality.estimate(counts(binner, draw(np.random.default_rng(0), 500)))
        assert found.value == pytest.approx(profile.quality.overall, rel=0.1)
    assert Binner(msgspec.structs.replace(profile, quality=None)).quality is None


def test_differences_between_periods_widen_the_interval(tmp_path):
    """With the times of the rows, how much the quality varied from one period to another is part of the interval."""
    rng = np.random.default_rng(9)
    rows = regressed(rng, 8000)
    rows["time"] = np.arange(8000.0) + 1.7e9
    rows["label"] = rows["predicted"] + (rows["label"] - rows["predicted"]) * (1.5 + np.sin(rows["time"] / 800))
    widths = []
    for options in ({"ignore": ["time"]}, {"time_column": "time"}):
        binner, made = estimator(profiled(tmp_path, rows, **REGRESSION, **options))
        found = made.estimate(counts(binner, rows))
        widths.append(found.upper - found.lower)
    assert widths[1] > 5 * widths[0]


@pytest.mark.parametrize(("predicted", "labels", "expected"), [
    ("7", ["7", "7.0", '"7"', "8", "null", "NaN", "[7]", "true"], ("accuracy", 5, 1, 0.6)),
    ("{}.5", ["1.5", '"high"', "null", "1e999", "true"], ("absolute_error", 1, 3, 1.0)),
])  # fmt: skip
def test_labels_that_can_be_compared(tmp_path, predicted, labels, expected):
    """7, 7.0 and "7" are one label; null and NaN are none; a list, and a text of a regression, are unusable."""
    path = tmp_path / "rows.jsonl"
    rows = enumerate(labels)
    path.write_text("\n".join(f'{{"x": {n}, "predicted": {predicted.format(n)}, "label": {one}}}' for n, one in rows))
    quality = build_file(path, **REGRESSION).quality
    assert (quality.kind, quality.rows, quality.unusable, quality.overall) == expected


def test_a_file_without_a_usable_label_has_no_quality(tmp_path):
    """Without labels the profile is as before, and its hash too."""
    rows = classified(np.random.default_rng(1), 300)
    rows["label"] = np.full(300, np.nan)
    profile = profiled(tmp_path, rows, **CLASSIFIER)
    without = profiled(tmp_path, rows, prediction_column="predicted", confidence_column="sure", ignore=["label"])
    assert profile.quality is None
    assert profile.digest() == without.digest()


def test_a_quality_is_saved_and_checked(tmp_path, regression, classifier):
    """The file holds it; what contradicts the profile is refused by name."""
    for profile in (regression, classifier):
        save(profile, tmp_path / "p.json")
        assert load(tmp_path / "p.json").quality == profile.quality

    def refusal(profile: Profile, **fields: object) -> str:
        quality = msgspec.structs.replace(profile.quality, **fields)
        save(msgspec.structs.replace(profile, quality=quality), tmp_path / "p.json")
        with pytest.raises(ProfileError) as caught:
            load(tmp_path / "p.json")
        return str(caught.value).removeprefix(f"{tmp_path / 'p.json'}: ")

    assert refusal(classifier, overall=1.5) == "quality.overall: expected an accuracy from 0 to 1"
    assert refusal(classifier, calibration_rows=(1, 2)).startswith("quality.calibration_rows: expected 24 counts")
    right = classifier.quality.calibration_rows
    assert "no more right ones" in refusal(classifier, calibration_right=tuple(n + 1 for n in right))
    component = regression.quality.components["x"]
    other = {"age": component}
    assert refusal(regression, components=other) == 'quality.components: "age" is not a feature of the profile'
    short = {"x": msgspec.structs.replace(component, values=(0.0,))}
    assert refusal(regression, residuals=short) == "quality.residuals.x: expected 24 numbers, one for each bin"
    assert "overall" in refusal(regression, overall=-1.0)
    assert "kind" in refusal(regression, kind="f1")
