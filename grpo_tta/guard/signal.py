"""What the guard watches: a `Signal` takes sums over frames and, every ``probe_frames`` frames, says how far it stands.

A signal holds nothing of any stream. What it knows of one lies in the guard's state, in ``columns`` whose names no
other signal has; the guard lets it change no other. It may read what the guard keeps for all: ``probes`` since the last
restart, ``marginals`` ``[2, C]``, mean frozen and adapted probabilities of the last ``collapse_probes`` of them, and
``shown`` ``[C]``, fading sums of the frozen ones. `grpo_tta.contracts.DriftSignalContract` says what every signal owes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from grpo_tta.guard.reference import Reference
from grpo_tta.settings import GuardSettings
from grpo_tta.types import State


@dataclass(frozen=True)
class Seen:
    """Frames of streams, those of one after another, on the CPU."""

    features: Tensor
    """Of the frozen encoder, unit rows ``[B, D]``."""
    frozen: Tensor
    """The frozen encoder's probabilities ``[B, C]``."""
    adapted: Tensor
    """The adapted one's ``[B, C]``."""
    owner: Tensor
    """Whose each frame is, ``[B]``: a number of the states given with them."""


class Signal(ABC):
    """A statistic of a stream; over ``threshold`` the guard tells it, and acts by ``cause``.

    ``class_vectors``: ``[C, D]``, unit rows, on the CPU. ``reference``: shared by all streams, or ``None``.
    """

    name: ClassVar[str]
    """In drift events, `DriftGuard.thresholds` and metrics."""
    cause: ClassVar[Literal["shift", "collapse"]]
    """*shift*: the input is another; told, and a reset where ``on_shift`` says so. Such a signal may look at the frozen
    encoder only. *collapse*: the adapted encoder is worse than the frozen one; a reset."""
    message: ClassVar[str]
    """What a drift event says."""
    columns: ClassVar[tuple[str, ...]]
    """All names that it keeps of a stream; the first one always."""
    sums: ClassVar[tuple[str, ...]]
    """Of these, those that the guard adds `of_frames` to, and empties after each probe. One that a state lacks is
    passed over."""

    def __init__(self, settings: GuardSettings, class_vectors: Tensor, reference: Reference | None) -> None:
        self.settings = settings
        self.class_vectors = class_vectors
        self.reference = reference

    @property
    @abstractmethod
    def threshold(self) -> float:
        """Over which the statistic is told."""

    @abstractmethod
    def begun(self) -> State:
        """The columns of a stream that nothing was seen of, empty sums among them."""

    @abstractmethod
    def of_frames(self, seen: Seen, states: Sequence[State]) -> Mapping[str, Tensor]:
        """Of each frame what its sums grow by, ``[B, ...]`` by the names in ``sums``."""

    @abstractmethod
    def after_probe(self, means: Mapping[str, Tensor], state: State) -> State:
        """This signal's columns with one more probe. ``means``: of ``sums`` over its frames, and, as ``marginal_sums``,
        of frozen and adapted probabilities ``[2, C]``."""

    @abstractmethod
    def statistic(self, state: State) -> float | None:
        """How far the stream stands; ``None`` while that cannot be said. One of cause *shift* is then warming up."""

    def size(self, state: State) -> float | None:
        """How large a shift is, comparable over streams, where the signal knows."""
        del state
        return None

    def cleared(self, state: State) -> State:
        """The columns after a reset: what has piled up is dropped, what is known of the input stays."""
        return self.own(state)

    def anew(self, state: State) -> State:
        """The columns after a shift was told: the input is another from now on. After `cleared`."""
        return self.own(state)

    def own(self, state: State) -> State:
        """This signal's columns of a state."""
        return {name: state[name] for name in self.columns if name in state}


def tensor_of(state: Mapping[str, object], name: str) -> Tensor:
    """A column that is a tensor; raises ``TypeError``."""
    value = state[name]
    if not isinstance(value, Tensor):
        raise TypeError(f"state {name!r} must be a tensor, got {type(value).__name__}")
    return value


def number_of(state: Mapping[str, object], name: str) -> int:
    """A column that is a count."""
    return int(state[name])  # type: ignore[call-overload]
