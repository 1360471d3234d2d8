"""The examples for rollout controllers: their fields, and what they read from a real exporter and Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema
import pytest
import yaml
from support.paths import ROOT
from support.promtool import check_rules, expected, series_of
from support.servers import ask
from support.two_versions import MODELS, exporter_of, seen_by_prometheus
from werkzeug.serving import make_server

from exporter.comparison.measures import WORDS
from exporter.metrics.comparisons import COMPARISON
from exporter.server.flask_app import create_app

FOLDER = ROOT / "deploy" / "kubernetes"
DOCUMENTS = {
    document["kind"]: document
    for name in ("argo-rollouts.yaml", "flagger.yaml")
    for document in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
}
SCHEMAS = json.loads((ROOT / "tests" / "data" / "rollout_schemas.json").read_text(encoding="utf-8"))
"""Excerpts of the schemas of the custom resources of Argo Rollouts and Flagger (Apache-2.0), without descriptions."""
EXPORTER = "http://model-exporter.monitoring.svc:9877"
VERSIONS = {"model": "credit", "before": "1", "after": "2"}
LENIENT = {"confident_ratio": 0.3, "correction_ratio": 0.5, "error_ratio": 0.2, "worst_drift_nats": 3}
MARGINS: dict[str, dict[str, float]] = {"wait": {}, "promote": LENIENT, "rollback": {"correction_ratio": 0}}
"""With which margins the exporter decides what of the same counts."""


@pytest.mark.parametrize("kind", SCHEMAS)
def test_fields_are_those_of_the_custom_resource(kind: str) -> None:
    """No field is missing, of a wrong type, or unknown to the controller."""
    jsonschema.validate(DOCUMENTS[kind]["spec"], SCHEMAS[kind])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(DOCUMENTS[kind]["spec"] | {"analyses": []}, SCHEMAS[kind])


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL of a Prometheus with the counts of two versions."""
    folder = tmp_path_factory.mktemp("versions")
    with seen_by_prometheus(folder) as url:
        yield folder, url


