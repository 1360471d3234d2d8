"""Alerts that depend on a range fire, and stay silent, at the usual and the longest scrape interval."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.phases import Counter, Steps
from support.promtool import RULES, check_rules, expected, groups_of, series_of

INTERVALS = {"system": (15, 60), "data": (15, 60), "business": (15, 60), "exporter": (15, 45)}
"""Seconds, by layer."""
MISSED = 16
"""One of so many scrapes fails, as on a busy machine: its samples are stale markers."""
EVALUATIONS = {"system": 13, "exporter": 13, "data": 29, "business": 29}
"""Seconds between evaluations: no multiple of a scrape interval, and shorter than what the layer's alerts wait for."""
DAY = 24 * 60
GROUPS = groups_of()
MODEL_ONLY = 'model="digits"'
MODEL = f'{MODEL_ONLY},version="3"'
EXPORTER = 'job="model-exporter",instance="a:9877"'
BINS = {"01 [0, 1)": 0.5, "02 [1, 2)": 0.498, "03 missing": 0.002}


def notation(samples: list[float | None], *, miss: bool) -> str:
    """The samples in promtool's notation, some of them missed."""
    return " ".join(
        "stale" if miss and index % MISSED == MISSED - 3 else "_" if value is None else f"{value:.6f}"
        for index, value in enumerate(samples)
    )


class Scenario(NamedTuple):
    """A file of rules, series, and the minutes at which alerts are silent and firing."""

    rules: str
    series: dict[str, Counter | Steps]
    silent: dict[str, tuple[float, ...]]
    firing: dict[str, tuple[float, ...]]


def latency(bound: str, fast: float, slow: float) -> dict[str, Counter | Steps]:
    return {f'model_request_duration_seconds_bucket{{{MODEL},le="{bound}"}}': Counter(((10, fast), (15, slow)))}


FEATURE = f'{MODEL},feature="age"'
WINDOW = f'{FEATURE},window="5m"'


def age(**values: tuple[tuple[float, float | None], ...]) -> dict[str, Counter | Steps]:
    """Gauges of a feature in a window of 100 values, as far as they are not those of training."""
    healthy = {"kl_divergence": 0.01, "kl_divergence_noise": 0.2, "window_observations": 100, "mean_shift": 0.1}
    healthy |= {"recent_kl_divergence": 0.01, "missing_ratio": 0.01, "invalid_ratio": 0, "unseen_ratio": 0}
    phases = {name: ((50.0, value),) for name, value in healthy.items()} | values
    return {f"model_feature_{name}{{{WINDOW}}}": Steps(phase) for name, phase in phases.items()} | {
        f"model_feature_reference_missing_ratio{{{WINDOW}}}": Steps(((50, 0.01),))
    }


