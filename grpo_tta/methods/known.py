"""What a method knows of a stream by its features: the frozen encoder's, and where one is tuned the adapted ones.

Features of a window of frames lie in rings, row i that of the last frame of number i modulo the window's length. Where
a window ends everything else is brought up to date from them, so that batches of any size give the same. [ours]
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from grpo_tta.classifier import Classifier
from grpo_tta.diversity import Diversity
from grpo_tta.rewards import kept_after, runner_up, update_marginal
from grpo_tta.types import State
from grpo_tta.whitening import Moments, Similarity, weight

_FROZEN_MEMORY, _OWN_MEMORY = 1500.0, 600.0
"""Of the statistics of frozen and of adapted features, in frames: the latter move as the encoder learns. [ours]"""
_SHORTEST_MEMORY = 10
"""In windows."""
_RING_TYPE = torch.float16


@dataclass(frozen=True)
class Window:
    """The window that a ring holds: probabilities ``[E, C]`` of the frozen encoder, of it in the stream's metric, and
    of the adapted encoder in its own (``None`` where there is none). Rows count ``counted`` ``[E]``, 0 or 1."""

    plain: Tensor
    teacher: Tensor
    own: Tensor | None
    counted: Tensor

    def marginal_after(self, marginal: Tensor, probabilities: Tensor, horizon: float) -> Tensor:
        """A running mean of runners-up ``[C]`` with this window's, of ``probabilities`` ``[E, C]``; memory ``horizon``
        frames."""
        mean = self.counted @ runner_up(probabilities) / self.counted.sum().clamp_min(1)
        return update_marginal(marginal, mean, len(self.counted), horizon)


def memory(frames_per_class: float, classes: int, window: int) -> float:
    """Of a stream's marginals and of the classes that it shows, in frames: at least ten windows."""
    return max(frames_per_class * classes, float(_SHORTEST_MEMORY * window))


@dataclass(frozen=True)
class Known:
    """Columns of a stream, on the model's device. ``own`` and ``own_ring`` are ``None`` where nothing is tuned."""

    ring: Tensor
    """Frozen unit features of the last frames, float16 ``[E, D]``; zero where there is none."""
    frozen: Similarity
    diversity: Diversity
    trust: Tensor
    """How far the stream is to be learnt from, ``[]``."""
    weight: Tensor
    """Of the metrics, ``[]``."""
    own_ring: Tensor | None = None
    """Adapted unit features of the same frames."""
    own: Similarity | None = None

    @classmethod
    def nothing(cls, classifier: Classifier, window: int, *, adapted: bool) -> "Known":
        """Of a stream that showed nothing, on CPU."""
        classes, width = classifier.class_vectors.shape
        ring = torch.zeros(window, width, dtype=_RING_TYPE)
        zero = torch.zeros(())
        known = cls(ring, Similarity.empty(width), Diversity.empty(classes, width), zero, zero.clone())
        return replace(known, own_ring=ring.clone(), own=Similarity.empty(width)) if adapted else known

    @classmethod
    def load(cls, state: State, device: torch.device) -> "Known":
        """From the columns of a method's state."""
        tensors = {name: value.to(device) for name, value in state.items() if isinstance(value, Tensor)}
        diversity = Diversity(*(tensors[f"diversity_{name}"] for name in Diversity._fields))
        own = _similarity(tensors, "own") if "own_ring" in tensors else None
        return cls(
            tensors["ring"],
            _similarity(tensors, "frozen"),
            diversity,
            tensors["trust"],
            tensors["weight"],
            tensors.get("own_ring"),
            own,
        )

    def columns(self) -> State:
        """The inverse of `load`, on CPU."""
        state: State = {"ring": self.ring.cpu(), "trust": self.trust.cpu(), "weight": self.weight.cpu()}
        state.update({f"diversity_{name}": value.cpu() for name, value in self.diversity._asdict().items()})
        state.update(_columns(self.frozen, "frozen"))
        if self.own is not None and self.own_ring is not None:
            state.update({"own_ring": self.own_ring.cpu(), **_columns(self.own, "own")})
        return state

    def with_frames(self, first: int, frozen: Tensor, adapted: Tensor | None = None) -> "Known":
        """With frames of frozen and of adapted features ``[B, D]`` in the rings, from row ``first`` on."""
        known = replace(self, ring=_placed(self.ring, first, frozen))
        if self.own_ring is None or adapted is None:
            return known
        return replace(known, own_ring=_placed(self.own_ring, first, adapted))

    def teacher(self, features: Tensor, classifier: Classifier) -> Tensor:
        """Log probabilities ``[..., C]`` of frozen features ``[..., D]`` in the metric of the stream's."""
        return self.frozen.log_probabilities(features, self.weight, classifier)

    def served(self, features: Tensor, classifier: Classifier) -> Tensor:
        """The same of adapted features in the metric of the adapted ones; differentiable."""
        assert self.own is not None
        return self.own.log_probabilities(features, self.weight, classifier)

    def after_window(self, classifier: Classifier, number: int, horizon: float) -> tuple["Known", Window]:
        """Brought up to date where a window ends, the ``number``-th that is learnt from; and what it showed.

        ``horizon``: memory of the classes shown, in frames.
        """
        size = len(self.ring)
        frozen = self.ring.float()
        counted = (frozen.square().sum(1) > 0).float()
        plain, teacher = classifier.probabilities(frozen), self.teacher(frozen, classifier).exp()
        diversity = self.diversity.after(frozen, plain, counted, number, kept_after(size, horizon))
        known = replace(
            self,
            frozen=self.frozen.after(frozen, teacher, plain, counted, classifier, kept_after(size, _FROZEN_MEMORY)),
            diversity=diversity,
            trust=diversity.trust(size),
            weight=weight(diversity.independent(size), diversity.variety()),
        )
        if self.own is None or self.own_ring is None:
            return known, Window(plain, teacher, None, counted)
        adapted = self.own_ring.float()
        own = self.served(adapted, classifier).exp()
        kept = kept_after(size, _OWN_MEMORY)
        known = replace(known, own=self.own.after(adapted, own, plain, counted, classifier, kept))
        return known, Window(plain, teacher, own, counted)


def _placed(ring: Tensor, first: int, features: Tensor) -> Tensor:
    """A row that is not finite is as if it had not been there."""
    finite = torch.isfinite(features).all(1, keepdim=True)
    placed = ring.clone()
    placed[first : first + len(features)] = torch.where(finite, features, 0).to(ring.dtype)
    return placed


def _columns(similarity: Similarity, prefix: str) -> State:
    columns: State = {f"{prefix}_{name}": value.cpu() for name, value in similarity.moments._asdict().items()}
    return {**columns, f"{prefix}_sharpness": similarity.log_sharpness.cpu()}


def _similarity(tensors: Mapping[str, Tensor], prefix: str) -> Similarity:
    moments: dict[str, Any] = {name: tensors[f"{prefix}_{name}"] for name in Moments._fields}
    return Similarity(Moments(**moments), tensors[f"{prefix}_sharpness"])
