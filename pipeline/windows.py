"""Windows of event time: they group images in outputs and logs; labels never wait for one to close.

Fixed windows tile time from the epoch. A session ends after ``gap`` without an image, or at a maximum length. Windows
are cut over what a slice holds of a stream; the part of a session that the slice before has stepped is joined on
(`Windows.join`), so both parts are logged with the session's true start. All times are microseconds since the epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Window = tuple[int, int]
"""``[start, end)`` in microseconds since the epoch."""

SECOND = 1_000_000


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

    def assign(self, times: Sequence[int]) -> list[Window]:
        """One window for each of ``times``, which ascend."""
        if self.kind == "fixed":
            return [(time // self.size * self.size, time // self.size * self.size + self.size) for time in times]
        windows: list[Window] = []
        first = 0
        for i in range(1, len(times) + 1):
            last = times[i - 1]
            if i == len(times) or times[i] - last >= self.size or times[i] - times[first] >= self.max_length:
                end = min(last + self.size, times[first] + self.max_length)
                windows += [(times[first], end)] * (i - first)
                first = i
        return windows

    def join(self, previous: Window | None, window: Window) -> Window:
        """The whole session where ``window`` begins within ``previous`` and both are parts of one, else ``window``."""
        if self.kind == "fixed" or previous is None or not previous[0] <= window[0] < previous[1]:
            return window
        end = max(previous[1], window[1])
        return (previous[0], end) if end - previous[0] <= self.max_length else window
