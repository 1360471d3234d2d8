"""The home page: what it knows of alerts and what it does not, incidents, and the figures of models."""

from __future__ import annotations

import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask.testing import FlaskClient
from support import programs
from support.pages import Page
from support.programs import Program
from support.servers import CONFIG, Answer, Served, ask, eventually, write_config

from exporter.prometheus import Sample
from exporter.server import alerts as alert_source
from exporter.server.alerts import MAX_FIRING, Alert, Inbox, from_inbox
from exporter.server.application import Exporter
from exporter.server.flask_app import create_app
from exporter.server.pages.home import group_alerts

WATCHDOG = {"status": "firing", "labels": {"alertname": "Watchdog", "severity": "none", "layer": "exporter"}}
PROMETHEUS = shutil.which("prometheus") or "prometheus"


def alert(name: str, severity: str, layer: str, description: str = "", minutes: float = 12, **labels: str) -> Any:
    """An alert of Alertmanager's webhook that began some minutes ago."""
    began = datetime.now(UTC) - timedelta(minutes=minutes)
    return {
        "status": "firing",
        "labels": {"alertname": name, "severity": severity, "layer": layer, **labels},
        "annotations": {"summary": f"summary of {name}", "description": description},
        "startsAt": began.isoformat().replace("+00:00", "Z"),
    }


def notification(*alerts: Any) -> dict[str, Any]:
    return {"version": "4", "status": "firing", "alerts": list(alerts)}


def classes(page: Page, tag: str) -> list[str]:
    return [attributes.get("class") or "" for name, attributes in page.tags if name == tag]


def heading(source: str) -> str:
    match = re.search(r'<h1 id="firing">(.*?)</h1>', source, re.S)
    assert match
    return match[1]


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    """An exporter in this process in this process."""
    exporter = Exporter(write_config(tmp_path, {**CONFIG, "store": {"url": f"sqlite:///{tmp_path}/store.db"}}))
    yield exporter
    exporter.close()


