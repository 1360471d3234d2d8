"""Load ``exporter.yml``, and the profiles that the models of a file name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from exporter import config as configuration
from exporter.config import Config, ModelConfig
from exporter.errors import ConfigError, ProfileError, StoreError
from exporter.monitoring.binner import Binner
from exporter.monitoring.outcome import task_of
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
        raise ConfigError(
            f"{where}: the {what} in the profile {file} are those of a {task}; expected {task}, or no task"
        )
