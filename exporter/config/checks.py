"""Check what the types of `exporter.yml` cannot: names, durations, duplicates, and keys that depend on each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from exporter.config.keys import InvalidKeyError, check_interval, entries, mapping, parse, refuse
from exporter.config.model_checks import check_models
from exporter.config.types import sampled_share
from exporter.errors import ConfigError
from exporter.validation import KeyPath, parse_duration, parse_size, preview, suggestion

LEASE = ("10s", "1d")
"""The shortest and the longest time for which a correction is given to one reviewer."""
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
        check_interval(("review", "lease"), mapping(document, "review").get("lease"), LEASE)
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
    if "archive_share" in store and store.get("archive") is None:
        refuse(("store", "archive_share"), "needs store.archive, the folder or URL where this share is archived")


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
