"""What methods share that step many streams at once: stretches between updates, one forward, labels, reports.

The frames of a batch are cut where a stream's count reaches a multiple of the border. A method says what it does with
stretches that cross no such border (``_take``); everything else, here, is the same for all of them. A stream's labels
depend on the streams beside it by rounding only.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grpo_tta.classifier import Classifier
from grpo_tta.methods.online import TunesFastWeights, check_not_empty
from grpo_tta.owners import Columns, Stretch, chosen, put, stack, stretches, sums_of, to_cpu, unstack
from grpo_tta.per_image import PerImageTower
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, Method, Prediction, Report, State, Update


@dataclass(frozen=True)
class Frames:
    """A stretch's frames, on the model's device but for ``batch``."""

    batch: Batch
    owner: Tensor
    """Stream of each, int64 ``[B]``."""
    place: Tensor
    """Its number since the last border, int64 ``[B]``."""
    counts: Tensor
    """Frames of each stream, int64 ``[S]``, on the CPU."""
    features: Tensor
    """Of the frozen encoder ``[B, D]``; ``[B, 0]`` of a method that does not live on them."""


@dataclass(frozen=True)
class Given:
    """What a stretch gave: ``[B, ...]`` on the model's device, but for ``finite``, which may be on the CPU."""

    served: Tensor
    """Probabilities that labels come from, ``[B, C]``."""
    probabilities: Tensor
    """Of the encoder as it is tuned, which is what the guard watches."""
    frozen: Tensor | None
    """``None``, with the features: no frozen forward was made."""
    features: Tensor | None
    finite: Tensor
    """Bool ``[S]``."""
    cost: float
    """Forward-equivalents an image."""
    reporting: float = 0.0
    """How much of it went into a frozen forward that the method itself has no use for."""
    updates: Sequence[tuple[int, Update]] = ()
    """Each with its stream."""


class PackedMethod(Method):
    """Cuts, packs, labels and reports. A state counts ``frames``; ``border``: of the cuts, ``None``: there are none."""

    def __init__(self, classifier: Classifier, border: int | None) -> None:
        self.classifier = classifier
        self._border = border

    @abstractmethod
    def _take(self, frames: Frames, columns: Columns) -> tuple[Columns, Given]:
        """Label frames of streams that cross no border; update those that end at one."""

    def _alike(self, stretch: Stretch, columns: Columns) -> Iterator[Stretch]:
        """The stretch in parts that are taken apart; by default the whole. ``columns``: of its streams."""
        yield stretch

    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        """`step_many` of one stream; raises ``ValueError`` for an empty batch."""
        return self.step_many([batch], [state])[0]

    def step_many(self, batches: Sequence[Batch], states: Sequence[State]) -> list[tuple[Prediction, State, Report]]:
        """Step several streams in one forward; raises ``ValueError`` for an empty batch."""
        for batch in batches:
            check_not_empty(batch)
        counts = [len(batch) for batch in batches]
        together = batches[0] if len(batches) == 1 else Batch.joined(batches)
        columns, features = stack(states, self.classifier.device), self._seen(together)
        out = _Rows(counts)
        for whole in stretches(counts, columns["frames"].tolist(), self._border):
            for stretch in self._alike(whole, chosen(columns, whole.streams)):
                frames = self._frames(together, features, stretch, columns)
                part, given = self._take(frames, chosen(columns, stretch.streams))
                columns = put(columns, stretch.streams, part)
                out.add(stretch, given)
        return [
            (prediction, state, report)
            for (prediction, report), state in zip(out.steps(), unstack(columns), strict=True)
        ]

    def _seen(self, together: Batch) -> Tensor:
        """Frozen features of all frames, where they are made at once."""
        return torch.empty(len(together), 0, device=self.classifier.device)

    def _frames(self, together: Batch, features: Tensor, stretch: Stretch, columns: Columns) -> Frames:
        counts = torch.tensor(stretch.counts)
        owner = torch.repeat_interleave(counts)
        first = columns["frames"][stretch.streams]
        if self._border is not None:
            first = first % self._border
        ends = counts.cumsum(0)
        place = torch.arange(len(owner)) + (first - (ends - counts))[owner]
        batch, device = together, self.classifier.device
        if len(owner) < len(together):
            batch, features = together.rows(stretch.rows), features[stretch.rows.to(device)]
        return Frames(batch, owner.to(device), place.to(device), counts, features)

    def _due(self, columns: Columns) -> list[int]:
        """Streams at a border."""
        return torch.nonzero(columns["frames"] % self._border == 0).flatten().tolist() if self._border else []


