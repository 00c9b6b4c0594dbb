"""GRPO-TTA online: what a stream has learnt is carried on, frames are labelled at once, updates come at fixed frame
counts.

An image costs four forward-equivalents with one view: a frozen forward (reward, marginal, features for the guard) and
a forward with gradient whose output is also the prediction, before its own update. With V views, S of them trained:
``V + 3 S``. Gradients accumulate in the state, and every ``update_every`` frames there is one clipped GRPO step of
Adam on their mean, a pull towards the start, and an update of the marginals. Batches of any size give the same updates
at the same frames. [ours; the objective is the paper's idea, see ``grpo_tta.objective``]

Two marginals of runners-up are kept: the frozen encoder's makes the dispersion reward, the adapted encoder's adjusts
the logits of the labels. Both count, and steps are long, only as far as the stream is to be trusted
(`grpo_tta.rewards.trust`): the classes that it shows are many. [ours]

With ``gate_frames`` most windows of ``update_every`` frames are only labelled, by one forward of the adapted encoder,
once a stream has been learnt from for so long (`grpo_tta.methods.gate`). Their frames have no frozen rows in a report,
and count as seen. [ours]
"""

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta import policy, rewards
from grpo_tta.classifier import Classifier
from grpo_tta.methods.gate import Gate
from grpo_tta.methods.grpo_group import SUMS, GroupMaker, sums_over_images
from grpo_tta.methods.online import OnlineMethod, Part, tensor_of
from grpo_tta.optimiser import adam
from grpo_tta.settings import GrpoSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, Prediction, State, Update

_TENSORS = (
    *("theta", "adam_m", "adam_v", "grad"),
    *("marginal", "marginal_sum", "own_marginal", "own_sum", "shown"),
    "sums",
)
_ENTROPY = SUMS.index("entropy")
_SHORTEST_MEMORY = 10
"""Of the marginals, in updates."""


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
    """Mean of the frozen encoder's runners-up, ``[C]``."""
    marginal_sum: Tensor
    """Sum of them since the last update."""
    own_marginal: Tensor
    """Mean of the adapted encoder's runners-up, ``[C]``."""
    own_sum: Tensor
    """Sum of them since the last update."""
    shown: Tensor
    """Fading sum of the frozen probabilities, ``[C]``: what the stream shows."""
    trust: float
    """Of ``shown`` at the last update."""
    sums: Tensor
    """Sums over the window's frames, in the order of ``SUMS``."""
    gate: Gate

    @classmethod
    def load(cls, state: State, device: torch.device) -> "_Stream":
        tensors = {name: tensor_of(state, name).to(device) for name in _TENSORS}
        frames, updates, trust = int(state["frames"]), int(state["updates"]), float(state["trust"])
        gate = Gate(float(state["gate_usual"]), float(state["gate_variance"]), int(state["gate_due"]))
        return cls(frames=frames, updates=updates, trust=trust, gate=gate, **tensors)

    def save(self) -> State:
        state: State = {"frames": self.frames, "updates": self.updates, "trust": self.trust}
        state.update({name: getattr(self, name).cpu() for name in _TENSORS})
        state.update(_numbers(self.gate))
        return state


