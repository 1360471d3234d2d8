"""The evidence of slow change of a model version, updated once a minute."""

from __future__ import annotations

import math

import numpy as np

from exporter.monitoring.binner import Binner
from exporter.stats.divergence import Floats

UPDATE_SECONDS = 60.0
YEAR_SECONDS = 365 * 86400.0


def evidence_limit(seconds: float = UPDATE_SECONDS) -> float:
    """Return the evidence in nats that is exceeded by chance at most once a year, with an update every ``seconds``.

    >>> round(evidence_limit(), 1)
    13.2
    """
    return math.log(YEAR_SECONDS / seconds)


LIMIT = evidence_limit()


class DriftEvidence:
    """Evidence that the targets no longer have their training distribution; the caller holds the monitor's lock.

    It is updated at most once a minute. A minute without values changes nothing.

    Parameters
    ----------
    binner
        Has the training distribution.
    observed
        What was counted in each bin since the start, shape ``(B,)``. The owner adds to it in place.
    """

    def __init__(self, binner: Binner, observed: Floats) -> None:
        self._detector = binner.change_evidence
        self._observed = observed
        self._counted = observed.copy()  # up to the last update
        self._state = np.zeros(self._detector.size)
        self._next = -math.inf

    def advance(self, now: float) -> None:
        """Update the evidence if a minute has passed since the last time.

        To call at the monotonic time ``now`` in seconds, before what is observed then is added.
        """
        if now < self._next:
            return
        self._next = now + UPDATE_SECONDS
        counts = self._observed - self._counted
        if counts.any():
            self._detector.update(self._state, counts, LIMIT)
            self._counted[:] = self._observed

    def read(self, now: float) -> Floats:
        """Return the evidence of each target in nats, shape ``(T,)``; NaN until a minute with values has passed."""
        self.advance(now)
        return self._detector.read(self._state)

    def dump(self) -> tuple[Floats, Floats]:
        """Return copies of the state, and of the counts that it does not have yet."""
        return self._state.copy(), self._observed - self._counted

    def restore(self, state: Floats, counts: Floats) -> None:
        """Continue from a `dump`, before anything is observed.

        Raises
        ------
        ValueError
            When it does not fit. The evidence is then unchanged.
        """
        if state.shape != self._state.shape or counts.shape != self._counted.shape:
            raise ValueError("it has another size")
        if not (np.isfinite(state).all() and np.isfinite(counts).all() and (state >= 0).all()):
            raise ValueError("it has values that are not numbers")
        self._state, self._counted = state.copy(), self._observed - counts
