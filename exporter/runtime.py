"""One exporter: its configuration, state and threads, from start to end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

from exporter import config as configuration
from exporter import system
from exporter.binning import Layout
from exporter.config import Config, ModelConfig
from exporter.errors import ConfigError, ProfileError, StoreError
from exporter.health import Health
from exporter.images import image_inputs
from exporter.keeper import Keeper, restore
from exporter.metrics import Exposition
from exporter.monitors import Monitors
from exporter.pipeline import Pipeline, as_stored, decode_inputs
from exporter.profile import CategoricalFeature, Profile
from exporter.profile import load as load_profile
from exporter.store import Store, Verdict
from exporter.store.engine import check_store, check_url, is_shared
from exporter.trend import Trends
from exporter.validation import shown, suggestion
from exporter.wire.pairs import Pairs

log = logging.getLogger(__name__)


def read(path: Path) -> tuple[Config, Monitors]:
    """Read the configuration and the profiles that it names.

    Raises
    ------
    ConfigError
        When any of them is wrong.
    """
    config = configuration.load(path)
    try:
        check_store(config.store)
    except StoreError as error:
        raise ConfigError(f"{path}: {error}") from None
    layouts: dict[str, Layout] = {}
    of_versions: dict[tuple[str, str], Layout] = {}
    for index, model in enumerate(config.models):
        place = f"{path}: models[{index}]"
        profiles = _profiles(place, model)
        if not profiles:
            if model.segment_by is not None:
                raise ConfigError(f"{place}.segment_by: needs a profile, which knows the categories")
            continue
        _check_features(place, model, profiles)
        for version, (file, profile) in profiles.items():
            _check_segments(f"{place}.segment_by", model, profile, file)
            if version is None:
                layouts[model.name] = Layout(profile, model.redact)
            else:
                of_versions[model.name, version] = Layout(profile, model.redact)
    return config, Monitors({model.name: model for model in config.models}, layouts, of_versions)


def _profiles(place: str, model: ModelConfig) -> dict[str | None, tuple[str, Profile]]:
    """The file and the profile of each version that has its own, and under None those of all other versions."""
    files: list[tuple[str | None, str, str]] = [(v, f"profiles.{v}", file) for v, file in model.profiles.items()]
    if model.profile is not None:
        files.insert(0, (None, "profile", model.profile))
    found: dict[str | None, tuple[str, Profile]] = {}
    for version, key, file in files:
        try:
            found[version] = file, load_profile(Path(file))
        except ProfileError as error:
            raise ConfigError(f"{place}.{key}: {error}") from None
    return found


def _check_features(place: str, model: ModelConfig, profiles: dict[str | None, tuple[str, Profile]]) -> None:
    """Refuse settings of features that no profile knows, or knows as something else."""
    files = ", ".join(file for file, _ in profiles.values())
    known = {name for _, profile in profiles.values() for name in (*profile.inputs, *profile.features)}
    features = {name for _, profile in profiles.values() for name in profile.features}
    for name, feature in model.features.items():
        here = f"{place}.features.{name}"
        if name not in known:
            raise ConfigError(f"{here}: is not in the profile {files}; {suggestion(name, known)}")
        for _, profile in profiles.values():
            found = profile.inputs.get(name)
            if feature.type and found and feature.type != found:
                raise ConfigError(
                    f"{here}.type: the profile has it as {found}; profile it anew with --type {name}={feature.type}"
                )
        if feature.alerts and not {name, *(key for key in features if key.startswith(f"{name}."))} & features:
            raise ConfigError(f"{here}.alerts: the profile has no statistics of it")
    for name in sorted(model.redact.difference(*(profile.inputs for _, profile in profiles.values()))):
        log.warning("%s.redact: the profile knows no input %r", place, name)


def _check_segments(place: str, model: ModelConfig, profile: Profile, file: str) -> None:
    name = model.segment_by
    if name is None:
        return
    categorical = {n for n in profile.inputs if isinstance(profile.features.get(n), CategoricalFeature)}
    if name not in categorical:
        known = suggestion(name, categorical)
        raise ConfigError(f"{place}: {shown(name)} is no categorical input of the profile {file}; {known}")
    if name in model.redact:
        raise ConfigError(f"{place}: {shown(name)} is redacted: it must be in no metric")


class Exporter:
    """Everything that lives as long as the process.

    Parameters
    ----------
    path
        ``exporter.yml``.

    Attributes
    ----------
    last_scrape : float or None
        When `metrics` was asked last, by the monotonic clock in seconds; None: never.

    Raises
    ------
    ConfigError
        When the configuration or a profile is wrong.
    StoreError
        When the database cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reloading = threading.Lock()
        config, monitors = read(path)
        self.registry = CollectorRegistry(auto_describe=False)
        self.health = Health(self.registry)
        self.store = Store(config.store, self._count_verdict, self.health.store_errors.inc, self.snapshot)
        self.health.damaged.set_function(lambda: self.store.damaged)
        restore(self.store, monitors, time.monotonic(), time.time())
        self.pipeline = Pipeline(config, monitors, self.store, self.health)
        self.exposition = Exposition(
            self.registry, system.collectors(_disks(config)), lambda: self.pipeline.monitors, self.store
        )
        self.trends = Trends()
        self.pairs = Pairs()
        self.registry.register(self.pairs)
        self._keeper = Keeper(self.store, lambda: self.pipeline.monitors)
        self._keeper.start()
        self.health.reload_successful.set(1)
        self.health.reload_time.set(time.time())
        self.ready = True
        self.last_scrape: float | None = None
        self.reloaders: list[Callable[[], None]] = []
        for model in config.models:
            if not monitors.layouts_of(model.name):
                log.warning("model %r has no profile: its inputs are not watched", model.name)

    @property
    def config(self) -> Config:
        """The configuration now."""
        return self.pipeline.config

    def reload(self) -> None:
        """Read the configuration again; the old one stays where the new one is wrong.

        Models that did not change keep their counters and windows. The store is opened once:
        a changed ``store`` needs a restart.

        Raises
        ------
        ConfigError
            What is wrong with the new one.
        """
        with self._reloading:
            try:
                config, monitors = read(self._path)
                if config.store != self.config.store:
                    raise ConfigError(f"{self._path}: store: a change needs a restart")
                for reloader in self.reloaders:
                    reloader()
            except Exception as error:  # whatever it was: the metric must not go on saying that all is well
                self.health.reload_successful.set(0)
                log.error("reload: %s", error)
                raise
            monitors.adopt(self.pipeline.monitors)
            self.pipeline.reconfigure(config, monitors)
            self.health.reload_successful.set(1)
            self.health.reload_time.set(time.time())
            log.info("configuration reloaded from %s", self._path)

    @property
    def alive(self) -> bool:
        """Whether the threads that everything depends on live."""
        return self.pipeline.alive and self.store.alive

    def metrics(self, accept: str, names: list[str]) -> tuple[bytes, str]:
        """The exposition, what was acknowledged before included but under overload; see `Exposition.render`."""
        if not self.pipeline.crowded:
            self.pipeline.settle(0.5)
        self.last_scrape = time.monotonic()
        self.trends.sample(self.pipeline.monitors, self.last_scrape)
        return self.exposition.render(accept, names)

    def close(self) -> None:
        """Count and write what waits, within bounds, and end the threads."""
        self.ready = False
        self.pipeline.close()
        self._keeper.close()
        if not self.store.close():
            log.error("%d predictions that waited for the database are lost", self.store.waiting)

    def snapshot(self, name: str, inputs: str | None) -> str | None:
        """What feedback keeps of its prediction's inputs: nothing redacted, and images as PNG."""
        monitors = self.pipeline.monitors
        model, layout = monitors.models.get(name), monitors.nearest(name)
        if not inputs or model is None:
            return inputs
        images = image_inputs(model, layout.profile if layout else None)
        raw = [inputs.encode()]
        return as_stored(raw, decode_inputs(raw), model.redact, images)[0].decode() or None

    def _count_verdict(self, verdict: Verdict) -> None:
        monitors = self.pipeline.monitors
        if verdict.model in monitors.models:
            monitor = monitors.get(verdict.model, verdict.version, time.monotonic())
            monitor.count_feedback(verdict.verdict, verdict.correction, verdict.segment, verdict.delay)


def _disks(config: Config) -> list[Path]:
    database = check_url(config.store.url)
    if is_shared(database) or not (database.database or "").startswith("/"):
        return [Path("/")]
    return [Path("/"), Path(database.database or "/")]
