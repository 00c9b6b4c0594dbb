"""Similarity of features and class vectors in the metric of a stream's own features.

A shifted input moves all features the same way and squeezes them together, so that a few classes take everything. With
the mean ``m`` and the covariance of a stream's features the similarity becomes

    cos_P(x - w m, t - w mean(T)),    P = w S^-1 / mean(diag S^-1) + (1 - w) I,    S = cov + 6 mean(diag cov) I

where ``w`` in [0, 1] is how much the stream tells (`weight`): 0 is the plain cosine. [ours; centring and whitening are
those of retrieval and of linear discriminant analysis, with shrinkage in place of a labelled set]

The statistics are of what a frame's own prediction ``p`` does not explain: of ``x - (p T - mean(T)) / 4``. So a stream
that shows some classes often does not whiten those away. [ours] The covariance is kept as its ``RANK`` largest
directions and the mean variance of the rest. Everything is a pure function of a stream's columns (`Moments`).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.classifier import Classifier
from grpo_tta.policy import entropy

RANK = 32
"""Directions of the covariance that are kept."""
_EXPLAINED = 0.25
"""Share of its class vector's offset that a feature is taken to owe to its class. [ours]"""
_SHRINKAGE = 6.0
"""Of the covariance towards the identity, in mean variances. [ours]"""
_HALF_WEIGHT = 50.0
"""Independent frames that make half of the weight. [ours]"""
_SHARPNESS_RATE, _STEEP = 0.3, 4.0
_MOST_SHARPNESS = 3.0
"""Of its logarithm, either way."""
_SMALLEST = 1e-12


class Moments(NamedTuple):
    """What is known of a stream's features; an empty one is of a stream that showed nothing."""

    mass: Tensor
    """Fading number of frames, ``[]``."""
    mean: Tensor
    """``[D]``."""
    factor: Tensor
    """Float16 ``[R, D]``, orthogonal rows: the sum of their outer products is the covariance along its largest
    directions."""
    rest: Tensor
    """Mean variance a dimension of what the factor leaves out, ``[]``."""

    @classmethod
    def empty(cls, dimensions: int, rank: int = RANK) -> "Moments":
        """Of ``dimensions`` = D."""
        factor = torch.zeros(min(rank, dimensions), dimensions, dtype=torch.float16)
        return cls(torch.zeros(()), torch.zeros(dimensions), factor, torch.zeros(()))

    def after(self, features: Tensor, weights: Tensor, kept: float) -> "Moments":
        """With ``features`` ``[n, D]`` that count ``weights`` ``[n]``; what was known before counts ``kept``."""
        before = kept * self.mass
        mass = before + weights.sum()
        share = before / mass.clamp_min(_SMALLEST)
        shares = weights / mass.clamp_min(_SMALLEST)
        mean = share * self.mean + shares @ features
        old = share.sqrt() * torch.cat([self.factor.float(), (self.mean - mean)[None]])
        rows = torch.cat([old, shares.sqrt()[:, None] * (features - mean)]).double()
        energies, vectors = torch.linalg.eigh(rows @ rows.T)
        rank, dimensions = self.factor.shape
        factor = _signed(vectors[:, -rank:].T.flip(0) @ rows).to(self.factor.dtype)
        left = (energies[:-rank].clamp_min(0).sum() / dimensions).float()
        return Moments(mass, mean, factor, share * self.rest + left)


class Metric(NamedTuple):
    """A metric of feature space, and class vectors in it."""

    centre: Tensor
    """``[D]``."""
    directions: Tensor
    """``[R, D]``, unit or zero, which are stretched by 1 + ``gains`` ``[R]``."""
    gains: Tensor
    class_vectors: Tensor
    """``[C, D]``, centred, stretched, unit."""

    def cosines(self, features: Tensor) -> Tensor:
        """``[..., C]`` of features ``[..., D]``; differentiable."""
        stretched = _stretched(features - self.centre, self.directions, self.gains)
        return F.normalize(stretched, dim=-1) @ self.class_vectors.T


