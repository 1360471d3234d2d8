"""An explanation as sentences, as JSON and as a table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from exporter.monitoring.binner import Binner
from exporter.profiles.profile import CONFIDENCE, PREDICTION, CategoricalFeature, NumericFeature
from exporter.slices.explain import ExplainedSlice, Explanation
from exporter.slices.search import Bins

_PARTS = {
    "corrections": "of the corrections",
    "disagreement": "of the different answers",
    "errors": "of the errors",
    "estimated_loss": "of the estimated loss",
    "drift": "of the predictions",
}
_POPULATION = {
    "corrections": "confident predictions with stored inputs",
    "disagreement": "predictions with stored inputs and an answer of a version in shadow mode",
    "errors": "predictions with a label and stored inputs",
}
_NOTHING = {
    "corrections": "No confident prediction of this time was corrected",
    "disagreement": "Both versions gave the same answers to all requests of this time",
    "errors": "No prediction of this time with a label was wrong",
    "estimated_loss": "The profile expects no loss of the predictions of this time",
}
_COMPARED = {"before": "before", "traffic": "of the traffic", "training": "in the training data"}
_OUTPUTS = {PREDICTION: "the prediction", CONFIDENCE: "the confidence"}


def document(explanation: Explanation, binner: Binner, watched: str | None = None) -> dict[str, Any]:
    """Return an explanation as JSON; ``watched`` is the model's ``segment_by``, which needs no hint."""
    query = explanation.query
    return {
        "model": query.model,
        "version": query.version,
        "of": query.of,
        "since": _time(explanation.since),
        "until": _time(explanation.until),
        "predictions": explanation.predictions,
        "total": explanation.total,
        "tests": explanation.tests,
        "truncated": explanation.truncated,
        "users": explanation.users[0] if explanation.users else None,
        "largest_user_share": explanation.users[1] if explanation.users else None,
        "remarks": list(explanation.remarks),
        "compared_with": explanation.compared_with,
        "slices": [
            {
                "where": where(one.bins, binner),
                "size": one.size,
                "share": one.share,
                "ratio": one.ratio,
                "q_value": one.q_value,
                "held": one.marked,
                "traffic_share": one.traffic_share,
                "segment_by": by if (by := segment_by(one, binner)) != watched else None,
                "sentence": sentence(explanation, one, binner),
            }
            for one in explanation.slices
        ],
    }


def where(bins: Bins, binner: Binner) -> dict[str, str]:
    """Return the names of a slice's bins, as in the ``bin`` label, by feature."""
    return {binner.target_names[index]: binner.targets[index].labels()[bin_index] for index, bin_index in bins}


def segment_by(one: ExplainedSlice, binner: Binner) -> str | None:
    """Return the categorical input of a slice by which ``segment_by`` can watch it; None if it has none."""
    for index, bin_index in one.bins:
        name, target = binner.target_names[index], binner.targets[index]
        if isinstance(target, CategoricalFeature) and bin_index < len(target.categories) and name in binner.inputs:
            return name
    return None


def sentence(explanation: Explanation, one: ExplainedSlice, binner: Binner) -> str:
    """Return what a slice holds, for people."""
    verb = "is" if explanation.query.of == "estimated_loss" else "are"
    part = f"{_share(one.share)} {_PARTS[explanation.query.of]}"
    rest = f"{_share(one.traffic_share)} {_COMPARED[explanation.compared_with]}"
    return f"{part} {verb} where {describe(one.bins, binner)}, {rest}."


def describe(bins: Bins, binner: Binner) -> str:
    """Return what a slice's predictions have in common, for people."""
    return " and ".join(_named(binner, *pair) for pair in bins)


def _named(binner: Binner, index: int, bin_index: int) -> str:
    """Return a feature with the name of its bin, without the number that sorts bins."""
    target, name = binner.targets[index], binner.target_names[index]
    text = target.labels()[bin_index].partition(" ")[2]
    if isinstance(target, NumericFeature):
        text = _number_bin(text)
    return f"{_OUTPUTS.get(name, name)} is {text}"


def _number_bin(text: str) -> str:
    """
    Return the name of a bin of numbers in words, with three digits, or with more where its ends would look the same.

    >>> _number_bin("[0.488738, 0.63931)"), _number_bin("(12345.6, 23456]"), _number_bin("below 3.53125")
    ('between 0.489 and 0.639', 'between 12,346 and 23,456', 'below 3.53')
    >>> _number_bin("[5.123, 5.1234)"), _number_bin("7"), _number_bin("missing"), _number_bin("above 1e+06")
    ('between 5.123 and 5.1234', '7', 'missing', 'above 1,000,000')
    """
    if text[0] in "[(":
        ends = [float(end) for end in text[1:-1].split(", ")]
        shown = next((pair for digits in (3, 4, 5) if len({*(pair := _rounded(ends, digits))}) == 2), _rounded(ends, 6))
        return f"between {shown[0]} and {shown[1]}"
    side, _, edge = text.partition(" ")
    return f"{side} {_rounded([float(edge)], 3)[0]}" if edge else text


def _rounded(numbers: list[float], digits: int) -> list[str]:
    return [f"{x:,.0f}" if 10**digits <= abs(x) < 1e9 else f"{x:.{digits}g}" for x in numbers]


def _share(value: float) -> str:
    """
    >>> _share(0.7234), _share(0.0432), _share(0.04), _share(0.00043)
    ('72 %', '4.3 %', '4 %', '0.043 %')
    """
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.2g} %"


def summary(explanation: Explanation, binner: Binner) -> str:
    """Return the first slice's sentence, or why there is none."""
    of = explanation.query.of
    if explanation.slices:
        return sentence(explanation, explanation.slices[0], binner)
    if not explanation.predictions:
        return f"There are no {_POPULATION.get(of, 'predictions with stored inputs')} of this time."
    if not explanation.total:
        return f"{_NOTHING.get(of, 'No predictions of this time were received')}."
    return "No combination of at most two bins holds significantly more than its share."


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
