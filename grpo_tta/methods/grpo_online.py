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

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta import policy, rewards
from grpo_tta.classifier import Classifier
from grpo_tta.methods.gate import Gate
from grpo_tta.methods.grpo_group import SUMS, GroupMaker, figures
from grpo_tta.methods.known import Known, Window, memory
from grpo_tta.methods.look import Look
from grpo_tta.methods.online import check_strength, tensor_of
from grpo_tta.methods.packed import Frames, Given, TunedMethod
from grpo_tta.optimiser import adam_in_bytes, no_moments
from grpo_tta.owners import Columns, Stretch, chosen, of_owner, put, stack, sums_of, unstack, where
from grpo_tta.settings import GrpoSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, Prediction, State, Update
from grpo_tta.whitening import unit_rows

_ENTROPY = SUMS.index("entropy")
_SMALL_TYPE = torch.float16
"""Of the gradients' sum, and of what the parameters differ from their start by."""
_GATE = tuple(Gate.empty().columns())
_DISTRUST = 10.0
"""How much stronger the pull is on a stream that is not to be trusted at all. [ours]"""


class OnlineGrpo(TunedMethod):
    """GRPO-TTA online. State, beside ``frames``, ``updates`` and the gate's columns, tensors: ``learnt`` float16 (what
    the parameters differ from their start by), ``adam_m`` int8 and ``adam_v`` uint8 (of
    `grpo_tta.optimiser.adam_in_bytes`) and ``grad`` float16 ``[P]`` (the sum of the frames' gradients since the last
    update), ``marginal``, ``own_marginal`` ``[C]`` (means of the teacher's and of the adapted encoder's runners-up),
    ``sums`` ``[7]`` over the window's frames in the order of ``SUMS``, ``ring_classes`` int64 ``[E]`` (the teacher's
    classes of the frames in the rings), ``squeezed`` ``[]`` (running mean of `grpo_tta.rewards.squeeze` of the adapted
    features), and the columns of `Known`. What is kept is rounded where an update is made, so that a state in memory is
    one that was stored. [ours, docs/decisions/0027]

    The group is drawn and trained on with the same parameters, so the ratio is 1 and the clip does not bind: an update
    is along ``sum_o w(o) A(o) grad log pi(o)`` over the group, ``w`` being the policy made to sum to 1 over it, less
    the gradients of the feature dispersion and of the entropy. The surrogate's value is zero but for rounding, as the
    advantages sum to zero: reward, gradient norm and disagreement are what to watch. A stretch of frames whose gradient
    is not finite adds nothing, and its report says ``finite=False``.
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
        first, second = no_moments(self.fast_weights.size)
        uniform = torch.full((classes,), 1.0 / classes)
        (known,) = unstack(Known.nothing(self.classifier, self.cadence, adapted=True).columns())
        return {
            "frames": 0,
            "updates": 0,
            "learnt": zeros.to(_SMALL_TYPE),
            "adam_m": first,
            "adam_v": second,
            "grad": zeros.to(_SMALL_TYPE),
            "sums": torch.zeros(len(SUMS)),
            "marginal": uniform,
            "own_marginal": uniform.clone(),
            "ring_classes": torch.zeros(self.cadence, dtype=torch.int64),
            "squeezed": torch.zeros(()),
            **known,
            **unstack(Gate.empty().columns())[0],
        }

    def after_shift(self, state: State, *, reset: bool) -> State:
        """A gated stream learns from the next ``gate_frames`` frames. With a reset the parameters are kept, and all
        else is the initial state's: moments and marginals are of the input that is gone. [ours, docs/benchmarks.md]"""
        if reset:
            return {**self.initial_state(), "learnt": state["learnt"]}
        first = self.settings.gate_frames
        if first is None:
            return state
        columns = stack([{name: state[name] for name in ("frames", "updates", *_GATE)}], torch.device("cpu"))
        served = (columns["frames"] % self.cadence > 0) & ~torch.tensor(self._learns(columns))
        (gate,) = unstack(Gate.of(columns).anew(first // self.cadence, served).columns())
        return {**state, **gate}

    def pull(self, state: State, strength: float) -> State:
        """What was learnt shrinks by ``strength``; the rest stays. [ours] Raises ``ValueError`` outside [0, 1]."""
        check_strength(strength)
        learnt = tensor_of(state, "learnt")
        return {**state, "learnt": (learnt.float() * (1 - strength)).to(learnt.dtype)}

    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch`` with the parameters and marginals of ``state``; one forward, nothing is learnt."""
        return self.predict_many([batch], [state])[0]

    @torch.no_grad()
    def predict_many(self, batches: Sequence[Batch], states: Sequence[State]) -> list[Prediction]:
        """`predict` for several streams in one forward, or in one each where the tower takes one set of weights."""
        if len(batches) > 1 and not self.tower.batched:
            return super().predict_many(batches, states)
        counts = [len(batch) for batch in batches]
        owner = torch.repeat_interleave(torch.tensor(counts)).to(self.classifier.device)
        columns = stack(states, self.classifier.device)
        served = self._label(Batch.joined(batches), owner, columns)[1].cpu()
        return [Prediction(rows) for rows in torch.split(served, counts)]

    def _alike(self, stretch: Stretch, columns: Columns) -> Iterator[Stretch]:
        """Streams that learn from the frames, and those that are only served."""
        learns = self._learns(columns)
        for wanted in (True, False):
            places = [place for place, own in enumerate(learns) if own is wanted]
            if len(places) == len(learns):
                yield stretch
            elif places:
                rows = torch.split(stretch.rows, stretch.counts)
                yield Stretch(
                    [stretch.streams[place] for place in places],
                    [stretch.counts[place] for place in places],
                    torch.cat([rows[place] for place in places]),
                )

    def _take(self, frames: Frames, columns: Columns) -> tuple[Columns, Given]:
        learns = all(self._learns(columns))
        columns, given = self._accumulate(frames, columns) if learns else self._serve(frames, columns)
        due = self._due(columns)
        if not due:
            return columns, given
        part = chosen(columns, due)
        if self.settings.gate_frames is not None:
            entropy = part["sums"][:, _ENTROPY] / self.cadence
            part |= Gate.of(part).after(entropy, part["frames"] // self.cadence).columns()
        if not learns:
            return put(columns, due, {**part, "sums": torch.zeros_like(part["sums"])}), given
        part, updates = self._update(part)
        return put(columns, due, part), replace(given, updates=list(zip(due, updates, strict=True)))

    def _theta(self, columns: Columns) -> Tensor:
        """The streams' parameters ``[S, P]``."""
        return self.fast_weights.start + columns["learnt"].float()

    def _learns(self, columns: Columns) -> list[bool]:
        """Whether the window of each stream's next frame is learnt from."""
        if self.settings.gate_frames is None:
            return [True] * len(columns["frames"])
        window, learnt = columns["frames"] // self.cadence, columns["updates"] * self.cadence
        return Gate.of(columns).learns(window, learnt, self.settings.gate_frames).tolist()

    @torch.no_grad()
    def _serve(self, frames: Frames, columns: Columns) -> tuple[Columns, Given]:
        """Label frames by one forward of the adapted encoder; nothing is learnt but how sure their labels are."""
        features, served = self._label(frames.batch, frames.owner, columns)
        probabilities = self.classifier.probabilities(features)
        finite = torch.ones(len(frames.counts), dtype=torch.bool)
        sums = columns["sums"].clone()
        sums[:, _ENTROPY] += sums_of(policy.normalised_entropy(served), frames.counts)
        columns = {**columns, "frames": columns["frames"] + frames.counts, "sums": sums}
        return columns, Given(served, probabilities, None, None, finite, cost=1.0)

    def _label(self, batch: Batch, owner: Tensor, columns: Columns) -> tuple[Tensor, Tensor]:
        """Adapted features ``[B, D]``, and the probabilities ``[B, C]`` that labels come from; one forward."""
        pixels = self.classifier.normalise(batch.canvases)[:, None]
        features = self.tower.features(pixels, self._theta(columns), owner)
        served = self._log_policy(features, owner, columns, Known.of(columns)).exp()
        return features[:, 0], served[:, 0]

    def _log_policy(self, features: Tensor, owner: Tensor, columns: Columns, known: Known) -> Tensor:
        """Log probabilities ``[B, V, C]`` of the policy, which labels come from too, of adapted features ``[B, V, D]``:
        in the metric of the stream's adapted features, adjusted by their runners-up. Differentiable. [ours; logit
        adjustment by a marginal that the stream's own shares of classes hardly enter]"""
        weight = known.trust * self.settings.logit_adjustment
        adjustment = weight[:, None] * rewards.marginal_dispersion(columns["own_marginal"])
        return torch.log_softmax(self._log_own(features, owner, known) + of_owner(adjustment, owner)[:, None], dim=-1)

    def _log_own(self, features: Tensor, owner: Tensor, known: Known) -> Tensor:
        """The same before the adjustment."""
        if self.settings.similarity == "plain":
            return torch.log_softmax(self.classifier.logits(features), dim=-1)
        return known.served(features, owner, self.classifier)

    def _teacher(self, look: Look, owner: Tensor, known: Known) -> Look:
        """The look with the probabilities that candidates and their alignment come from."""
        if self.settings.alignment != "whitened":
            return look
        log_probabilities = known.teacher(look.features, owner, self.classifier)
        return replace(look, log_probabilities=log_probabilities, probabilities=log_probabilities.exp())

    def _accumulate(self, frames: Frames, columns: Columns) -> tuple[Columns, Given]:
        owner, seeds, known = frames.owner, frames.batch.seeds, Known.of(columns)
        look = self._maker.look(frames.batch.canvases, seeds, keep_plain=True)
        teacher = self._teacher(look, owner, known)
        theta = self._theta(columns).requires_grad_()
        features = self.tower.features(look.trained(look.views), theta, owner)
        log_policy = self._log_policy(features, owner, columns, known)
        log_old = log_policy.detach()
        of_marginal = known.trust[:, None] * rewards.marginal_dispersion(columns["marginal"])
        group = self._maker.group(teacher, seeds, log_old, of_owner(of_marginal, owner))
        losses = self._maker.loss(log_policy, log_old, look.trained(look.log_probabilities), group)
        plain, frozen_features, frozen = features[:, 0], look.features[:, 0], look.probabilities[:, 0]
        classes = teacher.probabilities[:, 0].argmax(1)
        kept = self._remembered(frames, columns, known, frozen_features, plain.detach(), classes)
        others = self._dispersion(plain, classes, frames, columns, kept)
        others = others + self.settings.certainty * policy.entropy_of_logits(log_policy).mean(1)
        (gradient,) = torch.autograd.grad(losses.sum() + others.sum(), theta)
        served = log_old[:, 0].exp()
        sums = sums_of(figures(losses.detach(), group, served, frozen), frames.counts)
        grad = (columns["grad"].float() + gradient).to(_SMALL_TYPE)
        finite = torch.isfinite(grad).all(1) & torch.isfinite(sums).all(1)
        given = Given(
            served, self.classifier.probabilities(plain.detach()), frozen, frozen_features, finite.cpu(), self._cost
        )
        kept |= {"grad": grad, "sums": columns["sums"] + sums}
        if not bool(given.finite.all()):
            nothing = torch.zeros_like(plain.detach())
            left = self._remembered(frames, columns, known, nothing, nothing, None)
            kept = where(finite, kept, left)
        return kept, given

    def _remembered(
        self,
        frames: Frames,
        columns: Columns,
        known: Known,
        frozen: Tensor,
        adapted: Tensor,
        classes: Tensor | None,
    ) -> Columns:
        """With frames of frozen and adapted features ``[B, D]`` and the teacher's classes ``[B]``, or those from
        before, in the rings."""
        ring_classes = columns["ring_classes"].clone()
        if classes is not None:
            ring_classes[frames.owner, frames.place] = classes
        known = known.with_frames(frames.owner, frames.place, frozen, adapted)
        return {
            **columns,
            **known.columns(),
            "frames": columns["frames"] + frames.counts,
            "ring_classes": ring_classes,
        }

    def _dispersion(self, features: Tensor, classes: Tensor, frames: Frames, before: Columns, now: Columns) -> Tensor:
        """What adapted features ``[B, D]`` lose for being like the last ones of other classes, ``[B]``: twice, for each
        pair of frames is met by one of them only. ``now`` is ``before`` with these frames in its rings. [ours]"""
        owner, place = frames.owner, frames.place[:, None]
        others = of_owner(unit_rows(torch.cat([before["own_ring"], now["own_ring"]], 1)), owner)
        of_others = of_owner(torch.cat([before["ring_classes"], now["ring_classes"]], 1), owner)
        number = torch.arange(self.cadence, device=features.device)
        seen = torch.cat([number >= place, number < place], 1) & (others.square().sum(2) > 0)
        cosines = -rewards.feature_dispersion(features, classes, others, of_others, seen)
        return 2 * self.settings.feature_dispersion * of_owner(before["squeezed"], owner) * cosines

    @torch.no_grad()
    def _update(self, columns: Columns) -> tuple[Columns, list[Update]]:
        """One update of every stream."""
        settings, count = self.settings, self.settings.update_every
        gradient, number = columns["grad"].float() / count, columns["updates"] + 1
        known, window = self._after_window(Known.of(columns), number)
        trust = known.trust[:, None]
        change, first, second = adam_in_bytes(
            gradient,
            columns["adam_m"],
            columns["adam_v"],
            step=number[:, None].to(trust.device, torch.float64),
            rate=settings.step_size * trust,
        )
        taught = window.teacher if settings.alignment == "whitened" else window.plain
        assert window.own is not None
        updated = {
            **columns,
            **known.columns(),
            "updates": number,
            "learnt": ((columns["learnt"].float() + change) * (1 - self._pull(trust))).to(_SMALL_TYPE),
            "adam_m": first,
            "adam_v": second,
            "marginal": window.marginal_after(columns["marginal"], taught, self._horizon),
            "own_marginal": window.marginal_after(columns["own_marginal"], window.own, self._horizon),
            "squeezed": self._squeezed(columns, known, window.counted),
            "grad": torch.zeros_like(columns["grad"]),
            "sums": torch.zeros_like(columns["sums"]),
        }
        told = torch.cat([columns["sums"] / count, gradient.norm(dim=1, keepdim=True)], 1).tolist()
        counters = zip(told, columns["frames"].tolist(), number.tolist(), strict=True)
        return updated, [
            Update(
                frame=frame,
                update=update,
                images=count,
                gradient_norm=norm,
                forward_equivalents=self._cost,
                **dict(zip(SUMS, means, strict=True)),
            )
            for (*means, norm), frame, update in counters
        ]

    def _pull(self, trust: Tensor) -> Tensor:
        """Share of the way back to the start: ten times as much where nothing is to be trusted. What was learnt from a
        stream that turns out to show one scene is given up within some hundred frames. [ours]"""
        return (self.settings.pull * (trust + _DISTRUST * (1 - trust))).clamp_max(1.0)

    def _after_window(self, known: Known, number: Tensor) -> tuple[Known, Window]:
        after, window = known.after_window(self.classifier, number, self._horizon)
        if self.settings.similarity == "plain" and known.own_ring is not None:
            window = replace(window, own=self.classifier.probabilities(unit_rows(known.own_ring)))
        return after, window

    def _squeezed(self, columns: Columns, known: Known, counted: Tensor) -> Tensor:
        """A mean of the first windows, and a running mean over the memory of the adapted features' statistics then."""
        assert known.own is not None
        assert known.own_ring is not None
        found, any_pair = rewards.squeeze(unit_rows(known.own_ring), columns["ring_classes"], counted)
        rate = any_pair * counted.sum(1) / known.own.moments.mass.clamp_min(1)
        return torch.lerp(columns["squeezed"], found, rate)
