"""The table of predicted and actual classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from exporter.monitoring.outcome import OTHER
from exporter.monitoring.registry import version_sort_key


class Cell(NamedTuple):
    """The number of labelled predictions of a pair of classes, and whether they are right."""

    number: int
    right: bool


class ConfusionRow(NamedTuple):
    """The predictions of a class by their label, and the share of them that is right (precision)."""

    predicted: str
    cells: list[Cell]
    right: str


class Confusion(NamedTuple):
    """A table of predicted and actual classes.

    Attributes
    ----------
    actual
        Labels, in the order of the columns.
    rows
        Predicted classes.
    found
        The share of each label that was predicted (recall).
    """

    actual: list[str]
    rows: list[ConfusionRow]
    found: list[str]


def confusion(outcomes: Mapping[tuple[str, str], int]) -> Confusion | None:
    """Return the table of the classes that occur, in the order of their names; None without labels.

    Parameters
    ----------
    outcomes
        Number of labelled predictions by the predicted and the actual class, see `Quality.outcomes`.

    >>> table = confusion({("no", "no"): 8, ("yes", "no"): 2, ("yes", "yes"): 1, ("maybe", "yes"): 0})
    >>> table.actual, [(row.predicted, [cell.number for cell in row.cells]) for row in table.rows]
    (['no', 'yes'], [('no', [8, 0]), ('yes', [2, 1])])
    >>> [text.replace("\\N{NO-BREAK SPACE}", " ") for text in (*(row.right for row in table.rows), *table.found)]
    ['100 %', '33 %', '80 %', '100 %']
    """
    predicted: Counter[str] = Counter()
    actual: Counter[str] = Counter()
    for (prediction, label), count in outcomes.items():
        predicted[prediction] += count
        actual[label] += count
    if not actual.total():
        return None
    both = predicted + actual  # without classes that do not occur
    order = sorted(both, key=lambda name: (name == OTHER, version_sort_key(name)))
    rows = [name for name in order if predicted[name]]
    columns = [name for name in order if actual[name]]

    def right(name: str) -> int:
        # Different classes beyond the named ones are all "other", so that a pair of them says nothing.
        return outcomes.get((name, name), 0)

    return Confusion(
        columns,
        [
            ConfusionRow(
                name,
                [Cell(outcomes.get((name, label), 0), name == label != OTHER) for label in columns],
                _share(name, right(name), predicted[name]),
            )
            for name in rows
        ],
        [_share(name, right(name), actual[name]) for name in columns],
    )


def _share(name: str, part: int, whole: int) -> str:
    return "–" if name == OTHER else f"{100 * part / whole:.0f}\N{NO-BREAK SPACE}%"
