"""A comparison as sentences and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from exporter.comparison.measures import EACH_LEVEL, Comparison, Measure, SameRequests, Side, utc_time
from exporter.config import MARGINS, PROMOTED_WITHOUT
from exporter.stats.intervals import CONFIDENCE, Difference, Interval, excludes_zero
from exporter.stats.sequential import LARGE


def titles(comparison: Comparison) -> tuple[str, str]:
    """Return the names of the sides: their versions if these differ, else their periods."""
    if comparison.before.version != comparison.after.version:
        return f"Version {comparison.before.version}", f"Version {comparison.after.version}"
    return (
        f"The period from {utc_time(comparison.before.period.start)}",
        f"The period from {utc_time(comparison.after.period.start)}",
    )


def percent(value: float) -> str:
    """
    >>> percent(0.0314), percent(0.00043), percent(1)
    ('3.1 %', '0.043 %', '100.0 %')
    >>> percent(-0.0), percent(-0.00000000001)
    ('0.0 %', '0.0 %')
    """
    return f"{_percent(value)} %"


def _percent(value: float) -> str:
    size = abs(100 * value)
    if size < 5e-7:
        return "0.0"  # and not -0.0
    return f"{100 * value:.1f}" if size >= 1 else f"{100 * value:.2g}"


def _plain(value: float) -> str:
    return f"{round(value, 9) + 0.0:.3g}"  # and neither -0 nor the last digits of a difference of equal numbers


class Wording(NamedTuple):
    """The title of a measure, its words for less and more, and the formats of its values and intervals."""

    title: str
    less: str
    more: str
    of: str
    value: Callable[[float], str]
    number: Callable[[float], str]
    unit: str


def _share(title: str, less: str, more: str, of: str) -> Wording:
    return Wording(title, less, more, of, percent, _percent, " points")


WORDINGS = {
    "error_ratio": _share("error ratio", "fails less often", "fails more often", " of requests"),
    "latency_p95_seconds": Wording(
        "p95 latency", "is faster", "is slower", " at the 95th percentile", lambda v: f"{_plain(v)} s", _plain, " s"
    ),
    "confident_ratio": _share(
        "confident ratio", "is confident less often", "is confident more often", " of predictions"
    ),
    "correction_ratio": _share(
        "correction ratio", "is corrected less often", "is corrected more often", " of confident predictions"
    ),
    "accuracy": _share("accuracy", "is right less often", "is right more often", " of predictions"),
    "mean_absolute_error": Wording(
        "mean absolute error", "has smaller errors", "has larger errors", "", _plain, _plain, ""
    ),
    "worst_drift_nats": Wording(
        "worst feature drift",
        "gets inputs nearer to its training data",
        "gets inputs further from its training data",
        "",
        lambda v: f"{_plain(v)} nats",
        _plain,
        " nats",
    ),
}


def title(measure: Measure) -> str:
    """Return the title of a measure; of quality, with whether it is measured or estimated."""
    name = WORDINGS[measure.name].title
    return f"{measure.basis} {name}" if measure.basis else name


def summary(comparison: Comparison) -> str:
    """Return one line about all measures: which differences are proven, and which are not."""
    before, after = titles(comparison)
    named: dict[str, list[str]] = {}
    for measure in comparison.measures:
        named.setdefault(measure.verdict, []).append(title(measure))
    proven = [f"{verdict} in {_and(named[verdict])}" for verdict in ("worse", "better") if verdict in named]
    than = before[0].lower() + before[1:]
    nothing = "no difference is proven" if comparison.measures else "only answers to the same requests"
    parts = [f"{after} compared with {than}: {', '.join(proven) or nothing}"]
    parts += [f"not proven: {_and(named['not proven'])}"] if proven and "not proven" in named else []
    parts += [f"not compared: {_and(named['unknown'])}"] if "unknown" in named else []
    same = comparison.same_requests
    return "; ".join(parts) + "." + (f" {same_requests_sentence(same, comparison.sequential)}" if same else "")


def same_requests_sentence(same: SameRequests, sequential: bool) -> str:
    """Say how often the answers of two versions to the same requests differ."""
    ratio = same.disagreement(sequential)
    interval = interval_text(WORDINGS["error_ratio"], ratio.interval())
    text = (
        f"Of {same.pairs:,.0f} requests that both answered, {percent(ratio.value)} ({interval}) got different answers"
    )
    if mean := same.mean_difference(sequential):
        low, high = map(_plain, mean.interval())
        text += f"; the mean absolute difference is {_plain(mean.value)} ({low} to {high})"
    return f"{text}."


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def minutes(seconds: float) -> str:
    """
    >>> minutes(480), minutes(5400)
    ('8 minutes', '1.5 hours')
    """
    return f"{seconds / 60:.3g} minutes" if seconds < 3600 else f"{seconds / 3600:.3g} hours"


def sentences(comparison: Comparison) -> list[str]:
    """Return a sentence for each measure."""
    return [sentence(comparison, measure) for measure in comparison.measures]


def sentence(comparison: Comparison, measure: Measure) -> str:
    """Say how a measure differs between the sides, and whether that is significant."""
    wording, (_, after) = WORDINGS[measure.name], titles(comparison)
    subject = title(measure).capitalize()
    if measure.before is None or measure.after is None or measure.difference is None:
        return f"{subject}: not compared, {_why_unknown(comparison, measure)}."
    old, new = wording.value(measure.before.value), wording.value(measure.after.value)
    if measure.features:
        old, new = (f"{value} in {name}" for value, name in zip((old, new), measure.features, strict=True))
    size = f"the difference of {difference_text(wording, measure.difference)}"
    if measure.significant:
        verb = wording.more if measure.difference.value > 0 else wording.less
        verb += {"measured": " by its labels", "estimated": " as estimated", None: ""}[measure.basis]
        return f"{after} {verb}: {new}{wording.of} against {old}; {size} is statistically significant."
    doubt = _doubt(comparison, measure, measure.difference.interval)
    return f"{subject}: no significant difference, {new}{wording.of} against {old}; {size} {doubt}."


def _doubt(comparison: Comparison, measure: Measure, interval: Interval) -> str:
    """Say why a difference is not significant."""
    if excludes_zero(interval):
        count = sum(other.difference is not None for other in comparison.measures)
        return f"would be significant on its own, but not as one of {count} comparisons"
    if measure.name == "latency_p95_seconds":
        return "may be due to chance or to the width of the buckets"
    return "may be due to chance"


def _why_unknown(comparison: Comparison, measure: Measure) -> str:
    if measure.name == "worst_drift_nats" and (comparison.before.counts.changed or comparison.after.counts.changed):
        return "the training profile changed meanwhile"
    if comparison.sequential and measure.before and measure.after and measure.name != "confident_ratio":
        if measure.basis == "estimated":
            return "an estimate without labels can be compared at one chosen moment only"
        return f"each side needs {LARGE} observations"
    return {
        "error_ratio": "there are no requests",
        "latency_p95_seconds": "predictions came without duration_seconds",
        "confident_ratio": (
            "every prediction was confident" if measure.before and measure.after else "there are no predictions"
        ),
        "correction_ratio": "nobody gave feedback, or no prediction was confident",
        "worst_drift_nats": "no feature with a training profile was observed on both sides",
        "accuracy": "one side has neither enough labels nor an estimate",
        "mean_absolute_error": "one side has neither enough labels nor an estimate",
    }[measure.name]


def difference_text(wording: Wording, difference: Difference) -> str:
    """Return a difference and its interval as text, with the sign of both."""
    value, interval = difference.value, difference.interval
    return f"{'+' if value > 0 else ''}{wording.number(value)}{wording.unit} ({interval_text(wording, interval)})"


def interval_text(wording: Wording, interval: Interval) -> str:
    """Return both ends of an interval as text."""
    return f"{wording.number(interval.low)} to {wording.number(interval.high)}"


def document(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as a JSON document; infinite and unknown numbers are null."""
    return {
        "model": comparison.model,
        "summary": summary(comparison),
        "before": _side(comparison.before),
        "after": _side(comparison.after),
        "shared_seconds": comparison.shared_seconds,
        "confidence": CONFIDENCE,
        "sequential": comparison.sequential,
        "same_requests": comparison.same_requests and _same_requests(comparison.same_requests, comparison.sequential),
        "measures": [
            _measure(measure, text) for measure, text in zip(comparison.measures, sentences(comparison), strict=True)
        ],
    }


