"""What a method owes its callers, as tests that every method inherits.

    class TestMine(MethodContract):
        def make(self) -> Method:
            return Mine(load_classifier())

pytest collects them; nothing here needs it. A source and a sink have theirs in `grpo_tta.beam.contracts`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.state import StreamState, decode_state, encode_state
from grpo_tta.types import Batch, Method, Prediction, Report, State


def assert_alike(one: Tensor, two: Tensor) -> None:
    """Labels may depend by so much on what goes through the model together."""
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


class MethodContract:
    """Inherit it, and say how the method is made. ``size``: of its model's canvases, height and width."""

    size: tuple[int, int] = (64, 64)

    def make(self) -> Method:
        """The method; the same one every time."""
        raise NotImplementedError

    def batch(self, frames: int, start: int = 0) -> Batch:
        """Coloured blobs; frame ``start + i`` is always the same."""
        coarse = [torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(start + i)) for i in range(frames)]
        canvases = F.interpolate(255 * torch.stack(coarse), self.size, mode="bilinear").to(torch.uint8)
        return Batch(canvases, torch.arange(start, start + frames) * 7919 + 1)

    def run(self, method: Method, sizes: list[int], start: int = 0) -> tuple[Tensor, State, Report]:
        """Labels of all frames in batches of these sizes, the last state and report."""
        state, labels = method.initial_state(), []
        for size in sizes:
            prediction, state, report = method.step(self.batch(size, start), state)
            labels.append(prediction.probabilities)
            start += size
        return torch.cat(labels), state, report

    def test_a_step_labels_and_counts(self) -> None:
        """Rows are distributions on the CPU, and of finite numbers; frames are counted."""
        labels, state, report = self.run(self.make(), [3, 5])
        assert labels.device.type == "cpu"
        assert_alike(labels.sum(1), torch.ones(8))
        assert (state["frames"], report.finite, len(report)) == (8, True, 5)
        if report.frozen_features is not None:
            assert_alike(report.frozen_features.norm(dim=1), torch.ones(5))

    def test_what_it_was_given_stays_as_it_was(self) -> None:
        """A failed slice is run again from the same state."""
        method = self.make()
        _, state, _ = self.run(method, [20])
        before = _encoded(state)
        first = method.step(self.batch(13, 20), state)[0]
        again = method.step(self.batch(13, 20), state)[0]
        assert _encoded(state) == before
        assert torch.equal(first.probabilities, again.probabilities)

    def test_a_state_survives_a_checkpoint(self) -> None:
        """Its names are numbers and tensors that the codec knows; what goes on from it labels as before."""
        method = self.make()
        _, state, _ = self.run(method, [20])
        back = decode_state(_encoded(state)).method
        one, two = (method.step(self.batch(13, 20), given)[0].probabilities for given in (state, back))
        assert torch.equal(one, two)

    def test_batches_change_nothing(self) -> None:
        """One frame at a time, or all at once."""
        one, two = (self.run(self.make(), sizes)[0] for sizes in ([1] * 40, [7, 33]))
        assert_alike(one, two)

    def test_streams_do_not_see_each_other(self) -> None:
        """Together in one step as alone."""
        method = self.make()
        states = [self.run(method, [20])[1], method.initial_state()]
        batches = [self.batch(5, 20), self.batch(9, 500)]
        for batch, state, together in zip(batches, states, method.step_many(batches, states), strict=True):
            alone = method.step(batch, state)[0]
            assert_alike(together[0].probabilities, alone.probabilities)

    def test_predict_learns_nothing(self) -> None:
        """Late images are labelled by it."""
        method = self.make()
        _, state, _ = self.run(method, [20])
        before = _encoded(state)
        first, again = (method.predict(self.batch(4, 900), state) for _ in range(2))
        assert isinstance(first, Prediction)
        assert torch.equal(first.probabilities, again.probabilities)
        assert _encoded(state) == before

    def test_a_pull_and_a_shift_leave_a_state(self) -> None:
        """With the same names, from which the stream goes on."""
        method = self.make()
        _, state, _ = self.run(method, [20])
        for after in (method.pull(state, 0.5), *(method.after_shift(state, reset=reset) for reset in (True, False))):
            assert after.keys() == state.keys()
            assert bool(torch.isfinite(method.step(self.batch(4, 20), after)[0].probabilities).all())


def _encoded(state: State) -> bytes:
    return encode_state(StreamState(dict(state), {}, {}, {}, "model", "method", "settings"))
