"""The order of training rows, and the noise of blocks of consecutive ones."""

from __future__ import annotations

import csv
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.signal import lfilter
from support.memory import allocating
from support.processes import Run

from exporter.errors import ProfileError
from exporter.monitoring.binner import Binner
from exporter.profiles.bins import numeric_feature
from exporter.profiles.blocks import BlockBuilder
from exporter.profiles.builder import build_file
from exporter.profiles.describe import order_line, order_warnings, profile_lines
from exporter.profiles.profile import (
    FILE,
    GROUPED,
    SHUFFLED,
    TIME,
    UNSORTED,
    Blocks,
    BlockScores,
    Feature,
    Profile,
    Times,
    load,
    save,
)
from exporter.stats.divergence import Floats

ROWS = 4000


def autoregressive(phi: float, rows: int = ROWS, seed: int = 0) -> Floats:
    values = np.random.default_rng(seed).normal(size=rows)
    return np.asarray(lfilter([np.sqrt(1 - phi**2)], [1, -phi], values))


def columns(rows: int = ROWS) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "age": autoregressive(0.9, rows),
        "income": rng.normal(size=rows),
        "country": rng.choice(["NL", "DE", "FR"], rows, p=[0.6, 0.3, 0.1]),
    }


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(
        data: Mapping[str, Sequence[Any]], order: Sequence[int] | None = None, name: str = "training.csv"
    ) -> Path:
        path = tmp_path / name
        rows = list(zip(*data.values(), strict=True))
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(
                [list(data), *(rows[row] for row in (order if order is not None else range(len(rows))))]
            )
        return path

    return write


def blocks_of(profile: Profile) -> Blocks:
    assert profile.blocks
    return profile.blocks


def test_order_of_the_file(write: Any) -> None:
    """Blocks of 20 rows up to a tenth of all are scored, and a feature whose values depend on each other is found."""
    profile = build_file(write(columns()))
    blocks = blocks_of(profile)
    assert (blocks.order, blocks.sizes) == (FILE, (20, 40, 80, 160, 320))
    assert {name: scores.dependent for name, scores in blocks.targets.items()} == {
        "age": True,
        "income": False,
        "country": False,
    }
    # Asymptotically (1 - phi) / (1 + phi) = 1/19 of the values for the mean; less for the distribution.
    assert 20 < blocks.targets["age"].effective[-1] < 320 / 2
    # That of the mean is 19; those of the shares of bins are smaller.
    assert 12 < blocks.targets["age"].dispersion < 35
    assert blocks.targets["income"].dispersion < 3
    assert blocks.targets["country"].dispersion < 3
    binner = Binner(profile)
    ratio = blocks.noise_ratio(binner.target_names, binner.reference).at(np.full(3, 100.0))
    assert ratio[0] > 1.5
    assert ratio[1:].tolist() == [1.0, 1.0]
    text = "\n".join(profile_lines(profile))
    note = f"autocorrelated: the noise floor of 100 values is {ratio[0]:.1f} times as high"
    assert text.count("; autocorrelated: ") == text.count(f"; {note}\n") == 1
    assert "(order)  as in the file; values are autocorrelated in 1 of 3 targets" in text


def test_quantiles_are_those_of_the_blocks(write: Any) -> None:
    """The quantile of 100 blocks or more is that of the scores of all blocks, each against the other rows."""
    data = columns()
    profile = build_file(write({"age": data["age"]}))
    feature = profile.features["age"]
    bins = np.array(feature.edges).searchsorted(data["age"], side="right")
    total = np.bincount(bins, minlength=len(feature.counts)).astype(float)
    scores = []
    for start in range(0, ROWS - 19, 5):
        counts = np.bincount(bins[start : start + 20], minlength=len(total)).astype(float)
        q = (total - counts + 0.5) / (ROWS - 20 + len(total) / 2)
        p = (counts + len(total) / 2 * q) / (20 + len(total) / 2)
        scores.append(float((p * np.log(p / q)).sum()))
    assert blocks_of(profile).targets["age"].quantiles[0] == pytest.approx(np.quantile(scores, 0.995), rel=0.05)


