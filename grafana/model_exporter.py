"""The exporter itself: does it accept, count and store what it is sent?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from exporter.errors import REASONS, WARNINGS
from exporter.metrics.exposition import SOURCES
from grafana import layout
from grafana import panels as p
from grafana.layout import INSTANCE, by_rank


def size() -> Panel:
    """Predictions are deleted to stay below the maximum size; feedback and what else is kept is not. ModelStoreFailing
    fires when what is kept has reached the maximum size.
    """
    return p.time_series(
        "Size of the store",
        p.BYTES,
        p.Query(f"model_exporter_store_bytes{{{INSTANCE}}}", "{{part}} {{instance}}"),
        p.Query(f"model_exporter_store_max_bytes{{{INSTANCE}}} < +Inf", "maximum {{instance}}", role="reference"),
        overrides=p.matching_series({"^kept ": p.PALETTE[0], "^predictions ": p.PALETTE[1]}),
        least=0,
    )


def dashboard() -> Dashboard:
    """Return the dashboard Exporter."""
    return layout.build_dashboard(
        "model-exporter",
        "Models / Exporter",
        "The exporter itself: what it accepts, refuses and loses, and what it costs.",
        [
            layout.query_variable(
                "instance", "Exporter", 'label_values(up{job="model-exporter"}, instance)', several=True
            )
        ],
        [
            *layout.side_by_side(0, 8, {1: up, 2: collectors, 3: reloads}),
            layout.row(100, "Events", 8),
            *layout.side_by_side(9, 8, {4: taken, 5: refused, 6: lost}),
            *layout.side_by_side(17, 8, {7: queue, 8: unknown_features}),
            layout.row(101, "Cost and store", 25),
            *layout.side_by_side(26, 8, {13: memory, 14: cpu, 17: size}),
            *layout.side_by_side(34, 5, {16: builds}),
        ],
    )


def _health(title: str, expr: str, legend: str) -> Panel:
    query, empty = p.Query(expr, legend), "no exporter is scraped"
    return p.state_timeline(title, query, empty=empty, names=p.SUCCESS)


def up() -> Panel:
    """Whether Prometheus can scrape each exporter. A gap means that it was not a target."""
    return _health("Scraped", f'up{{job="model-exporter",{INSTANCE}}}', "{{instance}}")


def collectors() -> Panel:
    """Whether each part of the exposition is complete."""
    expr = f"min by (collector) (model_exporter_collector_success{{{INSTANCE}}})"
    return _health("Collectors", expr, "{{collector}}")


def reloads() -> Panel:
    """Whether the last reload of the configuration succeeded. If not, the previous configuration is in effect. Below,
    files of models_folder that are not valid, at most five.
    """
    return p.state_timeline(
        "Configuration",
        p.Query(f"min by (instance) (model_exporter_config_last_reload_successful{{{INSTANCE}}})", "{{instance}}"),
        p.Query(f"topk(5, min by (file) (model_exporter_model_file_valid{{{INSTANCE}}}) == 0)", "{{file}}"),
        names=p.SUCCESS,
    )


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{INSTANCE}}}[$__rate_interval]))"


def taken() -> Panel:
    """Accepted events a second, all and by source."""
    return p.time_series(
        "Events accepted",
        p.EVENTS_PER_SECOND,
        p.Query(f"sum({_rate('model_exporter_events_total', 'source')})", "all"),
        p.Query(_rate_if_any("model_exporter_events_total", "source"), "{{source}}"),
        values=False,
        overrides=p.named_series(SOURCES),
    )


def _rate_if_any(metric: str, by: str) -> str:
    """Return the rates of those that are not 0 in the whole time range: a legend of all has no room."""
    return f"{_rate(metric, by)} and on ({by}) {_increase(metric, by)} > 0"


def _increase(metric: str, by: str) -> str:
    return f"sum by ({by}) (increase({metric}{{{INSTANCE}}}[$__range] @ end()))"


def refused() -> Panel:
    """Refused events a second, all and by reason. ModelEventsRejected fires above 0. Warnings are requests that were
    accepted, but look wrong. The exporter's log names the clients.
    """
    return p.time_series(
        "Events refused",
        p.EVENTS_PER_SECOND,
        p.Query(f"sum({_rate('model_exporter_events_rejected_total', 'reason')})", "refused"),
        p.Query(_rate_if_any("model_exporter_events_rejected_total", "reason"), "{{reason}}"),
        p.Query(_rate_if_any("model_exporter_event_warnings_total", "reason"), "warning: {{reason}}"),
        values=False,
        top=1,
        overrides=p.named_series([*REASONS, *(f"warning: {reason}" for reason in WARNINGS)]),
    )


def lost() -> Panel:
    """Events a second that were accepted and then lost, and failed reads and writes of the store, of all chosen
    exporters. Alerts fire above 0, and name the exporter.
    """
    return p.time_series(
        "Lost events, store failures",
        p.EVENTS_PER_SECOND,
        p.Query(f"sum({_rate('model_exporter_events_dropped_total', 'instance')})", "lost"),
        p.Query(f"sum({_rate('model_exporter_store_errors_total', 'instance')})", "failed reads and writes"),
        top=1,
    )


def queue() -> Panel:
    """Predictions waiting to be counted, of the six exporters with most, and the number at which one answers 503."""
    return p.time_series(
        "Predictions in the queue",
        p.COUNT,
        *layout.by_instance(f"model_exporter_queue_length{{{INSTANCE}}}"),
        p.Query(f"min(model_exporter_queue_capacity{{{INSTANCE}}})", "may wait", role="reference"),
    )


def unknown_features() -> Panel:
    """Features a second that the profile does not have, usually misspelt names: of all models, and of the six with
    most of them.
    """
    metric = "model_exporter_unknown_features_total"
    return p.time_series(
        "Unknown features",
        p.EVENTS_PER_SECOND,
        p.Query(f"sum({_rate(metric, 'model')})", "all models"),
        *by_rank(_rate_if_any(metric, "model"), _increase(metric, "model"), "model"),
        empty="no model has a profile, or no exporter is scraped",
        top=1,
    )


_JOB = 'job="model-exporter",' + INSTANCE


def memory() -> Panel:
    """Resident memory of the six exporters with most."""
    return p.time_series("Memory", p.BYTES, *layout.by_instance(f"process_resident_memory_bytes{{{_JOB}}}"))


def cpu() -> Panel:
    """Processors in use by the six exporters with most."""
    now, all_time = (
        f"process_cpu_seconds_total{{{_JOB}}}[{over}" for over in ("$__rate_interval]", "$__range] @ end()")
    )
    return p.time_series("Processors in use", p.BARE, *by_rank(f"rate({now})", f"rate({all_time})", "instance"))


def builds() -> Panel:
    """Version and start time of each exporter."""
    return p.table(
        "Builds",
        p.BARE,
        p.Query(
            f"1000 * process_start_time_seconds{{{_JOB}}}"
            f" * on (instance) group_left (version, pythonversion) model_exporter_build_info{{{INSTANCE}}}",
            kind="table",
        ),
        transformations=[
            p.transformation(
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
            p.for_field("Exporter", minWidth=110),
            p.for_field("Version", width=75),
            p.for_field("Python", width=66),
            p.for_field("Since", minWidth=80, unit=p.SINCE),
        ],
    )