EVIDENCE: dict[str, Counter | Steps] = {
    f"model_drift_evidence{{{MODEL}}}": Steps(((20, 2), (30, 20))),
    f"model_drift_evidence_limit{{{MODEL}}}": Steps(((50, 13.2),)),
}
SCENARIOS = {
    "a machine without room": Scenario(
        "system",
        {
            f"model_system_{name}_utilization_ratio{{{EXPORTER}}}": Steps(((10, 0.5), (20, 0.95), (20, 0.5)))
            for name in ("cpu", "memory", "disk")
        },
        dict.fromkeys(("ModelHostCpuHigh", "ModelHostMemoryHigh", "ModelHostDiskHigh"), (9, 14, 40)),
        dict.fromkeys(("ModelHostCpuHigh", "ModelHostMemoryHigh", "ModelHostDiskHigh"), (17, 29)),
    ),
    "an exporter that is away": Scenario(
        "system",
        {f"up{{{EXPORTER}}}": Steps(((20, 1), (1, 0), (10, 1), (10, 0), (10, 1)))},
        {"ModelExporterDown": (20, 22, 23, 24, 30, 50)},
        {"ModelExporterDown": (36, 40)},
    ),
    "an abrupt change": Scenario(
        "data",
        age(
            kl_divergence=((20, 0.01), (15, 3), (15, 0.01)),
            recent_kl_divergence=((20, 0.01), (15, 3), (15, 0.01)),
            change_kl_divergence=((20, None), (10, 3), (20, None)),
        ),
        {"ModelInputsChanged": (18, 45)},
        {"ModelInputsChanged": (25, 34)},
    ),
    "causes": Scenario(
        "data",
        age(kl_divergence=((50, 3),), mean_shift=((50, 2),), missing_ratio=((50, 0.3),))
        | EVIDENCE
        | {
            f'model_prediction_kl_divergence{{{MODEL},window="5m"}}': Steps(((50, 3),)),
            f'model_prediction_kl_divergence_noise{{{MODEL},window="5m"}}': Steps(((50, 0.2),)),
        },
        dict.fromkeys(
            ("ModelFeatureDrift", "ModelPredictionDrift", "ModelFeatureMeanShift", "ModelFeatureMissing"), (18, 23)
        ),
        dict.fromkeys(
            ("ModelFeatureDrift", "ModelPredictionDrift", "ModelFeatureMeanShift", "ModelFeatureMissing"), (30, 49)
        ),
    ),
    "a correction that waits": Scenario(
        "business",
        {'model_corrections_oldest_pending_seconds{model="digits"}': Steps(((10, 80_000), (10, 90_000), (10, 0)))},
        {"ModelReviewBacklog": (9, 27)},
        {"ModelReviewBacklog": (13, 19)},
    ),
    "a configuration that is not valid": Scenario(
        "exporter",
        {
            f"model_exporter_config_last_reload_successful{{{EXPORTER}}}": Steps(((10, 1), (20, 0))),
            'prometheus_config_last_reload_successful{job="prometheus",instance="p"}': Steps(((10, 1), (20, 0))),
        },
        {"ModelConfigReloadFailed": (9, 14), "RulesFailing": (9, 14)},
        {"ModelConfigReloadFailed": (17, 29), "RulesFailing": (17, 29)},
    ),
    "messages that fail": Scenario(
        "exporter",
        {
            'alertmanager_notifications_failed_total{job="alertmanager",instance="m",integration="email"}': Counter(
                ((10, 0), (30, 0.05))
            )
        },
        {"NotificationsFailing": (9, 15, 18)},
        {"NotificationsFailing": (25, 39)},
    ),
    "messages that fail for a minute": Scenario(
        "exporter",
        {
            'alertmanager_notifications_failed_total{job="alertmanager",instance="m",integration="webhook"}': Counter(
                ((10, 0), (1, 0.2), (19, 0))
            )
        },
        {"NotificationsFailing": (12, 16, 18, 20, 22, 29)},
        {},
    ),
    "a backup that is old": Scenario(
        "exporter",
        {f"model_exporter_last_backup_timestamp_seconds{{{EXPORTER}}}": Steps(((10, 0), (10, 1 - 172_000)))},
        {"ModelBackupOld": (9,)},
        {},
    ),
    "errors": Scenario(
        "system",
        {
            f'model_requests_total{{{MODEL},code="200"}}': Counter(((20, 20), (20, 18), (15, 20))),
            f'model_requests_total{{{MODEL},code="500"}}': Counter(((20, None), (20, 2), (15, 0))),
        },
        {"ModelErrorRatioHigh": (10, 20, 52)},
        {"ModelErrorRatioHigh": (24, 30, 39)},
    ),
    "error objective": Scenario(
        "system",
        {
            f'model_objective{{{MODEL_ONLY},objective="errors"}}': Steps(((70, 0.9999),)),
            f'model_requests_total{{{MODEL},code="200"}}': Counter(((10, 20), (60, 19.9))),
            f'model_requests_total{{{MODEL},code="500"}}': Counter(((10, None), (60, 0.1))),
        },
        {"ModelErrorBudgetBurn": (5, 9)},
        {"ModelErrorBudgetBurn": (60, 69)},
    ),
    "latency": Scenario(
        "system",
        latency("0.5", 10, 8)
        | latency("1", 10, 10)
        | latency("+Inf", 10, 10)
        | {f"model_request_duration_seconds_count{{{MODEL}}}": Counter(((25, 10),))},
        {"ModelLatencyHigh": (5, 10)},
        {"ModelLatencyHigh": (20, 24)},
    ),
    "latency objective": Scenario(
        "system",
        {
            f'model_objective{{{MODEL_ONLY},objective="latency"}}': Steps(((70, 0.95),)),
            f'model_objective_latency_seconds{{{MODEL_ONLY},bucket="0.5"}}': Steps(((70, 0.5),)),
            f'model_request_duration_seconds_bucket{{{MODEL},le="0.5"}}': Counter(((10, 10), (60, 0))),
            f"model_request_duration_seconds_count{{{MODEL}}}": Counter(((70, 10),)),
        },
        {"ModelLatencyBudgetBurn": (5, 12)},
        {"ModelLatencyBudgetBurn": (60, 69)},
    ),
    "no traffic": Scenario(
        "system",
        {f'model_requests_total{{{MODEL},code="200"}}': Counter(((20, 0.5), (30, 0)))},
        {"ModelTrafficMissing": (10, 28)},
        {"ModelTrafficMissing": (35, 40)},
    ),
    "corrections": Scenario(
        "business",
        {
            f"model_attempts_total{{{MODEL}}}": Counter(((40, 1),)),
            f"model_confident_predictions_total{{{MODEL}}}": Counter(((40, 1),)),
            f"model_corrections_total{{{MODEL}}}": Counter(((10, 0), (30, 0.05))),
        },
        {"ModelCorrectionRatioHigh": (10,)},
        {"ModelCorrectionRatioHigh": (26, 39)},
    ),
    "few attempts": Scenario(
        "business",
        {
            f'model_alert_threshold{{{MODEL_ONLY},alert="ModelConfidentRatioLow"}}': Steps(((59, 0.46),)),
            f"model_attempts_total{{{MODEL}}}": Steps(((5, 0), (15, 1), (19, 8), (20, 14))),
            f"model_confident_predictions_total{{{MODEL}}}": Steps(((59, 0),)),
        },
        {"ModelConfidentRatioLow": (24, 38)},
        {"ModelConfidentRatioLow": (57,)},
    ),
    "three corrections": Scenario(
        "business",
        {
            f"model_attempts_total{{{MODEL}}}": Counter(((59, 0.002),)),
            f"model_confident_predictions_total{{{MODEL}}}": Counter(((59, 0.002),)),
            f"model_corrections_total{{{MODEL},{EXPORTER}}}": Steps(((20, None), (10, 1), (10, 2), (19, 3))),
            f"process_start_time_seconds{{{EXPORTER}}}": Steps(((59, 0),)),
        },
        {"ModelCorrectionRatioHigh": (39,)},
        {"ModelCorrectionRatioHigh": (47, 58)},
    ),
    "accuracy of a version that is rolled back": Scenario(
        "business",
        {
            f"model_attempts_total{{{MODEL}}}": Counter(((20, 0.1), (90, 0))),
            f"model_reference_accuracy_overall{{{MODEL}}}": Steps(((110, 0.9),)),
            f'model_accuracy{{{MODEL},window="7d"}}': Steps(((5, 0.9), (105, 0.5))),
            f'model_window_labelled_predictions{{{MODEL},window="7d"}}': Steps(((110, 40),)),
        },
        {"ModelAccuracyLow": (5, 18, 85, 109)},
        {"ModelAccuracyLow": (22, 78)},
    ),
    "errors of a regression in two replicas": Scenario(
        "business",
        {
            f"model_attempts_total{{{MODEL}}}": Counter(((60, 0.1),)),
            f"model_reference_mean_absolute_error_overall{{{MODEL}}}": Steps(((60, 2),)),
        }
        | {
            f'{name}{{{MODEL},window="7d",instance="{instance}"}}': Steps(phases)
            for instance in ("a", "b")  # each with too few labels to be judged by itself
            for name, phases in (
                ("model_mean_absolute_error", ((20, 2), (40, 6))),
                ("model_root_mean_squared_error", ((20, 2.5), (40, 7))),
                ("model_window_labelled_predictions", ((60, 12),)),
            )
        },
        {"ModelAccuracyLow": (20, 34)},
        {"ModelAccuracyLow": (37, 59)},
    ),
    "losses": Scenario(
        "exporter",
        {
            f"model_exporter_events_dropped_total{{{EXPORTER}}}": Counter(((10, 0), (20, 0.1))),
            f'model_exporter_events_rejected_total{{{EXPORTER},reason="wrong_type"}}': Counter(((10, 0), (20, 0.1))),
            f"model_exporter_store_errors_total{{{EXPORTER}}}": Counter(((10, 0), (20, 0.1))),
        },
        dict.fromkeys(("ModelEventsDropped", "ModelEventsRejected", "ModelStoreFailing"), (10, 14)),
        dict.fromkeys(("ModelEventsDropped", "ModelEventsRejected", "ModelStoreFailing"), (17, 29)),
    ),
    "one burst of losses": Scenario(
        "exporter",
        {
            f"model_exporter_events_dropped_total{{{EXPORTER}}}": Steps(((10, 0), (20, 90))),
            f'model_exporter_events_rejected_total{{{EXPORTER},reason="too_long"}}': Steps(((10, 0), (20, 90))),
            f"model_exporter_store_errors_total{{{EXPORTER}}}": Steps(((10, 0), (20, 90))),
        },
        dict.fromkeys(("ModelEventsDropped", "ModelEventsRejected", "ModelStoreFailing"), (14, 15, 16, 20)),
        {},
    ),
    "drift over all replicas": Scenario(
        "data",
        {
            f'model_feature_reference_probability{{{MODEL},feature="age",bin="{name}"}}': Steps(((50, share),))
            for name, share in BINS.items()
        }
        | {f'model_feature_reference_missing_ratio{{{MODEL},feature="age"}}': Steps(((50, BINS["03 missing"]),))}
        | {
            f'model_feature_observations_total{{{MODEL},feature="age",bin="{name}"}}': Counter(((20, 1), (30, rate)))
            for name, rate in zip(BINS, (20, 0, 0), strict=True)
            if name != "03 missing"
        }
        | {
            f"model_drift_evidence{{{MODEL}}}": Steps(((20, 2), (30, 20))),
            f"model_drift_evidence_limit{{{MODEL}}}": Steps(((50, 13.2),)),
        },
        {"ModelFeatureDrift": (18,), "ModelDrift": (18,)},
        {"ModelFeatureDrift": (40, 49), "ModelDrift": (28, 49)},
    ),
}
WEEK = ((0.7 * DAY, None), (0.5 * DAY, 1), (5.5 * DAY, None))
"""Half a day that is compared with half a day of a week later; no alert reads the days between them."""
DAYS = {
    "days": Scenario(
        "business",
        {
            f"model_attempts_total{{{MODEL}}}": Counter((*WEEK, (1.3 * DAY, 1), (0.65 * DAY, 0.1))),
            f"model_confident_predictions_total{{{MODEL}}}": Counter((*WEEK, (1.3 * DAY, 0.9), (0.65 * DAY, 0.04))),
            f'model_feedback_total{{{MODEL},verdict="accepted"}}': Counter((*WEEK, (0.8 * DAY, 0.01), (1.15 * DAY, 0))),
            'model_exporter_feedback_unjoined{model="digits"}': Steps(((7.5 * DAY, 0), (1.15 * DAY, 3))),
        },
        dict.fromkeys(
            ("ModelAttemptsDrop", "ModelConfidentRatioLow", "ModelFeedbackMissing", "ModelFeedbackUnjoined"),
            (7.8 * DAY, 8 * DAY),
        ),
        {
            "ModelAttemptsDrop": (8 * DAY + 120,),
            "ModelConfidentRatioLow": (8 * DAY + 120,),
            "ModelFeedbackMissing": (8.6 * DAY,),
            "ModelFeedbackUnjoined": (8.6 * DAY,),
        },
    ),
}


