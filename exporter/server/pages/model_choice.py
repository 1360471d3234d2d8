"""The model and the version that a page shows, chosen by the address."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import serving
from exporter.validation import preview, suggestion


class UnknownError(Exception):
    """A parameter of the address names something that does not exist."""


class Choice(NamedTuple):
    """The chosen model and version.

    Attributes
    ----------
    model
        A configured model.
    versions
        Versions of it that one can choose.
    monitor
        The version's monitor; None if the model has not sent a prediction.
    """

    model: str
    versions: list[str]
    monitor: ModelMonitor | None


def choose(
    configured: Sequence[str], monitors: Iterable[ModelMonitor], model: str | None, version: str | None
) -> Choice:
    """Return the chosen model and version; by default one that serves and has a profile.

    That is the first such model of the configuration, and its version that appeared last.

    Raises
    ------
    UnknownError
        When one of them does not exist, or no model is configured.
    """
    if not configured:
        raise UnknownError("No model is configured")
    found = list(monitors)
    if model is not None:
        check("model", model, configured, "is configured")
        found = [monitor for monitor in found if monitor.config.name == model]
    versions = sorted({monitor.version for monitor in found})
    if version is not None:
        check(
            "version",
            version,
            versions,
            f"of {model or configured[0]} has sent a prediction since the exporter started",
        )
        found = [monitor for monitor in found if monitor.version == version]
    if not found:
        return Choice(model or configured[0], versions if model else [], None)
    found = serving(monitor for monitor in found if monitor.binner is not None) or serving(found)
    monitor = [one for one in found if one.config.name == found[0].config.name][-1]
    siblings = [other.version for other in monitors if other.config.name == monitor.config.name]
    return Choice(monitor.config.name, sorted(siblings), monitor)


def check(what: str, name: str, names: Iterable[str], relation: str) -> None:
    """Check that a name of the address exists.

    Raises
    ------
    UnknownError
        When it does not; the message says what would be right.
    """
    if name not in names:
        raise UnknownError(f"No {what} {preview(name)} {relation}; {suggestion(name, names)}")
