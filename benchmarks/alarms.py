"""The drift guard's shift alarms over a million frames of cached frozen features.

Scenes of fluent-emoji, 16 looks of each class, clean and under every development corruption at severity 3 and 5, go
through the frozen demo model once (4 looks at severities 1, 2 and 4, for the gradual stream). Streams are then drawn
from this pool by index, so **frames come again**: a null stream of 20,000 frames shows each of 5,840 scenes some
three times, and a false alarm over 400,000 frames is one over 400,000 draws, not over as many different pictures.
Frames of the fixed camera are near-duplicates made for its own runs, 32 of each run of 500, drawn at random.

The guard is the real one, stepped in batches of 32 with reports whose adapted encoder is the frozen one. Each row
is printed twice: with the packaged drift reference, as ``make bench`` and ``grpo-tta demo`` use it, and with a
reference that each stream makes of its own first frames. After an alarm both make a new mean, as the guard always
does. For another model (``--model``, ``--class-vectors``) a shared reference is made as ``demo.reference`` makes
the packaged one.
Sizes are what the events tell: medians over the first alarms after a change.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.model import loaded, model_flags, shared_reference
from benchmarks.report import Bar, finish, parser, upper_bound
from grpo_tta import (
    Batch,
    Classifier,
    DriftGuard,
    GuardEvent,
    GuardSettings,
    Report,
    create_method,
)
from grpo_tta.demo.packaged import pictures
from grpo_tta.evaluation.corruptions import DEVELOPMENT
from grpo_tta.evaluation.measures import detection
from grpo_tta.evaluation.plans import CLEAN, Condition, Plan, ScenePictures, plan_frames
from grpo_tta.evaluation.stream_makers import make_plan
from grpo_tta.guard.reference import Reference

Int64 = NDArray[np.int64]
SEVERE = [Condition(kind, severity) for kind in DEVELOPMENT for severity in (3, 5)]
BETWEEN = [Condition(kind, severity) for kind in DEVELOPMENT for severity in (1, 2, 4)]
MILD = [Condition(kind, severity) for kind in DEVELOPMENT for severity in (1, 2)]
NULL = ("class-ordered", "class-ordered-0.1", "class-runs", "label-shift", "fixed-camera")
BATCH = 32
SEGMENT = 4000
HORIZON = 2000
SOON = 320
"""Frames between two changes of which the second falls into the making of a new mean."""
CAMERAS = 5
"""Streams of each kind of null but the first."""
AGAIN = 32
"""Near-duplicates of a run of the fixed camera."""


@dataclass(frozen=True)
class Pool:
    """Frozen features ``[scenes, D]`` by the condition's name; a condition may have the first scenes only.

    Scene ``number`` shows class ``number % classes``.
    """

    features: dict[str, Tensor]
    classes: int

    def labels(self, scenes: int) -> Int64:
        """The class of each of the first ``scenes``."""
        return np.arange(scenes, dtype=np.int64) % self.classes

    def draw(self, plan: Plan) -> Tensor:
        """The features ``[N, D]`` of a plan's frames, whose pictures are scenes."""
        first = next(iter(self.features.values()))
        found = torch.empty(len(plan), first.shape[1])
        for number, condition in enumerate(plan.conditions):
            rows = torch.from_numpy(np.flatnonzero(plan.condition == number))
            found[rows] = self.features[condition.name][torch.from_numpy(plan.pictures)[rows]]
        return found


@torch.no_grad()
def features_of(classifier: Classifier, plan: Plan) -> Tensor:
    """Frozen features ``[N, D]`` of a plan's frames, forwarded."""
    drawings, classes = pictures()
    scenes = ScenePictures(drawings, classes, classifier.preprocess.size[0])
    frames = plan_frames(plan, scenes, BATCH)
    return torch.cat([classifier.features(classifier.normalise(torch.from_numpy(part.canvases))) for part in frames])


