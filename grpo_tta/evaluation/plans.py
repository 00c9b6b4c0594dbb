"""A stream written down frame by frame before any picture is read, and its frames made of any labelled pictures.

A `Plan` says of every frame which picture it shows, under which condition and with which seeds; it is small, so a long
stream costs memory for its plan and for one batch. Frames are a function of plan and pictures alone: every method, and
every batch size, sees the same ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from grpo_tta.demo.scenes import scenes
from grpo_tta.evaluation.corruptions import CORRUPTIONS, corrupt
from grpo_tta.evaluation.streams import Frames

__all__ = ["CLEAN", "Condition", "KeptFrames", "Pictures", "Plan", "ScenePictures", "plan_frames"]

UInt8 = NDArray[np.uint8]
Int64 = NDArray[np.int64]

_TENTHS = 10
_SHIFT, _GLARE, _GRAIN = 0.02, 0.03, 2.0


@dataclass(frozen=True)
class Condition:
    """What is between thing and camera: a kind of corruption and its severity 1 to 5, or ``None`` and 0: nothing."""

    kind: str | None = None
    severity: int = 0

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in CORRUPTIONS:
            raise ValueError(f"corruption must be one of {', '.join(CORRUPTIONS)}, got {self.kind!r}")
        if self.severity not in (range(1, 6) if self.kind else (0,)):
            raise ValueError(
                f"severity of {self.kind or 'clean'} must be {'1 to 5' if self.kind else '0'}, got {self.severity}"
            )

    @property
    def name(self) -> str:
        """``fog:3`` or ``clean``."""
        return f"{self.kind}:{self.severity}" if self.kind else "clean"


CLEAN = Condition()


class Pictures(Protocol):
    """Labelled pictures that frames are made of."""

    @property
    def labels(self) -> Int64:
        """The class of each picture, ``[P]``."""

    def load(self, indices: Int64, looks: Int64) -> UInt8:
        """Canvases ``[B, 3, H, W]``; ``looks`` are seeds for what may vary when a thing is seen again."""


@dataclass(frozen=True)
class Plan:
    """Columns are ``[N]``, one entry a frame."""

    pictures: Int64
    labels: Int64
    """Class indices; those of ``classes`` where that is given."""
    condition: Int64
    """Index into ``conditions``."""
    conditions: tuple[Condition, ...]
    looks: Int64
    """Seeds of a picture's appearance: equal where it is the same scene."""
    seeds: Int64
    """One a frame: for its corruption and the method's views."""
    changes: tuple[int, ...] = ()
    """Frames at which the input really shifts: what a detector is to find, and when."""
    segments: tuple[int, ...] = ()
    """Frames that a part judged on its own begins with, without the first; where there is none: tenths."""
    classes: tuple[int, ...] | None = None
    """The model is asked for these classes only; ``None``: all."""
    near_duplicates: bool = False
    """Frames of one look differ by a small shift, glare and grain, as those of a camera that does not move."""

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def parts(self) -> list[int]:
        """``segments``, or the beginnings of tenths."""
        return list(self.segments) or [
            len(self) * tenth // _TENTHS for tenth in range(1, _TENTHS) if len(self) >= _TENTHS
        ]


class ScenePictures:
    """Drawings uint8 ``[P, h, w, 4]``, one a class, each frame another scene of one; canvases of ``size`` pixels."""

    def __init__(self, drawings: UInt8, labels: Int64, size: int) -> None:
        self._drawings, self._labels, self._size = drawings, labels, size

    @property
    def labels(self) -> Int64:
        """The class of each drawing."""
        return self._labels

    def load(self, indices: Int64, looks: Int64) -> UInt8:
        """Scenes by their looks."""
        return scenes(self._drawings, indices, looks, self._size)


def plan_frames(plan: Plan, pictures: Pictures, batch: int) -> Iterator[Frames]:
    """All frames in parts of ``batch``, made one part at a time. Raises ``ValueError`` for a batch under 1."""
    return iter(KeptFrames(plan, pictures, batch, most_bytes=0))


class KeptFrames:
    """The frames of `plan_frames` for several who iterate over them, one after another: made once and kept while the
    first ones fit in ``most_bytes``; what is behind them is made anew each time. They must not be written to."""

    def __init__(self, plan: Plan, pictures: Pictures, batch: int, most_bytes: int) -> None:
        if batch < 1:
            raise ValueError(f"batch must be >= 1, got {batch}")
        self._plan, self._pictures, self._batch, self._room = plan, pictures, batch, most_bytes
        self._kept: list[Frames] = []

    def __iter__(self) -> Iterator[Frames]:
        for number, start in enumerate(range(0, len(self._plan), self._batch)):
            if number < len(self._kept):
                yield self._kept[number]
                continue
            part = _made(self._plan, self._pictures, slice(start, start + self._batch))
            if number == len(self._kept) and part.canvases.nbytes <= self._room:
                self._kept.append(part)
                self._room -= part.canvases.nbytes
            yield part


def _made(plan: Plan, pictures: Pictures, part: slice) -> Frames:
    canvases = pictures.load(plan.pictures[part], plan.looks[part])
    seeds, condition = plan.seeds[part], plan.condition[part]
    if plan.near_duplicates:
        canvases = np.stack([_again(canvas, seed) for canvas, seed in zip(canvases, seeds, strict=True)])
    for number in np.unique(condition):
        rows, wanted = np.flatnonzero(condition == number), plan.conditions[number]
        if wanted.kind is not None:
            canvases[rows] = corrupt(canvases[rows], wanted.kind, wanted.severity, seeds[rows])
    return Frames(canvases, plan.labels[part], seeds)


def _again(canvas: UInt8, seed: np.int64) -> UInt8:
    """The same scene a moment later."""
    rng = np.random.Generator(np.random.PCG64([int(seed), 1]))
    height, width = canvas.shape[1:]
    reach = max(1, round(_SHIFT * min(height, width)))
    padded = np.pad(canvas, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    down, right = rng.integers(0, 2 * reach + 1, 2)
    moved = padded[:, down : down + height, right : right + width] * (1 + rng.uniform(-_GLARE, _GLARE))
    return np.clip(moved + _GRAIN * rng.standard_normal(moved.shape) + 0.5, 0, 255).astype(np.uint8)
