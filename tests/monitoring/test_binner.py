from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import count

from exporter.monitoring.binner import Binner
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.profile import NumericFeature, Profile
from exporter.stats.divergence import bin_indices, pad_edges

FINITE = st.floats(allow_nan=False, allow_infinity=False)
COLUMN = st.lists(st.integers(-5, 5).map(float) | FINITE, min_size=1, max_size=200)
EDGE_CASES = [
    [3.0] * 50,
    [0.0, 1.0] * 30,
    [-0.0, 0.0, 5e-324, -5e-324],
    [1e-300 * n for n in range(100)],
    [1e300 * n for n in range(100)],
    [1.7976931348623157e308, -1.7976931348623157e308, 0.0],
    [float(2**53 + n) for n in range(40)],
    [float(2**63 + n * 2**12) for n in range(40)],
    [1e9 + n / 1000 for n in range(500)],
    [7.0],
]


def binner_of(**columns: list[float]) -> Binner:
    features = {name: numeric_feature(np.array(values, dtype=float)) for name, values in columns.items()}
    return Binner(Profile("p", 1, dict.fromkeys(columns, "numeric"), features))


def bin_of(binner: Binner, value: object) -> int:
    """The bin that one value of the input ``x`` falls into."""
    row, *_ = count(binner, [{"x": value}], [])
    (indices,) = np.nonzero(binner.split(row).counts)
    assert len(indices) == 1
    return int(indices[0])


def check_frozen(values: list[float]) -> None:
    feature = numeric_feature(np.array(values))
    edges = feature.edges
    assert sum(feature.counts) == len(values)
    assert len(feature.counts) == len(edges) + 3
    assert all(low < high for low, high in itertools.pairwise(edges))
    assert all(math.isfinite(edge) for edge in edges)
    assert feature.counts[0] == feature.counts[-1] == feature.counts[-2] == 0
    assert feature.min == min(values)
    assert feature.max == max(values)
    assert feature.labels() == sorted(feature.labels())
    assert len(set(feature.labels())) == len(feature.counts)


@settings(max_examples=100, deadline=None)
@given(COLUMN.map(lambda values: [value for value in values if abs(value) < 1e308] or [0.0]))
def test_every_training_value_lies_in_one_inner_bin(values):
    """Counts add up, edges increase, and no training value is below, above, missing or invalid."""
    check_frozen(values)


@pytest.mark.parametrize(
    "values", [case for case in EDGE_CASES if max(case) < 1e308], ids=lambda values: f"{values[:2]}"
)
def test_unusual_columns_are_binned(values):
    """Constants, two values, tiny and huge scales, and integers beyond 2^53 get valid bins."""
    check_frozen(values)


def test_the_largest_float_has_no_edge_above_it():
    """A profile has no infinite edge, even if training contains the largest float."""
    feature = numeric_feature(np.array(EDGE_CASES[5]))
    assert all(math.isfinite(edge) for edge in feature.edges)
    assert sum(feature.counts) == 3


@settings(max_examples=100, deadline=None)
@given(COLUMN, st.lists(FINITE, min_size=1, max_size=50))
def test_every_finite_value_falls_into_exactly_one_bin(training, live):
    """Live counts add up to the number of values, and each lies between the edges of its bin."""
    binner = binner_of(x=training)
    edges = [-math.inf, *binner.targets[0].edges, math.inf]
    for value in live:
        index = bin_of(binner, value)
        assert edges[index] <= value < edges[index + 1]
    row, lows, *_ = count(binner, [{"x": value} for value in live], [])
    assert binner.split(row).counts.sum() == len(live)
    assert (lows[0], -lows[1]) == (min(live), max(live))


