"""Estimate the quality on all predictions from the samples in a release, weighted by their strata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from exporter.commands.dataset.candidate import Labelled
from exporter.commands.dataset.evaluation import Evaluation, estimate_document
from exporter.config import Task
from exporter.stats.accuracy import estimate_accuracy
from exporter.stats.divergence import Floats, Ints
from exporter.stats.paired import stratified_mean
from exporter.stats.strata import stratum_of

REMARK = (
    "The samples of the release were drawn by confidence. Weighted, they estimate both models on the confident "
    'predictions on which no user gave feedback: the row "estimated".'
)


class SampledStrata(msgspec.Struct):
    """The strata that weight the samples of a version; see `exporter.storage.review.accuracy_counts.sampled_strata`."""

    edges: tuple[float, ...] | None
    confident: tuple[int, ...]
    with_feedback: tuple[int, ...]
    seen: int

    def __post_init__(self) -> None:
        strata = 1 if self.edges is None else len(self.edges) + 2
        if len(self.confident) != strata or len(self.with_feedback) != strata:
            raise ValueError(f"expected {strata} strata, got {len(self.confident)} and {len(self.with_feedback)}")


class Sampling(msgspec.Struct):
    """The members that are read from the lineage of a release."""

    sampling: dict[str, SampledStrata] | None = None


def estimate(
    evaluation: Evaluation, examples: Labelled, sampling: Mapping[str, SampledStrata]
) -> dict[str, Any] | None:
    """Return the weighted accuracy, or error, of both models on confident predictions without feedback.

    Parameters
    ----------
    evaluation
        Of the two models.
    examples
        The release.
    sampling
        By version.

    Returns
    -------
    dict or None
        JSON; None without samples.
    """
    both = ~np.isnan(evaluation.current_losses)
    indices = np.flatnonzero(evaluation.evaluated)[both]
    sources, versions = np.array(examples.sources, object)[indices], np.array(examples.versions, object)[indices]
    confidences = examples.confidences[indices]
    rest: list[Floats] = []
    strata_of: Ints = np.full(len(indices), -1, np.intp)
    seen = start = 0
    for version, strata in sampling.items():
        chosen = (sources == "sample") & (versions == version)
        strata_of[chosen] = start + (0 if strata.edges is None else stratum_of(confidences[chosen], strata.edges))
        rest.append(np.maximum(np.subtract(strata.confident, strata.with_feedback, dtype=np.float64), 0.0))
        start += len(strata.confident)
        seen += strata.seen
    sampled = strata_of >= 0
    population = np.concatenate(rest) if rest else np.empty(0)
    if not sampled.any() or not population.any():
        return None
    name = "mean_absolute_error" if evaluation.task == "regression" else "accuracy"
    return {
        "samples": int(np.count_nonzero(sampled)),
        "predictions": int(population.sum()),
        **{
            prefix + name: _estimated(losses[both][sampled], strata_of[sampled], population, evaluation.task, seen)
            for prefix, losses in (("", evaluation.losses), ("current_", evaluation.current_losses))
        },
    }


def _estimated(losses: Floats, strata: Ints, population: Floats, task: Task, seen: int) -> dict[str, float] | None:
    if task == "regression":
        found = stratified_mean(losses, strata, population)
        return estimate_document(found) if found else None
    none, size = np.zeros(len(population)), len(population)
    decided, right = np.bincount(strata, minlength=size), np.bincount(strata[losses == 0], minlength=size)
    value, lower, upper = estimate_accuracy(population, none, none, decided, right, seen=seen or None)
    return {"value": value, "lower": lower, "upper": upper}
