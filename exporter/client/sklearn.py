"""scikit-learn-like models, recorded as they are asked."""

from __future__ import annotations

import functools
import logging
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.client.client import Monitor

_log = logging.getLogger("exporter.client")

_last: ContextVar[tuple[RecordedModel, weakref.ref[Any], set[str]] | None] = ContextVar(
    "model_exporter_rows", default=None
)


class RecordedModel:
    """A model whose ``predict`` and ``predict_proba`` are recorded, a row an event; else the model itself.

    Parameters
    ----------
    monitor
        Where to.
    model
        Anything with ``predict``.
    names, confidence, timed
        See `Monitor.wrap`.
    """

    def __init__(
        self, monitor: Monitor, model: Any, names: Sequence[str] | None, confidence: bool, timed: bool
    ) -> None:
        self._monitor = monitor
        self._model = model
        self._names = None if names is None else [str(name) for name in names]
        self._confidence = confidence
        self._timed = timed

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["_model"], name)
        if name not in {"predict", "predict_proba"}:
            return found

        @functools.wraps(found)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                result = found(*args, **kwargs)
            except Exception:
                self._monitor.record(code=500, duration_seconds=self._seconds(started))
                raise
            seconds = self._seconds(started)
            try:
                self._record(name, args[0] if args else next(iter(kwargs.values())), result, seconds)
            except Exception:
                _log.warning("what a model answered could not be recorded", exc_info=True)
            return result

        return recorded

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._model,)  # another process has no use for this one's monitor

    def _seconds(self, started: float) -> float | None:
        return time.perf_counter() - started if self._timed else None

    def _record(self, method: str, rows: Any, result: Any, seconds: float | None) -> None:
        if self._again(method, rows):
            return
        shares = result if method == "predict_proba" else self._shares(rows)
        labels, confidences = self._likeliest(shares)
        if method == "predict":
            labels = _listed(result[0] if isinstance(result, tuple) else result)
        inputs = _rows(rows, self._names, self._model, len(labels))
        most = self._monitor.sender.capacity
        for place, label in enumerate(labels[:most]):
            self._monitor.record(
                inputs=inputs[place] if inputs else None,
                prediction=label,
                confidence=confidences[place] if confidences else None,
                duration_seconds=seconds,
            )
        if len(labels) > most:
            self._monitor.sender.drop(len(labels) - most, f"{len(labels)} rows at once are more than the capacity")

    def _again(self, method: str, rows: Any) -> bool:
        """Whether these rows have just been recorded by the other method: then they are the same predictions."""
        last = _last.get()
        if last and last[0] is self and last[1]() is rows and method not in last[2]:
            last[2].add(method)
            return True
        try:
            _last.set((self, weakref.ref(rows), {method}))
        except TypeError:  # a list
            _last.set(None)
        return False

    def _shares(self, rows: Any) -> Any:
        return self._model.predict_proba(rows) if self._confidence and hasattr(self._model, "predict_proba") else None

    def _likeliest(self, shares: Any) -> tuple[list[Any], list[float]]:
        """The likeliest class of each row and its probability."""
        if shares is None or isinstance(shares, list):  # a list: one array for each of several outputs
            return [], []
        classes = _listed(getattr(self._model, "classes_", range(len(shares[0]) if len(shares) else 0)))
        labels, confidences = [], []
        for row in _listed(shares):
            best = max(row)
            labels.append(classes[row.index(best)])
            confidences.append(best)
        return labels, confidences


def _itself(model: Any) -> Any:
    return model


def _listed(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _rows(rows: Any, names: list[str] | None, model: Any, count: int) -> list[Mapping[str, Any]] | None:
    """Each row's inputs by feature; None where they have no names to be known by, or are sparse."""
    if hasattr(rows, "toarray"):
        return None
    if hasattr(rows, "columns"):
        columns = [str(name) for name in rows.columns]
        if hasattr(rows, "iloc"):
            return _zipped(columns, zip(*(rows.iloc[:, place].tolist() for place in range(len(columns))), strict=True))
        return _zipped(columns, rows.rows())  # polars
    shape = getattr(rows, "shape", None)
    if shape is not None and len(shape) == 2:
        return _zipped(names or _learnt(model, shape[1]), _listed(rows))
    each = list(rows)
    if len(each) != count:
        return None
    if each and all(isinstance(row, Mapping) for row in each):
        return each
    if shape is None and each and isinstance(each[0], list | tuple):
        return _zipped(names or _learnt(model, len(each[0])), each)
    name = names[0] if names else "text" if each and isinstance(each[0], str) else "input"
    return [{name: row} for row in each]


def _learnt(model: Any, count: int) -> list[str]:
    """The names the model was trained with, else x0, x1, … as scikit-learn calls them."""
    known = getattr(model, "feature_names_in_", None)
    return [f"x{place}" for place in range(count)] if known is None else [str(name) for name in known]


def _zipped(names: Sequence[str], rows: Iterable[Iterable[Any]]) -> list[Mapping[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in rows]
