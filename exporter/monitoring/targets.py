"""The targets of a profile: their bins and training statistics, and what rows of sums are compared with.

The scalar features of a model, its prediction and its confidence are its *targets*. The bins of all targets are stored
one after another in flat arrays, so all scores are one vector operation.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from exporter.monitoring.hourly_reference import Expected, HourlyReference
from exporter.profiles.profile import Feature, NumericFeature, Profile
from exporter.profiles.quality_record import CONFIDENCE, PREDICTION
from exporter.profiles.season_record import last_hour
from exporter.stats.change_evidence import MOST_ROWS, MOST_ROWS_OF_HOUR, ChangeEvidence
from exporter.stats.distances import Distances
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
    hourly
        Training distributions by hour; None for a profile without a season.
    hours
        Number ``H`` of hours of the season; 0 without one.
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
        self.confidence = self._add_target(CONFIDENCE, profile.confidence or None)
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
        self._overall = Expected(self.reference, training, np.zeros(len(self.targets)))
        season = self.profile.season or None
        self.hourly = HourlyReference.from_season(season, self.target_names, self._overall, self.quantiles)
        self.hours = self.hourly.hours if self.hourly else 0
        self.starts: Ints = self.reference.starts

    def expected(self, row: Floats) -> Expected:
        """Return what a row of sums is compared with: all training values, or those of the hours of its events."""
        return self.hourly.at(self.hours_of(row)) if self.hourly else self._overall

    def expected_at(self, unix_time: float) -> Expected:
        """Return what the events of the hour before a time are compared with, if they came evenly over the hour."""
        return self.hourly.at(last_hour(unix_time, self.hours)) if self.hourly else self._overall

    def hours_of(self, row: Floats) -> Floats:
        """Return the number of events in each hour in a row of sums, as a view of shape ``(H,)``."""
        return row[self.bins : self.bins + self.hours]

    def distances(self, expected: Expected) -> Distances:
        """Return the training side of the distances that a configuration may ask for."""
        return self._distances.with_training(expected.reference, expected.counts) if self.hourly else self._distances

    @cached_property
    def _distances(self) -> Distances:
        edges = [np.array(n.edges if n else ()) for n in self.numeric]
        return Distances(self.reference, self._overall.counts, edges, self.centre, self.scale)

    @cached_property
    def change_evidence(self) -> ChangeEvidence:
        """The training side of the evidence of slow change."""
        return self.change_evidence_of(self.reference)

    def change_evidence_of(self, reference: Reference) -> ChangeEvidence:
        """Return the evidence of a change from a training distribution, such as that of an hour."""
        ordered = [n is not None for n in self.numeric]
        blocks = self.profile.blocks
        dispersion = blocks.dispersions(self.target_names) if blocks else 1.0
        most_rows = np.full(len(self.targets), MOST_ROWS)
        if self.hourly:
            most_rows[self.hourly.targets] = MOST_ROWS_OF_HOUR
        return ChangeEvidence(reference, np.array(ordered), dispersion, most_rows)
