from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support.paths import DATA

from exporter import config
from exporter.config import (
    Config,
    FeatureConfig,
    LatencyObjective,
    MappingConfig,
    ModelConfig,
    Objectives,
    load,
    sampled_share,
)
from exporter.errors import ConfigError

BAD = sorted((DATA / "bad_configs").glob("*.yml"))

EVERYTHING = """
store:
  {url: "sqlite:///data/my.db", retention: 90d, inputs: "sampled:0.1", max_size: 1.5 GiB, password_file: pw, replica: a}
links: {prometheus: "http://p:9090", alertmanager: "http://a:9093", grafana: "http://g:3000"}
queue: {capacity: 5000}
models:
  - &digits
    name: digits
    profile: profiles/digits.json
    confidence_threshold: 0.9
    task: classification
    correction_tolerance: 2.5%
    windows: [1h, 10m, 1h30m]
    quality_windows: [14d]
    redact: [student_name]
    segment_by: country
    segments: [NL, DE]
    features: {image: {type: image}, age: {alerts: {ModelFeatureDrift: 0.5}}}
    alerts: {ModelCorrectionRatioHigh: 0.02, ModelLatencyHigh: 1}
    objectives: {errors: 0.99, latency: {below: 1, share: 0.95}}
    release_margins: {error_ratio: 0.01}
    events: [orders_completed]
    max_versions: 5
    mapping:
      {names: [isvc], batched: false, inputs: {x: [a, b], y: c, z: null}, prediction: p, confidence: q, labels: [a, 1]}
  - {<<: *digits, name: letters, profile: /profiles/letters.json, mapping: {}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "exporter.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_an_invalid_config_is_refused_with_its_message(path):
    """Each file of the folder has one error, and its first line has the exact message."""
    expected = path.read_text().partition("\n")[0].removeprefix("# error: ")
    with pytest.raises(ConfigError) as error:
        load(path)
    assert str(error.value).replace(str(path), "FILE") == expected


def test_there_are_invalid_configs():
    """The folder of invalid configurations is not empty."""
    assert len(BAD) >= 25


def test_a_config_with_every_key(tmp_path):
    """Every key has its type; paths are relative to the file's folder; a YAML merge is no duplicate."""
    digits = ModelConfig(
        name="digits",
        profile=str(tmp_path / "profiles/digits.json"),
        confidence_threshold=0.9,
        task="classification",
        correction_tolerance="2.5%",
        windows=("1h", "10m", "1h30m"),
        quality_windows=("14d",),
        redact=frozenset({"student_name"}),
        segment_by="country",
        segments=("NL", "DE"),
        features={"image": FeatureConfig("image"), "age": FeatureConfig(alerts={"ModelFeatureDrift": 0.5})},
        alerts={"ModelCorrectionRatioHigh": 0.02, "ModelLatencyHigh": 1},
        objectives=Objectives(0.99, LatencyObjective(1.0, 0.95)),
        release_margins={"error_ratio": 0.01},
        events=("orders_completed",),
        max_versions=5,
        mapping=MappingConfig(("isvc",), False, {"x": ("a", "b"), "y": "c", "z": None}, "p", "q", labels=("a", 1)),
    )
    assert load(write(tmp_path, EVERYTHING)) == Config(
        models=(
            digits,
            msgspec.structs.replace(digits, name="letters", profile="/profiles/letters.json", mapping=MappingConfig()),
        ),
        store=config.StoreConfig(
            f"sqlite:///{tmp_path}/data/my.db", "90d", "sampled:0.1", "1.5 GiB", f"{tmp_path}/pw", "a"
        ),
        links=config.LinksConfig("http://p:9090", "http://a:9093", "http://g:3000"),
        queue=config.QueueConfig(5000),
    )


def test_the_smallest_config_has_the_defaults(tmp_path):
    """A model's name is sufficient."""
    loaded = load(write(tmp_path, "models: [{name: digits}]"))
    (model,) = loaded.models
    assert (model.profile, model.confident_from(), model.windows, model.max_versions) == (
        None,
        0.8,
        ("5m", "1h"),
        20,
    )
    assert model.objectives is None
    assert loaded.store.url == f"sqlite:///{tmp_path}/data/model-exporter.db"
    assert (loaded.store.retention, loaded.store.inputs, loaded.queue.capacity) == ("30d", "all", 100_000)


