"""Score the correlation of blocks of consecutive training rows, in one pass and bounded memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exporter.profiles.block_builder import PARTS, SuccessiveBlocks, block_distance, rounded
from exporter.profiles.block_record import CorrelationScores
from exporter.profiles.correlation import Copula
from exporter.profiles.profile import Correlation
from exporter.stats.dependence import block_sizes, noise_of_scores
from exporter.stats.divergence import Floats

_MOST = 100  # blocks of each size that are scored
_MOST_PARTS = 10_000
_FEWEST_ROWS = 50


class CorrelationBlocks:
    """Sum the normal scores of blocks of consecutive rows, see `exporter.profiles.correlation.Copula`.

    Parameters
    ----------
    copula
        Sums scores.
    features
        Number ``d`` of features; a block has at least ``4 d`` rows.
    rows
        Number of rows that will be added; with 0 nothing is summed.
    """

    def __init__(self, copula: Copula, features: int, rows: int) -> None:
        fewest = max(_FEWEST_ROWS, 4 * features, rows * PARTS // _MOST_PARTS)
        self._sizes = [size for size in block_sizes(rows) if size >= fewest]
        self._part = self._sizes[0] // PARTS if self._sizes else 0
        self._copula = copula
        self._waiting = np.empty((features, 0))
        self._complete = np.empty(0, dtype=np.bool_)
        self._blocks = [
            SuccessiveBlocks(copula.width, block_distance(size, rows, _MOST), np.float64) for size in self._sizes
        ]

    def add(self, scores: Floats, complete: npt.NDArray[np.bool_]) -> None:
        """Add the next rows: their scores, shape ``(d, n)``, and whether each row is complete."""
        if not self._sizes:
            return
        held = np.concatenate((self._waiting, scores), axis=1)
        known = np.concatenate((self._complete, complete))
        starts = range(0, len(known) - self._part + 1, self._part)
        parts = [slice(start, start + self._part) for start in starts]
        end = len(parts) * self._part
        self._waiting, self._complete = held[:, end:].copy(), known[end:]
        sums = np.array([self._sum(held[:, part], known[part]) for part in parts]).reshape(-1, self._copula.width)
        for blocks in self._blocks:
            sums = blocks.add(sums)

    def _sum(self, scores: Floats, complete: npt.NDArray[np.bool_]) -> Floats:
        return self._copula.sum_scores(scores if complete.all() else scores[:, complete])

    def build(self, copula: Copula, training: Correlation) -> CorrelationScores | None:
        """Return the scores by the correlation in training; None without blocks."""
        size = len(training.features)
        sizes = np.array(self._sizes, dtype=np.float64)
        degrees = size * (size - 1) // 2
        scores = []
        for rows, blocks in zip(sizes, self._blocks, strict=True):
            found = np.array([copula.score(sums)[0] for sums in np.concatenate(blocks.kept)])
            # A block is part of training, and resembles it more than live rows do.
            scores.append(found[np.isfinite(found)] * (training.rows + rows) / (training.rows - rows))
        if not scores or not all(map(len, scores)):
            return None
        expected = training.scale * (sizes / (sizes + size)) ** 2 * degrees / 2 * (1 / sizes + 1 / training.rows)
        noise = noise_of_scores(scores, expected, np.sqrt(2 / degrees), sizes, training.rows)
        return CorrelationScores(
            tuple(self._sizes), rounded(noise.quantiles), rounded(noise.effective), noise.dependent
        )
