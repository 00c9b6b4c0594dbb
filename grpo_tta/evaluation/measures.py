"""Accuracy against the frozen encoder on the same frames, its uncertainty, and calibration. numpy only.

Intervals resample *classes*, not frames: a class's frames are pictures of the same few things, so they are no
independent evidence. [ours; cluster bootstrap]
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Detection",
    "PairedAccuracy",
    "ReliabilityBin",
    "by_segment",
    "class_interval",
    "detection",
    "expected_calibration_error",
    "joint_interval",
    "paired_accuracy",
    "reliability",
    "worst_segment",
]

_DRAWS = 1000
_JOINT_DRAWS = 2000
_BINS = 15

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class PairedAccuracy:
    """Shares in [0, 1] of ``n`` frames; ``gain`` = ``accuracy`` - ``accuracy_frozen`` with its 95 % interval."""

    n: int
    accuracy: float
    accuracy_frozen: float
    gain: float
    interval: tuple[float, float]


def paired_accuracy(right: Bools, frozen_right: Bools, classes: Sequence[object] | NDArray[np.int64]) -> PairedAccuracy:
    """Of frames labelled by both, ``[N]`` each; raises ``ValueError`` where there is none or lengths differ."""
    difference = right.astype(np.float64) - frozen_right
    return PairedAccuracy(
        n=len(right),
        accuracy=float(right.mean()),
        accuracy_frozen=float(frozen_right.mean()),
        gain=float(difference.mean()),
        interval=class_interval(difference, classes),
    )


def by_segment(
    right: Bools, frozen_right: Bools, classes: NDArray[np.int64], changes: Sequence[int]
) -> list[PairedAccuracy]:
    """Accuracy of each segment, first to last; ``changes``: the frames that segments begin with, without the first."""
    parts = zip(*(np.split(column, changes) for column in (right, frozen_right, classes)), strict=True)
    return [paired_accuracy(*part) for part in parts]


def worst_segment(right: Bools, frozen_right: Bools, changes: Sequence[int]) -> tuple[float, int]:
    """The lowest gain of a segment and the frame it begins with; ``changes`` as in `by_segment`."""
    gains = [float(part.mean()) for part in np.split(right.astype(np.float64) - frozen_right, changes)]
    worst = int(np.argmin(gains))
    return gains[worst], [0, *changes][worst]


@dataclass(frozen=True)
class Detection:
    """How a detector's alarms met the true changes."""

    delays: tuple[int, ...]
    """Frames of the new condition seen at the first alarm, for each change that was found."""
    missed: int
    """Changes without an alarm within the horizon and before the next change."""
    false_alarms: int
    """All other alarms."""
    frames: int

    @property
    def missed_share(self) -> float | None:
        """Of all changes; ``None`` where there is none."""
        changes = self.missed + len(self.delays)
        return self.missed / changes if changes else None

    @property
    def false_per_10k(self) -> float:
        """False alarms in 10,000 frames."""
        return 1e4 * self.false_alarms / self.frames


def detection(changes: Sequence[int], alarms: Sequence[int], frames: int, horizon: int = 500) -> Detection:
    """Judge ``alarms`` (frames seen when each came, ascending) by ``changes`` (first frames of new conditions).

    Raises ``ValueError`` for a stream without frames.
    """
    if frames < 1:
        raise ValueError(f"frames must be >= 1, got {frames}")
    delays: list[int] = []
    for change, following in itertools.pairwise([*changes, frames]):
        until = min(change + horizon, following)
        found = next((alarm for alarm in alarms if change < alarm <= until), None)
        if found is not None:
            delays.append(found - change)
    return Detection(tuple(delays), len(changes) - len(delays), len(alarms) - len(delays), frames)


def class_interval(
    values: NDArray[np.float64], classes: Sequence[object] | NDArray[np.int64], seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean of ``values`` ``[N]``: classes drawn with replacement, 1,000 times."""
    if len(values) != len(classes) or not len(values):
        raise ValueError(f"values and classes must be equally many and some, got {len(values)} and {len(classes)}")
    _, index = np.unique(np.asarray(classes), return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    draws = np.random.default_rng(seed).integers(0, len(counts), (_DRAWS, len(counts)))
    low, high = np.percentile(sums[draws].sum(1) / counts[draws].sum(1), [2.5, 97.5])
    return float(low), float(high)


def joint_interval(
    sums: NDArray[np.float64], counts: NDArray[np.int64], seed: int = 0, draws: int = _JOINT_DRAWS
) -> tuple[float, float]:
    """95 % interval of the mean over cells of each cell's mean value, every cell counting once.

    ``sums`` and ``counts`` ``[cells, classes]``: a cell's values added up by class, and its frames. Classes are drawn
    with replacement, 2,000 times, and each draw is one for all cells, since the same drawings stand behind them. [ours;
    cluster bootstrap of a ratio: a class weighs by its share of the frames of the cells.] Raises ``ValueError`` for
    shapes that differ and for a cell without frames.
    """
    if sums.ndim != 2 or sums.shape != counts.shape or not len(sums):
        raise ValueError(f"sums and counts must be [cells, classes] alike, got {sums.shape} and {counts.shape}")
    frames = counts.sum(1, keepdims=True)
    if not frames.all():
        raise ValueError(f"every cell needs a frame, cell {int(frames.argmin())} has none")
    values, shares = (sums / frames).sum(0), (counts / frames).sum(0)
    shown = np.flatnonzero(shares)
    times = _times_drawn(len(shown), seed, draws)
    low, high = np.percentile((times @ values[shown]) / (times @ shares[shown]), [2.5, 97.5])
    return float(low), float(high)


@lru_cache(maxsize=8)
def _times_drawn(classes: int, seed: int, draws: int) -> NDArray[np.float64]:
    """How often each class is drawn, ``[draws, classes]``."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(classes, np.full(classes, 1 / classes), draws).astype(np.float64)


@dataclass(frozen=True)
class ReliabilityBin:
    """Labels of one stretch of confidence: shares in [0, 1]."""

    low: float
    high: float
    n: int
    probability: float
    """Their mean confidence."""
    accuracy: float


def reliability(confidence: NDArray[np.float64], right: Bools) -> list[ReliabilityBin]:
    """The bins of 15 equal ones that hold a frame, lowest first; ``[N]`` each, confidence in [0, 1].

    Raises ``ValueError`` where there is no frame or lengths differ.
    """
    if len(confidence) != len(right) or not len(confidence):
        raise ValueError(f"confidence and right must be equally many and some, got {len(confidence)} and {len(right)}")
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        ReliabilityBin(
            low=int(b) / _BINS,
            high=(int(b) + 1) / _BINS,
            n=int((bins == b).sum()),
            probability=float(confidence[bins == b].mean()),
            accuracy=float(right[bins == b].mean()),
        )
        for b in np.unique(bins)
    ]


def expected_calibration_error(confidence: NDArray[np.float64], right: Bools) -> float:
    """Mean gap between confidence in [0, 1] and accuracy over 15 equal bins, weighted by their frames; ``[N]`` each.

    Raises ``ValueError`` where there is no frame or lengths differ.
    """
    bins = reliability(confidence, right)
    return sum(abs(one.probability - one.accuracy) * one.n for one in bins) / len(right)
