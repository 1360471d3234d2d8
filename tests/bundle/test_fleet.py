"""The list of all models, its states and texts, and figures over replicas, as Prometheus computes them from series."""

from __future__ import annotations

from pathlib import Path

from support.promtool import Group, check_rules, expected, groups_of, series_of
from test_dashboards import EVERY, Chosen

from grafana import panels as cells
from grafana.layout import increase
from grafana.model_fleet import states
from grafana.model_overview import MACHINES, layer_state
from grafana.panels import STATES

RULES = groups_of()
Check = tuple[str, dict[str, float], str]
"""An expression, the values that it returns by their labels, and when."""


def evaluate(
    folder: Path, series: dict[str, str], *checks: Check, rules: list[Group] = RULES, every: str = "15s"
) -> None:
    """Check what expressions return after the rules were evaluated over series in promtool's notation."""
    of_expressions = [expected(expr, at, samples) for expr, samples, at in checks]
    test = {"interval": "15s", "input_series": series_of(series), "promql_expr_test": of_expressions}
    check_rules(folder, [test], rules, every)


def exporter(name: str, models: str, up: str) -> dict[str, str]:
    """The series of an exporter that is configured with models, one letter each."""
    target = f'instance="{name}",job="model-exporter"'
    links = 'external_url="x",dashboards_url="y"'
    known = {
        f'model_exporter_links_info{{model="{model}",{links},{target}}}': up.replace("0x", "_x") for model in models
    }
    return {f"up{{{target}}}": up, **known}


def running(model: str, instance: str, values: str = "1x200", errors: str = "0x200") -> dict[str, str]:
    """The series of a model with a request a second, and as many more that fail."""
    labels = f'model="{model}",version="1",instance="{instance}",job="model-exporter"'
    return {
        f'model_info{{{labels},profile="none"}}': values,
        f'model_requests_total{{{labels},code="200"}}': "0+15x200" if values == "1x200" else f"0+15x{values[2:]}",
        f'model_requests_total{{{labels},code="500"}}': errors,
    }


OF_MODELS = 'model!=""'
STATE = f"max by (model) ({states(OF_MODELS)})"
NUMBERS = {name: number for number, name in enumerate(STATES)}


def expect(**by_model: str) -> dict[str, float]:
    return {f'{{model="{model}"}}': NUMBERS[name] for model, name in by_model.items()}


def test_the_state_is_that_of_the_worst_alert(tmp_path: Path) -> None:
    """A pending alert shows before it fires; a model without predictions is not OK."""
    series = exporter("e", "abc", "1x200") | running("a", "e") | running("b", "e", errors="0x40 0+15x159")
    evaluate(
        tmp_path,
        series,
        (STATE, expect(a="OK", b="OK", c="no traffic"), "9m"),
        (STATE, expect(a="OK", b="pending", c="no traffic"), "10m45s"),
        (STATE, expect(a="OK", b="critical", c="no traffic"), "20m"),
    )


def test_a_model_that_stopped_is_never_ok(tmp_path: Path) -> None:
    """ModelTrafficMissing fires as long as no request comes."""
    series = exporter("e", "ab", "1x800") | running("a", "e", "1x800", "0x800") | running("b", "e", "1x800", "0x800")
    requests = next(
        name for name in series if "model_requests_total" in name and 'model="a"' in name and '"200"' in name
    )
    series = {
        name: "0+15x800" if name.startswith("model_requests_total") and 'code="200"' in name else values
        for name, values in series.items()
    }
    series[requests] = "0+15x80 1200x720"
    states = (STATE, expect(a="OK", b="OK"), "19m"), (STATE, expect(a="warning", b="OK"), "80m")
    evaluate(tmp_path, series, *states, every="1m")


def test_the_models_of_an_exporter_that_is_down_are_unknown(tmp_path: Path) -> None:
    """They are listed for a day, unless another exporter has them, or theirs is up and no longer has them."""
    down = exporter("gone", "ab", "1x40 0x7000") | running("a", "gone", "1x40")
    other = exporter("e", "b", "1x7000")
    evaluate(
        tmp_path,
        down | other,
        (STATE, expect(a="OK", b="no traffic"), "9m"),
        (STATE, expect(a="unknown", b="no traffic"), "30m"),
        every="1m",
    )
    removed = exporter("e", "c", "1x200") | exporter("f", "d", "1x200")
    (name,) = (name for name in removed if name.startswith("model_exporter") and 'model="d"' in name)
    removed[name] = "1x40 stale"
    evaluate(tmp_path, removed, (STATE, expect(c="no traffic"), "30m"), every="1m")


