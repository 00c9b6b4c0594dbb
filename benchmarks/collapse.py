"""Slow and forced collapses of online GRPO-TTA: what the guard notices, how early, and what is left after its reset.

Each variant breaks the default recipe on purpose, over fluent-emoji clean and under fog 3, classes at random. ``own
reward`` takes the reward from the encoder that is being adapted; the product has no such option, so it is made here.
It, and certainty alone, are made without what holds the default recipe: no dispersion, no pull, plain cosines for
teacher and policy, no adjustment, and steps four times as large; with the default's steps neither fell in 1,500 frames.
Every variant runs twice over the same frames: with the guard of ``grpo-tta label``, and without, which tells whether it
collapses at all (where the guard did nothing the two are one run).

A variant has collapsed where accuracy over the last 500 frames falls 5 points under the frozen encoder's on the same
frames. The bars are about the runs that collapse without a guard. Last, collapse resets of the default recipe, which
are false, over other streams of the same kinds.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.model import loaded, model_flags
from benchmarks.report import Bar, finish, parser, upper_bound
from grpo_tta import (
    Classifier,
    DriftGuard,
    GrpoSettings,
    GuardSettings,
)
from grpo_tta.demo.packaged import pictures
from grpo_tta.evaluation.plans import CLEAN, Condition, ScenePictures, plan_frames
from grpo_tta.evaluation.run import StreamResult, run_stream
from grpo_tta.evaluation.stream_makers import make_plan
from grpo_tta.methods.grpo_group import Group, GroupMaker
from grpo_tta.methods.grpo_online import OnlineGrpo
from grpo_tta.methods.look import Look

CONDITIONS = (CLEAN, Condition("fog", 3))
WINDOW = 500
FALL = 5.0
BACK = 1000
NULL_STREAM = 12_000


class _OwnReward(GroupMaker):
    """Alignment is the adapted encoder's own probability, whatever the teacher's look says."""

    def group(self, look: Look, seeds: Tensor, log_old: Tensor, of_marginal: Tensor | None) -> Group:
        return super().group(replace(look, probabilities=log_old.exp()), seeds, log_old, of_marginal)


@dataclass(frozen=True)
class Variant:
    """Changes of the default settings, and whether the reward is the adapted encoder's own."""

    changes: dict[str, Any]
    own_reward: bool = False

    def method(self, classifier: Classifier, seed: int) -> OnlineGrpo:
        """The broken method."""
        method = OnlineGrpo(classifier, GrpoSettings(seed=seed, **self.changes))
        if self.own_reward:
            method._maker = _OwnReward(classifier, method.settings, None)
        return method


STEP = GrpoSettings().step_size
BARE: dict[str, Any] = {
    "alignment": "frozen",
    "similarity": "plain",
    "dispersion": "none",
    "feature_dispersion": 0.0,
    "logit_adjustment": 0.0,
    "pull": 0.0,
    "learning_rate": 4 * STEP,
}
VARIANTS = {
    "learning rate x 10": Variant({"learning_rate": 10 * STEP}),
    "learning rate x 50": Variant({"learning_rate": 50 * STEP}),
    "own reward": Variant(BARE, own_reward=True),
    "certainty alone": Variant({**BARE, "certainty": 3.0}),
}


@dataclass(frozen=True)
class Outcome:
    """What became of a variant on one stream. Gaps are points under the frozen encoder over ``WINDOW`` frames."""

    collapsed_at: int | None
    """Frames seen when the gap first reached ``FALL`` without a guard."""
    end_gap: float
    """Without a guard."""
    detected_at: int | None
    gap_before: float
    """The largest up to the detection, or of the whole run where there was none; 0 before the first full window."""
    resets: int
    back: float
    """After the first reset, the best share of the frozen accuracy over ``WINDOW`` frames within ``BACK``; not a number
    where there was none."""

    def line(self) -> str:
        """For people."""
        fell = "does not collapse" if self.collapsed_at is None else f"collapses after {self.collapsed_at}"
        said = f"{fell}, gap at the end {self.end_gap:.1f}; with the guard "
        if self.detected_at is None:
            return f"{said}nothing is noticed, largest gap {self.gap_before:.1f}"
        return (
            f"{said}detected after {self.detected_at}, largest gap before {self.gap_before:.1f}, then "
            f"{100 * self.back:.0f} % of the frozen accuracy, {self.resets} resets"
        )


