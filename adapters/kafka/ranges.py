"""Ranges of a partition's offsets as Beam restrictions: closed ones, and open ones that have no end.

Both are read by one reader, in log order, that hands back a rest by itself; the runner may ask for such a checkpoint
(a split at 0) and gets no other split. An open range has a *backlog*, up to the end of the log when its reader last
heard of it: the reader says it with each claim, for a tracker that asked the broker itself would hold up the claims.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from apache_beam.io.iobase import RestrictionProgress, WatermarkEstimator
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

OPEN = 2**63 - 1
"""The ``stop`` of a range without an end. Kafka's offsets are smaller."""


class KafkaRange(NamedTuple):
    """Offsets ``start <= o < stop`` of a partition; without ``stop`` whatever comes from ``start`` on."""

    topic: str
    partition: int
    start: int
    stop: int = OPEN


class OpenRange(OffsetRange):
    """Offsets from ``start`` on. ``end``: that of the log when it was last heard of, ``start`` before that."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(start, OPEN)
        self.end = end

    def size(self) -> int:
        """The backlog."""
        return int(max(self.end - self.start, 0))

    def split_at(self, split_pos: int) -> tuple[OffsetRange, OffsetRange]:
        """A closed range and an open one."""
        return OffsetRange(self.start, split_pos), OpenRange(split_pos, self.end)


class Claim(NamedTuple):
    """What the reader of an open range claims: everything up to ``offset``, the log ending before ``end``."""

    offset: int
    end: int


class RangeTracker(OffsetRestrictionTracker):
    """Of a closed range. Only the reader itself hands back a rest."""

    def try_split(self, fraction_of_remainder: float) -> Any:
        """The rest at 0, else None."""
        return super().try_split(fraction_of_remainder) if fraction_of_remainder == 0 else None


class OpenTracker(RangeTracker):
    """Of an `OpenRange`, which is a closed range from its checkpoint on."""

    def try_claim(self, position: Claim) -> bool:
        """As for a closed range; takes note of the end of the log."""
        if not self.is_bounded():
            self._range.end = max(position.end, position.offset + 1)
        return bool(super().try_claim(position.offset))

    def current_progress(self) -> RestrictionProgress:
        """The part of the offsets up to the known end of the log that is claimed; 0 while no end is known."""
        if self.is_bounded():
            return super().current_progress()
        known = self._range.size()
        claimed = 0 if self._current_position is None else self._current_position + 1 - self._range.start
        return RestrictionProgress(fraction=claimed / known if known else 0.0)

    def is_bounded(self) -> bool:
        """Whether the range has been closed by a checkpoint."""
        return not isinstance(self._range, OpenRange)


class Ranges(RestrictionProvider):
    """Connects to nothing: a range is given with its element."""

    def initial_restriction(self, element: KafkaRange) -> OffsetRange:
        """Open where the element has no end."""
        if element.stop == OPEN:
            return OpenRange(element.start, element.start)
        return OffsetRange(element.start, element.stop)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        """A tracker of the restriction's kind."""
        return (OpenTracker if isinstance(restriction, OpenRange) else RangeTracker)(restriction)

    def restriction_size(self, element: KafkaRange, restriction: OffsetRange) -> int:
        """Offsets; of an open range its backlog."""
        return int(restriction.size())


class ClockState(NamedTuple):
    """An `EventClock` between two calls, in microseconds since the epoch."""

    watermark: int
    at: int
    """When it was set, by the wall clock."""


INITIAL = ClockState(MIN_TIMESTAMP.micros, 0)
"""Nothing has been read, and nothing is known of the log."""


class EventClock(WatermarkEstimator):
    """The watermark of one partition: ``lateness`` seconds behind the newest image that was read.

    A time in the future counts as now, so that one fast clock makes nobody else late. While the reader has caught up
    and nothing comes, the watermark runs on as fast as the wall clock: an idle partition holds nobody up, and a replay
    of old images that pauses does not find its next ones late. A partition in which there has never been an image
    counts as live. Without a state there is no watermark, which is how closed ranges are read.
    """

    def __init__(self, state: ClockState | None, lateness: float, clock: Callable[[], float] = time.time) -> None:
        self._state = state
        self._lateness = round(lateness * 1_000_000)
        self._clock = clock

    def saw(self, event_time: int) -> None:
        """An image of ``event_time``, microseconds since the epoch, was read."""
        if self._state is not None:
            now = self._now()
            self._state = ClockState(max(self._state.watermark, min(event_time, now) - self._lateness), now)

    def caught_up(self) -> None:
        """There is nothing left to read."""
        if self._state is None:
            return
        now = self._now()
        if self._state.watermark == INITIAL.watermark:
            self._state = ClockState(now - self._lateness, now)
        else:
            self._state = ClockState(self._state.watermark + max(now - self._state.at, 0), now)

    def observe_timestamp(self, timestamp: Timestamp) -> None:
        """Of any output, bad records included: not what the watermark goes by."""

    def current_watermark(self) -> Timestamp | None:
        """None without a state."""
        return None if self._state is None else Timestamp(micros=self._state.watermark)

    def get_estimator_state(self) -> ClockState | None:
        """What the next call goes on with."""
        return self._state

    def _now(self) -> int:
        return round(self._clock() * 1_000_000)