def test_many_bins_take_bounded_memory() -> None:
    """Blocks of features with thousands of bins are few, and no array has a cell for each pair of bins."""
    values = np.random.default_rng(0).normal(size=(4, 20_000))
    features: dict[str, Feature] = {f"x{index}": numeric_feature(row, bins=3000) for index, row in enumerate(values)}
    with allocating(160 * 2**20):
        builder = BlockBuilder(features, values.shape[1])
        for start in range(0, values.shape[1], 1000):
            builder.add(dict(zip(features, values[:, start : start + 1000], strict=True)))
        builder.build()


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
def test_order_of_a_time_column(write: Any, order: str) -> None:
    """Rows are taken in the order of time, whatever that of the file; newest first is an order, too."""
    times = np.arange(ROWS) * 60.0
    data = {"at": [float(time) for time in times], **columns()}
    rng = np.random.default_rng(2)
    rows = {"sorted": range(ROWS), "reversed": range(ROWS)[::-1], "shuffled": rng.permutation(ROWS).tolist()}[order]
    blocks = blocks_of(build_file(write(data, rows), time_column="at"))
    assert (blocks.order, blocks.column) == (TIME, "at")
    expected = blocks_of(build_file(write(columns())))
    assert blocks.targets["age"].dependent
    assert blocks.targets["age"].quantiles == pytest.approx(expected.targets["age"].quantiles, rel=0.15)
    if order != "reversed":
        assert blocks.targets == expected.targets


def test_rows_without_a_time_are_left_out(write: Any) -> None:
    """A missing time, one that is not a time, and a clock that steps back cost nothing but these rows."""
    at = [f"2026-11-{1 + row // 1440:02d}T{row // 60 % 24:02d}:{row % 60:02d}:00Z" for row in range(ROWS)]
    at[5], at[6], at[2000] = "", "soon", "2020-01-01T00:00:00Z"
    blocks = blocks_of(build_file(write({"at": at, **columns()}), time_column="at"))
    assert blocks.order == TIME
    assert blocks.targets["age"].dependent
    nothing = blocks_of(build_file(write({"at": ["soon"] * ROWS, **columns()}), time_column="at"))
    assert (nothing.order, nothing.sizes) == (TIME, ())


def test_too_many_rows_to_sort(write: Any) -> None:
    """Beyond the memory for sorting there is no floor of blocks, and a warning says what to do."""
    path = write(
        {"at": [float(row) for row in range(ROWS)][::2] + [float(row) for row in range(ROWS)][1::2], **columns()}
    )
    profile = build_file(path, time_column="at", memory=1000)
    assert profile.blocks == Blocks(UNSORTED, "at")
    assert [*order_warnings(profile, ())] == [
        'rows are not in the order of "at", and too many to sort in memory: sort the file by it, or set --shuffled'
    ]


def test_shuffled(write: Any) -> None:
    """The user can say that the order means nothing; rows that are shuffled show no dependence either."""
    path = write(columns())
    assert blocks_of(build_file(path, shuffled=True)) == Blocks(SHUFFLED)
    shuffled = write(columns(), np.random.default_rng(3).permutation(ROWS).tolist(), "shuffled.csv")
    assert not any(scores.dependent for scores in blocks_of(build_file(shuffled)).targets.values())


@pytest.mark.parametrize("by", ["country", "income", "label"])
def test_sorted_rows(write: Any, by: str, run: Run) -> None:
    """Rows sorted by a feature or by the label are not in the order of arrival: said, with the flags that help."""
    data = columns()
    data["label"], data["predicted"] = (np.random.default_rng(seed).choice(["yes", "no"], ROWS) for seed in (4, 5))
    path = write(data, np.argsort(data[by], kind="stable").tolist())
    printed = run("profile", path, "--prediction-column=predicted", "--label-column=label")
    calendar = "" if by == "label" else f"--ignore={by} if it follows the calendar, else "
    assert f'rows are grouped by "{by}": set {calendar}--time-column, or --shuffled' in printed.err
    assert f'(order)  grouped by "{by}"; values are taken as independent' in printed.out
    assert load(path.with_suffix(".json")).blocks == Blocks(GROUPED, by)


