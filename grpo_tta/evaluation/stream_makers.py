"""The streams a method is judged on, by name: what changes in them, and what does not.

Each is made from a seed, the classes of the pictures at hand, a number of frames and conditions. ``uses`` says what
becomes of several conditions: a ``clean`` stream has none, ``one`` makes a stream of each, ``several`` puts all of them
into one stream.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from grpo_tta.evaluation.plans import CLEAN, Condition, Plan

__all__ = ["STREAMS", "StreamKind", "make_plan"]

Int64 = NDArray[np.int64]
_FIXED_RUN, _FIXED_CLASSES, _FIXED_SHARE = 500, 8, 0.8
_RUN = 64
_VISITS = 20
_BLIPS = 50
_SHIFTS = 8


class _Drawing:
    """A seeded hand over labelled pictures."""

    def __init__(self, labels: Int64, rng: np.random.Generator) -> None:
        self.labels, self.rng = labels, rng
        self.classes = rng.permutation(np.unique(labels))

    def any(self, frames: int) -> Int64:
        """Pictures at random, none twice before it must be."""
        return self.rng.choice(len(self.labels), frames, replace=frames > len(self.labels))

    def of(self, classes: Int64) -> Int64:
        """A picture of each of these classes, one class's in turn."""
        found = np.empty(len(classes), dtype=np.int64)
        for number in np.unique(classes):
            own, wanted = self.rng.permutation(np.flatnonzero(self.labels == number)), np.flatnonzero(classes == number)
            found[wanted] = np.resize(own, len(wanted))
        return found

    def plan(
        self, pictures: Int64, conditions: Sequence[Condition], condition: Int64 | None = None, **more: Any
    ) -> Plan:
        """With seeds; all frames under the first condition unless ``condition`` says otherwise."""
        seeds = self.rng.integers(2**62, size=(2, len(pictures)))
        columns: dict[str, Any] = {
            "labels": self.labels[pictures],
            "condition": np.zeros(len(pictures), dtype=np.int64) if condition is None else condition,
            "looks": seeds[0],
            "seeds": seeds[1],
        }
        return Plan(pictures=pictures, conditions=tuple(conditions), **{**columns, **more})


Maker = Callable[[_Drawing, int, Sequence[Condition]], Plan]


