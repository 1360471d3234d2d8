"""Whether a new version may be rolled out, from intervals that hold at every look, and margins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from exporter.comparison.measures import Comparison, Measure
from exporter.comparison.methods import EACH_LEVEL
from exporter.comparison.report import WORDINGS, document, interval_text, title
from exporter.config.checks import MARGINS, PROMOTED_WITHOUT
from exporter.stats.intervals import Interval

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
