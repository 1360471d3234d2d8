"""The search for slices: what it finds, what it leaves out, and that chance makes none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.flights import write_model
from support.review_rows import put

from exporter.monitoring.binner import Binner
from exporter.profiles.profile import load
from exporter.slices import population
from exporter.slices import search as module
from exporter.slices.population import find_corrections, parse_bins
from exporter.slices.search import Bins, ByTime, ByUser, search
from exporter.storage import Filter, Store, _review

ROWS, FEATURES, BINS = 20_000, 8, 10


def codes_of(rng: np.random.Generator, rows: int = ROWS, features: int = FEATURES, bins: int = BINS) -> Any:
    """Independent features with bins of equal frequency."""
    return rng.integers(0, bins, (features, rows), dtype=np.uint8)


def marks(rng: np.random.Generator, codes: Any, base: float, **planted: tuple[Bins, float]) -> Any:
    """Mark rows with a base rate, and with other rates where all bins of a planted slice are."""
    rate = np.full(codes.shape[1], base)
    for bins, other in planted.values():
        rate[np.all([codes[feature] == index for feature, index in bins], axis=0)] = other
    return rng.random(codes.shape[1]) < rate


def test_planted_slices_are_found_in_their_order() -> None:
    """A pair and a single bin are found, each as it was planted, and nothing beside them."""
    rng = np.random.default_rng(1)
    codes = codes_of(rng)
    marked = marks(rng, codes, 0.005, pair=(((1, 4), (6, 2)), 0.5), single=(((3, 7),), 0.03))
    found = search(codes, marked, 10)
    assert [one.bins for one in found.slices] == [((1, 4), (6, 2)), ((3, 7),)]
    first = (codes[1] == 4) & (codes[6] == 2)
    assert (found.slices[0].size, found.slices[0].marked) == (first.sum(), (first & marked).sum())
    assert found.tests == FEATURES * BINS + FEATURES * (FEATURES - 1) // 2 * BINS**2


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_chance_makes_no_slice(rate: float) -> None:
    """Of 60 searches without a planted slice, at most a few find anything; 5% may."""
    wrong = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        codes = codes_of(rng, 4000)
        wrong += bool(search(codes, marks(rng, codes, rate), 3).slices)
    assert wrong <= 6


def test_a_sample_finds_what_all_rows_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sample of a tenth, the pair is found with the same exact numbers."""
    rng = np.random.default_rng(2)
    codes = codes_of(rng)
    marked = marks(rng, codes, 0.1, pair=(((0, 1), (2, 3)), 0.5))
    exact = search(codes, marked, 3)
    monkeypatch.setattr(module, "SAMPLE", 1000)
    assert search(codes, marked, 3).slices == exact.slices
    assert exact.slices[0].bins == ((0, 1), (2, 3))


def test_a_pair_is_not_reported_where_one_bin_explains_it() -> None:
    """Where a bin has a higher rate everywhere, the bin is the slice; equal features do not repeat it."""
    rng = np.random.default_rng(3)
    codes = codes_of(rng)
    codes[5] = codes[2]
    marked = marks(rng, codes, 0.01, single=(((2, 3),), 0.2))
    (only,) = search(codes, marked, 10).slices
    assert only.bins in {((2, 3),), ((5, 3),)}


def test_a_slice_needs_several_users() -> None:
    """The marks of one user are no slice, and neither are those of two in a slice where each of many has a few."""
    rng = np.random.default_rng(4)
    codes = codes_of(rng)
    marked = marks(rng, codes, 0.005, pair=(((1, 4), (6, 2)), 0.5))
    number = int(marked.sum())
    inside = ((codes[1] == 4) & (codes[6] == 2))[marked]
    many = np.arange(number) % 20
    assert search(codes, marked, 5, ByUser(many, ROWS)).slices[0].bins == ((1, 4), (6, 2))
    assert search(codes, marked, 5, ByUser(np.zeros(number, int), ROWS)).slices == []
    assert search(codes, marked, 5, ByUser(np.where(inside, 20, many), ROWS)).slices == []


