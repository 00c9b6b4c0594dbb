"""Windows of event time: they group images in outputs and logs; labels never wait for one to close.

Fixed windows tile time from the epoch. A session ends after ``gap`` without an image, or at a maximum length. What a
slice holds of a stream shows where gaps are (`Windows.runs`); where a session that is too long is cut depends on its
start, which may lie in a slice before (`Windows.place`). So a session's start is the same however the source was cut
into slices; its end is the one known when the record was written. All times are microseconds since the epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

Window = tuple[int, int]
"""``[start, end)`` in microseconds since the epoch."""

SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


def to_datetime(microseconds: int) -> datetime:
    """Microseconds since the epoch as UTC; what lies outside the years datetime knows is clamped."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return _LAST if microseconds > 0 else datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Windows:
    """``fixed``: ``size`` is the window's length. ``session``: ``size`` is the gap, ``max_length`` bounds a session."""

    kind: Literal["fixed", "session"]
    size: int
    max_length: int

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError(f"window size must be > 0 microseconds, got {self.size}")
        if self.kind == "session" and self.max_length < self.size:
            raise ValueError(
                f"a session's max_length must be at least its gap of {self.size / SECOND:g} s, "
                f"got {self.max_length / SECOND:g} s"
            )

    def runs(self, times: Sequence[int]) -> list[Window]:
        """For each of ``times``, which ascend: its fixed window, or the run of images without a gap that it is in,
        from the first image to a gap after the last."""
        if self.kind == "fixed":
            return [(time // self.size * self.size, time // self.size * self.size + self.size) for time in times]
        runs: list[Window] = []
        first = 0
        for i in range(1, len(times) + 1):
            if i == len(times) or times[i] - times[i - 1] >= self.size:
                runs += [(times[first], times[i - 1] + self.size)] * (i - first)
                first = i
        return runs

    def place(self, times: Sequence[int], runs: Sequence[Window], open_session: Window | None) -> list[Window]:
        """The window of each of ``times``, which ascend; ``runs`` are theirs, ``open_session`` is the window before."""
        if self.kind == "fixed":
            return list(runs)
        windows: list[Window] = []
        window = open_session
        for time, (_, run_end) in zip(times, runs, strict=True):
            if window is not None and window[0] <= time < window[1]:
                start, end = window[0], max(window[1], run_end)
            else:
                start, end = time, run_end
            window = (start, min(end, start + self.max_length))
            windows.append(window)
        return windows
