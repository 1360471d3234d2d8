"""The noise floor that Prometheus computes for all replicas together is that of the exporter for as many values."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
from support.batches import observe
from support.blocks import with_ratios
from support.promtool import RULES, check_rules, expected, groups_of, series_of

from exporter.config import ModelConfig
from exporter.metrics.exposition import render_families
from exporter.metrics.models import ModelsCollector
from exporter.monitoring.binner import Binner
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.bins import numeric_feature
from exporter.profiles.profile import Profile
from exporter.wire.events import Prediction

VALUES = numeric_feature(np.random.default_rng(1).normal(size=1000))
BINNER = Binner(
    with_ratios(
        Profile("p", 1000, dict.fromkeys("abc", "numeric"), dict.fromkeys("abc", VALUES)),
        [20, 40, 80, 160],
        {"a": [1.2, 3.0, 2.5, 9.0], "b": [1.0, 1.0, 5.0, 5.0]},
    )
)
NEEDED = re.compile(
    rb"^(model_(?:feature_reference_|feature_noise_ratio|noise_ratio|feature_observations)\w*\{.*)\} (\S+)$", re.M
)


def series(replica: str, observations: dict[int, int]) -> dict[str, str]:
    """What a replica exports after some observations of each version; a version is named after its observations."""
    monitors = MonitorRegistry({"m": ModelConfig("m")}, {"m": BINNER})
    for version, count in observations.items():
        now = time.monotonic()
        observe(monitors.get("m", str(version), now), [Prediction("m")] * count, [{"a": 0.0}] * count, now)
    text = b"".join(render_families(ModelsCollector().collect(monitors)))
    return {
        f'{name.decode()},instance="{replica}"}}': f"{value.decode()}x10" for name, value in NEEDED.findall(text)
    } | {f'process_start_time_seconds{{instance="{replica}"}}': "0x10"}


def test_rule_and_exporter_have_the_same_noise_floor(tmp_path: Path) -> None:
    """Below, at, between and above the sizes of the profile, over two replicas."""
    numbers = [2, 20, 27, 40, 79, 80, 130, 160, 1000]
    floors = BINNER.profile_noise.training(np.array([[float(number)] * 3 for number in numbers]))
    exported = {
        **series("a", {number: number // 3 for number in numbers}),
        **series("b", {number: number - number // 3 for number in numbers}),
        **{
            f'expected{{model="m",version="{number}",feature="{feature}"}}': f"{value!r}x10"
            for number, row in zip(numbers, floors.tolist(), strict=True)
            for feature, value in zip("abc", row, strict=True)
        },
    }
    # The rule's quantile of chi2 is an approximation.
    agree = "count(abs(model_version_feature:kl_divergence_noise:increase1h / expected - 1) < 0.003)"
    checks = [expected(agree, "5m", {"{}": 3 * len(numbers)})]
    test = {"interval": "1m", "input_series": series_of(exported), "promql_expr_test": checks}
    check_rules(tmp_path, [test], groups_of(RULES / "data.yml"))
