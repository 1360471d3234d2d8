"""The exporter itself: does it accept, count and store what it is sent?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import layout
from grafana.panels import state_timeline, table, time_series
from grafana.queries import INSTANCE
from grafana.style import (
    BARE,
    BYTES,
    COUNT,
    EVENTS_PER_SECOND,
    SECONDS,
    SINCE,
    SUCCESS,
    Query,
    for_field,
    position,
    setting,
    transformation,
)

_UP = 'up{job="model-exporter",' + INSTANCE + "}"


def dashboard(exporter_url: str) -> Dashboard:
    """Return the dashboard Exporter."""
    return layout.build_dashboard(
        "model-exporter",
        "Models / Exporter",
        "The exporter itself: what it accepts, refuses and loses, and what it costs.",
        [
            layout.query_variable(
                "instance", "Exporter", 'label_values(up{job="model-exporter"}, instance)', several=True
            ),
        ],
        [
            up(),
            collectors(),
            reloads(),
            layout.row(100, "Events", 5),
            taken(),
            refused(),
            lost(),
            queue(),
            unknown_features(),
            notifications(),
            layout.row(101, "Cost", 22),
            collector_durations(),
            scrapes(),
            series(),
            memory(),
            cpu(),
            files(),
            builds(),
        ],
        exporter_url,
    )


def _health(number: int, title: str, description: str, x: int, expr: str, legend: str) -> Panel:
    return state_timeline(
        number,
        title,
        description,
        position(x, 0, 8, 5),
        Query(expr, legend),
        empty="no exporter is scraped",
        names=SUCCESS,
    )


def up() -> Panel:
    text = "Whether Prometheus can scrape each exporter. A gap means that it was not a target."
    return _health(1, "Scraped", text, 0, _UP, "{{instance}}")


def collectors() -> Panel:
    expr = f"min by (collector) (model_exporter_collector_success{{{INSTANCE}}})"
    return _health(2, "Collectors", "Whether each part of the exposition is complete.", 8, expr, "{{collector}}")


def reloads() -> Panel:
    expr = f"min by (instance) (model_exporter_config_last_reload_successful{{{INSTANCE}}})"
    text = "Whether the last reload of the configuration succeeded. If not, the previous configuration is in effect."
    return _health(3, "Configuration", text, 16, expr, "{{instance}}")


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{INSTANCE}}}[$__rate_interval]))"


def taken() -> Panel:
    return time_series(
        4,
        "Events accepted",
        "Accepted events a second, by source.",
        EVENTS_PER_SECOND,
        position(0, 6, 8, 8),
        Query(_rate("model_exporter_events_total", "source"), "{{source}}"),
        values=False,
        empty="no exporter is scraped",
        least=0,
    )


def refused() -> Panel:
    return time_series(
        5,
        "Events refused",
        "Refused events a second, by reason. ModelEventsRejected fires above 0. "
        "Warnings are requests that were accepted, but look wrong. The exporter's log names the clients.",
        EVENTS_PER_SECOND,
        position(8, 6, 8, 8),
        Query(_rate("model_exporter_events_rejected_total", "reason"), "{{reason}}"),
        Query(_rate("model_exporter_event_warnings_total", "reason"), "warning: {{reason}}"),
        values=False,
        empty="no exporter is scraped",
        least=0,
        top=1,
    )


def lost() -> Panel:
    return time_series(
        6,
        "Events lost, and failures of the store",
        (
            "Events a second that were accepted and then lost, and failed reads and writes of the store. Alerts fire "
            "above 0."
        ),
        EVENTS_PER_SECOND,
        position(16, 6, 8, 8),
        Query(_rate("model_exporter_events_dropped_total", "instance"), "lost {{instance}}"),
        Query(_rate("model_exporter_store_errors_total", "instance"), "failed {{instance}}"),
        empty="no exporter is scraped",
        least=0,
        top=1,
    )


def queue() -> Panel:
    return time_series(
        7,
        "Queue",
        "Predictions waiting to be counted, and the number at which the exporter answers 503.",
        COUNT,
        position(0, 14, 8, 8),
        Query(f"model_exporter_queue_length{{{INSTANCE}}}", "waiting {{instance}}"),
        Query(f"model_exporter_queue_capacity{{{INSTANCE}}}", "may wait {{instance}}", role="reference"),
        empty="no exporter is scraped",
        least=0,
    )


def unknown_features() -> Panel:
    return time_series(
        8,
        "Unknown features",
        "Features a second that the profile does not have, usually misspelt names.",
        EVENTS_PER_SECOND,
        position(8, 14, 8, 8),
        Query(_rate("model_exporter_unknown_features_total", "model"), "{{model}}"),
        empty="no model has a profile, or no exporter is scraped",
        least=0,
        top=1,
    )


def notifications() -> Panel:
    return time_series(
        9,
        "Notifications received",
        "Alerts a minute that Alertmanager sent to the exporter's inbox.",
        COUNT,
        position(16, 14, 8, 8),
        Query(f"60 * {_rate('model_exporter_notifications_total', 'status')}", "{{status}}"),
        empty="no exporter is scraped",
        least=0,
        top=1,
    )


def collector_durations() -> Panel:
    return time_series(
        10,
        "Time of a scrape by collector",
        "Duration of each collector in a scrape, in the slowest exporter.",
        SECONDS,
        position(0, 23, 8, 8),
        Query(f"max by (collector) (model_exporter_collector_duration_seconds{{{INSTANCE}}})", "{{collector}}"),
        empty="no exporter is scraped",
        least=0,
    )


def scrapes() -> Panel:
    return time_series(
        11,
        "Time of a scrape",
        "Duration of the scrape of each exporter, as measured by Prometheus.",
        SECONDS,
        position(8, 23, 8, 8),
        Query(_UP.replace("up{", "scrape_duration_seconds{"), "{{instance}}"),
        empty="no exporter is scraped",
        least=0,
    )


def series() -> Panel:
    return time_series(
        12,
        "Series",
        "Samples per scrape: the cost of the exporter in Prometheus.",
        COUNT,
        position(16, 23, 8, 8),
        Query(_UP.replace("up{", "scrape_samples_scraped{"), "{{instance}}"),
        empty="no exporter is scraped",
        least=0,
    )


def _process(number: int, title: str, description: str, unit: str, x: int, *queries: Query) -> Panel:
    return time_series(
        number, title, description, unit, position(x, 31, 5, 8), *queries, empty="no exporter is scraped", least=0
    )


_JOB = 'job="model-exporter",' + INSTANCE


def memory() -> Panel:
    expr = f"process_resident_memory_bytes{{{_JOB}}}"
    return _process(13, "Memory", "Resident memory of the exporter.", BYTES, 0, Query(expr, "{{instance}}"))


def cpu() -> Panel:
    expr = f"rate(process_cpu_seconds_total{{{_JOB}}}[$__rate_interval])"
    text = "Processors in use by the exporter."
    return _process(14, "Processors", text, BARE, 5, Query(expr, "{{instance}}"))


def files() -> Panel:
    return _process(
        15,
        "Open files",
        "Open files and connections of the exporter, and their limit.",
        COUNT,
        10,
        Query(f"process_open_fds{{{_JOB}}}", "open {{instance}}"),
        Query(f"process_max_fds{{{_JOB}}}", "limit", role="reference"),
    )


def builds() -> Panel:
    return table(
        16,
        "Builds",
        "Version and start time of each exporter.",
        BARE,
        position(15, 31, 9, 8),
        Query(
            f"1000 * process_start_time_seconds{{{_JOB}}}"
            f" * on (instance) group_left (version, pythonversion) model_exporter_build_info{{{INSTANCE}}}",
            kind="table",
        ),
        empty="no exporter is scraped",
        transformations=[
            transformation(
                "organize",
                excludeByName={"Time": True, "job": True},
                indexByName={"instance": 0, "version": 1, "pythonversion": 2, "Value": 3},
                renameByName={
                    "instance": "Exporter",
                    "version": "Version",
                    "pythonversion": "Python",
                    "Value": "Since",
                },
            )
        ],
        overrides=[
            for_field("Exporter", setting("custom.width", 140)),
            for_field("Version", setting("custom.width", 75)),
            for_field("Python", setting("custom.width", 75)),
            for_field("Since", setting("custom.minWidth", 80), setting("unit", SINCE)),
        ],
    )
