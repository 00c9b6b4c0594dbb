"""Rounds: which frames of which streams go through the model together.

A round takes from each stream, in the order that they are given in, its next images up to its own border, until there
are ``size``; streams are opened as there is room for them. So it follows from the events and the states alone, and a
slice that is run again makes the same rounds. What cannot be read is as if it had not been there.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from grpo_tta.pipeline.label.labeled import Labeled
from grpo_tta.pipeline.label.records import WindowedRef
from grpo_tta.state import StreamState

T = TypeVar("T")


class Asked(NamedTuple):
    """A stream's events of a slice, in order of (event time, coordinate), and the state that they are stepped from."""

    name: str
    events: list[WindowedRef]
    state: StreamState
    reset: bool = False
    """Before the first of them, as asked for from outside; its log record names that event."""


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
    next: int = 0
    """The first of its events that was not taken yet."""

    def cursor(self, stepped: int = 0) -> Cursor:
        """Where it stands, or will when ``stepped`` more images have been."""
        state = self.out.state
        frames, watched = int(state.method.get("frames", 0)), int(state.guard.get("frames", 0))
        return Cursor(self.next, frames + stepped, watched + stepped)


class Rounds(Generic[T]):
    """``open_lane`` makes a lane of a stream. ``room``: images up to a border, from a cursor's two counts, ``None``
    where there is none. ``take``: at most so many images of a lane's next events, fewer where those are its last."""

    def __init__(
        self,
        asked: Iterable[Asked],
        open_lane: Callable[[Asked], Lane],
        room: Callable[[int, int], int | None],
        take: Callable[[Lane, int], list[T]],
        size: int,
    ) -> None:
        self._asked = iter(asked)
        self._open = open_lane
        self._room = room
        self._take = take
        self._size = size
        self._lanes: list[Lane] = []

    def next(self) -> list[tuple[Lane, list[T]]]:
        """The next round; empty when all events have been taken."""
        parts = []
        left = self._size
        for lane in self._all():
            cursor = lane.cursor()
            taken = self._take(lane, self._most(cursor, left))
            if taken:
                parts.append((lane, taken))
            left -= len(taken)
            if not left:
                break
        return parts

    def likely(self, now: list[tuple[Lane, list[T]]], rounds: int = 2) -> list[WindowedRef]:
        """The events of the rounds after ``now``, if all of their images can be read and no stream is reset."""
        stepped = {lane: len(taken) for lane, taken in now}
        cursors: dict[Lane, Cursor] = {}
        events: list[WindowedRef] = []
        for _ in range(rounds):
            left = self._size
            for lane in self._all():
                cursor = cursors.get(lane) or lane.cursor(stepped.get(lane, 0))
                part = lane.events[cursor.next :][: self._most(cursor, left)]
                events += part
                cursors[lane] = Cursor(*(number + len(part) for number in cursor))
                left -= len(part)
                if not left:
                    break
        return events

    def done(self) -> Iterator[Lane]:
        """Lanes whose events have all been taken, once each."""
        for lane in [lane for lane in self._lanes if lane.next >= len(lane.events)]:
            self._lanes.remove(lane)
            yield lane

    def _most(self, cursor: Cursor, left: int) -> int:
        room = self._room(cursor.frames, cursor.watched)
        return left if room is None else min(left, room)

    def _all(self) -> Iterator[Lane]:
        yield from self._lanes
        for asked in self._asked:
            lane = self._open(asked)
            self._lanes.append(lane)
            yield lane
