"""The harness applies a guard as the pipeline does, and sees what a plain loop over the method sees."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from grpo_tta import Batch, Classifier, DriftGuard, GrpoSettings, GuardSettings, State, create_method
from grpo_tta.evaluation.run import run_stream
from grpo_tta.evaluation.streams import Frames
from grpo_tta.methods.grpo_online import OnlineGrpo
from grpo_tta.methods.online import tensor_of

Batches = Callable[..., Batch]
SETTINGS = GrpoSettings(update_every=8, learning_rate=1e-2)


def parts(batches: Batches, images: int, size: int) -> Iterator[Frames]:
    whole = batches(images)
    labels = np.arange(images) % 24
    for start in range(0, images, size):
        part = slice(start, start + size)
        yield Frames(whole.canvases[part].numpy(), labels[part], whole.seeds[part].numpy())


def test_without_a_guard_it_is_a_loop_over_the_method(hybrid: Classifier, batches: Batches) -> None:
    method = create_method("grpo", hybrid, SETTINGS)
    state, right, frozen = method.initial_state(), [], []
    whole, labels = batches(40), torch.arange(40) % 24
    for start in range(0, 40, 8):
        prediction, state, report = method.step(whole[start : start + 8], state)
        right += (prediction.probabilities.argmax(1) == labels[start : start + 8]).tolist()
        frozen += (report.frozen_probabilities.argmax(1) == labels[start : start + 8]).tolist()
    result = run_stream(method, parts(batches, 40, 40))
    assert result.right.tolist() == right
    assert result.frozen_right.tolist() == frozen
    assert result.resets == []
    assert result.forward_equivalents == 4.0


def test_resets_asked_for_fall_on_their_frames(hybrid: Classifier, batches: Batches) -> None:
    method = create_method("grpo", hybrid, SETTINGS)
    result = run_stream(method, parts(batches, 40, 16), reset_at=[20, 33])
    assert result.resets == [(20, "manual"), (33, "manual")]
    fresh = run_stream(method, (Frames(p.canvases, p.labels, p.seeds) for p in parts(batches, 20, 20)))
    assert result.right[:20].tolist() == fresh.right.tolist()


def test_resets_asked_for_are_those_of_a_shift(hybrid: Classifier, batches: Batches) -> None:
    kept: list[float] = []

    class Watched(OnlineGrpo):
        def after_shift(self, state: State, *, reset: bool) -> State:
            kept.append(float(tensor_of(state, "learnt").float().abs().sum()))
            return super().after_shift(state, reset=reset)

    run_stream(Watched(hybrid, SETTINGS), parts(batches, 40, 16), reset_at=[20, 33])
    assert 0 < kept[0] < kept[1]


def test_the_guard_resets_a_forced_collapse_and_labels_go_on(hybrid: Classifier, batches: Batches) -> None:
    wild = create_method("grpo", hybrid, GrpoSettings(update_every=8, learning_rate=3.0, pull=0.0))
    settings = GuardSettings(probe_frames=8, collapse_probes=2, cooldown_frames=0)
    guard = DriftGuard(settings, hybrid.class_vectors)
    result = run_stream(wild, parts(batches, 120, 16), guard=guard)
    assert {cause for _, cause in result.resets} <= {"collapse", "nonfinite"}
    assert result.resets
    assert all(frame % 8 == 0 for frame, _ in result.resets)
    assert len(result.right) == 120


def test_zero_shot_gains_nothing(hybrid: Classifier, batches: Batches) -> None:
    result = run_stream(create_method("zero-shot", hybrid), parts(batches, 30, 7))
    assert np.array_equal(result.right, result.frozen_right)
    assert result.forward_equivalents == 1.0
    assert result.reporting_equivalents == 0.0
    tent = run_stream(create_method("tent", hybrid), parts(batches, 30, 7))
    assert (tent.forward_equivalents, tent.reporting_equivalents) == (4.0, 1.0)


def test_an_empty_stream_is_refused(hybrid: Classifier) -> None:
    with pytest.raises(ValueError, match="must hold a frame"):
        run_stream(create_method("zero-shot", hybrid), [])
