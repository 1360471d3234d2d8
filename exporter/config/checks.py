"""Check what the types of `exporter.yml` cannot: names, durations, duplicates, and keys that depend on each other."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from exporter.config.margins import check_margin
from exporter.config.objectives import OBJECTIVE_ALERTS, LatencyObjective, Objectives, check_bound, check_share
from exporter.config.thresholds import FEATURE_ALERTS, MODEL_ALERTS
from exporter.config.types import DISTANCES, OTHER_SEGMENT, TASKS, FeatureConfig, sampled_share
from exporter.errors import ConfigError
from exporter.features.types import INPUT_TYPES
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

SHORTEST_WINDOW, LONGEST_WINDOW = 10, 31 * 86400
"""Length of a window in seconds."""
INTERVAL = ("1h", "3650d")
"""The shortest and the longest time with one false alarm, or between two requests for retraining."""
LEASE = ("10s", "1d")
"""The shortest and the longest time for which a correction is given to one reviewer."""
RETRAIN_EXAMPLE = "https://trainer.example.org/retrain"

_T = TypeVar("_T")
_V = TypeVar("_V")


class InvalidKeyError(Exception):
    """A value is invalid: the path of its key, and what is wrong with it."""

    def __init__(self, path: KeyPath, detail: str) -> None:
        super().__init__(f"{format_path(path)}: {detail}")


def _refuse(path: KeyPath, detail: str) -> NoReturn:
    raise InvalidKeyError(path, detail)


def _entries(document: dict[str, Any], key: str) -> Iterator[tuple[int, Any]]:
    """The entries of a list with their indices; of anything else none, since `convert` refuses it."""
    value = document.get(key)
    yield from enumerate(value if isinstance(value, list) else ())


def _mapping(document: dict[str, Any], key: str) -> dict[Any, Any]:
    """The mapping below a key; an empty one for anything else, since `convert` refuses it."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def check_document(document: Any, where: str) -> Any:
    """Return a parsed `exporter.yml` once it is checked; ``where`` names the file in messages.

    Raises
    ------
    ConfigError
        At the first mistake; the text names the file and the path of the key.
    """
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: expected keys such as models: and store:, got {preview(document)}")
    try:
        models = _check_models(document, where)
        _check_url(document.get("external_url"), ("external_url",))
        _check_url(document.get("prometheus_url"), ("prometheus_url",), _PROMETHEUS_PASSWORD, "http://127.0.0.1:9090")
        for name, example in _LINK_EXAMPLES.items():
            _check_url(_mapping(document, "links").get(name), ("links", name), example=example)
        _check_store(_mapping(document, "store"))
        _check_retrain(_mapping(document, "retrain"))
        if document.get("models_folder") is None:
            names = [model["name"] for model in models.values() if isinstance(model.get("name"), str)]
            check_retrained(_entries(_mapping(document, "retrain"), "models"), names)
        _check_interval(("review", "lease"), _mapping(document, "review").get("lease"), LEASE)
    except InvalidKeyError as error:
        raise ConfigError(f"{where}: {error}") from None
    return document


def check_model_file(document: Any, where: str) -> Any:
    """Return a parsed file of ``models_folder`` once it is checked; ``where`` names the file in messages.

    Raises
    ------
    ConfigError
        At the first mistake; the text names the file and the path of the key.
    """
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: expected the key models:, got {preview(document)}")
    if "models" not in document:
        raise ConfigError(f"{where}: models: is required: a list of models, as in exporter.yml")
    try:
        _check_models(document, where)
    except InvalidKeyError as error:
        raise ConfigError(f"{where}: {error}") from None
    return document


_Models = dict[tuple[str, int], dict[str, Any]]


def _check_models(document: dict[str, Any], where: str) -> _Models:
    """Check the models of a document, and return them by their paths."""
    models = {("models", index): model for index, model in _entries(document, "models") if isinstance(model, dict)}
    _check_names(models)
    for path, model in models.items():
        _check_features(path, model, where)
        _check_alerts(path, model, MODEL_ALERTS)
        _check_objectives(path, model, where)
        _check_margins(path, model)
        _check_segments(path, model)
        _check_distances(path, model)
        _check_false_alarm_interval(path, model)
        _check_task(path, model)
        _check_windows(path, model, "windows")
        _check_windows(path, model, "quality_windows")
        if (tolerance := model.get("correction_tolerance")) is not None:
            _parse(parse_tolerance, tolerance, (*path, "correction_tolerance"))
    _check_mapped_names(models)
    return models


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


def _check_margins(path: KeyPath, model: dict[str, Any]) -> None:
    for name, value in _mapping(model, "release_margins").items():
        _parse(functools.partial(check_margin, str(name)), value, (*path, "release_margins", str(name)))


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
    _check_interval((*path, "drift_false_alarm_interval"), model.get("drift_false_alarm_interval"))


def _check_interval(key: KeyPath, interval: Any, bounds: tuple[str, str] = INTERVAL) -> None:
    if isinstance(interval, str) or type(interval) is int:
        seconds = _parse(parse_duration, str(interval), key)
        shortest, longest = bounds
        if not parse_duration(shortest) <= seconds <= parse_duration(longest):
            _refuse(key, f"expected from {shortest} to {longest}, got {preview(interval)}")


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
    _check_archive(store.get("archive"))
    if "archive_share" in store and store.get("archive") is None:
        _refuse(("store", "archive_share"), "needs store.archive, the folder or URL where this share is archived")


def _check_archive(archive: Any) -> None:
    scheme, separator, rest = archive.partition("://") if isinstance(archive, str) else ("", "", "")
    expected = "expected the path of a folder, or a URL such as s3://BUCKET/FOLDER, gs://… or abfs://…"
    if archive == "" or (separator and (scheme not in {"s3", "gs", "abfs", "abfss", "hdfs"} or not rest)):
        got = f"{scheme}://" if separator else archive  # the rest may have a password
        _refuse(("store", "archive"), f"{expected}, got {preview(got)}")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and (scheme == "s3" or ":" in user):  # abfs://CONTAINER@ACCOUNT… has no key
        names = {"s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"}.get(
            scheme, "those of the service in the environment"
        )
        _refuse(("store", "archive"), f"expected a URL without keys: set {names}")


def _check_retrain(retrain: dict[str, Any]) -> None:
    _check_url(retrain.get("url"), ("retrain", "url"), "every request is signed with the secret", RETRAIN_EXAMPLE)
    _check_interval(("retrain", "interval"), retrain.get("interval"))


def check_retrained(retrained: Iterable[tuple[int, Any]], names: Collection[str]) -> None:
    """Refuse a name in ``retrain.models`` that is not among the ``names`` of all models.

    Raises
    ------
    InvalidKeyError
        Its text names the key.
    """
    for index, name in retrained:
        if isinstance(name, str) and name not in names:
            _refuse(("retrain", "models", index), f"no model {preview(name)} is configured; {suggestion(name, names)}")


def _parse(parse: Callable[[_V], _T], value: _V, path: KeyPath) -> _T:
    try:
        return parse(value)
    except ValueError as error:
        _refuse(path, str(error))
