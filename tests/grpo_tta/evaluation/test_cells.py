"""A cell's figures are those of its frames; controls reset as often as they are told to."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from grpo_tta import Classifier, GrpoSettings, GuardSettings, create_method
from grpo_tta.evaluation.cells import GuardChoice, control_resets, measured, narrowed, run_cell
from grpo_tta.evaluation.measures import detection, worst_segment
from grpo_tta.evaluation.plans import CLEAN, Condition, Plan, plan_frames
from grpo_tta.evaluation.run import StreamResult
from grpo_tta.evaluation.stream_makers import make_plan

SETTINGS = GrpoSettings(update_every=8, learning_rate=1e-2)
GUARD = GuardChoice(GuardSettings(probe_frames=8, reference_probes=3))


class Blobs:
    labels = np.arange(48) % 24

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def load(self, indices: np.ndarray, looks: np.ndarray) -> np.ndarray:
        made = [np.random.default_rng(int(n)).integers(0, 256, (3, *self.size), dtype=np.uint8) for n in indices]
        return np.stack(made)


def cell(hybrid: Classifier, rule: str, count: int = 0, batch: int = 16) -> tuple[StreamResult, Plan]:
    plan = make_plan("abrupt", Blobs.labels, 80, [Condition("fog", 3)], 0)
    pictures = Blobs(hybrid.preprocess.size)
    method = create_method("grpo", hybrid, SETTINGS)
    return run_cell(method, hybrid, plan, plan_frames(plan, pictures, batch), rule=rule, guard=GUARD, count=count), plan


def test_a_row_says_what_its_frames_say(hybrid: Classifier) -> None:
    result, plan = cell(hybrid, "none")
    row = measured(result, plan)
    assert row["n"] == 80
    assert row["accuracy"] == pytest.approx(result.right.mean())
    assert row["gain"] == pytest.approx(result.right.mean() - result.frozen_right.mean())
    assert row["forward_equivalents"] == 4.0
    assert row["resets"] == 0
    assert row["missed_changes"] == 1
    assert row["images_per_second"] == pytest.approx(80 / result.seconds)


def test_the_batch_changes_no_frame_that_is_served(hybrid: Classifier) -> None:
    (one, _), (many, _) = cell(hybrid, "guard", batch=1), cell(hybrid, "guard", batch=32)
    assert np.array_equal(one.labels, many.labels)
    assert np.array_equal(one.right, many.right)
    assert one.resets == many.resets


def test_rules_for_resets(hybrid: Classifier) -> None:
    result, plan = cell(hybrid, "true")
    assert [frame for frame, _ in result.resets] == list(plan.changes)
    assert [frame for frame, _ in cell(hybrid, "periodic", 3)[0].resets] == [20, 40, 60]
    assert len(cell(hybrid, "random", 5)[0].resets) == 5


def test_controls() -> None:
    assert control_resets("periodic", 0, 10, 0) == []
    assert control_resets("periodic", 20, 4, 0) == [1, 2, 3]
    frames = control_resets("random", 9, 1000, 0)
    assert len(set(frames)) == 9
    assert frames == sorted(frames) == control_resets("random", 9, 1000, 0)
    assert frames != control_resets("random", 9, 1000, 1)
    with pytest.raises(ValueError, match="periodic or random, got 'true'"):
        control_resets("true", 1, 10, 0)


def test_a_narrowed_classifier_asks_for_some_classes_only(hybrid: Classifier) -> None:
    few = narrowed(hybrid, [5, 2])
    assert few.class_names == (hybrid.class_names[5], hybrid.class_names[2])
    features = torch.nn.functional.normalize(torch.randn(3, hybrid.class_vectors.shape[1]), dim=1)
    assert torch.allclose(few.logits(features), hybrid.logits(features)[:, [5, 2]], atol=1e-5)
    assert few.fingerprint != hybrid.fingerprint


def test_a_brier_score_is_the_distance_to_the_truth(hybrid: Classifier) -> None:
    plan = make_plan("null", Blobs.labels, 10, [CLEAN], 0)
    pictures = Blobs(hybrid.preprocess.size)
    result = run_cell(
        create_method("zero-shot", hybrid), hybrid, plan, plan_frames(plan, pictures, 4), rule="none", guard=GUARD
    )
    pixels = hybrid.normalise(torch.from_numpy(pictures.load(plan.pictures, plan.looks)))
    with torch.no_grad():
        probabilities = hybrid.probabilities(hybrid.features(pixels)).double().numpy()
    truth = np.eye(hybrid.classes)[plan.labels]
    assert result.brier == pytest.approx(((probabilities - truth) ** 2).sum(1), abs=1e-5)
    assert np.array_equal(result.brier, result.frozen_brier)


def test_detections_are_noted_without_a_reset(hybrid: Classifier) -> None:
    plan = make_plan("abrupt", Blobs.labels, 400, [Condition("contrast", 5)], 0)
    settings = GuardSettings(probe_frames=8, reference_probes=8, on_shift="event", shift_lambda=0.5)
    pictures = Blobs(hybrid.preprocess.size)
    method = create_method("zero-shot", hybrid)
    result = run_cell(method, hybrid, plan, plan_frames(plan, pictures, 32), rule="guard", guard=GuardChoice(settings))
    assert result.resets == []
    assert any(plan.changes[0] < frame <= plan.changes[0] + 100 for frame in result.detections)
    resetting = GuardChoice(replace(settings, on_shift="reset"))
    again = run_cell(method, hybrid, plan, plan_frames(plan, pictures, 32), rule="guard", guard=resetting)
    assert [frame for frame, cause in again.resets if cause == "shift"] == again.detections


def test_alarms_are_judged_by_the_changes() -> None:
    found = detection([100, 300, 600], [50, 120, 130, 380, 590], 1000, horizon=60)
    assert found.delays == (20,)
    assert (found.missed, found.false_alarms) == (2, 4)
    assert found.missed_share == pytest.approx(2 / 3)
    assert found.false_per_10k == 40
    assert detection([100, 300], [300], 1000).delays == (200,)
    assert detection([100], [100], 200).false_alarms == 1
    none = detection([], [7], 100)
    assert (none.missed_share, none.false_alarms) == (None, 1)
    with pytest.raises(ValueError, match="frames must be >= 1, got 0"):
        detection([], [], 0)


def test_the_worst_segment_is_the_one_with_the_lowest_gain() -> None:
    right = np.array([1, 1, 0, 0, 1, 0], dtype=bool)
    frozen = np.array([0, 1, 1, 1, 0, 0], dtype=bool)
    assert worst_segment(right, frozen, [2, 4]) == (-1.0, 2)
