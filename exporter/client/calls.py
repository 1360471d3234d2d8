"""Record the calls of a function."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from exporter.client.encoding import fields_of, is_recordable, snapshot
from exporter.client.middleware import RequestContext, current

if TYPE_CHECKING:
    from exporter.client import Monitor

_log = logging.getLogger("exporter.client")


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | float | bool) or (hasattr(value, "tolist") and getattr(value, "size", 0) == 1)


def watch(
    recorder: Monitor, function: Callable[..., Any], inputs: bool, read: Callable[[Any], Mapping[str, Any]] | None
) -> Callable[..., Any]:
    """Return the function with its calls recorded; see `Monitor.watch`."""
    signature = inspect.signature(function) if inputs else None

    def recorded(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AbstractContextManager[list[Any]]:
        return _recorded(recorder, _inputs_of_call(signature, args, kwargs) if signature else None, read)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def async_wrapper(*args: Any, **kwargs: Any) -> Any:
            with recorded(args, kwargs) as results:
                results.append(await function(*args, **kwargs))
            return results[0]

        return async_wrapper

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with recorded(args, kwargs) as results:
            results.append(function(*args, **kwargs))
        return results[0]

    return wrapper


@contextlib.contextmanager
def _recorded(
    recorder: Monitor, inputs: Mapping[str, Any] | None, read: Callable[[Any], Mapping[str, Any]] | None
) -> Iterator[list[Any]]:
    """Record a call, unless the function records an event itself; its result is added to the list."""
    outer = current.get()
    context = RequestContext(recorder.sender) if outer is None or outer.done else outer
    before, token, results = context.recorded, current.set(context), list[Any]()
    try:
        yield results
        try:
            if context.recorded == before:
                (result,) = results
                fields = read(result) if read else {"prediction": result} if _is_label(result) else {}
                recorder.record(**{"inputs": inputs, **fields})
        except Exception:
            _log.warning("the result of a watched function could not be read", exc_info=True)
    except BaseException:
        if context is not outer:
            context.code = 500
        if context.recorded == before:
            recorder.record(inputs=inputs, code=500)
        raise
    finally:
        current.reset(token)
        if context is not outer:
            context.finish()


def _inputs_of_call(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Mapping[str, Any] | None:
    """Return copies of the recordable arguments, as the function may change them."""
    try:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        named: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            is_variable = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            named |= value if is_variable else {} if name in {"self", "cls"} else {name: value}
        inputs = {name: value for name, value in named.items() if is_recordable(value)}
        if not inputs:  # a single model or dataclass beside what is not recorded, such as a connection
            pairs = ((name, fields_of(value)) for name, value in named.items())
            fields = {name: values for name, values in pairs if values is not named[name]}
            inputs = fields if len(fields) == 1 else {}
        if len(inputs) == 1 and (row := _row(*inputs.values())) is not None:
            inputs = row
        return {name: snapshot(value)[0] for name, value in inputs.items()}
    except Exception:  # the function itself reports wrong arguments
        return None


def _row(value: Any) -> dict[str, Any] | None:
    """Return the features in a single argument that is a mapping or a pandas row; None for anything else."""
    if isinstance(value, Mapping) or hasattr(value, "iloc"):
        return {str(name): entry for name, entry in (value.iloc[0] if hasattr(value, "columns") else value).items()}
    return None


_last_recorded: ContextVar[tuple[RecordedModel, weakref.ref[Any], set[str]] | None] = ContextVar(
    "model_exporter_rows", default=None
)
"""The model and the rows that were recorded last, and the methods that were called with them."""


class RecordedModel:
    """Wraps a model: each row of ``predict`` and ``predict_proba`` is recorded as an event.

    Parameters
    ----------
    recorder
        Records the events.
    model
        Anything with ``predict``.
    names, confidence, timed
        See `Monitor.wrap`.
    """

    def __init__(
        self, recorder: Monitor, model: Any, names: Sequence[str] | None, confidence: bool, timed: bool
    ) -> None:
        self._recorder = recorder
        self._model = model
        self._names = None if names is None else [str(name) for name in names]
        self._confidence = confidence
        self._timed = timed

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.__dict__["_model"], name)
        if name not in {"predict", "predict_proba"}:
            return attribute

        @functools.wraps(attribute)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                result = attribute(*args, **kwargs)
            except Exception:
                self._recorder.record(code=500, duration_seconds=self._seconds_since(started))
                raise
            seconds = self._seconds_since(started)
            try:
                self._record(name, args[0] if args else next(iter(kwargs.values())), result, seconds)
            except Exception:
                _log.warning("the result of a model could not be recorded", exc_info=True)
            return result

        return recorded

    def __reduce__(self) -> tuple[Any, ...]:
        return _unwrapped, (self._model,)  # another process cannot use this one's monitor

    def _seconds_since(self, started: float) -> float | None:
        return time.perf_counter() - started if self._timed else None

    def _record(self, method: str, rows: Any, result: Any, seconds: float | None) -> None:
        if self._is_repeated(method, rows):
            return
        probabilities = result if method == "predict_proba" else None
        if method == "predict" and self._confidence and hasattr(self._model, "predict_proba"):
            probabilities = self._model.predict_proba(rows)
        labels, confidences = self._most_likely(probabilities)
        if method == "predict":
            labels = _as_list(result[0] if isinstance(result, tuple) else result)
        inputs = _inputs(rows, self._names, self._model, len(labels))
        capacity = self._recorder.sender.capacity
        for index, label in enumerate(labels[:capacity]):
            self._recorder.record(
                inputs=inputs[index] if inputs else None,
                prediction=label,
                confidence=confidences[index] if confidences else None,
                duration_seconds=seconds,
            )
        if len(labels) > capacity:
            reason = f"{len(labels)} rows at once are more than the capacity"
            self._recorder.sender.drop(len(labels) - capacity, reason)

    def _is_repeated(self, method: str, rows: Any) -> bool:
        """Whether the other method was just called with these rows: then they are the same predictions."""
        last = _last_recorded.get()
        if last and last[0] is self and last[1]() is rows and method not in last[2]:
            last[2].add(method)
            return True
        try:
            _last_recorded.set((self, weakref.ref(rows), {method}))
        except TypeError:  # a list
            _last_recorded.set(None)
        return False

    def _most_likely(self, probabilities: Any) -> tuple[list[Any], list[float]]:
        """Return the most likely class of each row, and its probability."""
        if probabilities is None or isinstance(probabilities, list):  # a list: an array for each of several outputs
            return [], []
        columns = len(probabilities[0]) if len(probabilities) else 0
        classes = _as_list(getattr(self._model, "classes_", range(columns)))
        labels, confidences = [], []
        for row in _as_list(probabilities):
            confidence = max(row)
            labels.append(classes[row.index(confidence)])
            confidences.append(confidence)
        return labels, confidences


def _unwrapped(model: Any) -> Any:
    return model


def _as_list(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _inputs(rows: Any, names: list[str] | None, model: Any, count: int) -> list[Mapping[str, Any]] | None:
    """Return each row's inputs by feature; None if there are no names for them, or the rows are sparse."""
    if hasattr(rows, "toarray"):
        return None
    if hasattr(rows, "columns"):
        return _frame_inputs(rows)
    shape = getattr(rows, "shape", None)
    if shape is not None and len(shape) == 2:
        return _named(names or _trained_names(model, shape[1]), _as_list(rows))
    entries = list(rows)
    return _list_inputs(entries, names, model, is_array=shape is not None) if len(entries) == count else None


