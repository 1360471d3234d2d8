"""The keys of a parsed YAML document: read them, and refuse what is invalid with the path of the key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from exporter.validation import KeyPath, format_path, parse_duration, preview

INTERVAL = ("1h", "3650d")
"""The shortest and the longest time with one false alarm, or between two requests for retraining."""

_T = TypeVar("_T")
_V = TypeVar("_V")


class InvalidKeyError(Exception):
    """A value is invalid: the path of its key, and what is wrong with it."""

    def __init__(self, path: KeyPath, detail: str) -> None:
        super().__init__(f"{format_path(path)}: {detail}")


def refuse(path: KeyPath, detail: str) -> NoReturn:
    """Raise `InvalidKeyError`: the value of a key is invalid."""
    raise InvalidKeyError(path, detail)


def entries(document: dict[str, Any], key: str) -> Iterator[tuple[int, Any]]:
    """Yield the entries of a list with their indices; of anything else none, since `convert` refuses it."""
    value = document.get(key)
    yield from enumerate(value if isinstance(value, list) else ())


def mapping(document: dict[str, Any], key: str) -> dict[Any, Any]:
    """Return the mapping below a key; an empty one for anything else, since `convert` refuses it."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def parse(parser: Callable[[_V], _T], value: _V, path: KeyPath) -> _T:
    """Return a parsed value; a `ValueError` of the parser becomes the message of the key."""
    try:
        return parser(value)
    except ValueError as error:
        refuse(path, str(error))


def check_interval(key: KeyPath, interval: Any, bounds: tuple[str, str] = INTERVAL) -> None:
    """Refuse a duration outside of the bounds, which are durations, too."""
    if isinstance(interval, str) or type(interval) is int:
        seconds = parse(parse_duration, str(interval), key)
        shortest, longest = bounds
        if not parse_duration(shortest) <= seconds <= parse_duration(longest):
            refuse(key, f"expected from {shortest} to {longest}, got {preview(interval)}")
