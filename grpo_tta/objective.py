"""Group-relative advantages and the clipped surrogate of GRPO, over classes.

[paper: group-wise policy optimization; the formulas are GRPO's.] Pure functions; ``...`` are leading dimensions.
"""

import torch
from torch import Tensor

_SMALLEST_DEVIATION = 1e-6


def group_weights(log_old: Tensor, kind: str) -> Tensor:
    """How much each candidate of a group counts, ``[..., G]``, summing to 1, from log probabilities ``[..., G]``.

    ``policy``: as often as the policy would draw it from the group, so that a mean over the group is the expectation
    that GRPO's samples estimate [ours]; ``uniform``: all alike, as if each had been drawn once [peer:RLCF].
    """
    return torch.softmax(log_old, dim=-1) if kind == "policy" else torch.full_like(log_old, 1.0 / log_old.shape[-1])


def advantages(rewards: Tensor, kind: str, weights: Tensor | None = None) -> Tensor:
    """Rewards ``[..., G]`` minus their group's mean; ``zscore`` also divides by the deviation over the G candidates.

    Means are by ``weights`` ``[..., G]``, or plain. Undivided (``centred``), a frame weighs as much as its candidates
    really differ. [centred ours; zscore GRPO]
    """
    centred = rewards - _mean(rewards, weights)[..., None]
    if kind == "centred":
        return centred
    return centred / (_mean(centred.square(), weights)[..., None].sqrt() + _SMALLEST_DEVIATION)


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float, weights: Tensor | None = None) -> Tensor:
    """``mean_G min(rho A, clip(rho, 1 - clip, 1 + clip) A)`` ``[...]`` from ``log rho`` and ``A`` ``[..., G]``; to be
    maximised. The mean is by ``weights`` ``[..., G]``, or plain."""
    ratio = log_ratio.exp()
    return _mean(torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage), weights)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean(-1) if weights is None else (weights * values).sum(-1)


def kl_divergence(log_policy: Tensor, log_reference: Tensor) -> Tensor:
    """Exact ``KL(policy || reference)`` ``[...]`` over all classes ``[..., C]``."""
    return (log_policy.exp() * (log_policy - log_reference)).sum(-1)


def policy_loss(
    log_policy: Tensor,
    log_old: Tensor,
    log_reference: Tensor,
    group: Tensor,
    advantage: Tensor,
    *,
    clip: float,
    kl: float,
    weights: Tensor | None = None,
) -> Tensor:
    """``-J`` ``[...]``: the surrogate on the group ``[..., G]`` of log probabilities ``[..., C]``, minus ``kl`` times
    the divergence from the frozen policy. Differentiable in ``log_policy`` alone."""
    log_ratio = (log_policy - log_old).gather(-1, group)
    loss = -clipped_surrogate(log_ratio, advantage, clip, weights)
    return loss + kl * kl_divergence(log_policy, log_reference) if kl else loss
