"""System: does the model answer, in time, on a machine with enough resources?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import layout
from grafana import panels as p
from grafana.layout import BOTH, DAY_AGO, INSTANCE, MODEL, MODEL_OR_NONE, alerts_over_time, by_version

_NO_BATCHES = "no batch was counted"


def _of_batch(metric: str, legend: str) -> p.Query:
    """Return a gauge of the last run, by version; where the same one is scraped and recorded, it is the same."""
    return p.Query(f"max by (model, version) (model_batch_{metric}{{{BOTH}}})", legend)


def rows() -> Panel:
    """Rows that the last run counted, and rows of its file that it refused."""
    return p.time_series(
        "Rows of the last batch",
        p.COUNT,
        _of_batch("rows", "counted {{version}}"),
        _of_batch("rejected_rows", "refused {{version}}"),
        empty=_NO_BATCHES,
        overrides=[p.for_query(i, *p.palette(i)) for i in range(2)],
        stepped=True,
    )


def age() -> Panel:
    """Time since the end of the last run that succeeded. It keeps rising if the job no longer runs."""
    last = _of_batch("last_success_timestamp_seconds", "version {{version}}")
    return p.time_series(
        "Time since the last batch",
        p.HOURS,
        p.Query(f"(time() - {last.expr}) / 3600", last.legend),
        empty=_NO_BATCHES,
    )


_ALERTS = alerts_over_time(
    "Alerts of the system layer",
    f'layer="system",{MODEL_OR_NONE}',
    "version, instance, path",
    f"model_info{{{MODEL}}}",
)


def dashboard() -> Dashboard:
    """Return the dashboard System."""
    return layout.build_dashboard(
        "model-system",
        "Models / System",
        "Requests, errors and latency of a model by version, and the host or container of the exporter.",
        [
            layout.model_variable(),
            layout.versions_variable(),
            layout.query_variable(
                "instance", "Exporter", "label_values(model_system_memory_limit_bytes, instance)", several=True
            ),
        ],
        [
            *layout.side_by_side(0, 6, {13: _ALERTS}),
            layout.row(100, "Requests, errors and latency", 6),
            *layout.side_by_side(7, 8, {1: requests, 3: error_ratio, 6: latency_by_version}),
            *layout.side_by_side(15, 8, {2: requests_by_code, 5: latency}),
            layout.row(104, "Objectives and error budgets", 23),
            *layout.side_by_side(24, 9, {4: error_budget, 17: latency_budget, 15: budget_left}),
            layout.row(102, "The exporter's host or container", 33),
            *layout.side_by_side(34, 8, {7: cpu, 8: memory, 10: disk}),
            layout.row(103, "GPU", 42, layout.side_by_side(43, 8, {11: gpu})),
            layout.row(
                105,
                "Batches, for models that model-exporter ingest counts",
                51,
                layout.side_by_side(52, 8, {18: rows, 19: age}),
            ),
        ],
        links=[layout.DRIFT, layout.REVIEW],
        alerts="system",
    )


def requests() -> Panel:
    """Requests a second over one minute, for all replicas, and the total of the selected versions a day ago."""
    expr = f"model_version:requests:rate1m{{{BOTH}}}"
    return p.time_series(
        "Requests by version",
        p.PER_SECOND,
        *by_version(expr, "version {{version}}"),
        p.Query(f"sum({expr}{DAY_AGO})", "total, a day ago", role="past"),
    )


def requests_by_code() -> Panel:
    """Requests a second by HTTP code: 5xx red, 4xx orange. The axis is logarithmic, to show few errors among many."""
    return p.time_series(
        "Requests by HTTP code",
        p.PER_SECOND,
        p.Query(f"sum by (code) (rate(model_requests_total{{{BOTH}}}[$__rate_interval]))", "{{code}}"),
        logarithmic_from=0.1,
        overrides=p.matching_series({"^5..$": p.CRITICAL, "^4..$": p.WARNING, "^[123]..$": p.NEUTRAL}),
    )


def error_ratio() -> Panel:
    """Share of requests answered with a 5xx, over one minute."""
    return p.time_series(
        "Error ratio by version",
        p.SHARE,
        *by_version(f"model_version:request_error_ratio:rate1m{{{BOTH}}}", "version {{version}}"),
        p.Query(f"model:threshold:ModelErrorRatioHigh{{{MODEL}}}", "threshold", role="threshold"),
    )


def _budget(objective: str) -> str:
    """Return the share of requests that may fail."""
    alert = {"errors": "ModelErrorBudgetBurn", "latency": "ModelLatencyBudgetBurn"}[objective]
    return f"(1 - model:threshold:{alert}{{{MODEL}}})"


def _windows(objective: str, title: str) -> Panel:
    requests, failures = (f"model_version_window:objective_{name}:increase" for name in ("requests", "failures"))
    series = f'{{{BOTH},objective="{objective}",window="%s"}}'
    budget = _budget(objective)
    return p.time_series(
        title,
        p.SHARE,
        *(p.Query(f"max({failures}{series % w} / ({requests}{series % w} > 0))", w) for w in ("5m", "1h", "30m", "6h")),
        p.Query(f"clamp_max(14.4 * {budget}, 0.9)", "threshold of 5m and 1h", role="threshold"),
        p.Query(f"clamp_max(6 * {budget}, 0.9)", "threshold of 30m and 6h", role="threshold"),
        p.Query(budget, "objective", role="reference"),
        logarithmic_from=0.001,
        top=0.1,
    )


def error_budget() -> Panel:
    """Share of requests that fail with a 5xx, in the windows of ModelErrorBudgetBurn, for the worst version. It fires
    if 5m and 1h are above their threshold, or 30m and 6h above theirs, beyond chance. The axis is logarithmic.
    """
    return _windows("errors", "Errors by window")


def latency_budget() -> Panel:
    """Share of requests that take longer than the latency of the model's objective, in the windows of
    ModelLatencyBudgetBurn, for the worst version. It fires if 5m and 1h are above their threshold, or 30m and 6h above
    theirs, beyond chance. The axis is logarithmic.
    """
    return _windows("latency", "Slow requests by window")


def budget_left() -> Panel:
    """Share that is left of the errors, and of the slow requests, that the model's objectives allow in 30 days, for
    all versions; fewer days if recording began later. Below 0 the objective is missed.
    """
    return p.time_series(
        "Error budget left",
        p.SHARE,
        p.Query(f"model:error_budget_remaining:ratio30d{{{MODEL}}}", "{{objective}}"),
        p.Query(f"0 * {_budget('errors')}", "threshold: used up", role="threshold"),
        overrides=p.named_series(("errors", "latency")),
        least=None,
        top=1,
    )


def latency() -> Panel:
    """50, 95 and 99% of requests are faster than this, over five minutes. The axis is logarithmic."""
    quantiles = ("p50", "p95", "p99")
    return p.time_series(
        "Latency of the slowest version",
        p.SECONDS,
        *(p.Query(f"max(model_version:request_duration_seconds:{q}_rate5m{{{BOTH}}})", q) for q in quantiles),
        p.Query(f"model:threshold:ModelLatencyHigh{{{MODEL}}}", "threshold (p95)", role="threshold"),
        p.Query(f"max(model_objective_latency_seconds{{{MODEL}}})", "objective", role="reference"),
        logarithmic_from=0.001,
    )


def latency_by_version() -> Panel:
    """95% of requests are faster than this, over five minutes, and the slowest version a day ago. The axis is
    logarithmic.
    """
    expr = f"model_version:request_duration_seconds:p95_rate5m{{{BOTH}}}"
    return p.time_series(
        "Latency p95 by version",
        p.SECONDS,
        *by_version(expr, "version {{version}}"),
        p.Query(f"max({expr}{DAY_AGO})", "slowest, a day ago", role="past"),
        p.Query(f"model:threshold:ModelLatencyHigh{{{MODEL}}}", "threshold", role="threshold"),
        logarithmic_from=0.001,
    )


def _share(title: str, name: str, alert: str, legend: str = "{{instance}}") -> Panel:
    return p.time_series(
        title,
        p.SHARE,
        *layout.by_instance(f"model_system_{name}_utilization_ratio{{{INSTANCE}}}", legend),
        p.Query(f"max(instance:threshold:{alert}{{{INSTANCE}}})", "threshold", role="threshold"),
        most=1,
    )


def cpu() -> Panel:
    """Share of CPU time in use, of the six exporters with the highest."""
    return _share("CPU", "cpu", "ModelHostCpuHigh")


def memory() -> Panel:
    """Memory in use as a share of the limit, of the six exporters with the highest."""
    return _share("Memory", "memory", "ModelHostMemoryHigh")


def disk() -> Panel:
    """Share of each file system in use, of the six with the highest."""
    return _share("Disk", "disk", "ModelHostDiskHigh", "{{path}} {{instance}}")


def gpu() -> Panel:
    """Share of time in which the GPU is busy."""
    return p.time_series(
        "GPU",
        p.SHARE,
        p.Query(f"model_system_gpu_utilization_ratio{{{INSTANCE}}}", "{{gpu}} {{instance}}"),
        empty="no GPU, or no driver",
        most=1,
    )