def test_a_slice_that_varies_with_time_has_not_drifted() -> None:
    """A bin whose share changes from block to block has not grown; one that is steady, and then larger, has."""
    rng = np.random.default_rng(5)
    codes = codes_of(rng)
    blocks = np.arange(ROWS) * 40 // ROWS
    later = blocks >= 20
    share = np.where(blocks % 2 == 1, 0.3, 0.0) + 0.02 * later
    varied, steady = codes.copy(), codes.copy()
    varied[1][rng.random(ROWS) < share] = 4
    steady[1][later & (rng.random(ROWS) < 0.05)] = 4
    assert search(varied, later, 5, ByTime(blocks, later)).slices == []
    assert search(steady, later, 5, ByTime(blocks, later), 1.1).slices[0].bins == ((1, 4),)


def test_only_the_features_that_stand_out_are_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more features than a search pairs, it says how many were left out, and counts all pairs as tests."""
    rng = np.random.default_rng(6)
    codes = codes_of(rng)
    marked = marks(rng, codes, 0.01, pair=(((1, 4), (6, 2)), 0.9))
    monkeypatch.setattr(module, "MAX_FEATURES", 3)
    found = search(codes, marked, 3)
    assert found.slices[0].bins == ((1, 4), (6, 2))
    assert (found.left_out, found.tests) == (FEATURES - 3, search(codes, ~marked, 1).tests)


@pytest.mark.parametrize(
    ("codes", "marked"),
    [
        (np.empty((3, 0), np.uint8), np.empty(0, np.bool_)),
        (np.empty((0, 5), np.uint8), np.ones(5, np.bool_)),
        (np.zeros((2, 50), np.uint8), np.zeros(50, np.bool_)),
        (np.zeros((2, 50), np.uint8), np.ones(50, np.bool_)),
        (np.zeros((2, 50), np.uint8), np.arange(50) < 3),
        (np.arange(100).reshape(2, 50).astype(np.uint16), np.arange(50) < 25),
        (np.vstack([np.arange(50) < 3, np.arange(50) < 3]).astype(np.uint8), np.arange(50) < 3),
    ],
)
def test_what_is_too_little_has_no_slices(codes: Any, marked: Any) -> None:
    """Without rows, features, marks or unmarked rows, and in bins of few rows, nothing is found."""
    assert search(codes, marked, 5).slices == []


def test_a_feature_of_many_bins_is_bounded() -> None:
    """Of 60,000 categories the few with enough rows are searched."""
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 60_000, (2, ROWS)).astype(np.uint16)
    codes[0][:400] = 7
    marked = rng.random(ROWS) < 0.01
    marked[:200] = True
    (only,) = search(codes, marked, 5).slices
    assert only.bins == ((0, 7),)


@pytest.fixture(scope="module")
def binner(tmp_path_factory: pytest.TempPathFactory) -> Binner:
    """The bins of flights."""
    folder: Path = tmp_path_factory.mktemp("model")
    write_model(folder)
    return Binner(load(folder / "flights.json"), {"pilot"})


def found(store: Store, binner: Binner, **where: str) -> tuple[list[int], bool]:
    """Return the corrections in bins, each named without its number."""
    names = {
        name: next(label for label in binner.targets[binner.target_names.index(name)].labels() if label[3:] == text)
        for name, text in where.items()
    }
    bins = parse_bins(binner, json.dumps(names))
    ids, truncated = find_corrections(store, binner, bins, Filter(model="digits"))
    return sorted(ids), truncated


def test_a_look_is_bounded_in_rows_and_time(store: Store, binner: Binner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest corrections are looked at first, and the answer says if there are older ones."""
    put(store, [{"inputs": '{"carrier": "MQ"}'} for _ in range(25)])
    monkeypatch.setattr(_review, "INPUT_ROWS", 10)
    assert found(store, binner, carrier="MQ") == (list(range(1, 26)), False)
    monkeypatch.setattr(population, "MOST_LOOKED_AT", 20)
    assert found(store, binner, carrier="MQ") == (list(range(6, 26)), True)
    monkeypatch.setattr(population, "LOOK_SECONDS", 0.0)
    assert found(store, binner, carrier="MQ") == (list(range(16, 26)), True)


def test_large_inputs_are_read_in_parts(store: Store, binner: Binner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that is larger than a part is read alone."""
    monkeypatch.setattr(_review, "PAGE_CHARACTERS", 50)
    texts = ['{"carrier": "MQ"}', json.dumps({"carrier": "MQ", "dest": "x" * 100}), '{"carrier": "MQ"}'] * 3
    put(store, [{"inputs": text} for text in texts])
    assert found(store, binner, carrier="MQ")[0] == list(range(1, 10))
