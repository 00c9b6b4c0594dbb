"""`FrameReader`: one frame of a video, by its time, upright.

Each stretch from a keyframe to the next is decoded by itself, so that a frame has the same pixels whether those before
it were asked for or not: a job that goes on in the middle of a video sees what it would have seen. What is damaged is a
`CorruptImage`, from there to the next keyframe, as far as the decoder notices. Videos stay open for frames that follow.

Colours are made with the frame's own matrix and range. One that names no matrix has, as players take it, BT.709's from
720 rows up, else BT.601's. Curves of brightness and primaries are not applied, as an image's profile is not.
"""

import struct
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from threading import Lock
from typing import Any, BinaryIO

from PIL import Image

from grpo_tta.adapters.images.canvas import Canvas, CanvasSpec, to_canvas
from grpo_tta.adapters.images.limits import (
    BYTES_PER_PIXEL,
    DECODING,
    CorruptImage,
    Deadline,
    ImageError,
    ImageLimits,
    TooManyPixels,
    UnsupportedPixels,
)
from grpo_tta.adapters.images.orientation import UPRIGHT
from grpo_tta.adapters.storage.fetch import Changed, open_file, version_at
from grpo_tta.adapters.storage.filesystems import redacted, scheme_of
from grpo_tta.adapters.video.container import library, open_video, time_of