def in_promtool(name: str, scenario: Scenario, interval: int, *, miss: bool = False) -> dict[str, Any]:
    """A test of a scenario that is scraped at an interval of seconds."""
    minutes = max(sum(phase[0] for phase in series.phases) for series in scenario.series.values())
    present = Steps(((minutes, 1),))
    series = {f"model_info{{{MODEL}}}": present, f"up{{{EXPORTER}}}": present, **scenario.series}
    checks = [
        expected(f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})', f"{int(minute * 60)}s", samples)
        for samples, alerts in (({}, scenario.silent), ({"{}": 1}, scenario.firing))
        for alert, moments in alerts.items()
        for minute in moments
    ]
    # Once: from silence to the last moment, no condition has begun anew.
    for alert, moments in scenario.firing.items():
        silence = max(minute for minute in scenario.silent[alert] if minute < moments[0])
        anew = f'changes(ALERTS_FOR_STATE{{alertname="{alert}"}}[{int((moments[-1] - silence) * 60)}s]) > 0'
        checks.append(expected(anew, f"{int(moments[-1] * 60)}s", {}))
    values = {key: notation(value.samples(interval), miss=miss) for key, value in series.items()}
    return {
        "name": f"{name} at {interval} s",
        "interval": f"{interval}s",
        "input_series": series_of(values),
        "promql_expr_test": checks,
    }


