"""System: does the model answer, in time, on a machine with enough resources?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import layout
from grafana.panels import time_series
from grafana.queries import BOTH, DAY_AGO, INSTANCE, MODEL, by_version
from grafana.style import BYTES, PER_SECOND, SECONDS, SHARE, Query

_NO_REQUESTS = "no requests"
_NO_GPU = "no GPU, or no driver"


def dashboard() -> Dashboard:
    """Return the dashboard System."""
    return layout.build_dashboard(
        "model-system",
        "Models / System",
        "Requests, errors and latency of a model by version, and the machine or container of the exporter.",
        [
            layout.model_variable(),
            layout.versions_variable(),
            layout.query_variable(
                "instance", "Exporter", "label_values(model_system_memory_limit_bytes, instance)", several=True
            ),
        ],
        [
            layout.row(100, "Requests", 0),
            *layout.side_by_side(1, 9, {1: requests(), 2: requests_by_code()}),
            *layout.side_by_side(10, 8, {3: error_ratio(), 4: error_budget()}),
            layout.row(101, "Latency", 18),
            *layout.side_by_side(19, 9, {5: latency(), 6: latency_by_version()}),
            layout.row(102, "The exporter's machine or container", 28),
            *layout.side_by_side(29, 7, {7: cpu(), 8: memory(), 9: memory_bytes(), 10: disk()}),
            layout.row(103, "GPU", 36, layout.side_by_side(37, 7, {11: gpu(), 12: gpu_memory()})),
        ],
        links=[layout.DRIFT, layout.REVIEW],
        alerts="system",
    )


def requests() -> Panel:
    expr = f"model_version:requests:rate1m{{{BOTH}}}"
    return time_series(
        "Requests by version",
        "Requests a second over one minute, for all replicas, and the total of the selected versions a day ago.",
        PER_SECOND,
        *by_version(expr, "version {{version}}"),
        Query(f"sum({expr}{DAY_AGO})", "total, a day ago", role="past"),
        empty=_NO_REQUESTS,
    )


def requests_by_code() -> Panel:
    return time_series(
        "Requests by HTTP code",
        "Requests a second by HTTP code.",
        PER_SECOND,
        Query(f"sum by (code) (rate(model_requests_total{{{BOTH}}}[$__rate_interval]))", "{{code}}"),
        empty=_NO_REQUESTS,
    )


def error_ratio() -> Panel:
    return time_series(
        "Error ratio by version",
        "Share of requests answered with a 5xx, over one minute.",
        SHARE,
        *by_version(f"model_version:request_error_ratio:rate1m{{{BOTH}}}", "version {{version}}"),
        Query(f"model:threshold:ModelErrorRatioHigh{{{MODEL}}}", "threshold", role="threshold"),
        empty=_NO_REQUESTS,
    )


def error_budget() -> Panel:
    windows = ("5m", "30m", "1h", "6h")
    return time_series(
        "Error ratio in the windows of the budget",
        (
            "The windows of ModelErrorBudgetBurn: a long window shows that the loss matters, a short one that it "
            "still continues."
        ),
        SHARE,
        *(Query(f"max(model_version:request_error_ratio:rate{window}{{{BOTH}}})", window) for window in windows),
        empty=_NO_REQUESTS,
        top=0.01,
    )


def latency() -> Panel:
    quantiles = ("p50", "p95", "p99")
    return time_series(
        "Latency of the slowest version",
        "50, 95 and 99 % of requests are faster than this, over five minutes.",
        SECONDS,
        *(Query(f"max(model_version:request_duration_seconds:{q}_rate5m{{{BOTH}}})", q) for q in quantiles),
        Query(f"model:threshold:ModelLatencyHigh{{{MODEL}}}", "threshold (p95)", role="threshold"),
        empty="no durations",
    )


def latency_by_version() -> Panel:
    expr = f"model_version:request_duration_seconds:p95_rate5m{{{BOTH}}}"
    return time_series(
        "Latency p95 by version",
        "95 % of requests are faster than this, over five minutes, and the slowest version a day ago.",
        SECONDS,
        *by_version(expr, "version {{version}}"),
        Query(f"max({expr}{DAY_AGO})", "slowest, a day ago", role="past"),
        Query(f"model:threshold:ModelLatencyHigh{{{MODEL}}}", "threshold", role="threshold"),
        empty="no durations",
    )


def _share(title: str, description: str, query: Query, empty: str = "no scrape") -> Panel:
    return time_series(title, description, SHARE, query, empty=empty, most=1)


def cpu() -> Panel:
    expr = f"model_system_cpu_utilization_ratio{{{INSTANCE}}}"
    return _share("CPU", "Share of processor time in use.", Query(expr, "{{instance}}"))


def memory() -> Panel:
    expr = f"model_system_memory_utilization_ratio{{{INSTANCE}}}"
    return _share("Memory", "Memory in use as a share of the limit.", Query(expr, "{{instance}}"))


def memory_bytes() -> Panel:
    return time_series(
        "Memory in bytes",
        "Memory in use, except what the kernel can reclaim at once, and the limit.",
        BYTES,
        Query(f"model_system_memory_used_bytes{{{INSTANCE}}}", "used {{instance}}"),
        Query(f"model_system_memory_limit_bytes{{{INSTANCE}}}", "limit {{instance}}", role="reference"),
        empty="no scrape",
    )


def disk() -> Panel:
    expr = f"model_system_disk_utilization_ratio{{{INSTANCE}}}"
    return _share("Disk", "Share of each file system in use.", Query(expr, "{{path}} {{instance}}"))


def gpu() -> Panel:
    expr = f"model_system_gpu_utilization_ratio{{{INSTANCE}}}"
    return _share("GPU", "Share of time in which the GPU is busy.", Query(expr, "{{gpu}} {{instance}}"), _NO_GPU)


def gpu_memory() -> Panel:
    return time_series(
        "GPU memory",
        "GPU memory in use, and its limit.",
        BYTES,
        Query(f"model_system_gpu_memory_used_bytes{{{INSTANCE}}}", "{{gpu}} used"),
        Query(f"model_system_gpu_memory_limit_bytes{{{INSTANCE}}}", "{{gpu}} limit", role="reference"),
        empty=_NO_GPU,
    )