def test_windows_are_ordered_by_length_and_keep_their_notation():
    """The shortest window is the first, however the config orders them."""
    model = ModelConfig("m", windows=("1h", "90s", "1d", "5m"))
    assert list(model.window_seconds().items()) == [("90s", 90), ("5m", 300), ("1h", 3600), ("1d", 86400)]


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ("59m", 'models[0].drift_false_alarm_interval: expected from 1h to 3650d, got "59m"'),
        ("3651d", 'models[0].drift_false_alarm_interval: expected from 1h to 3650d, got "3651d"'),
        ("monthly", 'models[0].drift_false_alarm_interval: expected a duration such as 5m or 1h, got "monthly"'),
        ("30", 'models[0].drift_false_alarm_interval: expected a duration such as 5m or 1h, got "30"'),
        ("[30d]", 'models[0].drift_false_alarm_interval: expected a string, got ["30d"]'),
    ],
)
def test_the_interval_of_false_alarms_is_a_duration(tmp_path, interval, message):
    """Of an hour to ten years."""
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, f"models: [{{name: a, drift_false_alarm_interval: {interval}}}]"))
    assert message in str(error.value)
    good = load(write(tmp_path, "models: [{name: a, drift_false_alarm_interval: 1w}, {name: b}]"))
    assert [model.false_alarm_seconds() for model in good.models] == [604_800, 31_536_000]


def test_the_models_of_a_file_share_its_budget_of_false_alarms(tmp_path):
    """Each may be wrong as many times less often as there are models; one that has its own budget keeps it."""
    names = "{name: a}, {name: b}, {name: c, drift_false_alarm_interval: 1w}"
    config = load(write(tmp_path, f"drift_false_alarm_interval: 30d\nmodels: [{names}]"))
    assert [model.false_alarm_seconds() for model in config.models] == [90 * 86400, 90 * 86400, 7 * 86400]
    with pytest.raises(ConfigError, match='yml: drift_false_alarm_interval: expected from 1h to 3650d, got "59m"'):
        load(write(tmp_path, "drift_false_alarm_interval: 59m\nmodels: [{name: a}]"))


def test_the_quality_has_all_windows():
    """The quality is measured in the windows of the inputs and in longer ones, each once."""
    model = ModelConfig("m", windows=("1d", "5m"))
    assert list(model.quality_window_seconds().items()) == [("5m", 300), ("1d", 86400), ("7d", 604800)]


@pytest.mark.parametrize("url", ["postgresql://db/exporter", "sqlite:////var/lib/a.db", "sqlite:///:memory:"])
def test_an_absolute_url_is_unchanged(tmp_path, url):
    """Only a relative path in the store's URL is resolved."""
    assert load(write(tmp_path, f"models: [{{name: a}}]\nstore: {{url: '{url}'}}")).store.url == url


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "FILE: cannot be read: No such file or directory"),
        (b"models: \xff", "FILE: is not text in UTF-8: byte 9 is wrong"),
        (b"[" * 5000, "FILE: is nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, content, message):
    """A file that is missing, not text or nested too deeply is one message."""
    path = tmp_path / "exporter.yml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert str(error.value).replace(str(path), "FILE").startswith(message)


def test_the_share_of_sampled_inputs():
    """A sampled share is a number from 0 to 1; the other policies have none."""
    policies = {"all": None, "confident": None, "none": None, "sampled:0.1": 0.1, "sampled:.5": 0.5, "sampled:1": 1.0}
    assert {policy: sampled_share(policy) for policy in policies} == policies
    for wrong in ("", "sampled", "sampled:", "sampled:1.1", "sampled:-0.1", "ALL", "sampled:nan"):
        with pytest.raises(ValueError, match="expected all, confident, none or sampled:SHARE"):
            sampled_share(wrong)