@pytest.fixture
def client(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A client to which Alertmanager's first notification is enough."""
    monkeypatch.setattr(alert_source, "SETTLE_SECONDS", 0.0)
    return create_app(exporter).test_client()


# ---- what is known


def test_without_a_source_of_alerts_nothing_is_claimed(served: Served) -> None:
    """Without notifications and Prometheus the page says that it does not know, and how to connect alerts."""
    served.post("/v1/predictions", {"model": "credit"})
    served.samples()
    page = Page(served.get("/"))
    assert heading(page.source) == "Alerts do not reach this page"
    assert "prometheus_url" in page.text
    assert f"{served.url}/v1/notifications" in page.text
    assert classes(page, "li").count("unknown") == 3
    assert "ok" not in classes(page, "li")
    assert "No alert is firing" not in page.text
    assert "no alert" not in page.text


def test_all_is_known_while_watchdog_arrives() -> None:
    """All alerts are known two minutes after the first Watchdog, and until five minutes after the last."""
    inbox = Inbox()
    assert from_inbox(inbox, 0.0).problem == "Alerts do not reach this page"
    foreign = {**WATCHDOG, "labels": {"alertname": "Watchdog", "severity": "none"}}
    inbox.take(json.dumps(notification(foreign)).encode(), 0.0)
    assert from_inbox(inbox, 200.0).problem == "Alerts do not reach this page"
    watchdog = json.dumps(notification(WATCHDOG)).encode()
    inbox.take(watchdog, 1000.0)
    assert from_inbox(inbox, 1060.0).problem == "Waiting for alerts"
    inbox.take(watchdog, 1060.0)
    assert from_inbox(inbox, 1130.0).problem == ""
    assert from_inbox(inbox, 1350.0).problem == ""
    stale = from_inbox(inbox, 1060.0 + 720)
    assert stale.problem == "Alerts stopped reaching this page 12 minutes ago"
    inbox.take(json.dumps(notification({**WATCHDOG, "status": "resolved"})).encode(), 1790.0)
    assert from_inbox(inbox, 1795.0).problem.startswith("Alerts stopped")
    assert not inbox.firing(1795.0)
    assert not inbox.last()


def test_alerts_of_an_alertmanager_that_died_expire() -> None:
    """An alert that is not repeated for seven minutes is not known to fire; the page says how many there were."""
    inbox = Inbox()
    first, other = alert("A", "critical", "data", model="a"), alert("B", "warning", "system", model="b")
    inbox.take(json.dumps(notification(WATCHDOG, first, other)).encode(), 0.0)
    inbox.take(json.dumps(notification(WATCHDOG, first)).encode(), 200.0)
    assert [one.name for one in inbox.firing(420.0)] == ["A", "B"]
    known = from_inbox(inbox, 421.0)
    assert ([one.name for one in known.alerts], known.problem) == (["A"], "")
    stale = from_inbox(inbox, 501.0)
    assert ([one.name for one in stale.alerts], stale.problem) == (
        ["A"],
        "Alerts stopped reaching this page 5 minutes ago",
    )
    stale = from_inbox(inbox, 621.0)
    assert (stale.alerts, stale.problem) == ([], "Alerts stopped reaching this page 7 minutes ago")
    assert stale.detail.endswith(" 2 alerts fired then; whether they still fire is not known.")
    inbox.take(json.dumps(notification(WATCHDOG, first)).encode(), 630.0)
    back = from_inbox(inbox, 640.0)
    assert ([one.name for one in back.alerts], back.problem) == (["A"], "")
    assert from_inbox(inbox, 1051.0).detail.endswith(" 1 alert fired then; whether it still fires is not known.")


def test_no_alert_fires(client: FlaskClient) -> None:
    """With Watchdog the page says that no alert fires."""
    client.post("/v1/notifications", json=notification(WATCHDOG))
    page = client.get("/").text
    assert heading(page) == "No alert is firing"
    assert page.count('<li class="ok">') == page.count("<span>no alert</span>") == 3


def test_memory_of_notifications_is_bounded() -> None:
    """Labels and annotations that the page does not show are dropped, others cut, and the oldest alerts forgotten."""
    inbox = Inbox()
    for first in range(0, MAX_FIRING + 100, 100):
        many = [
            alert("A", "info", "data", "d" * 5000, model=f"{n}-{'m' * 900}", more="x" * 900)
            for n in range(first, first + 100)
        ]
        inbox.take(json.dumps(notification(*many)).encode(), 0.0)
    kept = inbox.firing(0.0)
    assert len(kept) == MAX_FIRING
    assert kept[0].labels["model"].startswith(f"{MAX_FIRING + 99}-")
    assert len({one.labels["model"] for one in kept}) == MAX_FIRING
    assert len(json.dumps([kept[0].labels, kept[0].annotations])) < 2000
    assert "more" not in kept[0].labels


def test_forgotten_alerts_are_not_known() -> None:
    """More alerts than the page keeps are a problem for as long as some may be missing."""
    inbox = Inbox()
    inbox.take(json.dumps(notification(WATCHDOG)).encode(), 0.0)
    inbox.take(json.dumps(notification(alert("A", "critical", "system", model="first"))).encode(), 0.0)
    many = [alert("A", "info", "data", model=str(number)) for number in range(MAX_FIRING)]
    inbox.take(json.dumps(notification(*many[:-1])).encode(), 150.0)
    assert from_inbox(inbox, 151.0).problem == ""
    inbox.take(json.dumps(notification(WATCHDOG, *many)).encode(), 200.0)
    assert "first" not in {one.labels["model"] for one in inbox.firing(200.0)}
    assert from_inbox(inbox, 201.0).problem == f"More than {MAX_FIRING} alerts fire"
    assert from_inbox(inbox, 321.0).problem == ""


def test_alerts_that_alertmanager_suppresses_do_not_stay() -> None:
    """An alert that is missing from a later notification of its group, such as an inhibited one, no longer fires."""
    inbox = Inbox()

    def send(*names: str, **members: object) -> list[str]:
        alerts = [alert(name, "warning", "data", model="digits") for name in names]
        inbox.take(json.dumps({**notification(*alerts), "externalURL": "http://a", **members}).encode(), 0.0)
        return [one.name for one in inbox.firing(0.0)]

    assert send("Changed", groupKey="digits") == ["Changed"]
    assert send("Other", groupKey="loans") == ["Other", "Changed"]
    assert send("Drift", groupKey="digits") == ["Drift", "Other"]
    # These do not have all alerts of the group, or are of another Alertmanager, or of a sender without groups.
    assert send("Mean", groupKey="digits", truncatedAlerts=1) == ["Mean", "Drift", "Other"]
    assert send("New", groupKey="digits", externalURL="http://b") == ["New", "Mean", "Drift", "Other"]
    assert send("Plain") == ["Plain", "New", "Mean", "Drift", "Other"]
    assert send("Plain again") == ["Plain again", "Plain", "New", "Mean", "Drift", "Other"]


class _Answers:
    """A Prometheus that answers with given data."""

    url = "http://prometheus"
    data: Any = None

    def query(self, text: str) -> list[Sample]:
        assert text == alert_source.BUDGETS
        return [Sample({"model": "credit"}, 0.25)]

    def get(self, path: str, max_body: int) -> Any:
        assert max_body == alert_source.MAX_BODY
        assert path == "/api/v1/alerts"
        return self.data


def test_alerts_are_those_of_the_newer_source() -> None:
    """If Prometheus does not respond, the page shows its last answer or, if they are newer, the notifications."""
    inbox, prometheus = Inbox(), _Answers()
    firing = [{"labels": labels, "state": "firing"} for labels in (WATCHDOG["labels"], {"layer": "system"})]
    prometheus.data = {"alerts": firing}
    source = alert_source.AlertSource(lambda: prometheus, inbox, time.monotonic)  # type: ignore[arg-type,return-value]
    source.refresh()
    (known,) = source.read().alerts
    assert source.read().budgets == {"credit": 0.25}
    prometheus.data = {}
    source.refresh()
    late = source.read()
    assert (late.problem, late.alerts) == ("Prometheus does not respond", [known])
    assert "The alerts below are from its last response, 0 seconds ago." in late.detail
    inbox.take(json.dumps(notification(alert("A", "critical", "system"))).encode(), time.monotonic())
    alerts = source.read()
    assert [one.name for one in alerts.firing] == ["A"]
    assert "The alerts below come from Alertmanager, the last 0 seconds ago." in alerts.detail


# ---- incidents


def test_one_incident_is_one_card(client: FlaskClient) -> None:
    """The alerts of a model are one card with one line; each alert is behind a click."""
    alerts = [
        alert("ModelFeatureDrift", "warning", "data", model="credit", feature=f"f{n}", version="3") for n in range(3)
    ]
    alerts += [alert("ModelFeatureMeanShift", "warning", "data", minutes=20, model="credit", feature="f0", version="3")]
    corrected = "Users corrected 13.9% of the confident predictions, above 1%."
    alerts += [alert("ModelCorrectionRatioHigh", "critical", "business", corrected, model="credit", version="3")]
    alerts += [alert("ModelHostDiskHigh", "warning", "system", "95% is in use", instance="h", path="/")]
    client.post("/v1/notifications", json=notification(WATCHDOG, *alerts))
    answer = client.get("/").text
    page = Page(Answer(200, answer.encode()))
    assert heading(answer) == "2 incidents, 6 alerts"
    assert [name for name in classes(page, "article") if name.startswith("alert")] == [
        "alert critical",
        "alert warning",
    ]
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "summary of ModelCorrectionRatioHigh; summary of ModelFeatureDrift; 1 more" in text
    assert "began 20 minutes ago" in text
    assert "summary of ModelHostDiskHigh" in text
    assert answer.count("<details") == 2, "its alerts, and the older notifications"
    times = [attributes for name, attributes in page.tags if name == "time"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one["datetime"] or "") for one in times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", one["title"] or "") for one in times)
    links = [attributes.get("href") or "" for name, attributes in page.tags if name == "a"]
    assert "/drift?model=credit&version=3&feature=f0" in links
    assert any(link.startswith("/review?model=credit&version=3&since=") for link in links)
    card = re.search(r"<article.*?<details", answer, re.S)
    assert card
    assert re.findall(r'<a href="/runbooks/(\w+)">\1</a>', card[0]) == [
        "ModelCorrectionRatioHigh",
        "ModelFeatureDrift",
        "ModelFeatureMeanShift",
    ]
    assert answer.count('<a href="/runbooks/ModelFeatureDrift">ModelFeatureDrift</a>') == 7, "card, list, notifications"
    assert not any("3000" in link or "9090" in link or "9093" in link for link in links)


def test_hostile_alerts_are_text(client: FlaskClient) -> None:
    """Markup, quotes, long labels, missing labels and times of other clocks do no harm."""
    evil = '"><script>alert(1)</script>' + "x" * 200
    future = alert("ModelFeatureMissing", "warning", "data", evil, minutes=-30, model=evil, version=evil, feature=evil)
    odd = [
        {"status": "firing", "labels": {}},
        {"status": "firing", "labels": {"alertname": "Odd", "severity": "page"}, "startsAt": "soon"},
        {"status": "firing", "labels": {"alertname": "Own"}, "annotations": {"runbook_url": "javascript:alert(1)"}},
        {"status": "firing", "labels": {"alertname": "Zero"}, "startsAt": "0001-01-01T00:00:00Z"},
    ]
    answer = client.post("/v1/notifications", json=notification(WATCHDOG, future, *odd))
    assert answer.status_code == 200
    page = client.get("/").text
    assert heading(page) == "2 incidents, 5 alerts"
    assert "<script>alert" not in page
    assert "javascript:" not in page
    assert "began <time" in page and ">just now</time>" in page
    assert page.count("<time") == 2  # the card's and the notification's, of the alert that has one


# ---- Prometheus itself


RULES = {
    "groups": [
        {
            "name": "g",
            "interval": "1s",
            "rules": [
                {"alert": "Watchdog", "expr": "vector(1)", "labels": {"severity": "none", "layer": "exporter"}},
                {
                    "alert": "ModelErrorRatioHigh",
                    "expr": "vector(0.042)",
                    "labels": {"severity": "critical", "layer": "system", "model": "credit", "version": "3"},
                    "annotations": {"summary": "credit version 3 returns errors", "description": "{{ $value }}"},
                },
                {
                    "alert": "ModelLatencyHigh",
                    "expr": "vector(0.8)",
                    "for": "1h",
                    "labels": {"severity": "warning", "layer": "system", "model": "loans"},
                },
                {"alert": "Never", "expr": "vector(1) > 2", "labels": {"layer": "data"}},
                {"alert": "Own", "expr": "vector(1)", "for": "1h", "labels": {"layer": "business", "severity": "info"}},
                {"alert": "KubeNodeNotReady", "expr": "vector(1)", "labels": {"severity": "critical"}},
            ],
        }
    ]
}


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Program]:
    """A Prometheus with `RULES`, which after a reload scrapes the target each second."""
    (folder / "rules.yml").write_text(yaml.safe_dump(RULES))
    config = {"rule_files": ["rules.yml"]}
    with programs.prometheus(folder, config, "--web.enable-lifecycle") as program:
        job = {"job_name": "model-exporter", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump({**config, "scrape_configs": [job]}))
        yield program


