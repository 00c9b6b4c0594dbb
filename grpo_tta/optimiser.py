"""Optimisers as pure functions of flat vectors: nothing is kept between calls but what the caller keeps."""

import torch
from torch import Tensor

_DECAY_1 = 0.9
_DECAY_2 = 0.999
_EPSILON = 1e-8
_MOST = 4.0
"""Of a first moment as a share of the gradient's size: Adam's moments allow 3.2."""
_OCTAVE, _LOWEST = 8.0, -20.0
"""Of the code of a size: steps an octave, and the octave that it begins at."""
_GOLDEN, _PLASTIC = 0.6180339887498949, 0.7548776662466927
"""Irrational numbers whose multiples' fractions fill [0, 1) evenly."""


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


def adam_in_bytes(
    gradient: Tensor, first: Tensor, second: Tensor, *, step: Tensor, rate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `adam`, for moments ``[S, P]`` that are a byte each: what the parameters change by ``[S, P]``, and both
    moments. ``step`` (float64) and ``rate``: ``[S, 1]``.

    ``second`` is the root of the unbiased second moment, the *size* of the gradient, uint8: eighths of an octave, 0 for
    0. It moves by less than that a step, so it is rounded up or down in turn, as often as it takes to be right in the
    mean: step and place alone say which. ``first`` is a share of it, int8: 127ths of the root of a fourth of it, with
    its sign. [ours]
    """
    before = _size(second)
    momentum = torch.lerp(_share(first) * before, gradient, 1 - _DECAY_1)
    unbiased, fresh = (
        (1 - _DECAY_1**step).to(gradient.dtype),
        ((1 - _DECAY_2) / (1 - _DECAY_2**step)).to(gradient.dtype),
    )
    size = torch.lerp(before.square(), gradient.square(), fresh).sqrt()
    change = -(rate / unbiased) * momentum / (size + _EPSILON)
    code = _code(size, step)
    share = (momentum / _size(code).clamp_min(_EPSILON)).clamp(-_MOST, _MOST)
    root = (share.abs() / _MOST).sqrt().copysign(share)
    return change, (127 * root).round().to(torch.int8), code


def no_moments(size: int) -> tuple[Tensor, Tensor]:
    """What `adam_in_bytes` begins with, of one stream of ``size`` = P."""
    return torch.zeros(size, dtype=torch.int8), torch.zeros(size, dtype=torch.uint8)


def _share(root: Tensor) -> Tensor:
    root = root.float() / 127
    return _MOST * root * root.abs()


def _size(code: Tensor) -> Tensor:
    return torch.where(code > 0, torch.exp2(code.float() / _OCTAVE + _LOWEST), 0.0)


def _code(size: Tensor, step: Tensor) -> Tensor:
    places = torch.arange(size.shape[-1], device=size.device, dtype=torch.float64)
    turn = torch.frac(step * _GOLDEN + places * _PLASTIC).float()
    code = torch.floor(_OCTAVE * (torch.log2(size) - _LOWEST) + turn).clamp(1, 255)
    return torch.where(size > 0, code, 0.0).to(torch.uint8)


def sgd(theta: Tensor, gradient: Tensor, velocity: Tensor, *, rate: float, momentum: float) -> tuple[Tensor, Tensor]:
    """One step of gradient descent with undamped momentum. Returns the new parameters and velocity."""
    velocity = momentum * velocity + gradient
    return theta - rate * velocity, velocity
