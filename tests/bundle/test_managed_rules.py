"""The rules for a Grafana that evaluates them itself: their form, and their queries and texts in a real Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models.alerting import Rule
from support.alertmanager import seconds
from support.paths import ROOT
from support.programs import prometheus
from support.promtool import check_file
from support.servers import ask, eventually

from grafana import rules

FILES = {name: yaml.safe_load(text) for name, text in rules.managed_rules().items()}
SOURCE = [rule for group in rules.groups() for rule in group["rules"]]
ALERTS = {
    (rule["title"], rule["labels"]["severity"]): rule
    for group in FILES["alerts.yml"]["groups"]
    for rule in group["rules"]
}
"""By name and severity: from Grafana 12 on, two rules may have one title, as in Prometheus."""
RECORDING = {rule["title"]: rule for group in FILES["recording-rules.yml"]["groups"] for rule in group["rules"]}
RULES = [*ALERTS.values(), *RECORDING.values()]
UID = "${PROMETHEUS_UID}"


# ---- form


def test_every_rule_is_in_the_files() -> None:
    """Each alert has the name, labels and periods of its source; each recording rule the same query."""
    assert {name: (rule["for"], rule.get("keepFiringFor"), rule["labels"]) for name, rule in ALERTS.items()} == {
        (rule["alert"], rule["labels"]["severity"]): (rule["for"], rule.get("keep_firing_for"), rule["labels"])
        for rule in SOURCE
        if "alert" in rule
    }
    assert {name: rule["data"][0]["model"]["expr"] for name, rule in RECORDING.items()} == {
        rule["record"]: rule["expr"] for rule in SOURCE if "record" in rule
    }
    for rule in SOURCE:
        if "alert" in rule:
            expr = ALERTS[rule["alert"], rule["labels"]["severity"]]["data"][0]["model"]["expr"]
            assert "".join(expr.split()) == "".join(f"sum without () ({rule['expr']})".split())


def test_the_groups_are_those_of_prometheus() -> None:
    """Groups keep their name and order; intervals are multiples of Grafana's ten seconds, and not shorter."""
    for name, suffix in (("alerts.yml", ""), ("recording-rules.yml", "-recording")):
        written = {group["name"]: group for group in FILES[name]["groups"]}
        for group in rules.groups():
            kind = "record" if suffix else "alert"
            titles = [rule[kind] for rule in group["rules"] if kind in rule]
            if titles:
                one = written.pop(group["name"] + suffix)
                assert [rule["title"] for rule in one["rules"]] == titles
                assert set(one) == {"orgId", "name", "folder", "interval", "rules"}
                interval, least = seconds(one["interval"]), seconds(group["interval"])
                assert interval % 10 == 0 and least <= interval < least + 10
        assert not written


def test_identifiers_are_unique_and_short() -> None:
    """Grafana refuses longer identifiers and other characters in them; titles have a longest length."""
    uids = [rule["uid"] for rule in RULES]
    assert len(set(uids)) == len(uids) and all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", uid) for uid in uids)
    assert max(len(rule["title"]) for rule in RULES) <= 190


ALERT_KEYS = {
    "uid", "title", "condition", "data", "noDataState", "execErrState", "for", "annotations", "labels",
    "missing_series_evals_to_resolve", "keepFiringFor",
}  # fmt: skip
"""Of those that Grafana's file provisioning reads; it ignores others without a word."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["title"])
def test_a_rule_has_the_form_of_file_provisioning(rule: dict[str, Any]) -> None:
    """Keys, references between queries and conditions, and what the models of Grafana's SDK read."""
    recording = rule["title"] in RECORDING
    expected = {"uid", "title", "condition", "data", "record"} if recording else ALERT_KEYS
    assert set(rule) | ({"keepFiringFor"} & expected) == expected
    refs = [query["refId"] for query in rule["data"]]
    assert len(set(refs)) == len(refs) and rule["condition"] in refs
    for query in rule["data"]:
        assert set(query) == {"refId", "relativeTimeRange", "datasourceUid", "model"}
        assert query["relativeTimeRange"] == {"from": 600, "to": 0}
        model = query["model"]
        assert model["refId"] == query["refId"]
        if query["datasourceUid"] == "__expr__":
            assert model["datasource"] == {"type": "__expr__", "uid": "__expr__"} and model["type"] == "math"
            assert set(re.findall(r"\$(\w+)", model["expression"])) <= set(refs)
        else:
            # A range would have to be reduced to a number before an alert can be based on it.
            assert query["datasourceUid"] == UID and model["instant"] is True and model["range"] is False
    if recording:
        assert rule["record"] == {"metric": rule["title"], "from": "A", "targetDatasourceUid": UID}
    else:
        assert rule["noDataState"] == "OK" and rule["execErrState"] == "Error"
        # The annotations name no value that no query has.
        text = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\.Values\.(\w+)\b", text)) <= set(refs)
        assert ("threshold" in refs) == (".Values.threshold" in text)
    read = Rule.from_json(rule)
    assert (read.uid, read.condition, read.labels) == (rule["uid"], rule["condition"], rule.get("labels"))
    assert [query.ref_id for query in read.data] == refs


def expanded(text: str, environment: dict[str, str]) -> str:
    """A value of a provisioning file as Grafana reads it: "$$" is a dollar sign, everything else a variable."""

    def value(match: re.Match[str]) -> str:
        return environment.get(match["braced"] or match["bare"], "")

    pattern = re.compile(r"\$(?:\{(?P<braced>[^}]*)\}|(?P<bare>\w+))")
    return "$".join(pattern.sub(value, part) for part in text.split("$$"))


