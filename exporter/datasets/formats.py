"""The type of a format, and the columns of formats that have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from exporter.datasets.examples import Example, Pages
from exporter.errors import StoreError

MAX_COLUMNS = 1000
"""Inputs with a column of their own, at most: clients choose the names of inputs."""
OTHER = "other_inputs"
"""The column of all other inputs, as JSON text."""
FIELDS = tuple(name for name in Example.__struct_fields__ if name != "inputs")
"""The columns before those of the inputs."""


class Format(NamedTuple):
    """A format in which a dataset is written.

    Attributes
    ----------
    name
        The value of ``format=``.
    suffix
        The suffix of a file's name.
    write
        Takes the examples and the known types of the model's inputs; yields the file in pieces.
    """

    name: str
    suffix: str
    content_type: str
    write: Callable[[Pages, Mapping[str, str]], Iterator[bytes]]


class Columns:
    """The inputs that have a column: those of the profile, then others in the order of a first pass.

    Parameters
    ----------
    pages
        The examples.
    types
        Types of the profile's inputs.
    observe
        Called with the name and value of each input that has a column.
    """

    def __init__(
        self, pages: Pages, types: Mapping[str, str], observe: Callable[[str, Any], None] = lambda *_: None
    ) -> None:
        names = dict.fromkeys(list(types)[:MAX_COLUMNS])
        self.more = False
        inputs = (entry for page in pages() for example in page for entry in (example.inputs or {}).items())
        for name, value in inputs:
            if name in names or len(names) < MAX_COLUMNS:
                names[name] = None
                observe(name, value)
            else:
                self.more = True
        self.names = list(names)
        self._with_column = frozenset(names)

    def rest(self, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the inputs without a column; None if there are none.

        Raises
        ------
        StoreError
            When there are some, although the first pass found none.
        """
        if inputs.keys() <= self._with_column:
            return None
        if not self.more:
            raise StoreError("a correction was decided while the dataset was read: repeat the request")
        return {name: value for name, value in inputs.items() if name not in self._with_column}
