"""Inputs as short vectors, such that inputs that are alike have vectors that are close.

Each input becomes a few numbers whose squared distance is about 1 between two random predictions, times the weight of
its type. What they are is learned from some of the inputs themselves, so that no profile is needed.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.features import INPUT_TYPES
from exporter.features.image import FILE_PREFIXES, decode_image, encoded_pixels, number_array
from exporter.features.text import split_words
from exporter.stats.divergence import Floats, Ints

DIMENSIONS = 64
"""Length of a vector."""
MAX_IMAGE_PIXELS = 4_000_000
"""A larger image is not compared with others, since decoding it would take too much time."""
MAX_INPUTS = 256
"""Inputs that are compared, the first ones by name."""
WEIGHTS = {"array": 4.0, "text": 4.0, "number": 1.0, "category": 1.0}
"""An image, an embedding or a text counts as much as four numbers or categories."""
_SIDE = 8  # pixels of an image on each side, after averaging
_BUCKETS = {"category": 16, "text": 64}  # bits of the hash of a category; numbers that words are hashed into
_BITS = np.arange(_BUCKETS["category"])
_IDENTIFIERS = 0.9  # share of different texts from which a category is an identifier, which nothing is like
_LONG_TEXT = 40  # mean characters from which a string is a text rather than a category
_LEAST = 20  # values from which an input is an identifier


class InputEncoder:
    """Encode inputs as vectors.

    Parameters
    ----------
    sample
        Decoded inputs of some predictions.
    types
        Types of inputs in the configuration and the profile. A timestamp is not compared.
    ignored
        Names of inputs that are not compared.
    """

    def __init__(
        self, sample: Sequence[Mapping[str, Any]], types: Mapping[str, str], ignored: Collection[str] = ()
    ) -> None:
        names = sorted({name for row in sample for name in row} - {*ignored})
        self._columns: list[tuple[str, _Column]] = []
        parts = []
        for name in names[:MAX_INPUTS]:
            values = [row.get(name) for row in sample]
            known = INPUT_TYPES.get(types.get(name, ""))
            kind = known.compared_as if known else _kind(values)
            if kind is None:
                continue
            column = _Column(kind, values)
            part = column.encode(values)
            if part.any():
                self._columns.append((name, column))
                parts.append(part)
        matrix = np.hstack(parts) if parts else np.zeros((len(sample), 1))
        signs = np.random.default_rng(0).choice((-1.0, 1.0), (matrix.shape[1], DIMENSIONS)) / np.sqrt(DIMENSIONS)
        # A random projection keeps distances (Johnson and Lindenstrauss); few numbers need none.
        self._projection = np.eye(matrix.shape[1], DIMENSIONS) if matrix.shape[1] <= DIMENSIONS else signs
        largest = np.quantile(np.abs(matrix @ self._projection).max(axis=1), 0.99) if len(sample) else 0.0
        self._scale = 100 / largest if largest > 0 else 1.0

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.int8]:
        """Return the vectors of decoded inputs, shape ``(n, DIMENSIONS)``; whole numbers from −127 to 127."""
        if not self._columns or not rows:
            return np.zeros((len(rows), DIMENSIONS), np.int8)
        matrix = np.hstack([column.encode([row.get(name) for row in rows]) for name, column in self._columns])
        return np.rint(matrix @ self._projection * self._scale).clip(-127, 127).astype(np.int8)


def _kind(values: Sequence[Any]) -> str | None:
    """Return what most values of an input are: a key of `WEIGHTS`; None for nothing that can be compared."""
    kinds = Counter(_value_kind(value) for value in values if value is not None)
    kind = kinds.most_common(1)[0][0] if kinds else ""
    if kind != "string":
        return kind or None
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) >= _LEAST and len(set(texts)) > _IDENTIFIERS * len(texts) and not any(" " in text for text in texts):
        return None
    return "text" if sum(map(len, texts)) >= _LONG_TEXT * len(texts) else "category"


def _value_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "category"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "array" if value.startswith(FILE_PREFIXES) else "string"
    return "array" if isinstance(value, list) else ""


class _Column:
    """Encodes one input; learns its centre and scale from some values."""

    def __init__(self, kind: str, values: Sequence[Any]) -> None:
        self._kind = kind
        self._sorted = np.sort([float(value) for value in values if _is_number(value)]) if kind == "number" else None
        raw = self._raw(values)
        known = ~np.isnan(raw[:, 0])
        self._centre = raw[known].mean(axis=0) if known.any() else np.zeros(raw.shape[1])
        spread = 2 * float(((raw[known] - self._centre) ** 2).sum(axis=1).mean()) if known.any() else 0.0
        self._scale = (WEIGHTS[kind] / spread) ** 0.5 if spread > 1e-12 else 0.0

    def encode(self, values: Sequence[Any]) -> Floats:
        """Return shape ``(n, numbers)``; a value that is missing or invalid is the mean."""
        raw = (self._raw(values) - self._centre) * self._scale
        return np.nan_to_num(raw, nan=0.0)

    def _raw(self, values: Sequence[Any]) -> Floats:
        """Return the numbers of each value, NaN for what is missing or invalid."""
        if self._kind == "number":
            return self._ranks(values)
        if self._kind == "array":
            return np.stack([_array(value) for value in values]) if values else np.empty((0, _SIDE * _SIDE))
        result = np.full((len(values), _BUCKETS[self._kind]), np.nan)
        if self._kind == "text":
            indices = [index for index, value in enumerate(values) if isinstance(value, str)]
            result[indices] = _words([values[index] for index in indices])
            return result
        for index, value in enumerate(values):
            if isinstance(value, str | int | float):
                result[index] = zlib.crc32(str(value).encode("utf-8", "replace")) >> _BITS & 1
        return result

    def _ranks(self, values: Sequence[Any]) -> Floats:
        """Return the share of the learned numbers below each number: it has no unit and no outliers."""
        ordered = self._sorted if self._sorted is not None else np.empty(0)
        numbers = np.array([float(value) if _is_number(value) else np.nan for value in values])
        below = ordered.searchsorted(numbers, "left") + ordered.searchsorted(numbers, "right")
        ranks: Floats = np.where(np.isnan(numbers), np.nan, below / max(2 * len(ordered), 1))
        return ranks[:, None]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _words(texts: Sequence[str]) -> Floats:
    """Return the words of texts, hashed with signs (Weinberger and others, 2009), as vectors of length 1."""
    size = _BUCKETS["text"]
    result = np.zeros((len(texts), size))
    if texts:
        words = split_words(texts)
        signs = np.where(words.hashes & np.uint32(1 << 31), 1.0, -1.0)
        np.add.at(result, (words.texts, (words.hashes % size).astype(np.intp)), signs)
    lengths = np.linalg.norm(result, axis=1, keepdims=True)
    np.divide(result, lengths, out=result, where=lengths > 0)
    return result


def _array(value: Any) -> Floats:
    """Return an image as `_SIDE` times `_SIDE` grey values, and an embedding as as many sums of its numbers."""
    nothing = np.full(_SIDE * _SIDE, np.nan)
    if isinstance(value, list) and value and not isinstance(value[0], list):
        numbers = number_array(value)
        return nothing if numbers is None or not abs(numbers).max() < 1e100 else _sums(numbers)
    if not isinstance(value, list | str) or encoded_pixels(value) > MAX_IMAGE_PIXELS:
        return nothing
    image = decode_image(value)
    return nothing if image is None else _average(_average(image, 0), 1).ravel()


def _sums(numbers: Floats) -> Floats:
    """Return `_SIDE` squared numbers: those of a short vector, or sums with random signs."""
    size = _SIDE * _SIDE
    if len(numbers) <= size:
        return np.pad(numbers, (0, size - len(numbers)))
    signs = np.random.default_rng(1).integers(0, 2, len(numbers)) * 2.0 - 1.0
    return np.bincount(np.arange(len(numbers)) % size, weights=signs * numbers, minlength=size).astype(np.float64)


def _average(image: Floats, axis: int) -> Floats:
    """Return `_SIDE` means along an axis, or the closest values of a shorter one."""
    size = image.shape[axis]
    starts = np.arange(_SIDE) * size // _SIDE
    if size < _SIDE:
        closest: Floats = image.take(starts, axis)
        return closest
    counts = np.diff(np.append(starts, size))
    means: Floats = np.add.reduceat(image, starts, axis) / (counts[:, None] if axis == 0 else counts)
    return means


Vectors = npt.NDArray[np.int8]
"""Inputs as vectors of whole numbers, of shape (n, d); see `exporter.features.similarity`."""
NEIGHBOURS = 20
"""Similar rows that a row is compared with; fewer where there are fewer than four times as many rows."""
MIN_NEIGHBOURS = 5
"""With fewer, labels are not compared."""
MIN_SHARE = 0.5
"""Share of the similar rows that must have the same other label."""
MIN_RATIO = 4
"""That other label must occur so many times as often as the row's own."""
SLACK = 0.1
"""The thresholds of confident learning are lowered by it: a share of so few rows is not exact, and about half of the
wrong labels in a region of one class are below the mean of that class."""
_ROUNDING = 1e-6  # a probability that is equal to the threshold is confident
_DISTANCES = 2**22  # that are held at a time: 16 MiB, and twice that for their order


