"""The state of a stream, by one rule for the report and for the metrics of a live job, and a live job's streams.

A state is made of facts (`Facts`) that monitor records alone tell, in event time, and of what time it is: the newest
event time of all streams, and the seconds since then where nothing came. States from the worst: ``ill``, ``degraded``,
``drifted``, ``silent``, ``unknown``, ``normal``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Literal

from grpo_tta.estimate import FEWEST, AccuracyCalibration, Estimate, Estimates, Unknown, estimate
from grpo_tta.schemas import MonitorRecord
from grpo_tta.schemas.monitor import Shift, join, merge

State = Literal["ill", "degraded", "drifted", "silent", "unknown", "normal"]
STATES: tuple[State, ...] = ("ill", "degraded", "drifted", "silent", "unknown", "normal")
FLOOR = 0.10
"""Degraded is an estimate whose upper end lies so far under the accuracy on normal images."""
FULL = 500
"""Images of the newest window, where the stream has them."""
DRIFTED = timedelta(hours=24)
"""A stream is drifted for so long after its last shift."""
QUIET_AT_LEAST = timedelta(hours=1)
QUIET_PAUSES = 3
"""A stream is silent after so many times its usual pause, and at least `QUIET_AT_LEAST`."""
PAUSES = 50
"""The newest ones, of which nine in ten are no longer than the usual one."""

Stretch = tuple[datetime, datetime]


@dataclass(frozen=True)
class Facts:
    """What a stream's state is made of. ``images``, ``ill`` and ``adapted``: of the newest window (`rows_of_newest`);
    ``adapted`` is None where nobody asked for an estimate. ``last``: the end of the last stretch with an image."""

    images: int
    ill: int
    adapted: Estimate | Unknown | None
    shifted: datetime | None
    last: datetime | None
    pause: timedelta


def states_of(facts: Facts, now: datetime, floor: float | None) -> list[State]:
    """All that hold, the worst first. ``now``: in event time; ``floor``: see `floor_of`."""
    adapted, last = facts.adapted, facts.last
    holds = {
        "ill": facts.ill > 0,
        "degraded": isinstance(adapted, Estimate) and floor is not None and adapted.high < floor,
        "drifted": facts.shifted is not None and now - facts.shifted < DRIFTED,
        "silent": last is not None and now - last > max(QUIET_AT_LEAST, QUIET_PAUSES * facts.pause),
        "unknown": facts.images < FEWEST or isinstance(adapted, Unknown),
    }
    return [state for state in STATES if holds.get(state)] or ["normal"]


def floor_of(floor: float | None, calibration: AccuracyCalibration | None) -> float | None:
    """The accuracy under which a stream is degraded: as given, or else by the calibration; None without either."""
    if floor is not None or calibration is None:
        return floor
    return max(0.0, calibration.adapted.accuracy - FLOOR)


def rows_of_newest(rows: Iterable[tuple[Any, int, int]]) -> int:
    """How many make up the newest window, of rows as (kind, images, shifts and resets), newest first: `FULL` images, of
    one kind, and from the last shift or reset on."""
    count = images = 0
    newest: Any = None
    for kind, n, cuts in rows:
        if count and kind != newest:
            break
        count, images, newest = count + 1, images + n, kind
        if cuts or images >= FULL:
            break
    return count


def usual_pause(stretches: Sequence[Stretch]) -> timedelta:
    """Nine in ten of the newest pauses between stretches with images, in order of time, are no longer."""
    newest = stretches[-PAUSES - 1 :]
    pauses = sorted(max(after[0] - before[1], timedelta(0)) for before, after in pairwise(newest))
    return pauses[9 * (len(pauses) - 1) // 10] if pauses else timedelta(0)


@dataclass(frozen=True)
class Seen:
    """A stream as it stands. ``size``: of its last shift, in standard deviations of a frame; 0 without one."""

    state: State
    estimates: Estimates
    images: int
    size: float


@dataclass
class _Stream:
    """Of a stream's stretches those that the newest window is made of, newest first, and the one before them, which may
    be of another model and part them from what comes late; older ones are let go."""

    rows: dict[tuple[Any, ...], MonitorRecord] = field(default_factory=dict)
    stretches: list[Stretch] = field(default_factory=list)
    shift: Shift | None = None
    found: tuple[MonitorRecord, Estimates] | None = None
    """The newest window and what is estimated of it, once it was asked for."""

    def add(self, record: MonitorRecord) -> None:
        self.found = None
        if record.n:
            self.stretches = sorted({*self.stretches, stretch_of(record)})[-PAUSES - 1 :]
        self.shift = max([*record.shifts, *([self.shift] if self.shift else [])], key=_place, default=None)
        known = self.rows.get(record.key)
        rows = {**self.rows, record.key: record if known is None else merge([known, record])}
        self.rows = {key: rows[key] for key in sorted(rows, reverse=True)}
        self.rows = dict(list(self.rows.items())[: self._newest() + 1])

    def _newest(self) -> int:
        return rows_of_newest((key[3:], row.n, cuts_of(row)) for key, row in self.rows.items())

    def window(self) -> MonitorRecord:
        """The newest one."""
        return join(list(self.rows.values())[: self._newest()])

    @property
    def last(self) -> datetime | None:
        return max((end for _, end in self.stretches), default=None)


def stretch_of(record: MonitorRecord) -> Stretch:
    """Of event time, the end exclusive."""
    assert record.bucket_start is not None
    return record.bucket_start, record.bucket_start + timedelta(seconds=record.bucket_seconds)


def cuts_of(record: MonitorRecord) -> int:
    """Shifts and resets, which no window crosses."""
    return len(record.shifts) + sum(record.resets.values())


def _place(shift: Shift) -> tuple[datetime, str]:
    return shift.event_time, shift.coordinate


class StreamBoard:
    """All streams of a process. ``clock``: seconds, of one that does not jump."""

    def __init__(self, calibration: AccuracyCalibration | None, clock: Callable[[], float]) -> None:
        self._calibration = calibration
        self._clock = clock
        self._streams: dict[str, _Stream] = {}
        self._newest: datetime | None = None
        self._added = 0.0

    def add(self, records: Iterable[MonitorRecord]) -> None:
        """Take what a committed slice says."""
        for record in records:
            if record.stream is None or record.bucket_start is None:
                continue
            stream = self._streams.setdefault(record.stream, _Stream())
            stream.add(record)
            if stream.last is not None and record.n:
                self._newest, self._added = max(self._newest or stream.last, stream.last), self._clock()

    def drop(self, names: Iterable[str]) -> None:
        """Let go of these streams, where they are known."""
        for name in names:
            self._streams.pop(name, None)

    def seen(self) -> Mapping[str, Seen]:
        """Every stream, the worst first: by state, then by the upper end of its estimate."""
        found = {name: self._seen(stream) for name, stream in self._streams.items()}
        return dict(sorted(found.items(), key=lambda item: (STATES.index(item[1].state), _high(item[1]), item[0])))

    def _seen(self, stream: _Stream) -> Seen:
        if stream.found is None:
            joined = stream.window()
            stream.found = joined, estimate(joined, self._calibration)
        (window, found), shift = stream.found, stream.shift
        facts = Facts(
            window.n,
            window.ill,
            None if self._calibration is None else found.adapted,
            None if shift is None else shift.event_time,
            stream.last,
            usual_pause(stream.stretches),
        )
        since = timedelta(seconds=self._clock() - self._added)
        now = (self._newest or stretch_of(window)[1]) + since
        state = states_of(facts, now, floor_of(None, self._calibration))[0]
        return Seen(state, found, window.n, 0.0 if shift is None else (shift.thousandths or 0) / 1000)


def _high(seen: Seen) -> float:
    adapted = seen.estimates.adapted
    return adapted.high if isinstance(adapted, Estimate) else 1.0
