"""Estimate what a release's samples say about the predictions from which they were drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from exporter.commands.dataset.candidate import Labelled
from exporter.commands.dataset.evaluation import Evaluation
from exporter.stats.accuracy import Estimate, estimate_accuracy
from exporter.stats.strata import stratum_of

REMARK = (
    "The samples of the release were drawn by confidence. Weighted, they estimate both models on the confident "
    'predictions on which no user gave feedback: the row "estimated".'
)


class SampledStrata(msgspec.Struct):
    """What weights the samples of a version; see `exporter.storage.accuracy_counts.sampled_strata`."""

    edges: tuple[float, ...] | None
    confident: tuple[int, ...]
    with_feedback: tuple[int, ...]
    seen: int

    def __post_init__(self) -> None:
        strata = 1 if self.edges is None else len(self.edges) + 2
        if len(self.confident) != strata or len(self.with_feedback) != strata:
            raise ValueError(f"expected {strata} strata, got {len(self.confident)} and {len(self.with_feedback)}")


class Sampling(msgspec.Struct):
    """What is read of the lineage of a release."""

    sampling: dict[str, SampledStrata] | None = None


def estimate(
    evaluation: Evaluation, examples: Labelled, sampling: Mapping[str, SampledStrata]
) -> dict[str, Any] | None:
    """Return the weighted accuracy of both models on confident predictions without feedback; None without samples.

    Parameters
    ----------
    evaluation
        Of a classification.
    examples
        The release.
    sampling
        By version.
    """
    both = ~np.isnan(evaluation.current_losses)
    places = np.flatnonzero(evaluation.evaluated)[both]
    new, old = evaluation.losses[both] == 0, evaluation.current_losses[both] == 0
    sources, versions = np.array(examples.sources, object)[places], np.array(examples.versions, object)[places]
    confidences = examples.confidences[places]
    rest, decided, right, current_right, seen = [], [], [], [], 0
    for version, strata in sampling.items():
        chosen = (sources == "sample") & (versions == version)
        size = len(strata.confident)
        places_of = np.zeros(len(chosen), np.intp) if strata.edges is None else stratum_of(confidences, strata.edges)
        rest.append(np.maximum(np.subtract(strata.confident, strata.with_feedback), 0))
        decided.append(np.bincount(places_of[chosen], minlength=size))
        right.append(np.bincount(places_of[chosen & new], minlength=size))
        current_right.append(np.bincount(places_of[chosen & old], minlength=size))
        seen += strata.seen
    if not decided or not sum(int(counts.sum()) for counts in decided):
        return None
    population, number = np.concatenate(rest), np.concatenate(decided)
    none = np.zeros(len(population))
    estimates = [
        estimate_accuracy(population, none, none, number, np.concatenate(counts), seen=seen or None)
        for counts in (right, current_right)
    ]
    return {
        "samples": int(number.sum()),
        "predictions": int(population.sum()),
        "accuracy": _document(estimates[0]),
        "current_accuracy": _document(estimates[1]),
    }


def _document(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "lower": found.lower, "upper": found.upper}
