"""Check what the types of `exporter.yml` cannot: names, durations, duplicates, and keys that depend on each other."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from exporter.config.types import (
    FEATURE_ALERTS,
    IN_SECONDS,
    METRICS_LEVELS,
    MODEL_ALERTS,
    OBJECTIVE_ALERTS,
    OFF,
    OTHER_SEGMENT,
    TASKS,
    THRESHOLDS,
    FeatureConfig,
    LatencyObjective,
    Objectives,
    check_bound,
    check_share,
    sampled_share,
)
from exporter.errors import ConfigError
from exporter.features import INPUT_TYPES
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

RETRAIN_EXAMPLE = "https://trainer.example.org/retrain"


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
        models = check_models(document, where)
        _check_url(document.get("external_url"), ("external_url",))
        _check_url(document.get("prometheus_url"), ("prometheus_url",), _PROMETHEUS_PASSWORD, "http://127.0.0.1:9090")
        for name, example in _LINK_EXAMPLES.items():
            _check_url(mapping(document, "links").get(name), ("links", name), example=example)
        _check_store(mapping(document, "store"))
        _check_retrain(mapping(document, "retrain"))
        if document.get("models_folder") is None:
            names = [model["name"] for model in models.values() if isinstance(model.get("name"), str)]
            check_retrained(entries(mapping(document, "retrain"), "models"), names)
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
        check_models(document, where)
    except InvalidKeyError as error:
        raise ConfigError(f"{where}: {error}") from None
    return document


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
        refuse(path, f"expected a URL without user and password: {reason}")
    if isinstance(url, str) and not re.fullmatch(r"https?://[^\s/?#\"'<>]+(/[^\s?#\"'<>]*)?", url):
        refuse(path, f"expected a URL such as {example}, got {preview(url)}")


def _check_store(store: dict[str, Any]) -> None:
    checks: dict[str, Callable[[str], object]] = {
        "retention": parse_duration,
        "inputs": sampled_share,
        "max_size": parse_size,
    }
    for key, check in checks.items():
        value = store.get(key)
        if isinstance(value, str) or type(value) is int:
            parse(check, str(value), ("store", key))
    _check_archive(store.get("archive"))


def _check_archive(archive: Any) -> None:
    scheme, separator, rest = archive.partition("://") if isinstance(archive, str) else ("", "", "")
    expected = "expected the path of a folder, or a URL such as s3://BUCKET/FOLDER, gs://… or abfs://…"
    if archive == "" or (separator and (scheme not in {"s3", "gs", "abfs", "abfss", "hdfs"} or not rest)):
        got = f"{scheme}://" if separator else archive  # the rest may have a password
        refuse(("store", "archive"), f"{expected}, got {preview(got)}")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and (scheme == "s3" or ":" in user):  # abfs://CONTAINER@ACCOUNT… has no key
        names = {"s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"}.get(
            scheme, "those of the service in the environment"
        )
        refuse(("store", "archive"), f"expected a URL without keys: set {names}")


def _check_retrain(retrain: dict[str, Any]) -> None:
    _check_url(retrain.get("url"), ("retrain", "url"), "every request is signed with the secret", RETRAIN_EXAMPLE)
    check_interval(("retrain", "interval"), retrain.get("interval"))


def check_retrained(retrained: Iterable[tuple[int, Any]], names: Collection[str]) -> None:
    """Refuse a name in ``retrain.models`` that is not among the ``names`` of all models.

    Raises
    ------
    InvalidKeyError
        Its text names the key.
    """
    for index, name in retrained:
        if isinstance(name, str) and name not in names:
            refuse(("retrain", "models", index), f"no model {preview(name)} is configured; {suggestion(name, names)}")


INTERVAL = ("1h", "3650d")
"""The shortest and the longest time with one false alarm, or between two requests for retraining."""

_T = TypeVar("_T")
_V = TypeVar("_V")


class InvalidKeyError(Exception):
    """A value is invalid: the path of its key, and what is wrong with it."""

    def __init__(self, path: KeyPath, detail: str) -> None:
        super().__init__(f"{format_path(path)}: {detail}")


def refuse(path: KeyPath, detail: str) -> NoReturn:
    """Raise `InvalidKeyError`: the value of a key is invalid."""
    raise InvalidKeyError(path, detail)


def entries(document: dict[str, Any], key: str) -> Iterator[tuple[int, Any]]:
    """Yield the entries of a list with their indices; of anything else none, since `convert` refuses it."""
    value = document.get(key)
    yield from enumerate(value if isinstance(value, list) else ())


def mapping(document: dict[str, Any], key: str) -> dict[Any, Any]:
    """Return the mapping below a key; an empty one for anything else, since `convert` refuses it."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def parse(parser: Callable[[_V], _T], value: _V, path: KeyPath) -> _T:
    """Return a parsed value; a `ValueError` of the parser becomes the message of the key."""
    try:
        return parser(value)
    except ValueError as error:
        refuse(path, str(error))


