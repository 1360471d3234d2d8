"""How many messages a person gets of an incident.

Prometheus' own engine evaluates the shipped rules over what exporters export, and a real Alertmanager with the shipped
routes gets the alerts.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from support.alertmanager import SPEED, Running, alert, alertmanager, now
from support.paths import ROOT
from support.phases import Counter, Steps
from support.promtool import expected, groups_of, series_of
from support.servers import eventually

TEAM, OWNERS = "ml-team@example.com", "model-owners@example.com"
SCRAPE = 15
"""Seconds between scrapes, and between evaluations."""
END = 90
"""The minute in which all is over."""
HALF = 25
"""The minute until which each alert fires once, and from which on."""
RESTART = 45.0
"""The minute in which Alertmanager is stopped, and started again at once."""
Series = dict[str, Counter | Steps]


def model(name: str, *phases: tuple[float, float], version: str = "1", errors: float = 0, **also: str) -> Series:
    """A model that gets requests a second in phases; in the second phase a share of them fails."""
    of = f'model="{name}",version="{version}"'
    ok = [(minutes, rate * (1 - errors * (index == 1))) for index, (minutes, rate) in enumerate(phases)]
    bad = [(minutes, rate * errors * (index == 1)) for index, (minutes, rate) in enumerate(phases)]
    return {
        f'model_exporter_links_info{{model="{name}",external_url="http://e",dashboards_url="http://g"}}': ALWAYS,
        f'model_info{{{of},profile="none"}}': ALWAYS,
        f'model_requests_total{{{of},code="200"}}': Counter(tuple(ok)),
        f'model_requests_total{{{of},code="500"}}': Counter(tuple(bad)),
    } | {
        f'model_alert_threshold{{model="{name}",alert="{alert}"}}': Steps(((1, float(value)),))
        for alert, value in also.items()
    }


ALWAYS = Steps(((1, 1.0),))


def inputs(name: str, changed: tuple[float, float], kl: float, unseen: float, evidence: Steps) -> Series:
    """Two features, of which one changes between two minutes."""
    begin, end = changed
    series: Series = {
        f'model_drift_evidence{{model="{name}",version="1"}}': evidence,
        f'model_drift_evidence_limit{{model="{name}",version="1"}}': Steps(((1, 13.2),)),
    }
    for feature, score, outside in (("age", kl, unseen), ("income", 0.01, 0.0)):
        of = f'model="{name}",version="1",feature="{feature}"'
        for metric, value, usual in (
            ("kl_divergence", score, 0.01),
            ("change_kl_divergence", score if score > 0.1 else None, None),
            ("unseen_ratio", outside, 0.0),
        ):
            series[f'model_feature_{metric}{{{of},window="5m"}}'] = Steps(
                ((begin, usual), (end - begin, value), (1, usual))
            )
        for metric, value in (
            ("kl_divergence_noise", 0.2),
            ("window_observations", 100),
            ("mean_shift", 0.1),
            ("missing_ratio", 0),
            ("invalid_ratio", 0),
            ("reference_missing_ratio", 0),
        ):
            series[f'model_feature_{metric}{{{of},window="5m"}}'] = Steps(((1, value),))
    return series


def business(name: str, corrections: Counter) -> Series:
    """Confident predictions of one a second, and their corrections."""
    of, always = f'model="{name}",version="1"', Counter(((99, 1.0),))
    return {
        f"model_attempts_total{{{of}}}": always,
        f"model_confident_predictions_total{{{of}}}": always,
        f"model_corrections_total{{{of}}}": corrections,
    }


class Incident(NamedTuple):
    """What happens to an exporter with one model, and how many messages the team, the pager and the owners get."""

    series: Series
    team: int
    pager: int = 0
    owners: int = 0
    away: tuple[tuple[float, float], ...] = ()
    """The minutes at which the exporter is away, and for how many seconds; then its counters begin again."""


ERRORS = (2.0, 3.3), (50.0, 3.3), (1.0, 3.3)
INCIDENTS = {
    "a dark camera": Incident(
        model("camera", (99, 1))
        | inputs("camera", (6, 16), 3.0, 0.6, Steps(((8, 2), (30, 20), (1, 2))))
        | business("camera", Counter(((6, 0), (10, 0.06), (1, 0)))),
        team=4,
        pager=4,
        owners=2,
    ),
    "a swapped column, of a model that has drifted for long": Incident(
        model("column", (99, 1)) | inputs("column", (20, 35), 0.8, 0.02, Steps(((55, 20), (1, 2)))), team=4
    ),
    "a changed unit": Incident(
        model("unit", (99, 1)) | inputs("unit", (10, 30), 5.0, 1.0, Steps(((12, 2), (30, 20), (1, 2)))),
        team=2,
        pager=2,
    ),
    "drift": Incident(
        model("drift", (99, 1)) | inputs("drift", (98, 99), 0.5, 0, Steps(((5, 2), (40, 20), (1, 2)))), 2
    ),
    "5% of errors for five minutes": Incident(model("errors", (8, 3.3), (5, 3.3), (1, 3.3), errors=0.05), 2, 2),
    "a bad release": Incident(
        model("release", (99, 3.3)) | model("release", (5, 0), (15, 3.3), (1, 0), version="2", errors=0.1), 2, 2
    ),
    "callers that stop": Incident(model("callers", (10, 1), (30, 0), (1, 1)), team=2),
    "an hourly batch, with `ModelTrafficMissing: 2h`": Incident(
        model("batch", (5, 0), (1, 20), (59, 0), (1, 20), (1, 0), ModelTrafficMissing="7200"), team=0
    ),
    "a model without traffic at night, with `ModelTrafficMissing: off`": Incident(
        model("night", (10, 1), (1, 0), ModelTrafficMissing="-1"), team=0
    ),
    "an exporter that is unreachable for 10, 45 and 130 seconds during errors": Incident(
        model("away", *ERRORS, errors=0.05), 2, 2, away=((15, 10), (20, 45), (25, 130))
    ),
    "an exporter that is down for 20 minutes during errors, while others are up": Incident(
        model("down", *ERRORS, errors=0.05), 4, 2, away=((10, 1200),)
    ),
    "a Prometheus and an Alertmanager that restart during errors": Incident(
        model("restart", *ERRORS, errors=0.05), 2, 2
    ),
}


def name_of(incident: Incident) -> str:
    """The model."""
    found = re.search('model="(.+?)"', next(iter(incident.series)))
    assert found
    return found[1]


class Firing(NamedTuple):
    """An alert, and the minutes between which it fires."""

    labels: dict[str, str]
    begin: float
    end: float


def samples(incident: Incident) -> dict[str, str]:
    """What Prometheus scrapes of an incident's exporter, in promtool's notation."""
    target = f'job="model-exporter",instance="{name_of(incident)}"'
    found: dict[str, list[str]] = {f"up{{{target}}}": [], f"process_start_time_seconds{{{target}}}": []}
    for scrape in range(END * 60 // SCRAPE):
        second = scrape * SCRAPE
        starts = [60 * begin + seconds for begin, seconds in incident.away if second >= 60 * begin]
        away = bool(starts) and second < starts[-1]
        found[f"up{{{target}}}"].append(str(int(not away)))
        found[f"process_start_time_seconds{{{target}}}"].append(str(starts[-1] if starts else 0))
        for name, series in incident.series.items():
            value = series.at(second / 60)
            before = series.at(starts[-1] / 60) if starts and isinstance(series, Counter) else 0
            sample = "stale" if value is None or away else f"{value - (before or 0):.6f}"
            found.setdefault(f"{name[:-1]},{target}}}", []).append(sample)
    return {name: " ".join(values) for name, values in found.items()}


def firing(folder: Path) -> list[Firing]:
    """The alerts of all incidents, from promtool's word on what it did not expect."""
    groups = groups_of()
    for rule in (rule for group in groups for rule in group["rules"]):
        rule.pop("annotations", None)  # texts take most of the time, and route nothing
    (folder / "rules.json").write_text(json.dumps({"groups": groups}))
    fires = 'ALERTS{alertstate="firing",alertname!="Watchdog"}'
    cases = [
        expected(query.replace("RANGE", f"[{end - begin}m:{SCRAPE}s]"), f"{end}m", {})
        for begin, end in ((0, HALF), (HALF, END))
        for query in (
            f"min_over_time(timestamp({fires})RANGE)",
            f"max_over_time(timestamp({fires})RANGE)",
            f"count_over_time({fires}RANGE)",
        )
    ]
    series = {name: values for incident in INCIDENTS.values() for name, values in samples(incident).items()}
    test = {"interval": f"{SCRAPE}s", "input_series": series_of(series), "promql_expr_test": cases}
    document = {"rule_files": ["rules.json"], "evaluation_interval": f"{SCRAPE}s", "tests": [test]}
    document["group_eval_order"] = [group["name"] for group in groups]
    (folder / "incidents.json").write_text(json.dumps(document))
    command = ["promtool", "test", "rules", str(folder / "incidents.json")]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    answers = re.findall(r"got: (.*)", output.stdout + output.stderr)
    assert len(answers) == len(cases), output.stdout + output.stderr
    values = [dict(re.findall(r"({[^{}]*}) ([\d.E+-]+)", answer)) for answer in answers]
    found: dict[str, list[Firing]] = {}
    for half in (values[:3], values[3:]):
        for text in half[0]:
            begin, end, count = (float(one[text]) for one in half)
            assert count == (end - begin) / SCRAPE + 1, f"{text} fires more than once, from {begin} to {end} s: {count}"
            labels = dict(re.findall(r'(\w+)="([^"]*)"', text))
            del labels["alertstate"]
            before = found.setdefault(text, [])
            if before and begin - 60 * before[-1].end <= SCRAPE:  # it goes on
                begin = 60 * before.pop().begin
            before.append(Firing(labels, begin / 60, end / 60))
    return [one for alerts in found.values() for one in alerts]


