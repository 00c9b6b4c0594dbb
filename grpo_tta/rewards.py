"""Alignment and dispersion rewards of a group of candidate classes.

The names are the paper's; the formulas are labelled one by one. Every alignment is of frozen models: an anchor that
moves with its pupil collapsed in a prototype [ours, docs/decisions/0004].
``group`` is int64 ``[..., G]``, class indices; every reward is float32 ``[..., G]``.
"""

import math

import torch
from torch import Tensor

from grpo_tta.owners import times
from grpo_tta.policy import entropy

_CLIP_SCORE_WEIGHT = 2.5
_FULL_TRUST_SHARE = 0.9
_SMALLEST_RATIO = 0.05
_SMALLEST_SUM = 1e-12


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


def runner_up(probabilities: Tensor) -> Tensor:
    """Probabilities ``[..., C]`` without the best class's, which is nearly always what is shown, made to sum to 1.
    [ours]

    What an encoder puts second tells which classes it prefers by mistake, whatever the stream shows how often: the
    most probable class of a camera that always shows the same is not held against that class.
    """
    rest = probabilities.scatter(-1, probabilities.argmax(-1, keepdim=True), 0.0)
    return rest / rest.sum(-1, keepdim=True).clamp_min(_SMALLEST_SUM)


def marginal_dispersion(marginal: Tensor) -> Tensor:
    """``-log(C qbar)`` ``[..., C]`` for a stream's mean of runners-up ``qbar`` ``[..., C]``. (D-marg) [ours]

    Classes that the teacher, a frozen encoder, puts second too often are held back, rare ones helped; a uniform
    marginal gives zero. ``C qbar`` is held above 0.05, so that a class never seen cannot outweigh every other reward.
    """
    return -torch.log(marginal_ratio(marginal))


def marginal_ratio(marginal: Tensor) -> Tensor:
    """``C qbar`` ``[..., C]``, held above 0.05. [ours]"""
    return (marginal * marginal.shape[-1]).clamp_min(_SMALLEST_RATIO)


def trust(shown: Tensor, enough: float) -> Tensor:
    """How much a stream's frames say about the encoder rather than about the stream, in [0, 1]. [ours]

    ``min(1, exp(H) / min(enough, 0.9 C))^2`` with H the entropy of ``shown`` ``[..., C]``, sums of frozen
    probabilities: exp(H) is the number of classes that the stream effectively shows. Thousands of frames of one scene
    are one observation, and what is learnt from them would be learnt about that scene. ``[...]``; nothing seen: 0.
    """
    total = shown.sum(-1)
    full = min(enough, _FULL_TRUST_SHARE * shown.shape[-1])
    share = (entropy(shown / total.clamp_min(_SMALLEST_SUM)[..., None]).exp() / full).clamp_max(1.0).square()
    return torch.where(total > 0, share, 0.0)


def update_marginal(marginal: Tensor, mean: Tensor, frames: int, horizon: float) -> Tensor:
    """Running mean ``[..., C]`` after ``frames`` more frames whose mean prediction is ``mean``; memory ``horizon``
    frames. [ours]"""
    kept = kept_after(frames, horizon)
    return kept * marginal + (1 - kept) * mean


def kept_after(frames: int, horizon: float) -> float:
    """Share of what was remembered that is left after ``frames`` more, of a memory of ``horizon`` frames."""
    return math.exp(-frames / horizon)


def probability_dispersion(group_probabilities: Tensor) -> Tensor:
    """``-pi_old(o)`` from the candidates' own probabilities ``[..., G]``. (D-prob) [sibling: suppress what is likely
    and wrong]"""
    return -group_probabilities


def feature_dispersion(features: Tensor, classes: Tensor, others: Tensor, of_others: Tensor, seen: Tensor) -> Tensor:
    """Minus the mean cosine ``[B]`` of unit features ``[B, D]`` to the other classes' features among those ``seen``
    ``[B, K]`` of ``others`` ``[B, K, D]``; differentiable in ``features``.

    ``classes`` ``[B]`` and ``of_others`` ``[B, K]`` are the teacher's; every other class counts once, however many of
    its features are there; 0 where there is none. With ``[1, K]`` others they are the same for all.
    [ours; peer:BATCLIP pushes the means of a batch's classes apart]
    """
    same = (of_others[:, :, None] == of_others[:, None]).float()
    alike = times(seen.float()[:, None], same)[:, 0]
    wanted = seen & (classes[:, None] != of_others)
    weights = torch.where(wanted, 1 / alike.clamp_min(1), 0.0)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1)
    return -(features * times(weights[:, None], others)[:, 0]).sum(1)


def squeeze(features: Tensor, classes: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """How far an input squeezes features together: the mean cosine ``[S]`` of unit features ``[S, E, D]`` of
    different ``classes`` ``[S, E]``, not under 0; and whether there are any, 0 or 1. Rows count ``counted`` ``[S, E]``,
    0 or 1. [ours]"""
    pairs = counted[:, :, None] * counted[:, None] * (classes[:, :, None] != classes[:, None])
    number = pairs.sum((1, 2))
    mean = (features @ features.mT * pairs).sum((1, 2)) / number.clamp_min(1)
    return mean.clamp_min(0), (number > 0).float()


def text_dispersion(class_vectors: Tensor, group: Tensor) -> Tensor:
    """``1 - mean cosine`` to the other candidates' class vectors. (D-text) [3rd-party: diversity among the group;
    ours]"""
    vectors = class_vectors[group]
    size = group.shape[-1]
    others = vectors.sum(-2, keepdim=True) - vectors
    return 1 - (vectors * others).sum(-1) / (size - 1)
