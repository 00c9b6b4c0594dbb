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

An image costs three forward-equivalents, and one more for the frozen forward that is only reported.
"""

from typing import ClassVar

import torch

from grpo_tta import policy
from grpo_tta.classifier import Classifier
from grpo_tta.methods.online import STATISTICS, OnlineMethod, Part, Stream, statistics, update_of
from grpo_tta.optimiser import adam
from grpo_tta.settings import TentSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, State, Update

_LOGGED = ("loss", *STATISTICS)
_OWN_COST, _REPORTING_COST = 3.0, 1.0


class Tent(OnlineMethod[Stream]):
    """Tent. State, beside ``frames`` and ``updates``, flat float32 vectors: ``theta``, ``adam_m``, ``adam_v``, ``grad``
    ``[P]``, ``sums`` ``[3]``.

    A stretch whose gradient is not finite adds nothing to the accumulators, and its report says ``finite=False``.
    """

    name: ClassVar[str] = "tent"

    def __init__(self, classifier: Classifier, settings: TentSettings | None = None) -> None:
        settings = settings or TentSettings()
        super().__init__(classifier, FastWeights(classifier.visual, "norm"), settings.update_every)
        self.settings = settings

    def initial_state(self) -> State:
        """The frozen encoder's own parameters, zero moments and accumulators."""
        zeros = torch.zeros(self.fast_weights.size)
        return {
            "frames": 0,
            "updates": 0,
            "theta": self.fast_weights.start.cpu().clone(),
            "adam_m": zeros.clone(),
            "adam_v": zeros.clone(),
            "grad": zeros,
            "sums": torch.zeros(len(_LOGGED)),
        }

    def _load(self, state: State) -> Stream:
        return Stream.load(state, self.classifier.device)

    def _save(self, stream: Stream) -> State:
        return stream.save()

    def _take(self, batch: Batch, stream: Stream) -> tuple[Stream, Part, Update | None]:
        classifier = self.classifier
        pixels = classifier.normalise(batch.canvases)
        with torch.no_grad():
            frozen_features = classifier.features(pixels)
            frozen = classifier.probabilities(frozen_features)
        theta = stream["theta"].detach().requires_grad_()
        logits = classifier.logits(classifier.features(pixels, self.fast_weights.overrides(theta)))
        losses = policy.entropy_of_logits(logits)
        (gradient,) = torch.autograd.grad(losses.sum(), theta)
        probabilities = logits.detach().softmax(-1)
        sums = torch.cat([losses.detach().sum()[None], statistics(probabilities, frozen)])
        finite = bool(torch.isfinite(gradient).all() & torch.isfinite(sums).all())
        stream = stream.but(frames=len(batch))
        if finite:
            stream = stream.but(grad=stream["grad"] + gradient, sums=stream["sums"] + sums)
        part = Part(
            probabilities.cpu(),
            frozen.cpu(),
            frozen_features.cpu(),
            finite,
            (_OWN_COST + _REPORTING_COST) * len(batch),
            _REPORTING_COST * len(batch),
        )
        if stream.frames % self.cadence:
            return stream, part, None
        stream, update = self._update(stream)
        return stream, part, update

    def _update(self, stream: Stream) -> tuple[Stream, Update]:
        gradient = stream["grad"] / self.cadence
        number = stream.updates + 1
        theta, first, second = adam(
            stream["theta"],
            gradient,
            stream["adam_m"],
            stream["adam_v"],
            step=number,
            rate=self.settings.learning_rate,
        )
        update = update_of(
            dict(zip(_LOGGED, (stream["sums"] / self.cadence).tolist(), strict=True)),
            frame=stream.frames,
            update=number,
            images=self.cadence,
            gradient_norm=float(gradient.norm()),
            forward_equivalents=_OWN_COST + _REPORTING_COST,
        )
        grad, sums = torch.zeros_like(stream["grad"]), torch.zeros_like(stream["sums"])
        return stream.but(updates=1, theta=theta, adam_m=first, adam_v=second, grad=grad, sums=sums), update
