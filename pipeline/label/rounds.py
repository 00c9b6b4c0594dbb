"""Rounds: which frames of which streams go through the model together.

A round takes from each stream, in the order that they are given in, its next images up to its own border, until there
are ``size``; streams are opened as there is room for them. So it follows from the events and states of the streams that
are asked for together, and a slice that is run again makes the same rounds. What cannot be read is as if it had not
been there.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from grpo_tta.pipeline.label.labeled import Labeled
from grpo_tta.pipeline.label.records import WindowedRef
from grpo_tta.state import StreamState

T = TypeVar("T")
Room = Callable[[int, int], int | None]
"""Images up to a border, from a cursor's two counts; ``None`` where there is none."""


class Asked(NamedTuple):
    """A stream's events of a slice, in order of (event time, coordinate), and the state that they are stepped from."""

    name: str
    events: list[WindowedRef]
    state: StreamState
    reset: bool = False
    """Before the first of them, as asked for from outside; its log record names that event."""
    shed: bool = False
    """None of them is learnt from."""
    once: bool = False
    """Events may come again: those up to the newest that was learnt from, in that order, are late, whatever the allowed
    lateness."""


class Cursor(NamedTuple):
    """How far a stream has come."""

    next: int
    """Of its events."""
    frames: int
    """Of the method's state."""
    watched: int
    """Frames, of the guard's state."""


@dataclass(eq=False)
class Lane:
    """A stream that is under way."""

    name: str
    events: list[WindowedRef]
    out: Labeled
    late: int = 0
    """The first so many of its events are labelled, and not learnt from."""
    shed: bool = False
    """Nor are the others."""
    next: int = 0
    """The first of its events that was not taken yet."""

    def cursor(self, stepped: int = 0) -> Cursor:
        """Where it stands, or will when ``stepped`` more images have been learnt from."""
        state = self.out.state
        frames, watched = int(state.method.get("frames", 0)), int(state.guard.get("frames", 0))
        return Cursor(self.next, frames + stepped, watched + stepped)

    def most(self, cursor: Cursor, left: int, room: Room) -> int:
        """How many events it may give to a round that has place for ``left``: late ones and others never together."""
        if cursor.next < self.late:
            return min(left, self.late - cursor.next)
        own = None if self.shed else room(cursor.frames, cursor.watched)
        return left if own is None else min(left, own)


class Rounds(Generic[T]):
    """``open_lane`` makes a lane of a stream. ``take``: at most so many images of a lane's next events, fewer where
    those are its last."""

    def __init__(
        self,
        asked: Iterable[Asked],
        open_lane: Callable[[Asked], Lane],
        room: Room,
        take: Callable[[Lane, int], list[T]],
        size: int,
    ) -> None:
        self._asked = iter(asked)
        self._open = open_lane
        self._room = room
        self._take = take
        self._size = size
        self._lanes: list[Lane] = []

    def next(self) -> list[tuple[Lane, bool, list[T]]]:
        """The next round: images of a lane, and whether they are late. Empty where none could be read; all is over when
        no lane is `done` then either. It gives up after ``size`` lanes without an image, which are done with."""
        parts = []
        left = without = self._size
        for lane in self._all():
            late = lane.next < lane.late
            taken = self._take(lane, lane.most(lane.cursor(), left, self._room))
            if taken:
                parts.append((lane, late, taken))
            left -= len(taken)
            without -= not taken
            if not left or not without:
                break
        return parts

    def likely(self, now: list[tuple[Lane, bool, list[T]]], rounds: int = 2) -> list[WindowedRef]:
        """The events of the rounds after ``now``, if all of their images can be read and no stream is reset."""
        stepped = {lane: len(taken) for lane, late, taken in now if not late and not lane.shed}
        cursors: dict[Lane, Cursor] = {}
        events: list[WindowedRef] = []
        for _ in range(rounds):
            left = self._size
            for lane in self._all():
                cursor = cursors.get(lane) or lane.cursor(stepped.get(lane, 0))
                part = lane.events[cursor.next : cursor.next + lane.most(cursor, left, self._room)]
                events += part
                learnt = 0 if cursor.next < lane.late or lane.shed else len(part)
                cursors[lane] = Cursor(cursor.next + len(part), cursor.frames + learnt, cursor.watched + learnt)
                left -= len(part)
                if not left:
                    break
        return events

    def done(self) -> Iterator[Lane]:
        """Lanes whose events have all been taken, once each."""
        for lane in [lane for lane in self._lanes if lane.next >= len(lane.events)]:
            self._lanes.remove(lane)
            yield lane

    def _all(self) -> Iterator[Lane]:
        yield from self._lanes
        for asked in self._asked:
            lane = self._open(asked)
            self._lanes.append(lane)
            yield lane