def make_pool(classifier: Classifier, looks: int) -> Pool:
    """Scenes in rounds over all classes, ``looks`` of each; the same ones under every condition."""
    classes = classifier.classes
    seeds = np.random.Generator(np.random.PCG64(0)).integers(2**62, size=(2, looks * classes))
    features = {}
    for condition in [CLEAN, *SEVERE, *BETWEEN]:
        scenes = classes * (max(1, looks // 4) if condition in BETWEEN else looks)
        numbers = np.arange(scenes, dtype=np.int64) % classes
        under = np.zeros(scenes, dtype=np.int64)
        plan = Plan(numbers, numbers, under, (condition,), seeds[0, :scenes], seeds[1, :scenes])
        features[condition.name] = features_of(classifier, plan)
        print(f"pool: {scenes} scenes, {condition.name}", flush=True)
    return Pool(features, classes)


def kept_pool(classifier: Classifier, looks: int, file: Path | None) -> Pool:
    """The pool in ``file``, made and written there where it is missing."""
    if file is not None and file.exists():
        return Pool(torch.load(file, weights_only=True), classifier.classes)
    pool = make_pool(classifier, looks)
    if file is not None:
        torch.save(pool.features, file)
    return pool


def near_duplicates(classifier: Classifier, frames: int, seed: int) -> Tensor:
    """Features ``[N, D]`` of a fixed camera: of each run its first frames are made, the run is drawn from them."""
    plan = make_plan("fixed-camera", np.arange(classifier.classes), frames, [CLEAN], seed)
    begins = np.flatnonzero(np.diff(plan.looks, prepend=-1))
    lengths = np.diff(begins, append=len(plan))
    made = np.concatenate([np.arange(b, b + min(AGAIN, n)) for b, n in zip(begins, lengths, strict=True)])
    columns = {name: getattr(plan, name)[made] for name in ("pictures", "labels", "condition", "looks", "seeds")}
    features = features_of(classifier, replace(plan, **columns))
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    firsts = np.concatenate([[0], np.cumsum(np.minimum(AGAIN, lengths))[:-1]])
    drawn = [f + rng.integers(min(AGAIN, n), size=n) for f, n in zip(firsts, lengths, strict=True)]
    return features[torch.from_numpy(np.concatenate(drawn))]


def changing(plan: Plan, conditions: Sequence[Condition]) -> Plan:
    """``plan`` under these conditions in turn, in segments of equal length."""
    frames, parts = len(plan), len(conditions)
    bounds = [frames * part // parts for part in range(parts + 1)]
    column = np.repeat(np.arange(parts), np.diff(bounds))
    return replace(plan, condition=column, conditions=tuple(conditions), changes=tuple(bounds[1:-1]))


@dataclass(frozen=True)
class Watch:
    """Guards over cached features; ``reference``: the shared one."""

    classifier: Classifier
    reference: Reference | None

    @torch.no_grad()
    def events(self, features: Tensor) -> list[GuardEvent]:
        """Shift alarms; raises ``RuntimeError`` for a collapse, which a frozen encoder has not."""
        guard = DriftGuard(GuardSettings(), self.classifier.class_vectors, self.reference)
        state, found = guard.initial_state(), []
        for start in range(0, len(features), BATCH):
            part = features[start : start + BATCH]
            probabilities = self.classifier.probabilities(part)
            decision, state = guard.step(Report(probabilities, probabilities, part), state)
            found += [event for event in decision.events if event.signal == "shift"]
            if decision.cause == "collapse":
                raise RuntimeError(f"collapse of a frozen encoder after {start + len(part)} frames")
        return found

    def alarms(self, features: Tensor) -> list[int]:
        """Frames seen at each shift alarm."""
        return [event.frame for event in self.events(features)]


@dataclass
class Tally:
    """Alarms of several streams of one kind."""

    frames: int = 0
    false: int = 0
    missed: int = 0
    delays: tuple[int, ...] = ()
    sizes: tuple[float, ...] = ()
    """Of the first alarm after each change that was found."""

    def add(self, changes: Sequence[int], events: Sequence[GuardEvent], frames: int) -> None:
        """Judge one stream; an alarm later than ``HORIZON`` after its change is false."""
        judged = detection(changes, [event.frame for event in events], frames, HORIZON)
        for change, until in zip(changes, [*changes, frames][1:], strict=True):
            own = [event.size for event in events if change < event.frame <= min(until, change + HORIZON)]
            self.sizes += tuple(size for size in own[:1] if size is not None)
        self.frames += frames
        self.false += judged.false_alarms
        self.missed += judged.missed
        self.delays += judged.delays

    @property
    def per_10k(self) -> float:
        """False alarms in 10,000 frames."""
        return 1e4 * self.false / self.frames

    @property
    def delay(self) -> float:
        """Median in frames over all changes; one that was missed counts as the horizon."""
        delays = [*self.delays, *[HORIZON] * self.missed]
        return float(np.median(delays)) if delays else 0.0

    @property
    def missed_share(self) -> float:
        """Of all changes, in per cent."""
        return 100 * self.missed / max(1, self.missed + len(self.delays))

    def line(self) -> str:
        """For people."""
        bound = 1e4 * upper_bound(self.false) / self.frames
        said = f"{self.false} false in {self.frames} frames: {self.per_10k:.2f} per 10k, at most {bound:.2f}"
        changes = self.missed + len(self.delays)
        if not changes:
            return said
        late = np.percentile([*self.delays, *[HORIZON] * self.missed], 90)
        size = f", size {np.median(self.sizes):.2f}" if self.sizes else ""
        return f"{changes} changes, delay {self.delay:.0f}, nine in ten {late:.0f}, {self.missed} missed{size}; {said}"


def null_tally(watch: Watch, streams: Iterable[Tensor]) -> Tally:
    """Of clean streams: every alarm is false."""
    tally = Tally()
    for features in streams:
        tally.add((), watch.events(features), len(features))
    return tally


def clean_streams(pool: Pool, stream: str, frames: int, streams: int) -> Iterator[Tensor]:
    """``frames`` in all, in equal ``streams``."""
    labels = pool.labels(len(pool.features[CLEAN.name]))
    for seed in range(streams):
        yield pool.draw(make_plan(stream, labels, frames // streams, [CLEAN], seed))


def abrupt_tallies(watch: Watch, pool: Pool, seeds: int) -> dict[str, Tally]:
    """From clean to each corruption, and between all of them in random order; i.i.d. and by class."""
    labels = pool.labels(len(pool.features[CLEAN.name]))
    tallies: dict[str, Tally] = {}
    for order, stream in (("i.i.d.", "null"), ("class-ordered", "class-ordered")):
        for seed in range(seeds):
            for condition in SEVERE:
                plan = changing(make_plan(stream, labels, 2 * SEGMENT, [CLEAN], seed), [CLEAN, condition])
                of_condition = tallies.setdefault(f"{order}, clean to {condition.name}", Tally())
                of_condition.add(plan.changes, watch.events(pool.draw(plan)), len(plan))
            turn = np.random.Generator(np.random.PCG64([seed, 2])).permutation(len(SEVERE))
            plan = make_plan(stream, labels, (len(SEVERE) + 1) * SEGMENT, [CLEAN], seed)
            plan = changing(plan, [CLEAN, *(SEVERE[number] for number in turn)])
            between = tallies.setdefault(f"{order}, from one to another", Tally())
            between.add(plan.changes, watch.events(pool.draw(plan)), len(plan))
    return tallies


def mild_tallies(watch: Watch, pool: Pool, seeds: int) -> dict[str, Tally]:
    """From clean to each corruption at severity 1 and 2, i.i.d., over the scenes that all conditions have."""
    labels = pool.labels(min(map(len, pool.features.values())))
    tallies: dict[str, Tally] = {}
    for condition in MILD:
        tally = tallies.setdefault(f"mild, clean to {condition.name}", Tally())
        for seed in range(seeds):
            plan = changing(make_plan("null", labels, 2 * SEGMENT, [CLEAN], seed), [CLEAN, condition])
            tally.add(plan.changes, watch.events(pool.draw(plan)), len(plan))
    return tallies


def second_tally(watch: Watch, pool: Pool, seeds: int) -> Tally:
    """From clean to a corruption and ``SOON`` frames later to the next one: the second changes."""
    labels = pool.labels(len(pool.features[CLEAN.name]))
    tally = Tally()
    for seed in range(seeds):
        for first, second in zip(SEVERE, [*SEVERE[1:], SEVERE[0]], strict=True):
            plan = make_plan("null", labels, 2 * SEGMENT, [CLEAN], seed)
            column = np.repeat([0, 1, 2], [SEGMENT, SOON, SEGMENT - SOON])
            changes = (SEGMENT, SEGMENT + SOON)
            plan = replace(plan, condition=column, conditions=(CLEAN, first, second), changes=changes)
            later = [event for event in watch.events(pool.draw(plan)) if event.frame > changes[1]]
            tally.add(changes[1:], later, len(plan))
    return tally


def joined(tallies: dict[str, Tally], order: str) -> Tally:
    """All tallies of an order as one."""
    own = [tally for name, tally in tallies.items() if name.startswith(order)]
    return Tally(
        sum(tally.frames for tally in own),
        sum(tally.false for tally in own),
        sum(tally.missed for tally in own),
        tuple(delay for tally in own for delay in tally.delays),
        tuple(size for tally in own for size in tally.sizes),
    )


def gradual_lines(watch: Watch, pool: Pool, seeds: int) -> Iterator[str]:
    """For each corruption: frames from the first of severity 1 to the first alarm, in steps of 1,000 frames."""
    labels = pool.labels(min(map(len, pool.features.values())))
    for kind in DEVELOPMENT:
        first = []
        for seed in range(seeds):
            plan = make_plan("gradual", labels, 10_000, [Condition(kind, 1)], seed)
            begin, until = plan.changes[0], plan.changes[5]
            alarms = watch.alarms(pool.draw(plan))
            first.append(next((alarm - begin for alarm in alarms if begin < alarm <= until), until - begin))
        yield f"gradual, {kind}: first alarm after {sorted(first)} frames, the severity rises every 1,000"


def overhead(classifier: Classifier, rounds: int, steps: int = 50) -> float:
    """The guard's step over a zero-shot step, batch 32: the median of alternating rounds, a share."""
    plan = make_plan("null", np.arange(classifier.classes), BATCH, [CLEAN], 0)
    drawings, classes = pictures()
    (frames,) = plan_frames(plan, ScenePictures(drawings, classes, classifier.preprocess.size[0]), BATCH)
    batch = Batch(torch.from_numpy(frames.canvases), torch.from_numpy(frames.seeds))
    method = create_method("zero-shot", classifier, None)
    _, _, report = method.step(batch, method.initial_state())
    guard = DriftGuard(GuardSettings(), classifier.class_vectors)
    state = guard.initial_state()

    def forward() -> None:
        method.step(batch, method.initial_state())

    def watch() -> None:
        nonlocal state
        _, state = guard.step(report, state)

    ratios = [_seconds(watch, steps) / _seconds(forward, steps) for _ in range(rounds)]
    return statistics.median(ratios)


def _seconds(call: Callable[[], None], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - started


def measure(
    watch: Watch, pool: Pool, cameras: Sequence[Tensor], arguments: argparse.Namespace
) -> tuple[list[Bar], dict[str, Tally]]:
    """All rows and bars of one kind of reference; ``cameras``: streams of near-duplicates."""
    name = "own reference" if watch.reference is None else "shared reference"
    rows = {"null": null_tally(watch, clean_streams(pool, "null", arguments.null_frames, 20))}
    for stream in NULL:
        ordered = clean_streams(pool, stream, arguments.ordered_frames, CAMERAS)
        rows[stream] = null_tally(watch, cameras if stream == "fixed-camera" else ordered)
    rows |= abrupt_tallies(watch, pool, arguments.seeds)
    rows |= mild_tallies(watch, pool, arguments.seeds)
    rows["second change"] = second_tally(watch, pool, arguments.seeds)
    for row, tally in rows.items():
        print(f"{name}; {row}: {tally.line()}", flush=True)
    for line in gradual_lines(watch, pool, arguments.seeds):
        print(f"{name}; {line}", flush=True)
    bars = [Bar(f"{name}; null: false alarms per 10k", rows["null"].per_10k, 0.5, at_most=True)]
    bars += [Bar(f"{name}; {stream}: false alarms per 10k", rows[stream].per_10k, 2, at_most=True) for stream in NULL]
    iid = joined(rows, "i.i.d.")
    bars.append(Bar(f"{name}; abrupt: median delay", iid.delay, 128, at_most=True, unit=" frames"))
    bars.append(Bar(f"{name}; abrupt: missed", iid.missed_share, 3, at_most=True, unit=" %"))
    second = rows["second change"].missed_share
    bars.append(Bar(f"{name}; a second change {SOON} frames later: missed", second, 3, at_most=True, unit=" %"))
    return bars, {f"{name}; {row}": tally for row, tally in rows.items()}


def arguments_of() -> argparse.Namespace:
    """From the command line."""
    flags = parser(__doc__)
    flags.add_argument("--null-frames", type=int, default=400_000, help="default: 400000")
    flags.add_argument("--ordered-frames", type=int, default=100_000, help="of each other null stream: 100000")
    flags.add_argument("--seeds", type=int, default=10, help="of every change (default: 10)")
    flags.add_argument("--looks", type=int, default=16, help="scenes a class (default: 16)")
    flags.add_argument("--rounds", type=int, default=9, help="of the overhead (default: 9)")
    flags.add_argument("--pool", type=Path, metavar="FILE", help="keep the pool there, or use the one that is there")
    model_flags(flags)
    return flags.parse_args()


def main() -> int:
    """Print a line a row, and the bars."""
    arguments = arguments_of()
    classifier = loaded(arguments)
    reference = shared_reference(arguments, classifier)
    share = 100 * overhead(classifier, arguments.rounds)
    bars = [Bar("guard's step over a zero-shot step, batch 32", share, 25, at_most=True, unit=" %")]
    pool = kept_pool(classifier, arguments.looks, arguments.pool)
    cameras = [near_duplicates(classifier, arguments.ordered_frames // CAMERAS, seed) for seed in range(CAMERAS)]
    details: dict[str, object] = {}
    for shared in (reference, None):
        more, rows = measure(Watch(classifier, shared), pool, cameras, arguments)
        bars += more
        details |= {name: vars(tally) for name, tally in rows.items()}
    return finish(arguments, bars, details)


if __name__ == "__main__":
    sys.exit(main())
