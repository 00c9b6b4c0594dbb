"""A gated stream: which windows are learnt from, what the others cost and show, and that a change is still found."""

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from method_runs import assert_close, run

from grpo_tta import Batch, Classifier, DriftGuard, GrpoSettings, GuardSettings
from grpo_tta.evaluation.run import StreamResult, run_stream
from grpo_tta.evaluation.streams import Frames
from grpo_tta.methods.gate import EVERY, Gate
from grpo_tta.methods.grpo_online import OnlineGrpo
from grpo_tta.methods.zero_shot import ZeroShot
from grpo_tta.state import StreamState, decode_state, encode_state

Batches = Callable[..., Batch]
LEARNT = [0, 1, 8, 16]
"""Windows of 8 frames with ``gate_frames`` 16, as long as none is unusual: nothing is judged before the twentieth."""


def gated(classifier: Classifier, gate_frames: int = 16) -> OnlineGrpo:
    return OnlineGrpo(classifier, GrpoSettings(update_every=8, learning_rate=1e-2, gate_frames=gate_frames))


def windows(until: int, change: int) -> Iterator[float]:
    """How unsure labels are by windows: around 0.2 and, from window ``change`` on, around 0.3."""
    draw = random.Random(0)
    for window in range(until):
        yield 0.2 + draw.uniform(-0.01, 0.01) + 0.1 * (window >= change)


def after(gate: Gate, unsure: float, number: int) -> Gate:
    """With a window, the ``number``-th."""
    return gate.after(torch.tensor([unsure]), torch.tensor([number]))


def learns(gate: Gate, window: int, learnt: int, first: int = 64) -> bool:
    return bool(gate.learns(torch.tensor([window]), torch.tensor([learnt]), first))


def test_the_first_frames_are_learnt_from_and_then_one_window_in_eight(
    classifier: Classifier, batches: Batches
) -> None:
    method = gated(classifier)
    batch = batches(18 * 8)
    state, updates = method.initial_state(), []
    for window in range(18):
        piece, before = batch[8 * window : 8 * window + 8], state
        prediction, state, report = method.step(piece, state)
        assert state["frames"] == 8 * (window + 1)
        updates += [(update.frame, update.update) for update in report.updates]
        if window in LEARNT:
            assert report.frozen_features is not None
            assert prediction.frozen is report.frozen_probabilities is not None
            assert report.forward_equivalents == 4 * 8
            continue
        assert prediction.frozen is report.frozen_probabilities is report.frozen_features is None
        assert report.forward_equivalents == 8
        assert torch.equal(prediction.probabilities, method.predict(piece, before).probabilities)
        for name in (
            "learnt",
            "adam_m",
            "marginal",
            "own_marginal",
            "diversity_shown",
            "own_factor",
            "updates",
            "trust",
        ):
            assert torch.equal(torch.as_tensor(state[name]), torch.as_tensor(before[name])), name
    assert updates == [(8 * (window + 1), number) for number, window in enumerate(LEARNT, start=1)]


def test_batches_of_1_7_and_64_give_the_same_labels_and_updates(classifier: Classifier, batches: Batches) -> None:
    method, batch = gated(classifier), batches(150)
    results = [run(method, batch, size) for size in (1, 7, 64)]
    labels, state, reports = results[-1]
    assert state["updates"] == len(LEARNT)
    spent = sum(report.forward_equivalents for report in reports)
    assert spent == 4 * 8 * len(LEARNT) + 150 - 8 * len(LEARNT)
    for other_labels, other, other_reports in results[:-1]:
        assert torch.equal(other_labels.argmax(1), labels.argmax(1))
        assert_close(other, state)
        seen = [(u.frame, u.update) for report in other_reports for u in report.updates]
        assert seen == [(u.frame, u.update) for report in reports for u in report.updates]
        assert sum(report.forward_equivalents for report in other_reports) == spent
    assert reports[0].frozen_probabilities is None
    assert len(reports[0]) == 64


def test_a_window_that_is_only_served_can_be_cut_anywhere_and_its_state_written_down(
    hybrid: Classifier, batches: Batches
) -> None:
    method, batch = gated(hybrid), batches(80)
    expected, state, _ = run(method, batch, 8)
    first, between, _ = run(method, batch[:45], 15)
    kept = decode_state(encode_state(StreamState(between, {}, {}, {}, "model", method.name, "settings"))).method
    assert {name: type(value) for name, value in kept.items()} == {name: type(v) for name, v in between.items()}
    rest, end, _ = run(method, batch[45:], 5, kept)
    assert torch.equal(torch.cat([first, rest]).argmax(1), expected.argmax(1))
    assert end["frames"] == 80
    torch.testing.assert_close(end["gate_usual"], state["gate_usual"], rtol=1e-3, atol=1e-5)


def test_without_a_gate_nothing_is_judged(hybrid: Classifier, batches: Batches) -> None:
    method = OnlineGrpo(hybrid, GrpoSettings(update_every=8))
    _, state, reports = run(method, batches(32), 8)
    for name in ("gate_usual", "gate_variance"):
        assert not torch.as_tensor(state[name]).any()
    assert state["gate_due"] == 0
    assert all(report.frozen_features is not None for report in reports)


def test_an_unusual_window_is_followed_by_eight_that_are_learnt_from_and_soon_it_is_usual() -> None:
    gate, found = Gate.empty(), []
    for number, unsure in enumerate(windows(200, 60), start=1):
        gate = after(gate, unsure, number)
        found.append(learns(gate, number, 10**6))
    assert [number for number, yes in enumerate(found[:60], start=1) if yes] == list(range(8, 60, EVERY))
    assert all(found[60 : 60 + EVERY])
    assert [number for number, yes in enumerate(found[100:], start=101) if yes] == list(range(104, 201, EVERY))
    assert float(gate.usual) == pytest.approx(0.3, abs=0.01)


