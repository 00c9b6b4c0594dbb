import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.windows import Windows

TIMES = st.lists(st.integers(-10_000, 10_000), max_size=40).map(sorted)


def test_fixed_windows_tile_time_from_the_epoch():
    windows = Windows("fixed", 60, 0)
    assert windows.assign([0, 59, 60, 61, 179]) == [(0, 60), (0, 60), (60, 120), (60, 120), (120, 180)]


def test_fixed_windows_before_the_epoch_tile_alike():
    assert Windows("fixed", 60, 0).assign([-61, -60, -1]) == [(-120, -60), (-60, 0), (-60, 0)]


def test_a_session_ends_after_the_gap():
    windows = Windows("session", 10, 1000)
    assert windows.assign([0, 9, 18, 28, 29]) == [(0, 28), (0, 28), (0, 28), (28, 39), (28, 39)]


def test_a_session_ends_at_its_maximum_length():
    windows = Windows("session", 10, 25)
    assert windows.assign([0, 8, 16, 24, 25, 33]) == [(0, 25)] * 4 + [(25, 43)] * 2


def test_a_session_of_one_image_is_a_gap_long():
    assert Windows("session", 10, 10).assign([-5]) == [(-5, 5)]


def test_no_times_no_windows():
    assert Windows("fixed", 60, 0).assign([]) == []
    assert Windows("session", 60, 60).assign([]) == []


@given(TIMES, st.integers(1, 500), st.integers(0, 2000))
def test_every_time_lies_in_its_window_and_windows_do_not_overlap(times, gap, more):
    windows = Windows("session", gap, gap + more)
    found = windows.assign(times)
    assert len(found) == len(times)
    for time, (start, end) in zip(times, found, strict=True):
        assert start <= time < end
        assert end - start <= gap + more
    distinct = sorted(set(found))
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(distinct))
    assert found == sorted(found)


@given(TIMES, st.integers(1, 500), st.integers(0, 40))
def test_a_session_cut_by_a_slice_keeps_its_start(times, gap, cut):
    windows = Windows("session", gap, 10**9)
    whole = windows.assign(times)
    first, second = times[:cut], times[cut:]
    previous = windows.assign(first)[-1] if first else None
    joined = []
    for window in windows.assign(second):
        joined.append(windows.join(previous, window))
        previous = joined[-1]
    assert joined == whole[cut:]


def test_parts_of_one_session_are_joined():
    windows = Windows("session", 10, 100)
    assert windows.join((0, 50), (45, 60)) == (0, 60)
    assert windows.join((0, 50), (50, 60)) == (50, 60)
    assert windows.join(None, (50, 60)) == (50, 60)


def test_a_part_that_ends_within_the_session_does_not_shorten_it():
    assert Windows("session", 10, 100).join((0, 50), (20, 30)) == (0, 50)


def test_a_joined_session_is_not_longer_than_the_maximum():
    windows = Windows("session", 10, 60)
    assert windows.join((0, 50), (45, 60)) == (0, 60)
    assert windows.join((0, 50), (45, 61)) == (45, 61)


def test_fixed_windows_are_never_joined():
    assert Windows("fixed", 60, 0).join((0, 60), (0, 60)) == (0, 60)
    assert Windows("fixed", 60, 0).join((0, 90), (60, 120)) == (60, 120)


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("kind", ["fixed", "session"])
def test_a_length_that_is_not_positive_is_named(kind, size):
    with pytest.raises(ValueError, match=f"window size must be > 0 microseconds, got {size}"):
        Windows(kind, size, 100)


def test_a_maximum_shorter_than_the_gap_is_named():
    with pytest.raises(ValueError, match=re.escape("must be at least its gap of 5 s, got 4 s")):
        Windows("session", 5_000_000, 4_000_000)
