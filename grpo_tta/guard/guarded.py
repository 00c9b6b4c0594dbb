"""A method and its guard as they are run: what is served, what is decided, and where a batch has to end.

Labels of a batch come first, then the guard's reset or pull. A prediction that is not finite is never served: the
frozen encoder's stands in for it, as it does while the guard is ill.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from grpo_tta.guard.drift import Decision, DriftGuard
from grpo_tta.types import Batch, Method, Prediction, Report, State


class Guarded(NamedTuple):
    """A batch of one stream through method and guard."""

    prediction: Prediction
    """What labels come from."""
    report: Report
    decision: Decision
    method: State
    """The method's, as the step left it."""
    guard: State
    after: State
    """The method's, to go on with: the decision was applied."""


class GuardedMethod:
    """Steps streams; holds nothing of any. ``guard`` ``None``: nothing is watched."""

    def __init__(self, method: Method, guard: DriftGuard | None) -> None:
        self.method = method
        self.guard = guard

    def room(self, frames: int, watched: int) -> int | None:
        """How many frames a stream's next batch may hold so that updates and the guard's decisions fall on the same
        frames whatever the batches; ``None``: any number. ``frames``, ``watched``: counts of the method's and of the
        guard's state."""
        rooms = []
        if self.method.cadence is not None:
            rooms.append(self.method.cadence - frames % self.method.cadence)
        if self.guard is not None and self.guard.settings.enabled:
            rooms.append(self.guard.settings.probe_frames - watched % self.guard.settings.probe_frames)
        return min(rooms, default=None)

    def step_many(self, batches: Sequence[Batch], methods: Sequence[State], guards: Sequence[State]) -> list[Guarded]:
        """A batch of each stream from its two states, none of which is modified."""
        steps = self.method.step_many(batches, methods)
        quiet = [(Decision(), guard) for guard in guards]
        watched = quiet if self.guard is None else self.guard.step_many([step[2] for step in steps], guards)
        return [
            Guarded(
                self._served(batch, prediction, decision),
                report,
                decision,
                method,
                guard,
                decision.applied(self.method, method),
            )
            for batch, (prediction, method, report), (decision, guard) in zip(batches, steps, watched, strict=True)
        ]

    def frozen(self, batch: Batch) -> Tensor:
        """Probabilities ``[B, C]`` of a method that has learnt nothing, which are the frozen encoder's."""
        return self.method.predict(batch, self.method.initial_state()).probabilities

    def _served(self, batch: Batch, prediction: Prediction, decision: Decision) -> Prediction:
        if not decision.serve_frozen and bool(torch.isfinite(prediction.probabilities).all()):
            return prediction
        frozen = prediction.frozen if prediction.frozen is not None else self.frozen(batch)
        return Prediction(frozen, frozen)
