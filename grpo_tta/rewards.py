"""Alignment and dispersion rewards of a group of candidate classes.

The names are the paper's; the formulas are labelled one by one. No reward is ever taken from the encoder that is being
adapted: an anchor that moves with its pupil collapses [ours, measured], so every alignment is of frozen models.
``group`` is int64 ``[..., G]``, class indices; every reward is float32 ``[..., G]``.
"""

import torch
from torch import Tensor

from grpo_tta.policy import entropy

_CLIP_SCORE_WEIGHT = 2.5
_FULL_TRUST_CLASSES = 20.0
_SMALLEST_RATIO = 0.05


def of_group(values: Tensor, group: Tensor) -> Tensor:
    """Pick each candidate's value from ``[..., C]``.

    With the frozen encoder's probabilities of the same view this is the alignment ``frozen`` [ours]; with those of
    another frozen model, ``reward_model`` (A-big) [peer:RLCF uses CLIPScore; probability ours, so that rewards share
    one scale]; with those of a template ensemble, ``ensemble`` (A-ens) [ours].
    """
    return values.gather(-1, group)


def consensus(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """Mean frozen probabilities ``[B, C]`` over the chosen views ``[B, S]`` of ``[B, V, C]``: alignment ``consensus``
    (A-self). [ours, in the spirit of peer:TPT's marginal]"""
    index = chosen[..., None].expand(-1, -1, probabilities.shape[-1])
    return probabilities.gather(1, index).mean(1)


def clip_score(features: Tensor, class_vectors: Tensor) -> Tensor:
    """``2.5 * max(0, cosine)`` ``[..., C]`` of frozen unit features ``[..., D]``: alignment ``view`` (A-view).
    [peer:RLCF]"""
    return _CLIP_SCORE_WEIGHT * (features @ class_vectors.T).clamp_min(0)


def marginal_dispersion(marginal: Tensor) -> Tensor:
    """``-log(C qbar)`` ``[C]`` for the stream's mean frozen prediction ``qbar`` ``[C]``, times ``trust(qbar)``.
    (D-marg) [ours]

    Classes that the frozen encoder says too often are held back, rare ones helped; a uniform marginal gives zero. ``C
    qbar`` is held above 0.05, so that a class never seen cannot outweigh every other reward.
    """
    return -torch.log(marginal_ratio(marginal)) * trust(marginal)


def marginal_ratio(marginal: Tensor) -> Tensor:
    """``C qbar`` ``[..., C]``, held above 0.05. [ours]"""
    return (marginal * marginal.shape[-1]).clamp_min(_SMALLEST_RATIO)


def trust(marginal: Tensor) -> Tensor:
    """How much the marginal says about the encoder's bias, in [0, 1]: ``min(1, exp(H(qbar)) / 20)^2``. [ours]

    ``exp(H)`` is the number of classes the stream effectively shows. Where it is small, because there are few classes
    (0.01 with 2, 0.06 with 5, 0.25 with 10) or the stream dwells on a few, the marginal tells what the stream holds
    rather than what the encoder prefers by mistake, and dispersion fades out.
    """
    return (entropy(marginal).exp() / _FULL_TRUST_CLASSES).clamp_max(1.0).square()


def update_marginal(marginal: Tensor, mean: Tensor, frames: int, horizon: float) -> Tensor:
    """Running mean ``[C]`` after ``frames`` more frames whose mean prediction is ``mean``; memory ``horizon`` frames.
    [ours]"""
    kept = torch.exp(torch.tensor(-frames / horizon, dtype=torch.float32, device=marginal.device))
    return kept * marginal + (1 - kept) * mean


def probability_dispersion(group_probabilities: Tensor) -> Tensor:
    """``-pi_old(o)`` from the candidates' own probabilities ``[..., G]``. (D-prob) [sibling: suppress what is likely
    and wrong]"""
    return -group_probabilities


def text_dispersion(class_vectors: Tensor, group: Tensor) -> Tensor:
    """``1 - mean cosine`` to the other candidates' class vectors. (D-text) [3rd-party: diversity among the group;
    ours]"""
    vectors = class_vectors[group]
    size = group.shape[-1]
    others = vectors.sum(-2, keepdim=True) - vectors
    return 1 - (vectors * others).sum(-1) / (size - 1)
