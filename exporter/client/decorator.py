"""Functions, recorded as they are called."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from exporter.client.encoding import recordable, snapshot
from exporter.client.request_context import RequestContext, current

if TYPE_CHECKING:
    from exporter.client.client import Monitor

_log = logging.getLogger("exporter.client")


class RecordedCall:
    """What one call of a watched function becomes; used as a context manager around the call."""

    def __init__(self, monitor: Monitor, inputs: Mapping[str, Any] | None) -> None:
        self._monitor = monitor
        self._inputs = inputs
        outer = current.get()
        self._own = outer is None or outer.done
        self._call = RequestContext(monitor.sender) if outer is None or outer.done else outer
        self._before = self._call.recorded

    def __enter__(self) -> RecordedCall:
        self._token = current.set(self._call)
        return self

    def answered(self, result: Any, read: Callable[[Any], Mapping[str, Any]] | None) -> None:
        """Record what the function returned, unless it recorded something itself."""
        try:
            if self._call.recorded == self._before:
                said = read(result) if read else {"prediction": result} if _is_label(result) else {}
                self._monitor.record(**{"inputs": self._inputs, **said})
        except Exception:
            _log.warning("what a watched function returned could not be read", exc_info=True)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        current.reset(self._token)
        if kind is not None and self._own:
            self._call.code = 500
        if kind is not None and self._call.recorded == self._before:
            current.set(self._call)
            self._monitor.record(inputs=self._inputs, code=500)
            current.set(None)
        if self._own:
            self._call.finish()


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | float | bool) or (hasattr(value, "tolist") and getattr(value, "size", 0) == 1)


def watch(
    monitor: Monitor, function: Callable[..., Any], inputs: bool, read: Callable[[Any], Mapping[str, Any]] | None
) -> Callable[..., Any]:
    """See `Monitor.watch`."""
    names = _Arguments(function) if inputs else None

    def begun(args: tuple[Any, ...], kwargs: dict[str, Any]) -> RecordedCall:
        return RecordedCall(monitor, names.of(args, kwargs) if names else None)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with begun(args, kwargs) as watched:
                result = await function(*args, **kwargs)
                watched.answered(result, read)
                return result

        return awaited

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with begun(args, kwargs) as watched:
            result = function(*args, **kwargs)
            watched.answered(result, read)
            return result

    return called


class _Arguments:
    """A call's arguments as inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._signature = inspect.signature(function)

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any] | None:
        """What can be recorded of them; copies, as the function may change its arguments."""
        try:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given: dict[str, Any] = {}
            for name, value in bound.arguments.items():
                kind = self._signature.parameters[name].kind
                given.update(value if kind is inspect.Parameter.VAR_KEYWORD else {name: value})
            known = {name: value for name, value in given.items() if name not in {"self", "cls"} and recordable(value)}
            if len(known) == 1 and (isinstance(only := next(iter(known.values())), Mapping) or hasattr(only, "iloc")):
                known = {
                    str(name): value for name, value in (only.iloc[0] if hasattr(only, "columns") else only).items()
                }
            return {name: snapshot(value)[0] for name, value in known.items()}
        except Exception:  # the function itself says what is wrong with its arguments
            return None
