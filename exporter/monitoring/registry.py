"""The monitors of all models: one for each version, as many as the cap allows."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import msgspec

from exporter.config import MappingConfig, ModelConfig
from exporter.events import NO_VERSION
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor

OTHER_VERSION = "other"
IDLE_SECONDS = 86400.0
"""A version unused for so long makes room for a new one."""


class MonitorRegistry:
    """The monitors of every model and version, versions capped; safe between threads.

    Parameters
    ----------
    models
        The configured models by name.
    binners
        The binner of each model that has a profile.
    version_binners
        The binners of versions that have a profile of their own, by model and version.
    windows
        See `ModelMonitor`.
    """

    def __init__(
        self,
        models: Mapping[str, ModelConfig],
        binners: Mapping[str, Binner],
        version_binners: Mapping[tuple[str, str], Binner] = MappingProxyType({}),
        windows: Mapping[str, float] | None = None,
    ) -> None:
        self.models = models
        self.binners = binners
        self.version_binners = version_binners
        self._windows = windows
        self.unknown_features: Counter[str] = Counter(dict.fromkeys(models, 0))
        self._monitors: dict[str, dict[str, ModelMonitor]] = {name: {} for name in models}
        self._lock = threading.Lock()

    def binner(self, model: str, version: str) -> Binner | None:
        """Where the bins of a version lie: by its own profile, else by the model's, if there is one."""
        return self.version_binners.get((model, version)) or self.binners.get(model)

    def nearest_binner(self, model: str, version: str | None = None) -> Binner | None:
        """The binner of a version, or of another one where it has none: what inputs are, not how they are counted."""
        return self.binner(model, version or "") or next(iter(self.binners_of(model)), None)

    def binners_of(self, model: str) -> list[Binner]:
        """All binners of a model, the one of most versions first."""
        own = [binner for (name, _), binner in self.version_binners.items() if name == model]
        return [*([self.binners[model]] if model in self.binners else []), *own]

    def get(self, model: str, version: str | None, now: float) -> ModelMonitor:
        """The monitor of a configured model's version, made on first use.

        Past the cap, a version unused for a day makes room; else what is new is counted as
        ``version="other"``.
        """
        name = version or NO_VERSION
        versions = self._monitors[model]
        if monitor := versions.get(name):
            monitor.last_used = now
            return monitor
        with self._lock:
            named = {key: monitor for key, monitor in versions.items() if key != OTHER_VERSION}
            if name not in versions and len(named) >= self.models[model].max_versions:
                oldest = min(named, key=lambda key: named[key].last_used)
                if now - named[oldest].last_used > IDLE_SECONDS:
                    del versions[oldest]
                else:
                    name = OTHER_VERSION
            if name not in versions:
                monitor = ModelMonitor(self.models[model], name, self.binner(model, name), self._windows)
                monitor.last_used = now
                versions[name] = monitor
            return versions[name]

    def put(self, monitor: ModelMonitor) -> None:
        """Take a monitor of a configured model that was made elsewhere, if its version is within the cap."""
        versions = self._monitors[monitor.config.name]
        with self._lock:
            named = versions.keys() - {OTHER_VERSION}
            if monitor.version == OTHER_VERSION or len(named) < monitor.config.max_versions:
                versions[monitor.version] = monitor

    def __iter__(self) -> Iterator[ModelMonitor]:
        for versions in list(self._monitors.values()):
            yield from list(versions.values())

    def adopt(self, older: MonitorRegistry) -> None:
        """Keep the state of models that count as before; thresholds and events may have changed."""
        for name, model in self.models.items():
            before = older.models.get(name)
            if before and _counts_alike(model, before):
                monitors = older._monitors[name]
                same = {v: m for v, m in list(monitors.items()) if _hash(m.binner) == _hash(self.binner(name, v))}
                # Taken over as it is where all are: what the pipeline meanwhile adds to it is then not lost.
                self._monitors[name] = monitors if len(same) == len(monitors) else same
                for monitor in same.values():
                    monitor.reconfigure(model)
            if name in older.unknown_features:
                self.unknown_features[name] = older.unknown_features[name]


def _hash(binner: Binner | None) -> str | None:
    return (binner.profile.hash or binner.profile.digest()) if binner else None


def _counts_alike(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether windows and counters of one configuration are right for the other."""

    def counted(model: ModelConfig) -> ModelConfig:
        return msgspec.structs.replace(
            model,
            alerts={},
            drift=(),
            features={},
            events=(),
            confidence_threshold=0.0,
            max_versions=1,
            profile=None,
            profiles={},
            mapping=MappingConfig(),
        )

    return counted(one) == counted(other)
