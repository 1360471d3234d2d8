"""One voice for what is wrong with a document: where it is, what was found, what would be right."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from exporter.errors import ConfigError

_T = TypeVar("_T")
KeyPath = tuple[str | int, ...]
"""Keys and indexes from the top of a document to a value in it."""
MAX_NODES = 1_000_000
"""Values in a YAML file."""

_AT = re.compile(r" - at `(key` in `)?\$?(.*)`$")
_LONGEST = 128  # characters of a word that is compared: the time grows with their square
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")
_UNFIT = re.compile("[\0\ud800-\udfff]")
_KINDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "object": "an object",
    "array": "an array",
    "datetime": "an RFC 3339 time",
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_BYTES = {f"{prefix}{unit}": base ** (power + 1)
          for power, prefix in enumerate("KMGT") for unit, base in (("iB", 1024), ("B", 1000))}  # fmt: skip


def json_pointer(path: KeyPath) -> str:
    """JSON pointer (RFC 6901) of a path.

    >>> json_pointer(("inputs", "a/b", 3))
    '/inputs/a~1b/3'
    """
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def format_path(path: KeyPath) -> str:
    """A path as people write it in YAML's company.

    >>> format_path(("models", 0, "windows"))
    'models[0].windows'
    """
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def preview(value: Any, limit: int = 60) -> str:
    """A value as JSON, cut to ``limit`` characters."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # it holds itself, or is nested too deeply
        return "…"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def any_of(words: Iterable[str]) -> str:
    """
    >>> any_of(["a", "b", "c"])
    'a, b or c'
    """
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def suggestion(word: str, known: Iterable[str]) -> str:
    """The words that were possible, or the one that was probably meant."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1) if len(word) <= _LONGEST else []
    if close:
        return f"did you mean {preview(close[0])}?"
    return f"valid values: {', '.join(known[:20])}" if known else "there are none"


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
        raise ValueError(f"expected a duration such as 5m or 1h, got {preview(text)}")
    return float(sum(int(number) * _UNITS[unit] for number, unit in parts))


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


def _unit_hint(text: str) -> str:
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not parts or not float(parts[1]):
        return ""
    return f'; did you mean "{parts[1]}{parts[2].upper() or "G"}{parts[3] if parts[2] else "i"}B"?'


def _kind(names: str) -> str:
    words = [_KINDS.get(name.strip(), name.strip()) for name in names.split("|")]
    return any_of(word for word in words if word != "null")


def _found(document: Any, path: KeyPath) -> tuple[bool, Any]:
    for step in path:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return False, None
    return True, document


def explain(error: msgspec.ValidationError, document: Any, known: Sequence[str] = ()) -> tuple[KeyPath, str, str]:
    """What msgspec refused, in words for the person who wrote the document.

    Parameters
    ----------
    error
        What ``msgspec.convert`` or a decoder raised.
    document
        The decoded document (plain dicts and lists), to quote the wrong value from.
    known
        Keys that are possible where an unknown one stood.

    Returns
    -------
    tuple
        The path to the field, the detail (what was wrong and what would be right) and the
        reason, one of `exporter.errors.REASONS`.
    """
    text = str(error)
    path: KeyPath = ()
    if at := _AT.search(text):
        text = text[: at.start()]
        path = tuple(int(m[2]) if m[2] else m[1] for m in _STEP.finditer(at[2]) if m[1] or m[2])
        if at[1]:
            return path, "expected keys that are strings; put those that are not in quotes", "wrong_type"
    if match := re.fullmatch(r"Object missing required field `(.*)`", text):
        return (*path, match[1]), "is required", "missing_field"
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        hint = f"; {suggestion(match[1], known)}" if known else ""
        return (*path, match[1]), f"is not known{hint}", "wrong_type"
    there, value = _found(document, path)
    got = f", got {preview(value)}" if there else ""
    if match := re.fullmatch(r"Expected `(?:str|array)` of length (<=|>=) (\d+)", text):
        size = f", got {len(value)}" if there else ""
        one, many = ("character", "characters") if isinstance(value, str) else ("entry", "entries")
        unit = one if match[2] == "1" else many
        bound = "at most" if match[1] == "<=" else "at least"
        return (
            path,
            f"expected {bound} {match[2]} {unit}{size}",
            "too_long" if bound == "at most" else "wrong_type",
        )
    if match := re.fullmatch(r"Expected `(int|float)` (<=|>=|<|>) (\S+)", text):
        bound = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}[match[2]]
        return path, f"expected {_KINDS[match[1]]} of {bound} {float(match[3]):g}{got}", "out_of_range"
    if match := re.fullmatch(r"Expected `([^`]*)`, got `[^`]*`", text):
        return path, f"expected {_kind(match[1])}{got}", "wrong_type"
    if text.startswith("Invalid enum value"):
        return path, f"is not possible; {suggestion(str(value), known)}", "wrong_type"
    if "RFC3339" in text or "timezone" in text:
        return path, f'expected an RFC 3339 time such as "2026-11-24T10:00:00Z"{got}', "wrong_type"
    return path, f"{text[:1].lower()}{text[1:]}{got}", "wrong_type"


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} is duplicated", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> Any:
    """The document in a YAML file.

    Raises
    ------
    ConfigError
        When the file cannot be read or is not YAML; the text names the line.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:
        # The last three are PyYAML's for a scalar that is not of the type of its tag, such as !!int x.
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or error
        if isinstance(error, LookupError | AttributeError | TypeError):
            problem = "a value is not of the type of its tag"
        raise ConfigError(f"{where}: is not YAML: {problem}") from None
    try:
        _count(document, {})
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    return document


def _count(item: Any, known: dict[int, int]) -> int:
    """Nodes of a document with its aliases written out, which nothing that reads it may have to walk in vain.

    Raises
    ------
    ValueError
        When there are more than `MAX_NODES`, or a text is none that files and databases can hold.
    """
    if isinstance(item, str) and _UNFIT.search(item):
        raise ValueError("a text has the character NUL or half of a surrogate pair")
    if not isinstance(item, dict | list | tuple | set):
        return 1
    if total := known.get(id(item)):
        return total
    if total == 0:
        raise ValueError("an alias stands in what it names")
    known[id(item)] = 0
    inner = (*item.keys(), *item.values()) if isinstance(item, dict) else item
    total = 1 + sum(_count(one, known) for one in inner)
    if total > MAX_NODES:
        raise ValueError(f"with its aliases written out it has more than {MAX_NODES:,} values")
    known[id(item)] = total
    return total


def convert(document: Any, kind: type[_T], where: str, base: KeyPath = (), quoted: bool = True) -> _T:
    """A document as a typed struct; not ``quoted`` where no message may show a value, which may be a secret.

    Raises
    ------
    ConfigError
        With the file (``where``), the path of the key, and what is wrong with it.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        path, detail, _ = explain(error, document)
        if detail.startswith("is not known"):
            detail = f"is not known; {suggestion(str(path[-1]), _keys(kind, path[:-1]))}"
        if not quoted:
            detail = detail.partition(", got ")[0]
        raise ConfigError(f"{where}: {format_path(base + path) or 'the document'}: {detail}") from None


def _keys(kind: Any, path: KeyPath) -> tuple[str, ...]:
    """The keys that a struct has at ``path`` below ``kind``."""
    info: Any = msgspec.inspect.type_info(kind)
    for step in path:
        if isinstance(step, int):
            info = info.item_type
        else:
            info = next(field.type for field in info.fields if field.encode_name == step)
    return tuple(field.encode_name for field in info.fields)
