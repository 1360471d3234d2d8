"""Load ``exporter.yml`` and the files of its ``models_folder`` into frozen, typed objects.

Unknown keys are refused, and every message names the file, the path of the key, what is wrong with it and what would be
right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from exporter.config.checks import check_document, check_model_file
from exporter.config.types import Config, ModelConfig, ModelFile
from exporter.config.yaml_file import load_yaml
from exporter.errors import ConfigError, printable
from exporter.validation import KeyPath, convert, format_path, is_special, is_utf8, preview

SUFFIXES = {".yml", ".yaml"}
"""What the names of files in ``models_folder`` end with; others, such as profiles, are not read."""


def load(path: Path) -> Config:
    """Read ``exporter.yml`` and all files of its ``models_folder``.

    Raises
    ------
    ConfigError
        At the first mistake.
    """
    config = load_own(path)
    if config.models_folder is None:
        return config
    names = ModelNames()
    names.add(config.models, str(path))
    models = list(config.models)
    for file in model_files(Path(config.models_folder)):
        found = load_models(file)
        names.add(found, str(file))
        models += found
    return msgspec.structs.replace(config, models=tuple(models))


def load_own(path: Path) -> Config:
    """Read ``exporter.yml`` alone. Relative paths in it are relative to its folder, as in Prometheus.

    Raises
    ------
    ConfigError
        At the first mistake.
    """
    document = check_document(load_yaml(path), str(path))
    config = convert(document, Config, str(path))
    if not config.models and config.models_folder is None:
        wrong = "expected at least 1 entry, got 0" if "models" in document else "is required"
        raise ConfigError(f"{path}: models: {wrong}")
    folder = path.absolute().parent
    url = config.store.url
    if (relative := url.removeprefix("sqlite:///")) != url and not relative.startswith((":", "/")):
        url = f"sqlite:///{folder / relative}"
    secret, archive = config.store.password_file, config.store.archive
    if archive is not None and "://" not in archive:
        archive = str(folder / archive)
    store = msgspec.structs.replace(
        config.store, url=url, password_file=str(folder / secret) if secret else None, archive=archive
    )
    retrain = config.retrain
    if retrain:
        retrain = msgspec.structs.replace(retrain, secret_file=str(folder / retrain.secret_file))
    return msgspec.structs.replace(
        config,
        models=_with_absolute_profiles(config.models, folder),
        models_folder=str(folder / config.models_folder) if config.models_folder is not None else None,
        store=store,
        retrain=retrain,
    )


def model_files(folder: Path) -> list[Path]:
    """Return the files with models in ``models_folder`` and the folders in it, in the order of their names.

    Names that begin with a dot are left out: Kubernetes keeps the files of a ConfigMap in such folders, and links to
    them.

    Raises
    ------
    ConfigError
        When the folder cannot be read.
    """
    files: list[Path] = []
    try:
        for entry in _visible(folder):
            files += _visible(entry) if entry.is_dir() else [entry]
    except OSError as error:
        raise ConfigError(f"models_folder: {error.filename} cannot be read: {error.strerror}") from None
    return [file for file in files if file.suffix in SUFFIXES]


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def load_models(file: Path) -> tuple[ModelConfig, ...]:
    """Read a file of ``models_folder``. Relative paths in it are relative to its own folder.

    Raises
    ------
    ConfigError
        At the first mistake.
    """
    if not is_utf8(str(file)):  # metrics and pages are, and show it
        raise ConfigError(f"{printable(str(file))}: its name is not UTF-8")
    if is_special(file):
        raise ConfigError(f"{file}: is not a file")
    models = convert(check_model_file(load_yaml(file), str(file)), ModelFile, str(file)).models
    return _with_absolute_profiles(models, file.absolute().parent)


def _with_absolute_profiles(models: Iterable[ModelConfig], folder: Path) -> tuple[ModelConfig, ...]:
    return tuple(
        msgspec.structs.replace(
            model,
            profile=str(folder / model.profile) if model.profile else None,
            profiles={version: str(folder / path) for version, path in model.profiles.items()},
        )
        for model in models
    )


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
