"""Cache the vectors of the inputs of corrections; see `exporter.features.similarity`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.features.lenient_json import decode_inputs
from exporter.features.similarity import DIMENSIONS, InputEncoder
from exporter.monitoring.registry import MonitorRegistry
from exporter.stats.review_order import Vectors
from exporter.storage import Store
from exporter.storage.review.rankings import read_inputs

SAMPLE = 1000
"""Corrections from whose inputs the encoder learns."""
CHARACTERS = 16 * 2**20
"""Characters of inputs that are read at a time. Longer inputs are not compared."""
ENCODING_SECONDS = 20.0
"""Time for the inputs of new corrections in one update; those of further ones follow in the next."""
_STEP = 500
Ids = np.ndarray[Any, np.dtype[np.int64]]


class InputVectors:
    """The vectors of some corrections of a model, in memory.

    Parameters
    ----------
    store
        The corrections.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._encoder: InputEncoder | None = None
        self._learned_from: tuple[int, Any] = (0, None)
        self._ids, self._vectors = np.empty(0, np.int64), np.empty((0, DIMENSIONS), np.int8)

    def known(self, ids: Ids) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return which corrections have a vector."""
        return np.isin(ids, self._ids)

    def rows(self, ids: Ids) -> Vectors:
        """Return the vectors of corrections that have one, shape ``(n, DIMENSIONS)``."""
        return self._vectors[self._ids.searchsorted(ids)]

    def update(
        self, wanted: Ids, types: tuple[Mapping[str, str], Collection[str]], is_closing: Callable[[], bool]
    ) -> None:
        """Encode the inputs of those corrections that have no vector yet, and forget all other vectors.

        Parameters
        ----------
        wanted
            Identifiers of the corrections.
        types
            Of `input_types`.
        is_closing
            Whether to end early.
        """
        size, learned_types = self._learned_from
        if learned_types != types or (size < SAMPLE and len(wanted) >= 2 * size):
            step = max(len(wanted) // SAMPLE, 1)
            sample = self._decode(wanted[::step][:SAMPLE].tolist())
            self._encoder = InputEncoder(list(sample.values()), *types)
            self._learned_from = len(wanted), types
            self._ids, self._vectors = self._ids[:0], self._vectors[:0]
        assert self._encoder is not None  # noqa: S101
        left: list[int] = wanted[~self.known(wanted)].tolist()
        ids, vectors = [self._ids], [self._vectors]
        end = time.monotonic() + ENCODING_SECONDS
        while left and time.monotonic() < end and not is_closing():
            decoded = self._decode(left[:_STEP])
            ids.append(np.array(list(decoded), np.int64))
            vectors.append(self._encoder.encode(list(decoded.values())))
            left = [id_ for id_ in left[:_STEP] if id_ not in decoded] + left[_STEP:]
        all_ids, rows = np.concatenate(ids), np.concatenate(vectors)
        order = np.flatnonzero(np.isin(all_ids, wanted))
        order = order[all_ids[order].argsort()]
        self._ids, self._vectors = all_ids[order], rows[order]

    def _decode(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Return decoded inputs by their correction, of as many as `CHARACTERS` allows."""
        with self._store.reading() as connection:
            stored = read_inputs(connection, ids, CHARACTERS)
        decoded = decode_inputs([text.encode("utf-8", "replace") for text in stored.values()])
        return {id_: decoded.get(index, {}) for index, id_ in enumerate(stored)}


def input_types(monitors: MonitorRegistry, model: str) -> tuple[dict[str, str], frozenset[str]]:
    """Return the types of a model's inputs, and the names of those that are redacted."""
    settings, binner = monitors.models[model], monitors.nearest_binner(model)
    types = dict(binner.profile.inputs) if binner else {}
    types |= {name: feature.type for name, feature in settings.features.items() if feature.type}
    return types, settings.redact