MAX_OPEN = 16
"""Videos that are open at a time."""
_NEAR = 5
"""Seconds: a frame so little ahead is reached by going on, another one from its keyframe."""
_ERRORS = "explode+crccheck+bitstream+buffer"
_TURNS = {
    (-1, 0, 0, 1): 2, (-1, 0, 0, -1): 3, (1, 0, 0, -1): 4, (0, 1, 1, 0): 5, (0, 1, -1, 0): 6, (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}  # fmt: skip
"""Where a display matrix takes a step to the right (the first two) and one down, as an orientation of EXIF."""
_BT709, _BT601, _ROWS_OF_709 = 1, 5, 720
_UNSAID = (0, 2, 3)
_MATRICES = frozenset({_BT709, 4, _BT601, 6, 7, 9})
"""That colours can be made with, in FFmpeg's numbers."""
_LIMITED, _FULL = 1, 2
"""Ranges of samples."""


class FrameReader:
    """Of one process; safe to call from many threads."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._open: OrderedDict[tuple[str, str | None], _Shared] = OrderedDict()
        self._lock = Lock()

    def read(self, uri: str, pts: int, version: str | None, spec: CanvasSpec) -> Canvas:
        """The canvas of the frame shown at ``pts`` of a video, whose uri was checked. Raises `ImageError`, `Changed`
        where it is not of ``version``, and what the storage raises."""
        key = uri, version
        with self._lock:
            shared = self._open.setdefault(key, _Shared())
            self._open.move_to_end(key)
            old = self._open.popitem(last=False)[1] if len(self._open) > MAX_OPEN else None
        if old is not None:
            with old.lock:
                old.close()
        with shared.lock:
            try:
                if shared.video is None:
                    shared.video = _Video(uri, self._limits)
                shared.video.check(version)
                return shared.video.canvas(pts, spec)
            except ImageError:
                raise
            except BaseException:
                shared.close()
                raise


class _Shared:
    """A video that several threads read, one after another."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.video: _Video | None = None

    def close(self) -> None:
        video, self.video = self.video, None
        if video is not None:
            video.close()


class _Video:
    def __init__(self, uri: str, limits: ImageLimits) -> None:
        self._uri = uri
        self._limits = limits
        self._deadline = Deadline(limits.max_seconds)
        self._file: BinaryIO = open_file(uri)
        try:
            self._version = version_at(uri, self._file)
            self._container, self._stream = open_video(self._file)
        except BaseException:
            self._file.close()
            raise
        self.close = weakref.finalize(self, _close, self._container, self._file)  # at the latest with the reader
        self._codec = self._stream.codec_context
        self._codec.thread_count = 1  # what it takes is then the calling thread's time
        self._codec.options = {"err_detect": _ERRORS, "max_pixels": str(limits.max_pixels)}
        self._frames: Iterator[Any] = iter(())
        self._last: int | None = None
        """When the newest decoded frame is shown; None where nothing follows it."""
        self._key: int | None = None
        """When the keyframe is shown that it stands on."""
        self._damage: str | None = None

    def check(self, version: str | None) -> None:
        """Raises `Changed`; a local file may be written to while it is open."""
        found = version_at(self._uri, self._file) if scheme_of(self._uri) == "file" else self._version
        if version not in (None, found):
            raise Changed(f"{redacted(self._uri)} is of version {found}, {version} was listed: it was replaced since")

    def canvas(self, pts: int, spec: CanvasSpec) -> Canvas:
        self._check_pixels(self._codec.width, self._codec.height)
        self._deadline = Deadline(self._limits.max_seconds)
        try:
            frame = self._frame(pts)
        except library().FFmpegError as error:
            self._last = None
            raise CorruptImage(f"the video cannot be read there: {error.strerror or error}") from error
        if self._damage or frame.is_corrupt:
            raise CorruptImage(f"damaged since the keyframe before it: {self._damage or 'the decoder says so'}")
        self._check_pixels(frame.width, frame.height)
        with DECODING.take(2 * BYTES_PER_PIXEL * frame.width * frame.height, self._limits.memory):
            return to_canvas(Image.fromarray(_rgb(frame)), None, _turn(frame), spec)

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise TooManyPixels(f"{width} x {height} pixels exceed the limit of {self._limits.max_pixels}")

    def _frame(self, pts: int) -> Any:
        if self._last is None or not self._last < pts <= self._last + _NEAR / self._stream.time_base:
            self._frames = self._decoded(self._packets(pts))
        for frame in self._frames:
            self._last = frame.pts
            if frame.pts == pts:
                return frame
            if self._key is not None and self._key > pts:
                break
        else:
            self._last = None
        raise CorruptImage(f"no frame can be decoded that is shown there: {self._damage or 'it is missing'}")

    def _packets(self, pts: int) -> Iterator[Any]:
        """From the keyframe on that ``pts`` needs, or one before; some containers seek only roughly."""
        back = 0
        while True:
            self._container.seek(max(pts - back, 0), stream=self._stream)
            packets = iter(self._container.demux(self._stream))
            key = next((packet for packet in packets if packet.size and packet.is_keyframe), None)
            self._deadline.check()
            if key is not None and ((time_of(key) or 0) <= pts or back > pts):
                return chain([key], packets)
            if back > pts:
                return iter(())
            back = max(2 * back, int(2 / self._stream.time_base))

    def _decoded(self, packets: Iterator[Any]) -> Iterator[Any]:
        self._key = None
        for packet in packets:
            self._deadline.check()
            if not packet.size or packet.is_keyframe:
                if self._key is not None:
                    yield from self._decode(None)  # what it holds back
                    self._codec.flush_buffers()
                if not packet.size:
                    return
                self._key, self._damage = time_of(packet), None
            elif (time_of(packet) or 0) < (self._key or 0):
                continue  # it stands on frames before the keyframe too
            if packet.is_corrupt:
                self._damage = "the container marks a frame as damaged"
            yield from self._decode(packet)

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return list(self._codec.decode(packet))
        except library().FFmpegError as error:
            if packet is not None:
                self._damage = str(error.strerror or error)
            return []


def _rgb(frame: Any) -> Canvas:
    """Pixels ``[H, W, 3]``. Raises `UnsupportedPixels`."""
    if frame.format.is_rgb or len(frame.format.components) < 3:
        return frame.to_ndarray(format="rgb24")
    matrix = frame.colorspace
    if matrix in _UNSAID:
        matrix = _BT709 if frame.height >= _ROWS_OF_709 else _BT601
    if matrix not in _MATRICES:
        raise UnsupportedPixels(f"colours of matrix {matrix} cannot be read")
    full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    return frame.to_ndarray(
        format="rgb24", src_colorspace=matrix, dst_colorspace=_BT601, dst_color_range=_LIMITED,
        src_color_range=_FULL if full else _LIMITED,
    )  # fmt: skip


def _turn(frame: Any) -> int:
    """An orientation of EXIF; one that is askew is taken for upright."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return UPRIGHT
    right, right_down, _, down_right, down = struct.unpack_from("=5i", bytes(data))
    most = max(map(abs, (right, right_down, down_right, down))) or 1
    steps = tuple(round(one / most) for one in (right, right_down, down_right, down))
    return _TURNS.get(steps, UPRIGHT)


def _close(container: Any, file: BinaryIO) -> None:
    container.close()
    file.close()
