"""What every method takes and gives: a pure step over explicit state.

    state = method.initial_state()
    prediction, state, report = method.step(batch, state)

Nothing hides in a module, an optimiser or a global: whatever a stream has learnt is in ``state``, a flat mapping of
names to tensors and numbers. So a caller can checkpoint it, compare it bit for bit, and reset it by
``initial_state()`` or, where the input has shifted, ``after_shift(state, ...)``.

Everything that counts, counts *frames*: a frame is labelled with the parameters of that moment, gradients accumulate
in the state and an update happens each time the stream has seen ``cadence`` frames. Batches of 1 or of 64 give the
same updates at the same frames.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

StateValue = Tensor | int | float
State = dict[str, StateValue]
"""A stream's whole state: flat, names to CPU or device tensors, ints and floats. Steps never modify one in place."""


@dataclass(frozen=True)
class Batch:
    """``canvases``: uint8 ``[B, 3, H, W]``, RGB, the model's own input size. ``seeds``: int64 ``[B]``, one an image.

    The seed is derived from the image's id, so that a replay draws the same views whatever the batch around it.
    """

    canvases: Tensor
    seeds: Tensor

    def __post_init__(self) -> None:
        if self.canvases.dtype != torch.uint8 or self.canvases.ndim != 4 or self.canvases.shape[1] != 3:
            raise ValueError(
                f"canvases must be uint8 [B, 3, H, W], got {self.canvases.dtype} {tuple(self.canvases.shape)}"
            )
        if self.seeds.dtype != torch.int64 or self.seeds.shape != self.canvases.shape[:1]:
            raise ValueError(
                f"seeds must be int64 [{len(self.canvases)}], got {self.seeds.dtype} {tuple(self.seeds.shape)}"
            )

    def __len__(self) -> int:
        return len(self.canvases)

    def __getitem__(self, part: slice) -> "Batch":
        return Batch(self.canvases[part], self.seeds[part])

    def rows(self, index: Tensor) -> "Batch":
        """Some of the images, by their places int64 ``[n]``."""
        return Batch(self.canvases[index], self.seeds[index])

    @classmethod
    def joined(cls, batches: "Sequence[Batch]") -> "Batch":
        """The images of several, one after another."""
        return cls(torch.cat([batch.canvases for batch in batches]), torch.cat([batch.seeds for batch in batches]))


@dataclass(frozen=True)
class Prediction:
    """Class probabilities float32 ``[B, C]`` on CPU: of the adapted encoder, and of the frozen one where it was
    computed."""

    probabilities: Tensor
    frozen: Tensor | None = None

    def labels(self, class_names: Sequence[str]) -> list[str]:
        """The best class of each image. Raises ValueError where ``class_names`` are not C names."""
        if len(class_names) != self.probabilities.shape[1]:
            raise ValueError(
                f"the prediction is of {self.probabilities.shape[1]} classes, got {len(class_names)} names"
            )
        return [class_names[index] for index in self.probabilities.argmax(dim=1).tolist()]


@dataclass(frozen=True)
class Update:
    """One parameter update (online: every ``cadence`` frames; episodic: one a batch, averaged over its images)."""

    frame: int
    """Frames since the initial state when the update was applied."""
    update: int
    """Updates since the initial state, this one included."""
    images: int
    loss: float
    reward: float | None
    """Mean total reward of the group, and its two parts; ``None`` where a method has no such thing."""
    alignment: float | None
    dispersion: float | None
    advantage: float | None
    """Mean absolute advantage."""
    entropy: float
    """Mean prediction entropy of the adapted encoder over ln C, in [0, 1]."""
    disagreement: float
    """Share of images whose best class differs between the adapted and the frozen encoder."""
    gradient_norm: float
    forward_equivalents: float
    """Forward-equivalents an image, all that were spent: 1 = one image through the visual tower without gradient;
    with gradient 3."""


@dataclass(frozen=True)
class Report:
    """What a step did. Tensors are float32 on CPU, row i belongs to image i of the batch."""

    probabilities: Tensor
    """``[B, C]``, of the adapted encoder, before any correction."""
    frozen_probabilities: Tensor | None = None
    """``[B, C]``."""
    frozen_features: Tensor | None = None
    """``[B, D]``, unit length, of the frozen encoder on the plain view."""
    updates: Sequence[Update] = field(default_factory=tuple)
    forward_equivalents: float = 0.0
    """Spent on the whole batch, the frozen forward for reporting included."""
    finite: bool = True
    """False when a loss, a gradient or a parameter was not finite: the guard answers with a reset."""
    reporting_equivalents: float = 0.0
    """How much of ``forward_equivalents`` went into a frozen forward that the method itself has no use for: it feeds
    the guard and pairs every label with the frozen encoder's. The method's own cost is the difference."""

    def __len__(self) -> int:
        return len(self.probabilities)


class Method(ABC):
    """A test-time-adaptation method over a read-only classifier. A new method is one file and one registry entry."""

    name: ClassVar[str]
    cadence: int | None = None
    """Frames between two updates. A caller that wants decisions (a reset) to fall on the same frames whatever the batch
    cuts its batches at multiples of it, counted since the initial state; ``None``: nothing is counted."""

    @abstractmethod
    def initial_state(self) -> State:
        """A new stream's state. A reset is this, exactly, but for one by a shift: see `after_shift`."""

    @property
    def most_rows(self) -> Mapping[str, int]:
        """Of the tensors of a state that grow, by name, the rows that they have at most. The others keep the initial
        state's shape."""
        return {}

    @abstractmethod
    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        """Label ``batch`` and learn from it. ``state`` is not modified; the new one may share tensors with it."""

    @abstractmethod
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch`` with the parameters of ``state``; nothing is learnt."""

    def predict_many(self, batches: Sequence[Batch], states: Sequence[State]) -> list[Prediction]:
        """`predict` for several streams, each alike but for rounding; by default one after another."""
        return [self.predict(batch, state) for batch, state in zip(batches, states, strict=True)]

    def after_shift(self, state: State, *, reset: bool) -> State:
        """The state to go on with when the input has shifted. ``reset``: what still serves is kept; by default the
        initial state. Without it the shift was only noticed; by default the state as it is."""
        return self.initial_state() if reset else state

    def pull(self, state: State, strength: float) -> State:
        """Move what was learnt towards the start by ``strength`` in [0, 1] (the soft backstop). Default: unchanged."""
        return state

    def step_many(self, batches: Sequence[Batch], states: Sequence[State]) -> list[tuple[Prediction, State, Report]]:
        """Step several streams, each as `step` does but for rounding. A method that can packs them into one forward
        (`grpo_tta.methods.packed`); by default, and for what keeps windows or caches of images, this is a loop."""
        return [self.step(batch, state) for batch, state in zip(batches, states, strict=True)]
