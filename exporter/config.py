"""``exporter.yml`` as frozen, typed objects.

Every default lives here and nowhere else. Unknown keys are refused, and every message names the
file, the path of the key, what is wrong with it and what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from exporter.errors import ConfigError
from exporter.validation import KeyPath, convert, format_path, load_yaml, preview, suggestion

FEATURE_ALERTS = ("ModelFeatureChanged", "ModelFeatureDrift", "ModelFeatureMeanShift", "ModelFeatureMissing")
"""Alerts whose threshold a feature may set for itself."""
MODEL_ALERTS = (
    *FEATURE_ALERTS,
    "ModelAttemptsDrop",
    "ModelConfidenceDrift",
    "ModelConfidentRatioLow",
    "ModelCorrectionRatioHigh",
    "ModelErrorRatioHigh",
    "ModelLatencyHigh",
    "ModelPredictionDrift",
    "ModelReviewBacklog",
)
"""Alerts whose threshold a model may set."""
DISTANCES = ("js", "ks", "psi", "wasserstein")
"""Distances from training beside the KL divergence, computed where ``drift`` names them."""

OTHER_SEGMENT = "other"
"""The segment of every value that has none of its own."""
FeatureType = Literal["boolean", "categorical", "embedding", "image", "numeric", "text", "timestamp"]
FEATURE_TYPES: tuple[str, ...] = get_args(FeatureType)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_BYTES = {f"{prefix}{unit}": base ** (power + 1)
          for power, prefix in enumerate("KMGT") for unit, base in (("iB", 1024), ("B", 1000))}  # fmt: skip
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class FeatureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input of a model."""

    type: FeatureType | None = None
    alerts: dict[str, float] = {}


class MappingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What another server's tensors and columns are to a model."""

    names: tuple[_Name, ...] = ()
    batched: bool = True
    inputs: dict[str, _Name | tuple[_Name, ...] | None] = {}
    prediction: _Name | None = None
    confidence: _Name | None = None
    labels: tuple[Annotated[str, msgspec.Meta(max_length=1000)] | int | bool, ...] = ()


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model; paths of profiles are absolute once loaded, ``windows`` keep their spelling."""

    name: _Name
    profile: str | None = None
    profiles: Annotated[dict[_Name, str], msgspec.Meta(max_length=1000)] = {}
    confidence_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.8
    windows: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=8)] = ("5m", "1h")
    drift: tuple[Literal["js", "ks", "psi", "wasserstein"], ...] = ()
    redact: frozenset[str] = frozenset()
    segment_by: _Name | None = None
    segments: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=50)] = ()
    features: dict[str, FeatureConfig] = {}
    alerts: dict[str, float] = {}
    events: tuple[_Name, ...] = ()
    max_versions: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    mapping: MappingConfig = MappingConfig()

    def window_seconds(self) -> dict[str, float]:
        """Window lengths in seconds by their spelling, shortest first."""
        return dict(sorted(((w, parse_duration(w)) for w in self.windows), key=lambda item: item[1]))


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where predictions and feedback are kept, and how much of them; ``password_file`` is absolute once loaded."""

    url: str = "sqlite:///data/model-exporter.db"
    retention: str = "30d"
    inputs: str = "all"
    max_size: str | None = None
    password_file: str | None = None
    replica: _Name | None = None


class LinksConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Addresses that the home page links to; the defaults are those of ``make up``, null is no link."""

    prometheus: str | None = "http://127.0.0.1:9090"
    alertmanager: str | None = "http://127.0.0.1:9093"
    grafana: str | None = None


class QueueConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of what waits in memory."""

    capacity: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 100_000


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of ``exporter.yml``."""

    models: Annotated[tuple[ModelConfig, ...], msgspec.Meta(min_length=1)]
    store: StoreConfig = StoreConfig()
    links: LinksConfig = LinksConfig()
    queue: QueueConfig = QueueConfig()


def parse_duration(text: str) -> float:
    """Seconds in a duration as Prometheus spells it.

    >>> parse_duration("1h30m")
    5400.0

    Raises
    ------
    ValueError
        When the text is no such duration, or is zero.
    """
    parts = re.findall(r"(\d+)([smhdwy])", text)
    if not parts or "".join(n + u for n, u in parts) != text or not any(int(n) for n, _ in parts):
        raise ValueError(f"expected a duration such as 5m or 1h, got {preview(text)}")
    return float(sum(int(number) * _UNITS[unit] for number, unit in parts))


def parse_size(text: str) -> int:
    """Bytes in a size with its unit.

    >>> parse_size("1.5GiB"), parse_size("200 MB")
    (1610612736, 200000000)

    Raises
    ------
    ValueError
        When the text is no such size, or is zero.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i?B)", text)
    size = int(float(found[1]) * _BYTES[found[2]]) if found else 0
    if not size:
        raise ValueError(f"expected a size such as 10GiB or 500MB, got {preview(text)}{_unit_hint(text)}")
    return size


def _unit_hint(text: str) -> str:
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not parts or not float(parts[1]):
        return ""
    return f'; did you mean "{parts[1]}{parts[2].upper() or "G"}{parts[3] if parts[2] else "i"}B"?'