@contextmanager
def deciding(counted: tuple[Path, str], decision: str) -> Iterator[str]:
    """An exporter over HTTP that answers with a decision."""
    folder, url = counted
    models = [MODELS["models"][0] | {"release_margins": MARGINS[decision]}]
    with exporter_of(folder, models=models, prometheus_url=url) as exporter:
        server = make_server("127.0.0.1", 0, create_app(exporter), threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def argo() -> tuple[dict[str, Any], str]:
    """The metric of the analysis, and its address with the arguments of the rollout."""
    (metric,) = DOCUMENTS["AnalysisTemplate"]["spec"]["metrics"]
    (step,) = (
        step["analysis"] for step in DOCUMENTS["Rollout"]["spec"]["strategy"]["canary"]["steps"] if "analysis" in step
    )
    assert {argument["name"] for argument in step["args"]} == VERSIONS.keys()
    assert [template["templateName"] for template in step["templates"]] == ["model-comparison"]
    for argument in step["args"]:
        if "valueFrom" in argument:
            path = argument["valueFrom"]["fieldRef"]["fieldPath"]
            assert (
                re.fullmatch(r"metadata\.annotations\['(.*)'\]", path)[1]
                in DOCUMENTS["Rollout"]["metadata"]["annotations"]
            )  # type: ignore[index]
    assert {argument["name"] for argument in DOCUMENTS["AnalysisTemplate"]["spec"]["args"]} == VERSIONS.keys()
    url = re.sub(r"{{args\.(\w+)}}", lambda match: VERSIONS[match[1]], metric["provider"]["web"]["url"])
    assert "{" not in url and url.startswith(EXPORTER)
    return metric, url


def phase(metric: dict[str, Any], result: str) -> str:
    """What Argo Rollouts makes of a result: a measurement that meets neither condition is inconclusive."""
    for condition, name in (("successCondition", "Successful"), ("failureCondition", "Failed")):
        expected = re.fullmatch(r'result == "(\w+)"', metric[condition])
        assert expected and expected[1] in WORDS
        if result == expected[1]:
            return name
    return "Inconclusive"


@pytest.mark.parametrize(
    ("decision", "expected"), [("wait", "Inconclusive"), ("promote", "Successful"), ("rollback", "Failed")]
)
def test_argo_rollouts_reads_the_decision(counted: tuple[Path, str], decision: str, expected: str) -> None:
    """The address has the decision where the JSONPath looks for it; "wait" is repeated for a week."""
    metric, url = argo()
    with deciding(counted, decision) as address:
        answer = ask(url.replace(EXPORTER, address))
    assert answer.status == 200
    path = re.fullmatch(r"{\$\.(\w+)}", metric["provider"]["web"]["jsonPath"])
    assert path and answer.json[path[1]] == decision
    assert phase(metric, answer.json[path[1]]) == expected
    assert (metric["consecutiveSuccessLimit"], metric["failureLimit"], metric["interval"]) == (1, 0, "1m")
    assert metric["inconclusiveLimit"] == 7 * 24 * 60


@pytest.mark.parametrize("decision", MARGINS)
def test_flaggers_webhook_delays_the_promotion(counted: tuple[Path, str], decision: str) -> None:
    """The command succeeds only if the decision is to promote; the load tester answers 500 if it fails."""
    (webhook,) = DOCUMENTS["Canary"]["spec"]["analysis"]["webhooks"]
    assert (webhook["type"], webhook["metadata"]["type"]) == ("confirm-promotion", "bash")
    command = webhook["metadata"]["cmd"]
    for name, value in DOCUMENTS["Canary"]["spec"]["analysis"]["metrics"][0]["templateVariables"].items():
        assert f" --data {name}={value} " in command
        command = command.replace(f" --data {name}={value} ", f" --data {name}={VERSIONS[name]} ")
    with deciding(counted, decision) as address:
        run = subprocess.run(["bash", "-c", command.replace(EXPORTER, address)], capture_output=True, check=False)
        unknown = command.replace(EXPORTER, address).replace("after=2", "after=9")
        assert subprocess.run(["bash", "-c", unknown], capture_output=True, check=False).returncode != 0
    assert (run.returncode == 0) == (decision == "promote"), run.stderr


def test_flagger_reads_the_metric(tmp_path: Path) -> None:
    """In Prometheus, the query has one number: the lowest of all replicas, or 0; only "rollback" is a failed check."""
    (metric,) = DOCUMENTS["Canary"]["spec"]["analysis"]["metrics"]
    template = DOCUMENTS["MetricTemplate"]
    assert metric["templateRef"]["name"] == template["metadata"]["name"]
    variables = metric["templateVariables"]
    query = re.sub(r"{{ variables\.(\w+) }}", lambda match: variables[match[1]], template["spec"]["query"])
    query = re.sub(r"\s+", " ", query)  # as Flagger sends it
    labels = f'model="{variables["model"]}",before="{variables["before"]}",after="{variables["after"]}"'
    (name,) = (family.name for family in COMPARISON.families if "decision" in family.name)
    other = labels.replace('after="4"', 'after="2"')
    series = {
        f'{name}{{{labels},instance="a"}}': "_ 0 1 1 _",
        f'{name}{{{labels},instance="b"}}': "_ 0 1 -1 _",
        f'{name}{{{other},instance="a"}}': "-1x4",
    }
    values = {"0m": 0, "1m": 0, "2m": 1, "3m": -1}
    checks = [expected(query, at, {"{}": value}) for at, value in values.items()]
    check_rules(tmp_path, [{"interval": "1m", "input_series": series_of(series), "promql_expr_test": checks}], [])
    least = metric["thresholdRange"]["min"]
    assert {word for word, number in WORDS.items() if number < least} == {"rollback"}
    assert dict(parse_qsl(urlsplit(argo()[1]).query)) == VERSIONS | {"sequential": "true"}
