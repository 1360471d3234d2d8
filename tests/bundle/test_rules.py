"""The rules, their promtool tests and their runbooks, held against the policy they are to implement."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from scipy.stats import binom
from support.paths import ROOT
from support.programs import prometheus
from support.promtool import check_file, check_rules, expected, groups_of, promtool, series_of
from support.servers import ask, eventually

from exporter.config import DEFAULT_ERRORS, OBJECTIVE_ALERTS, THRESHOLDS
from exporter.monitoring.leading_quality import ENOUGH, LABELLED, MOST_ERROR
from exporter.stats.quality import wilson

PROMETHEUS = ROOT / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"


class Alert(NamedTuple):
    """One line of the policy."""

    name: str
    for_: str
    severity: str
    layer: str


POLICY = (
    Alert("ModelExporterDown", "1m", "critical", "system"),
    Alert("ModelExporterDown", "1m", "warning", "system"),
    Alert("ModelExporterDown", "1m", "none", "system"),
    Alert("ModelErrorRatioHigh", "1m", "critical", "system"),
    Alert("ModelErrorBudgetBurn", "2m", "critical", "system"),
    Alert("ModelLatencyHigh", "5m", "warning", "system"),
    Alert("ModelLatencyBudgetBurn", "2m", "warning", "system"),
    Alert("ModelTrafficMissing", "2m", "warning", "system"),
    Alert("ModelHostCpuHigh", "5m", "warning", "system"),
    Alert("ModelHostMemoryHigh", "5m", "warning", "system"),
    Alert("ModelHostDiskHigh", "5m", "warning", "system"),
    Alert("ModelInputsChanged", "2m", "critical", "data"),
    Alert("ModelInputsChanged", "2m", "warning", "data"),
    Alert("ModelDrift", "0m", "warning", "data"),
    Alert("ModelFeatureDrift", "5m", "warning", "data"),
    Alert("ModelPredictionDrift", "5m", "warning", "data"),
    Alert("ModelFeatureMeanShift", "5m", "warning", "data"),
    Alert("ModelFeatureMissing", "5m", "warning", "data"),
    Alert("ModelAccuracyLow", "15m", "critical", "business"),
    Alert("ModelConfidentRatioLow", "15m", "warning", "business"),
    Alert("ModelCorrectionRatioHigh", "5m", "critical", "business"),
    Alert("ModelAttemptsDrop", "30m", "warning", "business"),
    Alert("ModelFeedbackMissing", "0m", "info", "business"),
    Alert("ModelFeedbackUnjoined", "0m", "info", "business"),
    Alert("ModelReviewBacklog", "0m", "info", "business"),
    Alert("ModelEventsDropped", "5m", "warning", "exporter"),
    Alert("ModelEventsRejected", "5m", "warning", "exporter"),
    Alert("ModelConfigReloadFailed", "5m", "warning", "exporter"),
    Alert("ModelStoreFailing", "1m", "critical", "exporter"),
    Alert("ModelBackupOld", "0m", "warning", "exporter"),
    Alert("NotificationsFailing", "5m", "critical", "exporter"),
    Alert("RulesFailing", "5m", "critical", "exporter"),
    Alert("Watchdog", "0m", "none", "exporter"),
)
NAMES = list(dict.fromkeys(alert.name for alert in POLICY))
CAUSES = {"ModelFeatureDrift", "ModelPredictionDrift", "ModelFeatureMeanShift", "ModelFeatureMissing"}
RECORDED = {
    "model_version:requests:rate1m",
    "model_version:request_error_ratio:rate1m",
    "model_version:request_duration_seconds:p50_rate5m",
    "model_version:request_duration_seconds:p95_rate5m",
    "model_version:request_duration_seconds:p99_rate5m",
    "model:error_budget_remaining:ratio30d",
    "model_version:confident_ratio:rate1h",
    "model_version:correction_ratio:rate1h",
    "model_version:estimated_accuracy:increase1h",
    "model_version_window:labelled_predictions:sum",
    "model_version_window:accuracy:measured",
    "model_version_window:accuracy_upper:measured",
    "model_version_feature:kl_divergence:increase1h",
    "model_version:drift_evidence:combined",
    "model_version:inputs_changed:count",
    *(
        f"model{'_feature' if threshold.per_feature else ''}:threshold:{name}"
        for name, threshold in THRESHOLDS.items()
        if threshold.default is not None
    ),
    *(f"model:threshold:{name}" for name in OBJECTIVE_ALERTS),
}
ADDRESS = re.compile(
    r"""^{{ with (?:printf "model_exporter_links_info{(?:model|instance)=%q}(?: or [^"]+)?" """
    r"""(?:\$labels\.(?:model|instance) )+\| query"""
    r"""|query "model_exporter_links_info[^"]*") }}{{ \. \| first \| label "(\w+)" }}"""
    r"""{{ else }}http://127\.0\.0\.1:(?:9877|3000){{ end }}"""
)
"""The beginning of a link: the address that the exporter exports, or that of ``make up``."""
SECTIONS = ("What users notice", "First checks", "Likely causes", "Change the threshold or silence the alert")


