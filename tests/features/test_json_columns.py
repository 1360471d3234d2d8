from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import count

from exporter.monitoring.binner import Binner
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.profile import Profile

NAMES = ("age", "height", "country")


def binner_of(numbers: tuple[str, ...] = NAMES[:2], categories: tuple[str, ...] = NAMES[2:]) -> Binner:
    features: dict[str, Any] = {name: numeric_feature(np.arange(100.0)) for name in numbers}
    features |= {name: categorical_feature({"NL": 5, "BE": 3}, 0, 0) for name in categories}
    return Binner(
        Profile("p", 100, dict.fromkeys(numbers, "numeric") | dict.fromkeys(categories, "categorical"), features)
    )


def texts(events: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(event).encode() for event in events]


def check_alike(binner: Binner, events: list[dict[str, Any]]) -> bool:
    """Whether the events are read straight from JSON; what is counted is the same in any case."""
    read = binner.read(texts(events))
    if read is None:
        return False
    for actual, expected in zip(binner.count_columns(*read, []), count(binner, events, [])[:3], strict=True):
        np.testing.assert_array_equal(actual, expected)
    return True


NUMBER = st.integers(-5, 200) | st.floats(-1e300, 1e300) | st.integers(-(10**30), 10**30)
EXPECTED = st.fixed_dictionaries(
    {}, optional={"age": NUMBER | st.none(), "height": NUMBER, "country": st.sampled_from(["NL", "FR", None, 3, True])}
)


@settings(max_examples=200, deadline=None)
@given(st.lists(EXPECTED, max_size=20))
def test_direct_decoding_counts_as_mappings_do(events: list[dict[str, Any]]) -> None:
    """Numbers of any size, null and absent values are read directly from JSON, with the same counts as decoded ones."""
    assert check_alike(binner_of(), events)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from([*NAMES, "more"]), st.none() | st.booleans() | NUMBER | st.text(max_size=3))
    )
)
def test_direct_decoding_is_correct_or_falls_back(events: list[dict[str, Any]]) -> None:
    """Any input is counted alike, or left to the slow path."""
    check_alike(binner_of(), events)


@pytest.mark.parametrize(
    "text",
    ['{"age": true}', '{"age": "3"}', '{"age": [1]}', '{"age": 1e999}', '{"more": 1}', "[1]", '{"age": NaN}', "{"],
)
def test_the_slow_path(text: str) -> None:
    """One event that is not as expected, first or not, sends the batch to the slow path."""
    binner = binner_of()
    assert binner.read([text.encode()]) is None
    assert binner.read([b'{"age": 1}', text.encode()]) is None
    assert binner.read([b'{"age": 1}']) is not None


def test_events_without_inputs() -> None:
    """Events without inputs give no rows."""
    read = binner_of().read([b"", b'{"age": 3}', b"null"])
    assert read is not None
    assert read[1] == 1
    nothing = binner_of().read([b"", b"null"])
    assert nothing is not None
    assert not binner_of().count_columns(*nothing, [])[0].any()
