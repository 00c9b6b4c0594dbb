"""Which windows a gated stream learns from. [ours]

A window is ``update_every`` frames. The first ``gate_frames`` frames after the initial state, and as many after a shift
that the guard has found, are all learnt from; otherwise one window in ``EVERY`` is, and the others are only labelled. A
window whose labels are unusually sure or unsure, against the windows before, is a sign of new input: the next ``EVERY``
windows are learnt from, which also shows them to the guard without delay. What is unusual becomes usual, so that this
ends by itself.
"""

from dataclasses import dataclass, replace

EVERY = 8
_MEMORY = 20
"""Windows; nothing is judged before it is filled."""
_STRANGE = 3.0
"""Standard deviations of the windows before."""


@dataclass(frozen=True)
class Gate:
    """What is remembered of a stream's windows."""

    usual: float = 0.0
    """Running mean of a window's mean normalised entropy."""
    variance: float = 0.0
    """Running variance of the same."""
    due: int = 0
    """Windows that are still to be learnt from for the sake of an unusual one or a shift; negative: as many, but not
    the one that is being served."""

    def after(self, entropy: float, windows: int) -> "Gate":
        """With one more window's mean entropy; ``windows``: how many there were, this one included."""
        off, rate = entropy - self.usual, 1.0 / min(windows, _MEMORY)
        strange = windows > _MEMORY and off * off > _STRANGE**2 * self.variance
        left = -self.due if self.due < 0 else self.due - 1
        return Gate(
            usual=self.usual + rate * off,
            variance=(1 - rate) * (self.variance + rate * off * off),
            due=max(left, EVERY if strange else 0),
        )

    def anew(self, windows: int, *, served: bool) -> "Gate":
        """With at least ``windows`` windows to be learnt from; ``served``: a window that is being served, to its end,
        goes before."""
        return replace(self, due=-windows if served else windows)

    def learns(self, window: int, learnt: int, first: int | None) -> bool:
        """Whether a stream's window of number ``window`` (from 0) is learnt from, ``learnt`` frames having been, of
        which the ``first`` are at the least; ``None``: all are."""
        return first is None or learnt < first or self.due > 0 or window % EVERY == 0
