"""What a method knows of streams by their features: the frozen encoder's, and where one is tuned the adapted ones.

Features of a window of frames lie in rings, row i that of the last frame of number i modulo the window's length. Where
a window ends everything else is brought up to date from them, so that batches of any size give the same. [ours]

All are columns of S streams; features come as ``[B, V, D]``, row b of stream ``owner[b]``.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from grpo_tta.classifier import Classifier
from grpo_tta.diversity import Diversity
from grpo_tta.owners import Columns
from grpo_tta.rewards import kept_after, runner_up, update_marginal
from grpo_tta.whitening import Moments, Similarity, in_bytes, unit_rows, weight

_FROZEN_MEMORY, _OWN_MEMORY = 1500.0, 600.0
"""Of the statistics of frozen and of adapted features, in frames: the latter move as the encoder learns. [ours]"""
_SHORTEST_MEMORY = 10
"""In windows."""


@dataclass(frozen=True)
class Window:
    """The windows that rings hold: probabilities ``[S, E, C]`` of the frozen encoder, of it in the stream's metric, and
    of the adapted encoder in its own (``None`` where there is none). Rows count ``counted`` ``[S, E]``, 0 or 1."""

    plain: Tensor
    teacher: Tensor
    own: Tensor | None
    counted: Tensor

    def marginal_after(self, marginal: Tensor, probabilities: Tensor, horizon: float) -> Tensor:
        """Running means of runners-up ``[S, C]`` with these windows', of ``probabilities`` ``[S, E, C]``; memory
        ``horizon`` frames. A window of which no frame counts changes nothing."""
        sums, number = (self.counted[..., None] * runner_up(probabilities)).sum(1), self.counted.sum(1, keepdim=True)
        mean = torch.where(number > 0, sums / number.clamp_min(1), marginal)
        return update_marginal(marginal, mean, self.counted.shape[1], horizon)


def memory(frames_per_class: float, classes: int, window: int) -> float:
    """Of a stream's marginals and of the classes that it shows, in frames: at least ten windows."""
    return max(frames_per_class * classes, float(_SHORTEST_MEMORY * window))


@dataclass(frozen=True)
class Known:
    """On the model's device. ``own`` and ``own_ring`` are ``None`` where nothing is tuned."""

    ring: Tensor
    """Frozen unit features of the last frames, `in_bytes` ``[S, E, D]``; zero where there is none."""
    frozen: Similarity
    diversity: Diversity
    trust: Tensor
    """How far each stream is to be learnt from, ``[S]``."""
    weight: Tensor
    """Of the metrics, ``[S]``."""
    own_ring: Tensor | None = None
    """Adapted unit features of the same frames."""
    own: Similarity | None = None

    @classmethod
    def nothing(cls, classifier: Classifier, window: int, *, adapted: bool) -> "Known":
        """Of one stream that showed nothing, on CPU."""
        classes, width = classifier.class_vectors.shape
        ring = torch.zeros(1, window, width, dtype=torch.int8)
        zero = torch.zeros(1)
        known = cls(ring, Similarity.empty(width), Diversity.empty(classes, width), zero, zero.clone())
        return replace(known, own_ring=ring.clone(), own=Similarity.empty(width)) if adapted else known

    @classmethod
    def of(cls, columns: Columns) -> "Known":
        """From the columns of a method's states."""
        diversity = Diversity(*(columns[f"diversity_{name}"] for name in Diversity._fields))
        own = _similarity(columns, "own") if "own_ring" in columns else None
        return cls(
            columns["ring"],
            _similarity(columns, "frozen"),
            diversity,
            columns["trust"],
            columns["weight"],
            columns.get("own_ring"),
            own,
        )

    def columns(self) -> Columns:
        """The inverse of `of`."""
        columns: Columns = {"ring": self.ring, "trust": self.trust, "weight": self.weight}
        columns.update({f"diversity_{name}": value for name, value in self.diversity._asdict().items()})
        columns.update(_columns(self.frozen, "frozen"))
        if self.own is not None and self.own_ring is not None:
            columns.update({"own_ring": self.own_ring, **_columns(self.own, "own")})
        return columns

    def with_frames(self, owner: Tensor, place: Tensor, frozen: Tensor, adapted: Tensor | None = None) -> "Known":
        """With frames of frozen and of adapted features ``[B, D]`` in their owners' rings, in the rows ``place``
        ``[B]``."""
        known = replace(self, ring=_placed(self.ring, owner, place, frozen))
        if self.own_ring is None or adapted is None:
            return known
        return replace(known, own_ring=_placed(self.own_ring, owner, place, adapted))

    def teacher(self, features: Tensor, owner: Tensor, classifier: Classifier) -> Tensor:
        """Log probabilities ``[B, V, C]`` of frozen features ``[B, V, D]`` in the metric of the stream's."""
        return self.frozen.log_probabilities(features, owner, self.weight, classifier)

    def served(self, features: Tensor, owner: Tensor, classifier: Classifier) -> Tensor:
        """The same of adapted features in the metric of the adapted ones; differentiable."""
        assert self.own is not None
        return self.own.log_probabilities(features, owner, self.weight, classifier)

    def after_window(self, classifier: Classifier, number: Tensor, horizon: float) -> tuple["Known", Window]:
        """Brought up to date where a window of each stream ends, its ``number``-th ``[S]`` that is learnt from; and
        what they showed.

        ``horizon``: memory of the classes shown, in frames.
        """
        size, each = self.ring.shape[1], torch.arange(len(self.ring), device=self.ring.device)
        frozen = unit_rows(self.ring)
        counted = (frozen.square().sum(2) > 0).float()
        plain, teacher = classifier.probabilities(frozen), self.teacher(frozen, each, classifier).exp()
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
        adapted = unit_rows(self.own_ring)
        own = self.served(adapted, each, classifier).exp()
        kept = kept_after(size, _OWN_MEMORY)
        known = replace(known, own=self.own.after(adapted, own, plain, counted, classifier, kept))
        return known, Window(plain, teacher, own, counted)


def _placed(ring: Tensor, owner: Tensor, place: Tensor, features: Tensor) -> Tensor:
    """A row that is not finite is as if it had not been there."""
    finite = torch.isfinite(features).all(1, keepdim=True)
    placed = ring.clone()
    placed[owner, place] = in_bytes(torch.where(finite, features, 0))
    return placed


def _columns(similarity: Similarity, prefix: str) -> Columns:
    columns = {f"{prefix}_{name}": value for name, value in similarity.moments._asdict().items()}
    return {**columns, f"{prefix}_sharpness": similarity.log_sharpness}


def _similarity(columns: Columns, prefix: str) -> Similarity:
    moments: dict[str, Any] = {name: columns[f"{prefix}_{name}"] for name in Moments._fields}
    return Similarity(Moments(**moments), columns[f"{prefix}_sharpness"])
