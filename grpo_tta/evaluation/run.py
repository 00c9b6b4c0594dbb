"""Run a method over a stream as a deployment would, and note for every frame whether it was right.

Method and guard run as in the pipeline (`grpo_tta.guard.guarded`): batches end at the method's cadence and at the
guard's probes.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_tta.evaluation.streams import Frames
from grpo_tta.guard import DriftGuard
from grpo_tta.guard.guarded import GuardedMethod
from grpo_tta.policy import normalised_entropy
from grpo_tta.state import tensor_bytes
from grpo_tta.types import Batch, Method, Report, State

__all__ = ["StreamResult", "run_stream"]


@dataclass(frozen=True)
class StreamResult:
    """All arrays are ``[N]``, frame by frame; confidences are probabilities of the best class."""

    labels: NDArray[np.int64]
    right: NDArray[np.bool_]
    frozen_right: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    frozen_confidence: NDArray[np.float64]
    resets: list[tuple[int, str]]
    """Frames seen when it happened, and the cause; ``manual`` for those asked for."""
    forward_equivalents: float
    """An image, all that was spent."""
    reporting_equivalents: float
    """An image: how much of it went into a frozen forward that the method itself has no use for."""
    brier: NDArray[np.float64]
    frozen_brier: NDArray[np.float64]
    """Squared distance of the probabilities to the truth, 0 to 2."""
    predicted: NDArray[np.int64]
    frozen_predicted: NDArray[np.int64]
    entropy: NDArray[np.float64]
    frozen_entropy: NDArray[np.float64]
    """Of the probabilities, over ln C, 0 to 1."""
    ill: NDArray[np.bool_]
    """The guard was ill: what is served is the frozen encoder's."""
    detections: list[int]
    """Frames seen when the guard told of a shift, whether it led to a reset or not."""
    seconds: float
    """Spent in method and guard; making frames is not counted."""
    state_bytes: int
    """Of the method's state, at its largest."""
    frozen_reported: bool = True
    """The method itself gave the frozen probabilities of every frame."""


def run_stream(
    method: Method,
    frames: Iterable[Frames],
    *,
    guard: DriftGuard | None = None,
    reset_at: Iterable[int] = (),
    frozen: Method | None = None,
) -> StreamResult:
    """Label a stream from the initial state; ``reset_at`` are frames before which the state is reset.

    Every part of ``frames`` is cut further where the method's cadence or ``reset_at`` asks for it. Frames whose frozen
    probabilities the method does not report are compared with ``frozen``, the zero-shot method over the same
    classifier, which the guard does not see and whose cost and time are not counted; raises ``ValueError`` where that
    is ``None``.
    """
    run = _Run(method, guard, sorted(set(reset_at)), frozen)
    for part in frames:
        run.take(part)
    return run.result()


class _Run:
    def __init__(self, method: Method, guard: DriftGuard | None, reset_at: list[int], frozen: Method | None) -> None:
        self.method, self.reset_at, self.frozen_method = method, reset_at, frozen
        self.guarded = GuardedMethod(method, guard)
        self.state: State = method.initial_state()
        self.guard_state: State = guard.initial_state() if guard is not None else {}
        self.seen = 0
        self.cost = self.reporting_cost = 0.0
        self.resets: list[tuple[int, str]] = []
        self.labels: list[NDArray[np.int64]] = []
        self.adapted: list[Tensor] = []
        self.frozen: list[Tensor] = []
        self.ill: list[NDArray[np.bool_]] = []
        self.detections: list[int] = []
        self.seconds = 0.0
        self.state_bytes = 0
        self.frozen_reported = True

    def take(self, part: Frames) -> None:
        """Step through consecutive frames."""
        start = 0
        while start < len(part.labels):
            if self.reset_at and self.reset_at[0] == self.seen:
                self.reset_at.pop(0)
                self.state = self.method.after_shift(self.state, reset=True)
                self.resets.append((self.seen, "manual"))
            stop = start + self._room(len(part.labels) - start)
            self._step(part.canvases[start:stop], part.seeds[start:stop], part.labels[start:stop])
            start = stop

    def _room(self, left: int) -> int:
        room = self.guarded.room(int(self.state.get("frames", 0)), int(self.guard_state.get("frames", 0)))
        left = left if room is None else min(left, room)
        return min(left, self.reset_at[0] - self.seen) if self.reset_at else left

    def _step(self, canvases: NDArray[np.uint8], seeds: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        batch = Batch(torch.from_numpy(canvases), torch.from_numpy(seeds))
        started = time.perf_counter()
        (step,) = self.guarded.step_many([batch], [self.state], [self.guard_state])
        self.seconds += time.perf_counter() - started
        self.state, self.guard_state = step.after, step.guard
        self.state_bytes = max(self.state_bytes, tensor_bytes(step.method))
        self.labels.append(labels)
        truth = torch.from_numpy(labels)
        self.adapted.append(_judged(step.prediction.probabilities, truth))
        self.frozen.append(_judged(self._frozen(batch, step.report), truth))
        self.ill.append(np.full(len(labels), step.decision.serve_frozen))
        self.seen += len(labels)
        self.detections += [self.seen] * step.decision.shifted
        self.cost += step.report.forward_equivalents
        self.reporting_cost += step.report.reporting_equivalents
        if step.decision.action == "reset":
            self.resets.append((self.seen, str(step.decision.cause)))

    def _frozen(self, batch: Batch, report: Report) -> Tensor:
        """The frozen encoder's probabilities ``[B, C]``."""
        if report.frozen_probabilities is not None:
            return report.frozen_probabilities
        if self.frozen_method is None:
            raise ValueError(f"method {self.method.name!r} reports no frozen probabilities to compare with")
        self.frozen_reported = False
        return self.frozen_method.predict(batch, self.frozen_method.initial_state()).probabilities

    def result(self) -> StreamResult:
        """Of all frames so far."""
        if not self.labels:
            raise ValueError("a stream must hold a frame, got none")
        labels = np.concatenate(self.labels)
        confidence, adapted, brier, unsure = torch.cat(self.adapted).T.numpy()
        frozen_confidence, frozen, frozen_brier, frozen_unsure = torch.cat(self.frozen).T.numpy()
        return StreamResult(
            labels=labels,
            right=adapted == labels,
            frozen_right=frozen == labels,
            confidence=confidence,
            frozen_confidence=frozen_confidence,
            resets=self.resets,
            forward_equivalents=self.cost / len(labels),
            reporting_equivalents=self.reporting_cost / len(labels),
            brier=brier,
            frozen_brier=frozen_brier,
            predicted=adapted.astype(np.int64),
            frozen_predicted=frozen.astype(np.int64),
            entropy=unsure,
            frozen_entropy=frozen_unsure,
            ill=np.concatenate(self.ill),
            detections=self.detections,
            seconds=self.seconds,
            state_bytes=self.state_bytes,
            frozen_reported=self.frozen_reported,
        )


def _judged(probabilities: Tensor, truth: Tensor) -> Tensor:
    """``[B, 4]`` float64: the best class's probability, the class, the Brier score, and the entropy over ln C."""
    probabilities = probabilities.double()
    best, index = probabilities.max(1)
    brier = probabilities.square().sum(1) - 2 * probabilities.gather(1, truth[:, None])[:, 0] + 1
    return torch.stack([best, index.double(), brier, normalised_entropy(probabilities)], 1)
