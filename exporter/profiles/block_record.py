"""What a profile keeps of blocks of consecutive training rows: the noise of values that depend on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec
import numpy as np

from exporter.errors import ProfileError
from exporter.stats.dependence import NoiseRatio
from exporter.stats.divergence import Floats, Reference
from exporter.validation import preview

FILE, TIME, SHUFFLED, GROUPED, UNSORTED = "file", "time", "shuffled", "grouped", "unsorted"
"""Order of the rows: that of the file; of a column of times; none, as the user says; grouped by the values of a column;
or not that of the column of times, and too many to sort."""
_LARGEST = 2**40  # rows of a block
_ORDERS = (FILE, TIME, SHUFFLED, GROUPED, UNSORTED)


class BlockScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores of one target's blocks; see `exporter.stats.dependence.BlockNoise`.

    Attributes
    ----------
    quantiles
        99 % quantile of the scores in nats, for each block size.
    effective
        How many independent values tell as much as a block, for each block size.
    dependent
        Whether successive values depend on each other.
    dispersion
        See `exporter.stats.dispersion.measure_dispersion`.
    """

    quantiles: tuple[float, ...]
    effective: tuple[float, ...]
    dependent: bool
    dispersion: float = 1.0


class CorrelationScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores of the correlation of features in blocks: the fields of `BlockScores`, with sizes of their own."""

    sizes: tuple[int, ...]
    quantiles: tuple[float, ...]
    effective: tuple[float, ...]
    dependent: bool


class Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The times of the training rows.

    Attributes
    ----------
    unreadable
        Rows without a time that can be read. They are left out of the blocks.
    earliest, latest
        The first and the last time in Unix seconds.
    """

    unreadable: int
    earliest: float
    latest: float


class Blocks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores of blocks of consecutive training rows.

    Attributes
    ----------
    order
        `FILE`, `TIME`, `SHUFFLED`, `GROUPED` or `UNSORTED`.
    column
        The column of times, or that by which rows are grouped.
    sizes
        Block sizes, ascending; none where the rows have no order or are fewer than 200.
    targets
        The scores by feature, ``(prediction)`` and ``(confidence)``.
    correlation
        The scores of the correlation of the features; None where it is not known.
    times
        What the column of times holds; unset without one, and in older profiles.
    """

    order: str
    column: str | None = None
    sizes: tuple[int, ...] = ()
    targets: dict[str, BlockScores] = {}
    correlation: CorrelationScores | None = None
    times: Times | None = None

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the rows is that in which they arrived."""
        return self.order in {FILE, TIME}

    def dispersions(self, names: Sequence[str]) -> Floats:
        """Return the dispersion of each of ``F`` targets by their names, shape ``(F,)``; 1 where it is not known."""
        return np.array([self.targets[name].dispersion if name in self.targets else 1.0 for name in names])

    def noise_ratio(self, names: Sequence[str], reference: Reference) -> NoiseRatio:
        """Return by how much dependence raises the noise floors of some targets.

        Parameters
        ----------
        names
            Names of the ``F`` targets of the reference.
        reference
            Gives the noise floor of independent values.
        """
        chosen = [self.targets.get(name) for name in names]
        if not any(scores and scores.dependent for scores in chosen):
            return NoiseRatio.of_independent_values(len(names))
        unknown = (np.nan,) * len(self.sizes)
        quantiles = np.array([scores.quantiles if scores and scores.dependent else unknown for scores in chosen])
        return NoiseRatio.from_quantiles(np.array(self.sizes, dtype=np.float64), quantiles, reference)


def check_blocks(blocks: Blocks, targets: Mapping[str, object]) -> None:
    """Raise ProfileError where the record contradicts itself, or the ``targets`` of the profile."""
    if blocks.order not in _ORDERS:
        raise ProfileError(f"blocks.order: {preview(blocks.order)} is not one of {', '.join(_ORDERS)}")
    _check_sizes("blocks", blocks.sizes)
    for name, scores in blocks.targets.items():
        if name not in targets:
            raise ProfileError(f"blocks.targets: {preview(name)} is not a feature of the profile")
        if not 1 <= scores.dispersion < np.inf:
            path = f"blocks.targets.{name}.dispersion"
            raise ProfileError(f"{path}: expected a number of at least 1, got {preview(scores.dispersion)}")
        _check_scores(f"blocks.targets.{name}", scores, len(blocks.sizes))
    if blocks.correlation:
        _check_sizes("blocks.correlation", blocks.correlation.sizes)
        _check_scores("blocks.correlation", blocks.correlation, len(blocks.correlation.sizes))
    if blocks.times and (blocks.times.unreadable < 0 or blocks.times.earliest > blocks.times.latest):
        raise ProfileError("blocks.times: expected unreadable of at least 0, and earliest of at most latest")


def _check_sizes(path: str, sizes: Sequence[int]) -> None:
    # The recording rules interpolate between sizes whose logarithms to the base 2 are 1 apart.
    if not all(1 <= size <= _LARGEST for size in sizes) or not all(high == 2 * low for low, high in pairwise(sizes)):
        detail = f"expected whole numbers from 1 to {_LARGEST:,}, each twice the one before, such as 20, 40, 80"
        raise ProfileError(f"{path}.sizes: {detail}; got {preview(list(sizes))}")


def _check_scores(path: str, scores: BlockScores | CorrelationScores, sizes: int) -> None:
    if scores.dependent and not sizes:
        raise ProfileError(f"{path}.dependent: expected false, since there are no sizes")
    for field, values in (("quantiles", scores.quantiles), ("effective", scores.effective)):
        if len(values) != sizes or not all(0 <= value < np.inf for value in values):
            raise ProfileError(f"{path}.{field}: expected {sizes} numbers of at least 0, got {preview(list(values))}")
