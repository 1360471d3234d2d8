"""Load ``exporter.yml`` into frozen, typed objects.

Every default is here and nowhere else. Unknown keys are refused, and every message names the file, the path of the key,
what is wrong with it and what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar, get_args

import msgspec

from exporter.errors import ConfigError
from exporter.features.types import INPUT_TYPES
from exporter.objectives import OBJECTIVE_ALERTS, LatencyObjective, Objectives, check_bound, check_share
from exporter.stats.tolerance import Tolerance
from exporter.validation import (
    KeyPath,
    convert,
    format_path,
    parse_duration,
    parse_size,
    parse_tolerance,
    preview,
    suggestion,
)
from exporter.yaml_file import load_yaml


class Threshold(NamedTuple):
    """The threshold of an alert.

    Attributes
    ----------
    default
        Value where the configuration sets none, in the unit of the documentation: seconds, nats, a share.
        `tests/bundle/test_thresholds.py` compares it with the rules, the documentation and the runbooks.
    per_feature
        Whether a feature may set its own.
    """

    default: float
    per_feature: bool = False


DEFAULT_CONFIDENCE_THRESHOLD = 0.8

THRESHOLDS = {
    "ModelAccuracyLow": Threshold(0.05),
    "ModelAttemptsDrop": Threshold(0.5),
    "ModelConfidenceDrift": Threshold(0.3),
    "ModelConfidentRatioLow": Threshold(0.8),
    "ModelCorrectionRatioHigh": Threshold(0.01),
    "ModelErrorRatioHigh": Threshold(0.01),
    "ModelFeatureChanged": Threshold(0.3, per_feature=True),
    "ModelFeatureDrift": Threshold(0.3, per_feature=True),
    "ModelFeatureMeanShift": Threshold(1.0, per_feature=True),
    "ModelFeatureMissing": Threshold(0.05, per_feature=True),
    "ModelLatencyHigh": Threshold(0.5),
    "ModelPredictionDrift": Threshold(0.3),
    "ModelReviewBacklog": Threshold(86400.0),
}
"""The alerts whose threshold can be set, for a model and some for a feature."""
FEATURE_ALERTS = tuple(name for name, threshold in THRESHOLDS.items() if threshold.per_feature)
MODEL_ALERTS = tuple(THRESHOLDS)

Distance = Literal["js", "ks", "psi", "wasserstein"]
DISTANCES: tuple[str, ...] = get_args(Distance)
"""Distances from training beside the KL divergence, computed where ``drift`` names them."""
Task = Literal["classification", "regression"]
TASKS: tuple[str, ...] = get_args(Task)
"""What a model does: its predictions are classes or numbers."""

OTHER_SEGMENT = "other"
"""The segment of all values that have no segment of their own."""
SHORTEST_WINDOW, LONGEST_WINDOW = 10, 31 * 86400
"""Length of a window in seconds."""
SHORTEST_INTERVAL, LONGEST_INTERVAL = 3600, 3650 * 86400
"""Time with one false alarm, in seconds."""

_T = TypeVar("_T")
_V = TypeVar("_V")
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class FeatureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one input of a model; ``type`` is one of `exporter.features.types.INPUT_TYPES`."""

    type: str | None = None
    alerts: dict[str, float] = {}


class MappingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the tensors and columns of another server map to a model's inputs and outputs."""

    names: tuple[_Name, ...] = ()
    batched: bool = True
    inputs: dict[str, _Name | tuple[_Name, ...] | None] = {}
    prediction: _Name | None = None
    confidence: _Name | None = None
    labels: tuple[Annotated[str, msgspec.Meta(max_length=1000)] | int | bool, ...] = ()


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one model. Paths of profiles are absolute once loaded; ``windows`` keep their spelling."""

    name: _Name
    profile: str | None = None
    profiles: Annotated[dict[_Name, str], msgspec.Meta(max_length=1000)] = {}
    confidence_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    correction_tolerance: float | str = 0.0
    task: Task | None = None
    windows: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=8)] = ("5m", "1h")
    quality_windows: Annotated[tuple[str, ...], msgspec.Meta(max_length=8)] = ("1d", "7d")
    drift: tuple[Distance, ...] = ()
    drift_false_alarm_interval: str = "30d"
    redact: frozenset[str] = frozenset()
    segment_by: _Name | None = None
    segments: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=50)] = ()
    features: dict[str, FeatureConfig] = {}
    alerts: dict[str, float] = {}
    objectives: Objectives | None = None
    events: tuple[_Name, ...] = ()
    max_versions: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    mapping: MappingConfig = MappingConfig()

    def confident_from(self) -> float:
        """Return the confidence from which a prediction counts as confident."""
        return DEFAULT_CONFIDENCE_THRESHOLD if self.confidence_threshold is None else self.confidence_threshold

    def tolerance(self) -> Tolerance:
        """Return how far a corrected number may be from the prediction and still accept it."""
        return parse_tolerance(self.correction_tolerance)

    def window_seconds(self) -> dict[str, float]:
        """Return the lengths of the windows in seconds by their spelling, shortest first."""
        return _by_length(self.windows)

    def quality_window_seconds(self) -> dict[str, float]:
        """Return the lengths of the windows of the measured quality: those of `window_seconds` and further ones."""
        return _by_length((*self.windows, *self.quality_windows))

    def false_alarm_seconds(self) -> float:
        """Return the time in which ModelFeaturesDrifted may have one false alarm, in seconds."""
        return parse_duration(self.drift_false_alarm_interval)

    def threshold(self, alert: str, feature: str | None = None) -> float:
        """Return the threshold of an alert, as the rules have it.

        It is that of the feature, else of the input that the feature is a statistic of, else of the model, else the
        default.
        """
        if feature is not None:
            settings = self.features.get(feature)
            if settings is None:
                settings = next((s for name, s in self.features.items() if feature.startswith(f"{name}.")), None)
            if settings and alert in settings.alerts:
                return settings.alerts[alert]
        return self.alerts.get(alert, THRESHOLDS[alert].default)


def _by_length(windows: Iterable[str]) -> dict[str, float]:
    return dict(sorted(((window, parse_duration(window)) for window in windows), key=lambda item: item[1]))


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where predictions and feedback are stored, and for how long; ``password_file`` is absolute once loaded."""

    url: str = "sqlite:///data/model-exporter.db"
    retention: str = "30d"
    inputs: str = "all"
    max_size: str | None = None
    password_file: str | None = None
    replica: _Name | None = None


class LinksConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Addresses that the home page links to; None means no link. Alerts link to the dashboards of ``grafana``."""

    prometheus: str | None = None
    alertmanager: str | None = None
    grafana: str | None = None


class QueueConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the queue in memory."""

    capacity: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 100_000


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of ``exporter.yml``."""

    models: Annotated[tuple[ModelConfig, ...], msgspec.Meta(min_length=1)]
    external_url: str | None = None
    prometheus_url: str | None = None
    store: StoreConfig = StoreConfig()
    links: LinksConfig = LinksConfig()
    queue: QueueConfig = QueueConfig()


def sampled_share(inputs: str) -> float | None:
    """Return the share of the policy ``sampled:0.1``; None for another policy.

    Raises
    ------
    ValueError
        When it is none of ``all``, ``confident``, ``none`` and ``sampled:`` with a share from 0 to 1.
    """
    if inputs in {"all", "confident", "none"}:
        return None
    share = re.fullmatch(r"sampled:(0?\.\d+|0|1|1\.0*)", inputs)
    if not share:
        raise ValueError(f"expected all, confident, none or sampled:SHARE such as sampled:0.1, got {preview(inputs)}")
    return float(share[1])


class _InvalidError(Exception):
    """A value is invalid: the path of its key, and what is wrong with it."""

    def __init__(self, path: KeyPath, detail: str) -> None:
        super().__init__(f"{format_path(path)}: {detail}")


def _refuse(path: KeyPath, detail: str) -> NoReturn:
    raise _InvalidError(path, detail)


def _entries(document: dict[str, Any], key: str) -> Iterator[tuple[int, Any]]:
    """The entries of a list with their indices; of anything else none, since `convert` refuses it."""
    value = document.get(key)
    yield from enumerate(value if isinstance(value, list) else ())


def _mapping(document: dict[str, Any], key: str) -> dict[Any, Any]:
    """The mapping below a key; an empty one for anything else, since `convert` refuses it."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _check_document(document: Any, where: str) -> Any:
    """Check what msgspec cannot: keys of mappings, durations, duplicates, and keys that depend on each other."""
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: expected keys such as models: and store:, got {preview(document)}")
    models = {("models", index): model for index, model in _entries(document, "models") if isinstance(model, dict)}
    try:
        _check_names(models)
        for path, model in models.items():
            _check_features(path, model, where)
            _check_alerts(path, model, MODEL_ALERTS)
            _check_objectives(path, model, where)
            _check_segments(path, model)
            _check_distances(path, model)
            _check_false_alarm_interval(path, model)
            _check_task(path, model)
            _check_windows(path, model, "windows")
            _check_windows(path, model, "quality_windows")
            if (tolerance := model.get("correction_tolerance")) is not None:
                _parse(parse_tolerance, tolerance, (*path, "correction_tolerance"))
        _check_mapped_names(models)
        _check_url(document.get("external_url"), ("external_url",))
        _check_url(document.get("prometheus_url"), ("prometheus_url",), _PROMETHEUS_PASSWORD, "http://127.0.0.1:9090")
        for name, example in _LINK_EXAMPLES.items():
            _check_url(_mapping(document, "links").get(name), ("links", name), example=example)
        _check_store(_mapping(document, "store"))
    except _InvalidError as error:
        raise ConfigError(f"{where}: {error}") from None
    return document