class UnlikeNeighbours(NamedTuple):
    """Rows whose label may be wrong, the most suspicious first.

    Attributes
    ----------
    rows
        Their numbers, shape ``(m,)``.
    classes
        The class that most similar rows have as their label, shape ``(m,)``.
    other, own
        How many of the similar rows have that label, and the label of the row itself, shape ``(m,)``.
    compared
        With how many similar rows each was compared.
    """

    rows: Ints
    classes: Ints
    other: Ints
    own: Ints
    compared: int


def unlike_neighbours(vectors: Vectors, labels: Ints, classes: int) -> UnlikeNeighbours:
    """Find rows whose label is not that of the rows that are similar to them, with confident learning.

    The probability of a class is its share among the labels of the `NEIGHBOURS` nearest other rows. A row is a suspect
    if it confidently belongs to another class (see `SLACK`), and if its
    neighbours agree as `MIN_SHARE` and `MIN_RATIO` say: where classes overlap, confident learning alone suspects many
    right labels.

    Parameters
    ----------
    vectors
        Inputs of ``n`` rows, see `exporter.features.similarity`. A row whose vector is all zeros says nothing: it is
        neither a suspect nor a neighbour.
    labels
        The class of each row, from 0 to ``classes - 1``, shape ``(n,)``.
    classes
        The number of classes.
    """
    known = np.flatnonzero(vectors.any(axis=1))
    compared = min(NEIGHBOURS, len(known) // 4)
    if compared < MIN_NEIGHBOURS:
        nothing = np.empty(0, np.intp)
        return UnlikeNeighbours(nothing, nothing, nothing, nothing, 0)
    points, classes_of = vectors[known].astype(np.float32), labels[known]
    nearest = np.concatenate(list(_nearest(points, classes_of, compared)))
    own: Ints = (nearest == classes_of[:, None]).sum(axis=1, dtype=np.intp)
    thresholds = _class_thresholds(classes_of, own / compared, classes) - SLACK
    rows: list[Ints] = []
    others: list[Ints] = []
    counts: list[Ints] = []
    step = max(_DISTANCES // classes, 1)
    for start in range(0, len(known), step):
        part = nearest[start : start + step]
        tally = np.zeros((len(part), classes), np.int16)
        np.add.at(tally, (np.arange(len(part))[:, None], part), 1)
        # The most probable of the classes to which each row confidently belongs; -1 where it does to none.
        confident = np.where(tally / compared >= thresholds - _ROUNDING, tally, -1)
        likely = np.where(confident.max(axis=1, initial=-1) < 0, -1, confident.argmax(axis=1))
        count = tally[np.arange(len(part)), likely]
        mine = own[start : start + step]
        agree = (count >= MIN_SHARE * compared) & (count >= MIN_RATIO * mine)
        suspects = np.flatnonzero((likely >= 0) & (likely != classes_of[start : start + step]) & agree)
        rows.append(start + suspects)
        others.append(likely[suspects])
        counts.append(count[suspects].astype(np.intp))
    found, other, with_other = np.concatenate(rows), np.concatenate(others), np.concatenate(counts)
    order = np.lexsort((known[found], own[found] - with_other))
    found = found[order]
    return UnlikeNeighbours(known[found], other[order], with_other[order], own[found], compared)


def _nearest(points: npt.NDArray[np.float32], labels: Ints, count: int) -> Iterator[Ints]:
    """Yield the labels of the nearest other rows, some rows at a time: shape ``(rows, count)``."""
    squares = np.einsum("ij,ij->i", points, points)
    step = max(_DISTANCES // len(points), 1)
    for start in range(0, len(points), step):
        part = points[start : start + step]
        distances = squares - 2 * (part @ points.T)  # without the row's own square, which is the same for all
        distances[np.arange(len(part)), np.arange(start, start + len(part))] = np.inf
        yield labels[np.argpartition(distances, count, axis=1)[:, :count]]


def _class_thresholds(labels: Ints, self_confidence: Floats, classes: int) -> Floats:
    """Return the probability from which a row confidently belongs to each class: the mean of the rows with that label.

    Parameters
    ----------
    labels
        The class of each row, from 0 to ``classes - 1``, shape ``(n,)``.
    self_confidence
        The probability of that class, shape ``(n,)``.
    classes
        The number of classes ``K``.

    Returns
    -------
    numpy.ndarray
        Shape ``(K,)``; infinite for a class that no row has as its label.
    """
    rows = np.bincount(labels, minlength=classes)
    total = np.bincount(labels, self_confidence, minlength=classes)
    thresholds: Floats = np.divide(total, rows, out=np.full(classes, np.inf), where=rows > 0)
    return thresholds
