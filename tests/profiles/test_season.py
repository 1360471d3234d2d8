"""The part of a profile about features that change with the hour of the day or of the week."""

from __future__ import annotations

import csv
import itertools
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.seasons import DAY, START, daily, profile, training

from exporter.cli import main
from exporter.errors import ProfileError
from exporter.profiles.builder import build_file
from exporter.profiles.profile import Profile
from exporter.profiles.profile_file import load, save
from exporter.profiles.season_record import HourlyValues, Season


def season_of(profile: Profile) -> Season:
    assert profile.season
    return profile.season


def test_the_features_that_change_with_the_hour_are_found(tmp_path: Path) -> None:
    """A number and a category; their hours add up to all rows, and the means follow the hours."""
    made = profile(tmp_path, season="day")
    season = season_of(made)
    assert list(season.targets) == ["income", "meal"]
    for name, values in season.targets.items():
        assert np.array_equal(np.sum(values.counts, axis=0), made.features[name].counts)
    middle = np.arange(24) * 3600 + 1800
    expected = np.sin(2 * np.pi * middle / DAY)  # an amplitude of √2 and a standard deviation of √2
    assert season.targets["income"].shifts == pytest.approx(expected, abs=0.2)
    assert season.targets["meal"].shifts == ()


def test_a_profile_without_a_season_is_as_before(tmp_path: Path) -> None:
    """Where nothing changes with the hour, the profile of the same rows is the same, hash and all."""
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "training.npz", at=training()["at"], age=rng.normal(size=10_000))
    plain, asked = (build_file(tmp_path / "training.npz", time_column="at", season=s) for s in (None, "day"))
    assert asked == plain
    assert b"season" not in msgspec.json.encode(plain)


def test_values_that_depend_on_each_other_are_no_season(tmp_path: Path) -> None:
    """A random walk stays high or low for hours, but not in the same hours of each day."""
    rng = np.random.default_rng(2)
    np.savez(tmp_path / "training.npz", at=training()["at"], walk=np.cumsum(rng.normal(size=10_000)))
    assert not build_file(tmp_path / "training.npz", time_column="at", season="day").season


def test_blocks_are_compared_with_rows_of_the_same_hours(tmp_path: Path) -> None:
    """The season alone makes successive values look dependent; within their hours they are not."""
    plain, seasonal = profile(tmp_path), profile(tmp_path, season="day")
    assert plain.blocks
    assert seasonal.blocks
    before, after = plain.blocks.targets, seasonal.blocks.targets
    assert (before["income"].dependent, before["meal"].dependent) == (True, True)
    assert before["income"].dispersion > 20
    assert not any(scores.dependent for scores in after.values())
    assert after["income"].dispersion == after["meal"].dispersion == 1
    assert after["age"] == before["age"]


def test_an_hour_of_a_single_day_does_not_change_the_noise_floor(tmp_path: Path) -> None:
    """The rows of one hour are of one day, 20 in all: a block that holds them has no others to compare them with."""
    at = np.concatenate(
        [
            START - 14 * DAY + day * DAY + hour * 3600 + np.arange(rows) * 36
            for day in range(14)
            for hour in range(24)
            if (rows := 100 if hour != 3 else 20 * (day == 3))
        ]
    )
    np.savez(tmp_path / "training.npz", at=at, income=daily(np.random.default_rng(4), at))
    save(build_file(tmp_path / "training.npz", time_column="at", season="day"), tmp_path / "profile.json")
    made = load(tmp_path / "profile.json")
    assert made.blocks
    scores = made.blocks.targets["income"]
    assert (list(season_of(made).targets), scores.dependent, scores.dispersion) == (["income"], False, 1.0)
    assert all(smaller > larger for smaller, larger in itertools.pairwise(scores.quantiles))


def test_dependence_within_the_hours_is_still_found(tmp_path: Path) -> None:
    """Sessions of 20 equal values on top of the season, in order and in any order of the file."""
    rng = np.random.default_rng(3)
    rows = training(rows=60_000)
    rows["income"] = daily(rng, rows["at"][::20]).repeat(20)
    np.savez(tmp_path / "training.npz", **rows)
    ordered = build_file(tmp_path / "training.npz", time_column="at", season="day")
    order = rng.permutation(60_000)
    np.savez(tmp_path / "training.npz", **{name: np.array(values)[order] for name, values in rows.items()})
    shuffled = build_file(tmp_path / "training.npz", time_column="at", season="day")
    assert ordered.blocks
    assert shuffled.blocks
    scores = ordered.blocks.targets["income"]
    assert scores.dependent
    assert 15 < scores.dispersion < 50
    assert shuffled.blocks.targets == ordered.blocks.targets
    assert shuffled.season == ordered.season


def test_hours_of_the_week_begin_on_monday_in_utc(tmp_path: Path) -> None:
    """Times with an offset; high on Mondays from 8 to 9, UTC."""
    rng = np.random.default_rng(4)
    seconds = np.sort(rng.random(40_000) * 56 * DAY) + START
    monday = np.array(
        [datetime.fromtimestamp(s, UTC).weekday() * 24 + datetime.fromtimestamp(s, UTC).hour == 8 for s in seconds]
    )
    rows = zip(
        [datetime.fromtimestamp(s).astimezone().isoformat(timespec="seconds") for s in seconds],
        rng.normal(size=40_000) + 5 * monday,
        strict=True,
    )
    path = tmp_path / "training.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["at", "load"], *rows])
    shifts = season_of(build_file(path, time_column="at", season="week")).targets["load"].shifts
    assert len(shifts) == 168
    assert int(np.argmax(shifts)) == 8


