"""Series over time, for promtool's tests and for an exporter that tests pretend to be."""

from __future__ import annotations

from typing import NamedTuple


class Counter(NamedTuple):
    """A counter in phases of (minutes, increase per second); None for one without the series."""

    phases: tuple[tuple[float, float | None], ...]

    def at(self, minute: float) -> float | None:
        """The value after some minutes; the last phase does not end."""
        total = 0.0
        for minutes, rate in self.phases[:-1]:
            if minute < minutes:
                break
            total += (rate or 0) * 60 * minutes
            minute -= minutes
        else:
            rate = self.phases[-1][1]
        return None if rate is None else total + rate * 60 * minute

    def samples(self, interval: int) -> list[float | None]:
        """The value at each scrape."""
        return _samples(self, interval)


class Steps(NamedTuple):
    """A series that keeps each value for some minutes; None for none."""

    phases: tuple[tuple[float, float | None], ...]

    def at(self, minute: float) -> float | None:
        """The value after some minutes; the last one stays."""
        for minutes, value in self.phases:
            if minute < minutes:
                return value
            minute -= minutes
        return self.phases[-1][1]

    def samples(self, interval: int) -> list[float | None]:
        """The value at each scrape."""
        return _samples(self, interval)


def _samples(series: Counter | Steps, interval: int) -> list[float | None]:
    scrapes = int(sum(minutes for minutes, _ in series.phases) * 60 / interval)
    return [series.at(scrape * interval / 60) for scrape in range(scrapes)]
