"""DeYO: entropy minimisation of the frames whose label hangs on shapes, told by shuffling their patches.

Item by item, [peer] is DeYO's own code with its ViT settings:

- PLPD of a frame: how far the probability of its label falls when its 4 x 4 patches are shuffled [peer]. The order of
  the patches is drawn from the frame's own seed, so that a replay shuffles alike [ours]
- learnt from: frames of entropy under ``0.5 ln C`` nats whose PLPD is above 0.2 [peer, there ln 1000]; only those under
  the entropy's bound are shuffled and forwarded again, without gradient [peer]
- loss: mean over them of entropy times ``exp(0.4 ln C - entropy) + exp(PLPD)``, a weight without gradient [peer]; SGD,
  momentum 0.9, rate 1e-3 at 64 images [peer]
- where no frame is left there is no step, not even of momentum [peer]
- tuned: normalisation layers but those of the last three of twelve blocks and the final one [peer]; here the last
  quarter of the layers, rounded up, as for SAR [ours]
- a window of 64 frames is the peer's batch, however it arrives; the canvases and seeds of an unfinished one are kept in
  the state [ours]; labels are those of the forward that is learnt from, before the update [peer]
- a side that 4 does not divide is scaled to the next smaller one that it does, and back [peer]
- BatchNorm keeps its running statistics [ours, as in Tent]; never reset of itself, where the peer's tables reset at
  each corruption

An image costs three forward-equivalents (four if its window comes in parts), one more if its entropy is under the
bound, and one for the frozen forward that is only reported.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta import policy
from grpo_tta.classifier import Classifier
from grpo_tta.methods.windowed import Learnt, Part, Stream, Window, WindowedMethod
from grpo_tta.noise import uniforms
from grpo_tta.optimiser import sgd
from grpo_tta.settings import DeyoSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, State, Update

_STREAM = 3
"""Of the random numbers that order patches."""


class Deyo(WindowedMethod):
    """DeYO. State, beside that of a windowed method: ``velocity`` ``[P]`` and ``seeds`` int64 ``[n]``, those of the
    window's frames."""

    name: ClassVar[str] = "deyo"

    def __init__(self, classifier: Classifier, settings: DeyoSettings | None = None) -> None:
        settings = settings or DeyoSettings()
        fast_weights = FastWeights(classifier.visual, "norm", skip_last=settings.skip_last)
        super().__init__(classifier, fast_weights, settings.update_every)
        self.settings = settings
        self._most = math.log(classifier.classes)

    def initial_state(self) -> State:
        """The frozen encoder's own parameters, an empty window, no momentum."""
        own: State = {"velocity": torch.zeros(self.fast_weights.size), "seeds": torch.zeros(0, dtype=torch.int64)}
        return {**super().initial_state(), **own}

    @property
    def most_rows(self) -> Mapping[str, int]:
        """An unfinished window."""
        return {**super().most_rows, "seeds": self.cadence - 1}

    def _take(self, batch: Batch, stream: Stream) -> tuple[Stream, Part, Update | None]:
        seeds = torch.cat([stream["seeds"], batch.seeds.to(stream["seeds"].device)])
        stream, part, update = super()._take(batch, stream.but(seeds=seeds))
        return (stream if update is None else stream.but(seeds=seeds[:0])), part, update

    def _learn(self, stream: Stream, window: Window) -> Learnt:
        logits = self.classifier.logits(F.normalize(window.embeddings, dim=-1))
        entropies = policy.entropy_of_logits(logits)
        known = entropies.detach()
        certain = (known < self.settings.reliable_entropy * self._most).nonzero().flatten()
        drops = self._drops(window, logits.detach(), certain, stream["seeds"])
        chosen = drops > self.settings.least_drop
        learnt = certain[chosen]
        gradient, loss = torch.zeros_like(stream["theta"]), 0.0
        finite = bool(torch.isfinite(known).all())
        if len(learnt):
            margins = self.settings.weight_entropy * self._most - known[learnt]
            mean = (entropies[learnt] * (margins.exp() + drops[chosen].exp())).mean()
            (gradient,) = torch.autograd.grad(mean, window.theta)
            loss, finite = float(mean.detach()), finite and bool(torch.isfinite(gradient).all())
            if finite:
                stream = self._moved(stream, gradient)
        return Learnt(stream, loss, float(gradient.norm()), finite, float(len(certain)))

    @torch.no_grad()
    def _drops(self, window: Window, logits: Tensor, rows: Tensor, seeds: Tensor) -> Tensor:
        """PLPD ``[n]`` of the window's frames ``rows`` ``[n]``."""
        if not len(rows):
            return logits.new_zeros(0)
        shuffled = shuffled_patches(window.pixels[rows], seeds[rows], self.settings.patches)
        overrides = self.fast_weights.overrides(window.theta.detach())
        after = self.classifier.probabilities(self.classifier.features(shuffled, overrides))
        before = logits[rows].softmax(-1)
        labels = before.argmax(-1, keepdim=True)
        return (before - after).gather(1, labels)[:, 0]

    def _moved(self, stream: Stream, gradient: Tensor) -> Stream:
        theta, velocity = sgd(
            stream["theta"],
            gradient,
            stream["velocity"],
            rate=self.settings.learning_rate,
            momentum=self.settings.momentum,
        )
        return stream.but(theta=theta, velocity=velocity)


def shuffled_patches(pixels: Tensor, seeds: Tensor, patches: int) -> Tensor:
    """``pixels`` ``[N, 3, H, W]`` with their ``patches`` x ``patches`` parts in an order of each image's own, drawn
    from ``seeds`` ``[N]``. [peer; the seeds ours]"""
    images, channels, height, width = pixels.shape
    tall, wide = height // patches, width // patches
    fitting = (tall * patches, wide * patches)
    if fitting != (height, width):
        pixels = F.interpolate(pixels, fitting, mode="bilinear", antialias=True)
    parts = pixels.reshape(images, channels, patches, tall, patches, wide).permute(0, 2, 4, 1, 3, 5)
    order = uniforms(seeds, patches * patches, _STREAM).argsort(dim=1)
    mixed = parts.reshape(images, patches * patches, channels, tall, wide)[
        torch.arange(images, device=order.device)[:, None], order
    ]
    whole = mixed.reshape(images, patches, patches, channels, tall, wide).permute(0, 3, 1, 4, 2, 5)
    whole = whole.reshape(images, channels, *fitting)
    if fitting != (height, width):
        return F.interpolate(whole, (height, width), mode="bilinear", antialias=True)
    return whole
