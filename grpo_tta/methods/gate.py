"""Which windows a gated stream learns from. [ours]

A window is ``update_every`` frames. The first ``gate_frames`` frames after the initial state, and as many after a shift
that the guard has found, are all learnt from; otherwise one window in ``EVERY`` is, and the others are only labelled. A
window whose labels are unusually sure or unsure, against the windows before, is a sign of new input: the next ``EVERY``
windows are learnt from, which also shows them to the guard without delay. What is unusual becomes usual, so that this
ends by itself.

Everything is a pure function of columns, whose rows are streams.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from grpo_tta.owners import Columns

EVERY = 8
_MEMORY = 20
"""Windows; nothing is judged before it is filled."""
_STRANGE = 3.0
"""Standard deviations of the windows before."""
_LEAST = 1e-3
"""What a window must be off at least: a camera that always shows the same has no deviation but rounding."""


class Gate(NamedTuple):
    """Columns of S streams."""

    usual: Tensor
    """Running mean of a window's mean normalised entropy, ``[S]``."""
    variance: Tensor
    """Running variance of the same, ``[S]``."""
    due: Tensor
    """Windows that are still to be learnt from for the sake of an unusual one or a shift, int64 ``[S]``; negative: as
    many, but not the one that is being served."""

    @classmethod
    def empty(cls) -> "Gate":
        """Of one stream."""
        return cls(torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.int64))

    @classmethod
    def of(cls, columns: Columns) -> "Gate":
        """From the columns of a method's states."""
        return cls(*(columns[f"gate_{name}"] for name in cls._fields))

    def columns(self) -> Columns:
        """The inverse of `of`."""
        return {f"gate_{name}": column for name, column in self._asdict().items()}

    def after(self, entropy: Tensor, windows: Tensor) -> "Gate":
        """With the window that ends, of mean ``entropy`` ``[S]``, the ``windows``-th ``[S]`` of its stream."""
        windows = windows.to(self.usual.device)
        off, rate = entropy - self.usual, 1 / windows.clamp_max(_MEMORY)
        strange = (windows > _MEMORY) & (off.abs() > (_STRANGE * self.variance.sqrt()).clamp_min(_LEAST))
        left = torch.where(self.due < 0, -self.due, self.due - 1)
        return Gate(
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
