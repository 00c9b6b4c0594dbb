"""What an image may take, and the errors of those that take more or are none.

Bounds are counted, not timed, wherever a count bounds the work: labels must not depend on how busy a machine is. The
one bound on time is of the thread's own processor seconds.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import _imaging as _core

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
MAX_SCANS = 100
"""Of a progressive JPEG; encoders write about ten."""
MAX_GONE_THROUGH = 32
"""Samples of a JPEG for each pixel allowed, counted in each scan: those of a CMYK one are gone through 24 times."""
MAX_PARTS = 100_000
"""Strips or tiles of a TIFF, chunks, segments or blocks of other files."""
BYTES_PER_PIXEL = 5
"""What decoding may take for each pixel allowed, beside two copies of the file: four as Pillow holds it, and one colour
of it."""
BYTES_PER_SIDE = 52
"""What each row and column takes: a row's place in the picture and in one colour of it, 8 bytes each, and a colour's
rows are filled up to 4; 32 of weights while it is resized; a long row is converted at once, 16 bytes a pixel."""
_SIDES = 8
"""Rows and columns that are within the limit, in sides of a square of all pixels allowed."""


class ImageError(ValueError):
    """These bytes will never be a canvas."""


class EmptyImage(ImageError):
    """No bytes at all."""


class TooManyBytes(ImageError):
    """More bytes than allowed."""


class TooManyPixels(ImageError):
    """More pixels than allowed, by the header, in the image or in what it is decoded through."""


class TooManyParts(ImageError):
    """More scans, strips, tiles or other parts than any camera or program writes."""


class TooSlow(ImageError):
    """It takes longer to decode than allowed."""


class UnknownFormat(ImageError):
    """Not an image, or of a format that is not allowed."""


class CorruptImage(ImageError):
    """It begins like an image but cannot be decoded to its end."""


class UnsupportedPixels(ImageError):
    """Pixels without a defined black and white, such as 32-bit floats."""


@dataclass(frozen=True)
class ImageLimits:
    """Bounds of one image. ``max_seconds``: of a processor. Raises ValueError for a bound out of range or an unknown
    format."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 64_000_000
    formats: tuple[str, ...] = FORMATS
    max_seconds: float = 20.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be > 0, got {self.max_seconds}")
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ValueError(f"formats must be some of {', '.join(FORMATS)}, got {', '.join(self.formats) or 'none'}")

    @property
    def memory(self) -> int:
        """Bytes that images may take while they are decoded, all of a process together; one that takes more by itself
        is refused."""
        sides = _SIDES * math.isqrt(self.max_pixels)
        return BYTES_PER_PIXEL * self.max_pixels + BYTES_PER_SIDE * sides + 2 * self.max_bytes


class Deadline:
    """Processor seconds of the calling thread, from now on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.thread_time() + seconds

    def check(self) -> None:
        """Raise `TooSlow` once they are over."""
        if time.thread_time() > self._until:
            raise TooSlow(f"takes more than {self._seconds:g} seconds to decode")


class MemoryBudget:
    """Bytes in use by threads that each take all they need at once, in the order in which they came.

    What a thread may find in use beside its own is for each to say: jobs of a process may have limits of their own.
    """

    def __init__(self) -> None:
        self.used = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def take(self, size: int, most: int) -> Iterator[None]:
        """Inside, ``size`` bytes are taken, and ``most`` or less by all together; waits for its turn."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is turn and (not self.used or self.used + size <= most))
                self.used += size
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.used -= size
                self._changed.notify_all()


DECODING = MemoryBudget()
"""The process's own."""

# A large picture is one block, which goes back to the system when it is freed; in Pillow's own blocks of 16 MiB it
# would stay in the heap of the thread that had it, and each reader has one.
_core.set_block_size(2**30)


def check_memory(size: int, allocate: Callable[[int], object] = lambda size: np.empty(size, np.uint8)) -> None:
    """Raise MemoryError where so many bytes are not to be had."""
    allocate(size)
