"""The monitors of all models: one for each version, up to ``max_versions`` each."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.quality import LabelNames, Scorer
from exporter.monitoring.snapshots import decode, encode, restore_version
from exporter.validation import preview, suggestion
from exporter.wire.batch import Inputs
from exporter.wire.events import MAX_ID, NO_VERSION
from exporter.wire.otlp import EvaluationResult

log = logging.getLogger(__name__)

OTHER_VERSION = "other"
GAP_SECONDS = 600.0
"""A version serves as long as it has a request at least this often while the other one has requests."""
IDLE_SECONDS = 86400.0
"""A new version may replace one that has not been used for this long."""
MAX_OTHERS = 1000
"""Versions whose traffic is known while they count as other, for each model; those with the most stay."""
MAX_UNKNOWN = 20
"""Inputs outside the profile that are named, for each model."""
_UNKNOWN = "is not in the profile and is not counted"


class MonitorRegistry:
    """The monitors of every model and version, with a bound on versions; safe between threads.

    Parameters
    ----------
    models
        The configured models by name.
    binners
        Binner of each model that has a profile.
    version_binners
        Binners of versions that have their own profile, by model and version.
    windows
        See `ModelMonitor`.

    Attributes
    ----------
    unknown_features
        Number of values received of inputs that are not in the profile, by model.
    unknown_inputs
        What is wrong with the first such inputs, by model and name.
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
        self.unknown_inputs: dict[str, dict[str, str]] = {name: {} for name in models}
        self._evaluations = {name: (LabelNames(), LabelNames()) for name in models}
        self._scorers = {
            (name, binner): Scorer.of_model(model, binner.profile if binner else None)
            for name, model in models.items()
            for binner in (None, *self.binners_of(name))
        }
        self._monitors: dict[str, dict[str, ModelMonitor]] = {name: {} for name in models}
        self._others: dict[str, Counter[str]] = {name: Counter() for name in models}  # traffic by version
        self._lock = threading.Lock()

    def binner(self, model: str, version: str) -> Binner | None:
        """Return the binner of a version's own profile, else of the model's; None without a profile."""
        return self.version_binners.get((model, version)) or self.binners.get(model)

    def scorer(self, model: str, version: str) -> Scorer:
        """Return what compares the predictions of a version with their labels."""
        return self._scorers.get((model, self.binner(model, version))) or Scorer()

    def nearest_binner(self, model: str, version: str | None = None) -> Binner | None:
        """Return the binner of a version, else of another one, which knows the same inputs."""
        return self.binner(model, version or "") or next(iter(self.binners_of(model)), None)

    def binners_of(self, model: str) -> list[Binner]:
        """Return all binners of a model, that of its ``profile`` first."""
        of_versions = [binner for (name, _), binner in self.version_binners.items() if name == model]
        return [*([self.binners[model]] if model in self.binners else []), *of_versions]

    def get(self, model: str, version: str | None, now: float, events: int = 1) -> ModelMonitor:
        """Return the monitor of a configured model's version, for so many events; create it on first use.

        At ``max_versions`` a new version is counted as ``version="other"``, until it has had more than twice the
        traffic of the one with the least, which it then replaces. A version unused for a day has none.
        """
        name, versions = version or NO_VERSION, self._monitors[model]
        if (monitor := versions.get(name)) is None:
            with self._lock:
                name = name if self._has_room(model, name, now, events) else OTHER_VERSION
                if (monitor := versions.get(name)) is None:
                    monitor = ModelMonitor(self.models[model], name, self.binner(model, name), self._windows)
                    versions[name] = monitor
        monitor.last_used = now
        monitor.traffic += events
        return monitor

    def _has_room(self, model: str, name: str, now: float, events: int) -> bool:
        versions, others = self._monitors[model], self._others[model]
        traffic = {key: one.traffic * (now - one.last_used <= IDLE_SECONDS) for key, one in versions.items()}
        traffic.pop(OTHER_VERSION, None)
        if name in {*traffic, OTHER_VERSION} or len(traffic) < self.models[model].max_versions:
            return True
        others[name] += events
        least = min(traffic, key=lambda key: traffic[key])
        if others[name] > 2 * traffic[least]:
            del versions[least], others[name]
            return True
        if len(others) > MAX_OTHERS:
            self._others[model] = Counter(dict(others.most_common(MAX_OTHERS // 2)))
        return False

    def name_unknown(self, model: str, binner: Binner, inputs: Iterable[str]) -> dict[str, str]:
        """Return what is wrong with inputs that are not in a profile; log the first ones of a model once each."""
        named, names = self.unknown_inputs[model], [name[:MAX_ID] for name in inputs]
        for name in names:
            if name not in named and len(named) < MAX_UNKNOWN:
                named[name] = f"{_UNKNOWN}; {suggestion(name, binner.inputs)}"
                log.warning("input %s of model %s %s", preview(name), preview(model), named[name])
        return {name: named.get(name, _UNKNOWN) for name in names}

    def count_unknown(self, monitor: ModelMonitor, inputs: Inputs) -> None:
        """Count and name the inputs that are not in the profile of a monitor."""
        model = monitor.config.name
        self.unknown_features[model] += inputs.unknown
        if monitor.binner and inputs.unknown and len(self.unknown_inputs[model]) < MAX_UNKNOWN:
            names = {name for event in inputs.decoded.values() for name in event} - monitor.binner.known_inputs
            self.name_unknown(model, monitor.binner, sorted(names)[:MAX_UNKNOWN])

    def count_evaluation(self, monitor: ModelMonitor, result: EvaluationResult) -> None:
        """Count an evaluation of a prediction by others; a model has at most 20 names and 20 labels of them."""
        names, labels = self._evaluations[monitor.config.name]
        with self._lock:
            name, scores = names.name(result.name), monitor.counters.scores
            monitor.counters.evaluations[name, labels.name(result.label) if result.label else None] += 1
            if result.score is not None:
                total, count = scores.get(name, (0.0, 0))
                scores[name] = total + result.score, count + 1

    def of_model(self, model: str) -> dict[str, ModelMonitor]:
        """Return the monitors of a configured model by version."""
        return dict(self._monitors[model])

    def put(self, monitor: ModelMonitor) -> None:
        """Add a monitor of a configured model, unless the model has ``max_versions`` already."""
        versions = self._monitors[monitor.config.name]
        with self._lock:
            named = versions.keys() - {OTHER_VERSION}
            if monitor.version == OTHER_VERSION or len(named) < monitor.config.max_versions:
                versions[monitor.version] = monitor

    def __iter__(self) -> Iterator[ModelMonitor]:
        for versions in list(self._monitors.values()):
            yield from list(versions.values())

    def adopt(self, older: MonitorRegistry) -> None:
        """Take over the monitors of models that still count in the same way; thresholds and events may differ.

        A version whose profile was replaced keeps what was measured with labels.
        """
        now, unix_time = time.monotonic(), time.time()
        for name, model in self.models.items():
            before = older.models.get(name)
            if before and _counts_alike(model, before):
                monitors = older._monitors[name]
                same = {v: m for v, m in list(monitors.items()) if _hash(m.binner) == _hash(self.binner(name, v))}
                # If all fit, the mapping itself is taken over: versions that the pipeline adds meanwhile are not lost.
                self._monitors[name] = monitors if len(same) == len(monitors) else same
                for monitor in same.values():
                    monitor.reconfigure(model)
                for version, monitor in list(monitors.items()):
                    if version not in same:
                        fresh = ModelMonitor(model, version, self.binner(name, version), self._windows)
                        data = encode(monitor, now, unix_time)
                        if restore_version(fresh, decode(data, fresh), now, unix_time) is not None:
                            fresh.last_used = monitor.last_used
                            self.put(fresh)
                self._evaluations[name] = older._evaluations[name]
            if name in older.unknown_features:
                self.unknown_features[name] = older.unknown_features[name]


def version_sort_key(version: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts numbers in versions by their value.

    >>> sorted(["10", "v2", "9"], key=version_sort_key)
    ['9', '10', 'v2']
    """
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.findall(r"\d+|\D+", version)]


def serving(monitors: Iterable[ModelMonitor]) -> list[ModelMonitor]:
    """Return the monitors used within `GAP_SECONDS` before the last use of any of them, in their order.

    Of versions that serve at the same time, the one used last is another one at each look.
    """
    found = list(monitors)
    last = max((monitor.last_used for monitor in found), default=0.0)
    return [monitor for monitor in found if monitor.last_used >= last - GAP_SECONDS]


def _hash(binner: Binner | None) -> str | None:
    return binner.profile.known_hash() if binner else None


_PRESENTED = {"alerts", "metrics", "drift_false_alarm_interval", "features", "events", "confidence_threshold"}
_PRESENTED |= {"correction_tolerance", "max_versions", "profile", "profiles", "mapping"}


def _counts_alike(model: ModelConfig, other: ModelConfig) -> bool:
    """Return whether windows and counters of one configuration are valid for the other."""
    counted = set(ModelConfig.__struct_fields__) - _PRESENTED
    return all(getattr(model, name) == getattr(other, name) for name in counted)