@pytest.mark.parametrize(("layer", "interval"), [(layer, time) for layer in INTERVALS for time in INTERVALS[layer]])
def test_alerts_at_a_scrape_interval(tmp_path: Path, layer: str, interval: int) -> None:
    """Each alert is silent before, and fires soon after and once, evaluated between scrapes; some are missed."""
    scenarios = [(name, scenario) for name, scenario in SCENARIOS.items() if scenario.rules == layer]
    tests = [in_promtool(name, scenario, interval, miss=interval > 5) for name, scenario in scenarios]
    check_rules(tmp_path, tests, groups_of(RULES / f"{layer}.yml"), f"{EVALUATIONS[layer]}s")


def test_alerts_over_days_at_a_scrape_interval(tmp_path: Path) -> None:
    """Alerts that compare days are silent before and fire soon after."""
    tests = [in_promtool(name, scenario, 60, miss=True) for name, scenario in DAYS.items()]
    check_rules(tmp_path, tests, groups_of(RULES / "business.yml"), "290s")


def test_every_alert_that_depends_on_a_range_is_tested() -> None:
    """The scenarios name every alert whose expression, or a recording rule in it, has a range."""
    recorded = {rule["record"]: rule["expr"] for group in GROUPS for rule in group["rules"] if "record" in rule}

    def has_range(expr: str) -> bool:
        used = set(re.findall(r"\bmodel\w*:\w+:\w+", expr)) & recorded.keys()
        return bool(re.search(r"\[\d+[smhdw]", expr)) or any(has_range(recorded[name]) for name in used)

    alerts = {rule["alert"]: rule["expr"] for group in GROUPS for rule in group["rules"] if "alert" in rule}
    fired = {alert for scenario in (*SCENARIOS.values(), *DAYS.values()) for alert in scenario.firing}
    assert fired == {name for name, expr in alerts.items() if has_range(expr)} - {"ModelBackupOld"}


@pytest.mark.parametrize(("interval", "ratio"), [(5, 0.05), (60, 0.02)])
def test_a_range_of_a_minute_is_kept_where_it_holds_two_samples(tmp_path: Path, interval: int, ratio: float) -> None:
    """Two minutes after errors began, a ratio over a minute holds only them; over five, what was before, too."""
    series: dict[str, Counter | Steps] = {
        f'model_requests_total{{{MODEL},code="200"}}': Counter(((10, 20), (4, 19))),
        f'model_requests_total{{{MODEL},code="500"}}': Counter(((10, 0), (4, 1))),
    }
    test = in_promtool("errors", Scenario("system", series, {}, {}), interval)
    for name, unit, value in (("request_error_ratio", 0.01, ratio), ("requests", 1, 20)):
        check = expected(f"round(model_version:{name}:rate1m, {unit})", "749s", {f"{{{MODEL}}}": value})
        test["promql_expr_test"].append(check)
    check_rules(tmp_path, [test], groups_of(RULES / "system.yml"), "7s")
