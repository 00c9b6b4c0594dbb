"""Which windows a gated stream learns from. [ours]

A window is ``update_every`` frames. The first ``gate_frames`` frames after the initial state, and as many after a shift
that the guard has found, are all learnt from; otherwise one window in ``EVERY`` is, and the others are only labelled.
Two things are seen of every window, for nothing beyond its labels: how unsure these are, and how its adapted features
lie to the mean that the stream's had. A window that is unusual in either, against the windows before, is a sign of new
input: the next ``EVERY`` windows are learnt from, which also shows them to the guard without delay. What is unusual
becomes usual, so that this ends by itself.

Everything is a pure function of columns, whose rows are streams.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta import policy
from grpo_tta.owners import Columns, of_owner, sums_of

EVERY = 8
_MEMORY = 20
"""Windows; nothing is judged before it is filled."""
_STRANGE = 3.2
"""Standard deviations of the windows before: one of two signs is so far off by chance as often as one alone by 3."""
_LEAST = 1e-3
"""What a sign must be off at least: a camera that always shows the same has no deviation but rounding."""


class Gate(NamedTuple):
    """Columns of S streams; ``seen``, ``usual`` and ``variance`` are of both things that `signs` gives."""

    seen: Tensor
    """Sums over the frames of the window under way, ``[S, 2]``."""
    usual: Tensor
    """Running mean of a window's means, ``[S, 2]``."""
    variance: Tensor
    """Running variance of the same, ``[S, 2]``."""
    due: Tensor
    """Windows that are still to be learnt from for the sake of an unusual one or a shift, int64 ``[S]``; negative: as
    many, but not the one that is being served."""

    @classmethod
    def empty(cls) -> "Gate":
        """Of one stream."""
        zeros = torch.zeros(1, 2)
        return cls(zeros, zeros.clone(), zeros.clone(), torch.zeros(1, dtype=torch.int64))

    @classmethod
    def of(cls, columns: Columns) -> "Gate":
        """From the columns of a method's states."""
        return cls(*(columns[f"gate_{name}"] for name in cls._fields))

    def columns(self) -> Columns:
        """The inverse of `of`."""
        return {f"gate_{name}": column for name, column in self._asdict().items()}

    def with_frames(self, found: Tensor, counts: Tensor) -> "Gate":
        """With the `signs` ``[B, 2]`` of frames, ``counts`` ``[S]`` of each stream."""
        return self._replace(seen=self.seen + sums_of(found, counts))

    def after(self, size: int, windows: Tensor) -> "Gate":
        """With the window of ``size`` frames that ends, the ``windows``-th ``[S]`` of its stream."""
        windows = windows.to(self.usual.device)[:, None]
        off, rate = self.seen / size - self.usual, 1 / windows.clamp_max(_MEMORY)
        bound = (_STRANGE * self.variance.sqrt()).clamp_min(_LEAST)
        strange = ((windows > _MEMORY) & (off.abs() > bound)).any(1)
        left = torch.where(self.due < 0, -self.due, self.due - 1)
        return Gate(
            seen=torch.zeros_like(self.seen),
            usual=self.usual + rate * off,
            variance=(1 - rate) * (self.variance + rate * off.square()),
            due=torch.maximum(left, torch.where(strange.to(left.device), EVERY, 0)),
        )

    def anew(self, windows: int, served: Tensor) -> "Gate":
        """With at least ``windows`` windows to be learnt from; ``served`` ``[S]``: a window that is being served, to
        its end, goes before."""
        return self._replace(due=torch.where(served, -windows, windows))

    def learns(self, window: Tensor, learnt: Tensor, first: int) -> Tensor:
        """Whether each stream's window of number ``window`` ``[S]`` (from 0) is learnt from, ``learnt`` ``[S]`` frames
        having been, of which the ``first`` are at the least."""
        return (learnt < first) | (self.due > 0) | (window % EVERY == 0)


def signs(served: Tensor, features: Tensor, mean: Tensor, owner: Tensor) -> Tensor:
    """What tells a window of new input, of each frame, ``[B, 2]``: the normalised entropy of its label's probabilities
    ``[B, C]``, and the cosine of its adapted feature ``[B, D]`` to the mean ``[S, D]`` of its stream's."""
    along = (features * of_owner(F.normalize(mean, dim=-1), owner)).sum(1)
    return torch.stack([policy.normalised_entropy(served), along], 1)
