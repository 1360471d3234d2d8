"""Texts of any language."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.features.base import InputType
from exporter.stats.divergence import Floats, Ints

Hashes = npt.NDArray[np.uint32]

MAX_CHARACTERS = 10_000
"""What is measured of one text, besides its length: a longer one costs no more."""
MAX_WORDS = 20_000
"""Words of the training texts that a profile remembers."""
_COUNTED_WORDS = 1_000_000  # while training; past it those of one text are forgotten first
_GROUP = 500_000  # characters measured at once
_OTHER, _SPACE, _LETTER, _DIGIT, _PUNCTUATION, _DENSE = range(6)
_CLASSES = {"L": _LETTER, "M": _LETTER, "N": _DIGIT, "P": _PUNCTUATION, "S": _PUNCTUATION, "Z": _SPACE}
# Scripts that put no spaces between words: Thai to Lao, Myanmar, Khmer, Han with kana and Bopomofo.
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x31FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF),
             (0x20000, 0x3FFFF))  # fmt: skip
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 2**64)


class TextState(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """What a profile remembers of the training texts.

    Attributes
    ----------
    words
        Hashes of their most frequent words, ascending; from them no text can be read.
    """

    words: tuple[int, ...]


class _Words(NamedTuple):
    """Words of ``n`` texts: hashes, the text of each, and each text's counts of characters by class, ``(6, n)``."""

    hashes: Hashes
    texts: Ints
    classes: Floats


@functools.cache
def _table() -> npt.NDArray[np.uint8]:
    """The class of every character."""
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

    A word is a run of letters, marks and digits, letter case ignored. In scripts without spaces between words each pair
    of neighbouring characters counts as one, as search engines index them.
    """
    folded = [f"{text[:MAX_CHARACTERS].casefold()}\n" for text in texts]
    codes = np.frombuffer("".join(folded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    starts = np.cumsum([0, *map(len, folded[:-1])])
    kinds = _table()[codes]
    classes = np.stack([np.add.reduceat(kinds == kind, starts, dtype=np.float64) for kind in range(6)])
    dense = kinds == _DENSE
    plain = (kinds == _LETTER) | (kinds == _DIGIT)
    after_plain, after_dense = (np.concatenate(([False], mask[:-1])) for mask in (plain, dense))
    before_dense = np.append(dense[1:], False)
    pairs, alone = np.flatnonzero(dense & before_dense), np.flatnonzero(dense & ~before_dense & ~after_dense)
    first = np.concatenate((np.flatnonzero(plain & ~after_plain), pairs, alone))
    stop = np.concatenate((np.flatnonzero(after_plain & ~plain), pairs + 2, alone + 1))  # a text ends in no word
    # A polynomial of the codes, by differences of prefix sums, modulo 2**64; then the end of MurmurHash3 by A. Appleby.
    size = 1 << len(codes).bit_length()
    terms = (codes.astype(np.uint64) + np.uint64(1)) * _powers(_BASE, size)[: len(codes)]
    prefix = np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(terms)))
    mixed = (prefix[stop] - prefix[first]) * _powers(_INVERSE, size)[first]
    mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (mixed >> np.uint64(32)).astype(np.uint32)
    return _Words(hashes, starts.searchsorted(first, side="right") - 1, classes)


def _grouped(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = size = 0
    for place, text in enumerate(texts):
        size += min(len(text), MAX_CHARACTERS)
        if size > _GROUP:
            yield texts[start : place + 1]
            start, size = place + 1, 0
    if start < len(texts):
        yield texts[start:]


class Text(InputType):
    """A string: its length, its words, and what it is made of.

    Parameters
    ----------
    known
        Hashes of the words that training saw, ascending.
    """

    type = "text"
    noun = "a text"
    statistics = ("length", "words", "letter_ratio", "digit_ratio", "punctuation_ratio", "unseen_word_ratio")

    def __init__(self, known: Sequence[int] | Hashes) -> None:
        self._known = np.append(np.array(known, dtype=np.uint64), np.uint64(2**32))  # a last one that no word has
        _table()  # made now, and not while events wait

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:  # noqa: ARG002
        """See `InputType.columns`."""
        columns = np.full((len(self.statistics), len(values)), np.inf)
        columns[:, [place for place, value in enumerate(values) if value is None]] = np.nan
        places = [place for place, value in enumerate(values) if isinstance(value, str)]
        start = 0
        for texts in _grouped([values[place] for place in places]):
            columns[:, places[start : start + len(texts)]] = self._measured(texts)
            start += len(texts)
        return columns

    def _measured(self, texts: Sequence[str]) -> Floats:
        found = split_words(texts)
        unseen = self._known[self._known.searchsorted(found.hashes)] != found.hashes
        counts = np.bincount(found.texts, minlength=len(texts)).astype(np.float64)
        strange = np.bincount(found.texts, weights=unseen, minlength=len(texts))
        visible = found.classes.sum(axis=0) - found.classes[_SPACE]
        letters = found.classes[_LETTER] + found.classes[_DENSE]
        shares = np.stack([letters, found.classes[_DIGIT], found.classes[_PUNCTUATION]]) / np.maximum(visible, 1)
        return np.stack([np.array(list(map(len, texts))), counts, *shares, strange / np.maximum(counts, 1)])


class TextLearner:
    """Learns the words of the training texts, in bounded memory."""

    def __init__(self) -> None:
        self._words: Hashes = np.empty(0, dtype=np.uint32)
        self._texts: Ints = np.empty(0, dtype=np.intp)
        self._pending: list[Hashes] = []

    def learn(self, values: Sequence[Any]) -> None:
        """Take in some of the training values."""
        for texts in _grouped([value for value in values if isinstance(value, str)]):
            found = split_words(texts)
            once = np.unique((found.texts.astype(np.uint64) << np.uint64(32)) | found.hashes)
            self._pending.append((once & np.uint64(0xFFFFFFFF)).astype(np.uint32))
            if sum(map(len, self._pending)) > _COUNTED_WORDS:
                self._merge()

    def _merge(self) -> None:
        new, counts = np.unique(np.concatenate([np.empty(0, np.uint32), *self._pending]), return_counts=True)
        self._pending.clear()
        self._words, places = np.unique(np.concatenate((self._words, new)), return_inverse=True)
        self._texts = np.bincount(places, weights=np.concatenate((self._texts, counts))).astype(np.intp)
        least = 2
        while len(self._words) > _COUNTED_WORDS:
            kept = self._texts >= least
            self._words, self._texts = self._words[kept], self._texts[kept]
            least *= 2

    def _kept(self) -> tuple[Hashes, Ints]:
        self._merge()
        best = np.sort(np.lexsort((self._words, -self._texts))[:MAX_WORDS])
        return self._words[best], self._texts[best]

    def state(self) -> TextState:
        """What the profile remembers."""
        return TextState(tuple(self._kept()[0].tolist()))

    def kind(self) -> Text:
        """How the training texts themselves are measured: a word is known if another text has it too.

        Else no training text had an unseen word, while every new text has some: with as many
        texts there are always words that only one of them uses.
        """
        hashes, texts = self._kept()
        return Text(hashes[texts > 1])
