"""What dashboards show of several replicas, and of series that began in the time range."""

from __future__ import annotations

from pathlib import Path

from test_dashboards import EVERY, Chosen
from test_fleet import evaluate

from grafana.layout import increase


def test_the_first_batch_of_a_series_counts(tmp_path: Path) -> None:
    """A series that began in the period counts from 0, unless Prometheus keeps nothing of the time before."""
    began, cpu = "process_start_time_seconds", "process_cpu_seconds_total"
    series = {
        'm_total{job="e",instance="a",kind="old"}': "0+1x480",
        'm_total{job="e",instance="a",kind="new"}': "_x400 100x80",
        f'{began}{{job="e",instance="a"}}': "0x480",
        f'{cpu}{{job="e",instance="a"}}': "0+1x480",
        'm_total{job="e",instance="b",kind="restarted"}': "_x400 30x80",
        f'{began}{{job="e",instance="b"}}': "_x400 6000x80",
        f'{cpu}{{job="e",instance="b"}}': "_x400 0+1x80",
        'm_total{job="e",instance="c",kind="older than what is kept"}': "_x400 5000x80",
        f'{began}{{job="e",instance="c"}}': "_x400 0x80",
        f'{cpu}{{job="e",instance="c"}}': "_x400 0+1x80",
    }
    expected = {"old": 240, "new": 100, "restarted": 30, "older than what is kept": 0}
    samples = {f'{{kind="{kind}"}}': float(value) for kind, value in expected.items()}
    evaluate(tmp_path, series, (increase("m_total", 'job="e"', "kind", "1h"), samples, "2h"), rules=[])


def test_the_accuracy_of_replicas_is_that_of_all_their_labels(tmp_path: Path) -> None:
    """A replica with two labels does not count as much as one with 98."""
    of = 'model="credit",version="3",window="1h",instance="%s"'
    series: dict[str, str] = {}
    for instance, accuracy, labels in (("a", 0.5, 2), ("b", 0.9, 98)):
        series[f"model_accuracy{{{of % instance}}}"] = f"{accuracy}x10"
        series[f"model_window_labelled_predictions{{{of % instance}}}"] = f"{labels}x10"
    panel = next(panel for panel in EVERY["model-quality"] if panel["title"].startswith("Accuracy, or"))
    expr = Chosen().into(panel["targets"][0]["expr"])
    evaluate(tmp_path, series, (expr, {'{model="credit",version="3"}': 0.892}, "1m"), rules=[])
