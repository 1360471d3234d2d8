"""An incident pushed through the real chain: exporter, Prometheus with the shipped rules, Alertmanager, receiver.

Only time is scaled, by configuration: rules are evaluated every second and the alerts' ``for`` is one second.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import yaml
from support.fake_exporter import Exporter as Receiver
from support.paths import ROOT
from support.programs import Program, alertmanager, prometheus, quickened_routes, quickened_rules, require, scraping
from support.servers import Served, ask, eventually, serving, write_config

from demo import receivers


class Chain:
    """The servers of the chain."""

    def __init__(self, exporter: Served, prometheus: str, program: Program, pager: Receiver) -> None:
        self.exporter = exporter
        self.program = program
        self.prometheus = prometheus
        self._pager = pager

    @property
    def paged(self) -> list[Any]:
        """The alerts that the pager got."""
        return [a for request in list(self._pager.requests) for body in request["events"] for a in body["alerts"]]

    def query(self, text: str) -> list[Any]:
        result: list[Any] = ask(f"{self.prometheus}/api/v1/query?query={quote(text)}").json["data"]["result"]
        return result

    def firing(self) -> set[str]:
        alerts = ask(f"{self.prometheus}/api/v1/alerts").json["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    require("amtool", 0, 26)
    folder = tmp_path_factory.mktemp("chain")
    write_config(folder)
    with ExitStack() as stack:
        exporter = stack.enter_context(serving(folder))
        stack.callback((pager := Receiver(always=(200, {}, b""))).close)
        shutil.copytree(ROOT / "alertmanager", folder / "alertmanager")
        (folder / "alertmanager/secrets/webhook_url").write_text(pager.url)
        source, target = folder / "alertmanager/alertmanager.yml", folder / "adapted.yml"
        receivers.write(source, target, inbox=f"{exporter.url}/v1/notifications")
        config = yaml.safe_load(target.read_text())
        quickened_routes(config["route"])
        alerted = stack.enter_context(alertmanager(folder, config)).url.removeprefix("http://")
        quickened_rules(ROOT / "prometheus/rules", folder / "rules")
        config = yaml.safe_load((ROOT / "prometheus/prometheus.yml").read_text()) | scraping(exporter)
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alerted]}]}]}
        program = stack.enter_context(prometheus(folder, config))
        yield Chain(exporter, program.url, program, pager)


def traffic(chain: Chain, dark: bool, broken: bool) -> None:
    """A tenth of a second's users: photos, dark ones in an incident, and now and then an error."""
    rng = np.random.default_rng()
    events = []
    for number in range(40):
        photo = rng.integers(0, 17, (8, 8)) // (8 if dark else 1)
        inputs = {"photo": photo.tolist(), "age": 40, "income": 20000.0, "country": "NL"}
        event = {"model": "credit", "version": "7", "inputs": inputs, "prediction": "yes", "confidence": 0.9}
        events.append({**event, "code": 503 if broken and number == 0 else 200, "duration_seconds": 0.02})
    assert chain.exporter.post("/v1/predictions", events).status == 202


def test_an_incident_is_notified_and_resolved(chain: Chain) -> None:
    """Healthy traffic is silent; an incident fires, is notified with value and threshold, shown, and resolved."""
    labels = 'model="credit",version="7"'

    def healthy() -> bool:
        traffic(chain, dark=False, broken=False)
        return bool(chain.query(f"model_version:requests:rate1m{{{labels}}} > 0"))

    eventually(healthy, every=0.1)
    eventually(lambda: "ModelExporterDown" not in chain.firing())  # there was no target before the first scrape
    assert "ModelErrorRatioHigh" not in chain.firing()

    def photo_drifts() -> list[Any]:
        text = f'ALERTS{{alertname="ModelFeatureDrift",alertstate="firing",feature="photo.intensity_mean",{labels}}}'
        return chain.query(text)

    assert not photo_drifts()

    def broken_and_dark() -> bool:
        traffic(chain, dark=True, broken=True)
        return "ModelErrorRatioHigh" in chain.firing() and bool(photo_drifts())

    eventually(broken_and_dark, 240, 0.1)
    paged = eventually(lambda: [a for a in chain.paged if a["labels"]["alertname"] == "ModelErrorRatioHigh"])[0]
    assert paged["status"] == "firing"
    assert paged["labels"]["version"] == "7"
    assert "1" in paged["annotations"]["description"]
    assert paged["annotations"]["runbook_url"].endswith("/runbooks/ModelErrorRatioHigh")
    eventually(lambda: "/runbooks/ModelErrorRatioHigh" in chain.exporter.get("/").text)
    assert chain.exporter.samples("model_exporter_notifications_total")[
        'model_exporter_notifications_total{status="firing"}'
    ]

    def recovered() -> bool:
        traffic(chain, dark=False, broken=False)
        traffic(chain, dark=False, broken=False)
        return any(a["status"] == "resolved" and a["labels"]["alertname"] == "ModelErrorRatioHigh" for a in chain.paged)

    eventually(recovered, 400, 0.1)


def test_the_recorded_divergence_is_that_of_the_gauge(chain: Chain) -> None:
    """With one replica, the recording rule over the additive counters gives the value of the exporter's gauge."""
    selector = '{model="credit",version="7",feature="photo.intensity_mean"}'

    def agree() -> bool:
        recorded = chain.query(f"model_version_feature:kl_divergence:increase1h{selector}")
        series = 'model_feature_kl_divergence{model="credit",version="7",feature="photo.intensity_mean",window="1h"}'
        gauge = chain.exporter.samples("model_feature_kl_divergence")[series]
        return bool(recorded) and abs(float(recorded[0]["value"][1]) / gauge - 1) < 0.05

    eventually(agree)


def test_every_alert_and_recording_rule_is_loaded_and_healthy(chain: Chain) -> None:
    """No shipped rule fails on real data."""
    groups = ask(f"{chain.prometheus}/api/v1/rules").json["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 40
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] == "err"} == {}


def test_a_killed_prometheus_comes_back_and_alerts_go_on(chain: Chain) -> None:
    """After kill -9 Prometheus has its data, and the alert keeps firing without being resolved in between."""

    def broken() -> bool:
        traffic(chain, dark=False, broken=True)
        return "ModelErrorRatioHigh" in chain.firing()

    eventually(broken, 60, 0.1)
    moment, notified = time.time(), len(chain.paged)
    chain.program.kill()
    for _ in range(20):
        traffic(chain, dark=False, broken=True)
    assert chain.exporter.get("/metrics").status == 200
    chain.program.start()
    assert chain.query(f'count_over_time(up{{job="model-exporter"}}[10s] @ {moment})')
    eventually(broken, 60, 0.1)
    eventually(lambda: chain.query("model_version:requests:rate1m"))
    assert not [alert for alert in chain.paged[notified:] if alert["labels"]["alertname"] == "ModelExporterDown"]
    assert "resolved" not in {
        alert["status"] for alert in chain.paged[notified:] if alert["labels"]["alertname"] == "ModelErrorRatioHigh"
    }


def test_a_dead_exporter_is_an_alert(chain: Chain) -> None:
    """When the exporter is down, ModelExporterDown fires instead of its other alerts."""
    chain.exporter.stop()
    eventually(lambda: "ModelExporterDown" in chain.firing(), 200)  # no target has been up for 90 s
    eventually(lambda: any(a["labels"]["alertname"] == "ModelExporterDown" for a in chain.paged))
