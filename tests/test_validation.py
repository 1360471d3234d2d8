from __future__ import annotations

import doctest
import importlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory import allocating
from support.paths import ROOT

from exporter import validation
from exporter.validation import any_of, format_path, json_pointer, parse_duration, preview, suggestion

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "exporter").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_are_correct(module):
    """Every example in a docstring gives the stated result."""
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@given(st.lists(st.text() | st.integers(0, 99), max_size=5))
def test_a_pointer_can_be_converted_back_to_its_path(path):
    """A pointer follows RFC 6901: read by its rules it gives the steps again."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in json_pointer(tuple(path)).split("/")[1:]]
    assert steps == [str(step) for step in path]


def test_paths_are_written_as_in_yaml():
    """Keys are separated by dots, list indexes are in brackets, and the root has no name."""
    assert format_path(()) == ""
    assert format_path(("models", 0, "windows", 1)) == "models[0].windows[1]"
    assert format_path((0, "name")) == "[0].name"


@settings(max_examples=50)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_a_value_is_shown_as_short_json(value):
    """A short value is shown as JSON, a long one is cut to 60 characters."""
    text = preview(value)
    assert len(text) <= 60
    assert text.endswith("…") or json.loads(text) == value


def test_a_value_that_json_cannot_show_is_an_ellipsis():
    """A circular or too deeply nested value is not shown."""
    endless: list = []
    endless.append(endless)
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert preview(endless) == preview(deep) == "…"


def test_a_suggestion_is_the_nearest_name_or_all_of_them():
    """A typing error gets one suggestion, anything else the first twenty valid names."""
    assert suggestion("windws", ["windows", "name"]) == 'did you mean "windows"?'
    assert suggestion("zzz", ["b", "a"]) == "valid values: a, b"
    assert suggestion("zzz", []) == "there are none"
    assert suggestion("zzz", map(str, range(1000))).count(",") == 19


def test_a_very_long_name_gets_no_suggestion_quickly():
    """A text longer than any valid name is not compared with the names."""
    with allocating(100_000):
        assert suggestion("models" * 10_000, ["models"]) == "valid values: models"
    assert suggestion("m" * 124 + "odel", ["m" * 124 + "odels"]).startswith("did you mean")


def test_many_words_are_compared_for_a_moment(monkeypatch):
    """A request may name many models that are not known: the server answers others meanwhile."""
    monkeypatch.setattr(validation, "_COMPARED", [0.0])
    words = [f"{number:064b}" for number in range(1500)]
    hints = [suggestion(word, words[:200]) for word in words[500:]]
    assert (hints[0][:12], hints[-1][:12]) == ("did you mean", "valid values")


def test_names_are_listed_with_or():
    """One name, two, and more."""
    assert [any_of("a"), any_of("ab"), any_of("abc")] == ["a", "a or b", "a, b or c"]


@given(st.text("0123456789smhdw x.-", max_size=8))
def test_a_duration_is_seconds_or_refused(text):
    """Any text is a positive duration or a ValueError."""
    try:
        assert parse_duration(text) > 0
    except ValueError as error:
        assert str(error).startswith("expected a duration such as 5m or 1h, got ")


def test_durations_are_written_as_in_prometheus():
    """Units add up."""
    lengths = {"10s": 10, "5m": 300, "1h30m": 5400, "1d": 86400, "1w": 604800, "1w2d": 777600}
    assert {text: parse_duration(text) for text in lengths} == lengths
