"""One cell of a comparison: a method over a stream with one seed and one rule for resets, and what came of it.

`measured` says what a run came to in plain numbers; the `StreamResult` itself keeps its frames, so that runs over the
same frames can be compared one with another and seeds be joined later.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from grpo_tta.classifier import Classifier
from grpo_tta.evaluation.measures import detection, expected_calibration_error, paired_accuracy
from grpo_tta.evaluation.measures import worst_segment as find_worst_segment
from grpo_tta.evaluation.plans import Plan
from grpo_tta.evaluation.run import StreamResult, run_stream
from grpo_tta.evaluation.streams import Frames
from grpo_tta.guard import DriftGuard, GuardSettings
from grpo_tta.guard.reference import Reference
from grpo_tta.methods.zero_shot import ZeroShot
from grpo_tta.types import Method

__all__ = ["RESETS", "GuardChoice", "ResetRule", "control_resets", "measured", "narrowed", "run_cell"]

ResetRule = Literal["guard", "none", "true", "periodic", "random"]
RESETS: tuple[ResetRule, ...] = ("guard", "none", "true", "periodic", "random")
"""By the drift guard; none; at the true changes; as many as the guard's at equal distances, or at random frames."""


def narrowed(classifier: Classifier, classes: Sequence[int]) -> Classifier:
    """The same tower asked for some of its classes only, in the order given."""
    rows = torch.as_tensor(list(classes))
    ensemble = classifier.ensemble_vectors
    return Classifier(
        classifier.visual,
        [classifier.class_names[row] for row in classes],
        classifier.class_vectors[rows],
        classifier.preprocess,
        logit_scale=classifier.logit_scale,
        logit_bias=classifier.logit_bias,
        device=classifier.device,
        use_autocast=classifier.use_autocast,
        ensemble_vectors=None if ensemble is None else ensemble[rows],
    )


def control_resets(rule: ResetRule, count: int, frames: int, seed: int) -> list[int]:
    """``count`` frames to reset before: at equal distances, or different ones at random; the first frame is none."""
    count = min(count, frames - 1)
    if rule == "periodic":
        return [frames * (number + 1) // (count + 1) for number in range(count)]
    if rule == "random":
        rng = np.random.Generator(np.random.PCG64([seed, count]))
        return sorted((1 + rng.choice(frames - 1, count, replace=False)).tolist())
    raise ValueError(f"a control must be periodic or random, got {rule!r}")


@dataclass(frozen=True)
class GuardChoice:
    """The guard that cells with resets by the guard run with."""

    settings: GuardSettings
    reference: Reference | None = None


def run_cell(
    method: Method,
    classifier: Classifier,
    plan: Plan,
    frames: Iterable[Frames],
    *,
    rule: ResetRule,
    guard: GuardChoice,
    count: int = 0,
    seed: int = 0,
) -> StreamResult:
    """Run ``method`` (over ``classifier``) once over the ``frames`` of ``plan``; ``count``: of a control, its resets.

    A reference describes all classes: a plan that asks for fewer makes its own.
    """
    reset_at: Sequence[int] = ()
    if rule in ("periodic", "random"):
        reset_at = control_resets(rule, count, len(plan), seed)
    elif rule == "true":
        reset_at = plan.changes
    watch = None
    if rule == "guard":
        reference = guard.reference if plan.classes is None else None
        watch = DriftGuard(guard.settings, classifier.class_vectors, reference)
    return run_stream(method, frames, guard=watch, reset_at=reset_at, frozen=ZeroShot(classifier))


def measured(result: StreamResult, plan: Plan) -> dict[str, Any]:
    """What a run says of itself and of the frozen encoder on the same frames. Accuracies, gains and calibration are
    shares in [0, 1]; ``delays`` are frames."""
    paired = paired_accuracy(result.right, result.frozen_right, result.labels)
    lowest, at = find_worst_segment(result.right, result.frozen_right, plan.parts)
    found = detection(plan.changes, result.detections, len(plan))
    return {
        "n": paired.n,
        "accuracy": paired.accuracy,
        "accuracy_frozen": paired.accuracy_frozen,
        "gain": paired.gain,
        "interval": list(paired.interval),
        "worst_segment": lowest,
        "worst_segment_from": at,
        "forward_equivalents": result.forward_equivalents,
        "reporting_equivalents": result.reporting_equivalents,
        "images_per_second": paired.n / result.seconds if result.seconds else 0.0,
        "state_kb": result.state_bytes / 1000,
        "ece": expected_calibration_error(result.confidence, result.right),
        "ece_frozen": expected_calibration_error(result.frozen_confidence, result.frozen_right),
        "brier": float(result.brier.mean()),
        "brier_frozen": float(result.frozen_brier.mean()),
        "resets": len(result.resets),
        "reset_frames": [[frame, cause] for frame, cause in result.resets],
        "detection_delays": list(found.delays),
        "missed_changes": found.missed,
        "false_alarms": found.false_alarms,
        "false_alarms_per_10k": found.false_per_10k,
    }
