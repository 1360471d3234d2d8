from __future__ import annotations

import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.profiles.bins import (
    MAX_CATEGORY,
    CategoryCounts,
    CategorySketch,
    NumericSketch,
    RowSample,
    categorical_feature,
    numeric_feature,
)
from exporter.profiles.profile import NumericFeature

RNG = np.random.default_rng(2)
STREAMS = {
    "normal": RNG.normal(size=60_000),
    "log-normal": RNG.lognormal(0, 3, 60_000),
    "ascending": np.sort(RNG.normal(size=60_000)),
    "descending": -np.sort(RNG.normal(size=60_000)),
    "zero-heavy": np.where(RNG.random(60_000) < 0.7, 0.0, RNG.exponential(size=60_000)),
    "atoms": np.where(RNG.random(60_000) < 0.06, 0.25, RNG.random(60_000)),
    "integers": RNG.integers(0, 30_000, 60_000).astype(float),
    "huge": RNG.normal(size=60_000) * 1e307,
    "tiny": RNG.random(60_000) * 1e-300,
    "far": 1e9 + RNG.normal(size=60_000),
    "extremes": np.concatenate((RNG.normal(size=59_998), [1.7e308, -1.7e308])),
}


def tallied(values: np.ndarray, limit: int, parts: int = 13, bins: int = 20) -> tuple[NumericFeature, int]:
    """Count a column in parts, each by a sketch of its own that is merged with those before; and in how many passes."""
    tally, sample, first = NumericSketch(bins, limit), RowSample(16_384), 0
    for part in np.array_split(values, parts):
        one = NumericSketch(bins, limit)
        one.add(part)
        tally.merge(one)
        chosen = sample.choose(np.arange(first, first + len(part)))
        sample.add(first + chosen, [part[chosen]])
        first += len(part)
    found = tally.finish(sample.columns()[0] if first else np.empty(0))
    if isinstance(found, NumericFeature):
        return found, 1
    start = pickle.dumps(found)
    for part in np.array_split(values, parts):
        one = pickle.loads(start)
        one.add(part)
        found.merge(one)
    return found.feature(), 2


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-3, 3).map(float) | st.floats(width=32), max_size=100),
    st.integers(1, 7),
)
def test_values_that_fit_give_exact_bins(values, parts):
    """A column in any number of parts gives the same bins, counts and moments as at once."""
    column = np.array(values, dtype=float)
    assert tallied(column, 1000, parts)[0] == numeric_feature(column)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("bins", [2, 20, 500])
def test_distinct_values_and_values_in_order_give_the_same_bins(name, bins):
    """Counting the distinct values of a stream and sorting all of a column freeze the very same feature."""
    values = np.concatenate((STREAMS[name], [np.nan, np.inf, -np.inf]))
    assert tallied(values, len(values), bins=bins) == (numeric_feature(values, bins), 1)


@pytest.mark.parametrize("name", STREAMS)
def test_a_column_that_does_not_fit_has_exact_counts_and_bins_of_nearly_equal_frequency(name):
    """Beyond the limit, counts, extremes and moments are exact, and bins have nearly equal shares."""
    values = np.concatenate((STREAMS[name], [np.nan, np.inf, -np.inf]))
    (feature, passes), exact = tallied(values, 1000), numeric_feature(values)
    assert passes == 2
    edges = np.array(feature.edges)
    finite = np.sort(values[np.isfinite(values)])
    assert np.diff(finite.searchsorted(edges)).tolist() == list(feature.counts[1 : len(edges)])
    assert sum(feature.counts) == len(values)
    assert (feature.counts[0], feature.counts[-2:]) == (0, (1, 2))
    assert (feature.min, feature.max) == (exact.min, exact.max)
    assert feature.mean == pytest.approx(exact.mean, rel=1e-9, abs=1e-9 * exact.stddev)
    assert feature.stddev == pytest.approx(exact.stddev, rel=1e-6)
    assert abs(len(feature.counts) - len(exact.counts)) <= 1
    share = len(finite) / 20
    single = edges[1:] == np.nextafter(edges[:-1], np.inf)
    inner = np.array(feature.counts[1 : len(edges)])
    assert inner[~single].max() < 1.25 * share
    heavy = {value for value, times in Counter(finite.tolist()).items() if times > share}
    assert set(edges[:-1][single].tolist()) == heavy


