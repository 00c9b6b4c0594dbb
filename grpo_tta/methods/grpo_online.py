"""GRPO-TTA online: what a stream has learnt is carried on, frames are labelled at once, updates come at fixed frame
counts.

An image costs four forward-equivalents with one view: a frozen forward (teacher, statistics, features for the guard)
and a forward with gradient whose output is also the prediction, before its own update. With V views, S of them trained:
``V + 3 S``. Gradients accumulate in the state, and every ``update_every`` frames there is one GRPO step of Adam on
their mean, a pull towards the start, and an update of what is known of the stream. Batches of any size give the same
updates at the same frames. [ours; the objective is the paper's idea, see ``grpo_tta.objective``]

What is known of a stream is made of the features of the window that ends, frozen and adapted, which are kept in two
rings. The frozen encoder in the metric of its own features (`grpo_tta.whitening`) is the *teacher*: its probabilities
are the alignment reward, its best classes the candidates, its runners-up the dispersion reward. Labels come from the
adapted features in the metric of theirs, adjusted by their runners-up. Each frame is pushed from the last ones of other
classes in the ring. All of it counts, and steps are long, only as far as the stream is to be trusted
(`grpo_tta.diversity`). [ours]

With ``gate_frames`` most windows of ``update_every`` frames are only labelled, by one forward of the adapted encoder,
once a stream has been learnt from for so long (`grpo_tta.methods.gate`). Their frames have no frozen rows in a report,
count as seen, and change nothing that is known of the stream. [ours]
"""

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta import policy, rewards
from grpo_tta.classifier import Classifier
from grpo_tta.methods.gate import Gate
from grpo_tta.methods.grpo_group import SUMS, GroupMaker, sums_over_images
from grpo_tta.methods.known import Known, Window, memory
from grpo_tta.methods.look import Look
from grpo_tta.methods.online import OnlineMethod, Part, tensor_of
from grpo_tta.optimiser import adam
from grpo_tta.settings import GrpoSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, Prediction, State, Update

_TENSORS = ("theta", "adam_m", "adam_v", "grad", "sums", "marginal", "own_marginal", "ring_classes", "squeezed")
_ENTROPY = SUMS.index("entropy")
_SMALL_TYPE = torch.bfloat16
"""Of the first moment, which fades fast; the second moment would stand still in it."""
_SUM_TYPE = torch.float16
"""Of the gradients' sum."""
_DISTRUST = 10.0
"""How much stronger the pull is on a stream that is not to be trusted at all. [ours]"""


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
    sums: Tensor
    """Sums over the window's frames, in the order of ``SUMS``."""
    marginal: Tensor
    """Mean of the teacher's runners-up, ``[C]``."""
    own_marginal: Tensor
    """Mean of the adapted encoder's runners-up, ``[C]``."""
    ring_classes: Tensor
    """The teacher's classes of the frames in the rings of ``known``, int64 ``[E]``."""
    squeezed: Tensor
    """Running mean of `grpo_tta.rewards.squeeze` of the adapted features, ``[]``."""
    known: Known
    gate: Gate

    @classmethod
    def load(cls, state: State, device: torch.device) -> "_Stream":
        tensors = {name: tensor_of(state, name).to(device) for name in _TENSORS}
        gate = Gate(float(state["gate_usual"]), float(state["gate_variance"]), int(state["gate_due"]))
        frames, updates = int(state["frames"]), int(state["updates"])
        return cls(frames=frames, updates=updates, known=Known.load(state, device), gate=gate, **tensors)

    def save(self) -> State:
        state: State = {"frames": self.frames, "updates": self.updates}
        state.update({name: getattr(self, name).cpu() for name in _TENSORS})
        state.update(self.known.columns())
        state.update(_numbers(self.gate))
        return state


