"""Texts in any language."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.features.base import FEW_VALUES, ColumnSample, InputType
from exporter.stats.divergence import Floats, Ints

Hashes = npt.NDArray[np.uint32]

MAX_CHARACTERS = 10_000
"""Characters of a text that are measured; only its length counts all of them. It bounds the cost of a text."""
MAX_WORDS = 20_000
"""Most words of the training texts that a profile keeps."""
_COUNTED_WORDS = 1_000_000  # in training; beyond it the words of the fewest texts are dropped
_BATCH = 500_000  # characters measured at once
_OTHER, _SPACE, _LETTER, _DIGIT, _PUNCTUATION, _DENSE = range(6)
_CLASSES = {"L": _LETTER, "M": _LETTER, "N": _DIGIT, "P": _PUNCTUATION, "S": _PUNCTUATION, "Z": _SPACE}
# Scripts that put no spaces between words: Thai to Lao, Myanmar, Khmer, Han with kana and Bopomofo.
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x31FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF),
             (0x20000, 0x3FFFF))  # fmt: skip
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 2**64)


class TextState(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """State of a text in the profile.

    Attributes
    ----------
    words
        Hashes of the most frequent words of the training texts, ascending. No text can be read from them.
    """

    words: tuple[int, ...]


class _Words(NamedTuple):
    """Words of ``n`` texts: hashes, the index of each word's text, and counts of characters by class, ``(6, n)``."""

    hashes: Hashes
    texts: Ints
    classes: Floats


@functools.cache
def _character_classes() -> npt.NDArray[np.uint8]:
    """Return the class of every character."""
    table = np.array([_CLASSES.get(unicodedata.category(chr(code))[0], _OTHER) for code in range(0x110000)], np.uint8)
    table[[9, 10, 11, 12, 13]] = _SPACE
    for first, last in _UNSPACED:
        part = table[first : last + 1]
        part[part == _LETTER] = _DENSE
    return table


@functools.cache
def _powers(base: int, size: int) -> npt.NDArray[np.uint64]:
    return np.cumprod(np.full(size, base, dtype=np.uint64), dtype=np.uint64)