def test_without_rules_nothing_is_ok(tmp_path: Path) -> None:
    """A Prometheus that scrapes a model but evaluates no rules knows nothing of its state."""
    evaluate(tmp_path, running("a", "e"), (STATE, expect(a="unknown"), "5m"), rules=[])


def test_without_alerts_nothing_is_ok(tmp_path: Path) -> None:
    """Where only the recording rules are evaluated, no alert can fire, and that all is well is not known."""
    recording = [group | {"rules": [rule for rule in group["rules"] if "record" in rule]} for group in RULES]
    series = exporter("e", "a", "1x200") | running("a", "e")
    of_layer = of_one_model("system")
    unknown = (STATE, expect(a="unknown"), "9m"), (of_layer, {"{}": NUMBERS["unknown"]}, "9m")
    evaluate(tmp_path, series, *unknown, rules=recording)
    evaluate(tmp_path, series, (of_layer, {"{}": NUMBERS["OK"]}, "9m"))


def of_one_model(layer: str) -> str:
    """The state of a layer on Overview, of model a."""
    return layer_state(layer).replace("=~`${model:regex}`", '="a"')


def test_an_alert_of_a_machine_is_not_one_of_a_model(tmp_path: Path) -> None:
    """Overview shows it as the machine's, and not in the layer System of each model that the machine monitors."""
    series = exporter("e", "a", "1x200") | running("a", "e")
    series['model_system_cpu_utilization_ratio{instance="e",job="model-exporter"}'] = "0.95x200"
    of_model, of_machine = (of_one_model("system"), {"{}": NUMBERS["OK"]}), (MACHINES, {"{}": NUMBERS["warning"]})
    evaluate(tmp_path, series, (*of_model, "20m"), (*of_machine, "20m"))


TEXTS = (
    (0, cells.PERCENT, "0.00%"),
    (0.00051, cells.PERCENT, "0.05%"),
    (0.1005, cells.PERCENT, "10.05%"),
    (1, cells.PERCENT, "100.00%"),
    (0.0005, cells.TENTHS_PERCENT, "0.1%"),
    (1, cells.TENTHS_PERCENT, "100.0%"),
    (0.3, cells.HUNDREDTHS, "0.30"),
    (1234.5, cells.HUNDREDTHS, "1234.50"),
    (0.4371, cells.MILLISECONDS, "437 ms"),
    (12, cells.DIGITS, "12"),
    (0, cells.DIGITS, "0"),
    (-0.31416, cells.DIGITS, "-0.31"),
    (123456789.5, cells.OF_DIGITS, " of 123456789"),
)


def test_a_number_becomes_a_text(tmp_path: Path) -> None:
    """The number of digits is constant, and none is lost."""
    labels = 'model="a \\"b\\""'
    series = {f"m{number}{{{labels}}}": f"{value}x40" for number, (value, _, _) in enumerate(TEXTS)}
    checks = [
        (cells.as_label(f"m{number}", "text", form), {f'{{{labels},text="{text}"}}': 1.0}, "5m")
        for number, (_, form, text) in enumerate(TEXTS)
    ]
    evaluate(tmp_path, series, *checks, rules=[])


def test_a_mark_shows_which_values_are_beyond_their_threshold(tmp_path: Path) -> None:
    """Each model is compared with its own threshold."""
    series = {'m{model="a"}': "2x40", 'm{model="b"}': "2x40", 't{model="a"}': "1x40", 't{model="b"}': "3x40"}
    marked = cells.marked("m", "> on (model) t", "text", cells.DIGITS, "!!")
    one = {'{model="a",text="2 !!"}': 1.0, '{model="b",text="2"}': 1.0}
    evaluate(tmp_path, series, (marked, one, "5m"), rules=[])


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
    panel = next(panel for panel in EVERY["model-quality"] if panel["title"] == "$quality, $window")
    expr = Chosen().into(panel["targets"][0]["expr"])
    evaluate(tmp_path, series, (expr, {'{model="credit",version="3"}': 0.892}, "1m"), rules=[])