_Models = dict[tuple[str, int], dict[str, Any]]


def _check_names(models: _Models) -> None:
    seen: set[str] = set()
    for path, model in models.items():
        name = model.get("name")
        if not isinstance(name, str):
            continue
        if name in seen:
            _refuse((*path, "name"), f"{preview(name)} is duplicated; every model needs a name of its own")
        if "`" in name:
            _refuse((*path, "name"), f"{preview(name)} has a backtick, which quotes names in the dashboards' queries")
        seen.add(name)


def _check_features(path: KeyPath, model: dict[str, Any], where: str) -> None:
    for name, settings in _mapping(model, "features").items():
        key = (*path, "features", str(name))
        if isinstance(settings, dict):
            kind = settings.get("type")
            if isinstance(kind, str) and kind not in INPUT_TYPES:
                _refuse((*key, "type"), f"{preview(kind)} is not a valid input type; {suggestion(kind, INPUT_TYPES)}")
            _check_alerts(key, settings, FEATURE_ALERTS)
        convert(settings, FeatureConfig, where, key)


def _check_alerts(path: KeyPath, settings: dict[str, Any], valid: tuple[str, ...]) -> None:
    for name, value in _mapping(settings, "alerts").items():
        key = (*path, "alerts", str(name))
        if name in OBJECTIVE_ALERTS:
            _refuse(key, f"its threshold is an objective of the model: write {OBJECTIVE_ALERTS[name]} in place of it")
        if name not in valid:
            _refuse(key, f"is not an alert whose threshold can be set here; {suggestion(str(name), valid)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            _refuse(key, f"expected a number of at least 0, got {preview(value)}")


def _check_objectives(path: KeyPath, model: dict[str, Any], where: str) -> None:
    key = (*path, "objectives")
    if (objectives := model.get("objectives")) is None:
        return
    if not isinstance(objectives, dict):
        _refuse(key, f"expected a mapping such as {{errors: 0.999}}, got {preview(objectives)}")
    if "errors" in objectives:
        _parse(check_share, objectives["errors"], (*key, "errors"))
    latency, key = objectives.get("latency"), (*key, "latency")
    if isinstance(latency, dict):
        for name, check, example in (("below", check_bound, 0.5), ("share", check_share, 0.95)):
            if name not in latency:
                _refuse((*key, name), f"is required, such as {name}: {example}")
            _parse(check, latency[name], (*key, name))
        convert(latency, LatencyObjective, where, key)
    elif latency is not None:
        _refuse(key, f"expected a mapping such as {{below: 0.5, share: 0.95}}, got {preview(latency)}")
    convert(objectives, Objectives, where, key[:-1])


def _check_segments(path: KeyPath, model: dict[str, Any]) -> None:
    for index, segment in _entries(model, "segments"):
        if segment == OTHER_SEGMENT:
            _refuse((*path, "segments", index), f"{preview(segment)} is reserved for all other values")
        if segment in model["segments"][:index]:
            _refuse((*path, "segments", index), f"{preview(segment)} is duplicated")
    if model.get("segments") and model.get("segment_by") is None:
        _refuse((*path, "segments"), "needs segment_by, the categorical input that has these values")


def _check_distances(path: KeyPath, model: dict[str, Any]) -> None:
    for index, distance in _entries(model, "drift"):
        if isinstance(distance, str) and distance not in DISTANCES:
            detail = f"{preview(distance)} is not a valid distance; {suggestion(distance, DISTANCES)}"
            _refuse((*path, "drift", index), detail)


def _check_false_alarm_interval(path: KeyPath, model: dict[str, Any]) -> None:
    key, interval = (*path, "drift_false_alarm_interval"), model.get("drift_false_alarm_interval")
    if isinstance(interval, str) or type(interval) is int:
        seconds = _parse(parse_duration, str(interval), key)
        if not SHORTEST_INTERVAL <= seconds <= LONGEST_INTERVAL:
            _refuse(key, f"expected from 1h to 3650d, got {preview(interval)}")


def _check_task(path: KeyPath, model: dict[str, Any]) -> None:
    task = model.get("task")
    if isinstance(task, str) and task not in TASKS:
        _refuse((*path, "task"), f"{preview(task)} is not a valid task; {suggestion(task, TASKS)}")


def _check_windows(path: KeyPath, model: dict[str, Any], name: str) -> None:
    for index, window in _entries(model, name):
        key = (*path, name, index)
        if isinstance(window, str) or type(window) is int:
            seconds = _parse(parse_duration, str(window), key)
            if not SHORTEST_WINDOW <= seconds <= LONGEST_WINDOW:
                _refuse(key, f"expected from 10s to 31d, got {preview(window)}")
        if window in model[name][:index]:
            _refuse(key, f"{preview(window)} is duplicated")


def _check_mapped_names(models: _Models) -> None:
    owners: dict[str, str] = {}
    for path, model in models.items():
        for index, name in _entries(_mapping(model, "mapping"), "names"):
            if not isinstance(name, str):
                continue
            if name in owners:
                detail = f"{preview(name)} is among the mapping.names of {preview(owners[name])} already"
                _refuse((*path, "mapping", "names", index), detail)
            owners[name] = str(model.get("name"))
    names = {name for model in models.values() if isinstance(name := model.get("name"), str)}
    for name, owner in owners.items():
        if name in names and name != owner:
            _refuse(("models",), f"{preview(name)} is a model and among the mapping.names of {preview(owner)}")


_SHOWN = "metrics, alerts and pages show it"
_LINK_EXAMPLES = {
    "prometheus": "https://prometheus.example.org",
    "alertmanager": "https://alertmanager.example.org",
    "grafana": "https://grafana.example.org",
}
_PROMETHEUS_PASSWORD = "set PROMETHEUS_USER and PROMETHEUS_PASSWORD_FILE in the environment"  # noqa: S105 (no password)


def _check_url(url: Any, path: KeyPath, reason: str = _SHOWN, example: str = "https://models.example.org") -> None:
    """Check an address; ``reason`` says why it must not have a user and a password, or what to do instead."""
    if isinstance(url, str) and re.match(r"https?://[^/]*@", url):
        _refuse(path, f"expected a URL without user and password: {reason}")
    if isinstance(url, str) and not re.fullmatch(r"https?://[^\s/?#\"'<>]+(/[^\s?#\"'<>]*)?", url):
        _refuse(path, f"expected a URL such as {example}, got {preview(url)}")


def _check_store(store: dict[str, Any]) -> None:
    checks: dict[str, Callable[[str], object]] = {
        "retention": parse_duration,
        "inputs": sampled_share,
        "max_size": parse_size,
    }
    for key, check in checks.items():
        value = store.get(key)
        if isinstance(value, str) or type(value) is int:
            _parse(check, str(value), ("store", key))


def _parse(parse: Callable[[_V], _T], value: _V, path: KeyPath) -> _T:
    try:
        return parse(value)
    except ValueError as error:
        _refuse(path, str(error))


def load(path: Path) -> Config:
    """Read ``exporter.yml``. Relative paths in it are relative to its folder, as in Prometheus.

    Raises
    ------
    ConfigError
        At the first mistake.
    """
    config = convert(_check_document(load_yaml(path), str(path)), Config, str(path))
    folder = path.absolute().parent
    models = tuple(
        msgspec.structs.replace(
            model,
            profile=str(folder / model.profile) if model.profile else None,
            profiles={version: str(folder / path) for version, path in model.profiles.items()},
        )
        for model in config.models
    )
    url = config.store.url
    if (relative := url.removeprefix("sqlite:///")) != url and not relative.startswith((":", "/")):
        url = f"sqlite:///{folder / relative}"
    secret = config.store.password_file
    store = msgspec.structs.replace(config.store, url=url, password_file=str(folder / secret) if secret else None)
    return msgspec.structs.replace(config, models=models, store=store)
