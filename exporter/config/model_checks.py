"""Check the models of `exporter.yml`, or of a file of its ``models_folder``."""

from __future__ import annotations

import functools
from typing import Any

from exporter.config.keys import check_interval, entries, mapping, parse, refuse
from exporter.config.margins import check_margin
from exporter.config.objectives import OBJECTIVE_ALERTS, LatencyObjective, Objectives, check_bound, check_share
from exporter.config.thresholds import FEATURE_ALERTS, MODEL_ALERTS
from exporter.config.types import DISTANCES, METRICS_LEVELS, OTHER_SEGMENT, TASKS, FeatureConfig
from exporter.features.types import INPUT_TYPES
from exporter.validation import KeyPath, convert, parse_duration, parse_tolerance, preview, suggestion

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
        _check_distances(path, model)
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
    for name, value in mapping(settings, "alerts").items():
        key = (*path, "alerts", str(name))
        if name in OBJECTIVE_ALERTS:
            refuse(key, f"its threshold is an objective of the model: write {OBJECTIVE_ALERTS[name]} in place of it")
        if name not in valid:
            refuse(key, f"is not an alert whose threshold can be set here; {suggestion(str(name), valid)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            refuse(key, f"expected a number of at least 0, got {preview(value)}")


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


def _check_distances(path: KeyPath, model: dict[str, Any]) -> None:
    for index, distance in entries(model, "drift"):
        if isinstance(distance, str) and distance not in DISTANCES:
            detail = f"{preview(distance)} is not a valid distance; {suggestion(distance, DISTANCES)}"
            refuse((*path, "drift", index), detail)


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
