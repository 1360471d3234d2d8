"""Explain what is wrong with a document: the path, the value, and what would be right."""

from __future__ import annotations

import datetime
import difflib
import functools
import itertools
import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgspec

from exporter.errors import ConfigError

_T = TypeVar("_T")
KeyPath = tuple[str | int, ...]
"""Keys and indexes from the top of a document to a value in it."""

MAX_FILES = 1000
"""Files of a folder among which one with a similar name is looked for."""
_AT = re.compile(r" - at `(key` in `)?\$?(.*)`$")
_LONGEST = 128  # longest word that is compared: the time grows with the square of its length
_COMPARED = [0.0]  # tenfold the processor seconds of all comparisons, as a time: they take a tenth of it at most …
_AHEAD = 2.0  # … after a fifth of a second in a row
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")
_TIME = 'an RFC 3339 time such as "2026-11-24T10:00:00Z"'
_KINDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "object": "an object",
    "array": "an array",
    "datetime": _TIME,
}
_YAML_KINDS = _KINDS | {"object": "a mapping", "array": "a list"}
_type_info = functools.cache(msgspec.inspect.type_info)
_BOUNDS = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}
_NUMBER = re.compile(r"-?\d{1,9}(\.\d{1,9})?")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_UNIT_WORDS = ("seconds", "minutes", "hours", "days", "weeks", "years")
_BYTES = {f"{prefix}{unit}": base ** (power + 1)
          for power, prefix in enumerate("KMGT") for unit, base in (("iB", 1024), ("B", 1000))}  # fmt: skip


def json_pointer(path: KeyPath) -> str:
    """Return the JSON pointer (RFC 6901) of a path.

    >>> json_pointer(("inputs", "a/b", 3))
    '/inputs/a~1b/3'
    """
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def format_path(path: KeyPath) -> str:
    """Return a path in the notation of configuration keys.

    >>> format_path(("models", 0, "windows"))
    'models[0].windows'
    """
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def preview(value: Any, limit: int = 60) -> str:
    """Return a value as JSON, a date as it is, cut to ``limit`` characters."""
    if isinstance(value, datetime.date):  # YAML has dates
        return str(value)
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # it contains itself, or is nested too deeply
        return "…"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def is_utf8(text: str) -> bool:
    """Return whether a text can be written as UTF-8; names of files need not."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def any_of(words: Iterable[str]) -> str:
    """Return words as a list of alternatives.

    >>> any_of(["a", "b", "c"])
    'a, b or c'
    """
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def closest(word: str, valid: Iterable[str], least: float = 0.6) -> str | None:
    """Return the valid word that was probably meant; None if none is similar, or many were compared just before."""
    begun, used = time.monotonic(), time.thread_time()
    if len(word) > _LONGEST or _COMPARED[0] > begun + _AHEAD:
        return None
    close = difflib.get_close_matches(word, sorted(valid), n=1, cutoff=least)
    _COMPARED[0] = max(_COMPARED[0], begun) + 10 * (time.thread_time() - used)
    return close[0] if close else None


def similar_file(path: Path) -> str:
    """Return a hint at the file of the same folder that was probably meant by one that is not there; else nothing."""
    try:
        names = [file.name for file in itertools.islice(path.parent.iterdir(), MAX_FILES)]
    except OSError:
        return ""
    if path.name in names or os.path.lexists(path):
        return ""
    name = closest(path.name, names)
    return f"; did you mean {path.with_name(name)}?" if name else ""


def is_special(path: Path) -> bool:
    """Return whether a path is that of a folder, a pipe or a device: reading it fails, or might never end."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def suggestion(word: str, valid: Iterable[str]) -> str:
    """Return the valid word that was probably meant, or the valid words."""
    valid = sorted(valid)
    if close := closest(word, valid):
        return f"did you mean {preview(close)}?"
    return f"valid values: {', '.join(valid[:20])}" if valid else "there are none"


def parse_duration(text: str) -> float:
    """Return the seconds of a duration in Prometheus' notation.

    >>> parse_duration("1h30m")
    5400.0

    Raises
    ------
    ValueError
        When the text is not a duration, or is zero.
    """
    parts = re.findall(r"(\d+)([smhdwy])", text)
    if not parts or "".join(n + u for n, u in parts) != text or not any(int(n) for n, _ in parts):
        raise ValueError(f"expected a duration such as 5m or 1h, got {preview(text)}{_duration_hint(text)}")
    return float(sum(int(number) * _UNITS[unit] for number, unit in parts))


