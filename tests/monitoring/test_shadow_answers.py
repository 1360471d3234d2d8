"""Answers of two versions to the same request: which are paired, which differ, and that memory is bounded."""

from __future__ import annotations

from typing import Any

import pytest
from support.batches import answered

from exporter.monitoring import shadow_answers
from exporter.monitoring.quality import Scorer
from exporter.monitoring.shadow_answers import MAX_PAIRS, MAX_VERSIONS, WAIT_SECONDS, ShadowAnswers
from exporter.validation import Tolerance
from exporter.wire.events import Prediction


def counter(task: Any = "classification", tolerance: float = 0.0) -> ShadowAnswers:
    return ShadowAnswers(lambda *_: Scorer(task), lambda _: Tolerance(tolerance))


def answer(id_: str, version: str, prediction: Any, *, shadow: bool = False, code: int | None = None) -> Prediction:
    return Prediction("digits", id_, version, prediction=prediction, shadow=shadow, code=code)


def counts(answers: ShadowAnswers, now: float = 0.0) -> tuple[dict[str, tuple[int, ...]], dict[Any, tuple[float, ...]]]:
    """Answers, errors and unpaired by version; pairs, disagreements and differences by pair."""
    versions, pairs = answers.read(now).get("digits", ({}, {}))
    return (
        {name: (v.answers, v.errors, v.unpaired) for name, v in versions.items()},
        {names: (p.pairs, p.disagreements, p.numbers, p.absolute, p.squared) for names, p in pairs.items()},
    )


@pytest.mark.parametrize("shadow_first", [False, True])
def test_answers_are_paired_in_either_order(shadow_first: bool) -> None:
    """Two answers of different versions to the same request are a pair; 7, 7.0 and "7" are the same class."""
    answers = counter()
    events = [
        answer("a", "1", "7"), answer("a", "2", 7.0, shadow=True),
        answer("b", "1", "7"), answer("b", "2", "8", shadow=True),
        answer("c", "1", "7"),
    ]  # fmt: skip
    answered(answers, sorted(events, key=lambda event: event.shadow != shadow_first), 0.0, 100.0)
    assert counts(answers) == ({"2": (2, 0, 0)}, {("1", "2"): (2, 1, 0, 0.0, 0.0)})


def test_numbers_differ_beyond_the_tolerance() -> None:
    """Of numbers, the differences are summed, and those beyond the model's tolerance are disagreements."""
    answers = counter("regression", 0.5)
    for id_, served, shadow in (("a", 1.0, 1.5), ("b", 1, "3"), ("c", 2.0, 2.0), ("d", 2.0, "none")):
        answered(answers, [answer(id_, "1", served), answer(id_, "2", shadow, shadow=True)], 0.0, 0.0)
    assert counts(answers) == ({"2": (4, 0, 1)}, {("1", "2"): (3, 1, 3, 2.5, 4.25)})


def test_what_is_no_answer_is_not_compared() -> None:
    """A failed request, an answer of the same version and one that waited for five minutes are not paired."""
    answers = counter()
    answered(answers, [answer("a", "2", "7", shadow=True, code=503), answer("a", "1", "7")], 0.0, 0.0)
    answered(answers, [answer("b", "2", None, shadow=True), answer("b", "1", "7")], 0.0, 0.0)
    answered(answers, [answer("c", "1", "7", shadow=True), answer("c", "1", "8")], 0.0, 0.0)
    answered(answers, [answer("d", "2", "7", shadow=True), answer("d", "1", "8", code=500)], 0.0, 0.0)
    assert counts(answers) == ({"2": (3, 1, 0), "1": (1, 0, 1)}, {})
    assert counts(answers, WAIT_SECONDS + 1) == ({"2": (3, 1, 1), "1": (1, 0, 1)}, {})
    answered(answers, [answer("d", "1", "8")], WAIT_SECONDS + 1, 0.0)
    assert counts(answers, WAIT_SECONDS + 1)[1] == {}


def test_a_repeated_answer_counts_once() -> None:
    """Of answers with the same identifier and version, the first is compared, as feedback refers to the first."""
    answers = counter()
    for prediction in ("8", "7"):
        answered(answers, [answer("a", "2", prediction, shadow=True)], 0.0, 0.0)
    for prediction in ("8", "7"):
        answered(answers, [answer("a", "1", prediction)], 0.0, 0.0)
    answered(answers, [answer("a", "2", "6", shadow=True), answer("a", "3", "6", shadow=True)], 0.0, 0.0)
    assert counts(answers)[1] == {("1", "2"): (1, 0, 0, 0.0, 0.0), ("1", "3"): (1, 1, 0, 0.0, 0.0)}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait, versions and pairs are limited; long answers are compared by their hash."""
    monkeypatch.setattr(shadow_answers, "MAX_REQUESTS", 10)
    answers = counter()
    for number in range(100):
        id_, text = str(number), "x" * 10_000
        answered(
            answers, [answer(id_, f"v{number}", text, shadow=True), answer(id_, "1", f"{text}{number % 2}")], 0.0, 0.0
        )
    versions, pairs = counts(answers)
    assert len(answers._requests) == 10
    assert {len(str(request.served)) for request in answers._requests.values()} == {73}
    assert len(versions) == MAX_VERSIONS + 1 and versions["other"] == (100 - MAX_VERSIONS, 0, 0)
    assert len(pairs) == MAX_PAIRS + 1 and pairs["other", "other"][:2] == (100 - MAX_PAIRS, 100 - MAX_PAIRS)
    for version in range(6):
        answered(answers, [answer("new", f"v{version}", "1", shadow=True)], 0.0, 0.0)
    assert len(answers._requests["digits", "new"].waiting) == 4
    answered(
        answers, [answer("new", "1", "1"), *(answer("new", f"w{n}", "1", shadow=True) for n in range(6))], 0.0, 0.0
    )
    assert len(answers._requests["digits", "new"].done) == 4
    answers.forget([])
    assert answers.read(0.0) == answers.read(WAIT_SECONDS + 1) == {}
