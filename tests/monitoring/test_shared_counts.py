"""The time in which versions served together, and what they counted in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.batches import observe

from exporter.config import ModelConfig
from exporter.monitoring import pair_snapshots
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import TOTALS
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.pair_snapshots import SEPARATOR, decode, encode, restore
from exporter.monitoring.registry import OTHER_VERSION, MonitorRegistry
from exporter.monitoring.shared_counts import MAX_PAIRS, MAX_SERVING, Pair, SharedCounts, Side, totals_size
from exporter.monitoring.shared_time import GAP_SECONDS, STEP_SECONDS, SharedTime
from exporter.profiles.bins import numeric_feature
from exporter.profiles.profile import Profile
from exporter.wire.events import Prediction

WALL = 1_764_028_800.0
GAP_STEPS = round(GAP_SECONDS / STEP_SECONDS)


def binner_of(bins: int = 20) -> Binner:
    values = np.random.default_rng(1).normal(size=500)
    return Binner(Profile("p", 500, {"x": "numeric"}, {"x": numeric_feature(values, bins)}))


class Scene:
    """Versions of a model whose time passes in steps."""

    def __init__(self, binner: Binner | None = None, **settings: Any) -> None:
        self.monitors = MonitorRegistry({"m": ModelConfig("m", **settings)}, {"m": binner} if binner else {})
        self.shared = SharedCounts()
        self.now = 5000.0
        self.wall = WALL

    def step(self, seconds: float = STEP_SECONDS, **predictions: int) -> None:
        """Let a step pass in which versions have so many predictions; ``v2=3`` is version 2."""
        for name, times in predictions.items():
            monitor = self.monitors.get("m", name.removeprefix("v"), self.now)
            observe(monitor, [Prediction("m", confidence=0.9)] * times, [{"x": 0.1}] * times, self.now)
        self.now += seconds
        self.wall += seconds
        self.shared.add_step(self.monitors, self.now, self.wall)

    def attempts(self, before: str = "1", after: str = "2") -> tuple[float, ...] | None:
        totals = self.shared.totals("m", before, after)
        index = TOTALS.index("attempts")
        return totals and tuple(side[2][index] for side in (totals.before, totals.after))


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        ("bbbb", ""),  # one version
        ("bbaa", "b"),  # one replaces the other
        ("bbxxx", "bee"),  # the step in which the second one appears counts for neither
        ("x" + "b" * 5 + "a" + "x", "bee"),  # each serves now and then
        ("x" + "b" * 99 + "x", "bb"),  # one was away for long
        ("xx" + "." * 999 + "xx", "beee"),  # neither served in the night
        ("." * 5, ""),
    ],
)
def test_the_shared_time_is_that_in_which_both_serve(served: str, expected: str) -> None:
    """A stretch begins (b) and is extended (e) as documented: b before alone, a after alone, x both, . neither."""
    shared = SharedTime()
    results = [shared.add(step in "bx", step in "ax") for step in served]
    assert "".join(result[0] for result in results if result != "waits") == expected


def test_only_what_both_count_at_the_same_time_is_compared() -> None:
    """Neither what a version counted before the other appeared is compared, nor what it counted after that left."""
    scene = Scene(binner_of())
    for _ in range(9):
        scene.step(v1=100)
    for _ in range(4):
        scene.step(v1=5, v2=3)
    for _ in range(9):
        scene.step(v1=100)
    assert scene.attempts() == (15, 9)  # three steps: the one in which version 2 appeared is partly its own
    totals = scene.shared.totals("m", "1", "2")
    assert totals is not None
    assert (totals.start, totals.end, totals.seconds) == (WALL + 10 * STEP_SECONDS, WALL + 13 * STEP_SECONDS, 45.0)
    assert totals.before[2][-20:].sum() <= 15
    assert scene.attempts("2", "1") == (9, 15)


def test_a_version_that_comes_back_is_counted_on() -> None:
    """The time in between, in which the other version served alone, is left out."""
    scene = Scene()
    for _ in range(3):
        scene.step(v1=5, v2=3)
    for _ in range(GAP_STEPS + 5):
        scene.step(v1=100)
    for _ in range(3):
        scene.step(v1=5, v2=3)
    assert scene.attempts() == (20, 12)
    assert scene.shared.versions("m") == ["1", "2"]


def test_feedback_in_a_quiet_night_counts() -> None:
    """Corrections that arrive while neither version serves are of predictions that both made before."""
    scene = Scene()
    scene.step(v1=5, v2=5)
    scene.step(v1=5, v2=5)
    scene.monitors.get("m", "1", scene.now).count_feedback("corrected", True, scene.now)
    totals = scene.shared.totals("m", "1", "2")
    assert totals is not None
    assert totals.before[2][TOTALS.index("corrections")] == 1
    for _ in range(2000):
        scene.step()
    scene.step(v1=5, v2=5)
    totals = scene.shared.totals("m", "1", "2")
    assert totals is not None
    assert totals.before[2][TOTALS.index("corrections")] == 1
    assert scene.attempts() == (10, 10)


def test_a_step_that_has_not_ended_does_not_count() -> None:
    """What one version counts since the last step, with feedback on it, is left out until both have served."""
    scene = Scene()
    for _ in range(3):
        scene.step(v1=5, v2=5)
    monitor = scene.monitors.get("m", "1", scene.now)
    observe(monitor, [Prediction("m")] * 50, [], scene.now)
    monitor.count_feedback("corrected", True, scene.now)
    totals = scene.shared.totals("m", "1", "2")
    assert totals is not None
    assert (scene.attempts(), totals.before[2][TOTALS.index("corrections")]) == ((10, 10), 0)


def test_nothing_is_kept_of_a_single_version() -> None:
    """A model of which one version serves takes no memory; ``other`` is no version."""
    scene = Scene(max_versions=1)
    for _ in range(5):
        scene.step(v1=5, v2=5)
    assert [monitor.version for monitor in scene.monitors] == ["1", OTHER_VERSION]
    assert scene.shared.versions("m") == ["1"]
    assert scene.shared.read(encode) == {}
    assert scene.shared.totals("m", "1", OTHER_VERSION) is None
    assert scene.shared.totals("unknown", "1", "2") is None
    assert scene.shared.versions("unknown") == []


def test_the_number_of_pairs_is_bounded() -> None:
    """However many versions serve, the pairs of those that appeared last are counted, and old pairs make room."""
    scene = Scene(max_versions=100)
    for newest in range(1, 31):
        for _ in range(3):
            scene.step(**{f"v{version}": 2 for version in range(1, newest + 1)})
        assert len(scene.shared.read(encode)) <= MAX_PAIRS
    assert scene.attempts("29", "30") == (4, 4)
    newest_versions = [str(version) for version in range(31 - MAX_SERVING, 31)]
    assert {key[1:] for key in scene.shared.read(encode)} == {
        (a, b) for a in newest_versions for b in newest_versions if int(a) < int(b)
    }


def test_a_pair_in_the_other_order_makes_no_room() -> None:
    """A pair of an older process whose versions appeared in another order is counted; pairs that end later go first."""
    scene = Scene(max_versions=100)
    sides = [Side(version, WALL - 1000, None, np.zeros(totals_size(None))) for version in "21"]
    sides[1].appeared -= 1
    scene.shared.put("m", Pair(*sides, start=WALL - 900, end=WALL - 800, seconds=60.0))
    for number in range(1, MAX_PAIRS):
        gone = [Side(f"gone{number}{side}", WALL - 5000, None, np.zeros(totals_size(None))) for side in "ab"]
        scene.shared.put("m", Pair(*gone, start=WALL - 700, end=WALL - 600 + number, seconds=60.0))
    scene.step(v1=1, v2=1, v3=1)
    kept = {key[1:] for key in scene.shared.read(encode)}
    assert ("2", "1") in kept
    assert len(kept) == MAX_PAIRS - 2, "two pairs with version 3 have begun, and have no counts yet"


def test_a_version_with_another_profile_is_compared_anew() -> None:
    """After a reload with another profile the bins are others; with the same one the counts go on."""
    scene = Scene(binner_of())
    for _ in range(3):
        scene.step(v1=5, v2=5)
    assert scene.attempts() == (10, 10)
    same = MonitorRegistry(scene.monitors.models, {"m": binner_of()})
    other = MonitorRegistry(scene.monitors.models, {"m": binner_of(10)})
    scene.monitors = same  # new monitors: their counters begin at 0
    for _ in range(2):
        scene.step(v1=3, v2=3)
    assert scene.attempts() == (16, 16)
    scene.monitors = other
    scene.step(v1=3, v2=3)
    assert scene.attempts() is None
    scene.step(v1=3, v2=3)
    assert scene.attempts() == (3, 3)


def test_the_clock_of_the_machine_may_change() -> None:
    """Durations follow the monotonic clock, and the end is never before the start."""
    scene = Scene()
    scene.step(v1=1, v2=1)
    scene.wall -= 86_400
    for _ in range(4):
        scene.step(v1=1, v2=1)
    totals = scene.shared.totals("m", "1", "2")
    assert totals is not None
    assert totals.end >= totals.start
    assert totals.seconds == 4 * STEP_SECONDS


def test_steps_have_a_least_length() -> None:
    """A step that would end too early does not end."""
    scene = Scene()
    for _ in range(60):
        scene.step(1.0, v1=1, v2=1)
    totals = scene.shared.totals("m", "1", "2")
    assert totals is not None
    assert totals.seconds == 45


def test_a_pair_survives_as_bytes() -> None:
    """A pair is the same after it was saved; one with another profile starts anew, and a damaged one is refused."""
    scene = Scene(binner_of())
    for _ in range(3):
        scene.step(v1=5, v2=4)
    ((model, before, after), data), *others = scene.shared.read(encode).items()
    assert not others
    rows = [(model, f"{before}{SEPARATOR}{after}", data), ("m", "1", b"of a version"), ("gone", f"1{SEPARATOR}2", data)]
    later = Scene(binner_of())
    restore(rows, later.monitors, later.shared)
    assert later.attempts() == (10, 8)
    assert later.shared.versions("m") == ["1", "2"]
    other = Scene(binner_of(10))
    restore(rows, other.monitors, other.shared)
    assert other.attempts() is None
    for damaged in (b"", data[:-5], encode_with(np.full(3, 1.0)), encode_with(np.full(39, np.nan))):
        with pytest.raises(ValueError, match=r"."):
            decode(damaged, "m", later.monitors)
    restore([("m", f"1{SEPARATOR}2", b"damaged")], other.monitors, other.shared)
    assert other.attempts() is None


def encode_with(counts: np.ndarray[Any, Any]) -> bytes:
    """A pair with other counts."""
    scene = Scene(binner_of())
    for _ in range(3):
        scene.step(v1=5, v2=4)

    def encode_changed(pair: Any) -> bytes:
        pair.before.counts = counts
        return encode(pair)

    return next(iter(scene.shared.read(encode_changed).values()))


def test_totals_are_those_of_the_counters() -> None:
    """The array of totals has the counters, the histogram of durations and the bins."""
    monitor = ModelMonitor(ModelConfig("m"), "1", binner_of())
    events = [Prediction("m", confidence=0.9, duration_seconds=0.3, code=code) for code in (200, 404, 500)]
    observe(monitor, events, [{"x": 0.0}, {}], 1.0)
    monitor.count_feedback("corrected", True, 1.0)
    monitor.count_feedback("accepted", False, 1.0)
    totals = monitor.totals()
    assert dict(zip(TOTALS, totals, strict=False)) == {
        "requests": 3, "errors": 1, "attempts": 3, "confident": 1, "corrections": 1, "feedback": 2,
    }  # fmt: skip
    assert totals[len(TOTALS) :].sum() == 3 + 2
    assert pair_snapshots.totals_size(monitor.binner) == len(totals)
