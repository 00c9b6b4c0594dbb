"""What methods share whose learning is carried from frame to frame: stretches between updates, labels, reports.

A batch is cut where the stream's frame count reaches a multiple of ``cadence``. A method says what it does with a
stretch that crosses no such border (``_take``); everything else, here, is the same for all of them.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from grpo_tta import policy
from grpo_tta.classifier import Classifier
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, Method, Prediction, Report, State, Update


class _Counted(Protocol):
    @property
    def frames(self) -> int: ...


S = TypeVar("S", bound=_Counted)


@dataclass(frozen=True)
class Part:
    """What one stretch of frames between two updates gave. Tensors are on CPU."""

    probabilities: Tensor
    """Of the encoder as it is tuned, which is what the guard watches."""
    frozen_probabilities: Tensor | None
    """``None``, with the features: no frozen forward was made."""
    frozen_features: Tensor | None
    finite: bool
    forward_equivalents: float
    """Of the whole stretch."""
    reporting_equivalents: float = 0.0
    served: Tensor | None = None
    """What labels come from, where that is not ``probabilities``."""


class OnlineMethod(Method, Generic[S]):
    """Cuts, labels and reports. ``S`` is a state on the model's device while a step lasts; it counts ``frames``."""

    cadence: int

    def __init__(self, classifier: Classifier, fast_weights: FastWeights, cadence: int) -> None:
        self.classifier = classifier
        self.fast_weights = fast_weights
        self.cadence = cadence

    @abstractmethod
    def _load(self, state: State) -> S:
        """The state on the model's device."""

    @abstractmethod
    def _save(self, stream: S) -> State:
        """The inverse of ``_load``."""

    @abstractmethod
    def _take(self, batch: Batch, stream: S) -> tuple[S, Part, Update | None]:
        """Label frames that cross no update's border; update where they end at one."""

    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        """Label ``batch`` and learn from it; raises ``ValueError`` for an empty one."""
        check_not_empty(batch)
        stream = self._load(state)
        parts: list[Part] = []
        updates: list[Update] = []
        start = 0
        while start < len(batch):
            room = self.cadence - stream.frames % self.cadence
            piece = batch[start : start + room]
            start += len(piece)
            stream, part, update = self._take(piece, stream)
            parts.append(part)
            if update is not None:
                updates.append(update)
        report = joined(parts, updates)
        served = torch.cat([part.probabilities if part.served is None else part.served for part in parts])
        return Prediction(served, report.frozen_probabilities), self._save(stream), report

    @torch.no_grad()
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch`` with the parameters of ``state``; one forward, nothing is learnt."""
        theta = tensor_of(state, "theta").to(self.classifier.device)
        pixels = self.classifier.normalise(batch.canvases)
        features = self.classifier.features(pixels, self.fast_weights.overrides(theta))
        return Prediction(self.classifier.probabilities(features).cpu())

    def pull(self, state: State, strength: float) -> State:
        """``theta`` moves towards the start by ``strength``; the rest stays. [ours] Raises ``ValueError`` outside [0,
        1]."""
        check_strength(strength)
        return {**state, "theta": torch.lerp(tensor_of(state, "theta"), self.fast_weights.start.cpu(), strength)}


@dataclass(frozen=True)
class Stream:
    """A state of the simplest kind on the model's device: counters, other numbers, named tensors."""

    frames: int
    updates: int
    tensors: dict[str, Tensor]
    numbers: dict[str, int | float]

    @classmethod
    def load(cls, state: State, device: torch.device) -> "Stream":
        """From a method's state."""
        tensors = {name: value.to(device) for name, value in state.items() if isinstance(value, Tensor)}
        numbers = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
        frames, updates = int(numbers.pop("frames")), int(numbers.pop("updates"))
        return cls(frames, updates, tensors, numbers)

    def save(self) -> State:
        """The inverse of ``load``."""
        tensors = {name: value.cpu() for name, value in self.tensors.items()}
        return {"frames": self.frames, "updates": self.updates, **self.numbers, **tensors}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def but(self, *, frames: int = 0, updates: int = 0, **tensors: Tensor) -> "Stream":
        """A copy with the counters moved on and tensors replaced."""
        return replace(
            self,
            frames=self.frames + frames,
            updates=self.updates + updates,
            tensors={**self.tensors, **tensors},
        )

    def numbered(self, **numbers: int | float) -> "Stream":
        """A copy with numbers replaced."""
        return replace(self, numbers={**self.numbers, **numbers})


STATISTICS = ("entropy", "disagreement")
"""What is logged of the labels of every method; see `grpo_tta.types.Update`."""


def statistics(probabilities: Tensor, frozen: Tensor) -> Tensor:
    """``[2]``, in the order of ``STATISTICS``: sums over images of ``[B, C]``."""
    disagreement = (probabilities.argmax(-1) != frozen.argmax(-1)).float()
    return torch.stack([policy.normalised_entropy(probabilities).sum(), disagreement.sum()])


def update_of(means: Mapping[str, float], **others: Any) -> Update:
    """An update's log entry; what ``means`` does not name of rewards and advantages is ``None``."""
    absent = dict.fromkeys(("reward", "alignment", "dispersion", "advantage"))
    values: dict[str, Any] = {**absent, **means, **others}
    return Update(**values)


def joined(parts: list[Part], updates: list[Update]) -> Report:
    """One report of consecutive stretches. It has frozen rows where all of them have."""
    return Report(
        probabilities=torch.cat([part.probabilities for part in parts]),
        frozen_probabilities=_whole([part.frozen_probabilities for part in parts]),
        frozen_features=_whole([part.frozen_features for part in parts]),
        updates=tuple(updates),
        forward_equivalents=sum(part.forward_equivalents for part in parts),
        reporting_equivalents=sum(part.reporting_equivalents for part in parts),
        finite=all(part.finite for part in parts),
    )


def _whole(tensors: list[Tensor | None]) -> Tensor | None:
    known = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(known) if len(known) == len(tensors) else None


def check_not_empty(batch: Batch) -> None:
    """Raises ``ValueError`` for a batch without an image."""
    if not len(batch):
        raise ValueError("a batch must hold at least one image, got 0")


def check_strength(strength: float) -> None:
    """Raises ``ValueError`` outside [0, 1]."""
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1], got {strength}")


def tensor_of(state: State, name: str) -> Tensor:
    """A tensor of a state; raises ``TypeError`` where it is a number."""
    value = state[name]
    if not isinstance(value, Tensor):
        raise TypeError(f"state {name!r} must be a tensor, got {type(value).__name__}")
    return value
