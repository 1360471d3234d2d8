"""The dashboards: their form, and each of their expressions in a real Prometheus over a recorded hour."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from support import recorded
from support.paths import ROOT
from support.promtool import RULES
from support.servers import ask, eventually

from demo.up import ADDRESSES, Plan
from grafana.__main__ import files
from grafana.layout import TITLES
from grafana.model_overview import layer_state
from grafana.panels import CRITICAL, NEUTRAL, REFS, WARNING

FOLDER = ROOT / "grafana" / "dashboards"
BOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
EVERY = {
    uid: board["panels"] + [p for row in board["panels"] for p in row.get("panels", [])]
    for uid, board in BOARDS.items()
}
"""All panels, those in folded rows, too."""
PANELS = [(uid, panel) for uid, panels in EVERY.items() for panel in panels if panel["type"] != "row"]
UIDS = sorted(BOARDS)
STATE_COLOURS = {"green", "blue", "orange", "red"}

OF_GPU = ("utilization_ratio", "memory_used_bytes", "memory_limit_bytes")
QUIET = {
    **{f"model_system_gpu_{kind}": "the machine of the tests need not have a GPU" for kind in OF_GPU},
    "model_exporter_store_max_bytes": "it is infinite without store.max_size, and then not drawn",
    **{f"model_segment_{kind}_predictions_total": "it has no segments" for kind in ("labelled", "correct")},
    "model_exporter_model_file_valid": "the recorded exporter has no folder of models",
    "model_version:drift_evidence:combined": "it is absent until an exporter has watched for a minute",
    "model_feature_drift_evidence": "it is absent until an exporter has watched for a minute",
    "model_feature_recent_kl_divergence": "it is absent until an exporter has watched for more than its longest window",
}
"""What may find nothing in the recorded hour, and why that is right."""

UNMET = (
    '"data"',  # alerts of its layer need a longest window and a minute before
    "(model_estimated_mean_absolute_error",  # the recorded regression has no profile
    "vector(NaN) unless",  # the number is known
    "< max(model:threshold:ModelConfidentRatioLow",  # the share is not low enough
    "== 1) unless on () max by (before, after",  # one measure is worse, which is the reason
    "0 * group by (before, after)",  # a difference of the versions is proven
    "max by (model, version) (model_reference_estimated_accuracy{",  # all labelled rows have a confidence
    "(min(model:error_budget_remaining:ratio30d{model=~`${model:regex}`})) unless",  # an objective is missed
    'ALERTS{alertname="ModelAccuracyLow"',  # the accuracy is not low for long enough
)
"""In expressions of what need not be the case in the recorded hour."""

OF_PROMETHEUS = {"ALERTS", "ALERTS_FOR_STATE", "up", "scrape_duration_seconds", "scrape_samples_scraped"}
"""What Prometheus itself exports."""


@dataclass(frozen=True)
class Chosen:
    """What is chosen in a dashboard's variables."""

    model: str = "credit"
    version: str = "3"
    feature: str = "age"
    window: str = "1h"
    before: str = "4"
    after: str = "3"
    instance: str = "127.0.0.1:9877"
    exporter_url: str = "http://127.0.0.1:9877"
    everything: frozenset[str] = field(default=frozenset())

    def into(self, text: str, interval: int = 15) -> str:
        """An expression as Grafana sends it."""

        def value(match: re.Match[str]) -> str:
            name, form = match["name"], match["form"]
            if name in self.everything:
                return ".+"
            choice = str(getattr(self, name))
            return re.sub(r"[-/\\^$*+?.()|\[\]{}]", r"\\\g<0>", choice) if form == "regex" else choice

        text = re.sub(r"\$\{(?P<name>\w+):(?P<form>regex|raw)\}", value, text)
        for name, spelt in (
            ("__rate_interval", "60s"),
            ("__interval_ms", str(1000 * interval)),
            ("__interval", f"{interval}s"),
            ("__range", f"{recorded.HOUR}s"),
        ):
            text = text.replace(f"${name}", spelt)
        assert not re.search(r"\$\{|\$[a-z_]", text), f"what Grafana would not replace as expected: {text}"
        return text


