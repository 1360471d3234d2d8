"""YAML files to typed structs: every message names the file, the key, what is wrong with it and what would be right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from exporter.errors import ConfigError
from exporter.validation import Path as KeyPath
from exporter.validation import dotted, explain, suggestion

_T = TypeVar("_T")
MAX_NODES = 1_000_000
"""Values in a YAML file."""
_UNFIT = re.compile("[\0\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
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
        raise ConfigError(f"{where}: {dotted(base + path) or 'the document'}: {detail}") from None


def _keys(kind: Any, path: KeyPath) -> tuple[str, ...]:
    """The keys that a struct has at ``path`` below ``kind``."""
    info: Any = msgspec.inspect.type_info(kind)
    for step in path:
        if isinstance(step, int):
            info = info.item_type
        else:
            info = next(field.type for field in info.fields if field.encode_name == step)
    return tuple(field.encode_name for field in info.fields)