def test_predictions_and_confidences_have_a_season(tmp_path: Path) -> None:
    """They are targets as features are; rows without a time are in no hour."""
    rows = training()
    rows |= {"price": rows["income"] * 2, "sure": 1 / (1 + np.exp(-rows["income"]))}
    rows["at"] = np.where(np.arange(10_000) % 10, rows["at"], np.nan)
    np.savez(tmp_path / "training.npz", **rows)
    options: dict[str, Any] = {"prediction_column": "price", "confidence_column": "sure"}
    season = season_of(build_file(tmp_path / "training.npz", time_column="at", season="day", **options))
    assert list(season.targets) == ["income", "meal", "(prediction)", "(confidence)"]
    assert np.sum(season.targets["(prediction)"].counts) == 9000


@pytest.mark.parametrize(
    ("days", "season", "words"),
    [
        (3.0, "day", '--season=day needs the rows of at least 4 days; the times in "at" cover 3.0 days'),
        (14.0, "week", '--season=week needs the rows of at least 4 weeks; the times in "at" cover 14.0 days'),
    ],
)
def test_too_few_cycles_are_refused(tmp_path: Path, capsys: Any, days: float, season: str, words: str) -> None:
    """The message names the file, the option and the column, and says what is there."""
    path = tmp_path / "training.npz"
    np.savez(path, **training(days))
    assert main(["profile", str(path), "--time-column=at", f"--season={season}"]) == 1
    assert f"{path}: {words}" in capsys.readouterr().err
    assert not path.with_suffix(".json").exists()


def test_times_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """A column of words."""
    rows = training()
    rows["at"] = ["soon"] * 10_000
    np.savez(tmp_path / "training.npz", **rows)
    with pytest.raises(ProfileError, match='the times in "at" cannot be read'):
        build_file(tmp_path / "training.npz", time_column="at", season="day")


def test_a_season_needs_times(tmp_path: Path, capsys: Any) -> None:
    """Neither the command nor the library takes one without the column of times."""
    np.savez(tmp_path / "training.npz", **training())
    assert main(["profile", str(tmp_path / "training.npz"), "--season=day"]) == 2
    assert "--season=day: needs --time-column" in capsys.readouterr().err
    with pytest.raises(ProfileError, match="--season=day needs the time of each row: set --time-column"):
        build_file(tmp_path / "training.npz", season="day")


def test_the_command_says_what_it_found(tmp_path: Path, capsys: Any) -> None:
    """So does --describe; a profile in which nothing was found says nothing of it later."""
    path = tmp_path / "training.npz"
    np.savez(path, **training())
    assert main(["profile", str(path), "--time-column=at", "--season=day"]) == 0
    words = "(season)  income and meal change with the hour of the day"
    assert words in capsys.readouterr().out
    assert main(["profile", "--describe", str(path.with_suffix(".json"))]) == 0
    assert words in capsys.readouterr().out
    np.savez(path, at=training()["at"], age=training()["age"])
    assert main(["profile", str(path), "--time-column=at", "--season=day"]) == 0
    assert "(season)  nothing changes with the hour of the day" in capsys.readouterr().out
    assert main(["profile", "--describe", str(path.with_suffix(".json"))]) == 0
    assert "season" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ({"weight": HourlyValues(())}, "season.targets.weight: is not a feature of the profile"),
        ({"age": HourlyValues(((1,) * 24,) * 23)}, "season.targets.age.counts: expected 24 hours of 24 counts"),
        ({"age": HourlyValues(((1,) * 23,) * 24)}, "season.targets.age.counts: expected 24 hours of 24 counts"),
        ({"age": HourlyValues(((0,) * 24,) * 24)}, "season.targets.age.counts: expected at least one value"),
        ({"age": HourlyValues(((1,) * 24,) * 24, (0.5,))}, "season.targets.age.shifts: expected 24 numbers, or none"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(tmp_path: Path, targets: Any, words: str) -> None:
    """The message names the file and the key."""
    made = msgspec.structs.replace(profile(tmp_path), season=Season("day", targets))
    save(made, tmp_path / "loans.json")
    with pytest.raises(ProfileError, match=re.escape(f"{tmp_path / 'loans.json'}: {words}")):
        load(tmp_path / "loans.json")


def test_a_season_survives_the_file(tmp_path: Path) -> None:
    """What is written is what is read."""
    made = profile(tmp_path, season="day")
    save(made, tmp_path / "loans.json")
    assert load(tmp_path / "loans.json").season == made.season


def test_features_with_a_season_are_left_out_of_the_correlations(tmp_path: Path) -> None:
    """The correlation of the others, and the scores of its blocks, are as if the others were alone."""
    rng = np.random.default_rng(5)
    rows = training()
    rows |= {"height": rng.normal(size=10_000), "rent": rows["income"] + rng.normal(size=10_000)}
    rows["weight"] = rows["height"] + np.cumsum(rng.normal(size=10_000)) / 50
    np.savez(tmp_path / "all.npz", **rows)
    made = build_file(tmp_path / "all.npz", name="p", time_column="at", season="day")
    assert list(season_of(made).targets) == ["income", "meal", "rent"]
    np.savez(tmp_path / "some.npz", **{name: rows[name] for name in ("at", "age", "height", "weight")})
    alone = build_file(tmp_path / "some.npz", name="p", time_column="at")
    assert made.correlation == alone.correlation
    assert made.blocks
    assert alone.blocks
    assert made.blocks.correlation
    assert made.blocks.correlation == alone.blocks.correlation
    np.savez(tmp_path / "few.npz", **{name: rows[name] for name in ("at", "age", "income", "rent")})
    assert not build_file(tmp_path / "few.npz", time_column="at", season="day").correlation
