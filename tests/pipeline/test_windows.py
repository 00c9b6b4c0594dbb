import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_tta.pipeline.windows import Windows

TIMES = st.lists(st.integers(-10_000, 10_000), max_size=40).map(sorted)


def assign(windows, times, open_session=None):
    return windows.place(times, windows.runs(times), open_session)


def test_fixed_windows_tile_time_from_the_epoch():
    windows = Windows("fixed", 60, 0)
    assert assign(windows, [0, 59, 60, 61, 179]) == [(0, 60), (0, 60), (60, 120), (60, 120), (120, 180)]


def test_fixed_windows_before_the_epoch_tile_alike():
    assert assign(Windows("fixed", 60, 0), [-61, -60, -1]) == [(-120, -60), (-60, 0), (-60, 0)]


def test_a_session_ends_after_the_gap():
    windows = Windows("session", 10, 1000)
    assert assign(windows, [0, 9, 18, 28, 29]) == [(0, 28), (0, 28), (0, 28), (28, 39), (28, 39)]


def test_a_session_ends_at_its_maximum_length():
    windows = Windows("session", 10, 25)
    assert assign(windows, [0, 8, 16, 24, 25, 33]) == [(0, 25)] * 4 + [(25, 43)] * 2


def test_a_session_of_one_image_is_a_gap_long():
    assert assign(Windows("session", 10, 10), [-5]) == [(-5, 5)]


def test_no_times_no_windows():
    assert assign(Windows("fixed", 60, 0), []) == []
    assert assign(Windows("session", 60, 60), []) == []


@given(TIMES, st.integers(1, 500), st.integers(0, 2000))
def test_every_time_lies_in_its_window_and_windows_do_not_overlap(times, gap, more):
    windows = Windows("session", gap, gap + more)
    found = assign(windows, times)
    assert len(found) == len(times)
    for time, (start, end) in zip(times, found, strict=True):
        assert start <= time < end
        assert end - start <= gap + more
    distinct = sorted(set(found))
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(distinct))
    assert found == sorted(found)


@given(TIMES, st.integers(1, 500), st.integers(0, 2000), st.lists(st.integers(0, 40), max_size=5).map(sorted))
def test_sessions_cut_by_slices_are_those_of_one_run(times, gap, more, cuts):
    windows = Windows("session", gap, gap + more)
    whole = assign(windows, times)
    parts, previous = [], None
    for start, stop in itertools.pairwise([0, *cuts, len(times)]):
        parts += assign(windows, times[start:stop], previous)
        previous = parts[-1] if parts else None
    assert [start for start, _ in parts] == [start for start, _ in whole]
    for part, window in zip(parts, whole, strict=True):
        assert part[1] <= window[1]
    ends = {window[0]: window[1] for window in parts}
    assert ends == {window[0]: window[1] for window in whole}


def test_a_long_session_is_cut_at_the_same_places_whatever_the_slices():
    windows, times = Windows("session", 10, 60), list(range(0, 150, 5))
    for size in (1, 7, 12, 30):
        parts, previous = [], None
        for start in range(0, len(times), size):
            parts += assign(windows, times[start : start + size], previous)
            previous = parts[-1]
        assert sorted({start for start, _ in parts}) == [0, 60, 120]


def test_parts_of_one_session_are_joined():
    windows = Windows("session", 10, 100)
    assert assign(windows, [45, 50], (0, 50)) == [(0, 60), (0, 60)]
    assert assign(windows, [50], (0, 50)) == [(50, 60)]
    assert assign(windows, [50], None) == [(50, 60)]


def test_a_part_that_ends_within_the_session_does_not_shorten_it():
    assert assign(Windows("session", 10, 100), [20], (0, 50)) == [(0, 50)]


def test_a_joined_session_is_not_longer_than_the_maximum():
    windows = Windows("session", 10, 60)
    assert assign(windows, [45, 50], (0, 50)) == [(0, 60)] * 2
    assert assign(windows, [45, 51, 60], (0, 50)) == [(0, 60), (0, 60), (60, 70)]


def test_fixed_windows_are_never_joined():
    assert assign(Windows("fixed", 60, 0), [0], (0, 90)) == [(0, 60)]
    assert assign(Windows("fixed", 60, 0), [60], (0, 90)) == [(60, 120)]


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("kind", ["fixed", "session"])
def test_a_length_that_is_not_positive_is_named(kind, size):
    with pytest.raises(ValueError, match=f"window size must be > 0 microseconds, got {size}"):
        Windows(kind, size, 100)


def test_a_maximum_shorter_than_the_gap_is_named():
    with pytest.raises(ValueError, match=re.escape("must be at least its gap of 5 s, got 4 s")):
        Windows("session", 5_000_000, 4_000_000)
