"""Check whether Prometheus evaluates the rules of all layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from exporter.server.scrapes import Problem

RULES = "/api/v1/rules?exclude_alerts=true"
"""The path of Prometheus' API."""
MAX_ERROR = 300
"""Characters of an error of Prometheus that are shown."""


class _Rule(msgspec.Struct):
    """A rule in Prometheus' API."""

    name: str
    health: str = ""
    last_error: str = msgspec.field(name="lastError", default="")
    labels: dict[str, str] | None = None


class _Group(msgspec.Struct):
    rules: list[_Rule]


class _Groups(msgspec.Struct):
    groups: list[_Group]


def check_rules(data: Any, layers: Sequence[str]) -> Problem | None:
    """Return why alerts of this project may be missing: its rules are not loaded, or fail; None if neither.

    Parameters
    ----------
    data
        The member ``data`` of Prometheus' response for `RULES`.
    layers
        The layers of this project's alerts.

    Raises
    ------
    msgspec.ValidationError
        When the response is not from Prometheus.
    """
    groups = [group.rules for group in msgspec.convert(data, _Groups).groups]
    own = [rules for rules in groups if any(_layer(rule) in layers for rule in rules)]
    present = {_layer(rule) for rules in own for rule in rules}
    if missing := [layer for layer in layers if layer not in present]:
        return Problem(
            "Prometheus does not evaluate all alerts of this project",
            f"It has no alert of these layers: {', '.join(missing)}. Load all files of prometheus/rules/ there.",
        )
    failing = [rule for rules in own for rule in rules if rule.health == "err"]
    if failing:
        more = f" and {len(failing) - 1} more" if len(failing) > 1 else ""
        return Problem(
            "Prometheus cannot evaluate all rules",
            f"The evaluation of {failing[0].name}{more} fails: {failing[0].last_error[:MAX_ERROR]}.",
        )
    return None


def _layer(rule: _Rule) -> str:
    return (rule.labels or {}).get("layer", "")
