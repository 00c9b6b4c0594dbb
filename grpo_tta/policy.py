"""The policy: a class is an action, and the softmax over classes is the distribution it is drawn from.

[paper: class-specific prompt prediction as a group-wise policy optimization; sibling: the class set is the response
space.] Small functions of tensors; ``...`` stands for any leading dimensions (images, views).
"""

import math

import torch
from torch import Tensor

from grpo_tta.noise import uniforms

_GUMBEL_STREAM = 1


def entropy(probabilities: Tensor) -> Tensor:
    """In nats, ``[..., C]`` to ``[...]``; zero probabilities count nothing."""
    return torch.special.entr(probabilities).sum(-1)


def entropy_of_logits(logits: Tensor) -> Tensor:
    """In nats, ``[..., C]`` to ``[...]``; unlike `entropy` differentiable where a probability is zero."""
    log_probabilities = torch.log_softmax(logits, dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the views' mean prediction, ``[..., S, C]`` to ``[...]``; differentiable. [peer:TPT]"""
    log_mean = torch.log_softmax(logits, dim=-1).logsumexp(-2) - math.log(logits.shape[-2])
    return -(log_mean.exp() * log_mean).sum(-1)


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """Entropy over ``ln C``, in [0, 1]."""
    return entropy(probabilities) / math.log(probabilities.shape[-1])


def top_group(log_probabilities: Tensor, size: int) -> Tensor:
    """The ``min(size, C)`` most probable classes ``[..., G]``, most probable first; no randomness.

    [paper: top-K candidates of the similarity distribution; peer:RLCF calls exactly this sampling]
    """
    return log_probabilities.topk(min(size, log_probabilities.shape[-1]), dim=-1).indices


def sampled_group(log_probabilities: Tensor, size: int, temperature: float, seeds: Tensor, seed: int = 0) -> Tensor:
    """``min(size, C)`` classes drawn without replacement ``[B, ..., G]``, by Gumbel noise from ``seeds`` ``[B]``.

    Row ``i`` depends on ``seeds[i]`` and its own probabilities alone. [paper: sampling; Gumbel-top-G ours]
    """
    count = log_probabilities[0].numel()
    noise = uniforms(seeds, count, _GUMBEL_STREAM + (seed << 8)).view(log_probabilities.shape)
    gumbel = -torch.log(-torch.log(noise))
    return top_group(log_probabilities / temperature + gumbel, size)


def confident_views(probabilities: Tensor, count: int) -> Tensor:
    """Indices ``[B, count]`` of the views of lowest entropy in ``[B, V, C]``. [peer:TPT, RLCF]"""
    return entropy(probabilities).topk(count, dim=1, largest=False).indices
