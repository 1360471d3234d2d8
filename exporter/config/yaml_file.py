"""Read YAML files that people write, of bounded size; refuse duplicate keys and values that cannot be stored."""

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
_STANDARD = "tag:yaml.org,2002:"
_TOKENS = {
    "block end": "the end of the indented lines",
    "block mapping start": "a mapping that is indented differently",
    "block sequence start": "a list that is indented differently",
    "document end": "the end of the document",
    "document start": "another document",
    "scalar": "a value",
    "stream end": "the end of the file",
}
"""What PyYAML's names of tokens mean."""


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses duplicate keys, and names the line of every error."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError):  # of scalars such as 2026-13-45 or !!int x
            kind = node.tag.removeprefix(_STANDARD)  # the value is not shown: it may be a secret
            problem = f"the value is not a valid {kind}; put a text in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None

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
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not text in UTF-8: byte {error.start + 1} is wrong") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{where}: is not YAML: {_explain(getattr(error, 'problem', None) or str(error))}") from None
    try:
        _count(document, {})
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    return document


def _explain(problem: str) -> str:
    """Return a problem of PyYAML in the words of its users.

    >>> _explain("expected ',' or ']', but got '<stream end>'")
    "expected ',' or ']', but got the end of the file"
    """
    if problem.startswith("could not determine a constructor for the tag "):
        tag = problem.split("'")[1].replace(_STANDARD, "!!")
        return f"the tag {tag} is not known"
    if problem.startswith("found character '\\t'"):
        return "there is a tab, where only spaces may be"
    problem = problem.replace("but found another document", "expected one document, but found another one")
    return re.sub("'?<([a-z ]+)>'?", lambda token: _TOKENS.get(token[1], token[1]), problem)


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
        raise ValueError("an alias refers to a value that contains it")
    counted[id(item)] = 0
    inner = (*item.keys(), *item.values()) if isinstance(item, dict) else item
    total = 1 + sum(_count(value, counted) for value in inner)
    if total > MAX_NODES:
        raise ValueError(f"with its aliases written out it has more than {MAX_NODES:,} values")
    counted[id(item)] = total
    return total