class Similarity(NamedTuple):
    """Columns that a stream's similarity is made of."""

    moments: Moments
    log_sharpness: Tensor
    """Logarithm of what logits are multiplied with, ``[]``; see `sharper`."""

    @classmethod
    def empty(cls, dimensions: int) -> "Similarity":
        """Of a stream that showed nothing."""
        return cls(Moments.empty(dimensions), torch.zeros(()))

    def log_probabilities(self, features: Tensor, weight: Tensor, classifier: Classifier) -> Tensor:
        """``[..., C]`` of unit features ``[..., D]``; differentiable."""
        cosines = metric_of(self.moments, weight, classifier.class_vectors).cosines(features)
        return torch.log_softmax(classifier.logit_scale * self.log_sharpness.exp() * cosines, dim=-1)

    def after(
        self,
        features: Tensor,
        probabilities: Tensor,
        plain: Tensor,
        counted: Tensor,
        classifier: Classifier,
        kept: float,
    ) -> "Similarity":
        """With a window of ``features`` ``[n, D]`` that had ``probabilities`` ``[n, C]`` in this similarity, and
        ``plain`` ones of the frozen encoder. Rows count ``counted`` ``[n]``; what was known before counts ``kept``."""
        left = unexplained(features, probabilities, classifier.class_vectors)
        sharpness = sharper(self.log_sharpness, probabilities, plain, counted)
        return Similarity(self.moments.after(left, counted, kept), sharpness)


def metric_of(moments: Moments, weight: Tensor, class_vectors: Tensor) -> Metric:
    """The metric at ``weight`` ``[]`` in [0, 1], of unit class vectors ``[C, D]``."""
    factor = moments.factor.float()
    energies, dimensions = factor.square().sum(1), factor.shape[1]
    shrunk = moments.rest + _SHRINKAGE * (energies.sum() / dimensions + moments.rest)
    squeezed = energies / (energies + shrunk).clamp_min(_SMALLEST)
    inverse = weight * dimensions / (dimensions - squeezed.sum())
    gains = (1 - inverse * squeezed / (inverse + 1 - weight)).sqrt() - 1
    directions = F.normalize(factor, dim=-1)
    centred = class_vectors - weight * class_vectors.mean(0)
    vectors = F.normalize(_stretched(centred, directions, gains), dim=-1)
    return Metric(weight * moments.mean, directions, gains, vectors)


def unexplained(features: Tensor, probabilities: Tensor, class_vectors: Tensor) -> Tensor:
    """What `Moments` are of: ``[n, D]`` of features ``[n, D]`` whose predictions are ``[n, C]``."""
    return features - _EXPLAINED * (probabilities @ class_vectors - class_vectors.mean(0))


def weight(independent: Tensor, variety: Tensor) -> Tensor:
    """How much a stream's features tell of feature space, in [0, 1]: ``v n / (n + 50)`` of ``n`` independent frames and
    a variety ``v`` (`grpo_tta.diversity`). One class tells nothing. [ours]"""
    return variety * independent / (independent + _HALF_WEIGHT)


def sharper(log_sharpness: Tensor, probabilities: Tensor, plain: Tensor, counted: Tensor) -> Tensor:
    """The logarithm ``[]`` of what logits are multiplied with, after frames ``[n]`` that count ``counted``.

    It moves until predictions ``[n, C]`` are as sure, by their mean entropy, as the ``plain`` ones of the frozen
    encoder: cosines about a centre are larger than plain ones, the more so the larger a model's logit scale is. [ours]
    """
    mine, theirs = entropy(probabilities), entropy(plain)
    # an entropy falls by the variance of the log probabilities: where that is large, steps must be short
    logs = probabilities.clamp_min(_SMALLEST).log()
    steep = ((probabilities * logs.square()).sum(-1) - mine.square()) / _STEEP
    mean, steepness = (counted @ torch.stack([mine - theirs, steep], 1)) / counted.sum().clamp_min(1)
    step = _SHARPNESS_RATE * mean / steepness.clamp_min(1)
    return (log_sharpness + step).clamp(-_MOST_SHARPNESS, _MOST_SHARPNESS)


def _stretched(vectors: Tensor, directions: Tensor, gains: Tensor) -> Tensor:
    return vectors + (vectors @ directions.T * gains) @ directions


def _signed(rows: Tensor) -> Tensor:
    """Each row with its largest entry positive: an eigenvector's sign is nobody's."""
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -rows, rows)
