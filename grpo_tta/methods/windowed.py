"""Online methods whose loss is of a batch as a whole: they look again at the frames since the last update.

Such a loss cannot be summed from frame to frame, so the canvases of an unfinished window are kept in the state, uint8,
fewer than ``update_every`` of them, none right after an update. A window that comes as one batch is labelled and
trained on by the same forward, as the peers do it: three forward-equivalents an image. In parts, each frame is labelled
at once without gradient and the whole is forwarded again when it is full: four. Labels and updates are the same either
way. Streams go one after another. [ours]
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.classifier import Classifier
from grpo_tta.methods.online import STATISTICS, TunesFastWeights, check_not_empty, statistics, update_of
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, Prediction, Report, State, Update


@dataclass(frozen=True)
class Stream:
    """A state on the model's device while a step lasts: counters, other numbers, named tensors."""

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


@dataclass(frozen=True)
class Part:
    """What a stretch of frames between two updates gave. Tensors are on the CPU."""

    probabilities: Tensor
    frozen_probabilities: Tensor
    frozen_features: Tensor
    finite: bool
    forward_equivalents: float
    """Of the whole stretch."""
    reporting_equivalents: float = 0.0


def joined(parts: list[Part], updates: list[Update]) -> Report:
    """One report of consecutive stretches."""
    return Report(
        probabilities=torch.cat([part.probabilities for part in parts]),
        frozen_probabilities=torch.cat([part.frozen_probabilities for part in parts]),
        frozen_features=torch.cat([part.frozen_features for part in parts]),
        updates=tuple(updates),
        forward_equivalents=sum(part.forward_equivalents for part in parts),
        reporting_equivalents=sum(part.reporting_equivalents for part in parts),
        finite=all(part.finite for part in parts),
    )


@dataclass(frozen=True)
class Window:
    """A full window, its forward with gradient done: ``pixels`` ``[N, 3, H, W]``, ``embeddings`` ``[N, D]`` (not unit)
    as a function of ``theta`` ``[P]``."""

    pixels: Tensor
    theta: Tensor
    embeddings: Tensor


@dataclass(frozen=True)
class Learnt:
    """What an update made of a window. ``forward_equivalents``: what it spent beyond the window's own forward and
    backward."""

    stream: Stream
    loss: float
    gradient_norm: float
    finite: bool
    forward_equivalents: float = 0.0


class WindowedMethod(TunesFastWeights):
    """State, beside ``frames`` and ``updates``: ``theta`` ``[P]``, ``window`` uint8 ``[n, 3, H, W]``, ``sums`` ``[2]``,
    and what the method adds.

    A window whose loss or gradient is not finite changes no parameter, and its report says ``finite=False``. One that
    begins at a reset in its midst (the guard's, which goes on counting) is shorter, and learnt from as it is.
    """

    cadence: int

    def __init__(self, classifier: Classifier, fast_weights: FastWeights, cadence: int) -> None:
        self.classifier = classifier
        self.fast_weights = fast_weights
        self.cadence = cadence

    @abstractmethod
    def _learn(self, stream: Stream, window: Window) -> Learnt:
        """One update of ``stream``'s parameters; counters and window are not its business."""

    def initial_state(self) -> State:
        """The frozen encoder's own parameters and an empty window."""
        return {
            "frames": 0,
            "updates": 0,
            "theta": self.fast_weights.start.cpu().clone(),
            "window": torch.zeros(0, 3, *self.classifier.preprocess.size, dtype=torch.uint8),
            "sums": torch.zeros(len(STATISTICS)),
        }

    @property
    def most_rows(self) -> Mapping[str, int]:
        """An unfinished window."""
        return {"window": self.cadence - 1}

    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        """Label ``batch`` and learn from it; raises ``ValueError`` for an empty one."""
        check_not_empty(batch)
        stream = Stream.load(state, self.classifier.device)
        parts: list[Part] = []
        updates: list[Update] = []
        start = 0
        while start < len(batch):
            piece = batch[start : start + self.cadence - stream.frames % self.cadence]
            start += len(piece)
            stream, part, update = self._take(piece, stream)
            parts.append(part)
            if update is not None:
                updates.append(update)
        report = joined(parts, updates)
        return Prediction(report.probabilities, report.frozen_probabilities), stream.save(), report

    def _take(self, batch: Batch, stream: Stream) -> tuple[Stream, Part, Update | None]:
        classifier, whole = self.classifier, len(batch) == self.cadence
        pixels = classifier.normalise(batch.canvases)
        with torch.no_grad():
            frozen_features = classifier.features(pixels)
            frozen = classifier.probabilities(frozen_features)
        with torch.set_grad_enabled(whole):
            window = self._forward(pixels, stream)
            probabilities = classifier.probabilities(F.normalize(window.embeddings.detach(), dim=-1))
        spent = (3.0 if whole else 1.0) * len(batch)
        sums = statistics(probabilities, frozen).sum(0)
        finite = bool(torch.isfinite(probabilities).all())
        canvases = batch.canvases.to(classifier.device)
        kept = canvases if whole else torch.cat([stream["window"], canvases])
        stream = stream.but(frames=len(batch), window=kept, sums=stream["sums"] + sums if finite else stream["sums"])
        update = None
        if stream.frames % self.cadence == 0:
            if not whole:
                window = self._forward(classifier.normalise(stream["window"]), stream)
                spent += 3.0 * len(window.pixels)
            learnt = self._learn(stream, window)
            spent += learnt.forward_equivalents
            finite = finite and learnt.finite
            stream, update = self._close(learnt, 1.0 + (0.0 if whole else 1.0))
        part = Part(
            probabilities.cpu(),
            frozen.cpu(),
            frozen_features.cpu(),
            finite,
            spent + len(batch),
            float(len(batch)),
        )
        return stream, part, update

    def _forward(self, pixels: Tensor, stream: Stream) -> Window:
        theta = stream["theta"].detach().requires_grad_(torch.is_grad_enabled())
        return Window(pixels, theta, self.classifier.embeddings(pixels, self.fast_weights.overrides(theta)))

    def _close(self, learnt: Learnt, labelling: float) -> tuple[Stream, Update]:
        """``labelling``: forward-equivalents an image beside training: the frozen forward and, in parts, the label."""
        stream = learnt.stream
        count = len(stream["window"])
        update = update_of(
            dict(zip(STATISTICS, (stream["sums"] / count).tolist(), strict=True)),
            loss=learnt.loss,
            frame=stream.frames,
            update=stream.updates + 1,
            images=count,
            gradient_norm=learnt.gradient_norm,
            forward_equivalents=3.0 + labelling + learnt.forward_equivalents / count,
        )
        empty = stream["window"][:0]
        return stream.but(updates=1, window=empty, sums=torch.zeros_like(stream["sums"])), update