def _measure(measure: Measure, text: str) -> dict[str, Any]:
    difference = measure.difference
    sides = zip(("before", "after"), (measure.before, measure.after), measure.observations, strict=True)
    return {
        "name": measure.name,
        "basis": measure.basis,
        **{
            name: estimate and _interval(estimate.value, estimate.interval()) | {"n": observations}
            for name, estimate, observations in sides
        },
        "difference": difference and _interval(difference.value, difference.interval),
        "p_value": difference and difference.p_value,
        "chance": difference and difference.p_value,
        "features": list(measure.features) if measure.features else None,
        "verdict": measure.verdict,
        "sentence": text,
    }


def _same_requests(same: SameRequests, sequential: bool) -> dict[str, Any]:
    ratio, mean = same.disagreement(sequential), same.mean_difference(sequential)
    return {
        "pairs": same.pairs,
        "disagreements": same.disagreements,
        "from": utc_time(same.period.start),
        "to": utc_time(same.period.end),
        "disagreement_ratio": _interval(ratio.value, ratio.interval()),
        "mean_absolute_difference": mean and _interval(mean.value, mean.interval()),
        "sentence": same_requests_sentence(same, sequential),
    }


def _side(side: Side) -> dict[str, Any]:
    names = ("requests", "errors", "attempts", "confident", "corrections", "feedback")
    return {
        "version": side.version,
        "from": utc_time(side.period.start),
        "to": utc_time(side.period.end),
        **{name: getattr(side.counts, name) for name in names},
    }


