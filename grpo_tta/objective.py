"""Group-relative advantages and the clipped surrogate of GRPO, over classes.

[paper: group-wise policy optimization; the formulas are GRPO's.] Pure functions; ``...`` are leading dimensions.
"""

import torch
from torch import Tensor

_SMALLEST_DEVIATION = 1e-6


def advantages(rewards: Tensor, kind: str) -> Tensor:
    """Rewards ``[..., G]`` minus their group's mean; ``zscore`` also divides by the deviation over the G candidates.

    Undivided (``centred``), a frame weighs as much as its candidates really differ. [centred ours; zscore GRPO]
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    if kind == "centred":
        return centred
    return centred / (centred.square().mean(-1, keepdim=True).sqrt() + _SMALLEST_DEVIATION)


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """``mean_G min(rho A, clip(rho, 1 - clip, 1 + clip) A)`` ``[...]`` from ``log rho`` and ``A`` ``[..., G]``; to be
    maximised."""
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean(-1)


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
) -> Tensor:
    """``-J`` ``[...]``: the surrogate on the group ``[..., G]`` of log probabilities ``[..., C]``, minus ``kl`` times
    the divergence from the frozen policy. Differentiable in ``log_policy`` alone."""
    log_ratio = (log_policy - log_old).gather(-1, group)
    loss = -clipped_surrogate(log_ratio, advantage, clip)
    return loss + kl * kl_divergence(log_policy, log_reference) if kl else loss