@pytest.mark.skipif(not shutil.which("prometheus"), reason="no Prometheus on this machine")
def test_prometheus_is_asked(served: Served, tmp_path: Path) -> None:
    """The page shows Prometheus' firing and pending alerts, and tells what Prometheus does not do."""
    with prometheus(tmp_path, f"127.0.0.1:{served.port}") as program:
        url = program.url
        write_config(tmp_path, {**CONFIG, "prometheus_url": url})
        assert served.post("/-/reload", b"").status == 200
        page = eventually(lambda: when(served, "1 incident, 1 alert, 2 pending"))
        assert "Prometheus does not scrape this exporter." in page
        assert "<span>not known</span>" in page
        served.post("/v1/notifications", notification(alert("A", "critical", "data")))
        ask(f"{url}/-/reload", b"")
        page = eventually(lambda: when(served, "Prometheus does not", without=True))
        text = page.replace("\N{NO-BREAK SPACE}", " ")
        assert "<h2>credit version 3 returns errors</h2>" in text
        assert "<h2>ModelLatencyHigh</h2>" in text, "an alert without a summary has its name"
        assert '<article class="alert pending">' in page
        assert "<span>critical, 1 pending</span>" in page
        assert re.search('<li class="pending"><b>Business</b>\\s*<span>no alert, 1 pending</span>', page)
        assert "KubeNodeNotReady" not in page
        assert "1 incident, 1 alert, 2 pending" in served.get("/").text, "Prometheus is the truth"
        served.post("/-/reload", b"")
        assert "Prometheus does not" not in served.get("/").text, "a reload does not make it another exporter"
        program.kill()
        page = eventually(lambda: when(served, "Prometheus does not respond."))
        assert "cannot be reached (Connection refused)" in page
        assert "The alerts below are from its last response" in page
        assert "1 incident, 1 alert, 2 pending" in page
        (tmp_path / "rules.yml").write_text("groups: []\n")
        shutil.rmtree(tmp_path / "tsdb")
        program.start()
        page = eventually(lambda: when(served, "Prometheus does not evaluate the alerts of this project"))
        assert "No alert is firing" not in page


