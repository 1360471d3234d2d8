"""Declare metric families, each with the function that reads its value, and render them in the text format.

The text of a sample before its value is prepared once; a scrape only fills in the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from exporter.monitoring.counters import Histogram
from exporter.stats.divergence import Floats

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Key = str | tuple[str | None, ...]
"""The values of a sample's further labels; None for a label that the sample does not have."""
Reading = float | Floats | Sequence[float] | Mapping[Any, Any] | Histogram | None
"""What the reader of a metric returns: a value, an array with one for each name, values by `Key`, or None.

The values of a summary are pairs: the sum and the count.
"""
Interval = Sequence[float] | None
"""A value, and the lower and the upper end of its 95% interval; None for nothing."""
Cache = dict[Any, Any]


class Family(NamedTuple):
    """A metric family; ``name`` is that of its samples, which ends in ``_total`` for a counter."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()

    def header(self, openmetrics: bool) -> bytes:
        """Return the HELP and TYPE lines."""
        name = self.name.removesuffix("_total") if openmetrics and self.kind == "counter" else self.name
        return f"# HELP {name} {self.help}\n# TYPE {name} {self.kind}\n".encode()

    def prefixes(self, labels: dict[str, str], keys: Iterable[Key]) -> Iterator[bytes]:
        """Yield the text before the value of each sample, given the labels of all, and the further ones of each."""
        others = [name for name in self.labels if name not in labels]
        for key in keys:
            further = zip(others, (key,) if isinstance(key, str) else key, strict=True)
            values: dict[str, str | None] = {**labels, **dict(further)}
            for suffix in ("_sum", "_count") if self.kind == "summary" else ("",):
                yield _prefix(self.name + suffix, {name: values[name] for name in self.labels})


FamilyLines = tuple[Family, bytes]
"""A family and the lines of some of its samples."""


def _prefix(name: str, labels: Mapping[str, str | None]) -> bytes:
    pairs = ",".join(f'{key}="{escape_label(value)}"' for key, value in labels.items() if value is not None)
    return f"{name}{{{pairs}}} ".encode() if pairs else f"{name} ".encode()


def escape_label(value: str) -> str:
    """Escape the value of a label for the text format."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def bound_label(bound: float) -> str:
    """Return the label of a histogram's bound as Prometheus 3 writes it.

    >>> [bound_label(bound) for bound in (0.005, 1.0, 604800.0, 1209600.0)]
    ['0.005', '1.0', '604800.0', '1.2096e+06']
    """
    text = f"{bound:.6g}"
    return text if "e" in text else str(float(bound))


class LineTemplate:
    r"""The lines of some samples without their values.

    Examples
    --------
    >>> LineTemplate([b'a{b="c"} ', b'd{e="f"} ']).render([1, float("nan")])
    b'a{b="c"} 1.0\n'
    """

    def __init__(self, prefixes: Iterable[bytes]) -> None:
        self._parts = [part for prefix in prefixes for part in (prefix, b"")]

    def __len__(self) -> int:
        return len(self._parts) // 2

    def render(self, values: Floats | Sequence[float]) -> bytes:
        """Return the lines of the samples; one whose value is not finite is left out."""
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