def check_interval(key: KeyPath, interval: Any, bounds: tuple[str, str] = INTERVAL) -> None:
    """Refuse a duration outside of the bounds, which are durations, too."""
    if isinstance(interval, str) or type(interval) is int:
        seconds = parse(parse_duration, str(interval), key)
        shortest, longest = bounds
        if not parse_duration(shortest) <= seconds <= parse_duration(longest):
            refuse(key, f"expected from {shortest} to {longest}, got {preview(interval)}")


SHORTEST_WINDOW, LONGEST_WINDOW = 10, 31 * 86400
"""Length of a window in seconds."""

_Models = dict[tuple[str, int], dict[str, Any]]


def check_models(document: dict[str, Any], where: str) -> _Models:
    """Check the models of a document, and return them by their paths."""
    models = {("models", index): model for index, model in entries(document, "models") if isinstance(model, dict)}
    _check_names(models)
    for path, model in models.items():
        _check_features(path, model, where)
        _check_alerts(path, model, MODEL_ALERTS)
        _check_objectives(path, model, where)
        _check_margins(path, model)
        _check_segments(path, model)
        _check_false_alarm_interval(path, model)
        _check_word(path, model, "task", "task", TASKS)
        _check_word(path, model, "metrics", "level of metrics", METRICS_LEVELS)
        _check_windows(path, model, "windows")
        _check_windows(path, model, "quality_windows")
        if (tolerance := model.get("correction_tolerance")) is not None:
            parse(parse_tolerance, tolerance, (*path, "correction_tolerance"))
    _check_mapped_names(models)
    return models


def _check_names(models: _Models) -> None:
    seen: set[str] = set()
    for path, model in models.items():
        name = model.get("name")
        if not isinstance(name, str):
            continue
        if name in seen:
            refuse((*path, "name"), f"{preview(name)} is duplicated; every model needs a name of its own")
        if "`" in name:
            refuse((*path, "name"), f"{preview(name)} has a backtick, which quotes names in the dashboards' queries")
        seen.add(name)


def _check_features(path: KeyPath, model: dict[str, Any], where: str) -> None:
    for name, settings in mapping(model, "features").items():
        key = (*path, "features", str(name))
        if isinstance(settings, dict):
            kind = settings.get("type")
            if isinstance(kind, str) and kind not in INPUT_TYPES:
                refuse((*key, "type"), f"{preview(kind)} is not a valid input type; {suggestion(kind, INPUT_TYPES)}")
            _check_alerts(key, settings, FEATURE_ALERTS)
        convert(settings, FeatureConfig, where, key)


def _check_alerts(path: KeyPath, settings: dict[str, Any], valid: tuple[str, ...]) -> None:
    alerts = mapping(settings, "alerts")
    for name, value in alerts.items():
        key = (*path, "alerts", str(name))
        if name not in valid:
            refuse(key, f"is not an alert that can be set here; {suggestion(str(name), valid)}")
        if value is False or value == "off":  # YAML reads off as false
            alerts[name] = OFF
        elif name in OBJECTIVE_ALERTS:
            refuse(key, f"its threshold is an objective of the model: write {OBJECTIVE_ALERTS[name]} in place of it")
        elif THRESHOLDS[name].default is None:
            refuse(key, f"expected off, since it has no threshold; got {preview(value)}")
        elif name in IN_SECONDS and isinstance(value, str):
            alerts[name] = parse(parse_duration, value, key)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            more = ", a duration such as 2h" if name in IN_SECONDS else ""
            refuse(key, f"expected a number of at least 0{more} or off, got {preview(value)}")


def _check_objectives(path: KeyPath, model: dict[str, Any], where: str) -> None:
    key = (*path, "objectives")
    if (objectives := model.get("objectives")) is None:
        return
    if not isinstance(objectives, dict):
        refuse(key, f"expected a mapping such as {{errors: 0.999}}, got {preview(objectives)}")
    if "errors" in objectives:
        parse(check_share, objectives["errors"], (*key, "errors"))
    latency, key = objectives.get("latency"), (*key, "latency")
    if isinstance(latency, dict):
        for name, check, example in (("below", check_bound, 0.5), ("share", check_share, 0.95)):
            if name not in latency:
                refuse((*key, name), f"is required, such as {name}: {example}")
            parse(check, latency[name], (*key, name))
        convert(latency, LatencyObjective, where, key)
    elif latency is not None:
        refuse(key, f"expected a mapping such as {{below: 0.5, share: 0.95}}, got {preview(latency)}")
    convert(objectives, Objectives, where, key[:-1])


