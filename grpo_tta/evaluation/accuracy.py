"""What the accuracy estimate must know of a model and a method, measured on labelled normal images and corruptions of
them: see `grpo_tta.estimate`.

One stream, as a camera would give it: the images, to warm up; the images again, measured; then every kind of corruption
at rising severity, 200 of the images at a time, measured. A method that learns is thus not judged by its first frames.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grpo_tta.estimate import ENTROPY_BINS, Side, Width, effective_classes, half_width, share_under
from grpo_tta.evaluation.corruptions import corrupt
from grpo_tta.evaluation.run import StreamResult
from grpo_tta.evaluation.streams import Frames

__all__ = ["CLEAN_KIND", "LEAST_IMAGES", "WINDOW", "Fitted", "Measured", "calibration_stream", "fit", "measured_parts"]

LEAST_IMAGES = 500
"""Fewer make a threshold that misses by more than sampling does."""
WINDOW = 200
SEVERITIES = (1, 3, 5)
CLEAN_KIND = "clean"
_COVERED = 0.9
_CUT_CLASSES = (5, 10, 20, 40, 80)
_CUTS = 200
"""Windows of few classes for each number of them."""
_SHORTEST_CUT = 20

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Seen(NamedTuple):
    """One encoder's side of some frames, ``[N]`` each."""

    entropy: Floats
    """Over ln C."""
    right: NDArray[np.bool_]
    predicted: Ints

    def part(self, rows: "slice | Ints") -> "Seen":
        """Some of them."""
        return Seen(self.entropy[rows], self.right[rows], self.predicted[rows])

    def histogram(self) -> dict[int, int]:
        """Of the entropies, as a monitor record has it."""
        return _counts(np.minimum((self.entropy * ENTROPY_BINS).astype(int), ENTROPY_BINS - 1))

    def counts(self) -> dict[str, int]:
        """Of the labels."""
        return {str(label): count for label, count in _counts(self.predicted).items()}


def _counts(values: Ints) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class Measured:
    """Consecutive frames of one kind and severity."""

    kind: str
    labels: Ints
    adapted: Seen
    frozen: Seen

    @classmethod
    def of(cls, kind: str, result: StreamResult, rows: slice) -> "Measured":
        """Frames of a stream's result."""
        adapted = Seen(result.entropy, result.right, result.predicted)
        frozen = Seen(result.frozen_entropy, result.frozen_right, result.frozen_predicted)
        return cls(kind, result.labels[rows], adapted.part(rows), frozen.part(rows))

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: "slice | Ints") -> "Measured":
        """Some of the frames."""
        return Measured(self.kind, self.labels[rows], self.adapted.part(rows), self.frozen.part(rows))

    def windows(self, size: int) -> "list[Measured]":
        """Full windows, one after another."""
        return [self.part(slice(start, start + size)) for start in range(0, len(self) - size + 1, size)]


class Fitted(NamedTuple):
    """The parts of an `AccuracyCalibration` that are measured."""

    adapted: Side
    frozen: Side
    gain: Width
    effective_classes: float


def calibration_stream(frames: Frames, kinds: Sequence[str], batch: int = 32) -> Iterator[Frames]:
    """Of labelled normal images in a random order: twice clean, then each kind at rising severity.

    Raises ``ValueError`` for fewer images than `LEAST_IMAGES`.
    """
    count = len(frames.labels)
    if count < LEAST_IMAGES:
        raise ValueError(f"at least {LEAST_IMAGES} labelled images are needed, got {count}")
    for number, (kind, severity, rows) in enumerate(_parts(count, kinds)):
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            seeds = frames.seeds[some] ^ np.int64(number)  # the same image again has other views and other noise
            canvases = frames.canvases[some]
            if severity:
                canvases = corrupt(canvases, kind, severity, seeds)
            yield Frames(canvases, frames.labels[some], seeds)


def measured_parts(result: StreamResult, count: int, kinds: Sequence[str]) -> list[Measured]:
    """What became of a `calibration_stream` of ``count`` images: its parts, but for the first, which warms up."""
    (_, _, warm), *parts = _parts(count, kinds)
    found, start = [], len(warm)
    for kind, _, rows in parts:
        found.append(Measured.of(kind, result, slice(start, start + len(rows))))
        start += len(rows)
    return found


def _parts(count: int, kinds: Sequence[str]) -> list[tuple[str, int, Ints]]:
    conditions = [(kind, severity) for kind in kinds for severity in SEVERITIES]
    return [
        *[(CLEAN_KIND, 0, np.arange(count))] * 2,
        *((*condition, (np.arange(WINDOW) + WINDOW * place) % count) for place, condition in enumerate(conditions)),
    ]