ROUNDING = 4 * sys.float_info.epsilon
"""Part of the numbers that is added to a tolerance: 1.1 − 1.0 is a little more than 0.1."""


class Tolerance(NamedTuple):
    """The tolerance of a model's corrections: one of the two is 0.

    Attributes
    ----------
    amount
        In the unit of the prediction.
    share
        Of the size of the prediction.
    """

    amount: float = 0.0
    share: float = 0.0

    def accepts(self, predicted: float, actual: float) -> bool:
        """Return whether a number is within the tolerance of a prediction.

        >>> Tolerance(0.1).accepts(1.0, 1.1), Tolerance(share=0.05).accepts(-100.0, -106.0)
        (True, False)
        """
        limit = max(self.amount, self.share * abs(predicted)) + ROUNDING * abs(predicted)
        return abs(actual - predicted) <= limit


def parse_tolerance(value: float | str) -> Tolerance:
    """Parse a tolerance: an amount, or a share of the prediction such as ``5%``.

    >>> parse_tolerance(0.5), parse_tolerance("5%")
    (Tolerance(amount=0.5, share=0.0), Tolerance(amount=0.0, share=0.05))

    Raises
    ------
    ValueError
        When it is neither.
    """
    if isinstance(value, str) and (percent := re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?%", value, re.ASCII)):
        return Tolerance(share=float(percent[1]) / 100)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"expected a number of at least 0, or a share such as 5%, got {preview(value)}")
    return Tolerance(float(value))


