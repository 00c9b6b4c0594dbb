"""Accuracy against the frozen encoder on the same frames, its uncertainty, and calibration. numpy only.

Intervals resample *classes*, not frames: a class's frames are pictures of the same few things, so they are no
independent evidence. [ours; cluster bootstrap]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PairedAccuracy", "by_segment", "class_interval", "expected_calibration_error", "paired_accuracy"]

_DRAWS = 1000
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


def expected_calibration_error(confidence: NDArray[np.float64], right: Bools) -> float:
    """Mean gap between confidence in [0, 1] and accuracy over 15 equal bins, weighted by their frames; ``[N]`` each.

    Raises ``ValueError`` where there is no frame or lengths differ.
    """
    if len(confidence) != len(right) or not len(confidence):
        raise ValueError(f"confidence and right must be equally many and some, got {len(confidence)} and {len(right)}")
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))
