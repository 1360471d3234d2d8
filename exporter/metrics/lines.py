"""The text format of metric families: their headers, and the lines of their samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from exporter.monitoring.counters import Histogram
from exporter.stats.divergence import Floats


class Family(NamedTuple):
    """A metric family; ``name`` is that of its samples, which ends in ``_total`` for a counter."""

    name: str
    kind: str
    help: str

    def header(self, openmetrics: bool) -> bytes:
        """Return the HELP and TYPE lines."""
        name = self.name.removesuffix("_total") if openmetrics and self.kind == "counter" else self.name
        return f"# HELP {name} {self.help}\n# TYPE {name} {self.kind}\n".encode()


class LineTemplate:
    r"""The lines of some samples without their values, prepared once.

    Parameters
    ----------
    prefixes
        The text before each sample's value, see `series_prefix`.

    Examples
    --------
    >>> LineTemplate([series_prefix("a", b="c"), series_prefix("d", e="f")]).render([1, float("nan")])
    b'a{b="c"} 1.0\n'
    """

    def __init__(self, prefixes: Iterable[bytes]) -> None:
        self._parts = [part for prefix in prefixes for part in (prefix, b"")]

    def __len__(self) -> int:
        return len(self._parts) // 2

    def render(self, values: Floats | Sequence[float]) -> bytes:
        """Return the lines of the samples; one whose value is NaN is left out."""
        if not self._parts:
            return b""
        numbers = values.tolist() if isinstance(values, np.ndarray) else list(map(float, values))
        encoded = msgspec.json.encode(numbers)[1:-1]  # the fastest way to write floats
        endings = (encoded.replace(b",", b"\n,") + b"\n").split(b",")
        parts = self._parts.copy()  # two scrapes may run at a time
        parts[1::2] = endings
        if b"null" in encoded:
            present = [index for index, ending in enumerate(endings) if ending != b"null\n"]
            parts = [part for index in present for part in parts[2 * index : 2 * index + 2]]
        return b"".join(parts)


def render_lines(prefixes: Sequence[bytes], values: Floats | Sequence[float]) -> bytes:
    """Return the lines of samples that are rendered only once."""
    return LineTemplate(prefixes).render(values)


def series_prefix(name: str, **labels: str) -> bytes:
    r"""Return the text of a sample before its value.

    >>> series_prefix("model_requests_total", model='a"b', code="200")
    b'model_requests_total{model="a\\"b",code="200"} '
    """
    pairs = ",".join(f'{key}="{escape_label(value)}"' for key, value in labels.items())
    return f"{name}{{{pairs}}} ".encode() if pairs else f"{name} ".encode()


def escape_label(value: str) -> str:
    """Escape the value of a label for the text format."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


FamilyLines = tuple[Family, bytes]
"""A family and the lines of some of its samples."""


def sample_line(family: Family, value: float, **labels: str) -> FamilyLines:
    """Return the line of one sample; nothing for NaN."""
    return family, render_lines([series_prefix(family.name, **labels)], [float(value)])


def histogram_template(family: Family, bounds: Sequence[float], **labels: str) -> LineTemplate:
    """Return the template of a histogram, for `histogram_values`."""
    buckets = [series_prefix(f"{family.name}_bucket", **labels, le=le) for le in [*map(str, bounds), "+Inf"]]
    totals = [series_prefix(f"{family.name}_{suffix}", **labels) for suffix in ("count", "sum")]
    return LineTemplate([*buckets, *totals])


def histogram_values(histogram: Histogram) -> list[float]:
    """Return the values of a histogram's samples."""
    cumulative = histogram.cumulative().tolist()
    return [*cumulative, cumulative[-1], histogram.sum]
