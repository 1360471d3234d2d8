"""The names of models across files: a name belongs to one model only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from exporter.config.types import ModelConfig
from exporter.errors import ConfigError
from exporter.validation import KeyPath, format_path, preview


class ModelNames:
    """The names that the models of files have, and the names that other servers use for them."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def add(self, models: Sequence[ModelConfig], file: str) -> None:
        """Add the names of a file's models.

        Raises
        ------
        ConfigError
            When a name is taken; the text names both files, and nothing is added.
        """
        names = list(_names(models))
        for path, name, _ in names:
            if taken := self._taken.get(name):
                raise ConfigError(f"{file}: {format_path(path)}: {preview(name)} is {taken} already")
        self._taken |= {name: f"{meaning} in {file}" for _, name, meaning in names}


def _names(models: Iterable[ModelConfig]) -> Iterator[tuple[KeyPath, str, str]]:
    """Yield each name with its key and its meaning."""
    for index, model in enumerate(models):
        yield ("models", index, "name"), model.name, "a model"
        for position, name in enumerate(model.mapping.names):
            if name != model.name:
                meaning = f"among the mapping.names of {preview(model.name)}"
                yield ("models", index, "mapping", "names", position), name, meaning