def parse_size(text: str) -> int:
    """Return the bytes of a size with its unit.

    >>> parse_size("1.5GiB"), parse_size("200 MB")
    (1610612736, 200000000)

    Raises
    ------
    ValueError
        When the text is not a size, or is zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i?B)", text)
    size = int(float(match[1]) * _BYTES[match[2]]) if match else 0
    if not size:
        raise ValueError(f"expected a size such as 10GiB or 500MB, got {preview(text)}{_unit_hint(text)}")
    return size


def _duration_hint(text: str) -> str:
    """Return a hint for a number without a unit, or with a word such as minutes."""
    parts = re.fullmatch(r"\s*(\d{1,9})\s*([a-z]*)\s*", text.lower())
    if not parts or not int(parts[1]):
        return ""
    if not parts[2]:
        return f"; add a unit: {any_of(preview(parts[1] + unit) for unit in 'smhd')}"
    unit = next((unit for unit in _UNIT_WORDS if unit.startswith(parts[2])), "")
    return f'; did you mean "{parts[1]}{unit[0]}"?' if unit else ""


def _unit_hint(text: str) -> str:
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not parts or not float(parts[1]):
        return ""
    return f'; did you mean "{parts[1]}{parts[2].upper() or "G"}{parts[3] if parts[2] else "i"}B"?'


def _kind(names: str, kinds: Mapping[str, str]) -> str:
    words = [kinds.get(name.strip(), name.strip()) for name in names.split("|")]
    return any_of(word for word in words if word != "null")


def _value_at(document: Any, path: KeyPath) -> tuple[bool, Any]:
    """Return whether there is a value at the path, and the value."""
    for step in path:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return False, None
    return True, document


def explain(
    error: msgspec.ValidationError,
    document: Any,
    valid: Sequence[str] = (),
    choices: Mapping[str, Sequence[str]] = MappingProxyType({}),
    yaml: bool = False,
) -> tuple[KeyPath, str, str]:
    """Explain what msgspec refused, for the author of the document.

    Parameters
    ----------
    error
        The error of ``msgspec.convert`` or of a decoder.
    document
        The decoded document (plain dicts and lists), from which the invalid value is quoted.
    valid
        Valid keys in place of an unknown one.
    choices
        Valid values by the key of an enumeration.
    yaml
        Whether the document is YAML, whose authors know lists and mappings; those of JSON know arrays and objects.

    Returns
    -------
    tuple
        The path of the field, the detail (what is wrong and what would be right) and the reason, one of
        `exporter.errors.REASONS`.
    """
    text = str(error)
    path: KeyPath = ()
    if at := _AT.search(text):
        text = text[: at.start()]
        path = tuple(int(m[2]) if m[2] else m[1] for m in _STEP.finditer(at[2]) if m[1] or m[2])
        if at[1]:
            return path, "expected keys that are strings; quote the others", "wrong_type"
    if match := re.fullmatch(r"Object missing required field `(.*)`", text):
        return (*path, match[1]), "is required", "missing_field"
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        hint = f"; {suggestion(match[1], valid)}" if valid else ""
        return (*path, match[1]), f"is not known{hint}", "wrong_type"
    exists, value = _value_at(document, path)
    got = f", got {preview(value)}" if exists else ""
    if match := re.fullmatch(r"Expected `(?:str|array)` of length (<=|>=) (\d+)", text):
        size = f", got {len(value)}" if exists else ""
        noun = ("character", "characters") if isinstance(value, str) else ("entry", "entries")
        bound = f"{_BOUNDS[match[1]]} {match[2]} {noun[match[2] != '1']}"
        return path, f"expected {bound}{size}", "too_long" if match[1] == "<=" else "wrong_type"
    if match := re.fullmatch(r"Expected `(int|float)` (<=|>=|<|>) (\S+)", text):
        limit = float(match[3])
        percent = f"; write {value / 100:g} for {value:g}%" if limit == 1 and exists and 2 <= value <= 100 else ""
        return path, f"expected {_KINDS[match[1]]} of {_BOUNDS[match[2]]} {limit:.10g}{got}{percent}", "out_of_range"
    words = choices.get(str(path[-1])) if path else None
    kinds = _YAML_KINDS if yaml else _KINDS
    detail = f"expected {any_of(words)}{got}" if words else _explain_type(text, value, got, kinds)
    return path, detail, "wrong_type"


def _explain_type(text: str, value: Any, got: str, kinds: Mapping[str, str]) -> str:
    if match := re.fullmatch(r"Expected `([^`]*)`, got `[^`]*`", text):
        entry = preview(value)
        hint = f"; for a single entry write [{entry}]" if match[1] == "array" and got and entry[-1] != "…" else ""
        kind = match[1].removesuffix(" | null")
        if kind == "str" and isinstance(value, int | float | datetime.date):
            hint = "; put it in quotes"
        elif kind in {"int", "float"} and isinstance(value, str) and _NUMBER.fullmatch(value):
            hint = "; write it without quotes"
        return f"expected {_kind(match[1], kinds)}{got}{hint if value is not None else ''}"
    if "RFC3339" in text or "timezone" in text:
        return f"expected {_TIME}{got}"
    return f"{text[:1].lower()}{text[1:]}{got}"


def convert(document: Any, kind: type[_T], where: str, base: KeyPath = (), quoted: bool = True) -> _T:
    """Convert a YAML document to a typed struct. Without ``quoted`` no message shows a value, which may be a secret.

    Raises
    ------
    ConfigError
        With the file (``where``), the path of the key, and what is wrong with it.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        path, detail, _ = explain(error, document, yaml=True)
        if detail.startswith("is not known"):
            detail = f"is not known; {suggestion(str(path[-1]), _keys(kind, path[:-1]))}"
        if not quoted:
            detail = detail.partition(", got ")[0]
        raise ConfigError(f"{where}: {format_path(base + path) or 'the document'}: {detail}") from None


def _keys(kind: Any, path: KeyPath) -> tuple[str, ...]:
    """Return the keys of the struct at ``path`` below ``kind``."""
    info: Any = _type_info(kind)
    for step in path:
        if isinstance(step, int):
            info = info.item_type
        else:
            info = next(field.type for field in info.fields if field.encode_name == step)
        if isinstance(info, msgspec.inspect.UnionType):  # a struct or None
            info = next(kind for kind in info.types if isinstance(kind, msgspec.inspect.StructType))
    return tuple(field.encode_name for field in info.fields)


def rfc3339(seconds: float | None) -> str | None:
    """Format Unix time as RFC 3339; None for a time that has no year of four digits.

    >>> rfc3339(1795514400.0), rfc3339(-62135600400.0)
    ('2026-11-24T10:00:00Z', None)
    """
    if seconds is None:
        return None
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat().replace("+00:00", "Z")