def rules(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Every rule that has the key ``kind`` (``alert``, ``record``), with the stem of its file."""
    return [
        (path.stem, rule)
        for path in RULES
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
        if kind in rule
    ]


def test_promtool_accepts_the_rules() -> None:
    """Promtool reports no problem in any rule file, including duplicates and invalid names."""
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


@pytest.mark.parametrize("targets", ["targets", "targets-compose"])
def test_promtool_accepts_the_configuration(targets: str, tmp_path: Path) -> None:
    """The configuration is valid with the targets of one machine and with those of the containers."""
    shutil.copy(PROMETHEUS / "prometheus.yml", tmp_path)
    shutil.copytree(PROMETHEUS / "rules", tmp_path / "rules")
    shutil.copytree(PROMETHEUS / targets, tmp_path / "targets")
    output = promtool("check", "config", "--lint-fatal", tmp_path / "prometheus.yml")
    assert f"{len(RULES)} rule files found" in output


def test_both_target_folders_serve_every_job() -> None:
    """Each file that the configuration names is in both target folders, on the same port."""
    text = (PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"targets/([\w-]+\.yml)", text))
    ports = {}
    for folder in ("targets", "targets-compose"):
        files = {
            path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (PROMETHEUS / folder).iterdir()
        }
        assert set(files) == named
        ports[folder] = {
            name: [t.rpartition(":")[2] for g in file for t in g["targets"]] for name, file in files.items()
        }
    assert ports["targets"] == ports["targets-compose"]


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_promtool_tests_pass(path: Path, tmp_path: Path) -> None:
    """The promtool scenarios of the file pass."""
    check_file(path, tmp_path)


def test_the_interval_of_one_replica_is_the_exporters(tmp_path: Path) -> None:
    """The rule for the sum of replicas gives, for one that has labels, the same upper end as the exporter."""
    cases = ((0, 20), (1, 23), (10, 20), (45, 50), (20, 20), (2711, 3000), (999_999, 1_000_000))
    series, uppers = {}, {}
    for right, labelled in cases:
        of = f'model="m",version="{labelled}",window="{right}"'
        series[f"model_accuracy{{{of},instance='a'}}"] = f"{right / labelled!r}x5"
        series[f"model_window_labelled_predictions{{{of},instance='a'}}"] = f"{labelled}x5"
        uppers[f"{{{of}}}"] = round(wilson(right, labelled).upper, 5)
    # Another replica has no labels, so its accuracy is not a number, which promtool's series cannot be.
    other = {"model": "m", "version": "50", "window": "45", "instance": "b"}
    empty = [
        {"record": "model_accuracy", "expr": "vector(NaN)", "labels": other},
        {"record": "model_window_labelled_predictions", "expr": "vector(0)", "labels": other},
    ]
    query = "round(1e5 * model_version_window:accuracy_upper:measured) / 1e5"
    checks = [expected(query, "2m", uppers)]
    test = {"interval": "1m", "input_series": series_of(series), "promql_expr_test": checks}
    check_rules(tmp_path, [test], [{"name": "replica", "rules": empty}, *groups_of(PROMETHEUS / "rules/business.yml")])


def test_alerts_are_the_policy() -> None:
    """The rule files hold exactly the alerts of the policy, each in its layer's file, with its time and labels."""
    defined = {
        (Alert(rule["alert"], rule["for"], rule["labels"]["severity"], rule["labels"]["layer"]), file)
        for file, rule in rules("alert")
    }
    assert defined == {(alert, alert.layer) for alert in POLICY}
    assert len(rules("alert")) == len(POLICY)
    assert all(set(rule["labels"]) == {"severity", "layer"} for _, rule in rules("alert"))


def test_generated_files_are_those_of_the_templates() -> None:
    """Rules, constants and tables are what ``make rules`` writes."""
    result = subprocess.run(
        [sys.executable, PROMETHEUS / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_alerts_outlast_a_restart_of_the_exporter() -> None:
    """Whatever ends while an exporter restarts keeps its alert firing; Watchdog depends on nothing."""
    kept = {rule["alert"]: rule.get("keep_firing_for") for _, rule in rules("alert")}
    assert kept == dict.fromkeys(NAMES, "3m") | {"Watchdog": None}


def test_no_alert_compares_a_gauge_of_one_scrape() -> None:
    """A missed scrape ends nothing: expressions read what exporters export over two minutes or more."""
    thresholds = [named for named in rules("record") if ":threshold:" in named[1]["record"]]
    checked = [*rules("alert"), *thresholds]
    for _, rule in checked:
        expr = re.sub(r"(?:by|on|ignoring|without|group_left) \([^)]*\)", "", rule["expr"])
        expr = re.sub(r'"[^"]*"', "", expr)
        found = set(re.findall(r"(?<![\w:])(?:model_\w+|up)(?:{[^}]*})?(?![\w:{(\[])", expr))
        assert found <= ONCE, rule


ONCE = {"model_feedback_total", "model_exporter_feedback_unjoined"}
"""What is read at one moment: a series that is new today, and the feedback that waited a day ago."""


def test_shares_and_counts_are_compared_with_chance() -> None:
    """An alert on a share or a count of events asks for the probability that chance explains it."""
    alerts = {rule["alert"]: rule["expr"] for _, rule in rules("alert")}
    one, two = "ErrorRatioHigh ConfidentRatioLow AttemptsDrop FeatureMissing", "ErrorBudgetBurn LatencyBudgetBurn"
    for chance, times, names in (("0.001", 1, one), ("0.001", 2, two), ("0.0002", 1, "CorrectionRatioHigh")):
        assert {alerts[f"Model{name}"].count(f") <= {chance}") for name in names.split()} == {times}
    # Of a share x of slow requests, that many are more than chance explains where one in 20 is expected.
    enough = re.findall(r"histogram_quantile\(([\d.]+), .* >= ([\d.]+)\)", alerts["ModelLatencyHigh"])
    assert len(enough) == 7
    for quantile, number in enough:
        n = round(float(number))
        slow = int((1 - float(quantile)) * n + 1e-9)
        assert binom.sf(slow - 1, n, 0.05) <= 0.001


def test_causes_fire_only_with_a_statement() -> None:
    """No threshold of a score alone fires."""
    for _, rule in rules("alert"):
        gated = "and on (model, version) ( group by (model, version) ( model_version:inputs_changed:count or"
        assert (gated in " ".join(rule["expr"].split())) is (rule["alert"] in CAUSES)


def test_recording_rules_exist_once() -> None:
    """Every recorded name that other rules use exists, and exists once."""
    names = [rule["record"] for _, rule in rules("record")]
    assert set(names) >= RECORDED
    assert len(names) == len(set(names))


def test_thresholds_are_used_by_their_alert() -> None:
    """An alert with a configurable threshold compares with the recorded threshold and names it in its annotations."""
    alerts = {rule["alert"]: rule for _, rule in rules("alert")}
    recording = {rule["record"]: rule["expr"] for _, rule in rules("record")}

    def used(expr: str, known: frozenset[str] = frozenset()) -> set[str]:
        names = set(re.findall(r"\bmodel\w*:\w+:\w+", expr)) - known
        return names.union(*(used(recording[name], known | names) for name in names & recording.keys()))

    for recorded in (name for name in RECORDED if ":threshold:" in name):
        rule = alerts[recorded.rpartition(":")[2]]
        assert recorded in used(rule["expr"]) or rule["alert"] in OBJECTIVE_ALERTS
        if rule["alert"] != "ModelInputsChanged":  # it is about many features, each with a threshold
            assert recorded in rule["annotations"]["description"]


@pytest.mark.parametrize("alert", POLICY, ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_annotations(alert: Alert) -> None:
    """An alert's annotations give the cause and the value, and link a runbook and the dashboard of the layer."""
    (rule,) = [
        rule
        for _, rule in rules("alert")
        if rule["alert"] == alert.name and rule["labels"]["severity"] == alert.severity
    ]
    notes = rule["annotations"]
    on_review = {"ModelCorrectionRatioHigh", "ModelFeedbackUnjoined", "ModelReviewBacklog"}
    reviewed = {"review_url"} if alert.name in on_review else set()
    explained = {"ModelAccuracyLow", "ModelCorrectionRatioHigh", "ModelFeatureDrift", "ModelDrift"}
    sliced = {"slices_url"} if alert.name in explained | {"ModelInputsChanged"} else set()
    assert set(notes) == {"summary", "description", "runbook_url", "dashboard_url"} | reviewed | sliced
    assert "$value" in notes["description"]
    runbook, dashboard = (ADDRESS.sub(r"<\1>", notes[name]) for name in ("runbook_url", "dashboard_url"))
    assert runbook == f"<external_url>/runbooks/{alert.name}"
    assert reviewed <= {name for name in notes if ADDRESS.sub(r"<\1>", notes[name]).startswith("<external_url>/review")}
    assert sliced <= {name for name in notes if ADDRESS.sub(r"<\1>", notes[name]).startswith("<external_url>/slices")}
    says_more = {"ModelExporterDown": "exporter", "ModelAccuracyLow": "quality"}
    assert dashboard.partition("?")[0] == f"<dashboards_url>/d/model-{says_more.get(alert.name, alert.layer)}"
    for label in ("model", "version", "feature"):
        used = f"$labels.{label} " in notes["summary"]
        assert (f"var-{label}={{{{ $labels.{label} | urlquery }}}}" in notes["dashboard_url"]) is used


@pytest.mark.parametrize("name", NAMES)
def test_runbook(name: str) -> None:
    """An alert's runbook has its name, content in each section, and PromQL."""
    text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    title, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    assert title.startswith(f"# {name}\n")
    sections = {name: body.strip() for name, _, body in (part.partition("\n") for part in parts)}
    assert tuple(sections) == SECTIONS
    assert all(len(body) >= 60 for body in (title, *sections.values()))
    assert "```promql" in sections["First checks"]


def test_every_runbook_has_an_alert() -> None:
    """Every runbook belongs to an alert that exists."""
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == set(NAMES)


def test_runbook_queries_parse(tmp_path: Path) -> None:
    """Every PromQL expression in the runbooks is valid, and every recorded name in it exists."""
    names = {rule["record"] for _, rule in rules("record")}
    queries = []
    for path in RUNBOOKS.glob("*.md"):
        for block in re.findall(r"```promql\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL):
            queries += [line for line in block.splitlines() if line.strip()]
            assert set(re.findall(r"\bmodel\w*:\w+:\w+", block)) <= names, path.name
    assert queries
    group = {"name": "runbooks", "rules": [{"record": f"query_{i}", "expr": q} for i, q in enumerate(queries)]}
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [group]}), encoding="utf-8")
    promtool("check", "rules", tmp_path / "queries.yml")


def test_every_alert_is_tested_silent_and_firing() -> None:
    """Each alert is asserted both silent and firing by promtool; the watchdog is never silent."""
    silent, firing = set(), set()
    for path in RULE_TESTS:
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in test.get("alert_rule_test", []):
                (firing if case["exp_alerts"] else silent).add(case["alertname"])
    names = {alert.name for alert in POLICY}
    assert firing == names
    assert silent == names - {"Watchdog"}


def test_the_exporter_judges_as_the_rules_do() -> None:
    """What it has of thresholds that cannot be configured, and the objective of errors of models that set none."""
    exprs = {rule.get("record") or rule["alert"]: " ".join(rule["expr"].split()) for _, rule in rules("expr")}
    for measure in ("accuracy", "mean_absolute_error"):
        assert f" >= {ENOUGH})" in exprs[f"model_version_window:{measure}:measured"]
    assert exprs["model_version:threshold:ModelAccuracyLowError"].startswith(f"{MOST_ERROR} * ")
    within = f"< on (model, version) group_left () {LABELLED} * max by (model, version) ("
    assert within in exprs["ModelAccuracyLow"]
    assert re.findall(r"\bor ([\d.]+) \*", exprs["model:threshold:ModelErrorBudgetBurn"]) == [str(DEFAULT_ERRORS)]
    assert " or " not in exprs["model:threshold:ModelLatencyBudgetBurn"]


ODD = r"""a "b" 'c' \d `e` {{ f }}&g=é"""


def test_no_label_breaks_a_message(tmp_path: Path) -> None:
    """Quotes and backslashes in labels reach each text as they are and each link encoded; no query of a text fails."""
    odd = [rule for _, rule in rules("alert") if rule["labels"]["severity"] != "none"]
    written = []
    for number, rule in enumerate(odd):
        expr = "vector(0.25)"
        names = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) - {"basis", "measure"}
        for name in sorted(names):
            expr = f"label_replace({expr}, '{name}', {json.dumps(ODD, ensure_ascii=False)}, '', '')"
        written.append(rule | {"expr": expr, "for": "0s", "labels": {"number": str(number)}})
    group = {"name": "odd", "interval": "1s", "rules": written}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [group]}, allow_unicode=True))
    with prometheus(tmp_path, {"rule_files": ["rules.yml"]}) as program:
        url = f"{program.url}/api/v1/alerts"
        alerts = eventually(lambda: len(found := ask(url).json["data"]["alerts"]) == len(odd) and found)
    for alert in alerts:
        labels, notes = alert["labels"], alert["annotations"]
        assert not re.search(r"error expanding|no value", " ".join(notes.values())), notes
        shown = {
            name for name in ("model", "instance", "reason") if f"$labels.{name}" in str(odd[int(labels["number"])])
        }
        assert {name for name in shown if name in labels} == shown
        if "model" in shown:
            assert ODD in notes["summary"] + notes["description"]
        for name, address in notes.items():
            if name.endswith("_url"):
                query = parse_qs(urlsplit(address).query)
                assert {value for key, (value,) in query.items() if key.removeprefix("var-") in labels} <= {ODD}, (
                    address
                )
                assert ODD not in address