@pytest.mark.parametrize(
    "values", [case for case in EDGE_CASES if max(case) < 1e308], ids=lambda values: f"{values[:2]}"
)
def test_the_training_range_is_inside_and_its_neighbours_outside(values):
    """The training minimum and maximum are inside; the adjacent floats are below and above, and unseen."""
    binner = binner_of(x=values)
    top = len(binner.targets[0].edges)
    assert bin_of(binner, min(values)) == 1
    assert 1 <= bin_of(binner, max(values)) < top
    assert bin_of(binner, float(np.nextafter(min(values), -np.inf))) == 0
    assert bin_of(binner, float(np.nextafter(max(values), np.inf))) == top
    outside = [{"x": float(np.nextafter(max(values), np.inf))}, {"x": float(np.nextafter(min(values), -np.inf))}]
    row, *_ = count(binner, [*outside, {"x": min(values)}], [])
    assert binner.split(row).unseen.tolist() == [2]


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e300])
def test_continuous_data_has_twenty_bins_of_equal_share_and_four_others(scale):
    """Twenty inner bins of 5% each, below, above, missing and invalid, whatever the scale."""
    feature = numeric_feature(np.random.default_rng(5).random(10_000) * scale)
    assert len(feature.counts) == 24
    assert set(feature.counts[1:-3]) == {500}
    assert feature.mean == pytest.approx(scale / 2, rel=0.02)
    assert feature.stddev == pytest.approx(scale / math.sqrt(12), rel=0.02)


@settings(max_examples=50, deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=100), st.sampled_from([0.0, -3.5, 1e-300, 1e300, 2.0**53]))
def test_a_value_with_more_than_a_bins_share_is_alone(others, atom):
    """A value that half of the training data has gets a bin of its own."""
    edges = numeric_feature(np.array([*others, *[atom] * len(others)])).edges
    index = edges.index(atom)
    assert index + 1 == len(edges) or edges[index + 1] == np.nextafter(atom, np.inf)


def test_a_column_without_numbers_has_one_bin():
    """An all-missing column is profiled, and a later number is counted, but not unseen."""
    feature = numeric_feature(np.array([np.nan, np.nan, np.inf]))
    assert feature == NumericFeature((), (0, 2, 1))
    assert feature.labels() == ["00 any", "01 missing", "02 invalid"]
    binner = Binner(Profile("p", 3, {"x": "numeric"}, {"x": feature}))
    row, lows, *_ = count(binner, [{"x": 5}, {"x": None}, {"x": "a"}], [])
    sums = binner.split(row)
    assert sums.counts.tolist() == [1, 1, 1]
    assert sums.unseen.tolist() == [0]
    assert lows.tolist() == [5, -5]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(COLUMN, COLUMN), min_size=1, max_size=5), st.booleans())
