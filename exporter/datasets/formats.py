"""What a format is, and what those with columns share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from exporter.datasets.examples import Example, Pages
from exporter.errors import StoreError

MAX_COLUMNS = 1000
"""Inputs with a column of their own; clients choose their names."""
OTHER = "other_inputs"
"""The column of the rest, as JSON text."""
FIELDS = tuple(name for name in Example.__struct_fields__ if name != "inputs")
"""Columns of every example, before those of its inputs."""


class Format(NamedTuple):
    """How a dataset is written.

    Attributes
    ----------
    name
        As ``format=`` has it.
    suffix
        Of a file's name.
    write
        Takes the examples and the types of the model's inputs as far as they are known; gives the
        file piece by piece.
    """

    name: str
    suffix: str
    content_type: str
    write: Callable[[Pages, Mapping[str, str]], Iterator[bytes]]


class Columns:
    """The inputs that have a column: those of the profile, then others as a first pass meets them."""

    def __init__(
        self, pages: Pages, types: Mapping[str, str], see: Callable[[str, Any], None] = lambda *_: None
    ) -> None:
        found = dict.fromkeys(list(types)[:MAX_COLUMNS])
        self.more = False
        for page in pages():
            for one in page:
                for name, value in (one.inputs or {}).items():
                    if name in found or len(found) < MAX_COLUMNS:
                        found[name] = None
                        see(name, value)
                    else:
                        self.more = True
        self.names = list(found)
        self._known = frozenset(found)

    def rest(self, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The inputs without a column; None when there are none.

        Raises
        ------
        StoreError
            When there are, and the first pass met none.
        """
        if inputs.keys() <= self._known:
            return None
        if not self.more:
            raise StoreError("a decision came while the dataset was read: ask again")
        return {name: value for name, value in inputs.items() if name not in self._known}
