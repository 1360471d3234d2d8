"""Training values that change with the hour of the day, and their profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from exporter.profiles.builder import build_file
from exporter.profiles.profile import Profile
from exporter.stats.divergence import Floats

DAY = 86400.0
START = 20_000 * DAY
"""A midnight, at which live traffic begins."""


def daily(rng: np.random.Generator, seconds: Floats) -> Floats:
    """Values with a standard deviation of 1 around a mean that moves by √2 up and down in a day."""
    return rng.normal(size=len(seconds)) + np.sqrt(2) * np.sin(2 * np.pi * seconds / DAY)


def columns(rng: np.random.Generator, seconds: Floats) -> dict[str, Any]:
    """``income`` changes with the hour, as does the share of ``lunch`` in ``meal``; ``age`` does not."""
    noon = abs(seconds % DAY - DAY / 2) < 7200
    meal = np.where(rng.random(len(seconds)) < np.where(noon, 0.9, 0.2), "lunch", "snack")
    return {"income": daily(rng, seconds), "meal": meal.tolist(), "age": rng.normal(size=len(seconds))}


def training(days: float = 14, rows: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Rows of the days before `START`, in order, with their times in ``at``."""
    rng = np.random.default_rng(seed)
    seconds = np.sort(START - days * DAY + rng.random(rows) * days * DAY)
    return {"at": seconds, **columns(rng, seconds)}


def profile(folder: Path, **options: Any) -> Profile:
    """Return the profile of the training values."""
    path = folder / "training.npz"
    np.savez(path, **training())
    return build_file(path, name="loans", time_column="at", **options)
