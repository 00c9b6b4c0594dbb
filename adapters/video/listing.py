"""`video_events`: which frames of a video are events, and when they were taken.

The packets are read once, nothing is decoded. Of each stretch of ``every`` the first frame is an event; where a camera
sent none there is none. Its coordinate is ``path@version#pts=N``, from which it is read again
(`adapters.video.frames`). A frame that is shown before the keyframe it came behind can be decoded only with what was
before that, so it is none.

A frame's time is the video's beginning plus where it lies in it: the beginning is what the time pattern finds, else
what the container says (``creation_time``), else the file's modification time.
"""

import heapq
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.images.limits import CorruptImage
from grpo_tta.adapters.storage.entries import Entry
from grpo_tta.adapters.storage.names import NamePattern, guesses
from grpo_tta.adapters.storage.path_times import Told
from grpo_tta.adapters.storage.pointers import FramePointer
from grpo_tta.adapters.storage.times import FIRST_PLAUSIBLE
from grpo_tta.adapters.video.container import is_cut_off, library, open_video, time_of
from grpo_tta.schemas.rfc3339 import parse_rfc3339

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WITHOUT_OFFSET = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?", re.ASCII)
"""As some containers have it, in UTC."""
_REORDERED = 64
"""Frames that may come before one that is shown earlier; codecs have 16 at most."""


def video_events(file: BinaryIO, entry: Entry, names: NamePattern, every: int) -> Iterator[ImageRef | BadRecord]:
    """The events of a video in order of time; ``every`` in microseconds. What is no video, or cut off, is a
    `BadRecord`."""
    try:
        cut_off = is_cut_off(file)
        file.seek(0)
        container, stream = open_video(file)
    except CorruptImage as error:
        yield entry.bad("CorruptVideo", str(error))
        return
    with container:
        try:
            told, begun = names.stream(entry.relative), _beginning(container, stream, entry, names)
        except ValueError as error:
            yield entry.refused(error)
            return
        packets = _Packets(container, stream)
        first = slot = None
        for pts in packets.times():
            first = pts if first is None else first
            offset = int((pts - first) * stream.time_base * 1_000_000)
            if slot is not None and offset // every <= slot:
                continue
            slot = offset // every
            fragment, shown = FramePointer(entry.path, pts).fragment, f"{entry.relative}#t={offset / 1e6:.3f}"
            try:
                time, guessed = begun.value + offset, guesses(told, begun)
                yield entry.event(told.value, time, guessed=guessed, id=shown, fragment=fragment, size=-1)
            except ValueError as error:
                yield entry.refused(error, fragment=fragment, id=shown)
        damage = packets.damage or ("it is cut off: it ends before it says" if cut_off else None)
        if damage or first is None:
            place = FramePointer(entry.path, packets.last + 1).fragment
            yield entry.bad("CorruptVideo", damage or "it holds no frame", fragment=place)


class _Packets:
    """``damage``: what is missing, known at the end; ``last``: the latest time of all."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container = container
        self._stream = stream
        self.damage: str | None = None
        self.last = -1

    def times(self) -> Iterator[int]:
        """When frames are shown that can be decoded from their keyframe on, each once, ascending."""
        waiting: list[int] = []
        for pts in self._found():
            if pts > self.last or pts not in waiting:
                heapq.heappush(waiting, pts)
            self.last = max(self.last, pts)
            if len(waiting) > _REORDERED:
                yield heapq.heappop(waiting)
        yield from sorted(waiting)

    def _found(self) -> Iterator[int]:
        count, key = 0, None
        try:
            for packet in self._container.demux(self._stream):
                pts = time_of(packet)
                if not packet.size or pts is None:
                    continue
                count += 1
                if packet.is_corrupt:
                    self.damage = "the container marks frames as damaged"
                key = pts if packet.is_keyframe else key
                if key is not None and pts >= max(key, 0) and not packet.is_corrupt and not packet.is_discard:
                    yield pts
        except library().FFmpegError as error:
            self.damage = f"it cannot be read to its end: {error.strerror or error}"
        if count < self._stream.frames:
            self.damage = f"it is cut off: {count} of {self._stream.frames} frames are there"


def _beginning(container: Any, stream: Any, entry: Entry, names: NamePattern) -> Told[int]:
    """Microseconds since the epoch. Raises ValueError."""
    if not names.tells_time:
        for metadata in (container.metadata, stream.metadata):
            text = metadata.get("creation_time", "")
            try:
                said = parse_rfc3339(f"{text}Z" if _WITHOUT_OFFSET.fullmatch(text) else text)
            except ValueError:
                continue
            created = (said - _EPOCH) // timedelta(microseconds=1)
            if created >= FIRST_PLAUSIBLE:  # many write the epoch of their format, 1904 or 1970
                return Told(created)
    return names.time(entry.relative, entry.modified)