OF_CLASSES = {name: title for name, (title, _) in TITLES.items()}
"""What hidden variables write into titles, for a model that is no regression."""
ALL_VERSIONS = Chosen(everything=frozenset({"version"}))
REGRESSION = Chosen(recorded.ODD, window="10m", **dict.fromkeys(("version", "before", "after"), recorded.ODD_VERSION))


def targets(panel: dict[str, Any]) -> list[dict[str, Any]]:
    return list(panel.get("targets", []))


def expressions(board: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Where it stands, the expression, and whether it is asked for a moment and not for a range."""
    result = [
        (f"{board['uid']}/{panel['id']}", target["expr"], target["instant"])
        for panel in EVERY[board["uid"]]
        for target in targets(panel)
    ]
    return result + [
        (f"{board['uid']} {note['name']}", note["target"]["expr"], False) for note in board["annotations"]["list"]
    ]


ALL = [one for board in BOARDS.values() for one in expressions(board)]


def for_each_panel(check: Callable[[str, dict[str, Any]], None]) -> Callable[..., None]:
    """Check all panels of a dashboard in one test: a test of its own for each takes longer than the check."""

    def check_dashboard(uid: str) -> None:
        for of_board, panel in PANELS:
            if of_board == uid:
                with named(f"{panel['id']}: {panel['title']}"):
                    check(uid, panel)

    check_dashboard.__doc__ = check.__doc__
    return pytest.mark.parametrize("uid", UIDS)(check_dashboard)


def for_each_expression(check: Callable[[str, str, str, bool], None]) -> Callable[..., None]:
    """Check all expressions of a dashboard in one test."""

    def check_dashboard(prometheus: str, uid: str) -> None:
        for where, expr, instant in ALL:
            if re.split(r"[ /]", where)[0] == uid:
                with named(where):
                    check(prometheus, where, expr, instant)

    check_dashboard.__doc__ = check.__doc__
    return pytest.mark.parametrize("uid", UIDS)(check_dashboard)


@contextmanager
def named(where: str) -> Iterator[None]:
    """Say of what an assertion is that fails."""
    try:
        yield
    except AssertionError as error:
        error.add_note(where)
        raise


# ---- form


def test_the_dashboard_files_are_up_to_date() -> None:
    """``make dashboards`` would change nothing, byte for byte, and no file is left over."""
    written = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert written == files()


def test_one_command_builds_the_files_of_a_release(tmp_path: Path) -> None:
    """With ``--output``, ``python -m grafana`` writes dashboards and rules for Grafana, and removes stale files."""
    (tmp_path / "dashboards").mkdir()
    (tmp_path / "dashboards" / "model-old.json").write_text("{}")
    subprocess.run([sys.executable, "-m", "grafana", f"--output={tmp_path}"], check=True, cwd=ROOT)
    written = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert sorted(written) == sorted(
        [*(f"dashboards/{uid}.json" for uid in UIDS), "alerting/alerts.yml", "alerting/recording-rules.yml"]
    )
    assert all(written[f"dashboards/{name}"] == text for name, text in files().items())


@pytest.mark.parametrize("uid", UIDS)
def test_a_dashboard_is_imported_as_it_is(uid: str) -> None:
    """Grafana's "Import" needs no file of its own: the data source is a variable, and no address is in the file."""
    board = BOARDS[uid]
    assert "__inputs" not in board and "id" not in board
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and not variables["datasource"].get("current")
    assert variables["exporter_url"]["query"]["query"].startswith("label_values(model_exporter_links_info{")
    used = set(re.findall(r'"uid": "([^"]*)"', json.dumps({"p": board["panels"], "v": board["templating"]})))
    assert used == {"${datasource}"}
    assert "127.0.0.1" not in json.dumps(board)


@pytest.mark.parametrize("uid", UIDS)
def test_grafana_13_keeps_everything(uid: str) -> None:
    """Grafana 13 converts dashboards when it loads them, and loses without a word what is not as below."""
    board = BOARDS[uid]
    assert board["schemaVersion"] == 42  # that of Grafana 12.2 and 13; older ones are migrated first
    for variable in board["templating"]["list"]:
        assert variable["type"] in {"datasource", "query", "custom", "constant", "textbox", "interval"}
        assert variable.get("sort", 0) in range(5) and variable.get("hide", 0) in range(4)
    for note in board["annotations"]["list"]:
        # Only the query of "target" belongs to the data source; the rest are options of older versions.
        assert note["target"]["expr"] and note["target"]["refId"] and note["datasource"]["type"] == "prometheus"
    assert "null" not in {json.dumps(link.get("placement", "")) for link in board["links"]}
    row = None
    for number, panel in enumerate(board["panels"]):
        if panel["type"] == "row":
            row = panel
            assert bool(panel["collapsed"]) == bool(panel["panels"])
            assert all(inner["gridPos"]["y"] > panel["gridPos"]["y"] for inner in panel["panels"])
        elif row:  # a panel belongs to the row that is before it in the list, whatever their positions
            assert panel["gridPos"]["y"] > row["gridPos"]["y"] and not row["collapsed"], panel["title"]
        elif number == 0:
            assert panel["gridPos"]["y"] == 0


@pytest.mark.parametrize("uid", UIDS)
def test_the_sdk_reads_what_it_wrote(uid: str) -> None:
    """The models of Grafana's SDK know every member of a dashboard, so none is misspelt or of the wrong type."""

    def lost(written: Any, read: Any, path: str = "") -> Iterator[str]:
        if isinstance(written, dict) and isinstance(read, dict):
            for key, value in written.items():
                yield from lost(value, read.get(key), f"{path}/{key}")
        elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
            for number, (one, other) in enumerate(zip(written, read, strict=True)):
                yield from lost(one, other, f"{path}/{number}")
        elif written != read:
            yield f"{path}: {written} is read as {read}"

    read = json.loads(json.dumps(Dashboard.from_json(BOARDS[uid]), cls=JSONEncoder))
    assert list(lost(BOARDS[uid], read)) == []


@pytest.mark.parametrize("uid", UIDS)
def test_panels_have_unique_ids_and_do_not_overlap(uid: str) -> None:
    """Panel ids are unique, and panels fit the grid without overlapping."""
    panels = EVERY[uid]
    assert len({panel["id"] for panel in panels}) == len(panels)
    positions = [panel["gridPos"] for panel in panels]
    assert all(
        position["x"] >= 0 and position["x"] + position["w"] <= 24 and position["h"] > 0 for position in positions
    )
    for first, second in combinations(positions, 2):
        beside = first["x"] + first["w"] <= second["x"] or second["x"] + second["w"] <= first["x"]
        assert beside or first["y"] + first["h"] <= second["y"] or second["y"] + second["h"] <= first["y"], (
            first,
            second,
        )


@for_each_panel
def test_a_panel_is_described(uid: str, panel: dict[str, Any]) -> None:
    """A panel has a title, a description, a unit, a text for no data, short names and the data source variable."""
    defaults = panel["fieldConfig"]["defaults"]
    named = panel["title"] or (panel["type"] == "stat" and targets(panel)[0]["legendFormat"])
    assert named and len(panel["description"]) > 15 and panel["description"].endswith(".")
    assert defaults["unit"]
    # Prometheus cannot say why there is nothing, so the text asserts nothing.
    assert defaults["noValue"] == "no data"
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["datasource"] == chosen and all(target["datasource"] == chosen for target in targets(panel))
    assert targets(panel)
    if panel["type"] != "table":
        assert all(target["legendFormat"] != "__auto" for target in targets(panel))


@for_each_panel
def test_thresholds_are_series(uid: str, panel: dict[str, Any]) -> None:
    """No panel contains a threshold as a number; thresholds come from rules or are noise floors."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [step["value"] for step in steps] == [None]
    assert "thresholdsStyle" not in json.dumps(panel)
    for target in targets(panel):
        if "threshold" in target["legendFormat"]:
            assert re.search(r"(model(_version)?(_feature)?|instance):threshold:Model\w+|:error_budget", target["expr"])


@for_each_panel
def test_colour_means_state(uid: str, panel: dict[str, Any]) -> None:
    """Colours of states are used for states, thresholds and failed requests only; the palette has none of them."""
    config = panel["fieldConfig"]
    assert config["defaults"]["color"].get("fixedColor", NEUTRAL) == NEUTRAL
    assert config["defaults"]["color"]["mode"] in ("shades", "fixed", "thresholds")
    for override in config["overrides"]:
        for setting in override["properties"]:
            if setting["id"] == "color" and setting["value"].get("fixedColor") in STATE_COLOURS:
                shown = override["matcher"]["options"]
                if override["matcher"]["id"] == "byRegexp":
                    assert (shown, setting["value"]["fixedColor"]) in {("/^5..$/", CRITICAL), ("/^4..$/", WARNING)}
                    continue
                legend = targets(panel)[REFS.index(shown)]["legendFormat"]
                assert legend.startswith(("threshold", "lowest threshold", "noise", "limit")) or (
                    panel["type"] == "stat" and targets(panel)[REFS.index(shown)]["expr"].startswith("((")
                )


SINCE = "since=${__from:date:iso}"
TIME = f"{SINCE}&until=${{__to:date:iso}}"


@pytest.mark.parametrize("uid", UIDS)
def test_a_dashboard_has_variables_links_and_annotations(uid: str) -> None:
    """Data source and exporter are variables, links keep variables and time, and changes are annotated."""
    board = BOARDS[uid]
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert {"datasource", "exporter_url"} <= set(variables)
    # From the exporter alone: an address in the URL of the dashboard would make its links lead to any site.
    assert variables["exporter_url"]["type"] == "query" and variables["exporter_url"]["skipUrlSync"]
    others = board["links"][0]
    assert others["type"] == "dashboards" and others["includeVars"] and others["keepTime"]
    if uid not in ("model-exporter", "model-fleet"):
        notes = {note["name"]: bool(note.get("hide")) for note in board["annotations"]["list"]}
        assert notes == {"Deployments": True, "Alerts": False}, "there is one switch"
        version = "version=${after:percentencode}" if uid == "model-release" else "${version:queryparam}"
        # The drift page shows the windows of now: a time that it ignores would mislead.
        pages = [link for link in board["links"][1:] if link["title"] != "All models"]
        for (page, time), link in zip((("drift", ""), ("review", f"&{TIME}")), pages, strict=True):
            assert link["url"] == f"${{exporter_url:raw}}/{page}?model=${{model:percentencode}}&{version}{time}"


def test_panel_links_keep_the_selection() -> None:
    """Links from a panel or a value keep the model, the version and, where it can be chosen, the time."""
    urls = {
        (uid, panel["id"], url)
        for uid, panel in PANELS
        for url in re.findall(r'"url": "([^"]+)"', json.dumps(panel, ensure_ascii=False))
    }
    assert {re.sub(r"\?.*|(?<=runbooks)/\$.*", "", url) for _, _, url in urls} == {
        *(f"/d/{uid}" for uid in UIDS if uid not in {"model-exporter", "model-fleet"}),
        "/d/model-${__data.fields.Layer:percentencode}",
        *(f"${{exporter_url:raw}}/{page}" for page in ("drift", "review", "runbooks", "slices")),
    }
    for uid, panel, url in urls:
        if "/runbooks/" in url:
            continue
        assert re.search(r"[?&](var-)?model=\$|__all_variables", url), url
        timed = "__url_time_range" in url or url.endswith(f"&{SINCE if '/slices?' in url else TIME}")
        assert timed != ("/drift?" in url), url
        # A model of the fleet, its backlog and its unjoined feedback are of no version.
        assert re.search(r"version|__all_variables", url) or (uid, panel) in {
            ("model-fleet", 6),
            ("model-business", 8),
            ("model-business", 16),
        }


def test_alerts_link_to_existing_dashboards() -> None:
    """Every ``dashboard_url`` in the rules names a dashboard and variables that it has."""
    text = "".join(path.read_text(encoding="utf-8") for path in RULES.glob("*.yml"))
    links = set(re.findall(r"dashboard_url: .+?/d/([\w-]+)(?:\?(.*))?'$", text, re.M))
    assert links
    for uid, query in links:
        names = {variable["name"] for variable in BOARDS[uid]["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", query)) <= names


def test_runbooks_name_panels_that_exist() -> None:
    """Each runbook except the watchdog's names where to look, with titles that are on the dashboard."""
    titles = {board["title"].removeprefix("Models / "): uid for uid, board in BOARDS.items()}
    for path in (ROOT / "docs" / "runbooks").glob("Model*.md"):
        (shown,) = re.findall(
            r'^1\. In Grafana, open (".+") on \[(.+)\]\(http://127.0.0.1:3000/d/([\w-]+)\)',
            path.read_text("utf-8"),
            re.M,
        )
        quoted, title, uid = shown
        assert titles[title] == uid
        panels = {
            re.sub(r"\$(\w+)", lambda name: OF_CLASSES.get(name[1], ""), panel["title"]).strip(" :,")
            for panel in EVERY[uid]
        }
        assert set(re.findall(r'"([^"]+)"', quoted)) <= panels, path.name


def test_grafana_starts_with_an_existing_home_dashboard(tmp_path: Path) -> None:
    """``up`` and the compose file set what the provisioning files need, and Fleet is the home page."""
    plan = Plan(tmp_path, ROOT, dict(ADDRESSES))
    (program,) = (
        candidate for candidate in plan.programs("p", "a", "/usr/bin/grafana", None) if candidate.name == "grafana"
    )
    expected = {
        name
        for path in (ROOT / "grafana/provisioning").rglob("*.yml")
        for name in re.findall(r"\$\{(\w+)\}", path.read_text(encoding="utf-8"))
    }
    assert expected <= set(program.environment)
    home = program.environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert json.loads(Path(home).read_text(encoding="utf-8"))["uid"] == "model-fleet"
    assert Path(home).is_relative_to(program.environment["DASHBOARDS_FOLDER"])
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    settings = services["grafana"]["environment"]
    assert settings["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{settings['DASHBOARDS_FOLDER']}/{Path(home).name}"
    # Neither makes an administrator, has a login form or calls the Internet; a missing folder would be an error.
    alike = {
        name: value for name, value in settings.items() if re.match("GF_(AUTH|SECURITY|ANALYTICS|PLUGINS|NEWS)", name)
    }
    assert alike.items() <= program.environment.items() and len(alike) == 10
    assert {path.name for path in (ROOT / "grafana/provisioning").iterdir()} >= {"alerting", "plugins"}


# ---- every expression lives


NOW: list[float] = []
"""When the hour had just ended: on a slow machine the last test comes when its data are stale."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that holds the recorded hour, which has just ended, and goes on applying the rules."""
    folder = tmp_path_factory.mktemp("recorded")
    recorded.record(folder)
    with recorded.prometheus(folder, rules=True) as program:
        url = program.url
        for layer in ("system", "business"):
            firing = f'ALERTS{{alertstate="firing",layer="{layer}",model="credit",severity="critical"}}'
            eventually(lambda firing=firing: answer(url, firing, instant=True), 180, 0.3)
        eventually(lambda: answer(url, 'ALERTS{alertname="Watchdog"}', instant=True), 180, 0.3)
        NOW.append(time.time())
        yield url
        NOW.clear()


def answer(url: str, expr: str, *, instant: bool, ago: int = 0) -> list[Any]:
    """What Prometheus answers for this moment, or for the hour before it; fails on an error."""
    at = (NOW[0] if NOW else time.time()) - ago
    span = {"time": at} if instant else {"start": at - recorded.HOUR, "end": at, "step": recorded.STEP}
    response = ask(f"{url}/api/v1/{'query' if instant else 'query_range'}?{urlencode({'query': expr, **span})}")
    assert response.status == 200, f"{expr}: {response.text}"
    result: list[Any] = response.json["data"]["result"]
    return result


@for_each_expression
def test_an_expression_returns_data(prometheus: str, where: str, expr: str, instant: bool) -> None:
    """Every panel and every annotation finds something in an hour in which a model goes wrong.

    With one version chosen; or with all, since that one is either the last or one of those before it; or for a model
    that predicts numbers.
    """
    metrics, _ = names(Chosen().into(expr))
    result = any(
        answer(prometheus, chosen.into(expr), instant=instant) for chosen in (Chosen(), ALL_VERSIONS, REGRESSION)
    )
    later_rank = "unless topk(" in expr  # of fewer series than colours
    assert result or later_rank or set(metrics) <= set(QUIET) or any(part in expr for part in UNMET), expr


@for_each_expression
def test_an_expression_uses_existing_metrics_and_labels(prometheus: str, where: str, expr: str, instant: bool) -> None:
    """Each metric belongs to the exporter, a rule or Prometheus, and each label is one that its series have."""
    metrics, used = names(Chosen().into(expr))
    assert metrics
    assert set(metrics) <= EXPORTED | RECORDED | OF_PROMETHEUS
    labels = {metric: recorded.labels(prometheus, metric) for metric in metrics}
    # Those of alerts on machines, idle in the recorded hour, and on features, whose statements need more time.
    labels.get("ALERTS", set()).update({"instance", "path", "feature"})
    for metric, selected in metrics.items():
        assert selected <= labels[metric] or metric in QUIET, f"{metric} has no {selected - labels[metric]}"
    assert used <= set().union(*labels.values()) or set(metrics) <= set(QUIET), expr


@pytest.mark.parametrize("uid", UIDS)
def test_variables_have_values(prometheus: str, uid: str) -> None:
    """The variables offer what was exported in the time range, including a version that has disappeared."""
    for variable in BOARDS[uid]["templating"]["list"]:
        if variable["type"] == "query":
            values = offered(prometheus, variable, Chosen())
            assert values, variable["name"]
            if variable["name"] in TITLES:
                assert offered(prometheus, variable, REGRESSION) == [TITLES[variable["name"]][1]]
            if variable["name"] in {"version", "before", "after"}:
                assert set(values) == {"2", "3", "4"}
            if "query_result" in variable["query"]["query"]:
                assert variable["sort"] == 0
                # The worst, those that are compared, and an hour before the shorter and the longer windows.
                first = {"feature": "age", "before": "3", "after": "4", "window": "1h", **OF_CLASSES}
                assert values[0] == first[variable["name"]]
            if variable["name"] == "feature":
                assert len(values) > 4
            if variable["name"] == "model":
                assert set(values) == {"credit", recorded.ODD}


def offered(url: str, variable: dict[str, Any], chosen: Chosen) -> list[str]:
    """The values of a variable whose query is ``label_values(selector, label)`` or ``query_result(expression)``."""
    text = chosen.into(variable["query"]["query"])
    if ordered := re.fullmatch(r"query_result\((.+)\)", text):
        rows = answer(url, ordered[1], instant=True)
        # As Grafana writes them, and as the regular expression of the variable reads them.
        pairs = [(", ".join(f'{key}="{value}"' for key, value in row["metric"].items()), row["value"]) for row in rows]
        lines = [f"{{{labels}}} {value} {at}" for labels, (at, value) in pairs]
        return [match[1] for line in lines if (match := re.search(variable["regex"].strip("/"), line))]
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", text)
    assert match, text
    span = {"start": time.time() - recorded.HOUR, "end": time.time(), "match[]": match[1]}
    values: list[str] = ask(f"{url}/api/v1/label/{match[2]}/values?{urlencode(span)}").json["data"]
    return values


# ---- bad input


@pytest.mark.parametrize(
    "chosen",
    [
        Chosen(model=recorded.ODD, version=recorded.ODD_VERSION, feature="", window="10m", after=recorded.ODD_VERSION),
        Chosen(version="2", before="2", after="2"),
        Chosen(model="", version="", feature="", window="", before="", after="", instance=""),
        Chosen(everything=frozenset({"model", "version", "instance"})),
        Chosen(model=".*+?{}()[]|^$\\-/", version='"quoted" \\ 版', feature="the \u00e4 'feature'"),
    ],
    ids=["no profile", "vanished version", "nothing chosen", "everything chosen", "any characters"],
)
def test_no_selection_is_an_error(prometheus: str, chosen: Chosen) -> None:
    """Whatever the names of models, versions and features, and whatever is missing, no panel shows an error."""
    for _, expr, instant in ALL:
        answer(prometheus, chosen.into(expr), instant=instant)


def test_a_model_without_profile_has_no_data_layer(prometheus: str) -> None:
    """A model without a profile shows its requests, and no values of what needs a profile, not even zero."""
    without_profile = Chosen(model=recorded.ODD, version=recorded.ODD_VERSION, feature="", window="10m")
    shown = {
        panel["title"] or target["legendFormat"]: answer(prometheus, without_profile.into(target["expr"]), instant=True)
        for panel in BOARDS["model-overview"]["panels"]
        for target in (targets(panel)[:1] if panel["title"] else targets(panel)[::3])
    }
    states = {
        layer: answer(prometheus, without_profile.into(layer_state(layer)), instant=True)
        for layer in ("system", "data", "business")
    }
    assert shown["Requests"] and shown["$confidence"] and states["system"] and states["business"]
    assert not shown["Corrected, 1h"] and not shown["Corrected"], "no feedback"
    assert not states["data"], "it would be OK though nobody watches it"
    assert not shown["Worst drift"]


def test_a_removed_version_shows_its_past_only(prometheus: str) -> None:
    """Past values of a removed version are shown; current ones are absent, not zero."""
    (expr,) = (
        targets(panel)[0]["expr"]
        for panel in BOARDS["model-system"]["panels"]
        if panel["title"] == "Error ratio by version"
    )
    vanished = Chosen(version="2")
    assert not answer(prometheus, vanished.into(expr), instant=True)


def test_the_latest_version_is_highlighted(prometheus: str) -> None:
    """The version deployed last is highlighted; both are where two started together."""
    (panel,) = (panel for panel in BOARDS["model-system"]["panels"] if panel["title"] == "Requests by version")
    last, older = (ALL_VERSIONS.into(target["expr"]) for target in targets(panel)[:2])

    def shown(expr: str, ago: int) -> set[str]:
        return {series["metric"]["version"] for series in answer(prometheus, expr, instant=False, ago=ago)}

    assert shown(last, 0) == {"4"} and "3" in shown(older, 0)
    assert shown(last, 3000) == {"2", "3"} and not shown(older, 3000)


def test_an_hour_without_scrapes_has_no_state(prometheus: str) -> None:
    """Without scrapes no panel shows an error or a state."""
    for where, expr, instant in ALL:
        series = answer(prometheus, Chosen().into(expr), instant=instant, ago=12 * recorded.HOUR)
        # -1 and NaN are those of a text for no data.
        assert not series or [one["value"][1] for one in series] in (["-1"], ["NaN"]), f"{where}: {expr}"


def test_the_state_is_the_worst_severity(prometheus: str) -> None:
    """The drifted model is critical in the affected layers; the other one is OK."""
    # Whether inputs drifted is known only after a few minutes.
    for layer, numbers in (("business", {"6"}), ("data", {"0", "4"})):
        assert answer(prometheus, Chosen().into(layer_state(layer)), instant=True)[0]["value"][1] in numbers
    states = fleet(prometheus, "A")
    assert {model: value for model, (_, value) in states.items()} == {"credit": "6", recorded.ODD: "0"}


def fleet(url: str, ref: str) -> dict[str, tuple[dict[str, str], str]]:
    """The labels and values of a column of the table of all models, by model."""
    (panel,) = (panel for panel in BOARDS["model-fleet"]["panels"] if panel["type"] == "table" and panel["id"] == 6)
    (expr,) = (target["expr"] for target in targets(panel) if target["refId"] == ref)
    rows = answer(url, expr, instant=True)
    assert len({row["metric"]["model"] for row in rows}) == len(rows), "a model would have two rows"
    return {row["metric"]["model"]: (row["metric"], row["value"][1]) for row in rows}


def test_the_fleet_names_what_is_wrong(prometheus: str) -> None:
    """Values beyond their threshold have a mark, the worst feature has a name, and unknown values are absent."""
    assert re.fullmatch(r"\d+\.\d\d%( !!)?", fleet(prometheus, "C")["credit"][0]["errors"])
    assert re.fullmatch(r"\d+ ms !", fleet(prometheus, "D")["credit"][0]["latency"])
    worst = fleet(prometheus, "E")
    assert re.fullmatch(r"\d+\.\d\d age !", worst["credit"][0]["feature"])
    assert fleet(prometheus, "F")["credit"][0]["confident"].startswith(("79.", "80."))
    assert re.fullmatch(r"\d+\.\d\d% !!", fleet(prometheus, "G")["credit"][0]["corrected"])
    assert re.fullmatch(r"5\d\.\d%( !!)?", fleet(prometheus, "H")["credit"][0]["accuracy"])
    assert fleet(prometheus, "H")[recorded.ODD][0]["accuracy"] == "1.5", "the error of a regression without a profile"
    for ref in "EG":
        assert recorded.ODD not in fleet(prometheus, ref)
    assert "credit" in fleet(prometheus, "B") and recorded.ODD not in fleet(prometheus, "B")


def test_shares_of_bins_add_up_to_one(prometheus: str) -> None:
    """The live and the training histogram of a feature each add up to one."""
    (panel,) = (panel for panel in BOARDS["model-data"]["panels"] if panel["title"].endswith("over training ones"))
    for target in targets(panel):
        series = answer(prometheus, Chosen().into(target["expr"]), instant=True)
        assert sum(float(sample["value"][1]) for sample in series) == pytest.approx(1, abs=1e-6)


# ---- what an expression names


FUNCTIONS = set(
    re.findall(
        r"\w+",
        "Inf NaN abs and avg avg_over_time bool bottomk clamp clamp_max clamp_min count count_over_time"
        " count_values end exp floor group histogram_quantile increase label_join label_replace last_over_time"
        " ln max max_over_time min min_over_time or present_over_time rate round sqrt sum time topk unless"
        " vector",
    )
)
EXPORTED = {
    name + suffix
    for name in re.findall(r"^\| `((?:model|process|python)_\w+)`", (ROOT / "docs/metrics.md").read_text("utf-8"), re.M)
    for suffix in ("", "_bucket", "_sum", "_count")
}
"""What the exporter exports; other tests hold the page against the exporter."""
RECORDED = {rule["record"] for layer in recorded.layers() for rule in layer}
NO_PROFILE = re.compile("(estimated|reference)_mean_absolute_error|AccuracyLowError")
QUIET |= dict.fromkeys(filter(NO_PROFILE.search, EXPORTED | RECORDED), "the recorded regression has no profile")


def names(expr: str) -> tuple[dict[str, set[str]], set[str]]:
    """The metrics of an expression, each with the labels that its selectors name; and the labels of all the rest.

    >>> names('sum by (b) (increase(m_total{a="x{",c=~`y`}[1h])) / on (d) n:o')
    ({'m_total': {'a', 'c'}, 'n:o': set()}, {'b', 'd'})
    """
    pairs = re.findall(r'"(\w+)", "[^"]*", "\w*", "|count_values(?: by \([^)]*\) )?\("(\w+)"', expr)
    made = {name for pair in pairs for name in pair}
    bare = re.sub(r'"(?:[^"\\]|\\.)*"|`[^`]*`', "''", expr)
    used: set[str] = set()
    for group in re.findall(r"\b(?:by|on|ignoring|without|group_left|group_right) ?\(([^)]*)\)", bare):
        used |= set(re.findall(r"\w+", group))
    bare = re.sub(r"\b(?:by|on|ignoring|without|group_left|group_right) ?(?:\([^)]*\))?", " ", bare)
    bare = re.sub(r"\[[^\]]*\]|offset \w+", " ", bare)
    metrics: dict[str, set[str]] = {}
    for name, selector in re.findall(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?", bare):
        if name in FUNCTIONS and not selector:
            continue
        metrics.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
    return metrics, used - made
