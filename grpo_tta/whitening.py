"""Similarity of features and class vectors in the metric of a stream's own features.

A shifted input moves all features the same way and squeezes them together, so that a few classes take everything. With
the mean ``m`` and the covariance of a stream's features the similarity becomes

    cos_P(x - w m, t - w mean(T)),    P = w S^-1 / mean(diag S^-1) + (1 - w) I,    S = cov + 6 mean(diag cov) I

where ``w`` in [0, 1] is how much the stream tells (`weight`): 0 is the plain cosine. [ours; centring and whitening are
those of retrieval and of linear discriminant analysis, with shrinkage in place of a labelled set]

The statistics are of what a frame's own prediction ``p`` does not explain: of ``x - (p T - mean(T)) / 4``. So a stream
that shows some classes often does not whiten those away. [ours] The covariance is kept as its ``RANK`` largest
directions and the mean variance of the rest. Everything is a pure function of columns (`Moments`), whose rows are
streams: one, or many at a time.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.classifier import Classifier
from grpo_tta.owners import of_owner, times
from grpo_tta.policy import entropy

RANK = 32
"""Directions of the covariance that are kept. [ours]"""
_EXPLAINED = 0.25
"""Share of its class vector's offset that a feature is taken to owe to its class. [ours]"""
_SHRINKAGE = 6.0
"""Of the covariance towards the identity, in mean variances. [ours]"""
_HALF_WEIGHT = 50.0
"""Independent frames that make half of the weight. [ours]"""
_SHARPNESS_RATE, _STEEP = 0.3, 4.0
"""Of the sharpness's steps, see `sharper`. [ours]"""
_MOST_SHARPNESS = 3.0
"""Of its logarithm, either way."""
_SMALLEST = 1e-12


class Moments(NamedTuple):
    """What is known of streams' features, ``[S, ...]``; an empty one is of a stream that showed nothing."""

    mass: Tensor
    """Fading number of frames, ``[S]``."""
    mean: Tensor
    """``[S, D]``."""
    factor: Tensor
    """The covariance's largest directions, `in_bytes` ``[S, R, D]``."""
    energies: Tensor
    """Variances along them, ``[S, R]``."""
    rest: Tensor
    """Mean variance a dimension of what the factor leaves out, ``[S]``."""

    @classmethod
    def empty(cls, dimensions: int, rank: int = RANK) -> "Moments":
        """Of one stream and ``dimensions`` = D."""
        rank = min(rank, dimensions)
        factor = torch.zeros(1, rank, dimensions, dtype=torch.int8)
        return cls(torch.zeros(1), torch.zeros(1, dimensions), factor, torch.zeros(1, rank), torch.zeros(1))

    def after(self, features: Tensor, weights: Tensor, kept: float) -> "Moments":
        """With ``features`` ``[S, n, D]`` that count ``weights`` ``[S, n]``; what was known before counts ``kept``."""
        before = kept * self.mass
        mass = before + weights.sum(1)
        share = (before / mass.clamp_min(_SMALLEST))[:, None]
        shares = (weights / mass.clamp_min(_SMALLEST)[:, None])[..., None]
        mean = share * self.mean + (shares * features).sum(1)
        factor = unit_rows(self.factor) * self.energies.sqrt()[..., None]
        old = share[..., None].sqrt() * torch.cat([factor, (self.mean - mean)[:, None]], 1)
        rows = torch.cat([old, shares.sqrt() * (features - mean[:, None])], 1).double()
        energies, vectors = torch.linalg.eigh(rows @ rows.mT)
        rank, dimensions = self.factor.shape[1:]
        factor = in_bytes(_signed(vectors[..., -rank:].mT.flip(1) @ rows))
        largest = energies[:, -rank:].clamp_min(0).flip(1).float()
        left = (energies[:, :-rank].clamp_min(0).sum(1) / dimensions).float()
        return Moments(mass, mean, factor, largest, share[:, 0] * self.rest + left)


class Metric(NamedTuple):
    """Streams' metrics of feature space, ``P = I + directions' stretch directions``, and class vectors in them."""

    centre: Tensor
    """``[S, D]``."""
    directions: Tensor
    """``[S, R, D]``, unit or zero."""
    stretch: Tensor
    """``[S, R]``, over -1: of squared lengths, along the directions."""
    class_vectors: Tensor
    """``[C, D]``, unit, the same for all."""
    class_centre: Tensor
    """``[S, D]``, that class vectors are taken from."""
    class_lengths: Tensor
    """``[S, C]``, of class vectors about their centre."""

    def cosines(self, features: Tensor, owner: Tensor) -> Tensor:
        """``[B, V, C]`` of features ``[B, V, D]``, row b in the metric of stream ``owner[b]``; differentiable."""
        centred = features - of_owner(self.centre, owner)[:, None]
        directions, stretch = of_owner(self.directions, owner), of_owner(self.stretch, owner)[:, None]
        along = times(centred, directions.mT)
        stretched = centred + times(stretch * along, directions)
        lengths = (stretched * centred).sum(-1, keepdim=True).clamp_min(_SMALLEST).sqrt()
        products = stretched @ self.class_vectors.T - times(stretched, of_owner(self.class_centre, owner)[..., None])
        return products / (lengths * of_owner(self.class_lengths, owner)[:, None])


