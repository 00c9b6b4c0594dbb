"""Many streams in one forward: each goes on as if it were alone, but for rounding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from method_runs import assert_close, run

from grpo_tta import METHODS, Batch, Classifier, GrpoSettings, State, create_method
from grpo_tta.methods.packed import PackedMethod
from grpo_tta.owners import stretches
from grpo_tta.types import Method

Batches = Callable[..., Batch]
FRAMES = (1, 7, 16, 23)
"""Of four streams in one step: within a window, up to a border, over one."""
FEW = (1, 2, 4, 3)
"""Where a state is two counts, a label is its image's own and there are no windows."""
SETTINGS: dict[str, list[Any]] = {
    "grpo": [
        {},
        {"views": 3},
        {"tune": "full"},
        {"tune": "lora"},
        {"gate_frames": 16},
        {"similarity": "plain", "alignment": "frozen"},
        {"mode": "episodic", "views": 3},
    ],
    **{
        name: [{key: value for key, value in {"views": 2, "inner_steps": 1}.items() if METHODS[name].has(key)}]
        for name in METHODS
        if name != "grpo"
    },
}


def made(name: str, changes: dict[str, Any], classifier: Classifier) -> Method:
    if changes.get("mode") == "episodic":
        return create_method(name, classifier, GrpoSettings.episodic(group_size=4, views=3, images_at_once=4))
    return create_method(name, classifier, METHODS[name].settings(**changes))


@pytest.mark.parametrize(("name", "changes"), [(name, one) for name, each in SETTINGS.items() for one in each])
def test_streams_step_together_as_they_do_alone(
    name: str, changes: dict[str, Any], vit: Classifier, batches: Batches
) -> None:
    method = made(name, changes, vit)
    frames = FEW if method.initial_state().keys() == {"frames", "updates"} else FRAMES
    states: list[State] = []
    for number in range(len(frames)):  # each has another past, the first has none
        batch = batches(5 * number + 1, start=1000 * number)
        states.append(run(method, batch, 16)[1] if number else method.initial_state())
    parts = [batches(count, start=1000 * number + 300) for number, count in enumerate(frames)]
    together = method.step_many(parts, states)
    served = method.predict_many(parts, states)
    for part, state, labels, (prediction, after, report) in zip(parts, states, served, together, strict=True):
        torch.testing.assert_close(
            labels.probabilities, method.predict(part, state).probabilities, atol=1e-4, rtol=1e-3
        )
        alone, expected, expected_report = method.step(part, state)
        torch.testing.assert_close(prediction.probabilities, alone.probabilities, atol=1e-4, rtol=1e-3)
        assert_close(after, expected)
        assert len(report) == len(part)
        assert report.finite is expected_report.finite is True
        assert report.forward_equivalents == pytest.approx(expected_report.forward_equivalents)
        assert (report.frozen_features is None) is (expected_report.frozen_features is None)
        assert [(u.frame, u.update, u.images) for u in report.updates] == [
            (u.frame, u.update, u.images) for u in expected_report.updates
        ]
        assert [u.gradient_norm for u in report.updates] == pytest.approx(
            [u.gradient_norm for u in expected_report.updates], rel=1e-2
        )


@pytest.mark.parametrize("name", ["grpo", "tent", "whitened", "prior-correction"])
def test_a_stream_that_is_not_finite_leaves_the_others_as_they_were(
    name: str, vit: Classifier, batches: Batches
) -> None:
    method = made(name, {}, vit)
    assert isinstance(method, PackedMethod)
    state = run(method, batches(9), 9)[1]
    broken = next(name for name in ("learnt", "theta", "marginal") if name in state)
    ill: State = {**state, broken: state[broken] * float("nan")}
    parts = [batches(4, start=20), batches(4, start=40), batches(4, start=60)]
    first, middle, last = method.step_many(parts, [state, ill, state])
    assert not middle[2].finite
    for found, part in ((first, parts[0]), (last, parts[2])):
        assert found[2].finite
        prediction, expected, _ = method.step(part, state)
        torch.testing.assert_close(found[0].probabilities, prediction.probabilities, atol=1e-4, rtol=1e-3)
        assert_close(found[1], expected)


def test_one_forward_serves_all_streams(vit: Classifier, batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    method, sizes = made("grpo", {}, vit), []
    embeddings = Classifier.embeddings

    def counted(self: Classifier, pixels: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(pixels))
        return embeddings(self, pixels, *rest)

    monkeypatch.setattr(Classifier, "embeddings", counted)
    method.step_many([batches(4, start=10 * number) for number in range(8)], [method.initial_state()] * 8)
    assert sizes == [32, 32]  # the frozen encoder's and the adapted one's
    method.predict_many([batches(4, start=10 * number) for number in range(8)], [method.initial_state()] * 8)
    assert sizes == [32, 32, 32]


def test_stretches_take_every_frame_once_and_cross_no_border() -> None:
    counts, seen, taken = [1, 7, 40], [0, 12, 15], []
    done = list(seen)
    for streams, sizes, rows in stretches(counts, seen, 16):
        starts = {0: 0, 1: 1, 2: 8}
        for stream, size, part in zip(streams, sizes, torch.split(rows, sizes), strict=True):
            assert done[stream] // 16 == (done[stream] + size - 1) // 16
            first = starts[stream] + done[stream] - seen[stream]
            assert part.tolist() == list(range(first, first + size))
            done[stream] += size
            taken += part.tolist()
    assert sorted(taken) == list(range(48))
    assert done == [1, 19, 55]
    assert [sizes for _, sizes, _ in stretches(counts, seen, None)] == [counts]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_streams_step_together_on_cuda_as_on_the_cpu(classifiers: Callable[..., Classifier], batches: Batches) -> None:
    parts = [batches(count, start=1000 * number) for number, count in enumerate(FRAMES)]
    results = []
    for device in ("cpu", "cuda"):
        method = made("grpo", {}, classifiers(device=device))
        results.append(method.step_many(parts, [method.initial_state()] * len(parts)))
    for (expected, _, _), (found, state, report) in zip(*results, strict=True):
        torch.testing.assert_close(found.probabilities, expected.probabilities, atol=1e-2, rtol=0)
        assert report.finite
        assert all(value.device.type == "cpu" for value in state.values() if isinstance(value, torch.Tensor))
