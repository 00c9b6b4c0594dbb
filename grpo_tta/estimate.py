"""An estimate of accuracy without labels, from how unsure a window's predictions are. Pure, without torch.

The estimate is the share of images whose normalised entropy lies under a threshold (average thresholded confidence,
ATC, by negative entropy, Garg et al. 2022). It is chosen on labelled normal images and corruptions of them, so that the
share is the accuracy on average over kinds of corruption [ours]; its width was measured on them: half-width^2 is

    max(q^2 + z^2 v (1/n - 1/n0), q^2/4) + c2 max(0, 1/K - 1/K0)

``q``: of the kinds' 90 % quantiles of the error, in windows of ``n0`` images, by a threshold of the other kinds, the
one that nine in ten kinds yet unseen stay under (`Width.bound`);
``v``: the variance of a single image, ``p (1 - p)``; ``K``: the effective number of classes, 1 / (chance that two
labels are equal), for a class is right or wrong of its own. [ours] Of the adapted encoder the smaller entropy of both
encoders' is taken, where a method gives both: it errs less under a shift that flattens what adaptation gets right.
[ours] Adapted and frozen encoder have a threshold each, and the gain, which is their difference, a ``q`` and ``c2`` of
its own; two images' difference varies by as much as the encoders disagree.

Where that is not worth saying, the answer is `Unknown`, with why.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

ENTROPY_BINS = 100
FEWEST = 100
"""Images of a window: under it the width is no use."""
WIDEST = 0.20
"""Half-width over which an estimate is not said."""
LOST_CLASSES = 0.5
"""The adapted encoder's share of the frozen one's effective classes, under which it has sharpened itself."""
_MANY_KINDS = 19
_KINDS_COVERED = 0.95
Z2 = 1.6448536**2
"""Squared quantile of a normal distribution, 90 % on both sides."""
BROKEN = ("collapse", "nonfinite")
"""Causes of a reset that say that the adapted encoder had gone wrong."""

PACKAGED = Path(__file__).parent / "demo" / "assets" / "accuracy.json"
"""For the packaged model and the default method."""

Cause = Literal[
    "uncalibrated", "few_images", "few_classes", "no_frozen", "ill", "collapse", "sharpened", "too_wide", "answered"
]  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """An accuracy, or a difference of two, with its 90 % interval: shares, not percent."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Of the interval before it was cut at what is possible, at most."""
        return max(self.high - self.value, self.value - self.low)


@dataclass(frozen=True)
class Unknown:
    """Why there is no estimate: ``cause`` for programs, ``message`` for people."""

    cause: Cause
    message: str


NO_CALIBRATION = Unknown("uncalibrated", "there is no accuracy calibration")


@dataclass(frozen=True)
class Estimates:
    """What can be said of one window."""

    adapted: Estimate | Unknown
    frozen: Estimate | Unknown
    gain: Estimate | Unknown
    """Adapted less frozen."""


class Window(Protocol):
    """What an estimate is made of: sums over a window's labels, as a `schemas.monitor.MonitorRecord` has them."""

    model_fingerprint: str
    method: str
    settings_fingerprint: str
    n: int
    frozen_n: int
    agree: int
    ill: int
    resets: dict[str, int]
    entropy: dict[int, int]
    least_entropy: dict[int, int]
    frozen_entropy: dict[int, int]
    labels: dict[str, int]
    frozen_labels: dict[str, int]


@dataclass(frozen=True)
class Width:
    """What an interval's width is made of."""

    quantiles: Mapping[str, float]
    """By kind of corruption, ``clean`` among them: 90 % of the errors in windows of ``window`` images are under it."""
    class_variance: float
    """``c2``."""

    @cached_property
    def bound(self) -> float:
        """``q``: the largest quantile, or the 95 % quantile of 19 and more: under either lies that of one more kind of
        their sort with a chance of 1 / (k + 1), or of at most 2 / (k + 1)."""
        ordered = sorted(self.quantiles.values())
        place = _KINDS_COVERED * (len(ordered) - 1) if len(ordered) >= _MANY_KINDS else len(ordered) - 1
        below = ordered[int(place)]
        return below + (place - int(place)) * (ordered[math.ceil(place)] - below)


@dataclass(frozen=True)
class Side:
    """Of one encoder. ``threshold``: of the entropy over ln C. ``accuracy``: on the labelled normal images; ``lowest``:
    on the hardest corruption of them."""

    threshold: float
    accuracy: float
    lowest: float
    width: Width


Score = Literal["entropy", "least_entropy"]


