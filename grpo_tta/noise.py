"""Random numbers that depend on an image's seed and nothing else.

A counter-based generator (splitmix64) in tensor operations: row ``i`` of every result is a function of ``seeds[i]``, so
a replay draws the same numbers whatever the batch around the image, the device or the global generators.
"""

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_STEP = _signed(0x9E3779B97F4A7C15)
_MULTIPLY_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros (torch's own shift of a signed integer copies the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MULTIPLY_1
    x = (x ^ _shift(x, 27)) * _MULTIPLY_2
    return x ^ _shift(x, 31)


def uniforms(seeds: Tensor, count: int, stream: int) -> Tensor:
    """Float32 ``[B, count]`` in the open interval (0, 1) from int64 ``seeds`` ``[B]``.

    ``stream`` separates independent uses (and the caller's own seed) of one image's seed.
    """
    origin = _mix(_mix(seeds + _STEP) ^ _signed((stream * 0xD1B54A32D192ED03) & ((1 << 64) - 1)))
    counters = torch.arange(1, count + 1, device=seeds.device, dtype=torch.int64) * _STEP
    bits = _mix(origin[:, None] + counters)
    # 23 bits and a half: the largest is 1 - 2^-24, which float32 still tells from 1.
    return (_shift(bits, 41).to(torch.float32) + 0.5) * (1.0 / (1 << 23))
