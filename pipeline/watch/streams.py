"""What is known of each stream of a live job from its monitor records: its newest window, an estimate, a state.

A window is joined from a stream's records as they come; it begins anew at a shift or a reset, and once it is full.
States from the worst: ``ill``, ``degraded``, ``drifted``, ``silent``, ``unknown``, ``normal``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from grpo_tta.estimate import FEWEST, AccuracyCalibration, Estimate, Estimates, Unknown, estimate
from grpo_tta.schemas import MonitorRecord
from grpo_tta.schemas.monitor import join

State = Literal["ill", "degraded", "drifted", "silent", "unknown", "normal"]
STATES: tuple[State, ...] = ("ill", "degraded", "drifted", "silent", "unknown", "normal")
FLOOR = 0.10
"""Degraded is an estimate whose upper end lies so far under the accuracy on normal images."""
FULL = 500
"""Images of a window."""
SILENT_SECONDS = 600.0
DRIFTED_SECONDS = 86_400.0
"""A stream is drifted for so long after its last shift."""


@dataclass(frozen=True)
class Seen:
    """A stream as it stands. ``size``: of its last shift, in standard deviations of a frame; 0 without one."""

    state: State
    estimates: Estimates
    images: int
    size: float


@dataclass
class _Stream:
    window: MonitorRecord | None = None
    before: MonitorRecord | None = None
    """The last full window under the same conditions."""
    last: float = 0.0
    shifted: float | None = None
    size: float = 0.0
    found: Estimates | None = None
    """Of the newest window, once it was asked for."""

    def add(self, record: MonitorRecord, now: float) -> None:
        self.found = None
        if record.n:
            self.last = now
        if record.shifts:
            self.shifted = now
            self.size = max((shift.thousandths or 0) for shift in record.shifts) / 1000
        if record.shifts or record.resets or self._foreign(record):
            self.window, self.before = record, None
        elif self.window is None or self.window.n >= FULL:
            self.window, self.before = record, self.window
        else:
            self.window = join([self.window, record])

    def newest(self) -> MonitorRecord | None:
        """The window that says most of now: the running one, unless it is too short and there is another."""
        if self.window is not None and self.window.n < FEWEST and self.before is not None:
            return join([self.before, self.window])
        return self.window

    def _foreign(self, record: MonitorRecord) -> bool:
        return self.window is not None and self.window.key[3:] != record.key[3:]


class StreamBoard:
    """All streams of a process. ``now``: seconds of a clock that does not jump."""

    def __init__(self, calibration: AccuracyCalibration | None, now: Callable[[], float]) -> None:
        self._calibration = calibration
        self._now = now
        self._streams: dict[str, _Stream] = {}

    def add(self, records: Iterable[MonitorRecord]) -> None:
        """Take what a committed slice says, in order of time."""
        known = [record for record in records if record.stream is not None and record.bucket_start is not None]
        for record in sorted(known, key=lambda one: one.key):
            self._streams.setdefault(record.stream or "", _Stream()).add(record, self._now())

    def drop(self, names: Iterable[str]) -> None:
        """Let go of these streams, where they are known."""
        for name in names:
            self._streams.pop(name, None)

    def seen(self) -> Mapping[str, Seen]:
        """Every stream, the worst first: by state, then by the upper end of its estimate."""
        found = {name: self._seen(stream) for name, stream in self._streams.items()}
        return dict(sorted(found.items(), key=lambda item: (STATES.index(item[1].state), _high(item[1]), item[0])))

    def _seen(self, stream: _Stream) -> Seen:
        window = stream.newest()
        if window is None:
            nothing = Unknown("few_images", "no image yet")
            return Seen("unknown", Estimates(nothing, nothing, nothing), 0, 0.0)
        found = stream.found = stream.found or estimate(window, self._calibration)
        return Seen(self._state(stream, window, found), found, window.n, stream.size)

    def _state(self, stream: _Stream, window: MonitorRecord, found: Estimates) -> State:
        now, adapted = self._now(), found.adapted
        floor = 0.0 if self._calibration is None else self._calibration.adapted.accuracy - FLOOR
        if window.ill:
            return "ill"
        if isinstance(adapted, Estimate) and adapted.high < floor:
            return "degraded"
        if stream.shifted is not None and now - stream.shifted < DRIFTED_SECONDS:
            return "drifted"
        if now - stream.last > SILENT_SECONDS:
            return "silent"
        if window.n < FEWEST or (self._calibration is not None and isinstance(adapted, Unknown)):
            return "unknown"
        return "normal"


def _high(seen: Seen) -> float:
    adapted = seen.estimates.adapted
    return adapted.high if isinstance(adapted, Estimate) else 1.0
