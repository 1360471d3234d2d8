"""The whole exposition: linted by promtool, compared with a golden file, escaped, fast to read."""

from __future__ import annotations

import re
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.paths import DATA
from support.servers import Served

GOLDEN = DATA / "golden_metrics.txt"
# What differs from machine to machine and from moment to moment.
VOLATILE = re.compile(
    r"^((?:process|python|model_system|model_exporter_(?:build_info|collector_duration|config_last_reload_success_time"
    r"|store_errors|store_bytes)|model_corrections_oldest|model_feedback_delay_seconds_sum)\S*?(?:\{.*\})?) \S+$",
    re.M,
)
EVENTS = [
    {
        "model": "credit",
        "version": "3",
        "id": f"g-{number}",
        "inputs": {
            "age": 20 + number,
            "income": 1000.0 * (number + 1),
            "country": ("NL", "DE", "XX", None)[number % 4],
            "photo": [[number, 0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10]],
            "surprise": 1,
        },
        "prediction": ("yes", "no")[number % 2],
        "confidence": number / 20,
        "duration_seconds": number / 100,
        "code": 500 if number == 19 else 200,
    }
    for number in range(20)
]


@pytest.fixture(scope="module")
def busy(shared: Served) -> Served:
    """An exporter that has seen a little of everything."""
    shadow = {"model": "credit", "version": "4", "prediction": "yes", "shadow": True}
    shared.post("/v1/predictions", [shadow | {"id": f"g-{number}"} for number in range(4)] + EVENTS)
    shared.post("/v1/predictions", {"model": 'bare "model"\\ 模型', "version": '2 "\\ версия', "confidence": 2})
    shared.post("/v1/predictions", {"model": 'bare "model"\\ 模型', "version": '2 "\\ версия'})
    feedback = {"prediction_id": "g-18", "verdict": "corrected", "label": "no"}
    while not shared.post("/v1/feedback", feedback).json["joined"]:
        pass
    labels = [
        {"prediction_id": f"g-{number}", "label": "yes", "time": "2026-01-01T00:00:00Z"} for number in range(18)
    ]  # known before their predictions: a delay of 0
    while shared.post("/v1/labels", labels).json["joined"] < len(labels):
        pass
    shared.post("/v1/events", {"event": "contracts", "model": "credit", "version": "3"})
    texts = {"model.name": "credit", "model.version": "3", "gen_ai.evaluation.name": "Tone"}
    attributes = [{"key": key, "value": {"stringValue": text}} for key, text in texts.items()]
    for result in ({"label": {"stringValue": "pass"}}, {"value": {"doubleValue": 0.5}}):
        named = [{"key": f"gen_ai.evaluation.score.{key}", "value": value} for key, value in result.items()]
        shared.post(
            "/v1/logs", {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": attributes + named}]}]}]}
        )
    return shared


def test_promtool_reports_no_problem(busy: Served) -> None:
    """``promtool check metrics`` is silent on the whole exposition."""
    text = busy.get("/metrics").body
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    complaints = [
        line
        for line in (result.stdout + result.stderr).decode().splitlines()
        if not line.startswith(("process_", "python_"))  # the standard collectors' own
    ]
    assert complaints == []


def test_the_exposition_matches_the_golden_file(busy: Served) -> None:
    """No change of the exposition goes unnoticed; after an intended one, delete the file and run again."""
    lines = busy.get("/metrics").text.splitlines()
    # The last is a disk of its own, or of that of /.
    left_out = re.compile(rf".*python_gc|model_exporter_http_request|.*{re.escape(str(busy.folder))}")
    text = "\n".join(line for line in lines if not left_out.match(line))
    text = VOLATILE.sub(r"\1 …", text).replace(busy.url, "http://exporter")
    text = re.sub(r" (\S+e-\d+|-?\d+\.\d{9,})$", lambda m: f" {float(m[1]):.6g}", text, flags=re.M)  # last digits vary
    text = re.sub(r"^(python_info|model_exporter_build_info)\{.*\}", r"\1{…}", text, flags=re.M) + "\n"
    if not GOLDEN.exists():
        GOLDEN.write_text(text)
        pytest.fail(f"{GOLDEN.name} did not exist and was written: read it, and commit it")
    assert text == GOLDEN.read_text()


def test_both_formats_have_the_same_samples(busy: Served) -> None:
    """prometheus_client's parsers read both formats, and find the same samples in them."""
    text = busy.get("/metrics").text
    openmetrics = busy.get("/metrics", Accept="application/openmetrics-text; version=1.0.0").text
    pattern = re.compile(r"model_(?!exporter|system|corrections_oldest)")

    def samples(families: object) -> set[tuple[object, ...]]:
        return {
            (sample.name, tuple(sorted(sample.labels.items())), sample.value)
            for family in families
            for sample in family.samples
            if pattern.match(sample.name)
        }

    expected = samples(parse_text(text))
    assert len(expected) > 300
    assert expected == samples(parse_openmetrics(openmetrics))


def test_hostile_names_are_escaped(busy: Served) -> None:
    """Quotes, backslashes and other scripts in names are preserved."""
    labels = [sample.labels for family in parse_text(busy.get("/metrics").text) for sample in family.samples]
    assert {"model": 'bare "model"\\ 模型', "version": '2 "\\ версия'} in labels


def test_every_family_is_contiguous(busy: Served) -> None:
    """A family's lines are together, under one HELP and one TYPE."""
    seen: list[str] = []
    for line in busy.get("/metrics").text.splitlines():
        if line.startswith("# TYPE "):
            name = line.split()[2]
            assert name not in seen, name
            seen.append(name)
        elif not line.startswith("#"):
            sample = re.match(r"\w+", line)
            assert sample is not None
            assert sample[0].startswith(seen[-1]), line
