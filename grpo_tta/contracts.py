"""What a method, and a drift signal, owes its callers, as tests that every one inherits.

    class TestMine(MethodContract):
        def make(self) -> Method:
            return Mine(load_classifier())

pytest collects them; nothing here needs it. A source and a sink have theirs in `grpo_tta.beam.contracts`.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.guard import SIGNALS, Decision, DriftGuard, GuardSettings, Reference, Signal
from grpo_tta.state import StreamState, decode_state, encode_state, tensor_bytes
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
        """One frame at a time, or more at once: the same labels, and as many updates where these come by frames."""
        method = self.make()
        one, two = (self.run(method, sizes) for sizes in ([1] * 20, [7, 13]))
        assert_alike(one[0], two[0])
        if method.cadence is not None:
            assert one[1]["updates"] == two[1]["updates"]

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

    def test_how_large_a_state_becomes_is_known(self) -> None:
        """A slice and a checkpoint are bounded by it."""
        method = self.make()
        state, most = method.initial_state(), tensor_bytes(method.initial_state(), method.most_rows)
        for start in range(0, 40, 5):
            _, state, _ = method.step(self.batch(5, start), state)
            assert tensor_bytes(state) <= most

    def test_a_pull_and_a_shift_leave_a_state(self) -> None:
        """With the same names, from which the stream goes on."""
        method = self.make()
        _, state, _ = self.run(method, [20])
        for after in (method.pull(state, 0.5), *(method.after_shift(state, reset=reset) for reset in (True, False))):
            assert after.keys() == state.keys()
            assert bool(torch.isfinite(method.step(self.batch(4, 20), after)[0].probabilities).all())


class DriftSignalContract:
    """Inherit it, name the signal, and say what it is to notice. ``reference``: a shared one, for the signals that
    compare with it; of `frames`, if any."""

    signal: type[Signal]
    reference: Reference | None = None
    settings = GuardSettings(probe_frames=8, reference_probes=20, collapse_probes=4, backstop_frames=0)
    classes, dimensions = 6, 16

    def changed(self, report: Report) -> Report:
        """The same frames, with what the signal is for."""
        raise NotImplementedError

    def frames(self, count: int, seed: int) -> Report:
        """Of a stream as it is, through an adapted encoder that is as the frozen one."""
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.randint(self.classes, (count,), generator=generator)
        noise = 0.1 * torch.randn(count, self.dimensions, generator=generator)
        probabilities = 0.9 * F.one_hot(numbers, self.classes) + 0.1 / self.classes
        return Report(probabilities, probabilities, 0.25 * self.class_vectors()[numbers] + noise)

    def class_vectors(self) -> Tensor:
        """Unit rows ``[C, D]``."""
        generator = torch.Generator().manual_seed(1)
        return F.normalize(torch.randn(self.classes, self.dimensions, generator=generator), dim=1)

    def make(self) -> DriftGuard:
        """A guard that watches this signal alone."""
        return DriftGuard(self.settings, self.class_vectors(), self.reference, [self.signal])

    def run(
        self, report: Report, state: State, batch: int = 8, guard: DriftGuard | None = None
    ) -> tuple[list[tuple[int, Decision]], State]:
        """Frames in batches that end at probes, through ``guard`` or that of `make`: what was decided after how many of
        them, and the last state."""
        guard, found, start = guard or self.make(), [], 0
        while start < len(report):
            room = self.settings.probe_frames - int(state["frames"]) % self.settings.probe_frames
            stop = min(len(report), start + min(batch, room))
            decision, state = guard.step(_part(report, start, stop), state)
            start = stop
            if decision.events:
                found.append((start, decision))
        return found, state

    def ready(self) -> State:
        """The state of a stream that stayed as it is for 40 probes."""
        return self.run(self.frames(320, 0), self.make().initial_state())[1]

    def test_a_stream_that_stays_as_it_is_raises_nothing(self) -> None:
        """In 200 probes; and there is something to say of it."""
        found, state = self.run(self.frames(1600, 5), self.make().initial_state())
        assert found == []
        assert self.make().standing(state).statistics.keys() == {self.signal.name}

    def test_what_it_is_for_is_told(self) -> None:
        """Within 20 probes, with the statistic that stands over the threshold."""
        found, _ = self.run(self.changed(self.frames(160, 9)), self.ready())
        decision = found[0][1]
        (event,) = decision.events
        told = event.detector, event.signal, event.message
        assert told == (self.signal.name, self.signal.cause, self.signal.message)
        assert event.threshold == self.make().thresholds()[self.signal.name] < event.statistic
        assert (decision.action, event.reset) == (("none", False) if event.signal == "shift" else ("reset", True))

    def test_batches_change_nothing(self) -> None:
        """Decisions fall on the same frames."""
        parts = self.frames(160, 5), self.changed(self.frames(160, 9))
        once = [self.run(part, self.ready())[0] for part in parts]
        again = [self.run(part, self.ready(), batch=3)[0] for part in parts]
        frames = [[(frame, decision.action) for frame, decision in found] for found in once]
        assert frames == [[(frame, decision.action) for frame, decision in found] for found in again]
        assert frames[1]

    def test_a_state_is_left_alone_and_survives_a_checkpoint(self) -> None:
        """A failed slice is run again from the same state, maybe by another process."""
        state = self.ready()
        before = _encoded(state)
        back = decode_state(before).method
        later = self.changed(self.frames(24, 9))
        assert _encoded(self.run(later, state)[1]) == _encoded(self.run(later, back)[1])
        assert _encoded(state) == before

    def test_streams_do_not_see_each_other(self) -> None:
        """Together in one step as alone."""
        guard, states = self.make(), [self.ready(), self.make().initial_state()]
        reports = [self.frames(8, 3), self.changed(self.frames(5, 9))]
        together = [after for _, after in guard.step_many(reports, states)]
        alone = [guard.step(report, state)[1] for report, state in zip(reports, states, strict=True)]
        assert [_encoded(state) for state in together] == [_encoded(state) for state in alone]

    def test_beside_the_others_it_says_the_same(self) -> None:
        """And changes nothing of theirs; in a state from before it was watched it begins."""
        others = [signal for signal in SIGNALS if signal is not self.signal]
        whole = DriftGuard(self.settings, self.class_vectors(), self.reference, [*others, self.signal])
        without = DriftGuard(self.settings, self.class_vectors(), self.reference, others)
        seen, before = self.frames(320, 0), without.initial_state()
        state, alone = (self.run(seen, before, guard=guard)[1] for guard in (whole, without))
        told = dict(whole.standing(state).statistics)
        assert told.pop(self.signal.name) == self.make().standing(self.ready()).statistics[self.signal.name]
        assert told == without.standing(alone).statistics

    def test_how_large_a_state_becomes_is_known(self) -> None:
        """As for a method."""
        guard = self.make()
        state, most = guard.initial_state(), guard.largest_state_bytes()
        for number in range(30):
            _, state = guard.step(self.frames(8, number), state)
            assert tensor_bytes(state) <= most

    def test_a_signal_looks_at_what_its_cause_says(self) -> None:
        """A shift is of what the frozen encoder sees; an encoder that is as the frozen one has not collapsed."""
        guard, plain, changed = self.make(), self.frames(160, 3), self.changed(self.frames(160, 9))
        if self.signal.cause == "shift":
            other = replace(plain, probabilities=plain.probabilities.roll(1, 1))
            one, two = (self.run(report, self.ready())[1] for report in (plain, other))
            assert guard.standing(one).statistics == guard.standing(two).statistics
            return
        assert changed.frozen_probabilities is not None
        _, state = self.run(replace(changed, probabilities=changed.frozen_probabilities), self.ready())
        assert guard.standing(state).statistics[self.signal.name] <= 1e-6


def _part(report: Report, start: int, stop: int) -> Report:
    assert report.frozen_probabilities is not None
    assert report.frozen_features is not None
    return replace(
        report,
        probabilities=report.probabilities[start:stop],
        frozen_probabilities=report.frozen_probabilities[start:stop],
        frozen_features=report.frozen_features[start:stop],
    )


def _encoded(state: State) -> bytes:
    return encode_state(StreamState(dict(state), {}, {}, {}, "model", "method", "settings"))
