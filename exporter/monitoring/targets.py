"""The targets of a profile: their bins and training statistics, and what rows of sums are compared with.

The scalar features of a model, its prediction and its confidence are its *targets*. The bins of all targets are stored
one after another in flat arrays, so all scores are one vector operation.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from exporter.profiles.profile import CONFIDENCE, PREDICTION, Feature, NumericFeature, Profile
from exporter.stats.change_evidence import ChangeEvidence
from exporter.stats.divergence import Floats, Ints, Reference


class Targets:
    """The targets of a profile.

    Parameters
    ----------
    profile
        The training profile.
    names
        Names of the ``F`` features that are targets.

    Attributes
    ----------
    names
        Names of the features. The prediction and the confidence, where profiled, are further targets after them.
    prediction, confidence
        Their indices among the targets; None where the profile has none.
    targets, target_names
        Frozen bins and name of each of the ``T`` targets; the outputs' names are `PREDICTION` and `CONFIDENCE`.
    numeric
        The targets that are numbers, and None for categories.
    sizes
        Number of bins of each target.
    bins
        Number ``B`` of all bins.
    quantiles
        χ² quantiles of the noise floors, see `exporter.profiles.profile.Profile.quantile_array`.
    reference
        Training distribution of the targets.
    training
        Number of training values in each bin, shape ``(B,)``.
    starts, missing, invalid
        Index of the first bin, the bin of missing values and the bin of invalid ones, shape ``(T,)``.
    mean, stddev
        Statistics of the training values, shape ``(T,)``; NaN for categories.
    centre, scale
        The mean and standard deviation that values are centred and scaled by, shape ``(T,)``; always finite.
    """

    def __init__(self, profile: Profile, names: list[str]) -> None:
        self.profile = profile
        self.names = names
        self.targets: list[Feature] = [profile.features[name] for name in names]
        self.target_names = list(names)
        self.prediction = self._add_target(PREDICTION, profile.prediction)
        self.confidence = self._add_target(CONFIDENCE, profile.confidence)
        self.numeric = [target if isinstance(target, NumericFeature) else None for target in self.targets]
        self.quantiles = profile.quantile_array()
        self._index_bins()
        self.mean = np.array([np.nan if n is None or n.mean is None else n.mean for n in self.numeric])
        self.stddev = np.array([np.nan if n is None or n.stddev is None else n.stddev for n in self.numeric])
        self.centre = np.nan_to_num(self.mean)
        self.scale = np.where(self.stddev > 0, self.stddev, np.maximum(abs(self.centre), 1.0))

    def _add_target(self, name: str, target: Feature | None) -> int | None:
        """Add an output of the model to the targets, and return its index; None where no training row has it."""
        if target is None or target.counts[-2] == sum(target.counts):
            return None
        self.target_names.append(name)
        self.targets.append(target)
        return len(self.targets) - 1

    def _index_bins(self) -> None:
        """Lay out the bins of all targets, and their training values; of outputs, those of rows that have one."""
        self.sizes = [len(target.counts) for target in self.targets]
        training = np.array([count for target in self.targets for count in target.counts], dtype=np.float64)
        self.bins = len(training)
        stops = np.cumsum(self.sizes, dtype=np.intp)
        self.missing, self.invalid = stops - 2, stops - 1
        training[self.missing[len(self.names) :]] = 0  # live events without an output are not counted, either
        self.reference = Reference.from_counts(training, self.sizes, self.quantiles)
        self.training: Floats = training
        self.starts: Ints = self.reference.starts

    @cached_property
    def change_evidence(self) -> ChangeEvidence:
        """The training side of the evidence of slow change."""
        ordered = [n is not None for n in self.numeric]
        blocks = self.profile.blocks
        dispersion = blocks.dispersions(self.target_names) if blocks else 1.0
        return ChangeEvidence(self.reference, np.array(ordered), dispersion)