def sampled_share(inputs: str) -> float | None:
    """The share in ``sampled:0.1``; None when it is another policy.

    Raises
    ------
    ValueError
        When it is neither ``all``, ``confident``, ``none`` nor a sampled share from 0 to 1.
    """
    if inputs in {"all", "confident", "none"}:
        return None
    share = re.fullmatch(r"sampled:(0?\.\d+|0|1|1\.0*)", inputs)
    if not share:
        raise ValueError(f"expected all, confident, none or sampled:SHARE such as sampled:0.1, got {preview(inputs)}")
    return float(share[1])


def _alerts(model: KeyPath, alerts: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(alerts, dict):
        return  # convert() says so
    for name, value in alerts.items():
        path = format_path((*model, "alerts", str(name)))
        if name not in known:
            raise ConfigError(f"{where}: {path}: is not an alert with a threshold here; {suggestion(str(name), known)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ConfigError(f"{where}: {path}: expected a number of at least 0, got {preview(value)}")


def _checked(document: Any, where: str) -> Any:
    """What msgspec cannot say by itself: keys inside maps, durations, names that stand twice."""

    def refuse(path: KeyPath, detail: str) -> None:
        raise ConfigError(f"{where}: {format_path(path)}: {detail}")

    if not isinstance(document, dict):
        raise ConfigError(f"{where}: expected keys such as models: and store:, got {preview(document)}")
    models = document.get("models")
    names: set[str] = set()
    others: dict[str, str] = {}
    for index, model in enumerate(models if isinstance(models, list) else []):
        if not isinstance(model, dict):
            continue
        at: KeyPath = ("models", index)
        if isinstance(name := model.get("name"), str):
            if name in names:
                refuse((*at, "name"), f"{preview(name)} stands twice; every model needs a name of its own")
            if "`" in name:
                refuse(
                    (*at, "name"),
                    f"{preview(name)} has a backtick, between which the dashboards' queries put names",
                )
            names.add(name)
        features = model.get("features")
        for feature, settings in (features if isinstance(features, dict) else {}).items():
            place = (*at, "features", str(feature))
            kinds = settings.get("type") if isinstance(settings, dict) else None
            if isinstance(kinds, str) and kinds not in FEATURE_TYPES:
                refuse((*place, "type"), f"{preview(kinds)} is no feature type; {suggestion(kinds, FEATURE_TYPES)}")
            if isinstance(settings, dict):
                _alerts(place, settings.get("alerts", {}), FEATURE_ALERTS, where)
            convert(settings, FeatureConfig, where, place)
        _alerts(at, model.get("alerts", {}), MODEL_ALERTS, where)
        mapping = model.get("mapping")
        called = mapping.get("names") if isinstance(mapping, dict) else None
        for number, other in enumerate(called if isinstance(called, list) else []):
            if isinstance(other, str) and other in others:
                refuse((*at, "mapping", "names", number), f"{preview(other)} is {preview(others[other])} already")
            others[str(other)] = str(name)
        for number, segment in enumerate(g if isinstance(g := model.get("segments"), list) else []):
            if segment == OTHER_SEGMENT:
                refuse((*at, "segments", number), f"{preview(segment)} is the name of all other values' segment")
            if segment in model["segments"][:number]:
                refuse((*at, "segments", number), f"{preview(segment)} stands twice")
        if model.get("segments") and model.get("segment_by") is None:
            refuse((*at, "segments"), "needs segment_by, the categorical input whose values these are")
        for number, distance in enumerate(d if isinstance(d := model.get("drift"), list) else []):
            if isinstance(distance, str) and distance not in DISTANCES:
                refuse(
                    (*at, "drift", number),
                    f"{preview(distance)} is no distance; {suggestion(distance, DISTANCES)}",
                )
        for number, window in enumerate(w if isinstance(w := model.get("windows"), list) else []):
            try:
                seconds = parse_duration(window) if isinstance(window, str) else 0
            except ValueError as error:
                refuse((*at, "windows", number), str(error))
            if isinstance(window, str) and not 10 <= seconds <= 31 * 86400:
                refuse((*at, "windows", number), f"expected from 10s to 31d, got {preview(window)}")
            if window in model["windows"][:number]:
                refuse((*at, "windows", number), f"{preview(window)} stands twice")
    for other, name in others.items():
        if other in names and other != name:
            refuse(("models",), f"{preview(other)} is a model and among the mapping.names of {preview(name)}")
    store = document.get("store")
    if isinstance(store, dict):
        checks: tuple[tuple[str, Callable[[str], object]], ...]
        checks = (("retention", parse_duration), ("inputs", sampled_share), ("max_size", parse_size))
        for key, check in checks:
            if isinstance(value := store.get(key), str) or (key == "max_size" and type(value) is int):
                try:
                    check(str(value))
                except ValueError as error:
                    refuse(("store", key), str(error))
    return document


def load(path: Path) -> Config:
    """Read ``exporter.yml``; relative paths in it are relative to its folder, as in Prometheus.

    Raises
    ------
    ConfigError
        At the first thing that is wrong.
    """
    config = convert(_checked(load_yaml(path), str(path)), Config, str(path))
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
