"""What each receiver gets of one incident: the alerts of the demo's dark camera, replayed to a real Alertmanager."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from support.alertmanager import SPEED, Running, alert, alertmanager, now, part
from support.servers import eventually

TEAM, OWNERS = "ml-team@example.com", "model-owners@example.com"
MEAN, STDDEV, SHARPNESS = ("image.intensity_mean", "image.intensity_stddev", "image.sharpness")
END = 72.0
"""The minute at which windows of an hour no longer hold the incident."""
FIRING: dict[tuple[str, str], list[tuple[float, float]]] = {
    ("ModelFeaturesDrifted", ""): [(3.5, 25.8)],
    ("ModelFeatureDriftSlow", MEAN): [(4.3, 25.8)],
    ("ModelFeatureDriftSlow", STDDEV): [(4.3, 25.8)],
    ("ModelFeatureDriftSlow", SHARPNESS): [(5.3, 22.3)],
    ("ModelFeatureChanged", MEAN): [(7.3, 13.5), (16.8, 25.8)],
    ("ModelFeatureChanged", STDDEV): [(7.8, 13.5), (17.0, 25.8)],
    ("ModelFeatureChanged", SHARPNESS): [(8.3, 13.0), (17.8, 21.0)],
    ("ModelCorrectionRatioHigh", ""): [(8.5, END)],
    ("ModelFeatureDrift", MEAN): [(8.5, 26.0)],
    ("ModelFeatureDrift", STDDEV): [(8.8, 26.0)],
    ("ModelFeatureDrift", SHARPNESS): [(10.8, 18.0)],
    ("ModelFeatureMeanShift", MEAN): [(9.3, 34.5)],
    ("ModelFeatureMeanShift", STDDEV): [(9.5, 28.5)],
    ("ModelFeatureMeanShift", SHARPNESS): [(11.8, 14.5)],
    ("ModelPredictionDrift", ""): [(11.0, 16.3)],
    ("ModelConfidenceDrift", ""): [(11.5, 14.5)],
    ("ModelMultivariateDrift", ""): [(18.3, END)],
}
"""The minutes in which each alert fired. The camera was dark from minute 3 to minute 11."""


def digits(name: str, feature: str) -> Any:
    severity, layer = ("critical", "business") if name == "ModelCorrectionRatioHigh" else ("warning", "data")
    return alert(name, severity, layer, model="digits", version="1", **({"feature": feature} if feature else {}))


def replay(server: Running) -> None:
    """Post each alert when it fires and when it ends, as much faster as Alertmanager waits shorter."""
    changes = sorted(
        (minute, is_end, labels)
        for labels, spans in FIRING.items()
        for span in spans
        for is_end, minute in enumerate(span)
    )
    began, first = time.monotonic(), changes[0][0]
    for minute, is_end, labels in changes:
        time.sleep(max(began + (minute - first) * 60 / SPEED - time.monotonic(), 0))
        server.post(digits(*labels) | ({"endsAt": now()} if is_end else {}))


def lines(mail: Any) -> list[str]:
    return re.findall(r"^(?:CRITICAL|WARNING|OVER), .*", part(mail, "plain"), re.MULTILINE)


def test_an_incident_is_two_messages(tmp_path: Path) -> None:
    """The team gets all that a dark camera did in one message, and its end in another; the pager does not wait."""
    with alertmanager(tmp_path) as server:
        received = server.received
        replay(server)
        eventually(lambda: len(received.mailed(TEAM)) == len(received.at("/slack")) == 2)
        first, over = received.mailed(TEAM)
        assert first["Subject"] == "[critical] digits, 6 alerts: ModelCorrectionRatioHigh of digits"
        assert lines(first) == [
            "CRITICAL, business: ModelCorrectionRatioHigh of digits",
            "WARNING, data: ModelFeaturesDrifted of digits",
            "WARNING, data: ModelPredictionDrift of digits",
            *(["WARNING, data: ModelFeatureDrift of digits"] * 3),
        ]
        assert all(f"feature {feature}," in part(first, "plain") for feature in (MEAN, STDDEV, SHARPNESS))
        assert re.fullmatch(
            r"\[over after \d+s\] digits, 17 alerts: ModelCorrectionRatioHigh of digits", over["Subject"]
        )
        assert len(lines(over)) == len(FIRING)

        pages = received.at("/pager")
        assert [page["status"] for page in pages] == ["firing", "resolved"]
        assert {entry["labels"]["alertname"] for page in pages for entry in page["alerts"]} == {
            "ModelCorrectionRatioHigh"
        }
        posted = [path for path, _ in received.posts if path in {"/pager", "/slack"}]
        assert posted == ["/pager", "/slack"] * 2
        eventually(lambda: len(received.mailed(OWNERS)) == 2)
        subjects = [str(mail["Subject"]).partition("]")[0] for mail in received.mailed(OWNERS)]
        assert subjects[0] == "[critical"
        assert subjects[1].startswith("[over after ")