def _check_margins(path: KeyPath, model: dict[str, Any]) -> None:
    for name, value in mapping(model, "release_margins").items():
        parse(functools.partial(check_margin, str(name)), value, (*path, "release_margins", str(name)))


def _check_segments(path: KeyPath, model: dict[str, Any]) -> None:
    for index, segment in entries(model, "segments"):
        if segment == OTHER_SEGMENT:
            refuse((*path, "segments", index), f"{preview(segment)} is reserved for all other values")
        if segment in model["segments"][:index]:
            refuse((*path, "segments", index), f"{preview(segment)} is duplicated")
    if model.get("segments") and model.get("segment_by") is None:
        refuse((*path, "segments"), "needs segment_by, the categorical input that has these values")


def _check_false_alarm_interval(path: KeyPath, model: dict[str, Any]) -> None:
    check_interval((*path, "drift_false_alarm_interval"), model.get("drift_false_alarm_interval"))


def _check_word(path: KeyPath, model: dict[str, Any], key: str, noun: str, valid: tuple[str, ...]) -> None:
    word = model.get(key)
    if isinstance(word, str) and word not in valid:
        refuse((*path, key), f"{preview(word)} is not a valid {noun}; {suggestion(word, valid)}")


def _check_windows(path: KeyPath, model: dict[str, Any], name: str) -> None:
    for index, window in entries(model, name):
        key = (*path, name, index)
        if isinstance(window, str) or type(window) is int:
            seconds = parse(parse_duration, str(window), key)
            if not SHORTEST_WINDOW <= seconds <= LONGEST_WINDOW:
                refuse(key, f"expected from 10s to 31d, got {preview(window)}")
        if window in model[name][:index]:
            refuse(key, f"{preview(window)} is duplicated")


def _check_mapped_names(models: _Models) -> None:
    owners: dict[str, str] = {}
    for path, model in models.items():
        for index, name in entries(mapping(model, "mapping"), "names"):
            if not isinstance(name, str):
                continue
            if name in owners:
                detail = f"{preview(name)} is among the mapping.names of {preview(owners[name])} already"
                refuse((*path, "mapping", "names", index), detail)
            owners[name] = str(model.get("name"))
    names = {name for model in models.values() if isinstance(name := model.get("name"), str)}
    for name, owner in owners.items():
        if name in names and name != owner:
            refuse(("models",), f"{preview(name)} is a model and among the mapping.names of {preview(owner)}")


MARGINS = {
    "error_ratio": 0.005,
    "latency_p95_seconds": 0.1,
    "confident_ratio": 0.05,
    "correction_ratio": 0.01,
    "worst_drift_nats": 0.3,
    "accuracy": 0.02,
    "mean_absolute_error": 0.0,
}
"""The margin of each measure where none is set, in the measure's unit."""
PROMOTED_WITHOUT = ("latency_p95_seconds", "mean_absolute_error")
"""Measures that need no proof where no margin is set: buckets may be wider than any, and the unit is not known."""


def check_margin(name: str, value: Any) -> None:
    """Check a margin.

    >>> check_margin("error_ratio", -1)
    Traceback (most recent call last):
    ValueError: expected a number of at least 0, got -1

    Raises
    ------
    ValueError
        When there is no such measure, or the value is not a number of at least 0.
    """
    if name not in MARGINS:
        raise ValueError(f"{preview(name)} is not a measure of a comparison; {suggestion(name, MARGINS)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"expected a number of at least 0, got {preview(value)}")


def parse_margin(text: str) -> tuple[str, float]:
    """Return the measure and its margin.

    >>> parse_margin("error_ratio=0.01")
    ('error_ratio', 0.01)

    Raises
    ------
    ValueError
        When it is not a measure, ``=`` and a number of at least 0.
    """
    name, equals, number = text.partition("=")
    try:
        value = float(number) if equals else None
    except ValueError:
        value = None
    if value is None:
        raise ValueError(f"expected a measure and a number such as error_ratio=0.01, got {preview(text)}")
    check_margin(name, value)
    return name, value