def _random(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
    return draw.plan(draw.any(frames), conditions)


def _dirichlet(concentration: float) -> Maker:
    """Each class's frames fall into as many slots as there are classes, by shares of this concentration; in a slot
    class follows class."""

    def make(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
        pictures = draw.any(frames)
        labels = draw.labels[pictures]
        slots = np.empty(frames, dtype=np.int64)
        for number in np.unique(labels):
            own = np.flatnonzero(labels == number)
            shares = draw.rng.dirichlet(np.full(len(draw.classes), concentration))
            slots[own] = draw.rng.choice(len(shares), len(own), p=shares)
        rank = np.empty(draw.labels.max() + 1, dtype=np.int64)
        rank[draw.classes] = np.arange(len(draw.classes))
        return draw.plan(pictures[np.lexsort((rank[labels], slots))], conditions)

    return make


def _runs(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
    runs = draw.rng.choice(draw.classes, -(-frames // _RUN))
    return draw.plan(draw.of(np.repeat(runs, _RUN)[:frames]), conditions)


def _label_shift(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
    bounds = [frames * part // _SHIFTS for part in range(_SHIFTS + 1)]
    parts = [
        draw.rng.choice(draw.classes, stop - start, p=draw.rng.dirichlet(np.full(len(draw.classes), 0.1)))
        for start, stop in itertools.pairwise(bounds)
    ]
    return draw.plan(draw.of(np.concatenate(parts)), conditions, segments=tuple(bounds[1:-1]))


def _skewed(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
    shares = 1 / np.arange(1, len(draw.classes) + 1)
    return draw.plan(draw.of(draw.rng.choice(draw.classes, frames, p=shares / shares.sum())), conditions)


def _few_shown(count: int) -> Maker:
    def make(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
        return draw.plan(draw.of(draw.rng.choice(draw.classes[:count], frames)), conditions)

    return make


def _few_classes(count: int) -> Maker:
    def make(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
        if count > len(draw.classes):
            raise ValueError(f"few-classes-{count} needs pictures of {count} classes, there are {len(draw.classes)}")
        asked = np.sort(draw.classes[:count])
        pictures = draw.of(draw.rng.choice(asked, frames))
        labels = np.searchsorted(asked, draw.labels[pictures])
        return draw.plan(pictures, conditions, labels=labels, classes=tuple(asked.tolist()))

    return make


def _fixed_camera(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
    length = min(_FIXED_RUN, max(1, frames // 10))
    count = -(-frames // length)
    often = round(_FIXED_SHARE * count)
    main, *others = draw.classes[:_FIXED_CLASSES]
    shown = np.concatenate([np.full(often, main), np.resize(others or [main], count - often)])
    runs = draw.of(draw.rng.permutation(shown))
    looks = draw.rng.integers(2**62, size=len(runs))
    pictures, looks = (np.repeat(column, length)[:frames] for column in (runs, looks))
    return draw.plan(pictures, conditions, looks=looks, near_duplicates=True)


def _in_turn(draw: _Drawing, lengths: Sequence[int], conditions: Sequence[Condition]) -> Plan:
    """Segments of these lengths, each under the condition at its place."""
    changes = tuple(np.cumsum(lengths)[:-1].tolist())
    column = np.repeat(np.arange(len(conditions)), lengths)
    return draw.plan(draw.any(sum(lengths)), conditions, column, changes=changes, segments=changes)


def _abrupt(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
    order = [CLEAN, *(conditions[number] for number in draw.rng.permutation(len(conditions)))]
    weights = draw.rng.uniform(0.5, 1.5, len(order))
    ends = np.round(np.cumsum(weights) / weights.sum() * frames).astype(int)
    return _in_turn(draw, np.diff(ends, prepend=0).tolist(), order)


def _gradual(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
    kind = conditions[0].kind
    steps = [CLEAN, *(Condition(kind, severity) for severity in (1, 2, 3, 4, 5, 4, 3, 2, 1))]
    return _in_turn(draw, _even(frames, len(steps)), steps)


def _recurring(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
    return _in_turn(draw, _even(frames, 2 * _VISITS), [CLEAN, conditions[0]] * _VISITS)


def _even(frames: int, parts: int) -> list[int]:
    return [frames * (part + 1) // parts - frames * part // parts for part in range(parts)]


def _blips(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
    column = np.zeros(frames, dtype=np.int64)
    places = np.arange(0, frames, _BLIPS)
    places += draw.rng.integers(1, _BLIPS, len(places))  # one in each fifty frames, never two in a row
    places = places[places < frames]
    column[places] = 1 + draw.rng.integers(len(conditions), size=len(places))
    return draw.plan(draw.any(frames), [CLEAN, *conditions], column)


def _mixed_cameras(draw: _Drawing, frames: int, conditions: Sequence[Condition]) -> Plan:
    cameras = [CLEAN, *conditions]
    return draw.plan(draw.any(frames), cameras, draw.rng.integers(len(cameras), size=frames))


@dataclass(frozen=True)
class StreamKind:
    """One entry: ``make`` gets a drawing hand, frames and conditions; see the module for ``uses``."""

    about: str
    make: Maker
    uses: Literal["clean", "one", "several"] = "one"
    shifted: bool = False
    """It is nothing without a corruption: ``clean`` among the conditions is left out, and development's are the
    default."""
    least_frames: int = 1
    longer: int = 1
    """Times the frames asked for."""


STREAMS: dict[str, StreamKind] = {
    "null": StreamKind("clean, classes at random", _random, uses="clean"),
    "steady": StreamKind("one condition throughout, classes at random", _random, shifted=True),
    "class-ordered": StreamKind("classes come together, Dirichlet 0.01", _dirichlet(0.01)),
    "class-ordered-0.1": StreamKind("classes come together, Dirichlet 0.1", _dirichlet(0.1)),
    "class-runs": StreamKind("runs of 64 frames of one class", _runs),
    "label-shift": StreamKind(
        "eight parts with class shares of their own, the input stays", _label_shift, least_frames=8
    ),
    "skewed": StreamKind("class shares by Zipf's law", _skewed),
    "few-shown": StreamKind("40 of the classes are shown, all are asked for", _few_shown(40)),
    **{
        f"few-shown-{count}": StreamKind(f"{count} of the classes are shown, all are asked for", _few_shown(count))
        for count in (5, 10, 20)
    },
    **{
        f"few-classes-{count}": StreamKind(f"{count} classes are asked for and shown", _few_classes(count))
        for count in (2, 5, 6, 10, 20, 40)
    },
    "fixed-camera": StreamKind(
        "8 classes, one of them 80 % of the time, runs of 500 near-duplicates (a tenth of a short stream)",
        _fixed_camera,
    ),
    "abrupt": StreamKind(
        "clean, then all conditions in random order and length", _abrupt, "several", shifted=True, least_frames=60
    ),
    "gradual": StreamKind(
        "clean, then severity 1 to 5 and back, whatever severity is given", _gradual, shifted=True, least_frames=10
    ),
    "recurring": StreamKind("clean and the condition in turn, 20 visits", _recurring, shifted=True, least_frames=40),
    "blips": StreamKind("clean, but for a single frame in fifty", _blips, "several", shifted=True, least_frames=2),
    "mixed-cameras": StreamKind("clean and all conditions, frame by frame", _mixed_cameras, "several", shifted=True),
    "very-long": StreamKind("twenty times as long, pictures come again", _random, longer=20),
}


def make_plan(stream: str, labels: Int64, frames: int, conditions: Sequence[Condition], seed: int) -> Plan:
    """The stream of that name over pictures with these class ``labels`` ``[P]``: ``frames`` times its ``longer``.

    ``conditions``: one for a stream that uses ``one``, at least one for ``several``, for ``clean`` none is looked at.
    Raises ``ValueError`` naming what does not fit.
    """
    kind = STREAMS.get(stream)
    if kind is None:
        raise ValueError(f"stream must be one of {', '.join(STREAMS)}, got {stream!r}")
    least = max(kind.least_frames, 2 * (len(conditions) + 1) if kind.uses == "several" else 1)
    if frames < least:
        raise ValueError(f"stream {stream} needs at least {least} frames, got {frames}")
    if not len(labels):
        raise ValueError(f"stream {stream} needs a picture, got none")
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    conditions = [CLEAN] if kind.uses == "clean" else conditions
    if not conditions or (kind.uses == "one" and len(conditions) > 1):
        raise ValueError(f"stream {stream} takes {kind.uses} of the conditions, got {len(conditions)}")
    draw = _Drawing(labels, np.random.Generator(np.random.PCG64([seed, *stream.encode()])))
    return kind.make(draw, frames * kind.longer, conditions)