@dataclass(frozen=True)
class AccuracyCalibration:
    """What `estimate` needs to know of a model, a method and its settings; see ``grpo-tta calibrate --accuracy``."""

    model_fingerprint: str
    method: str
    settings_fingerprint: str
    images: int
    """Labelled normal images it was made of."""
    window: int
    """``n0``."""
    effective_classes: float
    """``K0``: of the calibration's windows."""
    adapted: Side
    frozen: Side | None = None
    """Absent where the method has no frozen predictions."""
    gain: Width | None = None
    score: Score = "entropy"
    """The histogram that the adapted encoder's threshold is put to."""

    def to_json(self) -> str:
        """As a file holds it, with a digest of all that it says."""
        values = {"version": 1, **asdict(self)}
        return json.dumps({**values, "digest": _digest(values)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "AccuracyCalibration":
        """Raises ValueError for what `to_json` did not write."""
        try:
            values = json.loads(text)
            if values.pop("digest", "none") not in (_digest(values), "none"):  # older ones have none
                raise ValueError("it is damaged, its digest is another; make it again with 'grpo-tta calibrate'")
            if values.pop("version") != 1:
                raise ValueError("its version is not 1")
            sides = {name: _side(values.pop(name)) for name in ("adapted", "frozen")}
            gain = values.pop("gain")
            if sides["adapted"] is None:
                raise ValueError("it has no side 'adapted'")
            if values.get("score", "entropy") not in get_args(Score):
                raise ValueError(f"score is one of {', '.join(get_args(Score))}, not {values['score']!r}")
            gain = None if gain is None else Width(**gain)
            made = cls(**values, adapted=sides["adapted"], frozen=sides["frozen"], gain=gain)
            absent = [name for name in ("frozen", "gain") if getattr(made, name) is None]
            _check_figures({name: value for name, value in asdict(made).items() if name not in absent})
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"no accuracy calibration: {error}") from error
        return made

    @classmethod
    def load(cls, path: str | Path) -> "AccuracyCalibration":
        """From a file; raises OSError, or ValueError naming it."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """To a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")


_TEXTS = ("model_fingerprint", "method", "settings_fingerprint", "score")


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_figures(values: dict[str, Any]) -> None:
    """Raise TypeError for a figure that is no finite number, a text that is none, and for no quantiles."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            _check_figures(value)
        elif name in _TEXTS:
            if not isinstance(value, str):
                raise TypeError(f"{name} is no text: {value!r}")
        elif type(value) not in (int, float) or not math.isfinite(value):
            raise TypeError(f"{name} is no number: {value!r}")


def _side(values: dict[str, Any] | None) -> Side | None:
    return None if values is None else Side(**{**values, "width": Width(**values["width"])})


class Figures(NamedTuple):
    """What an estimate is made of. Of each side: images with an entropy, their share under the threshold (0 for none),
    and the effective number of classes."""

    n: int
    share: float
    classes: float
    frozen_n: int
    frozen_share: float
    frozen_classes: float
    agree: float
    """Share of images whose label is the frozen encoder's too; any number where some have no frozen label."""
    whole: bool
    """Every image has a frozen label."""
    ill: int
    broken: int
    """Resets because the adapted encoder had gone wrong."""


def estimate(window: Window, calibration: AccuracyCalibration | None) -> Estimates:
    """What can be said of a window's accuracy; without a calibration for its model, method and settings, nothing."""
    foreign = foreign_to(calibration, (window.model_fingerprint, window.method, window.settings_fingerprint))
    if calibration is None or foreign is not None:
        unknown = foreign or NO_CALIBRATION
        return Estimates(unknown, unknown, unknown)
    frozen, scored = calibration.frozen, getattr(window, calibration.score)
    return estimates_of(
        Figures(
            sum(scored.values()),
            share_under(scored, calibration.adapted.threshold),
            effective_classes(window.labels),
            sum(window.frozen_entropy.values()),
            share_under(window.frozen_entropy, frozen.threshold) if frozen is not None else 0.0,
            effective_classes(window.frozen_labels),
            window.agree / max(window.n, 1),
            window.frozen_n >= window.n,
            window.ill,
            sum(window.resets.get(cause, 0) for cause in BROKEN),
        ),
        calibration,
    )


def foreign_to(calibration: AccuracyCalibration | None, kind: tuple[str, str, str]) -> Unknown | None:
    """Why a calibration says nothing of labels of this model, method and settings; None where it does."""
    if calibration is None:
        return NO_CALIBRATION
    own = (calibration.model_fingerprint, calibration.method, calibration.settings_fingerprint)
    for what, ours, theirs in zip(("model", "method", "settings"), kind, own, strict=True):
        if ours != theirs:
            return Unknown("uncalibrated", f"the accuracy calibration is of {what} {theirs}, the labels of {ours}")
    return None


def packaged_for(kinds: Iterable[tuple[str, str, str]]) -> AccuracyCalibration | None:
    """The packaged calibration where it is of one of these models, methods and settings."""
    made = AccuracyCalibration.load(PACKAGED) if PACKAGED.exists() else None
    return made if any(foreign_to(made, kind) is None for kind in kinds) else None


def estimates_of(figures: Figures, calibration: AccuracyCalibration) -> Estimates:
    """The same of what `estimate` makes of a window."""
    adapted: Estimate | Unknown = _untrusted(figures) or _of_side(
        calibration, calibration.adapted, figures.n, figures.share, figures.classes
    )
    frozen: Estimate | Unknown = Unknown("no_frozen", "the method gives no frozen predictions")
    if calibration.frozen is not None and figures.frozen_n:
        sums = figures.frozen_n, figures.frozen_share, figures.frozen_classes
        frozen = _of_side(calibration, calibration.frozen, *sums)
    return Estimates(adapted, frozen, _gain(figures, calibration, adapted, frozen))


def bin_weights(threshold: float) -> list[float]:
    """How much of each of `ENTROPY_BINS` bins over [0, 1] lies under ``threshold``; within a bin, evenly spread."""
    place = min(max(threshold, 0.0), 1.0) * ENTROPY_BINS
    return [min(max(place - at, 0.0), 1.0) for at in range(ENTROPY_BINS)]


def share_under(histogram: Mapping[int, int], threshold: float) -> float:
    """Share of a histogram of such bins that lies under ``threshold``; 0 of an empty one."""
    weights = bin_weights(threshold)
    return sum(count * weights[at] for at, count in histogram.items()) / max(sum(histogram.values()), 1)


def effective_classes(labels: Mapping[str, int]) -> float:
    """1 / (chance that two images' labels are equal), which does not depend on how many images there are; where none
    are equal, as many classes as there are pairs of images; 0 for no image."""
    return classes_in_effect(sum(labels.values()), sum(count * count for count in labels.values()))


def classes_in_effect(total: int, squares: int) -> float:
    """The same of the sum of counts and of the sum of their squares."""
    return total * (total - 1) / max(squares - total, 1) if total > 1 else total


def half_width(width: Width, variance: float, n: int, classes: float, window: int, full: float) -> float:
    """See the module. ``classes``: ``K``; ``window``: ``n0``; ``full``: ``K0``."""
    q2 = width.bound**2
    sampled = max(q2 + Z2 * variance * (1 / n - 1 / window), q2 / 4)
    return math.sqrt(sampled + width.class_variance * max(0.0, 1 / classes - 1 / full))


def _untrusted(figures: Figures) -> Unknown | None:
    """Why the adapted encoder's own certainty says nothing: it may have sharpened itself."""
    if figures.ill:
        return Unknown("ill", "the guard was ill: labels are the frozen encoder's")
    if figures.broken:
        return Unknown("collapse", "the adapted encoder was reset because it had gone wrong")
    ours, theirs = figures.classes, figures.frozen_classes
    if figures.frozen_n and ours < LOST_CLASSES * theirs:
        said = f"the adapted labels are of {ours:.0f} classes in effect, the frozen ones of {theirs:.0f}"
        return Unknown("sharpened", said)
    return None


def _of_side(calibration: AccuracyCalibration, side: Side, n: int, share: float, classes: float) -> Estimate | Unknown:
    if n < FEWEST:
        return Unknown("few_images", f"{n} images, {FEWEST} are needed")
    half = half_width(side.width, share * (1 - share), n, classes, calibration.window, calibration.effective_classes)
    if half > WIDEST:
        return _too_wide(side.width, classes, half)
    return Estimate(share, max(share - half, 0.0) if share >= side.lowest else 0.0, min(share + half, 1.0))


def _too_wide(width: Width, classes: float, half: float) -> Unknown:
    if width.bound > WIDEST:
        return Unknown("too_wide", f"the calibration's own errors are +-{100 * width.bound:.0f} points")
    said = f"the labels are of {classes:.1f} classes in effect: +-{100 * half:.0f} points"
    return Unknown("few_classes", said)


def _gain(
    figures: Figures, calibration: AccuracyCalibration, adapted: Estimate | Unknown, frozen: Estimate | Unknown
) -> Estimate | Unknown:
    if isinstance(adapted, Unknown):
        return adapted
    if isinstance(frozen, Unknown):
        return frozen
    if calibration.gain is None or not figures.whole:
        return Unknown("no_frozen", "not every image has a frozen prediction")
    value, classes, full = adapted.value - frozen.value, figures.classes, calibration.effective_classes
    half = half_width(calibration.gain, 1 - figures.agree, figures.n, classes, calibration.window, full)
    if half > WIDEST:
        return _too_wide(calibration.gain, classes, half)
    return Estimate(value, max(value - half, -1.0), min(value + half, 1.0))
