"""System: does the model answer, in time, on a machine with enough resources?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import layout
from grafana.panels import time_series
from grafana.queries import BOTH, DAY_AGO, INSTANCE, MODEL, by_version
from grafana.style import BYTES, PER_SECOND, SECONDS, SHARE, Query, position

_NO_REQUESTS = "no requests"
_NO_GPU = "no GPU, or no driver"


def dashboard(exporter_url: str) -> Dashboard:
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
            requests(),
            requests_by_code(),
            error_ratio(),
            error_budget(),
            layout.row(101, "Latency", 18),
            latency(),
            latency_by_version(),
            layout.row(102, "The exporter's machine or container", 28),
            cpu(),
            memory(),
            memory_bytes(),
            disk(),
            layout.row(103, "GPU", 36, [gpu(), gpu_memory()]),
        ],
        exporter_url,
        links=[layout.DRIFT, layout.REVIEW],
        alerts="system",
    )


def requests() -> Panel:
    expr = f"model_version:requests:rate1m{{{BOTH}}}"
    return time_series(
        1,
        "Requests by version",
        "Requests a second over one minute, for all replicas, and the total of the selected versions a day ago.",
        PER_SECOND,
        position(0, 1, 12, 9),
        *by_version(expr, "version {{version}}"),
        Query(f"sum({expr}{DAY_AGO})", "total, a day ago", role="past"),
        empty=_NO_REQUESTS,
        least=0,
    )


def requests_by_code() -> Panel:
    return time_series(
        2,
        "Requests by HTTP code",
        "Requests a second by HTTP code.",
        PER_SECOND,
        position(12, 1, 12, 9),
        Query(f"sum by (code) (rate(model_requests_total{{{BOTH}}}[$__rate_interval]))", "{{code}}"),
        empty=_NO_REQUESTS,
        least=0,
    )


def error_ratio() -> Panel:
    return time_series(
        3,
        "Error ratio by version",
        "Share of requests answered with a 5xx, over one minute.",
        SHARE,
        position(0, 10, 12, 8),
        *by_version(f"model_version:request_error_ratio:rate1m{{{BOTH}}}", "version {{version}}"),
        Query(f"model:threshold:ModelErrorRatioHigh{{{MODEL}}}", "threshold", role="threshold"),
        empty=_NO_REQUESTS,
        least=0,
    )


def error_budget() -> Panel:
    windows = ("5m", "30m", "1h", "6h")
    return time_series(
        4,
        "Error ratio in the windows of the budget",
        (
            "The windows of ModelErrorBudgetBurn: a long window shows that the loss matters, a short one that it "
            "still continues."
        ),
        SHARE,
        position(12, 10, 12, 8),
        *(Query(f"max(model_version:request_error_ratio:rate{window}{{{BOTH}}})", window) for window in windows),
        empty=_NO_REQUESTS,
        least=0,
        top=0.01,
    )


def latency() -> Panel:
    quantiles = ("p50", "p95", "p99")
    return time_series(
        5,
        "Latency of the slowest version",
        "50, 95 and 99 % of requests are faster than this, over five minutes.",
        SECONDS,
        position(0, 19, 12, 9),
        *(Query(f"max(model_version:request_duration_seconds:{q}_rate5m{{{BOTH}}})", q) for q in quantiles),
        Query(f"model:threshold:ModelLatencyHigh{{{MODEL}}}", "threshold (p95)", role="threshold"),
        empty="no durations",
        least=0,
    )


def latency_by_version() -> Panel:
    expr = f"model_version:request_duration_seconds:p95_rate5m{{{BOTH}}}"
    return time_series(
        6,
        "Latency p95 by version",
        "95 % of requests are faster than this, over five minutes, and the slowest version a day ago.",
        SECONDS,
        position(12, 19, 12, 9),
        *by_version(expr, "version {{version}}"),
        Query(f"max({expr}{DAY_AGO})", "slowest, a day ago", role="past"),
        Query(f"model:threshold:ModelLatencyHigh{{{MODEL}}}", "threshold", role="threshold"),
        empty="no durations",
        least=0,
    )


def _share(
    number: int, title: str, description: str, x: int, y: int, *queries: Query, w: int = 6, empty: str = "no scrape"
) -> Panel:
    return time_series(number, title, description, SHARE, position(x, y, w, 7), *queries, empty=empty, least=0, most=1)


def cpu() -> Panel:
    expr = f"model_system_cpu_utilization_ratio{{{INSTANCE}}}"
    return _share(7, "CPU", "Share of processor time in use.", 0, 29, Query(expr, "{{instance}}"))


def memory() -> Panel:
    expr = f"model_system_memory_utilization_ratio{{{INSTANCE}}}"
    return _share(8, "Memory", "Memory in use as a share of the limit.", 6, 29, Query(expr, "{{instance}}"))


def memory_bytes() -> Panel:
    return time_series(
        9,
        "Memory in bytes",
        "Memory in use, except what the kernel can reclaim at once, and the limit.",
        BYTES,
        position(12, 29, 6, 7),
        Query(f"model_system_memory_used_bytes{{{INSTANCE}}}", "used {{instance}}"),
        Query(f"model_system_memory_limit_bytes{{{INSTANCE}}}", "limit {{instance}}", role="reference"),
        empty="no scrape",
        least=0,
    )


def disk() -> Panel:
    expr = f"model_system_disk_utilization_ratio{{{INSTANCE}}}"
    return _share(10, "Disk", "Share of each file system in use.", 18, 29, Query(expr, "{{path}} {{instance}}"))


def gpu() -> Panel:
    expr = f"model_system_gpu_utilization_ratio{{{INSTANCE}}}"
    return _share(
        11,
        "GPU",
        "Share of time in which the GPU is busy.",
        0,
        37,
        Query(expr, "{{gpu}} {{instance}}"),
        w=12,
        empty=_NO_GPU,
    )


def gpu_memory() -> Panel:
    return time_series(
        12,
        "GPU memory",
        "GPU memory in use, and its limit.",
        BYTES,
        position(12, 37, 12, 7),
        Query(f"model_system_gpu_memory_used_bytes{{{INSTANCE}}}", "{{gpu}} used"),
        Query(f"model_system_gpu_memory_limit_bytes{{{INSTANCE}}}", "{{gpu}} limit", role="reference"),
        empty=_NO_GPU,
        least=0,
    )