def split_words(texts: Sequence[str]) -> _Words:
    """Split texts into words.

    A word is a run of letters, marks and digits, in any letter case. In scripts without spaces between words, each pair
    of adjacent characters counts as a word, as in search engines.
    """
    folded = [f"{text[:MAX_CHARACTERS].casefold()}\n" for text in texts]
    codes = np.frombuffer("".join(folded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    starts = np.cumsum([0, *map(len, folded[:-1])])
    classes = _character_classes()[codes]
    counts = np.stack([np.add.reduceat(classes == number, starts, dtype=np.float64) for number in range(6)])
    first, stop = _word_bounds(classes)
    hashes = _hash_slices(codes, first, stop)
    return _Words(hashes, starts.searchsorted(first, side="right") - 1, counts)


def _word_bounds(classes: npt.NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """Return the first character of each word and the one after its last; every text ends with a character of none."""
    dense = classes == _DENSE
    plain = (classes == _LETTER) | (classes == _DIGIT)
    after_plain, after_dense = (np.concatenate(([False], mask[:-1])) for mask in (plain, dense))
    before_dense = np.append(dense[1:], False)
    pairs, alone = np.flatnonzero(dense & before_dense), np.flatnonzero(dense & ~before_dense & ~after_dense)
    first = np.concatenate((np.flatnonzero(plain & ~after_plain), pairs, alone))
    stop = np.concatenate((np.flatnonzero(after_plain & ~plain), pairs + 2, alone + 1))
    return first, stop


def _hash_slices(codes: npt.NDArray[np.uint32], first: Ints, stop: Ints) -> Hashes:
    """Return a hash of each slice of the codes.

    It is a polynomial of the codes modulo 2**64, by differences of prefix sums, finished as in MurmurHash3 by A.
    Appleby.
    """
    size = 1 << len(codes).bit_length()
    terms = (codes.astype(np.uint64) + np.uint64(1)) * _powers(_BASE, size)[: len(codes)]
    prefix = np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(terms)))
    mixed = (prefix[stop] - prefix[first]) * _powers(_INVERSE, size)[first]
    mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes: Hashes = (mixed >> np.uint64(32)).astype(np.uint32)
    return hashes


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = size = 0
    for index, text in enumerate(texts):
        size += min(len(text), MAX_CHARACTERS)
        if size > _BATCH:
            yield texts[start : index + 1]
            start, size = index + 1, 0
    if start < len(texts):
        yield texts[start:]


class TextLearner:
    """Learn the words of the training texts, in bounded memory."""

    def __init__(self) -> None:
        self._words: Hashes = np.empty(0, dtype=np.uint32)
        self._texts: Ints = np.empty(0, dtype=np.intp)
        self._pending: list[Hashes] = []

    def learn(self, values: Sequence[Any]) -> None:
        """Add some of the training values."""
        for texts in _batches([value for value in values if isinstance(value, str)]):
            words = split_words(texts)
            distinct = np.unique((words.texts.astype(np.uint64) << np.uint64(32)) | words.hashes)
            self._pending.append((distinct & np.uint64(0xFFFFFFFF)).astype(np.uint32))
            if sum(map(len, self._pending)) > _COUNTED_WORDS:
                self._merge()

    def _merge(self, *others: tuple[Hashes, Ints]) -> None:
        new = np.unique(np.concatenate([np.empty(0, np.uint32), *self._pending]), return_counts=True)
        self._pending.clear()
        parts = [(self._words, self._texts), new, *others]
        self._words, indices = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
        self._texts = np.bincount(indices, weights=np.concatenate([part[1] for part in parts])).astype(np.intp)
        least = 2
        while len(self._words) > _COUNTED_WORDS:
            frequent = self._texts >= least
            self._words, self._texts = self._words[frequent], self._texts[frequent]
            least *= 2

    def merge(self, later: TextLearner) -> None:
        """Add the words of other texts."""
        later._merge()
        self._merge((later._words, later._texts))

    def _most_frequent(self) -> tuple[Hashes, Ints]:
        self._merge()
        best = np.sort(np.lexsort((self._words, -self._texts))[:MAX_WORDS])
        return self._words[best], self._texts[best]

    def state(self) -> TextState:
        """Return the state that the profile keeps."""
        return TextState(tuple(self._most_frequent()[0].tolist()))

    def input_type(self) -> Text:
        """Return the type that measures the training texts: a word is known if another training text has it too.

        Otherwise no training text would have an unseen word while every new text has some, since among any number of
        texts there are words that only one of them uses.
        """
        hashes, texts = self._most_frequent()
        return Text(hashes[texts > 1])


class Text(InputType):
    """A string: its length, its number of words, and the kinds of its characters.

    Parameters
    ----------
    known
        Hashes of the words of the training texts, ascending.
    """

    type = "text"
    noun = "a text"
    statistics = ("length", "words", "letter_ratio", "digit_ratio", "punctuation_ratio", "unseen_word_ratio")

    cells = "text"
    shown_as = "text"
    compared_as = "text"
    learner = TextLearner

    def __init__(self, known: Sequence[int] | Hashes) -> None:
        self._known = np.append(np.array(known, dtype=np.uint64), np.uint64(2**32))  # the last is no word's hash
        _character_classes()  # computed now rather than with the first events

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:
        """See `InputType.recognizes`.

        Most strings of a column of texts have several words, and more than a few of them are different.
        """
        strings = sample.strings
        if sample.types != {str}:
            return False
        distinct = len(set(strings))
        if distinct <= FEW_VALUES and 2 * distinct <= len(strings):
            return False
        if max(map(len, strings)) < 10:
            return False
        counts = np.bincount(split_words(strings).texts, minlength=len(strings))
        spaced = np.array([len(value.split()) for value in strings])
        # In scripts without spaces each pair of characters is a word, so it takes more of them.
        return bool(np.mean((spaced >= 4) | (counts >= np.maximum(10, 4 * spaced))) > 0.5)

    @classmethod
    def accepts_state(cls, state: Any) -> bool:
        """See `InputType.accepts_state`."""
        return isinstance(state, TextState) and all(0 <= word < 2**32 for word in state.words)

    @classmethod
    def from_state(cls, state: Any) -> Text:
        """See `InputType.from_state`."""
        return cls(state.words)

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:  # noqa: ARG002
        """See `InputType.columns`."""
        columns = np.full((len(self.statistics), len(values)), np.inf)
        columns[:, [index for index, value in enumerate(values) if value is None]] = np.nan
        indices = [index for index, value in enumerate(values) if isinstance(value, str)]
        start = 0
        for texts in _batches([values[index] for index in indices]):
            columns[:, indices[start : start + len(texts)]] = self._measure(texts)
            start += len(texts)
        return columns

    def _measure(self, texts: Sequence[str]) -> Floats:
        words = split_words(texts)
        is_unseen = self._known[self._known.searchsorted(words.hashes)] != words.hashes
        counts = np.bincount(words.texts, minlength=len(texts)).astype(np.float64)
        unseen = np.bincount(words.texts, weights=is_unseen, minlength=len(texts))
        visible = words.classes.sum(axis=0) - words.classes[_SPACE]
        letters = words.classes[_LETTER] + words.classes[_DENSE]
        shares = np.stack([letters, words.classes[_DIGIT], words.classes[_PUNCTUATION]]) / np.maximum(visible, 1)
        return np.stack([np.array(list(map(len, texts))), counts, *shares, unseen / np.maximum(counts, 1)])
