"""The addresses of ``exporter.yml`` in what a real Alertmanager gets, what Grafana reads, and what the pages show."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from support.paths import ROOT
from support.programs import alertmanager, prometheus, quickened_routes, quickened_rules, scraping
from support.servers import CONFIG, Served, ask, eventually, serving, write_config

MINE = {"external_url": "https://models.example/exporter/", "links": {"grafana": "https://grafana.example/"}}
REJECTED = {"model": "nobody"}


class Stack(NamedTuple):
    """An exporter, and the URLs of what watches it."""

    exporter: Served
    prometheus: str
    alertmanager: str

    def annotations(self, alert: str) -> dict[str, str]:
        """The annotations of an alert at Alertmanager; empty if it has none."""
        alerts: list[Any] = ask(f"{self.alertmanager}/api/v2/alerts").json
        return next((entry["annotations"] for entry in alerts if entry["labels"]["alertname"] == alert), {})


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """An exporter with addresses of an operator, Prometheus with the shipped rules, and Alertmanager."""
    with ExitStack() as started:
        write_config(tmp_path, CONFIG | MINE)
        exporter = started.enter_context(serving(tmp_path))
        quickened_rules(ROOT / "prometheus" / "rules", tmp_path / "rules")
        routes: dict[str, Any] = {"receiver": "nobody"}
        quickened_routes(routes)
        config = {"route": routes, "receivers": [{"name": "nobody"}]}
        alerted = started.enter_context(alertmanager(tmp_path, config)).url
        targets = [{"targets": [alerted.removeprefix("http://")]}]
        scraped = scraping(exporter) | {"alerting": {"alertmanagers": [{"static_configs": targets}]}}
        # Other links are sent with the next repetition.
        watched = started.enter_context(prometheus(tmp_path, scraped, "--rules.alert.resend-delay=5s"))
        yield Stack(exporter, watched.url, alerted)


def test_links_have_the_configured_addresses_and_follow_a_reload(stack: Stack) -> None:
    """Alerts of a model, of an exporter and of none link to the addresses; without them, to the exporter itself."""
    good = {"model": "credit", "version": "3", "code": 200}

    def notes(alert: str) -> dict[str, str]:
        stack.exporter.post("/v1/predictions", [good, good | {"code": 500}, REJECTED])
        return stack.annotations(alert)

    def links_to(exporter: str, grafana: str) -> None:
        query = "?var-model=credit&var-version=3"
        for alert, page in (
            ("ModelErrorRatioHigh", f"model-system{query}"),
            ("ModelEventsRejected", "model-exporter"),
            ("Watchdog", "model-exporter"),
        ):
            expected = {"runbook_url": f"{exporter}/runbooks/{alert}", "dashboard_url": f"{grafana}/d/{page}"}
            eventually(lambda name=alert, links=expected: links.items() <= notes(name).items(), 60, 0.3)

    links_to("https://models.example/exporter", "https://grafana.example")
    labels = ask(f"{stack.prometheus}/api/v1/label/external_url/values").json["data"]
    assert labels == ["https://models.example/exporter"], "the variable of the dashboards"
    runbook = stack.exporter.get("/runbooks/ModelFeatureDrift").text
    assert 'href="https://grafana.example/d/model-data"' in runbook
    assert 'href="https://models.example/exporter/drift"' in runbook

    recent = "model_exporter_links_info or topk(1, max_over_time(timestamp(model_exporter_links_info)[1d:15s]))"
    assert recent in (ROOT / "prometheus" / "rules" / "system.yml").read_text()
    sampled = f"{stack.prometheus}/api/v1/query?query={quote(recent.partition(' or ')[2])}"
    eventually(lambda: ask(sampled).json["data"]["result"], 60, 0.3)
    eventually(lambda: not stack.annotations("ModelExporterDown"))  # there was no target before the first scrape
    stack.exporter.stop()
    down = eventually(lambda: stack.annotations("ModelExporterDown"), 200, 0.3)
    assert down["runbook_url"] == "https://models.example/exporter/runbooks/ModelExporterDown"

    stack.exporter.start()
    write_config(stack.exporter.folder)
    stack.exporter.process.send_signal(signal.SIGHUP)
    links_to(stack.exporter.url, stack.exporter.url)
    link = notes("ModelErrorRatioHigh")["dashboard_url"]
    assert ask(link).status == 200, "there is no Grafana: the exporter has a page in its place"
