"""The time in which two versions served together, from the steps in which they had requests."""

from __future__ import annotations

from typing import Literal

GAP_SECONDS = 600.0
"""A version serves as long as it has a request at least this often while the other one has requests."""
STEP_SECONDS = 15.0
"""Length of a step: the ends of the shared time are exact to one step."""


class SharedTime:
    """Decides step by step in which time two versions serve.

    A stretch of shared time begins when both versions have had a request, and extends up to each further moment at
    which both have had one again. If one version has requests for longer than the gap while the other has none, the
    stretch has ended where both served for the last time. Steps without any request, such as those of a quiet night,
    end nothing, because no version serves alone in them.

    Parameters
    ----------
    step
        Length of a step in seconds.

    Attributes
    ----------
    steps : int
        Steps with requests since the stretch began or was extended.
    """

    def __init__(self, step: float = STEP_SECONDS) -> None:
        self.steps = 0
        self._most = max(round(GAP_SECONDS / step), 1)
        self._begun = False
        self._served = [False, False]

    def add(self, before: bool, after: bool) -> Literal["waits", "begins", "extends"]:
        """Add a step, given whether each version had a request in it.

        Returns
        -------
        str
            ``extends`` when both served since the stretch began or was last extended, ``begins`` when a stretch begins
            at the end of this step, else ``waits``.

        Examples
        --------
        >>> time = SharedTime()
        >>> [time.add(*served) for served in ((True, False), (True, True), (True, False), (False, True))]
        ['waits', 'begins', 'waits', 'extends']
        """
        if not (before or after):
            return "waits"
        self.steps += 1
        self._served = [self._served[0] or before, self._served[1] or after]
        if not all(self._served):
            return "waits"
        extends = self._begun and self.steps <= self._most
        self.steps, self._begun, self._served = 0, True, [False, False]
        return "extends" if extends else "begins"
