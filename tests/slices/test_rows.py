"""Which corrections are in a slice, whatever their inputs are, on both databases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.flights import write_model
from support.review_rows import put

from exporter.monitoring.binner import Binner
from exporter.profiles.profile import load
from exporter.slices import population
from exporter.slices.population import find_corrections, parse_bins
from exporter.storage import Filter, Store, _review


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
