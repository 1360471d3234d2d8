"""Read YAML files that people write: no duplicate keys, nothing that cannot be stored, bounded in size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import ConfigError
from exporter.validation import similar_file

MAX_CHARACTERS = 16 * 2**20
"""Most characters in a YAML file."""
MAX_NODES = 1_000_000
"""Most values in a YAML file."""
_UNFIT = re.compile("[\0\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses duplicate keys."""

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
    """Return the document in a YAML file.

    Raises
    ------
    ConfigError
        When the file cannot be read or is not YAML; the text names the line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
        if len(text) > MAX_CHARACTERS:
            raise ConfigError(f"{path}: has more than {MAX_CHARACTERS:,} characters")
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}{similar_file(path)}") from None
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:
        # PyYAML raises the last three for a scalar that does not have the type of its tag, such as !!int x.
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


def _count(item: Any, counted: dict[int, int]) -> int:
    """Return the number of values in a document, each alias counted in full.

    Raises
    ------
    ValueError
        When there are more than `MAX_NODES`, or a text cannot be stored in files and databases.
    """
    if isinstance(item, str) and _UNFIT.search(item):
        raise ValueError("a text has the character NUL or half of a surrogate pair")
    if not isinstance(item, dict | list | tuple | set):
        return 1
    if total := counted.get(id(item)):
        return total
    if total == 0:
        raise ValueError("an alias stands in what it names")
    counted[id(item)] = 0
    inner = (*item.keys(), *item.values()) if isinstance(item, dict) else item
    total = 1 + sum(_count(value, counted) for value in inner)
    if total > MAX_NODES:
        raise ValueError(f"with its aliases written out it has more than {MAX_NODES:,} values")
    counted[id(item)] = total
    return total
