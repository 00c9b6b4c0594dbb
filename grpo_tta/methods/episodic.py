"""What methods share for which an image's label depends on the image alone: chunks of a batch, reports, episodes.

State: ``frames`` and ``updates`` (one a batch of a method that tunes), nothing else, so a reset changes no label.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
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
    figures: Tensor | None = None
    """What the method logs of each image, ``[B, L]`` in the order of ``logged``; ``None`` where nothing is tuned."""
    norms: Tensor | None = None
    """Of each image's first gradient, ``[B]``."""

    @classmethod
    def joined(cls, chunks: "Sequence[Episodes]") -> "Episodes":
        """The images of several, one after another."""
        values = {own.name: [getattr(chunk, own.name) for chunk in chunks] for own in fields(cls)}
        return cls(**{name: torch.cat(parts) for name, parts in values.items() if parts[0] is not None})

    def split(self, counts: list[int]) -> "list[Episodes]":
        """So many images each."""
        columns = (getattr(self, own.name) for own in fields(self))
        parts = ([None] * len(counts) if whole is None else torch.split(whole, counts) for whole in columns)
        return [Episodes(*row) for row in zip(*parts, strict=True)]


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
        return self.step_many([batch], [state])[0]

    def step_many(self, batches: Sequence[Batch], states: Sequence[State]) -> list[tuple[Prediction, State, Report]]:
        """The images of all streams together, ``images_at_once`` in a forward."""
        for batch in batches:
            check_not_empty(batch)
        together, at_once = Batch.joined(batches), self._images_at_once
        chunks = [self._adapt(together[start : start + at_once]) for start in range(0, len(together), at_once)]
        own = Episodes.joined(chunks).split([len(batch) for batch in batches])
        return [self._told(episodes, state) for episodes, state in zip(own, states, strict=True)]

    def _told(self, episodes: Episodes, state: State) -> tuple[Prediction, State, Report]:
        """Of one stream."""
        count, figures, norms = len(episodes.probabilities), episodes.figures, episodes.norms
        new_state: State = {
            "frames": int(state["frames"]) + count,
            "updates": int(state["updates"]) + (figures is not None),
        }
        updates = []
        finite = bool(torch.isfinite(episodes.probabilities).all())
        if figures is not None and norms is not None:
            finite = finite and bool(torch.isfinite(figures).all())
            update = update_of(
                dict(zip(self.logged, figures.mean(0).tolist(), strict=True)),
                frame=int(new_state["frames"]),
                update=int(new_state["updates"]),
                images=count,
                gradient_norm=float(norms.mean()),
                forward_equivalents=self._cost,
            )
            updates.append(update)
        report = Report(
            probabilities=episodes.probabilities,
            frozen_probabilities=episodes.frozen_probabilities,
            frozen_features=episodes.frozen_features,
            updates=tuple(updates),
            forward_equivalents=self._cost * count,
            finite=finite,
        )
        return Prediction(episodes.probabilities, report.frozen_probabilities), new_state, report

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
