"""The typed objects that `exporter.yml` becomes, frozen, with the default of every key."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

import msgspec

from exporter.config.thresholds import THRESHOLDS
from exporter.validation import Tolerance, parse_duration, parse_tolerance, preview

DEFAULT_CONFIDENCE_THRESHOLD = 0.8

Task = Literal["classification", "regression"]
TASKS: tuple[str, ...] = get_args(Task)
"""What a model does: its predictions are classes or numbers."""

MetricsLevel = Literal["full", "summary"]
METRICS_LEVELS: tuple[str, ...] = get_args(MetricsLevel)
"""How many series a model has: with those of every bin, or without them."""

OTHER_SEGMENT = "other"
"""The segment of all values that have no segment of their own."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class FeatureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one input of a model; ``type`` is one of `exporter.features.INPUT_TYPES`."""

    type: str | None = None
    alerts: dict[str, float] = {}


class MappingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The mapping of another server's tensors and columns to a model's inputs and outputs."""

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
    metrics: MetricsLevel = "full"
    drift_false_alarm_interval: str = "365d"
    redact: frozenset[str] = frozenset()
    segment_by: _Name | None = None
    segments: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=50)] = ()
    features: dict[str, FeatureConfig] = {}
    alerts: dict[str, float] = {}
    objectives: Objectives | None = None
    release_margins: dict[str, float] = {}
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
        """Return the time in which ModelDrift, and ModelInputsChanged, may have one false alarm, in seconds."""
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
        default = THRESHOLDS[alert].default
        return self.alerts.get(alert, math.nan if default is None else default)


def _by_length(windows: Iterable[str]) -> dict[str, float]:
    return dict(sorted(((window, parse_duration(window)) for window in windows), key=lambda item: item[1]))


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where predictions and feedback are stored, and for how long; paths are absolute once loaded."""

    url: str = "sqlite:///data/model-exporter.db"
    retention: str = "30d"
    inputs: str = "all"
    max_size: str | None = None
    password_file: str | None = None
    replica: _Name | None = None
    archive: str | None = None


class LinksConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Addresses that the home page links to; None means no link. Alerts link to the dashboards of ``grafana``."""

    prometheus: str | None = None
    alertmanager: str | None = None
    grafana: str | None = None


class RetrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When and where to ask for a new version of a model; ``secret_file`` is absolute once loaded."""

    url: str
    secret_file: str
    models: tuple[_Name, ...] = ()
    accuracy: bool = True
    corrections: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 200
    interval: str = "1d"

    def concerns(self, model: str) -> bool:
        """Return whether requests are made for a model: for all, if none is named."""
        return not self.models or model in self.models

    def interval_seconds(self) -> float:
        """Return the shortest time between two requests for a model, in seconds."""
        return parse_duration(self.interval)


class QueueConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the queue in memory."""

    capacity: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 100_000


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of a file of ``models_folder``."""

    models: Annotated[tuple[ModelConfig, ...], msgspec.Meta(min_length=1)]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of ``exporter.yml``; ``models_folder`` is absolute once loaded."""

    models: tuple[ModelConfig, ...] = ()
    models_folder: str | None = None
    external_url: str | None = None
    prometheus_url: str | None = None
    store: StoreConfig = StoreConfig()
    links: LinksConfig = LinksConfig()
    retrain: RetrainConfig | None = None
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


DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of latencies in seconds, between which no objective can be measured."""
DEFAULT_ERRORS = 0.999
"""The objective of models that set none; `tests/bundle/test_thresholds.py` compares it with the rules."""
LOWEST, HIGHEST = 0.5, 0.99999
OBJECTIVE_ALERTS = {
    "ModelErrorBudgetBurn": "objectives: {errors: 0.999}",
    "ModelLatencyBudgetBurn": "objectives: {latency: {below: 0.5, share: 0.95}}",
}
"""The alerts whose threshold is an objective, and how to set it."""


class LatencyObjective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``share`` of requests that take at most ``below`` seconds."""

    below: float
    share: float


class Objectives(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The objectives that a model sets; ``errors`` is the share of requests without a 5xx."""

    errors: float | None = None
    latency: LatencyObjective | None = None

    def shares(self) -> dict[str, float]:
        """Return the share of each objective, by its name in metrics.

        >>> Objectives(latency=LatencyObjective(0.5, 0.95)).shares()
        {'errors': 0.999, 'latency': 0.95}
        """
        return {"errors": DEFAULT_ERRORS} | self.set_shares()

    def set_shares(self) -> dict[str, float]:
        """Return the share of each objective that is set.

        >>> Objectives(latency=LatencyObjective(0.5, 0.95)).set_shares()
        {'latency': 0.95}
        """
        errors = {} if self.errors is None else {"errors": self.errors}
        return errors | ({"latency": self.latency.share} if self.latency else {})


def check_share(value: Any) -> None:
    """Check the share of an objective.

    >>> check_share(99.9)
    Traceback (most recent call last):
    ValueError: expected a share from 0.5 to 0.99999 such as 0.999, got 99.9; write 0.999 for 99.9 %

    Raises
    ------
    ValueError
        When it is not a number from `LOWEST` to `HIGHEST`.
    """
    if _is_number(value) and LOWEST <= value <= HIGHEST:
        return
    detail = f"expected a share from {LOWEST:g} to {HIGHEST:g} such as {DEFAULT_ERRORS:g}, got {preview(value)}"
    percent = _percentage(value)
    hint = f"; write {percent / 100:.7g} for {percent:.7g} %" if LOWEST <= percent / 100 <= HIGHEST else ""
    raise ValueError(detail + hint)


def check_bound(value: Any) -> None:
    """Check that a latency is a bound of the histogram.

    Raises
    ------
    ValueError
        When it is not; its text has the bounds.
    """
    if not _is_number(value) or value not in DURATION_BUCKETS:
        bounds = ", ".join(f"{bound:g}" for bound in DURATION_BUCKETS)
        raise ValueError(
            f"expected a bound of the histogram of latencies, in seconds: one of {bounds}; got {preview(value)}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _percentage(value: Any) -> float:
    """Return the number of a percentage that is written as ``99.9`` or ``"99.9%"``; 0 for anything else."""
    try:
        return float(value.removesuffix("%")) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