def fit(measured: Sequence[Measured]) -> Fitted:
    """Thresholds from the clean frames, widths from the windows of all kinds."""
    windows = [window for of_kind in measured for window in of_kind.windows(WINDOW)]
    full = float(np.median([effective_classes(window.adapted.counts()) for window in windows]))
    thresholds = {name: _threshold(measured, name) for name in ("adapted", "frozen")}
    cuts = _cuts(measured)
    sides = {}
    for name, threshold in thresholds.items():
        accuracies = [float(getattr(part, name).right.mean()) for part in measured]
        clean = [a for a, part in zip(accuracies, measured, strict=True) if part.kind == CLEAN_KIND]
        judged = _Judged(name, thresholds)
        width = _width(judged, windows, cuts, full)
        sides[name] = Side(threshold, float(np.mean(clean)), min(accuracies), width)
    gain = _width(_Judged("gain", thresholds), windows, cuts, full)
    return Fitted(sides["adapted"], sides["frozen"], gain, full)


@dataclass(frozen=True)
class _Judged:
    """An estimate of a window beside the truth."""

    name: str
    thresholds: Mapping[str, float]

    def error(self, window: Measured) -> float:
        """Estimate less truth."""
        if self.name == "gain":
            return _Judged("adapted", self.thresholds).error(window) - _Judged("frozen", self.thresholds).error(window)
        side: Seen = getattr(window, self.name)
        return self._share(side) - float(side.right.mean())

    def variance(self, window: Measured) -> float:
        """Of a single image, as `estimate` takes it."""
        if self.name == "gain":
            return float((window.adapted.predicted != window.frozen.predicted).mean())
        share = self._share(getattr(window, self.name))
        return share * (1 - share)

    def classes(self, window: Measured) -> float:
        """In effect."""
        return effective_classes((window.frozen if self.name == "frozen" else window.adapted).counts())

    def _share(self, side: Seen) -> float:
        return share_under(side.histogram(), self.thresholds[self.name])


def _threshold(measured: Sequence[Measured], name: str) -> float:
    """The entropy under which as many clean frames lie as are right."""
    sides: list[Seen] = [getattr(part, name) for part in measured if part.kind == CLEAN_KIND]
    histogram: Counter[int] = Counter()
    for side in sides:
        histogram.update(side.histogram())
    left = sum(int(side.right.sum()) for side in sides)
    for place in sorted(histogram):
        if left <= histogram[place]:
            return (place + left / histogram[place]) / ENTROPY_BINS
        left -= histogram[place]
    return 1.0


def _width(judged: _Judged, windows: Sequence[Measured], cuts: Mapping[int, Sequence[Measured]], full: float) -> Width:
    errors: dict[str, list[float]] = {}
    for window in windows:
        errors.setdefault(window.kind, []).append(abs(judged.error(window)))
    quantiles = {kind: float(np.quantile(of_kind, _COVERED)) for kind, of_kind in sorted(errors.items())}
    return Width(quantiles, _class_variance(judged, Width(quantiles, 0.0), cuts, full))


def _class_variance(judged: _Judged, width: Width, cuts: Mapping[int, Sequence[Measured]], full: float) -> float:
    """The smallest under which the intervals of each number of classes cover what they should."""
    smallest = 0.0
    for windows in cuts.values():
        needed = []
        for window in windows:
            classes = judged.classes(window)
            room = 1 / classes - 1 / full
            plain = half_width(width, judged.variance(window), len(window), classes, WINDOW, full)
            missing = judged.error(window) ** 2 - plain**2
            needed.append(0.0 if missing <= 0 else missing / room if room > 0 else math.inf)
        enough = float(np.quantile(needed, _COVERED, method="higher"))
        if math.isfinite(enough):
            smallest = max(smallest, enough)
    return smallest


def _cuts(measured: Sequence[Measured]) -> dict[int, list[Measured]]:
    """Windows of few classes: some classes' frames of one kind and severity, as many as there are."""
    generator = np.random.Generator(np.random.PCG64(0))
    found: dict[int, list[Measured]] = {}
    for count in _CUT_CLASSES:
        for _ in range(_CUTS):
            part = measured[int(generator.integers(len(measured)))]
            classes = np.unique(part.labels)
            if len(classes) <= count:
                continue
            rows = np.flatnonzero(np.isin(part.labels, generator.permutation(classes)[:count]))[:WINDOW]
            if len(rows) >= _SHORTEST_CUT:
                found.setdefault(count, []).append(part.part(rows))
    return found
