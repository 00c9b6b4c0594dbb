"""GRPO-TTA online: what a stream has learnt is carried on, frames are labelled at once, updates come at fixed frame
counts.

An image costs four forward-equivalents with one view: a frozen forward (reward, marginal, features for the guard) and
a forward with gradient whose output is also the prediction, before its own update. With V views, S of them trained:
``V + 3 S``. Gradients accumulate in the state, and every ``update_every`` frames there is one clipped GRPO step of
Adam on their mean, a pull towards the start, and an update of the marginal. Batches of any size give the same updates
at the same frames. [ours; the objective is the paper's idea, see ``grpo_tta.objective``]
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta import rewards
from grpo_tta.classifier import Classifier
from grpo_tta.methods.grpo_group import SUMS, GroupMaker, sums_over_images
from grpo_tta.methods.look import Look
from grpo_tta.methods.online import OnlineMethod, Part, tensor_of
from grpo_tta.objective import policy_loss
from grpo_tta.optimiser import adam
from grpo_tta.settings import GrpoSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, State, Update

_TENSORS = ("theta", "adam_m", "adam_v", "grad", "marginal", "marginal_sum", "sums")


@dataclass(frozen=True)
class _Stream:
    """A state on the model's device while a step lasts."""

    frames: int
    updates: int
    theta: Tensor
    adam_m: Tensor
    adam_v: Tensor
    grad: Tensor
    """Sum of the frames' gradients since the last update, ``[P]``."""
    marginal: Tensor
    marginal_sum: Tensor
    """Sum of the frozen probabilities since the last update, ``[C]``."""
    sums: Tensor
    """Sums over the frames since the last update, in the order of ``SUMS``."""

    @classmethod
    def load(cls, state: State, device: torch.device) -> "_Stream":
        tensors = {name: tensor_of(state, name).to(device) for name in _TENSORS}
        return cls(frames=int(state["frames"]), updates=int(state["updates"]), **tensors)

    def save(self) -> State:
        state: State = {"frames": self.frames, "updates": self.updates}
        state.update({name: getattr(self, name).cpu() for name in _TENSORS})
        return state


class OnlineGrpo(OnlineMethod[_Stream]):
    """GRPO-TTA online. State, beside ``frames`` and ``updates``, flat float32 vectors: ``theta``, ``adam_m``,
    ``adam_v``, ``grad`` ``[P]``, ``marginal``, ``marginal_sum`` ``[C]``, ``sums`` ``[7]``.

    The group is drawn and trained on with the same parameters, so the ratio is 1: the clip does not bind, and an
    update's ``loss`` is zero but for rounding, as the advantages sum to zero. Its gradient is not; reward, gradient
    norm and disagreement are what to watch. A stretch of frames whose gradient is not finite adds nothing to the
    accumulators, and its report says ``finite=False``.
    """

    name: ClassVar[str] = "grpo-online"

    def __init__(
        self, classifier: Classifier, settings: GrpoSettings | None = None, reward_model: Classifier | None = None
    ) -> None:
        settings = settings or GrpoSettings()
        if settings.mode != "online":
            raise ValueError(f"mode must be 'online' here, got {settings.mode!r}: use EpisodicGrpo")
        super().__init__(classifier, FastWeights(classifier.visual, settings), settings.update_every)
        self.settings = settings
        self._maker = GroupMaker(classifier, settings, reward_model)
        self._cost = float(self._maker.forwards + 3 * settings.confident_views)
        self._horizon = settings.marginal_frames_per_class * classifier.classes

    def initial_state(self) -> State:
        """The frozen encoder's own parameters, a uniform marginal, zero moments and accumulators."""
        zeros, classes = torch.zeros(self.fast_weights.size), self.classifier.classes
        return {
            "frames": 0,
            "updates": 0,
            "theta": self.fast_weights.start.cpu().clone(),
            "adam_m": zeros.clone(),
            "adam_v": zeros.clone(),
            "grad": zeros,
            "marginal": torch.full((classes,), 1.0 / classes),
            "marginal_sum": torch.zeros(classes),
            "sums": torch.zeros(len(SUMS)),
        }

    def _load(self, state: State) -> _Stream:
        return _Stream.load(state, self.classifier.device)

    def _save(self, stream: _Stream) -> State:
        return stream.save()

    def _take(self, batch: Batch, stream: _Stream) -> tuple[_Stream, Part, Update | None]:
        stream, part = self._accumulate(batch, stream)
        if stream.frames % self.cadence:
            return stream, part, None
        stream, update = self._update(stream)
        return stream, part, update

    def _accumulate(self, batch: Batch, stream: _Stream) -> tuple[_Stream, Part]:
        settings, classifier = self.settings, self.classifier
        look = self._maker.look(batch.canvases, batch.seeds, keep_plain=True)
        theta = stream.theta.detach().requires_grad_()
        trained = look.trained(look.views)
        features = classifier.features(trained.flatten(0, 1), self.fast_weights.overrides(theta))
        log_policy = torch.log_softmax(classifier.logits(features), dim=-1).view(*trained.shape[:2], -1)
        log_old = log_policy.detach()
        group = self._maker.group(look, batch.seeds, log_old, stream.marginal)
        reference = look.trained(look.log_probabilities)
        losses = policy_loss(
            log_policy, log_old, reference, group.classes, group.advantages, clip=settings.clip, kl=settings.kl
        ).mean(1)
        (gradient,) = torch.autograd.grad(losses.sum(), theta)
        probabilities, frozen = log_old[:, 0].exp(), look.probabilities[:, 0]
        sums = sums_over_images(losses.detach(), group, probabilities, frozen)
        finite = bool(torch.isfinite(gradient).all() & torch.isfinite(sums).all())
        cost = self._cost * len(batch)
        part = Part(probabilities.cpu(), frozen.cpu(), look.features[:, 0].cpu(), finite, cost)
        return self._added(stream, look, gradient, sums, finite), part

    def _added(self, stream: _Stream, look: Look, gradient: Tensor, sums: Tensor, finite: bool) -> _Stream:
        frames = stream.frames + len(look.views)
        tensors = {name: getattr(stream, name) for name in _TENSORS}
        if finite:
            tensors["grad"] = stream.grad + gradient
            tensors["marginal_sum"] = stream.marginal_sum + look.probabilities[:, 0].sum(0)
            tensors["sums"] = stream.sums + sums
        return _Stream(frames=frames, updates=stream.updates, **tensors)

    def _update(self, stream: _Stream) -> tuple[_Stream, Update]:
        settings, count = self.settings, self.settings.update_every
        gradient = stream.grad / count
        number = stream.updates + 1
        theta, first, second = adam(
            stream.theta, gradient, stream.adam_m, stream.adam_v, step=number, rate=settings.step_size
        )
        theta = torch.lerp(theta, self.fast_weights.start, settings.pull)
        marginal = rewards.update_marginal(stream.marginal, stream.marginal_sum / count, count, self._horizon)
        means = dict(zip(SUMS, (stream.sums / count).tolist(), strict=True))
        update = Update(
            frame=stream.frames,
            update=number,
            images=count,
            gradient_norm=float(gradient.norm()),
            forward_equivalents=self._cost,
            **means,
        )
        cleared = {name: torch.zeros_like(getattr(stream, name)) for name in ("grad", "marginal_sum", "sums")}
        updated = _Stream(stream.frames, number, theta, first, second, marginal=marginal, **cleared)
        return updated, update