class FrozenMethod(PackedMethod):
    """Of the frozen encoder's features alone, which are made of all frames at once."""

    @torch.no_grad()
    def _seen(self, together: Batch) -> Tensor:
        return self.classifier.features(self.classifier.normalise(together.canvases))


class TunedMethod(TunesFastWeights, PackedMethod):
    """Of fast weights ``theta`` ``[P]`` a stream, tuned through one forward (`grpo_tta.per_image`), every ``cadence``
    frames."""

    cadence: int

    def __init__(self, classifier: Classifier, fast_weights: FastWeights, cadence: int) -> None:
        super().__init__(classifier, cadence)
        self.fast_weights = fast_weights
        self.cadence = cadence
        self.tower = PerImageTower(classifier, fast_weights)

    def step_many(self, batches: Sequence[Batch], states: Sequence[State]) -> list[tuple[Prediction, State, Report]]:
        """As a `PackedMethod` does, or one stream after another where the tower takes one set of weights a forward."""
        if self.tower.batched or len(states) < 2:
            return super().step_many(batches, states)
        return [self.step(batch, state) for batch, state in zip(batches, states, strict=True)]


def all_finite(values: Tensor, frames: Frames) -> Tensor:
    """Whether all of ``values`` ``[B, ...]`` of each stream are finite, ``[S]``."""
    return sums_of((~torch.isfinite(values)).flatten(1).any(1).float(), frames.counts) == 0


class _Rows:
    """What stretches gave, put together for each stream, on the CPU."""

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = list(counts)
        self._parts: list[tuple[Tensor, dict[str, Tensor]]] = []
        self._finite = [True] * len(counts)
        self._costs = [[0.0, 0.0] for _ in counts]
        self._updates: list[list[Update]] = [[] for _ in counts]
        self._seen = torch.ones(sum(counts), dtype=torch.bool)

    def add(self, stretch: Stretch, given: Given) -> None:
        """A stretch's."""
        for stream, count, finite in zip(stretch.streams, stretch.counts, given.finite.tolist(), strict=True):
            self._finite[stream] &= finite
            self._costs[stream][0] += given.cost * count
            self._costs[stream][1] += given.reporting * count
        for number, update in given.updates:
            self._updates[stretch.streams[number]].append(update)
        if given.frozen is None:
            self._seen[stretch.rows] = False
        self._parts.append((stretch.rows, _on_cpu(given)))

    def _whole(self, name: str) -> list[Any]:
        """Rows by stream; ``None`` for one of which a row is missing."""
        known = [(rows, tensors[name]) for rows, tensors in self._parts if name in tensors]
        if not known:
            return [None] * len(self._counts)
        whole = known[0][1]
        if len(self._parts) > 1:
            whole = whole.new_zeros(sum(self._counts), *whole.shape[1:])
            for rows, values in known:
                whole[rows] = values
        parts = zip(torch.split(whole, self._counts), torch.split(self._seen, self._counts), strict=True)
        always = name in ("served", "probabilities")
        return [values if always or bool(seen.all()) else None for values, seen in parts]

    def steps(self) -> list[tuple[Prediction, Report]]:
        """One a stream."""
        names = ("served", "probabilities", "frozen", "features")
        rows = zip(*(self._whole(name) for name in names), self._updates, self._costs, self._finite, strict=True)
        return [
            (
                Prediction(served, frozen),
                Report(
                    probabilities=probabilities,
                    frozen_probabilities=frozen,
                    frozen_features=features,
                    updates=tuple(updates),
                    forward_equivalents=cost,
                    reporting_equivalents=reporting,
                    finite=finite,
                ),
            )
            for served, probabilities, frozen, features, updates, (cost, reporting), finite in rows
        ]


def _on_cpu(given: Given) -> dict[str, Tensor]:
    """Rows by name, in one copy from the device."""
    named = {name: getattr(given, name) for name in ("served", "probabilities", "frozen", "features")}
    return to_cpu({name: tensor for name, tensor in named.items() if tensor is not None})
