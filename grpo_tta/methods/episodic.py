"""What methods share for which an image's label depends on the image alone: chunks of a batch, reports, episodes.

State: ``frames`` and ``updates`` (one a batch of a method that tunes), nothing else, so a reset changes no label.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta.classifier import Classifier
from grpo_tta.methods.online import check_not_empty, update_of
from grpo_tta.optimiser import adam
from grpo_tta.per_image import PerImageTower
from grpo_tta.types import Batch, Method, Prediction, Report, State


@dataclass(frozen=True)
class Episodes:
    """A chunk of images after their own episodes, on CPU."""

    probabilities: Tensor
    frozen_probabilities: Tensor
    frozen_features: Tensor
    sums: Tensor | None = None
    """Sums over the images of what the method logs, in the order of its ``logged``; ``None`` where nothing is tuned."""
    gradient_norm: float = 0.0
    """Sum over the images of their first gradients' norms."""


class EpisodicMethod(Method):
    """Chunks, labels and reports. ``cost``: forward-equivalents an image."""

    logged: ClassVar[tuple[str, ...]] = ()
    """Names of an update's figures; empty where nothing is tuned, and then there are no updates."""

    def __init__(self, classifier: Classifier, images_at_once: int, cost: float) -> None:
        self.classifier = classifier
        self._images_at_once = images_at_once
        self._cost = cost

    @abstractmethod
    def _adapt(self, batch: Batch) -> Episodes:
        """The episodes of at most ``images_at_once`` images, in one forward where that can be."""

    def initial_state(self) -> State:
        """Counters at zero."""
        return {"frames": 0, "updates": 0}

    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        """Label ``batch``; only the counters move. Raises ``ValueError`` for an empty batch."""
        check_not_empty(batch)
        at_once = self._images_at_once
        chunks = [self._adapt(batch[start : start + at_once]) for start in range(0, len(batch), at_once)]
        probabilities = torch.cat([chunk.probabilities for chunk in chunks])
        sums = torch.stack([chunk.sums for chunk in chunks if chunk.sums is not None]).sum(0) if self.logged else None
        new_state: State = {
            "frames": int(state["frames"]) + len(batch),
            "updates": int(state["updates"]) + (sums is not None),
        }
        updates = []
        if sums is not None:
            update = update_of(
                dict(zip(self.logged, (sums / len(batch)).tolist(), strict=True)),
                frame=int(new_state["frames"]),
                update=int(new_state["updates"]),
                images=len(batch),
                gradient_norm=sum(chunk.gradient_norm for chunk in chunks) / len(batch),
                forward_equivalents=self._cost,
            )
            updates.append(update)
        report = Report(
            probabilities=probabilities,
            frozen_probabilities=torch.cat([chunk.frozen_probabilities for chunk in chunks]),
            frozen_features=torch.cat([chunk.frozen_features for chunk in chunks]),
            updates=tuple(updates),
            forward_equivalents=self._cost * len(batch),
            finite=bool(torch.isfinite(probabilities).all()) and (sums is None or bool(torch.isfinite(sums).all())),
        )
        return Prediction(probabilities, report.frozen_probabilities), new_state, report

    def predict(self, batch: Batch, state: State) -> Prediction:
        """The labels of ``step``: an episode starts and ends with its image."""
        return self.step(batch, state)[0]


@dataclass(frozen=True)
class Tuned:
    """Where per-image fast weights ended, ``[B, P]``, and the losses and gradient norms ``[B]`` of the first step."""

    theta: Tensor
    losses: Tensor
    norms: Tensor


def tune_each(
    tower: PerImageTower,
    views: Tensor,
    start: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int,
    rate: float,
    decay: float = 0.0,
) -> Tuned:
    """Adam steps on every image's own fast weights from ``start`` ``[P]``, its trained ``views`` ``[B, S, 3, H, W]``
    in every step; ``loss`` maps unit features ``[B, S, D]`` to ``[B]``."""
    theta = start.expand(len(views), -1)
    first = second = torch.zeros_like(theta)
    seen: list[tuple[Tensor, Tensor]] = []
    for number in range(1, steps + 1):
        theta = theta.detach().requires_grad_()
        losses = loss(tower.features(views, theta))
        (gradient,) = torch.autograd.grad(losses.sum(), theta)
        seen.append((losses.detach(), gradient.norm(dim=1)))
        with torch.no_grad():
            theta, first, second = adam(theta, gradient, first, second, step=number, rate=rate, decay=decay)
    return Tuned(theta.detach(), *seen[0])
