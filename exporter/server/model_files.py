"""The models of ``exporter.yml`` and of the files in its ``models_folder``: a bad file leaves the others in use."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from exporter import config as configuration
from exporter.config import Config, InvalidKeyError, ModelConfig, ModelNames, check_retrained
from exporter.errors import ConfigError, ProfileError, StoreError, printable
from exporter.monitoring.binner import Binner
from exporter.monitoring.quality import task_of
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.profile import CategoricalFeature, Profile
from exporter.profiles.profile import load as load_profile
from exporter.secret_file import read_secret
from exporter.validation import is_special, preview, suggestion

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """The models of one file, with their profiles."""

    models: tuple[ModelConfig, ...]
    binners: Mapping[str, Binner]
    version_binners: Mapping[tuple[str, str], Binner]


def load_base(path: Path) -> Config:
    """Read ``exporter.yml`` without its ``models_folder``, and what it names except for the profiles.

    Raises
    ------
    ConfigError
        When any of them is wrong.
    """
    from exporter.storage import check_store  # only here: a profile alone needs no SQLAlchemy

    config = configuration.load_own(path)
    try:
        check_store(config.store)
    except StoreError as error:
        raise ConfigError(f"{path}: {error}") from None
    if config.retrain:
        read_secret(config.retrain.secret_file, f"{path}: retrain.secret_file")
    return config


def load_part(path: Path, models: tuple[ModelConfig, ...]) -> Part:
    """Read the profiles of a file's models.

    Raises
    ------
    ConfigError
        When any of them is wrong.
    """
    binners: dict[str, Binner] = {}
    version_binners: dict[tuple[str, str], Binner] = {}
    for index, model in enumerate(models):
        where = f"{path}: models[{index}]"
        profiles = _load_profiles(where, model)
        if not profiles:
            if model.segment_by is not None:
                raise ConfigError(f"{where}.segment_by: needs a profile, which has the categories")
            continue
        _check_features(where, model, profiles)
        for version, (file, profile) in profiles.items():
            _check_segments(f"{where}.segment_by", model, profile, file)
            _check_task(f"{where}.task", model, profile, file)
            if version is None:
                binners[model.name] = Binner(profile, model.redact)
            else:
                version_binners[model.name, version] = Binner(profile, model.redact)
    return Part(models, binners, version_binners)


def _load_profiles(where: str, model: ModelConfig) -> dict[str | None, tuple[str, Profile]]:
    """Return the file and the profile of each version that has its own, and under None those of all other versions."""
    files: list[tuple[str | None, str, str]] = [(v, f"profiles.{v}", file) for v, file in model.profiles.items()]
    if model.profile is not None:
        files.insert(0, (None, "profile", model.profile))
    profiles: dict[str | None, tuple[str, Profile]] = {}
    for version, key, file in files:
        if is_special(Path(file)):
            raise ConfigError(f"{where}.{key}: {file}: is not a file")
        try:
            profiles[version] = file, load_profile(Path(file))
        except ProfileError as error:
            raise ConfigError(f"{where}.{key}: {error}") from None
    return profiles


def _check_features(where: str, model: ModelConfig, profiles: dict[str | None, tuple[str, Profile]]) -> None:
    """Refuse settings of features that are in no profile, or have another type there."""
    files = ", ".join(file for file, _ in profiles.values())
    names_in_profiles = {name for _, profile in profiles.values() for name in (*profile.inputs, *profile.features)}
    features = {name for _, profile in profiles.values() for name in profile.features}
    for name, feature in model.features.items():
        here = f"{where}.features.{name}"
        if name not in names_in_profiles:
            raise ConfigError(f"{here}: is not in the profile {files}; {suggestion(name, names_in_profiles)}")
        for _, profile in profiles.values():
            profiled = profile.inputs.get(name)
            if feature.type and profiled and feature.type != profiled:
                raise ConfigError(
                    f"{here}.type: the profile has the type {profiled}; profile again with --type {name}={feature.type}"
                )
        if feature.alerts and not {name, *(key for key in features if key.startswith(f"{name}."))} & features:
            raise ConfigError(f"{here}.alerts: the profile has no statistics of it")
    for name in sorted(model.redact.difference(*(profile.inputs for _, profile in profiles.values()))):
        log.warning("%s.redact: %s is not an input of the profile", where, preview(name))


def _check_segments(where: str, model: ModelConfig, profile: Profile, file: str) -> None:
    name = model.segment_by
    if name is None:
        return
    categorical = {n for n in profile.inputs if isinstance(profile.features.get(n), CategoricalFeature)}
    if name not in categorical:
        hint = suggestion(name, categorical)
        raise ConfigError(f"{where}: {preview(name)} is not a categorical input of the profile {file}; {hint}")
    if name in model.redact:
        raise ConfigError(f"{where}: {preview(name)} is redacted, so it must not appear in metrics")


def _check_task(where: str, model: ModelConfig, profile: Profile, file: str) -> None:
    """Refuse a task that the profile rules out. Numbers may be classes, unless the profile has their errors."""
    task = task_of(profile)
    if model.task and task and model.task != task and (profile.quality or task == "classification"):
        what = "labels" if profile.quality else "predictions"
        raise ConfigError(f"{where}: the {what} in the profile {file} belong to a {task}; expected {task}, or no task")


Stamp = tuple[int, ...] | None
"""Device, inode, size and times of a file, which change when it is written or replaced; None if it is not there."""


SHOWN_FAULTS = 20
"""Files that are not valid and are named; more are counted."""


class FilePart(NamedTuple):
    """The models of a file in ``models_folder``, and the stamps of it and its profiles before they were read."""

    part: Part
    stamps: Mapping[Path, Stamp]


class Fault(NamedTuple):
    """A problem of a file.

    Attributes
    ----------
    file
        The file: one of ``models_folder``, or ``exporter.yml`` where it names a model that no file has.
    detail
        The file, the key, what is wrong with it and what would be right.
    kept
        The models of the file's last valid version, which stay in use.
    """

    file: Path
    detail: str
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = ", ".join(self.kept)
        return f"{self.detail} (models in use from its last valid version: {names})" if names else self.detail


class Loaded(NamedTuple):
    """The configuration in use.

    Attributes
    ----------
    path
        ``exporter.yml``.
    base
        Its contents, with its own models alone.
    config
        The same with the models of all files.
    monitors
        The monitors of all models.
    own
        The models of ``exporter.yml``.
    parts
        The models in use of each file in ``models_folder``: those of its last valid version.
    faults
        What is wrong with files.
    stamps
        The files of ``models_folder`` and the profiles that they name, before they were read.
    """

    path: Path
    base: Config
    config: Config
    monitors: MonitorRegistry
    own: Part
    parts: Mapping[Path, FilePart]
    faults: tuple[Fault, ...]
    stamps: Mapping[Path, Stamp]

    @property
    def folder(self) -> Path | None:
        """The ``models_folder``."""
        return Path(self.base.models_folder) if self.base.models_folder is not None else None

    @property
    def valid(self) -> dict[str, bool]:
        """Whether each file of ``models_folder`` is valid, by its name in the folder."""
        faulty = {fault.file for fault in self.faults}
        files = {*self.parts, *faulty} - {self.path}
        return {self._name(file): file not in faulty for file in sorted(files)}

    @property
    def invalid(self) -> list[str]:
        """One line for each invalid file: the first ones by name, then the number of the others."""
        return self._shown(f"{self._name(fault.file)} is not valid: see the home page" for fault in self.faults)

    @property
    def problems(self) -> list[str]:
        """The problems of the files."""
        return self._shown(map(str, self.faults))

    def _shown(self, lines: Iterable[str]) -> list[str]:
        more = len(self.faults) - SHOWN_FAULTS
        counted = [f"{more} more files are not valid: model-exporter check-config lists all"] * (more > 0)
        return [*islice(lines, SHOWN_FAULTS), *counted]

    def _name(self, file: Path) -> str:
        folder = self.folder
        return printable(str(file.relative_to(folder)) if folder and file.is_relative_to(folder) else file.name)

    def changed(self) -> Mapping[Path, Stamp] | None:
        """Return the stamps of now if files of ``models_folder`` or their profiles have changed, else None.

        Raises
        ------
        ConfigError
            When the folder cannot be read.
        """
        if self.folder is None:
            return None
        stamps = _stamps([*configuration.model_files(self.folder), *self.stamps])
        return None if stamps == self.stamps else stamps


def load_monitors(path: Path) -> tuple[Config, MonitorRegistry]:
    """Read the configuration, the files of its ``models_folder``, and the profiles that they name.

    Raises
    ------
    ConfigError
        When any of them is wrong.
    """
    loaded = load_valid(path)
    if loaded.faults:
        raise ConfigError("\n".join(fault.detail for fault in loaded.faults))
    return loaded.config, loaded.monitors


def load_valid(path: Path, before: Loaded | None = None) -> Loaded:
    """Read the configuration, and of the files in its ``models_folder`` those that are valid.

    Parameters
    ----------
    path
        ``exporter.yml``.
    before
        The configuration in use; its models stay in use where a file is no longer valid.

    Raises
    ------
    ConfigError
        When ``exporter.yml`` or a profile that it names is wrong, or the folder cannot be read.
    """
    base = load_base(path)
    return _load_folder(path, base, load_part(path, base.models), before)


def load_folder(before: Loaded) -> Loaded:
    """Read the files of ``models_folder`` that have changed, and nothing else.

    Raises
    ------
    ConfigError
        When the folder cannot be read.
    """
    return _load_folder(before.path, before.base, before.own, before)


def _load_folder(path: Path, base: Config, own: Part, before: Loaded | None) -> Loaded:
    files = configuration.model_files(Path(base.models_folder)) if base.models_folder is not None else []
    older = before.parts if before else {}
    unchanged = {file for file in files if file in older and _stamps(older[file].stamps) == older[file].stamps}
    names = ModelNames()
    names.add(own.models, str(path))
    parts: dict[Path, FilePart] = {}
    faults: list[Fault] = []
    stamps: dict[Path, Stamp] = {}
    for file in sorted(files, key=lambda file: (file not in unchanged, file not in older, file)):
        try:
            read = older[file] if file in unchanged else _read(file, stamps)
            stamps |= read.stamps
            names.add(read.part.models, str(file))
            parts[file] = read
        except ConfigError as error:
            faults.append(Fault(file, str(error), _keep(file, older, names, parts)))
    models = [model for part in (own, *(parts[file].part for file in files if file in parts)) for model in part.models]
    if base.models_folder is not None and base.retrain:
        try:
            check_retrained(enumerate(base.retrain.models), [model.name for model in models])
        except InvalidKeyError as error:
            faults.append(Fault(path, f"{path}: {error}"))
    config = base.with_models(models)
    return Loaded(path, base, config, _monitors(config.models, own, parts), own, parts, tuple(faults), stamps)


def _read(file: Path, stamps: dict[Path, Stamp]) -> FilePart:
    """Read a file and its profiles, and add their stamps, also if something is wrong with them."""
    own = _stamps([file])
    stamps |= own
    models = configuration.load_models(file)
    paths = (path for model in models for path in (model.profile, *model.profiles.values()) if path is not None)
    own |= _stamps(map(Path, paths))
    stamps |= own
    return FilePart(load_part(file, models), own)


def _keep(
    file: Path, older: Mapping[Path, FilePart], names: ModelNames, parts: dict[Path, FilePart]
) -> tuple[str, ...]:
    """Keep the models of a file's last valid version in use, unless their names are taken now; return their names."""
    if file not in older:
        return ()
    try:
        names.add(older[file].part.models, str(file))
    except ConfigError:
        return ()
    parts[file] = older[file]
    return tuple(model.name for model in older[file].part.models)


def _monitors(models: Iterable[ModelConfig], own: Part, parts: Mapping[Path, FilePart]) -> MonitorRegistry:
    every = [own, *(part for part, _ in parts.values())]
    return MonitorRegistry(
        {model.name: model for model in models},
        dict(chain.from_iterable(part.binners.items() for part in every)),
        dict(chain.from_iterable(part.version_binners.items() for part in every)),
    )


def _stamps(paths: Iterable[Path]) -> dict[Path, Stamp]:
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