def test_a_camera_that_always_shows_the_same_is_never_unusual() -> None:
    gate = Gate.empty()
    for number in range(1, 300):
        gate = after(gate, 0.2 + 1e-6 * (number % 7 == 0), number)
        assert int(gate.due) <= 0


def test_gates_of_many_streams_are_those_of_each() -> None:
    draw = torch.Generator().manual_seed(0)
    alone = [Gate.empty()] * 3
    together = Gate(*(torch.cat(columns) for columns in zip(*alone, strict=True)))
    for number in range(1, 40):
        entropy, numbers = 0.2 + 0.01 * torch.rand(3, generator=draw), torch.tensor([number])
        entropy[1] += 0.1 * (number > 33)
        alone = [gate.after(own, numbers) for gate, own in zip(alone, entropy.split(1), strict=True)]
        together = together.after(entropy, numbers.repeat(3))
        for column, own in zip(together, zip(*alone, strict=True), strict=True):
            torch.testing.assert_close(column, torch.cat(own))
    assert int(together.due[1]) > 0


def test_a_window_is_learnt_from_by_its_number_or_while_little_was_learnt() -> None:
    gate = Gate.empty()
    assert learns(gate, 5, 63)
    assert not learns(gate, 5, 64)
    assert learns(gate, EVERY, 64)


def test_after_a_shift_that_many_windows_are_learnt_from_and_a_served_one_is_served_to_its_end() -> None:
    for served in (False, True):
        gate = Gate.empty()._replace(due=torch.tensor([2])).anew(3, torch.tensor([served]))
        found = []
        for number in range(9, 15):
            found.append(learns(gate, number, 10**6))
            gate = after(gate, 0.2, number)
        assert found == [*[False] * served, *[True] * 3, *[False] * (3 - served)]


def test_a_shift_that_is_noticed_is_learnt_from_as_the_beginning_was(hybrid: Classifier, batches: Batches) -> None:
    method, batch = gated(hybrid), batches(104)
    _, state, _ = run(method, batch[:76], 8)  # the tenth window, which is only served, is half over
    noticed = method.after_shift(state, reset=False)
    assert {name for name in state if state[name] is not noticed[name]} <= {name for name in state if "gate" in name}
    _, _, reports = run(method, batch[76:], 4, noticed)
    assert [update.frame for report in reports for update in report.updates] == [88, 96]
    plain = OnlineGrpo(hybrid, GrpoSettings(update_every=8))
    assert plain.after_shift(state, reset=False) is state


def stream(batches: Batches, change: int, frames: int, size: int) -> Iterator[Frames]:
    """Blobs that are darkened to a quarter from frame ``change`` on."""
    whole = batches(frames)
    canvases = whole.canvases.clone()
    canvases[change:] //= 4
    for start in range(0, frames, size):
        part = slice(start, start + size)
        yield Frames(canvases[part].numpy(), np.arange(frames)[part] % 24, whole.seeds[part].numpy())


def guarded(hybrid: Classifier, batches: Batches, frames: int, size: int, on_shift: str) -> StreamResult:
    """A stream that changes at frame 400, after the guard's reference is made."""
    settings = GuardSettings(
        on_shift=on_shift, probe_frames=8, shift_lambda=6.0, collapse_threshold=1e9, regret_threshold=1e9
    )
    guard = DriftGuard(settings, hybrid.class_vectors)
    return run_stream(gated(hybrid, 160), stream(batches, 400, frames, size), guard=guard, frozen=ZeroShot(hybrid))


@pytest.mark.parametrize("on_shift", ["reset", "event"])
def test_the_guard_finds_a_change_while_the_stream_is_served_and_it_is_learnt_from_again(
    classifiers: Callable[..., Classifier], batches: Batches, on_shift: str
) -> None:
    unsure = classifiers(logit_scale=3.0)  # all classes are shown, so the guard trusts the stream
    result = guarded(unsure, batches, 520, 64, on_shift)
    (frame,) = result.detections
    assert 400 < frame <= 400 + 3 * EVERY * 8
    assert result.resets == ([(frame, "shift")] if on_shift == "reset" else [])
    if on_shift == "event":
        other = guarded(unsure, batches, 520, 13, on_shift)
        assert (other.detections, other.resets) == (result.detections, result.resets)
        assert np.array_equal(other.right, result.right)
        assert other.forward_equivalents == result.forward_equivalents
    before = guarded(unsure, batches, frame, 64, on_shift)
    assert before.forward_equivalents < 2.8
    spent_after = 520 * result.forward_equivalents - frame * before.forward_equivalents
    assert spent_after == pytest.approx(4 * (520 - frame))


def test_frames_without_frozen_rows_are_compared_with_the_zero_shot_method(
    hybrid: Classifier, batches: Batches
) -> None:
    frozen = run_stream(ZeroShot(hybrid), stream(batches, 96, 96, 8))
    result = run_stream(gated(hybrid), stream(batches, 96, 96, 8), frozen=ZeroShot(hybrid))
    assert np.array_equal(result.frozen_right, frozen.right)
    assert result.forward_equivalents == (3 * 8 * 4 + 9 * 8) / 96
    with pytest.raises(ValueError, match="'grpo-online' reports no frozen probabilities to compare with"):
        run_stream(gated(hybrid), stream(batches, 96, 96, 8))
