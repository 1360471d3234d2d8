"""Segments: who is watched apart, what is counted of them, and that it survives a restart."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.batches import observe
from support.servers import CONFIG, eventually, serving, write_config

from exporter.config import ModelConfig
from exporter.errors import ConfigError
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import DEFAULT_SEGMENTS, Segments
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.windows import SLOTS
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.profile import Profile
from exporter.server.model_files import load_monitors
from exporter.wire.events import Prediction

COUNTRIES = {"NL": 60, "DE": 30, "other": 20, "x" * 200: 15, "": 12} | {f"c{number}": 1 for number in range(30)}
PROFILE = Profile(
    "p",
    1,
    {"age": "numeric", "country": "categorical"},
    {
        "age": numeric_feature(np.random.default_rng(1).normal(40, 10, 3000)),
        "country": categorical_feature(COUNTRIES, 0, 0),
    },
)


def monitor_of(**settings: Any) -> ModelMonitor:
    return ModelMonitor(ModelConfig("m", segment_by="country", **settings), "1", Binner(PROFILE))


def feed(monitor: ModelMonitor, inputs: list[dict[str, Any]], now: float = 0.0, **fields: Any) -> None:
    assert monitor.segments is not None
    observe(monitor, [Prediction("m", **fields) for _ in inputs], inputs, now)


def test_without_names_the_most_frequent_categories_are_segments() -> None:
    """The default is the profile's most frequent categories, except empty, overlong ones and other."""
    segments = Segments.from_config(ModelConfig("m", segment_by="country"), PROFILE)
    assert segments is not None
    assert len(segments.names) == DEFAULT_SEGMENTS + 1
    assert segments.names[:3] == ("NL", "DE", "c0")
    assert segments.names[-1] == "other"
    assert Segments.from_config(ModelConfig("m"), PROFILE) is None


def test_drift_of_a_small_segment_is_detected() -> None:
    """Forty users of a new country with unusual ages drift among two thousand others that do not."""
    monitor = monitor_of(segments=("NL", "NO"))
    rng = np.random.default_rng(2)
    feed(monitor, [{"age": age, "country": "NL"} for age in rng.normal(40, 10, 2000).tolist()])
    feed(monitor, [{"age": age, "country": "NO"} for age in rng.normal(62, 5, 40).tolist()])
    overall = monitor.read(0.0)["1h"]
    assert overall.kl[0] < 0.1
    (same, new, rest), noise = (values[:, 0] for values in monitor.read_segments(0.0))
    assert same < noise[0]
    assert new > max(0.3, noise[1])
    assert np.isnan(rest)


def test_segments_do_not_change_the_overall_windows() -> None:
    """Counting by segment changes nothing in the windows of all events together."""
    rng = np.random.default_rng(3)
    inputs = [
        {"age": age, "country": country, "more": 1}
        for age, country in zip(rng.normal(40, 10, 300).tolist(), rng.choice(["NL", "DE", "XX"], 300), strict=True)
    ]
    inputs += [{}, {"age": None, "country": 7}, {"age": "old", "country": ["NL"]}]
    cut, plain = monitor_of(), ModelMonitor(ModelConfig("m"), "1", Binner(PROFILE))
    feed(cut, inputs)
    observe(plain, [Prediction("m")] * len(inputs), inputs, 0.0)
    for field, values in vars(plain.read(0.0)["1h"]).items():
        if field == "recent":
            continue
        np.testing.assert_allclose(getattr(cut.read(0.0)["1h"], field), values, rtol=1e-12)
    assert (cut.observed == plain.observed).all()


def test_segments_expire_and_are_limited() -> None:
    """A segment's divergence is that of the longest window; its ring has 61 rows of a count per segment and bin."""
    monitor = monitor_of(segments=("NL",))
    assert monitor.binner is not None
    for hour in range(30):
        feed(monitor, [{"age": 90, "country": f"free text {hour}"}], hour * 600.0)
    assert not np.isnan(monitor.read_segments(29 * 600.0)[0][1]).any()
    assert np.isnan(monitor.read_segments(99 * 3600.0)[0]).all()
    assert len(pickle.dumps(monitor.all_rings()[-1])) < (SLOTS + 1) * (2 * monitor.binner.bins + 1) * 8 + 1000


def test_counters_by_segment_add_up() -> None:
    """Attempts, confident predictions and corrections count in the event's segment, or in other."""
    monitor = monitor_of(segments=("NL", "DE"))
    feed(monitor, [{"country": "NL"}, {"country": "DE"}, {"country": "DE"}, {"country": "XX"}, {}], confidence=0.9)
    feed(monitor, [{"country": "NL"}], confidence=0.1)
    for segment, correction in (("NL", True), ("NL", False), ("FR", True), (None, True)):
        monitor.count_feedback("corrected", correction, 0.0, segment)
    counters = monitor.segment_counters
    assert counters.attempts.tolist() == [2, 2, 2]
    assert counters.confident.tolist() == [1, 2, 2]
    assert counters.corrections.tolist() == [1, 0, 2]


def config_with(**settings: Any) -> dict[str, Any]:
    return {"models": [{"name": "credit", "profile": "credit.json", **settings}]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segment_by": "age"}, '"age" is not a categorical input of the profile'),
        ({"segment_by": "contry"}, 'did you mean "country"?'),
        ({"segment_by": "name", "redact": ["name"]}, '"name" is redacted, so it must not appear in metrics'),
        ({"segment_by": "country", "profile": None}, "needs a profile, which has the categories"),
    ],
)
def test_invalid_segments_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    """Only a categorical, unredacted input of the profile can have segments; the message has the reason."""
    with pytest.raises(ConfigError) as error:
        load_monitors(write_config(tmp_path, config_with(**settings)))
    assert "models[0].segment_by: " in str(error.value)
    assert message in str(error.value)


def test_a_correction_finds_its_segment_after_a_restart(tmp_path: Path) -> None:
    """A stored prediction has its segment, even if its inputs are not stored; a late correction counts in it."""
    config = {**CONFIG, "store": {"inputs": "none"}}
    write_config(tmp_path, config)
    with serving(tmp_path) as server:
        countries = ["NL", "DE", "Free text, from a request", None]
        events = [
            {"model": "credit", "version": "3", "id": f"s-{n}", "inputs": {"country": country}, "confidence": 0.9}
            for n, country in enumerate(countries)
        ]
        early = {"prediction_id": "s-late", "verdict": "corrected", "label": "no"}
        assert not server.post("/v1/feedback", early).json["joined"]
        server.post("/v1/predictions", events)
        counted = server.samples("model_segment_attempts_total")
        label = 'model_segment_attempts_total{{model="credit",version="3",segment="{}"}}'
        assert {key: value for key, value in counted.items() if "credit" in key} == {
            label.format("NL"): 1,
            label.format("DE"): 1,
            label.format("other"): 2,
        }
        assert "Free text" not in server.get("/metrics").text
        server.stop()
        server.start()
        for number in (1, 2):
            assert server.post("/v1/feedback", {**early, "prediction_id": f"s-{number}"}).json["joined"]
        server.post("/v1/predictions", {**events[0], "id": "s-late"})
        name = "model_segment_corrections_total"
        label = label.replace("attempts", "corrections")
        expected = {label.format("NL"): 1, label.format("DE"): 1, label.format("other"): 1}
        eventually(lambda: server.samples(name) == expected)
