"""Tent: online entropy minimisation of the affine parameters of the normalisation layers.

Item by item, [peer] is Tent as run on CLIP by CLIPArTT and BATCLIP:

- tuned: weight and bias of every normalisation layer of the visual encoder [peer]
- loss: mean entropy of the softmax over classes, of the same forward that gives the labels, which are so those of
  before the update [peer:Tent]
- Adam 1e-3, no weight decay, one step a batch [peer:BATCLIP's CIFAR configuration; CLIPArTT takes ten]
- a batch is 64 frames of the stream [peer:BATCLIP's ImageNet-C configuration], however they arrive: entropies add up,
  so gradients accumulate in the state and batches of 1 or 64 give the same updates [ours]
- BatchNorm keeps its running statistics, where the peer takes the batch's: a label must not depend on what else is in
  the batch [ours]
- never reset of itself [peer, online]; peers' tables reset at each corruption, which a stream does not announce
- ``similarity: whitened``: labels are those of the adapted features in the metric of the stream's own
  (`grpo_tta.whitening`), with the loss as it is, so that a table can say what tuning adds to that metric [ours]

An image costs three forward-equivalents, and one more for the frozen forward that is only reported.
"""

from dataclasses import replace
from typing import ClassVar

import torch

from grpo_tta import policy
from grpo_tta.classifier import Classifier
from grpo_tta.methods.known import Known, memory
from grpo_tta.methods.online import STATISTICS, statistics, update_of
from grpo_tta.methods.packed import Frames, Given, TunedMethod
from grpo_tta.optimiser import adam
from grpo_tta.owners import Columns, chosen, put, stack, sums_of, unstack, where
from grpo_tta.settings import TentSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, Prediction, State, Update

_LOGGED = ("loss", *STATISTICS)
_OWN_COST, _REPORTING_COST = 3.0, 1.0


class Tent(TunedMethod):
    """Tent. State, beside ``frames`` and ``updates``, flat float32 vectors: ``theta``, ``adam_m``, ``adam_v``, ``grad``
    ``[P]``, ``sums`` ``[3]``; with ``similarity`` whitened the columns of `Known` too.

    A stretch whose gradient is not finite adds nothing to the accumulators, and its report says ``finite=False``.
    """

    name: ClassVar[str] = "tent"

    def __init__(self, classifier: Classifier, settings: TentSettings | None = None) -> None:
        settings = settings or TentSettings()
        super().__init__(classifier, FastWeights(classifier.visual, "norm"), settings.update_every)
        self.settings = settings
        self._whitens = settings.similarity == "whitened"
        self._horizon = memory(1.0, classifier.classes, settings.update_every)

    def initial_state(self) -> State:
        """The frozen encoder's own parameters, zero moments and accumulators."""
        zeros = torch.zeros(self.fast_weights.size)
        return {
            **(self._nothing_known() if self._whitens else {}),
            "frames": 0,
            "updates": 0,
            "theta": self.fast_weights.start.cpu().clone(),
            "adam_m": zeros.clone(),
            "adam_v": zeros.clone(),
            "grad": zeros,
            "sums": torch.zeros(len(_LOGGED)),
        }

    def _nothing_known(self) -> State:
        return unstack(Known.nothing(self.classifier, self.cadence, adapted=True).columns())[0]

    def _take(self, frames: Frames, columns: Columns) -> tuple[Columns, Given]:
        classifier, owner = self.classifier, frames.owner
        pixels = classifier.normalise(frames.batch.canvases)
        with torch.no_grad():
            frozen_features = classifier.features(pixels)
            frozen = classifier.probabilities(frozen_features)
        theta = columns["theta"].detach().requires_grad_()
        features = self.tower.features(pixels[:, None], theta, owner)[:, 0]
        logits = classifier.logits(features)
        losses = policy.entropy_of_logits(logits)
        (gradient,) = torch.autograd.grad(losses.sum(), theta)
        probabilities = logits.detach().softmax(-1)
        served = self._in_metric(features.detach(), owner, columns) if self._whitens else probabilities
        rows = torch.cat([losses.detach()[:, None], statistics(served, frozen)], 1)
        sums = sums_of(rows, frames.counts)
        finite = torch.isfinite(gradient).all(1) & torch.isfinite(sums).all(1)
        columns = {**columns, "frames": columns["frames"] + frames.counts}
        if self._whitens:
            known = Known.of(columns).with_frames(owner, frames.place, frozen_features, features.detach())
            columns |= known.columns()
        learnt = {**columns, "grad": columns["grad"] + gradient, "sums": columns["sums"] + sums}
        columns = where(finite, learnt, columns)
        given = Given(
            served,
            probabilities,
            frozen,
            frozen_features,
            finite.cpu(),
            _OWN_COST + _REPORTING_COST,
            _REPORTING_COST,
        )
        due = self._due(columns)
        if not due:
            return columns, given
        part, updates = self._update(chosen(columns, due))
        return put(columns, due, part), replace(given, updates=list(zip(due, updates, strict=True)))

    @torch.no_grad()
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch`` with what ``state`` knows; one forward, nothing is learnt."""
        if not self._whitens:
            return super().predict(batch, state)
        owner = torch.zeros(len(batch), dtype=torch.int64, device=self.classifier.device)
        columns = stack([state], self.classifier.device)
        pixels = self.classifier.normalise(batch.canvases)[:, None]
        features = self.tower.features(pixels, columns["theta"], owner)[:, 0]
        return Prediction(self._in_metric(features, owner, columns).cpu())

    @torch.no_grad()
    def _in_metric(self, features: torch.Tensor, owner: torch.Tensor, columns: Columns) -> torch.Tensor:
        """Probabilities ``[B, C]`` of adapted features ``[B, D]`` in the metric of their stream's."""
        return Known.of(columns).served(features[:, None], owner, self.classifier)[:, 0].exp()

    @torch.no_grad()
    def _update(self, columns: Columns) -> tuple[Columns, list[Update]]:
        """One update of every stream."""
        if self._whitens:
            known, _ = Known.of(columns).after_window(self.classifier, columns["updates"] + 1, self._horizon)
            columns = {**columns, **known.columns()}
        gradient, number = columns["grad"] / self.cadence, columns["updates"] + 1
        theta, first, second = adam(
            columns["theta"],
            gradient,
            columns["adam_m"],
            columns["adam_v"],
            step=number[:, None].to(gradient.device, torch.float64),
            rate=self.settings.learning_rate,
        )
        told = torch.cat([columns["sums"] / self.cadence, gradient.norm(dim=1, keepdim=True)], 1).tolist()
        counters = zip(told, columns["frames"].tolist(), number.tolist(), strict=True)
        updates = [
            update_of(
                dict(zip(_LOGGED, means, strict=True)),
                frame=frame,
                update=update,
                images=self.cadence,
                gradient_norm=norm,
                forward_equivalents=_OWN_COST + _REPORTING_COST,
            )
            for (*means, norm), frame, update in counters
        ]
        grad, sums = torch.zeros_like(columns["grad"]), torch.zeros_like(columns["sums"])
        moved = {"updates": number, "theta": theta, "adam_m": first, "adam_v": second, "grad": grad, "sums": sums}
        return {**columns, **moved}, updates