def test_a_sample_does_not_depend_on_parts():
    """The rows of a sample are the same, however they come, and are spread evenly."""
    samples = []
    for parts in (1, 7, 500):
        whole = RowSample(1000)
        for rows in np.array_split(np.arange(100_000), parts):
            one = RowSample(1000)
            chosen = one.choose(rows)
            one.add(rows[chosen], [rows[chosen] * 2.0])
            whole.merge(one)
        samples.append(whole.columns()[0])
    assert len(samples[0]) == 1000
    assert all(np.array_equal(samples[0], other) for other in samples[1:])
    assert np.histogram(samples[0], 10, (0, 200_000))[0].min() > 70


@pytest.mark.parametrize("name", STREAMS)
def test_parts_of_a_column_that_does_not_fit_give_the_same_bins(name):
    """Bins, counts and moments are equal to the last digit, whatever the parts."""
    assert tallied(STREAMS[name], 100, 3) == tallied(STREAMS[name], 100, 41)


def test_frequent_categories_are_counted_exactly():
    """Beyond the limit frequent categories are found among many rare ones, with exact counts."""
    rng = np.random.default_rng(4)
    labels = [f"c{n}" if n < 30 else f"rare{rng.integers(10**6)}" for n in rng.integers(0, 60, 20_000)]
    tally = CategorySketch(20, most=500)
    parts = [labels[start : start + 777] for start in range(0, len(labels), 777)]
    for part in parts:
        tally.add(part)
    counts = tally.finish(labels[::2])
    assert isinstance(counts, CategoryCounts)
    for part in parts:
        counts.add(part)
    feature, truth = counts.feature(), Counter(labels)
    assert {name: truth[name] for name in feature.categories} == dict(
        zip(feature.categories, feature.counts, strict=False)
    )
    assert set(feature.categories) == {name for name, _ in truth.most_common(20)}
    assert sum(feature.counts) == len(labels)


def test_categories_in_parts_are_the_same():
    """Scalars are written as in JSON; null and NaN are missing, other values are invalid."""
    tally = CategorySketch(50)
    tally.add(["a", 1, True, None])
    tally.add(["a", 1.0, math.nan, [1], {}])
    assert tally.finish([]) == categorical_feature({"a": 2, "1": 2, "true": 1}, 2, 2)


@pytest.mark.parametrize(
    ("labels", "counts", "missing", "invalid"),
    [
        (["a", "b", "a", None], {"a": 2, "b": 1}, 1, 0),
        ([0.0, -0.0, math.nan, math.inf, 2.5, None, float("nan")], {"0": 2, "inf": 1, "2.5": 1}, 3, 0),
        ([True, False, True], {"true": 2, "false": 1}, 0, 0),
        ([1, 10**400, 1], {"1": 2, str(10**400): 1}, 0, 0),
        ([1, True, 1.0, "1", "true"], {"1": 3, "true": 2}, 0, 0),
        ([None, None], {}, 2, 0),
        ([[1], [1], None], {}, 1, 2),
        ([{}, "a", (), None], {"a": 1}, 1, 2),
    ],
)
def test_categories_of_one_type_are_those_of_several(labels, counts, missing, invalid):
    """Values of one type are counted before they are spelt, those of several types after."""
    tally = CategorySketch(50)
    tally.add(labels)
    assert tally.finish([]) == categorical_feature(counts, missing, invalid)


def test_a_category_of_a_megabyte_is_other():
    """A category too long for a profile counts in ``other``, and its text is not stored."""
    tally = CategorySketch(50)
    tally.add(["x" * 1_000_000, "y" * MAX_CATEGORY])
    feature = tally.finish([])
    assert feature.categories == ("y" * MAX_CATEGORY,)
    assert feature.counts == (1, 1, 0, 0)