def replay(server: Running, alerts: list[Firing]) -> float:
    """Post each alert when it fires and when it ends, as Prometheus does; return the time of the beginning."""
    changes = sorted(
        [(one.begin, 0, one.labels) for one in alerts]
        + [(one.end, 1, one.labels) for one in alerts if one.end < END - 1]
        + [(RESTART, 2, {})],
        key=lambda change: change[:2],
    )
    began = time.monotonic()
    sent: dict[str, tuple[float, Any]] = {}
    for minute, kind, labels in changes:
        time.sleep(max(began + minute * 60 / SPEED - time.monotonic(), 0))
        if kind == 2:
            server.program.stop()
            server.program.start()
            # Prometheus sends each alert again every minute, and one that ended for 15 minutes.
            server.post(*(posted for end, posted in sent.values() if end > minute - 15))
            continue
        others = {key: value for key, value in labels.items() if key != "alertname"}
        summary = f"{labels['alertname']} of {labels.get('model') or labels['instance']}"
        posted = alert(labels["alertname"], summary=summary, **others) | ({"endsAt": now()} if kind else {})
        sent[str(sorted(labels.items()))] = (minute if kind else END, posted)
        server.post(posted)
    return began


def test_an_incident_is_announced_once_and_ends_once(tmp_path: Path) -> None:
    """The table of docs/notifications.md: one message at the beginning and one at the end, and no others."""
    alerts = firing(tmp_path)
    with alertmanager(tmp_path) as server:
        began, received = replay(server, alerts), server.received
        with contextlib.suppress(AssertionError):  # compared below
            eventually(lambda: len(received.mailed(TEAM)) >= sum(incident.team for incident in INCIDENTS.values()), 20)
        time.sleep(10 * 60 / SPEED)  # for one too many
        counts = {
            name: (
                sum(of_incident(incident, mail["Subject"]) for mail in received.mailed(TEAM)),
                sum(of_incident(incident, page["groupLabels"]) for page in received.at("/pager")),
                sum(of_incident(incident, mail["Subject"]) for mail in received.mailed(OWNERS)),
            )
            for name, incident in INCIDENTS.items()
        }
        subjects = [str(mail["Subject"]) for mail in received.mailed(TEAM)]
        assert counts == {name: (one.team, one.pager, one.owners) for name, one in INCIDENTS.items()}, (
            subjects,
            alerts,
        )
        assert 2 * sum("[resolved after" in subject for subject in subjects) == len(subjects)
        assert len(received.at("/slack")) == len(subjects)
        assert not re.search("FeatureDrift|PredictionDrift|MeanShift", str(received.at("/slack"))), (
            "a cause is no message"
        )
        # Within five minutes, though the model has an alert open; two seconds for a slow machine.
        (change,) = (
            one for one in alerts if one.labels["alertname"] == "ModelInputsChanged" and one.labels["model"] == "column"
        )
        told = [
            at
            for (_, mail), at in zip(received.mails, received.mailed_at, strict=True)
            if mail["Subject"].startswith("[warning] ModelInputsChanged of column")
        ]
        assert told[0] - began < (change.begin + 5) * 60 / SPEED + 2
    text = (ROOT / "docs" / "notifications.md").read_text("utf-8")
    assert re.findall(r"^(\| [^|]+ \| \d+ \| \d+ \| \d+ \|) [\d.]* ?\|$", text, re.MULTILINE) == [
        f"| {name} | {one.team} | {one.pager} | {one.owners} |" for name, one in INCIDENTS.items()
    ]


def of_incident(incident: Incident, text: object) -> bool:
    """Whether a text names the model or its exporter."""
    return bool(re.search(rf"\b{name_of(incident)}\b", str(text)))
