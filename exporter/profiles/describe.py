"""Describe a profile with text and small histograms."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import numpy as np

from exporter.features.embedding import EmbeddingState
from exporter.features.text import TextState
from exporter.profiles.block_record import Blocks
from exporter.profiles.describe_order import dependence_note, order_line
from exporter.profiles.describe_quality import quality_lines
from exporter.profiles.describe_weights import weights_lines
from exporter.profiles.profile import CategoricalFeature, Feature, NumericFeature, Profile
from exporter.stats.divergence import Floats

_LEVELS = " ▁▂▃▄▅▆▇█"
_CELLS = 48
_SHOWN = 8
"""Number of categories with a bar."""


def notes(feature: Feature) -> list[str]:
    """Return remarks on a feature: constant, without values, with missing or invalid values."""
    rows = sum(feature.counts)
    missing, invalid = feature.counts[-2:]
    remarks = []
    if missing + invalid == rows:
        remarks.append("no value at all")
    elif isinstance(feature, NumericFeature):
        remarks += [f"always {feature.min:.6g}"] if feature.min == feature.max else []
    elif len(feature.categories) == 1 and not feature.counts[1]:
        remarks.append(f"always {truncate(feature.categories[0], 20)}")
    remarks += [f"{_share(missing, rows)} missing"] if missing else []
    remarks += [f"{_share(invalid, rows)} invalid"] if invalid else []
    return remarks


def describe_lines(profile: Profile, width: int = 80) -> Iterator[str]:
    """Yield the description line by line, each of at most ``width`` columns of a terminal, 80 or more."""
    made = f", made {profile.created:%Y-%m-%d %H:%M} UTC" if profile.created else ""
    yield truncate(f"{profile.name}: {profile.rows:,} rows{made}, hash {profile.hash[:12] or 'none'}", width)
    for name, kind in profile.input_types().items():
        state = (profile.learned or {}).get(name)
        if isinstance(state, TextState):
            yield from ("", truncate(f"{name}  text, {len(state.words):,} words known", width))
        elif isinstance(state, EmbeddingState):
            yield from ("", truncate(f"{name}  embedding of {len(state.centroid)} numbers", width))
        for feature in kind.features(name):
            yield from _feature(feature, kind.type, profile.features[feature], profile.blocks or None, width)
    if profile.prediction:
        yield from _feature("(prediction)", "", profile.prediction, profile.blocks or None, width)
    if profile.confidence:
        yield from _feature("(confidence)", "", profile.confidence, profile.blocks or None, width)
    yield from ("", truncate(order_line(profile.blocks or None), width))
    yield from (truncate(line, width) for line in quality_lines(profile))
    yield from (truncate(line, width) for line in weights_lines(profile.weights or None))


def _feature(name: str, kind: str, feature: Feature, blocks: Blocks | None, width: int) -> Iterator[str]:
    parts = [kind] if kind else []
    if isinstance(feature, NumericFeature) and feature.edges and feature.min != feature.max:
        parts.append(f"mean {feature.mean:.4g}, stddev {feature.stddev:.4g}, {feature.min:.4g} to {feature.max:.4g}")
    yield ""
    yield truncate(f"{truncate(name, width - 48)}  {'; '.join(parts + notes(feature))}".rstrip(), width)
    if note := dependence_note(blocks, name, feature):
        yield truncate(f"  {note}", width)
    if isinstance(feature, CategoricalFeature):
        yield from _bars(feature)
    elif feature.edges and feature.min != feature.max:
        yield _histogram(feature)


def _histogram(feature: NumericFeature) -> str:
    """Return a line with the range in cells of equal width, and the mass in each."""
    edges = np.array(feature.edges)
    inner = np.array(feature.counts[1:-2], dtype=np.float64)[: len(edges) - 1]  # without values outside the range
    below = np.concatenate(([0.0], np.cumsum(inner)))
    # With a long tail all else would be in one cell: then only the middle 98 % are drawn.
    low, high = (float(np.interp(share * below[-1], below, edges)) for share in (0.01, 0.99))
    if edges[-1] / 4 - edges[0] / 4 <= high / 2 - low / 2:
        low, high = float(edges[0]), float(edges[-1])
    grid = np.interp(np.linspace(0, 1, _CELLS + 1), [0, 1], [low / 2, high / 2]) * 2
    grid[-1] = high
    index = np.clip(edges.searchsorted(grid, side="right") - 1, 0, len(edges) - 2)
    left, right = edges[index] / 2, edges[index + 1] / 2
    part = np.clip((grid / 2 - left) / np.maximum(right - left, 5e-324), 0, 1)
    masses: Floats = np.diff(below[index] + part * inner[index])
    heights = np.ceil(masses / max(masses.max(), 1e-300) * (len(_LEVELS) - 1)).astype(int)
    return f"  {low:>11.4g} {''.join(_LEVELS[height] for height in heights)} {high:.4g}"


def _bars(feature: CategoricalFeature) -> Iterator[str]:
    rows = max(sum(feature.counts), 1)
    size = len(feature.categories)
    shown = list(zip(feature.categories, feature.counts, strict=False))[:_SHOWN]
    rest = sum(feature.counts[_SHOWN : size + 1]) if size > _SHOWN else feature.counts[size]
    if rest:
        further = size - len(shown) + len(feature.rare)
        shown.append((f"{further:,} others" if further > 1 else "other", rest))
    most = max((count for _, count in shown), default=1)
    for name, count in shown:
        bar = "█" * round(30 * count / most) or "▏"
        yield f"  {_padded(truncate(name, 30), 30)} {bar} {_share(count, rows)}"


def _share(part: int, whole: int) -> str:
    percent = 100 * part / max(whole, 1)
    return f"{percent:.1f} %" if percent >= 0.05 else f"{part:,} of {whole:,}"


def _columns(character: str) -> int:
    return 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "FW")


def truncate(text: str, width: int) -> str:
    """Cut a text to a number of columns of a terminal, and replace control characters."""
    longest = 4 * width  # combining marks take no column
    printable = "".join(character if character.isprintable() else "�" for character in text[:longest])
    if sum(map(_columns, printable)) <= width and len(text) <= longest:
        return printable
    while sum(map(_columns, printable)) > width - 1:
        printable = printable[:-1]
    return f"{printable}…"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - sum(map(_columns, text)))
