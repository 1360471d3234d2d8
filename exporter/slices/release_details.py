"""Count the examples of a release in the bins of the profile, and the size of a regression's errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from exporter.datasets.examples import Page
from exporter.features.base import scalar_text
from exporter.monitoring.binner import Binner
from exporter.monitoring.quality import LabelNames, Scorer
from exporter.profiles.bins import RowSample
from exporter.slices.explain import where
from exporter.slices.search import MIN_MARKED, grown_bins
from exporter.stats.divergence import Ints

MAX_SLICES = 20
"""Slices of a release, at most: those that stand out most."""
SHARES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
"""Quantiles of a regression's labels and errors."""
_SAMPLED = 20_000


class ReleaseDetails:
    """Counts examples by slice, in bounded memory: `exporter.datasets.release.Details`.

    Parameters
    ----------
    binner
        Of the model's profile; without one, there are no slices.
    scorer
        Knows whether a prediction is a number.
    """

    def __init__(self, binner: Binner | None, scorer: Scorer) -> None:
        self._scorer = scorer
        self._profile = binner.profile.known_hash() if binner else None
        self._slices = _Slices(binner, LabelNames(scorer.classes)) if binner and binner.names else None
        self._labels, self._errors = _Quantiles(), _Quantiles()

    def add(self, examples: Page) -> None:
        """Count examples."""
        numbers = [
            (float(example.label), float(example.prediction) - float(example.label))
            for example in examples
            if self._scorer.is_number(example.prediction)
            and self._scorer.loss(example.prediction, example.label) is not None
        ]
        self._labels.add([label for label, _ in numbers])
        self._errors.add([error for _, error in numbers])
        with_inputs = [example for example in examples if example.inputs]
        if self._slices and with_inputs:
            self._slices.add(with_inputs, classes=not numbers)

    def document(self) -> dict[str, Any]:
        """Return the profile's hash, the slices, and for a regression quantiles of the labels and of the errors."""
        result: dict[str, Any] = {"profile": self._profile, "slices": self._slices.document() if self._slices else None}
        if self._labels.count:
            result |= {"label_quantiles": self._labels.document(), "error_quantiles": self._errors.document()}
        return result


class _Slices:
    def __init__(self, binner: Binner, names: LabelNames) -> None:
        self._binner = binner
        self._names = names
        self._rows = 0
        self._inputs = [source for source, kind in binner.inputs.items() for _ in kind.features(source)]
        self._sizes = binner.sizes[: len(binner.names)]
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._counts: Ints = np.zeros(int(self._starts[-1]), dtype=np.intp)
        self._by_label: dict[str, Ints] = {}

    def add(self, examples: Page, *, classes: bool) -> None:
        codes = self._binner.bins_of([example.inputs or {} for example in examples])
        bins = codes[: len(self._sizes)].astype(np.intp) + self._starts[:-1, None]
        self._rows += len(examples)
        self._counts += np.bincount(bins.ravel(), minlength=len(self._counts))
        if not classes:
            return
        labels = np.array([self._names.name(scalar_text(example.label)) for example in examples], dtype=object)
        for label in set(labels.tolist()):
            counts = np.bincount(bins[:, labels == label].ravel(), minlength=len(self._counts))
            self._by_label[label] = self._by_label.get(label, 0) + counts

    def document(self) -> list[dict[str, Any]]:
        parts = [self._counts[start : start + size] for start, size in zip(self._starts, self._sizes, strict=False)]
        grown = grown_bins(self._binner, parts, self._rows)[0] if self._rows else []
        return [
            {
                "where": where(((one.target, one.bin_index),), self._binner),
                "input": self._inputs[one.target],
                "examples": one.size,
                "share": one.share,
                "training_share": one.training_share,
                "labels": self._labels_in(int(self._starts[one.target]) + one.bin_index),
            }
            for one in grown
            if one.size >= MIN_MARKED
        ][:MAX_SLICES]

    def _labels_in(self, position: int) -> dict[str, int]:
        return {label: int(counts[position]) for label, counts in sorted(self._by_label.items()) if counts[position]}


class _Quantiles:
    """Quantiles of numbers, from a random sample of at most `_SAMPLED`."""

    def __init__(self) -> None:
        self.count = 0
        self._sample = RowSample(_SAMPLED)
        self._least, self._most = math.inf, -math.inf

    def add(self, values: list[float]) -> None:
        if values:
            chosen = self._sample.choose(np.arange(self.count, self.count + len(values)))
            self._sample.add(self.count + chosen, [np.array(values)[chosen]])
            self.count += len(values)
            self._least, self._most = min(self._least, *values), max(self._most, *values)

    def document(self) -> dict[str, float]:
        quantiles = np.quantile(self._sample.columns()[0], [*SHARES.values()], method="inverted_cdf").tolist()
        return {"min": self._least, **dict(zip(SHARES, quantiles, strict=True)), "max": self._most}