def test_comparison_with_all_edges_equals_a_search(features, more):
    """The bins of many numbers at once equal those of separate searches; numpy's buffer size is kept."""
    size = min(len(values) for values, _ in features)
    matrix = np.array([values[:size] for values, _ in features])
    edges = [np.unique([*edges, *np.linspace(-9, 9, 200)] if more else edges) for _, edges in features]
    searched = [
        feature_edges.searchsorted(row, side="right").tolist() for feature_edges, row in zip(edges, matrix, strict=True)
    ]
    assert bin_indices(pad_edges(edges), matrix).tolist() == searched
    wide = np.tile(matrix, 40_000 // size)  # more than one block
    before = np.getbufsize()
    assert bin_indices(pad_edges(edges), wide)[:, :size].tolist() == searched
    assert np.getbufsize() == before


def test_categories_are_the_most_frequent_in_order():
    """The most frequent categories have bins, ties in the order of their names; the others are stored as rare."""
    feature = categorical_feature({"b": 5, "a": 5, "c": 9, "d": 1, "e": 1}, missing=2, invalid=3, top=3)
    assert feature.categories == ("c", "a", "b")
    assert feature.counts == (9, 5, 5, 2, 2, 3)
    assert feature.rare == {"d", "e"}
    assert feature.labels() == ["00 c", "01 a", "02 b", "03 other", "04 missing", "05 invalid"]


def test_labels_sort_beyond_a_hundred_bins_and_are_short():
    """With more than a hundred bins indices have three digits, and a long category is cut to 64 characters."""
    labels = categorical_feature({f"{n:03d}" + "x" * 100: 1 for n in range(120)}, 0, 0, top=120).labels()
    assert labels == sorted(labels)
    assert labels[7] == "007 007" + "x" * 60 + "…"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "age": st.none() | st.integers() | FINITE | st.text() | st.booleans() | st.lists(st.integers()),
                "country": st.none() | st.sampled_from(["NL", "DE", "XX"]) | st.integers(0, 3) | st.lists(st.none()),
                "photo": st.none() | st.text() | st.just([[1, 2], [3, 4]]) | st.just([[]]) | st.just([[1], [2, 3]]),
                "new": st.integers(),
                "secret": st.text(),
            },
        ),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.sampled_from(["yes", "no", "?", 3, True]), max_size=8),
    st.integers(1, 8),
)
def test_any_inputs_are_counted_once_per_target(inputs, predictions, cut):
    """Each target's counts add up to its events, whatever the inputs, and batches add up to the total."""
    binner = mixed_binner()
    row, _, _, unknown = count(binner, inputs, predictions)
    counts = np.add.reduceat(binner.split(row).counts, binner.starts)
    assert counts.tolist() == [len(inputs)] * len(binner.names) + [len(predictions)]
    assert unknown == sum("new" in event for event in inputs)
    parts = sum(count(binner, inputs[at : at + cut], [])[0] for at in range(0, len(inputs), cut))
    parts += count(binner, [], predictions)[0]
    assert parts == pytest.approx(row, rel=1e-9, abs=1e-9)


def mixed_binner() -> Binner:
    features = {"age": numeric_feature(np.arange(100.0)), "country": categorical_feature({"NL": 9, "DE": 5}, 0, 0)}
    for statistic in ("intensity_mean", "intensity_stddev", "contrast", "sharpness"):
        features[f"photo.{statistic}"] = numeric_feature(np.arange(50.0))
    inputs = {"age": "numeric", "country": "categorical", "photo": "image", "secret": "categorical"}
    features["secret"] = categorical_feature({"a": 1}, 0, 0)
    return Binner(Profile("p", 100, inputs, features, categorical_feature({"yes": 3, "no": 5}, 0, 0)), {"secret"})


def test_a_redacted_input_has_no_target_and_is_not_unknown():
    """A redacted input is counted nowhere, not even among the unknown ones."""
    binner = mixed_binner()
    assert binner.names == [
        "age",
        "country",
        *(f"photo.{s}" for s in ("intensity_mean", "intensity_stddev", "contrast", "sharpness")),
    ]
    assert count(binner, [{"secret": "a", "age": 3, "country": "NL", "photo": None}], []).unknown == 0


def test_unknown_features_are_only_counted():
    """Unknown features are counted, and nothing else of them is stored."""
    binner = mixed_binner()
    row, _, _, unknown = count(binner, [{f"f{n}": n for n in range(5000)}, {"age": 4}], [])
    assert unknown == 5000
    assert len(row) == binner.width


def test_a_profile_without_targets_counts_nothing():
    """If everything is redacted there is nothing to count, and no error."""
    profile = Profile("p", 1, {"x": "numeric"}, {"x": numeric_feature(np.arange(9.0))})
    binner = Binner(profile, {"x"})
    row, lows, _, unknown = count(binner, [{"x": 3}], ["a"])
    assert (row.shape, lows.shape, unknown) == ((0,), (0,), 0)


def test_predictions_of_a_regression_are_counted_as_numbers():
    """A numeric prediction has bins, moments and a range."""
    profile = Profile("p", 1, {}, {}, numeric_feature(np.arange(100.0)))
    binner = Binner(profile)
    row, lows, *_ = count(binner, [], [5, 7.5, -1, "x", math.pi])
    sums = binner.split(row)
    assert sums.counts[0] == 1
    assert sums.counts[-1] == 1
    assert sums.valid.tolist() == [4]
    assert lows.tolist() == [-1, -7.5]
