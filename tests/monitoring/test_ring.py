from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.monitoring.windows import SLOTS, Ring

ONE = np.array([1.0])


def total(ring: Ring, now: float, skip: float = 0.0) -> float:
    return float(ring.total(now, skip)[0])


def test_a_window_expires_its_values():
    """A value counts until between 59/60 and 60/60 of the window have passed."""
    ring = Ring(300, 1)
    ring.add(1000.0, ONE)
    assert total(ring, 1000.0) == 1
    assert total(ring, 1294.9) == 1
    assert total(ring, 1300.0) == 0


def test_the_boundary_of_a_sub_window_belongs_to_the_later_one():
    """A value exactly at the boundary of a sub-window is in the new row, and expires one step later."""
    ring = Ring(60, 1)
    ring.add(9.999, ONE)
    ring.add(10.0, ONE * 10)
    assert total(ring, 68.9) == 11
    assert total(ring, 69.0) == 10
    assert total(ring, 70.0) == 0


def test_idle_hours_need_no_clearing():
    """After a pause of many windows no old value is counted, and new ones are."""
    ring = Ring(60, 1, minima=1)
    ring.add(5.0, ONE * 7, np.array([-3.0]))
    assert total(ring, 5.0 + 86400 * 30) == 0
    ring.add(5.0 + 61 * 60, ONE, np.array([2.0]))  # the very row that held the old sums
    assert total(ring, 5.0 + 61 * 60) == 1
    assert ring.minima(5.0 + 61 * 60).tolist() == [2.0]


def test_minima_expire_with_their_window():
    """The minimum is that of the values in the window, infinite if there are none."""
    ring = Ring(60, 1, minima=2)
    assert ring.minima(0.0).tolist() == [np.inf, np.inf]
    ring.add(0.0, ONE, np.array([-5.0, np.inf]))
    ring.add(30.0, ONE, np.array([3.0, 4.0]))
    ring.add(30.5, ONE, np.array([2.0, 9.0]))
    ring.add(30.6, ONE)  # a batch without a number lowers nothing
    assert ring.minima(30.0).tolist() == [-5.0, 4.0]
    assert ring.minima(61.0).tolist() == [2.0, 4.0]
    assert ring.minima(90.0).tolist() == [np.inf, np.inf]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([(300, 3600), (420, 3600), (10, 3600), (3600, 3600), (10, 10), (77, 3601), (3600, 86400)]),
    st.floats(0, 1e6),
    st.lists(st.floats(0, 2), min_size=1, max_size=20),
)
def test_the_previous_window_does_not_overlap(lengths, start, times):
    """No value is both in a window and in the longest window before it."""
    short, longest = lengths
    near, far = Ring(short, 1), Ring(longest, 1, reach=2)
    now = start + 3 * longest
    for age in sorted((time * longest for time in times), reverse=True):
        near.add(now - age, ONE)
        far.add(now - age, ONE)
    inside = sum(age * longest < short * 58 / 60 for age in times)
    assert total(near, now) >= inside
    old = [age * longest for age in times if age * longest >= short]
    assert total(far, now, skip=short) <= len(old) + sum(short * 59 / 60 <= age * longest < short for age in times)
    certain = sum(short + longest / SLOTS < age < short + longest - 3 * longest / SLOTS for age in old)
    assert total(far, now, skip=short) >= certain


@pytest.mark.parametrize(("seconds", "reach"), [(300, 1), (3600, 2)])
def test_memory_does_not_grow(seconds, reach):
    """A ring has 60 rows per window and one more, whatever the traffic."""
    ring = Ring(seconds, 5, 2, reach)
    for second in range(0, 5 * seconds, 7):
        ring.add(float(second), np.ones(5), np.ones(2))
    rows = SLOTS * reach + 1
    assert rows * (5 + 2) * 8 < len(pickle.dumps(ring)) < rows * (5 + 2 + 1) * 8 + 1000, "with the times of the rows"


@given(
    st.lists(st.lists(st.floats(-400, 20), min_size=0, max_size=30), max_size=6),
    st.floats(1e5, 1e6),
)
def test_sums_of_the_past_are_where_they_would_have_been(batches, start):
    """Sums added late, in any order, are those of a ring that got them in time; what is too old is left out."""
    late, in_time = Ring(60, 2), Ring(60, 2)
    now, everything = start, []
    for batch in batches:
        now += 17.0
        times = now + np.array(batch, dtype=np.float64)
        sums = np.stack((np.ones(len(times)), times), axis=1)
        late.add_past(now, times, sums)
        everything += [(min(time, now), row) for time, row in zip(times.tolist(), sums, strict=True)]
    for time, row in sorted(everything, key=lambda pair: pair[0]):
        in_time.add(time, row)
    np.testing.assert_allclose(late.total(now), in_time.total(now))


def test_the_past_does_not_overwrite_the_present():
    """The row of a time before the window may hold newer sums, which stay."""
    ring = Ring(60, 1)
    ring.add(100.0, ONE)
    ring.add_past(100.0, np.array([100.0 - 61, -1e300, 99.0]), np.array([[7.0], [7.0], [2.0]]))
    assert total(ring, 100.0) == 3


def test_the_parts_of_a_window_add_up_to_it():
    """Each sub-window is in one part, and what is older than the window is in none."""
    ring, rng = Ring(600.0, 1), np.random.default_rng(0)
    ring.add(100.0, [1000.0])
    for now in np.sort(rng.uniform(900, 1500, 50)).tolist():
        ring.add(now, [1.0])
    for now in (1500.0, 1555.0, 1600.0):
        parts = ring.parts(now, 10)
        assert parts.shape == (10, 1)
        assert parts.sum() == ring.total(now)[0]
    assert Ring(600.0, 1).parts(5.0, 10).sum() == 0
    recent = Ring(600.0, 1)
    recent.add(1500.0, [1.0])
    assert [recent.parts(1500.0 + age, 10)[:, 0].argmax() for age in (0, 50, 60, 599)] == [0, 0, 1, 9]
