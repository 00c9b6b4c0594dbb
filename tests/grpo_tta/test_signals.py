"""What each signal of the guard owes, and that two of them keep apart."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from grpo_tta import DriftGuard, ReferenceBuilder, Report, State
from grpo_tta.contracts import DriftSignalContract
from grpo_tta.guard.collapse import LostDiversity, Regret
from grpo_tta.guard.shift import Shift


class TestShift(DriftSignalContract):
    signal = Shift

    def changed(self, report: Report) -> Report:
        return replace(report, frozen_features=report.frozen_features + 0.3 * torch.eye(self.dimensions)[0])


class TestShiftFromASharedReference(TestShift):
    @pytest.fixture(autouse=True)
    def shared(self) -> None:
        builder = ReferenceBuilder(self.class_vectors(), "model", self.settings.probe_frames)
        seen = self.frames(320, 77)
        builder.add(seen.frozen_features, seen.frozen_probabilities)
        self.reference = builder.build()

    def test_a_stream_that_begins_shifted_is_found(self) -> None:
        assert self.run(self.changed(self.frames(80, 8)), self.make().initial_state())[0]


class TestLostDiversity(DriftSignalContract):
    signal = LostDiversity

    def changed(self, report: Report) -> Report:
        one = F.one_hot(torch.zeros(len(report), dtype=torch.int64), self.classes).float()
        return replace(report, probabilities=one)


class TestRegret(DriftSignalContract):
    signal = Regret

    def changed(self, report: Report) -> Report:
        return replace(report, probabilities=report.probabilities.roll(1, 1))


def test_two_signals_with_a_column_of_one_name_are_refused() -> None:
    class Other(Shift):
        name = "other"

    with pytest.raises(ValueError, match="the signal other has a column 'course', which is another's"):
        DriftGuard(None, torch.eye(3), signals=[Shift, Other])


def test_a_signal_that_changes_what_is_not_its_own_is_refused() -> None:
    class Greedy(Regret):
        def cleared(self, state: State) -> State:
            return {**super().cleared(state), "total": 0}

    guard = DriftGuard(None, torch.eye(3), signals=[Greedy])
    with pytest.raises(ValueError, match="the signal regret gave a column 'total', which is none of its own"):
        guard.manual(guard.initial_state())
