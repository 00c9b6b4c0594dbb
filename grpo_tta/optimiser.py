"""Optimisers as pure functions of flat vectors: nothing is kept between calls but what the caller keeps."""

import torch
from torch import Tensor

_DECAY_1 = 0.9
_DECAY_2 = 0.999
_EPSILON = 1e-8


def adam(
    theta: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int | Tensor,
    rate: float | Tensor,
    decay: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step (``step`` counts from 1) with bias correction; shapes are all alike, e.g. ``[P]`` or ``[B, P]``, but of
    ``step`` (float64) and ``rate``, which may be ``[B, 1]``.

    ``decay`` is AdamW's: the parameters shrink by ``rate * decay`` of themselves, apart from the gradient.

    Returns the new parameters and both moments; the arguments are not modified.
    """
    first = torch.lerp(first, gradient, 1 - _DECAY_1)
    second = torch.mul(second, _DECAY_2).addcmul_(gradient, gradient, value=1 - _DECAY_2)
    if decay:
        theta = theta * (1 - rate * decay)
    unbiased_1, unbiased_2 = 1 - _DECAY_1**step, (1 - _DECAY_2**step) ** 0.5
    if isinstance(unbiased_1, Tensor) and isinstance(unbiased_2, Tensor):
        unbiased_1, unbiased_2 = unbiased_1.to(theta.dtype), unbiased_2.to(theta.dtype)
    deviation = second.sqrt().div_(unbiased_2).add_(_EPSILON)
    return theta - (rate / unbiased_1) * first / deviation, first, second


def sgd(theta: Tensor, gradient: Tensor, velocity: Tensor, *, rate: float, momentum: float) -> tuple[Tensor, Tensor]:
    """One step of gradient descent with undamped momentum. Returns the new parameters and velocity."""
    velocity = momentum * velocity + gradient
    return theta - rate * velocity, velocity
