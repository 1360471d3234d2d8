"""Compare the predictions of a candidate model, and those of the current one, with the labels of a release."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.commands.dataset.candidate import Candidate, Labelled
from exporter.config import Task
from exporter.features.extract import scalar_text
from exporter.monitoring.binner import Binner
from exporter.monitoring.outcome import Scorer
from exporter.stats.intervals import Difference, Estimate, mean, share
from exporter.stats.paired import paired_mean_difference, paired_share_difference

MAX_CLASSES = 50
"""Classes that are reported, the most frequent first."""
MAX_GROUPS = 20
"""Versions that are reported, those with the most examples first."""
MAX_SLICES = 10
Mask = npt.NDArray[np.bool_]


def guess_task(examples: Labelled) -> Task:
    """Guess the task of a model without a profile: numbers with a decimal point mean a regression."""
    known = [prediction for prediction in examples.predictions if prediction is not None]
    is_number = Scorer().is_number
    return "regression" if known and all(map(is_number, known)) else "classification"


class Evaluation:
    """The evaluation of two models on the labels of a release.

    Parameters
    ----------
    examples
        The release.
    candidate
        The predictions of a candidate.
    task
        What the models do.

    Attributes
    ----------
    evaluated
        Which examples have predictions of the candidate that compare with the label, shape ``(n,)``.
    losses, current_losses
        Of these: 0 or 1 for a class that is right or wrong, else the absolute error; NaN where the current model has no
        prediction that compares with the label, shape ``(m,)``.
    """

    def __init__(self, examples: Labelled, candidate: Candidate, task: Task) -> None:
        self._examples, self._candidate, self.task = examples, candidate, task
        loss = Scorer(task).loss
        pairs = zip(candidate.predictions, examples.predictions, examples.labels, strict=True)
        losses = [
            (
                np.nan if (new := loss(candidate_prediction, label)) is None else new,
                np.nan if (old := loss(prediction, label)) is None else old,
            )
            for candidate_prediction, prediction, label in pairs
        ]
        both = np.array(losses)
        self.evaluated: Mask = ~np.isnan(both[:, 0])
        self.losses, self.current_losses = both[self.evaluated].T

    @property
    def value(self) -> float:
        """The accuracy, or the mean absolute error, of the candidate."""
        return self._value(float(self.losses.mean()))

    @property
    def incomparable(self) -> int:
        """The number of the candidate's predictions that cannot be compared with their label."""
        given = sum(prediction is not None for prediction in self._candidate.predictions)
        return given - len(self.losses)

    def difference(self, chosen: Mask | None = None) -> Difference | None:
        """Return the candidate's accuracy or error minus the current model's, on the same examples."""
        both = ~np.isnan(self.current_losses)
        if chosen is not None:
            both &= chosen
        new, old = self.losses[both], self.current_losses[both]
        if not len(new):
            return None
        if self.task == "regression":
            return paired_mean_difference(new - old)
        return paired_share_difference(int(np.sum(new < old)), int(np.sum(new > old)), len(new))

    def document(self, binner: Binner | None) -> dict[str, Any]:
        """Return all measures as JSON."""
        result: dict[str, Any] = {"task": self.task, **self._measures(np.ones(len(self.losses), np.bool_))}
        if self.task == "regression":
            result["root_mean_squared_error"] = float(np.sqrt(np.square(self.losses).mean()))
        else:
            result["classes"], result["classes_left_out"] = self._classes()
        result["sources"] = dict(self._groups(self._examples.sources))
        result["versions"] = dict(self._groups(self._examples.versions))
        result["slices"] = None if binner is None else list(self._slices(binner))
        return result

    def _value(self, loss: float) -> float:
        return loss if self.task == "regression" else 1 - loss

    def _measures(self, chosen: Mask) -> dict[str, Any]:
        """Return the measures of some of the evaluated examples."""
        name = "mean_absolute_error" if self.task == "regression" else "accuracy"
        old = self.current_losses[chosen & ~np.isnan(self.current_losses)]
        difference = self.difference(chosen)
        return {
            "examples": int(np.count_nonzero(chosen)),
            name: self._estimate(self.losses[chosen]),
            f"current_{name}": self._estimate(old) if len(old) else None,
            "difference": difference_document(difference) if difference else None,
        }

    def _estimate(self, losses: npt.NDArray[np.float64]) -> dict[str, float]:
        if self.task == "regression":
            return estimate_document(mean(float(losses.sum()), float(losses @ losses), len(losses)))
        return estimate_document(share(int(np.sum(losses == 0)), len(losses)))

    def _groups(self, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        column = np.array(names, dtype=object)[self.evaluated]
        for name, _ in Counter(column.tolist()).most_common(MAX_GROUPS):
            yield name, self._measures(column == name)

    def _classes(self) -> tuple[list[dict[str, Any]], int]:
        """Return recall and precision of each class, and how many classes are left out."""
        indices = np.flatnonzero(self.evaluated).tolist()
        labels = [scalar_text(self._examples.labels[index]) for index in indices]
        predictions = [scalar_text(self._candidate.predictions[index]) for index in indices]
        actual, predicted = Counter(labels), Counter(predictions)
        right = Counter(label for label, prediction in zip(labels, predictions, strict=True) if label == prediction)
        names = sorted(actual | predicted, key=lambda name: (-actual[name], -predicted[name], name))
        return [
            {
                "label": name,
                "examples": actual[name],
                "predicted": predicted[name],
                "recall": estimate_document(share(right[name], actual[name])) if actual[name] else None,
                "precision": estimate_document(share(right[name], predicted[name])) if predicted[name] else None,
            }
            for name in names[:MAX_CLASSES]
        ], max(len(names) - MAX_CLASSES, 0)

    def _slices(self, binner: Binner) -> Iterator[dict[str, Any]]:
        """Yield the slices that hold more than their share of the candidate's errors."""
        from exporter.slices.explain import large  # loads sqlalchemy, which most commands on datasets do not need
        from exporter.slices.report import where
        from exporter.slices.search import search

        known = self._examples.has_inputs[self.evaluated]
        if self._examples.codes is None or not known.any():
            return
        codes = self._examples.codes[:, self.evaluated][:, known]
        losses = self.losses[known]
        marked = large(losses) if self.task == "regression" else losses > 0
        for one in search(codes, marked, MAX_SLICES).slices:
            inside = np.zeros(len(known), np.bool_)
            rows = np.logical_and.reduce([codes[target] == bin_index for target, bin_index in one.bins])
            inside[np.flatnonzero(known)[rows]] = True
            yield {"where": where(one.bins, binner), "q_value": one.q_value, **self._measures(inside)}


def estimate_document(estimate: Estimate) -> dict[str, float]:
    """Return an estimate with its 95 % confidence interval as JSON."""
    low, high = estimate.interval()
    return {"value": estimate.value, "lower": low, "upper": high}


def difference_document(difference: Difference) -> dict[str, float]:
    """Return a difference with its 95 % confidence interval and its p-value as JSON."""
    low, high = difference.interval
    return {"value": difference.value, "lower": low, "upper": high, "p_value": difference.p_value}
