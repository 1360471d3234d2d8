"""How many messages a person gets of an incident: alerts, replayed to a real Alertmanager with the shipped routes."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.alertmanager import SPEED, Running, alert, alertmanager, now, part
from support.paths import ROOT
from support.servers import eventually

TEAM, OWNERS = "ml-team@example.com", "model-owners@example.com"
SEVERITIES = {
    "ModelInputsChanged": ("critical", "data"),
    "ModelErrorRatioHigh": ("critical", "system"),
    "ModelErrorBudgetBurn": ("critical", "system"),
    "ModelCorrectionRatioHigh": ("critical", "business"),
    "ModelAccuracyLow": ("critical", "business"),
    "ModelTrafficMissing": ("warning", "system"),
    "ModelLatencyHigh": ("warning", "system"),
    "ModelConfidentRatioLow": ("warning", "business"),
    "ModelHostDiskHigh": ("warning", "system"),
}
FEATURES = ("image.intensity_mean", "image.intensity_stddev", "image.sharpness")
Times = tuple[float, float]
"""The minutes in which an alert fires."""


class Incident(NamedTuple):
    """The alerts of an incident, by name and feature, and how many messages the team, the pager and the owners get."""

    alerts: dict[tuple[str, str], Times]
    team: int
    pager: int
    owners: int = 0


def causes(*times: Times) -> dict[tuple[str, str], Times]:
    """The features that drifted, which send nothing."""
    return {("ModelFeatureDrift", feature): span for feature, span in zip(FEATURES, times, strict=False)}


INCIDENTS = {
    "a dark camera": Incident(
        {("ModelInputsChanged", ""): (6, 17), ("ModelCorrectionRatioHigh", ""): (8.5, 72)}
        | causes((11, 20), (11, 20), (12, 18))
        | {("ModelPredictionDrift", ""): (11, 16)},
        team=4,
        pager=4,
        owners=2,
    ),
    "a swapped column, of a model that has drifted for long": Incident(
        {("ModelDrift", ""): (0, 60), ("ModelInputsChanged", ""): (20, 40)} | causes((25, 42), (25, 42)),
        team=4,
        pager=2,
    ),
    "5% of errors for five minutes": Incident(
        {("ModelErrorRatioHigh", ""): (2, 12), ("ModelErrorBudgetBurn", ""): (3, 11.5)}, team=2, pager=2
    ),
    "a bad release": Incident(
        {
            ("ModelErrorRatioHigh", ""): (2, 40),
            ("ModelErrorBudgetBurn", ""): (3, 39),
            ("ModelLatencyHigh", ""): (7, 39),
            ("ModelConfidentRatioLow", ""): (22, 39),
        },
        team=4,
        pager=2,
        owners=2,
    ),
    "drift": Incident({("ModelDrift", ""): (0, 40)} | causes((5, 38), (6, 35)), team=2, pager=0),
    "callers that stop": Incident({("ModelTrafficMissing", ""): (0, 20)}, team=2, pager=0),
}


def of_digits(name: str, feature: str) -> Any:
    severity, layer = SEVERITIES.get(name, ("warning", "data"))
    version = {} if name == "ModelTrafficMissing" else {"version": "1"}
    return alert(name, severity, layer, model="digits", **version, **({"feature": feature} if feature else {}))


def replay(server: Running, alerts: dict[tuple[str, str], Times]) -> None:
    """Post each alert when it fires and when it ends, as much faster as Alertmanager waits shorter."""
    changes = sorted((minute, is_end, labels) for labels, span in alerts.items() for is_end, minute in enumerate(span))
    began, first = time.monotonic(), changes[0][0]
    for minute, is_end, labels in changes:
        time.sleep(max(began + (minute - first) * 60 / SPEED - time.monotonic(), 0))
        server.post(of_digits(*labels) | ({"endsAt": now()} if is_end else {}))


@pytest.mark.parametrize("name", INCIDENTS)
def test_an_incident_is_announced_once_and_ends_once(tmp_path: Path, name: str) -> None:
    """The table of docs/notifications.md: each receiver gets one message at the beginning and one at the end."""
    incident = INCIDENTS[name]
    with alertmanager(tmp_path) as server:
        received = server.received
        replay(server, incident.alerts)
        expected = (incident.team, incident.pager, incident.owners)
        eventually(lambda: len(received.mailed(TEAM)) >= incident.team and len(received.at("/pager")) >= incident.pager)
        time.sleep(20 * 60 / SPEED)
        mails = received.mailed(TEAM)
        assert (len(mails), len(received.at("/pager")), len(received.mailed(OWNERS))) == expected, [
            mail["Subject"] for mail in mails
        ]
        assert sum("[over after" in mail["Subject"] for mail in mails) * 2 == len(mails)
        assert len(received.at("/slack")) == len(mails)
        texts = "".join(part(mail, "plain") for mail in mails)
        assert not re.search("ModelFeatureDrift|ModelPredictionDrift", texts), (
            "causes are in the message of a statement"
        )
    row = f"| {name} | {incident.team} | {incident.pager} | {incident.owners} |"
    assert row in (ROOT / "docs" / "notifications.md").read_text("utf-8")


def test_a_new_incident_of_a_model_is_announced_within_five_minutes(tmp_path: Path) -> None:
    """An alert of a model that has another one open does not wait for the next interval of that group."""
    with alertmanager(tmp_path) as server:
        received = server.received
        server.post(of_digits("ModelDrift", ""))
        eventually(lambda: received.mailed(TEAM))
        began = time.monotonic()
        server.post(of_digits("ModelInputsChanged", ""))
        eventually(lambda: len(received.mailed(TEAM)) == 2)
        assert (time.monotonic() - began) * SPEED / 60 < 5 + 2 * SPEED / 60, "two seconds for a slow machine"
        assert received.mailed(TEAM)[1]["Subject"].startswith("[critical] ModelInputsChanged")


def test_one_replica_that_is_down_mutes_nothing(tmp_path: Path) -> None:
    """Only the alert that no exporter is up explains what its models say."""
    with alertmanager(tmp_path) as server:
        one = alert("ModelExporterDown", "warning", "system", job="model-exporter", instance="a:9877")
        server.post(one, of_digits("ModelErrorRatioHigh", ""))
        eventually(lambda: server.received.at("/pager"))
        assert set(server.alerts().values()) == {"active"}
        server.post(alert("ModelExporterDown", "critical", "system", job="model-exporter"))
        eventually(lambda: server.alerts()["ModelErrorRatioHigh"] == "suppressed")