def when(served: Served, text: str, without: bool = False) -> str:
    page = served.get("/").text
    return page if (text in page) != without else ""


def test_a_silent_prometheus_delays_no_page(tmp_path: Path) -> None:
    """A Prometheus that accepts connections and never responds delays no page."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config = {**CONFIG, "prometheus_url": url, "store": {"url": f"sqlite:///{tmp_path}/store.db"}}
        exporter = Exporter(write_config(tmp_path, config))
        client = create_app(exporter).test_client()
        client.get("/")  # what the first page loads
        eventually(lambda: heading(client.get("/").text) == "Prometheus does not respond")
        for _ in range(2):
            start = time.monotonic()
            page = client.get("/").text
            assert time.monotonic() - start < 4  # it is asked for 10 seconds
            assert heading(page) == "Prometheus does not respond"
            assert "no response yet" in page
        exporter.close()


# ---- models


def test_models_are_sorted_by_trouble_and_marked(served: Served) -> None:
    """A firing alert comes first, and marks its figure; figures of nothing are unknown, not zero."""
    config = {"models": [{"name": name} for name in ("calm", "slow", "failing", "quiet", "alerted", "bare")]}
    served.stop()
    write_config(served.folder, config)
    served.start()
    fine = {"duration_seconds": 0.01, "confidence": 0.9}
    events = [{"model": name, **fine} for name in ("calm", "alerted", "failing")]
    events += [
        {"model": "slow", "duration_seconds": 2.0, "confidence": 0.9},
        {"model": "failing", "code": 503},
        {"model": "bare"},
    ]
    served.post("/v1/predictions", events)
    alerts = [
        alert("ModelTrafficMissing", "warning", "system", model="alerted"),
        alert("ModelErrorRatioHigh", "critical", "system", model="failing"),
    ]
    served.post("/v1/notifications", notification(*alerts))
    source = served.get("/").text
    rows = dict(re.findall(r'<tr role="row"[^>]*><th scope="row".*?title="(\w+)">(.*?)</tr>', source, re.S))
    assert list(rows) == ["failing", "alerted", "bare", "calm", "slow"]
    text = {name: re.sub(r"<[^>]+>", " ", row).replace("\N{NO-BREAK SPACE}", " ") for name, row in rows.items()}
    assert re.search(r'marked critical">50%<', rows["failing"])
    assert re.search(r'class="number">1.6–2.s<', rows["slow"]), "nothing else is known of one value"
    assert re.search(r'class="number">0.005–0.01.s<', rows["calm"])
    assert "marked" not in rows["calm"] + rows["slow"]
    assert '<span class="hidden">warning</span>' in rows["alerted"]
    assert "no profile" in text["calm"]
    assert re.search(r'data-label="Confident, 1h" class="number">100%<', rows["calm"])
    assert 'data-label="Corrected, 1h" class="number">–<' in rows["calm"], "nobody gave feedback"
    assert 'data-label="Confident, 1h" class="number">–<' in rows["bare"], "it sends no confidence"
    assert 'data-label="p95, 5m" class="number">–<' in rows["bare"]
    assert "No prediction since the exporter started: quiet." in source
    assert "this table counts requests, attempts and corrections since then. The figures of alerts are from" in source
    _, _, explanation = source.partition("<summary>How to read these figures</summary>")
    assert "A dash means that nothing was counted" in explanation.partition("</details>")[0]


def test_many_calm_models_are_folded(served: Served) -> None:
    """The page has forty versions, and all with an alert. Its links keep a search and have the others."""
    served.stop()
    write_config(served.folder, {"models": [{"name": f"m{n:03d}"} for n in range(60)]})
    served.start()
    versions = [(f"m{n:03d}", version) for n in range(60) for version in ("12" if n >= 15 else "1")]
    events = [{"model": name, "version": one, "code": 503 if one == "2" else 200} for name, one in versions]
    assert served.post("/v1/predictions", events).status == 202
    alerts = [alert("ModelErrorRatioHigh", "critical", "system", model=f"m{n:03d}", version="2") for n in range(15, 60)]
    served.post("/v1/notifications", notification(*alerts))
    source, everything = served.get("/?q=m").text, served.get("/?all=1").text
    assert '<a href="?all=1&amp;q=m#models">60 more without a known alert</a>' in source
    assert '<a href="?all=1&amp;q=m">37 more incidents</a>' in source
    assert 'name="all"' in everything, "a search keeps it"
    assert '<a href="?all=1">37 more incidents</a>' in served.get("/").text
    assert [page.count("<article") for page in (source, everything)] == [8, 45]
    assert source.count("marked critical") == source.count('<th scope="row"') == 45
    assert everything.count('<th scope="row"') == 105
    assert re.findall(r'<th scope="row".*?title="(m.*?)"', served.get("/?q=M00").text) == [
        f"m{n:03d}" for n in range(10)
    ]
    for path in ("/drift", "/quality", "/slices"):
        page = served.get(path).text
        assert '<a href="/review?model=m015">Review</a>' in page, "the worst model is chosen, and stays on other pages"
        assert (page.count('<span class="dot critical"'), page.count("<option ")) == (6, 60)
    found = served.get("/drift?model=M00", Accept="text/html")
    assert (found.status, found.text.count('<a href="/drift?model=m00')) == (404, 10)


@pytest.mark.parametrize(
    ("firing", "pending", "headline", "rest"),
    [
        (["ModelErrorRatioHigh"], [], "about ModelErrorRatioHigh", []),
        (["B", "A", "A"], [], "about A; about B", []),
        ([f"Own{number}" for number in range(9)], [], "about Own0; about Own1; 7 more", []),
        (["ModelTrafficMissing"], ["Drift", "ModelTrafficMissing"], "about ModelTrafficMissing", ["about Drift"]),
        ([], ["Drift"], "about Drift", []),
    ],
)
def test_headlines(firing: list[str], pending: list[str], headline: str, rest: list[str]) -> None:
    """A headline has the summaries of firing alerts, else of pending ones, each once; those beyond two are counted."""
    listed = [
        Alert(status, {"alertname": name, "severity": "info", "model": "m"}, {"summary": f"about {name}"})
        for status, names in (("pending", pending), ("firing", firing))
        for name in names
    ]
    (incident,) = group_alerts(listed)
    assert (incident.firing, "; ".join(incident.phrases), incident.pending) == (len(firing), headline, rest)
    assert (incident.severity == "pending") is not bool(firing)
