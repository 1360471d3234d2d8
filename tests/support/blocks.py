"""Profiles of values that depend on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from exporter.profiles.profile import FILE, Blocks, BlockScores, Profile
from exporter.stats.divergence import Reference


def with_ratios(profile: Profile, sizes: Sequence[int], ratios: Mapping[str, Sequence[float]]) -> Profile:
    """Return the profile with blocks whose scores are some times higher than those of independent values."""
    targets = {}
    for name, target in profile.targets().items():
        counts = np.array(target.counts, dtype=np.float64)
        reference = Reference.from_counts(counts, [len(counts)], profile.quantile_array())
        ratio = ratios.get(name, [1.0] * len(sizes))
        floors = [float(reference.noise(np.array([float(size)]))[0]) for size in sizes]
        quantiles = tuple(floor * factor for floor, factor in zip(floors, ratio, strict=True))
        effective = tuple(size / factor for size, factor in zip(sizes, ratio, strict=True))
        targets[name] = BlockScores(quantiles, effective, dependent=name in ratios)
    return msgspec.structs.replace(profile, blocks=Blocks(FILE, None, tuple(sizes), targets))