class OnlineGrpo(OnlineMethod[_Stream]):
    """GRPO-TTA online. State, beside ``frames``, ``updates`` and the gate's numbers, tensors: ``theta``, ``adam_v``
    float32, ``adam_m`` bfloat16 and ``grad`` float16 ``[P]``, ``marginal``, ``own_marginal`` ``[C]``, ``sums`` ``[7]``,
    ``ring_classes`` int64 ``[E]``, ``squeezed`` ``[]``, and the columns of `Known`.

    The group is drawn and trained on with the same parameters, so the ratio is 1 and the clip does not bind: an update
    is along the policy gradient ``sum_o pi(o) A(o) grad log pi(o)`` over the group, less the gradients of the feature
    dispersion and of the entropy. The surrogate's value is zero but for rounding, as the advantages sum to zero:
    reward, gradient norm and disagreement are what to watch. A stretch of frames whose gradient is not finite adds
    nothing, and its report says ``finite=False``.
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
        self._horizon = memory(settings.marginal_frames_per_class, classifier.classes, settings.update_every)

    def initial_state(self) -> State:
        """The frozen encoder's own parameters, uniform marginals, zero moments and accumulators, nothing known."""
        zeros, classes = torch.zeros(self.fast_weights.size), self.classifier.classes
        uniform = torch.full((classes,), 1.0 / classes)
        return {
            "frames": 0,
            "updates": 0,
            "theta": self.fast_weights.start.cpu().clone(),
            "adam_m": zeros.to(_SMALL_TYPE),
            "adam_v": zeros,
            "grad": zeros.to(_SUM_TYPE),
            "sums": torch.zeros(len(SUMS)),
            "marginal": uniform,
            "own_marginal": uniform.clone(),
            "ring_classes": torch.zeros(self.cadence, dtype=torch.int64),
            "squeezed": torch.zeros(()),
            **Known.nothing(self.classifier, self.cadence, adapted=True).columns(),
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
        return self.classifier.probabilities(features), self._log_policy(features, stream).exp()

    def _log_policy(self, features: Tensor, stream: _Stream) -> Tensor:
        """Log probabilities ``[..., C]`` of the policy, which labels come from too, of adapted features ``[..., D]``:
        in the metric of the stream's adapted features, adjusted by their runners-up. Differentiable. [ours; logit
        adjustment by a marginal that the stream's own shares of classes hardly enter]"""
        weight = stream.known.trust * self.settings.logit_adjustment
        adjustment = weight * rewards.marginal_dispersion(stream.own_marginal)
        return torch.log_softmax(self._log_own(features, stream.known) + adjustment, dim=-1)

    def _log_own(self, features: Tensor, known: Known) -> Tensor:
        """The same before the adjustment."""
        if self.settings.similarity == "plain":
            return torch.log_softmax(self.classifier.logits(features), dim=-1)
        return known.served(features, self.classifier)

    def _teacher(self, look: Look, known: Known) -> Look:
        """The look with the probabilities that candidates and their alignment come from."""
        if self.settings.alignment != "whitened":
            return look
        log_probabilities = known.teacher(look.features, self.classifier)
        return replace(look, log_probabilities=log_probabilities, probabilities=log_probabilities.exp())

    def _accumulate(self, batch: Batch, stream: _Stream) -> tuple[_Stream, Part]:
        classifier = self.classifier
        look = self._maker.look(batch.canvases, batch.seeds, keep_plain=True)
        teacher = self._teacher(look, stream.known)
        theta = stream.theta.detach().requires_grad_()
        views = look.trained(look.views)
        features = classifier.features(views.flatten(0, 1), self.fast_weights.overrides(theta))
        features = features.view(*views.shape[:2], -1)
        log_policy = self._log_policy(features, stream)
        log_old = log_policy.detach()
        of_marginal = stream.known.trust * rewards.marginal_dispersion(stream.marginal)
        group = self._maker.group(teacher, batch.seeds, log_old, of_marginal)
        losses = self._maker.loss(log_policy, log_old, look.trained(look.log_probabilities), group)
        plain = features[:, 0]
        kept = self._remembered(stream, look.features[:, 0], plain.detach(), teacher.probabilities[:, 0].argmax(1))
        others = self._dispersion(plain, stream, kept) + self.settings.certainty * policy.entropy_of_logits(
            log_policy
        ).mean(1)
        (gradient,) = torch.autograd.grad(losses.sum() + others.sum(), theta)
        frozen, served = look.probabilities[:, 0], log_old[:, 0].exp()
        sums = sums_over_images(losses.detach(), group, served, frozen)
        grad = (stream.grad.float() + gradient).to(_SUM_TYPE)
        finite = bool(torch.isfinite(grad).all() & torch.isfinite(sums).all())
        part = Part(
            classifier.probabilities(plain.detach()).cpu(),
            frozen.cpu(),
            look.features[:, 0].cpu(),
            finite,
            self._cost * len(batch),
            served=served.cpu(),
        )
        if not finite:
            nothing = torch.zeros_like(plain.detach())
            return self._remembered(stream, nothing, nothing, kept.ring_classes[: len(batch)]), part
        return replace(kept, grad=grad, sums=stream.sums + sums), part

    def _remembered(self, stream: _Stream, frozen: Tensor, adapted: Tensor, classes: Tensor) -> _Stream:
        """With frames of frozen and adapted features ``[B, D]`` and the teacher's classes ``[B]`` in the rings."""
        first = stream.frames % self.cadence
        ring_classes = stream.ring_classes.clone()
        ring_classes[first : first + len(classes)] = classes
        known = stream.known.with_frames(first, frozen, adapted)
        return replace(stream, frames=stream.frames + len(classes), known=known, ring_classes=ring_classes)

    def _dispersion(self, features: Tensor, stream: _Stream, kept: _Stream) -> Tensor:
        """What adapted features ``[B, D]`` lose for being like the last ones of other classes, ``[B]``: twice, for each
        pair of frames is met by one of them only. ``kept`` is ``stream`` with these frames in its rings. [ours]"""
        before, now = stream.known.own_ring, kept.known.own_ring
        assert before is not None
        assert now is not None
        others, of_others = torch.cat([before, now]).float(), torch.cat([stream.ring_classes, kept.ring_classes])
        number = torch.arange(self.cadence, device=features.device)
        place = number[stream.frames % self.cadence :][: len(features)]
        seen = torch.cat([number >= place[:, None], number < place[:, None]], 1) & (others.square().sum(1) > 0)
        cosines = -rewards.feature_dispersion(features, kept.ring_classes[place], others, of_others, seen)
        return 2 * self.settings.feature_dispersion * stream.squeezed * cosines

    def _update(self, stream: _Stream) -> tuple[_Stream, Update]:
        settings, count = self.settings, self.settings.update_every
        gradient, number = stream.grad.float() / count, stream.updates + 1
        known, window = self._after_window(stream.known, number)
        theta, first, second = adam(
            stream.theta,
            gradient,
            stream.adam_m.float(),
            stream.adam_v,
            step=number,
            rate=settings.step_size * known.trust,
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
        taught = window.teacher if settings.alignment == "whitened" else window.plain
        assert window.own is not None
        updated = replace(
            stream,
            updates=number,
            known=known,
            theta=torch.lerp(theta, self.fast_weights.start, self._pull(known.trust)),
            adam_m=first.to(_SMALL_TYPE),
            adam_v=second,
            marginal=window.marginal_after(stream.marginal, taught, self._horizon),
            own_marginal=window.marginal_after(stream.own_marginal, window.own, self._horizon),
            squeezed=self._squeezed(stream, known, window.counted),
            grad=torch.zeros_like(stream.grad),
            sums=torch.zeros_like(stream.sums),
        )
        return updated, update

    def _pull(self, trust: Tensor) -> Tensor:
        """Share of the way back to the start, ``[]``: ten times as much where nothing is to be trusted. What was learnt
        from a stream that turns out to show one scene is given up within some hundred frames. [ours]"""
        return (self.settings.pull * (trust + _DISTRUST * (1 - trust))).clamp_max(1.0)

    @torch.no_grad()
    def _after_window(self, known: Known, number: int) -> tuple[Known, Window]:
        after, window = known.after_window(self.classifier, number, self._horizon)
        if self.settings.similarity == "plain" and known.own_ring is not None:
            window = replace(window, own=self.classifier.probabilities(known.own_ring.float()))
        return after, window

    def _squeezed(self, stream: _Stream, known: Known, counted: Tensor) -> Tensor:
        """A mean of the first windows, and a running mean over the memory of the adapted features' statistics then."""
        assert known.own is not None
        assert known.own_ring is not None
        found, any_pair = rewards.squeeze(known.own_ring.float(), stream.ring_classes, counted)
        return torch.lerp(stream.squeezed, found, any_pair * counted.sum() / known.own.moments.mass.clamp_min(1))


def _numbers(gate: Gate) -> State:
    return {f"gate_{name}": value for name, value in asdict(gate).items()}
