"""The drift page: the change of each feature since training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from flask import render_template, request

from exporter.monitoring.drift_evidence import evidence_limit, model_evidence
from exporter.monitoring.drift_report import OUTPUTS, TargetDrift, target_drifts, worst
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import serving
from exporter.profiles.profile import CategoricalFeature, NumericFeature
from exporter.server.application import Exporter
from exporter.server.pages.home import ranked
from exporter.server.text import number, parameters, quoted, share, slices_parameters
from exporter.stats.divergence import Floats
from exporter.validation import preview, suggestion


class UnknownError(Exception):
    """A parameter of the address names something that does not exist."""


def choose(
    exporter: Exporter, states: Mapping[str, str], chosen: Mapping[str, str]
) -> tuple[str, list[str], ModelMonitor | None]:
    """Return the chosen model, its versions, and the monitor of the chosen one.

    By default it is the model with the most severe alert, else the one that has drifted most. Its version serves, has a
    profile, and appeared last.

    Raises
    ------
    UnknownError
        When one of them does not exist, or no model is configured.
    """
    if not states:
        raise UnknownError("No model is configured")
    model, version = chosen.get("model") or worst_model(exporter, states), chosen.get("version")
    check("model", model, states, "is configured")
    found = list(exporter.pipeline.monitors.of_model(model).values())
    versions = sorted(monitor.version for monitor in found)
    if version is not None:
        check("version", version, versions, f"of {model} has sent a prediction since the exporter started")
        found = [monitor for monitor in found if monitor.version == version]
    found = serving(monitor for monitor in found if monitor.binner is not None) or serving(found)
    return model, versions, found[-1] if found else None


def worst_model(exporter: Exporter, states: Mapping[str, str]) -> str:
    """Return the model with the most severe alert, else the one that has drifted most, given the result of `ranked`."""
    first, now = next(iter(states)), time.monotonic()
    found = [] if states[first] else serving(exporter.pipeline.monitors)
    drifts = [drift[1].severity if (drift := worst(one, now)) else -1.0 for one in found]
    return found[int(np.argmax(drifts))].config.name if found else first


def check(what: str, name: str, names: Iterable[str], relation: str) -> None:
    """Check that a name of the address exists.

    Raises
    ------
    UnknownError
        When it does not; the message says what would be right.
    """
    if name not in names:
        raise UnknownError(f"No {what} {preview(name)} {relation}; {suggestion(name, names)}")


MIN_EXPLAINED = 0.15
"""Share of the whole difference that a second statement must explain to be part of the sentence."""

Statement = tuple[float, str]
"""A text, and the part of the difference that it explains."""


def describe(drift: TargetDrift) -> str:
    """Describe the change of a target in a sentence, and in a second one its evidence of a slow change, if any."""
    text = _describe_window(drift)
    if drift.resembles:
        text += f" These values look like the training values of {drift.resembles}."
    if drift.status != "drifted" and drift.evidence > drift.evidence_limit:
        text += " Over a longer time, a small, lasting change: "
        text += f"evidence {drift.evidence:.0f} of {drift.evidence_limit:.0f}."
    return text


def _describe_window(drift: TargetDrift) -> str:
    if not drift.observations:
        return "No values in this window."
    if not drift.trained.sum():
        return "The training data has no values of it to compare with."
    if drift.status == "few":
        count = "1 value is" if drift.observations == 1 else f"{drift.observations:,} values are"
        return f"{count} too few: sampling noise alone can reach {number(drift.noise)}."
    if drift.is_constant:
        return "Constant, as in training."
    return _describe_change(drift)


def describe_dependence(drift: TargetDrift) -> str:
    """Describe why the noise floor is higher than that of independent values; empty where it is not."""
    if not drift.is_dependent:
        return ""
    count, effective = f"{drift.observations:,}", f"{max(round(drift.effective), 1):,}"
    as_much = f": {count} have an effective sample size of {effective}" if effective != count else ""
    floors = f"{number(drift.noise)} instead of {number(drift.independent_noise)}"
    where = "In healthy windows of the past" if drift.is_learned else "In training"
    return f"{where}, values are autocorrelated{as_much}, so the noise floor is {floors}."


def _describe_change(drift: TargetDrift) -> str:
    if drift.status == "same":
        return "No change beyond sampling noise."
    statements = sorted(_statements(drift), key=lambda statement: -statement[0])
    least = min(MIN_EXPLAINED * drift.weight.sum(), statements[0][0])
    text = "; ".join(text for weight, text in statements[:2] if weight >= least)
    return f"Small change: {text}." if drift.status == "slight" else f"{text[0].upper()}{text[1:]}."


def _statements(drift: TargetDrift) -> Iterator[Statement]:
    trained, live = drift.trained / drift.trained.sum(), drift.live / drift.observations
    for index, what in ((-2, "missing"), (-1, "of the wrong type")):
        if live[index] > trained[index]:
            before = f"{share(trained[index])} were" if trained[index] else "none were"
            yield drift.weight[index], f"{share(live[index])} of the values are {what}; in training {before}"
        elif trained[index]:
            now = share(live[index]) if live[index] else "none"
            yield drift.weight[index], f"{now} of the values are {what}; in training {share(trained[index])} were"
    if isinstance(drift.target, CategoricalFeature):
        yield from _category_statements(drift, drift.target, trained, live)
    elif drift.target.edges:
        yield from _numeric_statements(drift, drift.target, trained, live)


def _share_change(what: str, before: float, after: float) -> str:
    return f"the share of {what} {'rose' if after > before else 'fell'} from {share(before)} to {share(after)}"


def _category_statements(
    drift: TargetDrift, target: CategoricalFeature, trained: Floats, live: Floats
) -> Iterator[Statement]:
    count = len(target.categories)
    difference = np.abs(live - trained)[: count + 1].round(9)
    # Rank categories by the change of their share, which readers see, instead of their part of the divergence.
    weight = drift.weight[: count + 1].sum() * difference / max(difference.sum(), 1e-9)
    order = sorted(range(count), key=lambda index: (-difference[index], live[index] < trained[index]))
    for index in order[: 1 if count == 2 else 2]:  # of two categories, the second changes as much as the first
        yield weight[index], _share_change(quoted(target.categories[index]), trained[index], live[index])
    if drift.unseen > trained[count]:
        text = f"{share(drift.unseen)} of the values are categories that are not in the training data"
        yield max(weight[count], drift.weight[count]), text
    elif difference[count]:
        yield weight[count], _share_change("rare categories", trained[count], live[count])


def _numeric_statements(
    drift: TargetDrift, target: NumericFeature, trained: Floats, live: Floats
) -> Iterator[Statement]:
    edges = target.edges
    inside, last = slice(1, len(edges)), len(edges)
    if drift.min == drift.max and drift.trained_stddev > 0 and drift.observations > 1:
        text = f"every value is {number(drift.min)}; training has values from {number(edges[0])} to {number(edges[-1])}"
        yield drift.weight[: last + 1].sum(), text
        return
    for index, outside in ((0, f"values below {number(edges[0])}"), (last, f"values above {number(edges[-1])}")):
        if live[index] > trained[index]:
            yield drift.weight[index], _share_change(outside, trained[index], live[index])
    top = 1 + int(drift.weight[inside].argmax()) if last > 1 else 0
    total, single = drift.weight[inside].sum(), drift.weight[top] if top else 0.0
    spread = total - single if single > total / 2 else total  # a bin that explains most of it comes first
    if (moments := _describe_moments(drift)) is not None:
        yield spread, moments
    if top:
        yield single, _share_change(_describe_bin(edges[top - 1], edges[top]), trained[top], live[top])


def _describe_moments(drift: TargetDrift) -> str | None:
    """Describe the change of the mean, or else of the standard deviation; None when both are small."""
    if abs(drift.shift) >= 0.3:
        change = f"the mean {'rose' if drift.shift > 0 else 'fell'} by {number(abs(drift.shift))}"
        means = f"from {number(drift.trained_mean)} to {number(drift.mean)}"
        return f"{change} training standard deviations, {means}"
    if drift.trained_stddev > 0 and not 2 / 3 < (ratio := drift.stddev / drift.trained_stddev) < 1.5:
        return f"the standard deviation is {number(ratio)} times as large as in training"
    return None


def _describe_bin(low: float, high: float) -> str:
    is_single_value = high == math.nextafter(low, math.inf)
    return f"the value {number(low)}" if is_single_value else f"values from {number(low)} to {number(high)}"


class Bar(NamedTuple):
    """A bin, with its share in training and now."""

    name: str
    trained: float
    live: float


def distribution(drift: TargetDrift) -> list[Bar]:
    """Return the bins of a target."""
    names = [label.partition(" ")[2] for label in drift.target.labels()]
    shares = (counts / max(counts.sum(), 1.0) for counts in (drift.trained, drift.live))
    return [Bar(*row) for row in zip(names, *(share.tolist() for share in shares), strict=True)]


def page(exporter: Exporter) -> tuple[str, int]:
    """``GET /drift``: the drift page."""
    exporter.pipeline.settle(0.2)
    states = ranked(exporter)
    try:
        return render_template("drift.html", states=states, **_context(exporter, states, time.monotonic())), 200
    except UnknownError as error:
        return render_template("drift.html", states=states, unknown=str(error)), 404


def _context(exporter: Exporter, states: Mapping[str, str], now: float) -> dict[str, Any]:
    """Return the values of the page for the model, version, window and feature in the address.

    Raises
    ------
    UnknownError
        When one of them does not exist.
    """
    chosen = parameters(request.args)
    model, versions, monitor = choose(exporter, states, chosen)
    context: dict[str, Any] = {"model": model, "versions": versions}
    if monitor is None:
        return {**context, "silent": True, "profiled": bool(exporter.pipeline.monitors.binners_of(model))}
    context["unknown_inputs"] = exporter.pipeline.monitors.unknown_inputs[model]
    return context | _monitor_context(monitor, chosen.get("window"), chosen.get("feature"), now)


def _monitor_context(monitor: ModelMonitor, window: str | None, feature: str | None, now: float) -> dict[str, Any]:
    model = monitor.config.name
    windows = list(monitor.windows)
    if window is not None:
        check("window", window, windows, f"of {model} is configured")
    if window is None:  # the one that the home page shows
        drifted = worst(monitor, now, feature)
        window = drifted[0] if drifted else windows[-1]
    context = {
        "monitor": monitor,
        "version": monitor.version,
        "window": window,
        "windows": windows,
    }
    if monitor.binner is None or monitor.noise is None:
        return context
    stats = monitor.read(now)[window]
    evidence = monitor.read_evidence(now)
    drifts = target_drifts(monitor, stats, evidence)
    by_name = {drift.name: drift for drift in drifts}
    if feature is not None:
        check("feature", feature, by_name, f"is in the profile of {model}")
    selected = by_name[feature] if feature is not None else drifts[0] if drifts else None
    return {
        **context,
        "rows": [{"drift": drift, "bars": distribution(drift)} for drift in drifts],
        "selected": selected and {"drift": selected, "bars": distribution(selected)},
        "drifted": _drifted(drifts),
        "evidence": model_evidence(evidence),
        "evidence_limit": evidence_limit(monitor.config.false_alarm_seconds()),
        "interval": f"{monitor.config.false_alarm_seconds() / 86400:g}d",
        "outputs_listed": any(name in OUTPUTS for name in by_name),
        "outputs": OUTPUTS,
        "slices": slices_parameters(model, monitor.version, "drift"),
        "time": datetime.now(UTC),
    }


def _drifted(drifts: Sequence[TargetDrift]) -> str:
    """Return the beginning of a sentence: which have drifted, with their verb. Nothing if none has."""
    names = [drift.name for drift in drifts if drift.status == "drifted"]
    features = sum(name not in OUTPUTS for name in names)
    total = sum(drift.name not in OUTPUTS for drift in drifts)
    parts = [f"{features} of {total} feature{'s' if total > 1 else ''}"] if features else []
    parts += [f"the {text}" for name, text in OUTPUTS.items() if name in names]
    *first, last = parts or [""]
    verb = "has" if len(names) == 1 else "have"
    text = f"{', '.join(first)} and {last} {verb}" if first else last and f"{last} {verb}"
    return text[:1].upper() + text[1:]


FILTERS = {f.__name__: f for f in (describe, describe_dependence, share)}
"""Functions of the template."""