def strings(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every string of a document, with the keys that lead to it."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from strings(value, (*path, key))
    elif isinstance(document, list):
        for value in document:
            yield from strings(value, path)
    elif isinstance(document, str):
        yield path, document


@pytest.mark.parametrize("name", FILES)
def test_grafana_replaces_only_the_data_source(name: str) -> None:
    """Environment variables change nothing but the data source, whether or not annotations are expanded, too."""
    replaced = set()
    for path, text in strings(FILES[name]):
        if "model" in path:  # never expanded
            continue
        if expanded(text, {"PROMETHEUS_UID": "uid-of-mine"} | {"labels": "x", "values": "x", "value": "x"}) != text:
            replaced.add((path[-1], text))
    assert replaced == {(key, UID) for key in ("datasourceUid", *["targetDatasourceUid"][: "record" in name])}


# ---- texts

SERIES = {
    "model": 'a "b"&c',
    "version": "3/4",
    "feature": "age",
    "instance": "host:9877",
    "path": "/data",
    "reason": "wrong_type",
}


def test_annotations_are_rendered(tmp_path: Path) -> None:
    """Go's templates render each annotation: values, thresholds, and links with encoded labels."""
    written = []
    for (name, severity), rule in ALERTS.items():
        expr = "vector(0.25)"
        for label, value in SERIES.items():
            expr = f"label_replace({expr}, {yaml_text(label)}, {yaml_text(value)}, '', '')"
        notes = {
            key: re.sub(r"with \.Values\.threshold\d* }}", "with query `vector(0.125)` | first }}", text)
            .replace("with .Values.A }}", "with query `vector(0.25)` | first }}")
            .replace("{{ externalURL }}", "https://grafana.example/")
            for key, text in rule["annotations"].items()
        }
        written.append({"alert": name, "expr": expr, "labels": {"severity": severity}, "annotations": notes})
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "interval": "1s", "rules": written}]}))
    with prometheus(tmp_path, {"rule_files": ["rules.yml"]}) as program:
        url = program.url
        eventually(lambda: len(ask(f"{url}/api/v1/alerts").json["data"]["alerts"]) == len(ALERTS))
        alerts = ask(f"{url}/api/v1/alerts").json["data"]["alerts"]
    alerts.sort(key=lambda alert: alert["labels"]["severity"] == "critical")
    shown = {alert["labels"]["alertname"]: alert["annotations"] for alert in alerts}
    for name, notes in ((alert["labels"]["alertname"], alert["annotations"]) for alert in alerts):
        assert not re.search(r"[{}]|error expanding|no value", " ".join(notes.values())), notes
        assert notes["runbook_url"] == f"http://127.0.0.1:9877/runbooks/{name}"
        assert notes["dashboard_url"].startswith("https://grafana.example/d/model-")
    latency, drift = shown["ModelLatencyHigh"], shown["ModelFeatureDrift"]
    assert latency["description"] == (
        'One request in 20 to a "b"&c version 3/4 takes 250ms or longer, in the last 5 minutes, above 125ms.'
    )
    assert drift["description"].endswith("are 0.25 nats (KL divergence) away from training, "
                                         "above the noise floor and above 0.125.")  # fmt: skip
    assert drift["dashboard_url"] == (
        "https://grafana.example/d/model-data?var-model=a+%22b%22%26c&var-version=3%2F4&var-feature=age"
    )
    assert shown["ModelErrorRatioHigh"]["description"].startswith("25% of the requests to")
    assert shown["ModelCorrectionRatioHigh"]["review_url"] == (
        "http://127.0.0.1:9877/review?model=a+%22b%22%26c&version=3%2F4"
    )
    assert shown["ModelCorrectionRatioHigh"]["slices_url"] == (
        "http://127.0.0.1:9877/slices?model=a+%22b%22%26c&version=3%2F4"
    )
    assert shown["ModelExporterDown"]["summary"] == "The model exporter is down"


def yaml_text(text: str) -> str:
    """A string of PromQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# ---- queries

SCENARIOS = ("business", "data", "errors", "exporter", "quality", "system")
"""Promtool's tests that take seconds and in which alerts fire."""


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_alerts_fire_as_in_prometheus(scenario: str, tmp_path: Path) -> None:
    """In promtool's tests, the queries return the same alerts, and for each one threshold of each kind.

    Grafana joins the values of two queries where the labels of one series contain those of the other.
    """
    groups = rules.groups()
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        value, _, *thresholds = ALERTS[rule["alert"], rule["labels"]["severity"]]["data"]
        rule["expr"] = value["model"]["expr"]
        for threshold in thresholds:
            expr = threshold["model"]["expr"]
            assert expr.startswith("sum without () (")
            labels = labels_of(expr)
            found = f"on ({labels}) (count by ({labels}) ({expr})"
            # Of several, an alert has those of its kind.
            one = f"and {found} == 1)" if len(thresholds) == 1 else f"unless {found} > 1)"
            rule["expr"] = f"({rule['expr']}) {one}"
    check_file(ROOT / "prometheus" / "tests" / f"{scenario}.yml", tmp_path, groups)


def labels_of(expr: str) -> str:
    """Labels of a threshold: those of its aggregation, or the first part of its name."""
    expr = expr.removeprefix("sum without () (").strip()
    aggregation = re.match(r"min by \(([\w, ]+)\)", expr)
    return aggregation[1] if aggregation else expr.partition(":")[0].replace("_", ", ")
