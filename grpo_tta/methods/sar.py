"""SAR: sharpness-aware and reliable entropy minimisation, with recovery from collapse.

Item by item, [peer] is SAR's own code with its ViT settings:

- loss: mean entropy of the frames under ``0.4 ln C`` nats ("reliable") [peer, there ln 1000]; a second look from the
  perturbed parameters keeps those of them still under it [peer]
- perturbation ``rho * g / |g|``, ``rho`` 0.05 [peer:SAM]; then SGD, momentum 0.9, rate 1e-3 at 64 images [peer]
- tuned: normalisation layers but those of the last three of twelve blocks and the final one [peer]; here the last
  quarter of the layers, rounded up, which is the same in a ViT-B and a rule for every other tower [ours]
- recovery: when the running mean (memory 0.9) of the second loss falls under 0.2 nats, parameters, optimiser and the
  running mean itself start afresh. The peer's code keeps the stale mean and so resets again and again [ours: cleared]
- a window of 64 frames is the peer's batch, however it arrives; the frames of an unfinished one are kept in the state,
  because both looks are of the same frames [ours]; labels come from the first look's forward [peer]
- the second look forwards the reliable frames alone; the peer forwards all and drops the rest [ours: same gradient]
- BatchNorm keeps its running statistics [ours, as in Tent]

Without a reliable frame the gradient is zero and only momentum moves the parameters [peer]. An image costs three
forward-equivalents (four if its window comes in parts), three more if it is reliable, and one for the frozen forward
that is only reported.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta import policy
from grpo_tta.classifier import Classifier
from grpo_tta.methods.windowed import Learnt, Stream, Window, WindowedMethod
from grpo_tta.optimiser import sgd
from grpo_tta.settings import SarSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import State

_NONE_YET = -1.0
_SMALLEST_NORM = 1e-12


class Sar(WindowedMethod):
    """SAR. State, beside that of a windowed method: ``velocity`` ``[P]``, ``recoveries`` (a count), ``loss_mean`` (-1
    where there is none yet)."""

    name: ClassVar[str] = "sar"

    def __init__(self, classifier: Classifier, settings: SarSettings | None = None) -> None:
        settings = settings or SarSettings()
        fast_weights = FastWeights(classifier.visual, "norm", skip_last=settings.skip_last)
        super().__init__(classifier, fast_weights, settings.update_every)
        self.settings = settings
        self._threshold = settings.reliable_entropy * math.log(classifier.classes)

    def initial_state(self) -> State:
        """The frozen encoder's own parameters, an empty window, no momentum, no running mean."""
        own: State = {"velocity": torch.zeros(self.fast_weights.size), "recoveries": 0, "loss_mean": _NONE_YET}
        return {**super().initial_state(), **own}

    def _learn(self, stream: Stream, window: Window) -> Learnt:
        entropies = self._entropies(window.embeddings)
        reliable = (entropies < self._threshold).nonzero().flatten()
        gradient, loss = _mean_gradient(entropies[reliable], window.theta)
        step = self.settings.rho / (gradient.norm() + _SMALLEST_NORM)
        theta = (window.theta.detach() + step * gradient).requires_grad_()
        pixels = window.pixels[reliable]
        second, second_loss, cost = torch.zeros_like(gradient), None, 0.0
        if len(reliable):
            cost = 3.0 * len(reliable)
            again = self._entropies(self.classifier.embeddings(pixels, self.fast_weights.overrides(theta)))
            second, second_loss = _mean_gradient(again[again < self._threshold], theta)
        finite = bool(torch.isfinite(second).all() & torch.isfinite(gradient).all() & torch.isfinite(entropies).all())
        if finite:
            stream = self._moved(stream, second, second_loss)
        return Learnt(stream, loss if loss is not None else 0.0, float(gradient.norm()), finite, cost)

    def _entropies(self, embeddings: Tensor) -> Tensor:
        return policy.entropy_of_logits(self.classifier.logits(F.normalize(embeddings, dim=-1)))

    def _moved(self, stream: Stream, gradient: Tensor, loss: float | None) -> Stream:
        settings = self.settings
        theta, velocity = sgd(
            stream["theta"],
            gradient,
            stream["velocity"],
            rate=settings.learning_rate,
            momentum=settings.momentum,
        )
        mean = float(stream.numbers["loss_mean"])
        if loss is not None:
            kept = 0.0 if mean == _NONE_YET else settings.recovery_memory
            mean = kept * mean + (1 - kept) * loss
        recoveries = int(stream.numbers["recoveries"])
        if mean != _NONE_YET and mean < settings.recovery_entropy:
            theta, velocity = self.fast_weights.start, torch.zeros_like(velocity)
            mean, recoveries = _NONE_YET, recoveries + 1
        return stream.but(theta=theta, velocity=velocity).numbered(loss_mean=mean, recoveries=recoveries)


def _mean_gradient(losses: Tensor, theta: Tensor) -> tuple[Tensor, float | None]:
    """Gradient and value of the mean; zero and ``None`` where there is no frame."""
    if not len(losses):
        return torch.zeros_like(theta), None
    (gradient,) = torch.autograd.grad(losses.mean(), theta)
    return gradient, float(losses.detach().mean())
