"""Record the calls of a function."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from exporter.client.encoding import is_recordable, snapshot
from exporter.client.middleware import EventRecorder, RequestContext, current

_log = logging.getLogger("exporter.client")


class RecordedCall:
    """A context manager around one call of a watched function."""

    def __init__(self, recorder: EventRecorder, inputs: Mapping[str, Any] | None) -> None:
        self._recorder = recorder
        self._inputs = inputs
        outer = current.get()
        self._is_outermost = outer is None or outer.done
        self._context = RequestContext(recorder.sender) if outer is None or outer.done else outer
        self._recorded_before = self._context.recorded

    def __enter__(self) -> RecordedCall:
        self._token = current.set(self._context)
        return self

    def record_result(self, result: Any, read: Callable[[Any], Mapping[str, Any]] | None) -> None:
        """Record the function's result, unless the function recorded an event itself."""
        try:
            if not self._has_recorded():
                fields = read(result) if read else {"prediction": result} if _is_label(result) else {}
                self._recorder.record(**{"inputs": self._inputs, **fields})
        except Exception:
            _log.warning("the result of a watched function could not be read", exc_info=True)

    def _has_recorded(self) -> bool:
        return self._context.recorded > self._recorded_before

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        current.reset(self._token)
        if error_type is not None and self._is_outermost:
            self._context.code = 500
        if error_type is not None and not self._has_recorded():
            current.set(self._context)
            self._recorder.record(inputs=self._inputs, code=500)
            current.set(None)
        if self._is_outermost:
            self._context.finish()


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | float | bool) or (hasattr(value, "tolist") and getattr(value, "size", 0) == 1)


def watch(
    recorder: EventRecorder, function: Callable[..., Any], inputs: bool, read: Callable[[Any], Mapping[str, Any]] | None
) -> Callable[..., Any]:
    """Return the function with its calls recorded; see `Monitor.watch`."""
    arguments = _Arguments(function) if inputs else None

    def recorded_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> RecordedCall:
        return RecordedCall(recorder, arguments.as_inputs(args, kwargs) if arguments else None)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def async_wrapper(*args: Any, **kwargs: Any) -> Any:
            with recorded_call(args, kwargs) as call:
                result = await function(*args, **kwargs)
                call.record_result(result, read)
                return result

        return async_wrapper

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with recorded_call(args, kwargs) as call:
            result = function(*args, **kwargs)
            call.record_result(result, read)
            return result

    return wrapper


class _Arguments:
    """Converts a call's arguments to inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._signature = inspect.signature(function)

    def as_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any] | None:
        """Return copies of the recordable arguments, as the function may change them."""
        try:
            inputs = {name: value for name, value in self._named(args, kwargs) if is_recordable(value)}
            if len(inputs) == 1:
                (value,) = inputs.values()
                row = _row(value)
                inputs = inputs if row is None else row
            return {name: snapshot(value)[0] for name, value in inputs.items()}
        except Exception:  # the function itself reports wrong arguments
            return None

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                yield from value.items()
            elif name not in {"self", "cls"}:
                yield name, value


def _row(value: Any) -> dict[str, Any] | None:
    """Return the features in a single argument that is a mapping or a pandas row; None for anything else."""
    if isinstance(value, Mapping) or hasattr(value, "iloc"):
        return {str(name): entry for name, entry in (value.iloc[0] if hasattr(value, "columns") else value).items()}
    return None
