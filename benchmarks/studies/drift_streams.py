"""Streams without drift, and changes of them, for the study of the drift alert."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import fft
from scipy.signal import lfilter

from exporter.stats.divergence import Floats

Rng = np.random.Generator
Draw = Callable[[Rng, int, int], Floats]
Change = Callable[[Rng, Floats], Floats]


class Case(NamedTuple):
    """A stream without drift.

    Attributes
    ----------
    draw
        Draws windows of shape ``(W, n)``. The values of a window follow one another, the windows are independent.
    sd
        Standard deviation of a value.
    discrete, categorical
        Whether values are a few integers, or codes of categories.
    dependent
        Whether successive values depend on each other.
    variance
        For normal values that depend on each other, the variance of the mean of ``n`` successive values.
    period
        Number of values in a season. Training covers whole seasons.
    """

    draw: Draw
    sd: float = 1.0
    discrete: bool = False
    categorical: bool = False
    dependent: bool = False
    variance: Callable[[int], float] | None = None
    period: int = 1

    def training(self, rng: Rng, rows: int) -> Floats:
        """Draw successive training rows: at least ``rows``, and whole seasons."""
        return self.draw(rng, 1, -(-rows // self.period) * self.period)[0]


def continued(phi: float, before: Floats, noise: Floats) -> Floats:
    """Return successive values, each correlated with the one before by ``phi``, shape ``(n, F)``.

    Parameters
    ----------
    before
        The last values before them, shape ``(1, F)``.
    noise
        Independent standard normal values, shape ``(n, F)``.
    """
    return np.asarray(lfilter([np.sqrt(1 - phi**2)], [1, -phi], noise, axis=0, zi=phi * before)[0])


def autoregressive(phi: float, noise: float = 0.0) -> Case:
    """Return normal values, each correlated with the one before by ``phi``, with a share of independent noise."""

    def draw(rng: Rng, windows: int, size: int) -> Floats:
        values = rng.normal(size=(size, windows))
        values[1:] *= np.sqrt(1 - phi**2)
        found = np.ascontiguousarray(lfilter([1], [1, -phi], values, axis=0).T)
        return np.sqrt(1 - noise) * found + np.sqrt(noise) * rng.normal(size=found.shape) if noise else found

    def variance(n: int) -> float:
        lags = np.arange(1, n)
        return float((noise + (1 - noise) * (1 + 2 * ((1 - lags / n) * phi**lags).sum())) / n)

    return Case(draw, dependent=True, variance=variance)


def long_memory(d: float) -> Case:
    """Return fractional Gaussian noise of the Hurst exponent d + ½, by circulant embedding (Davies and Harte 1987)."""
    power = 2 * d + 1

    def draw(rng: Rng, windows: int, size: int) -> Floats:
        lags = np.arange(fft.next_fast_len(size) + 1.0)
        covariance = (np.abs(lags + 1) ** power - 2 * lags**power + np.abs(lags - 1) ** power) / 2
        circle = np.concatenate([covariance, covariance[-2:0:-1]])
        scale = np.sqrt(fft.fft(circle).real.clip(0) / len(circle))
        shape = (-(-windows // 2), len(circle))
        found = fft.fft(scale * (rng.normal(size=shape) + 1j * rng.normal(size=shape)))[:, :size]
        return np.concatenate([found.real, found.imag])[:windows]

    return Case(draw, dependent=True, variance=lambda n: float(n) ** (power - 2))


def sessions(shortest: int, longest: int) -> Case:
    """Return normal values, each repeated for the length of a session; a window begins anywhere in a session."""
    lengths = np.arange(shortest, longest + 1)

    def draw(rng: Rng, windows: int, size: int) -> Floats:
        most = size // shortest + 2
        long = rng.integers(shortest, longest + 1, (windows, most))
        long[:, 0] = rng.choice(lengths, windows, p=lengths / lengths.sum())  # longer ones are met more often
        ends = long.cumsum(axis=1) - rng.integers(0, long[:, 0])[:, None]
        begins = np.zeros((windows, size + 1), dtype=np.intp)
        np.put_along_axis(begins, ends.clip(max=size), 1, axis=1)
        return np.take_along_axis(rng.normal(size=(windows, most)), begins[:, :size].cumsum(axis=1), axis=1)

    return Case(draw, dependent=True)


def seasonal(period: int) -> Case:
    """Return normal values with a sine of half their standard deviation; a window begins anywhere in the season."""

    def draw(rng: Rng, windows: int, size: int) -> Floats:
        time = np.arange(size) + rng.integers(0, period, (windows, 1))
        return np.sqrt(0.5) * np.sin(2 * np.pi * time / period) + np.sqrt(0.75) * rng.normal(size=(windows, size))

    return Case(draw, dependent=True, period=period)


def bursts(chance: float, length: int, height: float) -> Case:
    """Return normal values among which bursts of higher values begin by chance."""
    share = 1 - (1 - chance) ** length
    sd = np.sqrt(1 + height**2 * share * (1 - share))

    def draw(rng: Rng, windows: int, size: int) -> Floats:
        begun = (rng.random((windows, size + length)) < chance).cumsum(axis=1)
        high = begun[:, length:] > begun[:, :size]
        return (rng.normal(size=(windows, size)) + height * (high - share)) / sd

    return Case(draw, dependent=True)


SHARES = np.array([0.4, 0.25, 0.15, 0.08, 0.05, 0.04, 0.02, 0.01])
CASES = {
    "normal": Case(lambda rng, w, n: rng.normal(size=(w, n))),
    "log-normal": Case(lambda rng, w, n: rng.lognormal(size=(w, n)), sd=float(np.sqrt((np.e - 1) * np.e))),
    "discrete": Case(lambda rng, w, n: rng.poisson(4, (w, n)).astype(float), sd=2.0, discrete=True),
    "zero-heavy": Case(lambda rng, w, n: rng.exponential(size=(w, n)) * (rng.random((w, n)) < 0.4), sd=0.8),
    "categories": Case(
        lambda rng, w, n: SHARES.cumsum()[:-1].searchsorted(rng.random((w, n))).astype(float),
        discrete=True,
        categorical=True,
    ),
    "AR(1) 0.5": autoregressive(0.5),
    "AR(1) 0.9": autoregressive(0.9),
    "AR(1) 0.97": autoregressive(0.97),
    "AR(1) 0.97, half noise": autoregressive(0.97, noise=0.5),
    "long memory": long_memory(0.3),
    "sessions": sessions(10, 100),
    "season": seasonal(1440),
    "bursts": bursts(0.002, 50, 2.0),
}


def averaged(case: Case, together: int) -> Case:
    """Return the stream of means of ``size`` successive values, such as one record per session."""
    return case._replace(draw=lambda rng, w, n: case.draw(rng, w, n * together).reshape(w, n, together).mean(axis=-1))


def replaced(share: float, value: float) -> Change:
    """Return a change that replaces a share of the values by one value."""
    return lambda rng, x: np.where(rng.random(x.shape) < share, value, x)


CHANGES: dict[str, tuple[str, Change]] = {
    "mean + 0.25 sd": ("normal", lambda _, x: x + 0.25),
    "mean + 0.5 sd": ("normal", lambda _, x: x + 0.5),
    "mean + 1 sd": ("normal", lambda _, x: x + 1),
    "mean + 1 sd, log-normal": ("log-normal", lambda _, x: x + CASES["log-normal"].sd),
    "mean + 1 sd, discrete": ("discrete", lambda _, x: x + 2),
    "mean + 1 sd, zero-heavy": ("zero-heavy", lambda _, x: x + 0.8),
    "spread x 1.5": ("normal", lambda _, x: x * 1.5),
    "spread x 2": ("normal", lambda _, x: x * 2),
    "spread x 0.5": ("normal", lambda _, x: x * 0.5),
    "tail: 5% ten times as large": ("log-normal", lambda rng, x: np.where(rng.random(x.shape) < 0.05, 10 * x, x)),
    "tail: 5% at 5 sd": ("normal", replaced(0.05, 5.0)),
    "new category, 10%": ("categories", replaced(0.1, len(SHARES))),
    "stuck sensor": ("normal", lambda _, x: np.broadcast_to(x[:, :1], x.shape)),
    "metres to feet": ("log-normal", lambda _, x: x * 3.28084),
    "missing, 5%": ("normal", replaced(0.05, np.nan)),
    "missing, 20%": ("normal", replaced(0.2, np.nan)),
}


def seeded(*key: object) -> Rng:
    """Return a separate generator for each part, so that no part depends on what ran before."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))
