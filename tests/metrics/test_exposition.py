"""The whole exposition: linted by promtool, compared with a golden file, escaped, fast; the setting ``metrics``."""

from __future__ import annotations

import re
import subprocess
import time

import msgspec
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.batches import observe
from support.blocks import with_ratios
from support.paths import DATA
from support.servers import Served

from exporter.config import ModelConfig
from exporter.metrics.exposition import render_families
from exporter.metrics.models import ModelsCollector, window_lines
from exporter.monitoring.binner import Binner
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.bins import numeric_feature
from exporter.profiles.profile import Profile
from exporter.stats.dependence import SIZES, LiveDependence
from exporter.wire.events import Prediction

AGES = numeric_feature(np.r_[np.random.default_rng(1).normal(size=900), np.full(100, np.nan)])
BINNER = Binner(
    with_ratios(
        Profile("p", 1000, dict.fromkeys(("age", "income"), "numeric"), dict.fromkeys(("age", "income"), AGES)),
        [20, 40],
        {"income": [1.5, 2.25]},
    )
)
FULL = ModelConfig("m")
SUMMARY = msgspec.structs.replace(FULL, metrics="summary")
WITH_BINS = (
    "model_feature_observations_total{",
    "model_feature_reference_probability{",
    "model_feature_noise_ratio{",
    "model_noise_ratio_observations{",
)


@pytest.fixture
def monitors(monkeypatch: pytest.MonkeyPatch) -> MonitorRegistry:
    """A model that has counted 30 predictions, at a time that stands still."""
    now = time.monotonic()
    monkeypatch.setattr("exporter.metrics.models.time.monotonic", lambda: now)
    monitors = MonitorRegistry({"m": FULL}, {"m": BINNER})
    observe(monitors.get("m", "1", now), [Prediction("m")] * 30, [{"age": 0.5}] * 30, now)
    return monitors


def samples(monitors: MonitorRegistry) -> list[str]:
    text = b"".join(render_families(ModelsCollector().collect(monitors))).decode()
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_a_summary_leaves_out_the_series_of_bins_alone(monitors: MonitorRegistry) -> None:
    """A reload changes the level, and loses no counts: all other samples are the same."""
    full = samples(monitors)
    assert {line.partition("{")[0] + "{" for line in full} > set(WITH_BINS)
    summary = MonitorRegistry({"m": SUMMARY}, {"m": BINNER})
    summary.adopt(monitors)
    assert samples(summary) == [line for line in full if not line.startswith(WITH_BINS)]
    again = MonitorRegistry({"m": FULL}, {"m": BINNER})
    again.adopt(summary)
    assert samples(again) == full


def test_what_ingest_pushes_follows_the_level(monitors: MonitorRegistry) -> None:
    monitor = monitors.get("m", "1", 0.0)
    full = b"".join(render_families(window_lines(monitor, time.monotonic())))
    monitor.reconfigure(SUMMARY)
    summary = b"".join(render_families(window_lines(monitor, time.monotonic())))
    assert b"bin=" in full
    assert b"bin=" not in summary
    assert b"model_feature_kl_divergence{" in summary


def test_the_missing_share_of_training_is_that_of_its_bins(monitors: MonitorRegistry) -> None:
    """Missing and invalid together, as ModelFeatureMissing compares them."""
    values = dict(line.rsplit(" ", 1) for line in samples(monitors))
    of_bins = [
        float(value)
        for series, value in values.items()
        if series.startswith('model_feature_reference_probability{model="m",version="1",feature="age"')
        and series.endswith((' missing"}', ' invalid"}'))
    ]
    share = float(values['model_feature_reference_missing_ratio{model="m",version="1",feature="age",window="5m"}'])
    assert len(of_bins) == 2
    assert share == pytest.approx(sum(of_bins))
    assert share == pytest.approx(0.1, abs=0.002)


VALUES = numeric_feature(np.random.default_rng(1).normal(size=1000))
PROFILE = Profile("p", 1000, {"age": "numeric", "income": "numeric"}, {"age": VALUES, "income": VALUES})
NOISE = re.compile(rb"^model_\w*noise_ratio.*$", re.M)


def registry(profile: Profile) -> MonitorRegistry:
    monitors = MonitorRegistry({"m": ModelConfig("m")}, {"m": Binner(profile)})
    now = time.monotonic()
    observe(monitors.get("m", "1", now), [Prediction("m")], [{"age": 0.0}], now)
    return monitors


def test_only_dependent_features_have_noise_ratios() -> None:
    """One series for each size, with the sizes as numbers beside them; the pushed metrics have the same."""
    monitors = registry(with_ratios(PROFILE, [20, 40, 80], {"income": [1.5, 2.25, 4.0]}))
    expected = [
        *(f'feature_noise_ratio{{model="m",version="1",feature="income",source="training",observations="{size}"}}'
          for size in (20, 40, 80)),
        *(f'noise_ratio_observations{{model="m",version="1",observations="{size}"}}' for size in (20, 40, 80)),
    ]  # fmt: skip
    for collected in (ModelsCollector().collect(monitors), window_lines(monitors.get("m", "1", 0.0), 0.0)):
        text = b"".join(render_families(collected))
        samples = dict(line.decode().removeprefix("model_").rsplit(" ", 1) for line in NOISE.findall(text))
        assert list(samples) == expected
        assert list(map(float, samples.values())) == pytest.approx([1.5, 2.25, 4.0, 20.0, 40.0, 80.0])


def test_independent_training_adds_no_series() -> None:
    for profile in (PROFILE, with_ratios(PROFILE, [20, 40, 80], {})):
        assert not NOISE.findall(b"".join(render_families(ModelsCollector().collect(registry(profile)))))


def test_what_was_learned_from_live_values_is_exported() -> None:
    """From the next scrape on, at sizes up to 10,240; what training knows stays."""
    monitors = registry(with_ratios(PROFILE, [20, 40, 80], {"income": [1.5, 2.25, 4.0]}))
    monitor = monitors.get("m", "1", 0.0)
    collector = ModelsCollector()

    def samples() -> dict[str, float]:
        text = b"".join(render_families(collector.collect(monitors)))
        return {name: float(value) for name, value in (line.decode().split(" ") for line in NOISE.findall(text))}

    before = samples()
    assert monitor.binner is not None
    live = LiveDependence(np.full(len(SIZES), 3.0), np.full(len(SIZES), 2.0), dependent=True)
    monitor.noise = monitor.binner.profile_noise.with_live({0: live})
    after = samples()
    assert after == pytest.approx(after | before)
    of_age = [name for name in after if 'feature="age",source="live"' in name]
    assert [after[name] for name in of_age] == pytest.approx([3.0] * len(SIZES))
    assert len(after) == 3 * len(SIZES)


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
