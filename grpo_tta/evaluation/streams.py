"""Seeded streams of frames with known labels and known changes, the same for every method.

A stream is its segments in order; a frame is a function of the stream's seed and the frame's place alone, so two
methods see identical frames, and so does the same method with another batch size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from grpo_tta.demo.scenes import scenes
from grpo_tta.evaluation.corruptions import corrupt

__all__ = ["Frames", "Segment", "StreamSpec"]

Order = Literal["random", "by_class"]


@dataclass(frozen=True)
class Segment:
    """``frames`` frames under one condition; ``kind`` ``None``: clean. ``severity`` 1 to 5."""

    frames: int
    kind: str | None = None
    severity: int = 0

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames must be >= 1, got {self.frames}")
        if self.kind is not None and not 1 <= self.severity <= 5:
            raise ValueError(f"severity must be 1 to 5, got {self.severity}")

    @property
    def name(self) -> str:
        """``fog:3`` or ``clean``."""
        return f"{self.kind}:{self.severity}" if self.kind else "clean"


@dataclass(frozen=True)
class Frames:
    """Consecutive frames: ``canvases`` uint8 ``[B, 3, H, W]``, ``labels`` and ``seeds`` int64 ``[B]``."""

    canvases: NDArray[np.uint8]
    labels: NDArray[np.int64]
    seeds: NDArray[np.int64]


@dataclass(frozen=True)
class StreamSpec:
    """``order``: classes drawn anew for each frame, or all frames of a class in a row (classes in random order)."""

    segments: tuple[Segment, ...]
    seed: int
    order: Order = "random"

    def __post_init__(self) -> None:
        if not self.segments:
            raise ValueError("a stream must have a segment, got none")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if self.order not in ("random", "by_class"):
            raise ValueError(f"order must be random or by_class, got {self.order!r}")

    def __len__(self) -> int:
        return sum(segment.frames for segment in self.segments)

    @property
    def changes(self) -> list[int]:
        """The frames that segments begin with, without the first."""
        return np.cumsum([segment.frames for segment in self.segments])[:-1].tolist()

    def frames(self, pictures: NDArray[np.uint8], batch: int = 256) -> Iterator[Frames]:
        """All frames of pictures uint8 ``[C, h, w, 4]``, one a class, in parts that end where a segment ends."""
        if batch < 1:
            raise ValueError(f"batch must be >= 1, got {batch}")
        for number, segment in enumerate(self.segments):
            labels, seeds = self._draw(number, segment, len(pictures))
            for start in range(0, segment.frames, batch):
                part = slice(start, start + batch)
                canvases = scenes(pictures, labels[part], seeds[0, part])
                if segment.kind is not None:
                    canvases = corrupt(canvases, segment.kind, segment.severity, seeds[1, part])
                yield Frames(canvases, labels[part], seeds[0, part])

    def _draw(self, number: int, segment: Segment, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        generator = np.random.Generator(np.random.PCG64([self.seed, number]))
        labels = generator.integers(classes, size=segment.frames)
        if self.order == "by_class":
            labels = generator.permutation(classes)[np.sort(labels)]
        return labels, generator.integers(2**62, size=(2, segment.frames))