def _frame_inputs(frame: Any) -> list[Mapping[str, Any]]:
    """Return the rows of a pandas or polars frame."""
    columns = [str(name) for name in frame.columns]
    if hasattr(frame, "iloc"):
        values = (frame.iloc[:, index].tolist() for index in range(len(columns)))
        return _named(columns, zip(*values, strict=True))
    return _named(columns, frame.rows())


def _list_inputs(entries: list[Any], names: list[str] | None, model: Any, *, is_array: bool) -> list[Mapping[str, Any]]:
    """Return the rows of a list: mappings, sequences of values, or one value each."""
    if entries and all(isinstance(row, Mapping) for row in entries):
        return entries
    if entries and isinstance(entries[0], list | tuple) and not is_array:
        return _named(names or _trained_names(model, len(entries[0])), entries)
    name = names[0] if names else "text" if entries and isinstance(entries[0], str) else "input"
    return [{name: value} for value in entries]


def _trained_names(model: Any, count: int) -> list[str]:
    """Return the names that the model was trained with, else x0, x1, … as in scikit-learn."""
    names = getattr(model, "feature_names_in_", None)
    return [f"x{index}" for index in range(count)] if names is None else [str(name) for name in names]


def _named(names: Sequence[str], rows: Iterable[Iterable[Any]]) -> list[Mapping[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in rows]