class Metrics(Generic[T]):
    """Metric families whose values are read from objects of one kind, in the order of the exposition.

    A metric is declared by decorating the function that reads its value. The function's name is the metric's, and its
    docstring is the help.

    Parameters
    ----------
    section
        The section of the documents that lists them.
    labels
        The labels of all families. Those that `lines` does not get are in the keys of a reading, or in ``names``.
    names
        Returns the keys of readings that are arrays, always the same ones for a cache.
    state
        Returns an object on which all values depend: the lines are rendered again only when it is another one.

    Examples
    --------
    >>> loads = Metrics[dict[str, float]]("System", "host")
    >>> @loads.gauge("processor")
    ... def load(values: dict[str, float]) -> Reading:
    ...     "Load of a processor."
    ...     return values
    >>> list(loads.lines({"0": 0.5}, host="a"))[0][1]
    b'load{host="a",processor="0"} 0.5\\n'
    """

    def __init__(
        self,
        section: str,
        *labels: str,
        names: Callable[[T], Iterable[Key]] | None = None,
        state: Callable[[T], object] | None = None,
    ) -> None:
        self.section, self.families = section, list[Family]()
        self._labels, self._names, self._state = labels, names, state
        self._readers: list[tuple[list[Family], Callable[[T], Any]]] = []

    def _declare(self, kind: str, labels: tuple[str, ...], suffixes: Sequence[str] = ("",)) -> Callable[[F], F]:
        def declare(read: F) -> F:
            name, text = read.__name__, (read.__doc__ or "").strip()
            families = [
                Family(
                    f"{name}{suffix}",
                    kind,
                    f"{suffix[1:].capitalize()} end of the 95% interval of {name}." if suffix else text,
                    (*self._labels, *labels),
                )
                for suffix in suffixes
            ]
            self.families += families
            self._readers.append((families, read))
            return read

        return declare

    def gauge(self, *labels: str) -> Callable[[F], F]:
        """Declare a gauge, with further labels that are in the keys of its reading."""
        return self._declare("gauge", labels)

    def counter(self, *labels: str) -> Callable[[F], F]:
        """Declare a counter, as a gauge."""
        return self._declare("counter", labels)

    def histogram(self) -> Callable[[F], F]:
        """Declare a histogram; its reader returns a `Histogram`."""
        return self._declare("histogram", ())

    def summary(self, *labels: str) -> Callable[[F], F]:
        """Declare a summary without quantiles: its reader returns the sum and the count by `Key`."""
        return self._declare("summary", labels)

    def interval(self) -> Callable[[F], F]:
        """Declare a gauge and, with the suffixes ``_lower`` and ``_upper``, the ends of its 95% interval."""
        return self._declare("gauge", (), ("", "_lower", "_upper"))

    def lines(self, source: T, cache: Cache | None = None, /, **labels: str) -> Iterable[FamilyLines]:
        """Return the lines of an object.

        Parameters
        ----------
        source
            The object.
        cache
            What was prepared in an earlier call, of an object with the same names.
        labels
            Labels of all samples.
        """
        cache = {} if cache is None else cache
        if self._state is None:
            return self._read(source, cache, labels)
        state = self._state(source)
        known = cache.get(self)
        if known is None or known[0] is not state:
            known = cache[self] = state, list(self._read(source, cache, labels))
        lines: list[FamilyLines] = known[1]
        return lines

    def _read(self, source: T, cache: Cache, labels: dict[str, str]) -> Iterator[FamilyLines]:
        label_values = tuple(labels.values())
        for families, read in self._readers:
            reading = read(source)
            if reading is None:
                continue
            for family, one in zip(families, reading if len(families) > 1 else [reading], strict=True):
                where = family.name, label_values
                if isinstance(one, Mapping):
                    keys, values = tuple(one), list(one.values())
                    if family.kind == "summary":
                        values = [number for pair in values for number in pair]
                    known = cache.get(where)
                    if known is None or known[0] != keys:
                        known = cache[where] = keys, LineTemplate(family.prefixes(labels, keys))
                    yield family, known[1].render(values)
                    continue
                template = cache.get(where)
                if template is None:
                    template = cache[where] = self._template(family, one, source, labels)
                if isinstance(one, Histogram):
                    reached = one.cumulative().tolist()
                    yield family, template.render([*reached, reached[-1], one.sum])
                elif isinstance(one, np.ndarray | list):
                    yield family, template.render(one[: len(template)])
                else:
                    yield family, template.render([one])

    def _template(self, family: Family, reading: Reading, source: T, labels: dict[str, str]) -> LineTemplate:
        if isinstance(reading, Histogram):
            bounds = [*map(bound_label, reading.bounds), "+Inf"]
            buckets = [_prefix(f"{family.name}_bucket", labels | {"le": bound}) for bound in bounds]
            return LineTemplate([*buckets, *(_prefix(f"{family.name}_{what}", labels) for what in ("count", "sum"))])
        keys: Iterable[Key] = [()]
        if isinstance(reading, np.ndarray | list) and self._names:
            keys = self._names(source)
        return LineTemplate(family.prefixes(labels, keys))
