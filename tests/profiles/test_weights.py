"""The part of a profile that says how much predictions depend on each feature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from exporter.errors import ProfileError
from exporter.profiles.builder import build_file
from exporter.profiles.describe import describe_lines
from exporter.profiles.profile import Profile, load, save

ROWS = 24_000
OUTPUT = {"prediction_column": "predicted"}


def columns(rows: int = ROWS) -> dict[str, Any]:
    """Predictions that depend on ``used`` and ``country`` but not on ``idle`` and ``missing``."""
    rng = np.random.default_rng(0)
    used, idle = rng.normal(size=(2, rows))
    country = rng.choice(["NL", "DE", "FR"], rows)
    missing = np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows))
    return {"used": used, "idle": idle, "country": country, "missing": missing, "predicted": used + (country == "DE")}


def profiled(folder: Path, data: dict[str, Any], **options: Any) -> Profile:
    np.savez(folder / "training.npz", **data)
    return build_file(folder / "training.npz", **OUTPUT, **options)


def test_weights_are_learned_from_predictions_and_described(tmp_path: Path) -> None:
    """Saved, loaded and described; the heaviest first."""
    save(profiled(tmp_path, columns()), tmp_path / "profile.json")
    profile = load(tmp_path / "profile.json")
    assert profile.weights
    assert profile.weights.rows == 20_000
    weights = {name: feature.weight for name, feature in profile.weights.features.items()}
    assert weights == pytest.approx({"used": 0.82, "country": 0.18, "idle": 0, "missing": 0}, abs=0.05)
    unused = {name for name, feature in profile.weights.features.items() if feature.is_hardly_used}
    assert unused == {"idle", "missing"}
    lines = [" ".join(line.split()) for line in describe_lines(profile)]
    assert any(line.startswith("a surrogate, fitted to 20,000 rows, explains 9") for line in lines)
    assert [line.split()[-3:] for line in lines[-2:]] == [["idle", "hardly", "used"], ["missing", "hardly", "used"]]
    assert [line.split("%")[-2].split()[-4] for line in lines[-4:-2]] == ["used", "country"]


def test_predictions_at_random_depend_on_no_feature(tmp_path: Path) -> None:
    """The description says so, and ranks nothing."""
    data = columns() | {"predicted": np.random.default_rng(1).choice(["yes", "no"], ROWS)}
    assert "(weights)  predictions were not found to depend on any feature" in [
        *describe_lines(profiled(tmp_path, data))
    ]


def test_classes_and_a_row_without_a_prediction(tmp_path: Path) -> None:
    """Rows of CSV in several batches; an empty prediction is no answer."""
    data = columns()
    classes = np.where(data["predicted"] > 0.5, "yes", "no")
    classes[:500] = ""
    rows = zip(*(data[name].tolist() for name in ("used", "idle", "country")), classes.tolist(), strict=True)
    text = "\n".join(",".join(map(str, row)) for row in rows)
    (tmp_path / "training.csv").write_text(f"used,idle,country,predicted\n{text}\n")
    profile = build_file(tmp_path / "training.csv", **OUTPUT)
    assert profile.weights
    assert 19_000 < profile.weights.rows < 20_000
    weights = {name: feature.weight for name, feature in profile.weights.features.items()}
    assert weights["used"] > weights["country"] > 0.1 > 0.03 > weights["idle"]


@pytest.mark.parametrize(
    "change", [{"predicted": np.zeros(ROWS)}, {"predicted": np.arange(ROWS) == 7}, {"predicted": np.full(ROWS, np.nan)}]
)
def test_predictions_that_hardly_vary_tell_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    """A constant, one other answer, and no answer at all."""
    assert not profiled(tmp_path, columns() | change).weights


def test_few_rows_tell_nothing(tmp_path: Path) -> None:
    """Fewer than 500."""
    assert profiled(tmp_path, columns(500)).weights
    assert not profiled(tmp_path, columns(499)).weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"used": {"weight": 0.5, "upper": 0.4}}, "weights.features.used.upper: expected at least the weight 0.5"),
        (
            {"other": {"weight": 0.5, "upper": 0.5}},
            'weights.features: expected a weight of each feature; "other" differs',
        ),
        ({"used": {"weight": 1.5, "upper": 1.5}}, "weights.features.weight: expected a number of at most 1"),
    ],
)
def test_weights_that_contradict_the_profile_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A file that somebody edited, without its hash."""
    profile = profiled(tmp_path, columns(1000))
    document = msgspec.to_builtins(msgspec.structs.replace(profile, hash=""))
    document["weights"]["features"] |= change
    (tmp_path / "profile.json").write_bytes(msgspec.json.encode(document))
    with pytest.raises(ProfileError, match="weights") as caught:
        load(tmp_path / "profile.json")
    assert message in str(caught.value)