def test_a_column_of_the_calendar(write: Any, run: Run) -> None:
    """Each of its values is one stretch of the time, so that live ones are unlike training: said, with the flag."""
    data = columns() | {"at": np.arange(ROWS) + 1.7e9, "month": np.arange(ROWS) * 9 // ROWS}
    told = "month: follows the calendar: each value is one stretch of the time, so those to come forbid estimates"
    assert f"{told}: set --ignore=month" in run("profile", write(data), "--time-column=at").err


def test_rows_that_one_value_distinguishes_are_not_grouped(write: Any) -> None:
    """A feature with one value in nearly all rows says nothing of the order."""
    data = {**columns(), "rare": [float(row == 17) for row in range(ROWS)], "constant": [1.0] * ROWS}
    assert blocks_of(build_file(write(data))).order == FILE


def test_long_dependence_is_told(write: Any, run: Run) -> None:
    """Where even a tenth of the rows is far from all rows, drift would hardly be seen: the command says so."""
    path = write({**columns(), "slow": np.cumsum(np.random.default_rng(5).normal(size=ROWS))})
    err = run("profile", path).err
    assert "slow: even 320 successive rows can be" in err
    assert "age:" not in err


def test_missing_and_constant_stretches(write: Any) -> None:
    """Gaps and a sensor that is stuck for a while count as what they are: successive values that are alike."""
    values = [*np.random.default_rng(6).normal(size=ROWS)]
    values[1000:1400] = [""] * 400
    values[2000:2400] = [0.5] * 400
    scores = blocks_of(build_file(write({"sensor": values}))).targets["sensor"]
    assert scores.dependent
    assert np.isfinite(scores.quantiles).all()


def test_many_rows_cost_bounded_memory(write: Any) -> None:
    """However many rows there are, at most some thousand blocks of each size are kept."""
    from exporter.profiles.bins import numeric_feature
    from exporter.profiles.blocks import BlockBuilder

    values = np.random.default_rng(7).normal(size=50_000)
    builder = BlockBuilder({"x": numeric_feature(values.copy(), 20)}, 40 * len(values))
    for part in range(40):
        builder.add({"x": values}, part * len(values))
    assert len(pickle.dumps(builder)) < 5 * 2**20
    assert len(builder.build()["x"].quantiles) == len(builder.sizes) == 14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": "random"}, 'blocks.order: expected file, time, shuffled, grouped or unsorted, got "random"'),
        ({"times": Times(-1, 0.0, 1.0)}, "blocks.times.unreadable: expected a whole number of at least 0, got -1"),
        ({"times": Times(0, 2.0, 1.0)}, "blocks.times: expected earliest of at most latest"),
        (
            {"sizes": (40, 20)},
            "blocks.sizes: expected whole numbers from 1 to 1,099,511,627,776, each",
        ),
        ({"sizes": (20, 80)}, "each twice the one before, such as 20, 40, 80; got [20, 80]"),
        ({"sizes": (0, 0)}, "each twice the one before, such as 20, 40, 80; got [0, 0]"),
        ({"sizes": (20, 10**30)}, "each twice the one before"),
        (
            {"sizes": (), "targets": {"age": BlockScores((), (), True)}},
            "blocks.targets.age.dependent: expected false, since there are no sizes",
        ),
        ({"targets": {"weight": BlockScores((), (), False)}}, 'blocks.targets: "weight" is not a feature'),
        (
            {"targets": {"age": BlockScores((0.1,) * 5, (1.0,) * 5, True, dispersion=0.5)}},
            "blocks.targets.dispersion: expected a number of at least 1",
        ),
        ({"targets": {"age": BlockScores((0.1,), (1.0,), True)}}, "blocks.targets.age.quantiles: expected 5 numbers"),
        (
            {"targets": {"age": BlockScores((-1.0,) * 5, (1.0,) * 5, True)}},
            "blocks.targets.quantiles[0]: expected a number",
        ),
    ],
)
def test_a_record_that_contradicts_itself(write: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Such a profile is refused with the place."""
    profile = build_file(write(columns()))
    save(
        msgspec.structs.replace(profile, blocks=msgspec.structs.replace(blocks_of(profile), **change)),
        tmp_path / "bad.json",
    )
    with pytest.raises(ProfileError, match=re.escape(message)):
        load(tmp_path / "bad.json")


def test_dependence_raises_the_floor_of_the_correlation(write: Any) -> None:
    """Features that are independent of each other, but slow, correlate by chance in short windows: no drift."""
    slow = {name: autoregressive(0.95, 10_000, seed) for seed, name in enumerate("abc")}
    profile = build_file(write(slow))
    scores = blocks_of(profile).correlation
    assert scores is not None
    assert scores.dependent
    binner = Binner(profile)
    exceeded = {True: 0, False: 0}
    for seed in range(100):
        window = {name: autoregressive(0.95, 500, 1000 * (index + 1) + seed)[-200:] for index, name in enumerate("abc")}
        row, *_ = binner.count_columns(window, 200, (), ())
        score, floor = binner.multivariate_drift(row)
        independent = floor / float(binner.profile_noise.rows.at(np.array([200.0]))[0])
        exceeded[True] += score > independent
        exceeded[False] += score > floor
    assert exceeded[True] > 30
    assert exceeded[False] <= 5


def test_correlation_of_shuffled_rows_has_no_blocks(write: Any) -> None:
    """Without an order there is none; in random order nothing is found."""
    data = {name: np.random.default_rng(seed).normal(size=ROWS) for seed, name in enumerate("abc")}
    assert blocks_of(build_file(write(data), shuffled=True)).correlation is None
    scores = blocks_of(build_file(write(data))).correlation
    assert scores is not None
    assert not scores.dependent
    assert binner_floor(write(data)) == pytest.approx(1.0)


def binner_floor(path: Path) -> float:
    return float(Binner(build_file(path)).profile_noise.rows.at(np.array([200.0]))[0])


def test_a_time_column_without_times(write: Any) -> None:
    """It says that times are missing, not rows."""
    profile = build_file(write({"at": ["soon"] * ROWS, **columns()}), time_column="at")
    assert not blocks_of(profile).sizes
    assert "too few rows with a time" in order_line(blocks_of(profile))
    assert list(order_warnings(profile, ())) == [
        '"at": too few rows have a time: expected an RFC 3339 time or Unix seconds in each row'
    ]


def test_many_rows_without_a_time_are_told(write: Any) -> None:
    """More than 1% are told with their number; the command goes on with the others."""
    at = [f"2026-11-{1 + row // 1440:02d}T{row // 60 % 24:02d}:{row % 60:02d}:00Z" for row in range(ROWS)]
    at[::2] = ["", "soon"] * (ROWS // 4)
    profile = build_file(write({"at": at, **columns()}), time_column="at")
    told = '2,000 of 4,000 rows have no readable time in "at" and are left out of the order: '
    assert list(order_warnings(profile, ())) == [told + "expected an RFC 3339 time or Unix seconds"]
    assert order_line(blocks_of(profile)).startswith('(order)  by "at" without 2,000 rows; values are autocorrelated')
    at = [f"2026-11-{1 + row // 1440:02d}T{row // 60 % 24:02d}:{row % 60:02d}:00Z" for row in range(ROWS)]
    at[:40] = [""] * 40
    assert not list(order_warnings(build_file(write({"at": at, **columns()}), time_column="at"), ()))


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (4.0, 37.0, "lie in 1970: is this the column of times?"),
        (-1e14, 37.0, "lie before 1971: is this the column of times?"),
        (6e8, 7e8, None),  # from 1989 to 1992
        (1.79e9, 1.8e9, None),
        (1.79e12, 1.8e12, "lie after 2100: expected Unix seconds, not milliseconds"),
    ],
)
def test_times_that_are_no_dates(write: Any, low: float, high: float, message: str | None, shuffled: bool) -> None:
    """Numbers that are not the Unix seconds of some year since 1990 are probably no times."""
    temp = np.linspace(low, high, ROWS)
    if shuffled:
        temp = np.random.default_rng(0).permutation(temp)
    profile = build_file(write({"temp": temp.tolist(), **columns()}), time_column="temp")
    assert list(order_warnings(profile, ())) == ([f'the times in "temp" {message}'] if message else [])
    times = blocks_of(profile).times
    assert times
    assert (times.unreadable, times.earliest, times.latest) == (0, low, high)
