"""Count the origins of a release's examples, and its labels."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from exporter.datasets.examples import Example, Page
from exporter.features.base import scalar_text
from exporter.validation import rfc3339
from exporter.version import version

ENTRIES = 1000
"""Labels, versions and reviewers that a lineage counts by name, at most; others are counted under ``…``."""
MAX_NAME = 200
"""Characters of a label in a lineage, at most."""
OUTCOMES = 100
"""Pairs of a label and a prediction that a lineage counts, at most."""


class Details(Protocol):
    """Counts examples in more ways than `Lineage`; see `exporter.slices.release_details.ReleaseDetails`."""

    def add(self, examples: Page) -> None:
        """Count examples."""

    def document(self) -> dict[str, Any]:
        """Return further members of the JSON document."""


class Lineage:
    """Counts where the examples of a release come from, in bounded memory.

    Parameters
    ----------
    details
        What else counts the examples.
    holds_back, excludes_suspects
        Whether the examples of some users, or those whose label may be wrong, are left out.

    Attributes
    ----------
    suspects
        Examples whose label may be wrong.
    checked
        When labels were checked last, Unix time in seconds.
    parent
        Identifier of the model's release before this one.
    sampling
        What weights the samples, by version: the numbers of confident predictions, and of the ones with feedback.
    """

    def __init__(
        self, details: Details | None = None, *, holds_back: bool = False, excludes_suspects: bool = False
    ) -> None:
        self.examples = self.suspects = 0
        self.holds_back, self.excludes_suspects = holds_back, excludes_suspects
        self.checked: float | None = None
        self.parent: str | None = None
        self.sampling: dict[str, dict[str, int]] = {}
        self._details = details
        self._without_inputs = 0
        self._held_back: Counter[str] = Counter()
        self._versions: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._predictions: Counter[str] = Counter()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._sources: Counter[str] = Counter()
        self._reviewers: Counter[str] = Counter()
        self._first: float | None = None
        self._last: float | None = None

    def add(self, example: Example, predicted: float | None) -> None:
        """Count an example, and the Unix time of its prediction in seconds."""
        self.examples += 1
        self._without_inputs += example.inputs is None
        _count(self._versions, example.version)
        label = _count(self._labels, _text(example.label))
        prediction = _count(self._predictions, _text(example.prediction))
        pair = (label, prediction)
        self._outcomes[pair if pair in self._outcomes or len(self._outcomes) < OUTCOMES else ("…", "…")] += 1
        self._sources[example.source] += 1
        if example.reviewer is not None:
            _count(self._reviewers, example.reviewer)
        if predicted is not None:
            self._first = predicted if self._first is None else min(self._first, predicted)
            self._last = predicted if self._last is None else max(self._last, predicted)

    def add_page(self, examples: Page) -> None:
        """Count the details of examples that were added."""
        if self._details:
            self._details.add(examples)

    def hold_back(self, user: str) -> None:
        """Count an example that is held back."""
        _count(self._held_back, user)

    @property
    def left_out(self) -> str:
        """Name the kinds of examples that are left out; empty if there are none."""
        words = {"held back": self.holds_back, "suspect": self.excludes_suspects}
        return " or ".join(word for word, is_left_out in words.items() if is_left_out)

    def document(self) -> dict[str, Any]:
        """Return the JSON document; ``from`` and ``to`` are the times of the first and the last prediction."""
        counts = {
            "versions": self._versions,
            "labels": self._labels,
            "predictions": self._predictions,
            "sources": self._sources,
            "reviewers": self._reviewers,
        }
        if self.holds_back:
            counts["held_back"] = self._held_back
        outcomes: dict[str, dict[str, int]] = {}
        for (label, prediction), number in sorted(self._outcomes.items()):
            outcomes.setdefault(label, {})[prediction] = number
        return {
            **{name: dict(sorted(counter.items())) for name, counter in counts.items()},
            "outcomes": outcomes,
            "without_inputs": self._without_inputs,
            "suspects": {
                "found": self.suspects,
                "excluded": self.excludes_suspects,
                "checked": rfc3339(self.checked),
            },
            **({"sampling": self.sampling} if self._sources["sample"] else {}),
            "from": rfc3339(self._first),
            "to": rfc3339(self._last),
            "parent": self.parent,
            "exporter_version": version(),
            **(self._details.document() if self._details else {}),
        }


def _text(value: Any) -> str:
    return "null" if value is None else scalar_text(value)


def _count(counter: Counter[str], name: str) -> str:
    """Count a name; return the one under which it is counted."""
    short = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"
    counted = short if short in counter or len(counter) < ENTRIES else "…"
    counter[counted] += 1
    return counted
