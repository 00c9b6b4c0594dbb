"""What the accuracy estimate must know of a model and a method, measured on labelled normal images and corruptions of
them: see `grpo_tta.estimate`.

One stream, as a camera would give it: the images, to warm up; the images again, measured; then every kind of corruption
at rising severity, 200 of the images at a time, measured. A method that learns is thus not judged by its first frames.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grpo_tta.estimate import ENTROPY_BINS, Z2, Side, Width, effective_classes, share_under
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
_CUTS_COVERED = 0.95
"""Of windows of few classes: such windows can be cut at will, so more of them are asked to be covered."""
_CUT_CLASSES = (5, 10, 20, 40, 80)
_CUTS = 200
"""Windows of few classes for each number of them."""
_SHORTEST_CUT = 40

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Seen(NamedTuple):
    """One encoder's side of some frames, ``[N]`` each."""

    entropy: Floats
    """Over ln C: what a threshold is put to. Of the adapted encoder the smaller one of its own and the frozen one's,
    where the method gives both."""
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
        least = np.minimum(result.entropy, result.frozen_entropy) if result.frozen_reported else result.entropy
        adapted = Seen(least, result.right, result.predicted)
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


def calibration_images(count: int, kinds: Sequence[str]) -> int:
    """How many frames a `calibration_stream` of ``count`` images has."""
    return sum(len(rows) for _, _, rows in _parts(count, kinds))


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
    """Thresholds from the frames of all kinds, widths from the windows of each kind by the others' thresholds."""
    windows = [window for part in measured for window in part.windows(WINDOW)]
    full = float(np.median([effective_classes(window.adapted.counts()) for window in windows]))
    thresholds = _thresholds(measured)
    widths = {
        name: Width(_quantiles(measured, name), _class_variance(measured, name, thresholds, full))
        for name in ("adapted", "frozen", "gain")
    }
    sides = {name: _side(measured, name, threshold, widths[name]) for name, threshold in thresholds.items()}
    return Fitted(sides["adapted"], sides["frozen"], widths["gain"], full)


def _side(measured: Sequence[Measured], name: str, threshold: float, width: Width) -> Side:
    clean = [float(getattr(part, name).right.mean()) for part in measured if part.kind == CLEAN_KIND]
    lowest = min(float(getattr(part, name).right.mean()) for part in measured)
    return Side(threshold, float(np.mean(clean)), lowest, width)


def _threshold(measured: Sequence[Measured], name: str) -> float:
    """The entropy under which as many frames lie as are right, on average over kinds."""
    frames: Counter[str] = Counter()
    for part in measured:
        frames[part.kind] += len(part)
    histogram: dict[int, float] = {}
    left = 0.0
    for part in measured:
        side: Seen = getattr(part, name)
        for place, count in side.histogram().items():
            histogram[place] = histogram.get(place, 0.0) + count / frames[part.kind]
        left += float(side.right.sum()) / frames[part.kind]
    for place in sorted(histogram):
        if left <= histogram[place]:
            return (place + left / histogram[place]) / ENTROPY_BINS
        left -= histogram[place]
    return 1.0


def _thresholds(measured: Sequence[Measured]) -> dict[str, float]:
    return {name: _threshold(measured, name) for name in ("adapted", "frozen")}


def error_of(window: Measured, name: str, thresholds: Mapping[str, float]) -> float:
    """Estimate less truth, of ``adapted``, ``frozen`` or ``gain``."""
    if name == "gain":
        return error_of(window, "adapted", thresholds) - error_of(window, "frozen", thresholds)
    side: Seen = getattr(window, name)
    return share_under(side.histogram(), thresholds[name]) - float(side.right.mean())


def _quantiles(measured: Sequence[Measured], name: str) -> dict[str, float]:
    """By kind, of the errors of its windows, by the thresholds of all other kinds; the clean frames are never left
    out."""
    found = {}
    for kind in sorted({part.kind for part in measured}):
        own = [part for part in measured if part.kind == kind]
        others = [part for part in measured if part.kind != kind or kind == CLEAN_KIND]
        thresholds = _thresholds(others)
        errors = [abs(error_of(window, name, thresholds)) for part in own for window in part.windows(WINDOW)]
        found[kind] = float(np.quantile(errors, _COVERED))
    return found


def _class_variance(measured: Sequence[Measured], name: str, thresholds: Mapping[str, float], full: float) -> float:
    """``c2``: the smallest under which the intervals of 19 in 20 windows of few classes, cut out of all frames
    together, cover the truth, were there nothing else but it and sampling; the largest over numbers of classes."""
    pool, generator = _pooled(measured), np.random.Generator(np.random.PCG64(0))
    bias, classes = error_of(pool, name, thresholds), np.unique(pool.labels)
    smallest = 0.0
    for count in (count for count in _CUT_CLASSES if count < len(classes)):
        needed = []
        for _ in range(_CUTS):
            rows = np.flatnonzero(np.isin(pool.labels, generator.permutation(classes)[:count]))
            window = pool.part(np.sort(generator.permutation(rows)[:WINDOW]))
            if len(rows) < _SHORTEST_CUT:
                continue
            shown = effective_classes((window.frozen if name == "frozen" else window.adapted).counts())
            missing = (error_of(window, name, thresholds) - bias) ** 2 - Z2 * _variance(window, name, thresholds) / len(
                window
            )
            room = 1 / shown - 1 / full
            needed.append(max(missing, 0.0) / room if room > 0 else 0.0)
        if needed:
            smallest = max(smallest, float(np.quantile(needed, _CUTS_COVERED)))
    return smallest


def _variance(window: Measured, name: str, thresholds: Mapping[str, float]) -> float:
    """Of a single image's error."""
    return float(np.var(_errors(window, name, thresholds)))


def _pooled(parts: Sequence[Measured]) -> Measured:
    """All frames together."""
    sides = [
        Seen(*(np.concatenate(columns) for columns in zip(*(getattr(part, name) for part in parts), strict=True)))
        for name in ("adapted", "frozen")
    ]
    return Measured("", np.concatenate([part.labels for part in parts]), *sides)


def _errors(part: Measured, name: str, thresholds: Mapping[str, float]) -> Floats:
    """Frame by frame: whether it counts as right less whether it is."""
    if name == "gain":
        return _errors(part, "adapted", thresholds) - _errors(part, "frozen", thresholds)
    side: Seen = getattr(part, name)
    return (side.entropy < thresholds[name]).astype(np.float64) - side.right
