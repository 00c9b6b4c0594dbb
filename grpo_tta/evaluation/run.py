"""Run a method over a stream as a deployment would, and note for every frame whether it was right.

The guard's decision is applied as in the pipeline: labels of a batch first, then the reset or pull, and batches end at
the method's cadence and at the guard's probes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from grpo_tta.evaluation.streams import Frames
from grpo_tta.guard import Decision, DriftGuard
from grpo_tta.types import Batch, Method, State

__all__ = ["StreamResult", "run_stream"]


@dataclass(frozen=True)
class StreamResult:
    """``labels``, ``right``, ``frozen_right`` and ``confidence`` are ``[N]``, frame by frame."""

    labels: NDArray[np.int64]
    right: NDArray[np.bool_]
    frozen_right: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    resets: list[tuple[int, str]]
    """Frames seen when it happened, and the cause; ``manual`` for those asked for."""
    forward_equivalents: float
    """An image."""


def run_stream(
    method: Method, frames: Iterable[Frames], *, guard: DriftGuard | None = None, reset_at: Iterable[int] = ()
) -> StreamResult:
    """Label a stream from the initial state; ``reset_at`` are frames before which the state is reset.

    Every part of ``frames`` is cut further where the method's cadence or ``reset_at`` asks for it. The method must
    report the frozen encoder's probabilities; raises ``ValueError`` where it does not.
    """
    run = _Run(method, guard, sorted(set(reset_at)))
    for part in frames:
        run.take(part)
    return run.result()


class _Run:
    def __init__(self, method: Method, guard: DriftGuard | None, reset_at: list[int]) -> None:
        self.method, self.guard, self.reset_at = method, guard, reset_at
        self.state: State = method.initial_state()
        self.guard_state: State = guard.initial_state() if guard is not None else {}
        self.seen = 0
        self.cost = 0.0
        self.resets: list[tuple[int, str]] = []
        self.rows: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []

    def take(self, part: Frames) -> None:
        """Step through consecutive frames."""
        start = 0
        while start < len(part.labels):
            if self.reset_at and self.reset_at[0] == self.seen:
                self.reset_at.pop(0)
                self.state = self.method.initial_state()
                self.resets.append((self.seen, "manual"))
            stop = start + self._room(len(part.labels) - start)
            self._step(part.canvases[start:stop], part.seeds[start:stop], part.labels[start:stop])
            start = stop

    def _room(self, left: int) -> int:
        cadence = self.method.cadence
        if cadence is not None:
            left = min(left, cadence - int(self.state.get("frames", 0)) % cadence)
        if self.guard is not None and self.guard.settings.enabled:
            probe = self.guard.settings.probe_frames
            left = min(left, probe - int(self.guard_state.get("frames", 0)) % probe)
        return min(left, self.reset_at[0] - self.seen) if self.reset_at else left

    def _step(self, canvases: NDArray[np.uint8], seeds: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        batch = Batch(torch.from_numpy(canvases), torch.from_numpy(seeds))
        prediction, self.state, report = self.method.step(batch, self.state)
        if report.frozen_probabilities is None:
            raise ValueError(f"method {self.method.name!r} reports no frozen probabilities to compare with")
        decision = Decision()
        if self.guard is not None:
            decision, self.guard_state = self.guard.step(report, self.guard_state)
        probabilities = report.frozen_probabilities if decision.serve_frozen else prediction.probabilities
        best, index = probabilities.max(1)
        frozen = report.frozen_probabilities.argmax(1)
        self.rows.append((labels, index.numpy(), frozen.numpy(), best.double().numpy()))
        self.seen += len(labels)
        self.cost += report.forward_equivalents
        self._apply(decision)

    def _apply(self, decision: Decision) -> None:
        if decision.serve_frozen:
            self.state = {**self.method.initial_state(), "frames": self.state.get("frames", 0)}
        if decision.action == "pull":
            self.state = self.method.pull(self.state, decision.pull)
        elif decision.action == "reset":
            self.state = self.method.initial_state()
            self.resets.append((self.seen, str(decision.cause)))

    def result(self) -> StreamResult:
        """Of all frames so far."""
        if not self.rows:
            raise ValueError("a stream must hold a frame, got none")
        labels, adapted, frozen, confidence = (np.concatenate(column) for column in zip(*self.rows, strict=True))
        return StreamResult(
            labels, adapted == labels, frozen == labels, confidence, self.resets, self.cost / len(labels)
        )