class Similarity(NamedTuple):
    """Columns that streams' similarities are made of."""

    moments: Moments
    log_sharpness: Tensor
    """Logarithm of what logits are multiplied with, ``[S]``; see `sharper`."""

    @classmethod
    def empty(cls, dimensions: int) -> "Similarity":
        """Of one stream that showed nothing."""
        return cls(Moments.empty(dimensions), torch.zeros(1))

    def log_probabilities(self, features: Tensor, owner: Tensor, weight: Tensor, classifier: Classifier) -> Tensor:
        """``[B, V, C]`` of unit features ``[B, V, D]``, at the weights ``[S]`` of their owners; differentiable."""
        cosines = metric_of(self.moments, weight, classifier.class_vectors).cosines(features, owner)
        scale = of_owner(classifier.logit_scale * self.log_sharpness.exp(), owner)[:, None, None]
        return torch.log_softmax(scale * cosines, dim=-1)

    def after(
        self,
        features: Tensor,
        probabilities: Tensor,
        plain: Tensor,
        counted: Tensor,
        classifier: Classifier,
        kept: float,
    ) -> "Similarity":
        """With windows of ``features`` ``[S, n, D]`` that had ``probabilities`` ``[S, n, C]`` in this similarity, and
        ``plain`` ones of the frozen encoder. Rows count ``counted`` ``[S, n]``; what was known before counts
        ``kept``."""
        left = unexplained(features, probabilities, classifier.class_vectors)
        sharpness = sharper(self.log_sharpness, probabilities, plain, counted)
        return Similarity(self.moments.after(left, counted, kept), sharpness)


def metric_of(moments: Moments, weight: Tensor, class_vectors: Tensor) -> Metric:
    """The metrics at ``weight`` ``[S]`` in [0, 1], of unit class vectors ``[C, D]``."""
    energies, dimensions, weight = moments.energies, moments.factor.shape[2], weight[:, None]
    rest = moments.rest[:, None]
    shrunk = rest + _SHRINKAGE * (energies.sum(1, keepdim=True) / dimensions + rest)
    squeezed = energies / (energies + shrunk).clamp_min(_SMALLEST)
    inverse = weight * dimensions / (dimensions - squeezed.sum(1, keepdim=True))
    stretch = -inverse * squeezed / (inverse + 1 - weight)
    directions = unit_rows(moments.factor)
    class_centre = weight * class_vectors.mean(0)
    along = directions @ class_vectors.T - directions @ class_centre[..., None]
    plain = class_vectors.square().sum(1) - 2 * class_centre @ class_vectors.T
    plain = plain + class_centre.square().sum(1, keepdim=True)
    lengths = (plain + (stretch[..., None] * along.square()).sum(1)).clamp_min(_SMALLEST).sqrt()
    return Metric(weight * moments.mean, directions, stretch, class_vectors, class_centre, lengths)


def unexplained(features: Tensor, probabilities: Tensor, class_vectors: Tensor) -> Tensor:
    """What `Moments` are of: ``[..., D]`` of features ``[..., D]`` whose predictions are ``[..., C]``."""
    return features - _EXPLAINED * (probabilities @ class_vectors - class_vectors.mean(0))


def in_bytes(rows: Tensor) -> Tensor:
    """The directions of rows ``[..., D]`` as int8, the largest entry of each 127; see `unit_rows`."""
    largest = rows.abs().amax(-1, keepdim=True)
    return torch.where(largest > 0, rows * (127 / largest), 0.0).round().to(torch.int8)


def unit_rows(kept: Tensor) -> Tensor:
    """Unit rows ``[..., D]`` of the directions that `in_bytes` kept; zero of zero."""
    return F.normalize(kept.float(), dim=-1)


def weight(independent: Tensor, variety: Tensor) -> Tensor:
    """How much streams' features tell of feature space, ``[S]`` in [0, 1]: ``v n / (n + 50)`` of ``n`` independent
    frames and a variety ``v`` (`grpo_tta.diversity`). One class tells nothing. [ours]"""
    return variety * independent / (independent + _HALF_WEIGHT)


def sharper(log_sharpness: Tensor, probabilities: Tensor, plain: Tensor, counted: Tensor) -> Tensor:
    """The logarithms ``[S]`` of what logits are multiplied with, after frames ``[S, n]`` that count ``counted``.

    They move until predictions ``[S, n, C]`` are as sure, by their mean entropy, as the ``plain`` ones of the frozen
    encoder: cosines about a centre are larger than plain ones, the more so the larger a model's logit scale is. [ours]
    """
    mine, theirs = entropy(probabilities), entropy(plain)
    # an entropy falls by the variance of the log probabilities: where that is large, steps must be short
    logs = probabilities.clamp_min(_SMALLEST).log()
    steep = ((probabilities * logs.square()).sum(-1) - mine.square()) / _STEEP
    number = counted.sum(1).clamp_min(1)
    mean, steepness = ((counted * values).sum(1) / number for values in (mine - theirs, steep))
    step = _SHARPNESS_RATE * mean / steepness.clamp_min(1)
    return (log_sharpness + step).clamp(-_MOST_SHARPNESS, _MOST_SHARPNESS)


def _signed(rows: Tensor) -> Tensor:
    """Each row with its largest entry positive: an eigenvector's sign is nobody's."""
    largest = rows.gather(-1, rows.abs().argmax(-1, keepdim=True))
    return torch.where(largest < 0, -rows, rows)