class OnlineGrpo(OnlineMethod[_Stream]):
    """GRPO-TTA online. State, beside ``frames``, ``updates``, ``trust`` and the gate's numbers, flat float32 vectors:
    ``theta``, ``adam_m``, ``adam_v``, ``grad`` ``[P]``, ``marginal``, ``marginal_sum``, ``own_marginal``, ``own_sum``,
    ``shown`` ``[C]``, ``sums`` ``[7]``.

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
        self._horizon = max(
            settings.marginal_frames_per_class * classifier.classes, float(_SHORTEST_MEMORY * settings.update_every)
        )

    def initial_state(self) -> State:
        """The frozen encoder's own parameters, uniform marginals, zero moments and accumulators."""
        zeros, classes = torch.zeros(self.fast_weights.size), self.classifier.classes
        uniform, nothing = torch.full((classes,), 1.0 / classes), torch.zeros(classes)
        return {
            "frames": 0,
            "updates": 0,
            "theta": self.fast_weights.start.cpu().clone(),
            "adam_m": zeros.clone(),
            "adam_v": zeros.clone(),
            "grad": zeros,
            "marginal": uniform,
            "marginal_sum": nothing,
            "own_marginal": uniform.clone(),
            "own_sum": nothing.clone(),
            "shown": nothing.clone(),
            "trust": 0.0,
            "sums": torch.zeros(len(SUMS)),
            **_numbers(Gate()),
        }

    def after_shift(self, state: State, *, reset: bool) -> State:
        """A gated stream learns from the next ``gate_frames`` frames. With a reset the parameters are kept, and all
        else is the initial state's: moments and marginals are of the input that is gone. [ours, docs/benchmarks.md]"""
        if reset:
            return {**self.initial_state(), "theta": state["theta"]}
        stream, first = self._load(state), self.settings.gate_frames
        if first is None:
            return state
        served = bool(stream.frames % self.cadence) and not self._learns(stream)
        return {**state, **_numbers(stream.gate.anew(first // self.cadence, served=served))}

    @torch.no_grad()
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch`` with the parameters and marginals of ``state``; one forward, nothing is learnt."""
        return Prediction(self._label(batch, self._load(state))[1].cpu())

    def _load(self, state: State) -> _Stream:
        return _Stream.load(state, self.classifier.device)

    def _save(self, stream: _Stream) -> State:
        return stream.save()

    def _take(self, batch: Batch, stream: _Stream) -> tuple[_Stream, Part, Update | None]:
        learns = self._learns(stream)
        stream, part = self._accumulate(batch, stream) if learns else self._serve(batch, stream)
        if stream.frames % self.cadence:
            return stream, part, None
        if self.settings.gate_frames is not None:
            entropy = float(stream.sums[_ENTROPY]) / self.cadence
            stream = replace(stream, gate=stream.gate.after(entropy, stream.frames // self.cadence))
        if not learns:
            return replace(stream, sums=torch.zeros_like(stream.sums)), part, None
        stream, update = self._update(stream)
        return stream, part, update

    def _learns(self, stream: _Stream) -> bool:
        """Whether the window of the stream's next frame is learnt from."""
        window, learnt = stream.frames // self.cadence, stream.updates * self.cadence
        return stream.gate.learns(window, learnt, self.settings.gate_frames)

    @torch.no_grad()
    def _serve(self, batch: Batch, stream: _Stream) -> tuple[_Stream, Part]:
        """Label frames by one forward of the adapted encoder; nothing is learnt but how sure their labels are."""
        probabilities, served = self._label(batch, stream)
        sums = stream.sums.clone()
        sums[_ENTROPY] += policy.normalised_entropy(served).sum()
        part = Part(probabilities.cpu(), None, None, True, float(len(batch)), served=served.cpu())
        return replace(stream, frames=stream.frames + len(batch), sums=sums), part

    def _label(self, batch: Batch, stream: _Stream) -> tuple[Tensor, Tensor]:
        """Probabilities ``[B, C]`` of the adapted encoder, and those that labels come from; one forward."""
        pixels = self.classifier.normalise(batch.canvases)
        features = self.classifier.features(pixels, self.fast_weights.overrides(stream.theta))
        log_policy = torch.log_softmax(self.classifier.logits(features), dim=-1)
        return log_policy.exp(), self._adjusted(log_policy, stream)

    def _accumulate(self, batch: Batch, stream: _Stream) -> tuple[_Stream, Part]:
        classifier = self.classifier
        look = self._maker.look(batch.canvases, batch.seeds, keep_plain=True)
        theta = stream.theta.detach().requires_grad_()
        trained = look.trained(look.views)
        features = classifier.features(trained.flatten(0, 1), self.fast_weights.overrides(theta))
        log_policy = torch.log_softmax(classifier.logits(features), dim=-1).view(*trained.shape[:2], -1)
        log_old = log_policy.detach()
        of_marginal = stream.trust * rewards.marginal_dispersion(stream.marginal)
        group = self._maker.group(look, batch.seeds, log_old, of_marginal)
        losses = self._maker.loss(log_policy, log_old, look.trained(look.log_probabilities), group)
        (gradient,) = torch.autograd.grad(losses.sum(), theta)
        probabilities, frozen = log_old[:, 0].exp(), look.probabilities[:, 0]
        served = self._adjusted(log_old[:, 0], stream)
        sums = sums_over_images(losses.detach(), group, served, frozen)
        finite = bool(torch.isfinite(gradient).all() & torch.isfinite(sums).all())
        part = Part(
            probabilities.cpu(),
            frozen.cpu(),
            look.features[:, 0].cpu(),
            finite,
            self._cost * len(batch),
            served=served.cpu(),
        )
        moved = replace(stream, frames=stream.frames + len(batch))
        return _added(moved, gradient, sums, frozen, probabilities) if finite else moved, part

    def _adjusted(self, log_policy: Tensor, stream: _Stream) -> Tensor:
        """Probabilities ``[B, C]`` that labels come from, of log probabilities ``[B, C]`` of the adapted encoder.
        [ours; logit adjustment by a marginal that the stream's own shares of classes hardly enter]"""
        weight = stream.trust * self.settings.logit_adjustment
        return torch.softmax(log_policy + weight * rewards.marginal_dispersion(stream.own_marginal), dim=-1)

    def _update(self, stream: _Stream) -> tuple[_Stream, Update]:
        settings, count = self.settings, self.settings.update_every
        gradient, number = stream.grad / count, stream.updates + 1
        trust = rewards.trust(stream.shown)
        theta, first, second = adam(
            stream.theta,
            gradient,
            stream.adam_m,
            stream.adam_v,
            step=number,
            rate=settings.step_size * trust,
        )
        means = dict(zip(SUMS, (stream.sums / count).tolist(), strict=True))
        update = Update(
            frame=stream.frames,
            update=number,
            images=count,
            gradient_norm=float(gradient.norm()),
            forward_equivalents=self._cost,
            **means,
        )
        updated = replace(
            stream,
            updates=number,
            theta=torch.lerp(theta, self.fast_weights.start, settings.pull),
            adam_m=first,
            adam_v=second,
            marginal=rewards.update_marginal(stream.marginal, stream.marginal_sum / count, count, self._horizon),
            own_marginal=rewards.update_marginal(stream.own_marginal, stream.own_sum / count, count, self._horizon),
            shown=stream.shown * rewards.kept_after(count, self._horizon),
            trust=trust,
            grad=torch.zeros_like(stream.grad),
            marginal_sum=torch.zeros_like(stream.marginal_sum),
            own_sum=torch.zeros_like(stream.own_sum),
            sums=torch.zeros_like(stream.sums),
        )
        return updated, update


def _numbers(gate: Gate) -> State:
    return {f"gate_{name}": value for name, value in asdict(gate).items()}


def _added(stream: _Stream, gradient: Tensor, sums: Tensor, frozen: Tensor, adapted: Tensor) -> _Stream:
    """With a stretch's gradient ``[P]``, log sums and probabilities ``[B, C]`` of both encoders."""
    return replace(
        stream,
        grad=stream.grad + gradient,
        marginal_sum=stream.marginal_sum + rewards.runner_up(frozen).sum(0),
        own_sum=stream.own_sum + rewards.runner_up(adapted).sum(0),
        shown=stream.shown + frozen.sum(0),
        sums=stream.sums + sums,
    )
