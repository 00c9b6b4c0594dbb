"""What a stream shows: how many classes it tells apart, and how many independent frames.

*Classes*: ``exp(H(mean p) - mean H(p))`` of the frozen predictions ``p``, the exponential of the mutual information of
frame and class. Noise spreads the mean prediction over many classes, but each frame's own as well: one scene under
heavy noise counts some two classes, a stream of many things under the same noise ten. [ours]

*Independent frames*: a thousand frames of one scene are one observation. Features tell, by batch means: where frames
are independent, the means of blocks of ``b`` frames vary ``1 / b`` times as much as frames do; where they are not,
more. ``tau``, the largest of ``b var(means) / var`` over blocks of 16, 32, ... 256 frames, is how many frames make one
independent one. [ours; batch means are the usual estimator of the autocorrelation time of a Markov chain]

Everything is a pure function of columns, whose rows are streams.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from grpo_tta.policy import entropy
from grpo_tta.rewards import kept_after

LEVELS = 5
"""Blocks of 16, 32, ... 256 frames, at least of a window."""
_SHORTEST = 16
_MEMORY = 1024.0
"""Frames, of independence. [ours]"""
_ENOUGH_BLOCKS = 3.5
"""Fading number of blocks from which on a level is asked. [ours]"""
_ENOUGH_FRAMES = 45.0
"""Independent frames from which on a stream is fully trusted. [ours]"""
_ENOUGH_CLASSES, _ENOUGH_SHARE, _FEWEST = 6.0, 0.6, 1.6
"""Classes told apart, or their share of those asked for, from which on a stream is one of many things. [ours]"""
_SMALLEST = 1e-6


class Diversity(NamedTuple):
    """Columns of S streams; an empty one is of a stream that showed nothing."""

    shown: Tensor
    """Fading sum of the frozen probabilities, float16 ``[S, C]``."""
    unsure: Tensor
    """Fading sum of their entropies in nats, ``[S]``."""
    frames: Tensor
    """Fading number of frames, ``[S]``."""
    partial: Tensor
    """Sum of the means of the windows of the unfinished block, float16 ``[S, L, D]``."""
    mean: Tensor
    """Fading mean of the means of finished blocks, float16 ``[S, L, D]``."""
    energy: Tensor
    """Fading mean of their squared lengths, ``[S, L]``."""
    blocks: Tensor
    """Fading number of them, ``[S, L]``."""

    @classmethod
    def empty(cls, classes: int, dimensions: int) -> "Diversity":
        """Of one stream, ``classes`` = C and ``dimensions`` = D."""
        rows, numbers = torch.zeros(1, LEVELS, dimensions, dtype=torch.float16), torch.zeros(1, LEVELS)
        shown, zero = torch.zeros(1, classes, dtype=torch.float16), torch.zeros(1)
        return cls(shown, zero, zero.clone(), rows, rows.clone(), numbers, numbers.clone())

    def after(
        self, features: Tensor, probabilities: Tensor, counted: Tensor, windows: Tensor, kept: float
    ) -> "Diversity":
        """With a window of unit ``features`` ``[S, n, D]`` and frozen ``probabilities`` ``[S, n, C]`` of each stream,
        its ``windows``-th ``[S]``.

        Rows count ``counted`` ``[S, n]``, 0 or 1; of the classes shown before, ``kept`` is left.
        """
        size, number = features.shape[1], counted.sum(1)
        sums = (counted[..., None] * features).sum(1)
        partial = self.partial.float() + (sums / number.clamp_min(1)[:, None])[:, None]
        sizes = _windows(size, partial.device)
        full = windows.to(partial.device)[:, None] % sizes == 0
        blocks = torch.where(full, torch.exp(-size * sizes / _MEMORY) * self.blocks + 1, self.blocks)
        rate = torch.where(full, 1 / blocks.clamp_min(1), 0.0)
        block = partial / sizes[:, None]
        return Diversity(
            (kept * self.shown.float() + (counted[..., None] * probabilities).sum(1)).to(self.shown.dtype),
            kept * self.unsure + (counted * entropy(probabilities)).sum(1),
            kept_after(size, _MEMORY) * self.frames + number,
            torch.where(full[..., None], 0.0, partial).to(self.partial.dtype),
            torch.lerp(self.mean.float(), block, rate[..., None]).to(self.mean.dtype),
            self.energy + rate * (block.square().sum(2) - self.energy),
            blocks,
        )

    def classes(self) -> Tensor:
        """Classes that each stream tells apart, ``[S]``; 1 for none."""
        shown = self.shown.float()
        total = shown.sum(1).clamp_min(_SMALLEST)
        return (entropy(shown / total[:, None]) - self.unsure / total).exp().clamp_min(1.0)

    def variety(self) -> Tensor:
        """How far each stream is one of many things, ``[S]`` in [0, 1]: ``min(1, (k - 1) / (full - 1))^2`` of ``k``
        classes told apart, full from 6 or three fifths of those asked for, at least 1.6. [ours]"""
        full = max(min(_ENOUGH_CLASSES, _ENOUGH_SHARE * self.shown.shape[1]), _FEWEST)
        return ((self.classes() - 1) / (full - 1)).clamp(0, 1).square()

    def correlation(self, window: int) -> Tensor:
        """``tau`` ``[S]``, at least 1: how many frames make an independent one, of windows of ``window`` frames."""
        means = self.mean.float().square().sum(2)
        variance = (1 - means[:, :1]).clamp_min(_SMALLEST)
        sizes = window * _windows(window, variance.device)
        unbiased = self.blocks / (self.blocks - 1).clamp_min(_SMALLEST)
        of_means = unbiased * (self.energy - means)
        return torch.where(self.blocks >= _ENOUGH_BLOCKS, sizes * of_means / variance, 1.0).amax(1).clamp_min(1.0)

    def independent(self, window: int) -> Tensor:
        """Independent frames of the last thousand, ``[S]``."""
        return self.frames / self.correlation(window)

    def trust(self, window: int) -> Tensor:
        """How far each stream is to be learnt from, ``[S]`` in [0, 1]: the smaller of its variety and of
        ``min(1, n / 45)^2`` of ``n`` independent frames. [ours]"""
        of_frames = (self.independent(window) / _ENOUGH_FRAMES).clamp(0, 1).square()
        return torch.minimum(self.variety(), of_frames)


def _windows(size: int, device: torch.device) -> Tensor:
    """How many windows of ``size`` frames make a block of each level, ``[L]``."""
    return (_SHORTEST * 2 ** torch.arange(LEVELS, device=device) // size).clamp_min(1)