def _interval(value: float, interval: Interval) -> dict[str, float | None]:
    numbers = {"value": value, "low": interval.low, "high": interval.high}
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


Word = Literal["promote", "rollback", "wait"]
WORDS: dict[Word, float] = {"rollback": -1.0, "wait": 0.0, "promote": 1.0}
"""The number of each decision in the metrics."""


class Decision(NamedTuple):
    """A decision about the new version, or about one measure of it.

    Attributes
    ----------
    word
        ``rollback`` if it is proven to be worse by more than the margin, ``promote`` if it is proven not to be, else
        ``wait``. Of all measures together: ``rollback`` if one says so, ``promote`` if all that are needed say so.
    reason
        A sentence.
    needed
        Whether this measure must say ``promote``.
    margin
        By how much the new version may be worse.
    """

    word: Word
    reason: str
    needed: bool
    margin: float


class Decisions(NamedTuple):
    """The decision on the new version, and that of each measure by its name."""

    word: Word
    by_measure: dict[str, Decision]

    def reasons(self) -> list[str]:
        """Return a sentence for each measure that the decision comes from."""
        return [
            decision.reason
            for decision in self.by_measure.values()
            if decision.word == self.word and (decision.needed or self.word == "rollback")
        ]


def decide(comparison: Comparison, margins: Mapping[str, float]) -> Decisions:
    """Decide whether the new version may be rolled out.

    Parameters
    ----------
    comparison
        Of `exporter.comparison.measures.at_every_look`.
    margins
        The margins that are set; a measure with one is needed for ``promote`` even if it has no data yet.
    """
    by_measure = {measure.name: _of_measure(measure, margins) for measure in comparison.measures}
    for name in margins.keys() - by_measure.keys():
        reason = f"{WORDINGS[name].title.capitalize()}: there are no data, and it has a margin."
        by_measure[name] = Decision("wait", reason, needed=True, margin=margins[name])
    needed = [decision.word for decision in by_measure.values() if decision.needed]
    if any(decision.word == "rollback" for decision in by_measure.values()):
        return Decisions("rollback", by_measure)
    return Decisions("promote" if set(needed) == {"promote"} else "wait", by_measure)


def document_with(comparison: Comparison, decisions: Decisions) -> dict[str, Any]:
    """Return the JSON document of a comparison with its decision."""
    result = document(comparison) | {"decision": decisions.word, "reasons": decisions.reasons()}
    for measure in result["measures"]:
        decision = decisions.by_measure[measure["name"]]
        measure |= {"decision": decision.word, "needed": decision.needed, "margin": decision.margin}
    return result


def _of_measure(measure: Measure, margins: Mapping[str, float]) -> Decision:
    name, wording = title(measure).capitalize(), WORDINGS[measure.name]
    margin = margins.get(measure.name, MARGINS[measure.name])
    allowed = f"the margin of {wording.number(margin)}{wording.unit}"
    if measure.difference is None:
        needed = measure.name in margins
        return Decision("wait", f"{name}: not compared.", needed, margin)
    needed = measure.name in margins or measure.name not in PROMOTED_WITHOUT
    if _worse(measure, measure.difference.within(EACH_LEVEL)).low > margin:
        return Decision("rollback", f"{name}: worse by more than {allowed}.", needed, margin)
    worse = _worse(measure, measure.difference.interval)
    if worse.high < margin:
        return Decision("promote", f"{name}: not worse by more than {allowed}.", needed, margin)
    by = f"worse by {interval_text(wording, worse)}{wording.unit}"
    return Decision("wait", f"{name}: {by}, which is neither within nor beyond {allowed}.", needed, margin)


def _worse(measure: Measure, interval: Interval) -> Interval:
    """Return by how much the new version is worse, given the interval of its difference."""
    return interval if measure.good < 0 else Interval(-interval.high, -interval.low)