def trailing(right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Accuracy in per cent over the last ``WINDOW`` frames, from the first full window on."""
    total = np.concatenate([[0], np.cumsum(right)])
    shares: NDArray[np.float64] = 100 * (total[WINDOW:] - total[:-WINDOW]) / WINDOW
    return shares


def outcome(bare: StreamResult, guarded: StreamResult) -> Outcome:
    """Judge two runs over the same frames, without a guard and with."""
    frozen = trailing(bare.frozen_right)
    fallen = frozen - trailing(bare.right)
    gaps = frozen - trailing(guarded.right)
    at = np.flatnonzero(fallen >= FALL)
    found = [frame for frame, cause in guarded.resets if cause in ("collapse", "nonfinite")]
    first = found[0] if found else None
    before = gaps[: None if first is None else max(0, first - WINDOW + 1)]
    back = float("nan")
    if first is not None and first + WINDOW <= len(guarded.right):
        ends = slice(first, first + BACK - WINDOW + 1)  # windows that begin at the reset or later
        back = float((trailing(guarded.right)[ends] / np.maximum(frozen[ends], 1e-9)).max())
    return Outcome(
        collapsed_at=int(at[0]) + WINDOW if len(at) else None,
        end_gap=float(fallen[-1]),
        detected_at=first,
        gap_before=float(before.max()) if len(before) else 0.0,
        resets=len(found),
        back=back,
    )


def run(
    classifier: Classifier, variant: Variant, condition: Condition, seed: int, frames: int, guard: DriftGuard | None
) -> StreamResult:
    """A variant over classes at random under one condition."""
    drawings, classes = pictures()
    plan = make_plan("steady", classes, frames, [condition], seed)
    scenes = ScenePictures(drawings, classes, classifier.preprocess.size[0])
    return run_stream(variant.method(classifier, seed), plan_frames(plan, scenes, 32), guard=guard)


def bars_of(outcomes: list[Outcome]) -> list[Bar]:
    """Of the runs that collapse without a guard."""
    collapsed = [one for one in outcomes if one.collapsed_at is not None]
    if not collapsed:
        return [Bar("runs that collapse without a guard", 0, 1)]
    noticed = [one for one in collapsed if one.detected_at is not None]
    in_time = sum(one.gap_before < FALL for one in noticed)
    back = min((one.back for one in noticed if not np.isnan(one.back)), default=0.0)
    share = 100 / len(collapsed)
    return [
        Bar(f"of {len(collapsed)} collapses: noticed", share * len(noticed), 100, unit=" %"),
        Bar("  before the gap is 5 points", share * in_time, 100, unit=" %"),
        Bar("  accuracy after the reset, of the frozen one's, least", 100 * back, 95, unit=" %"),
    ]


def null(classifier: Classifier, frames: int) -> list[Bar]:
    """Collapse resets of the default recipe over streams of ``NULL_STREAM`` frames, clean and foggy in turn."""
    found = seen = 0
    for seed in range(-(-frames // NULL_STREAM)):
        length = min(NULL_STREAM, frames - seen)
        guard = DriftGuard(GuardSettings(), classifier.class_vectors)
        result = run(classifier, Variant({}), CONDITIONS[seed % 2], 1000 + seed, length, guard)
        found += sum(cause == "collapse" for _, cause in result.resets)
        seen += length
        print(f"default recipe: {found} collapse resets in {seen} frames", flush=True)
    bound = 1e4 * upper_bound(found) / seen
    print(f"default recipe: at most {bound:.2f} collapse resets per 10k frames (one-sided 95 %)")
    return [Bar("collapse resets of the default recipe", found, 0, at_most=True)]


def judge(classifier: Classifier, arguments: argparse.Namespace) -> dict[str, Outcome]:
    """Both runs of every variant, condition and seed, and a line of each."""
    outcomes: dict[str, Outcome] = {}
    for name in arguments.variants:
        for condition in CONDITIONS:
            for seed in arguments.seeds:
                guard = DriftGuard(GuardSettings(), classifier.class_vectors)
                variant = VARIANTS[name]
                guarded = run(classifier, variant, condition, seed, arguments.frames, guard)
                bare = guarded
                if guarded.resets:
                    bare = run(classifier, variant, condition, seed, arguments.frames, None)
                row = f"{name}, {condition.name}, seed {seed}"
                outcomes[row] = outcome(bare, guarded)
                print(f"{row}: {outcomes[row].line()}", flush=True)
    return outcomes


def main() -> int:
    """Print a line a run, and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--frames", type=int, default=4000, help="of a stream (default: 4000)")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    flags.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    flags.add_argument("--null-frames", type=int, default=60_000, help="of the default recipe (default: 60000)")
    model_flags(flags)
    arguments = flags.parse_args()
    classifier = loaded(arguments)
    outcomes = judge(classifier, arguments)
    bars = bars_of(list(outcomes.values())) if outcomes else []
    if arguments.null_frames:
        bars += null(classifier, arguments.null_frames)
    return finish(arguments, bars, {row: vars(one) for row, one in outcomes.items()})


if __name__ == "__main__":
    sys.exit(main())
