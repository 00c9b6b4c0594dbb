"""`DriftGuard`: tells when a stream's input has shifted and when its adapted encoder has gone wrong. A pure step.

    decision, guard_state = guard.step(report, guard_state)

The caller applies the decision: ``state = decision.applied(method, state)``. Everything counts frames: features and
probabilities are summed per frame and looked at every ``probe_frames`` frames since the last restart, so the batch size
changes nothing as long as batches end there. What is looked at are `SIGNALS`:

- *shift* (`guard.shift`): the frozen encoder's features less what their classes explain, their mean over a probe, its
  squared distance to a reference beside what the stream varies by itself, and a one-sided Page-Hinkley test. [ours]
- *collapse* and *regret* (`guard.collapse`): how much less the adapted predictions tell images apart than the frozen
  ones, and how much more often they are wrong by the frozen encoder's own probabilities. [ours]

And without a statistic: *nonfinite*: a loss, gradient, parameter or probability was not finite; *scheduled*: the
backstop, counted in frames as RDumb does [peer:RDumb], by default a soft pull towards the start.

The reference is given, or made from the stream's own first probes ("warming up"): only then is nothing watched. After a
shift its mean no longer describes the input, so the stream makes a new one of its next frames, be the old one shared or
its own, and is watched from the second probe on. Every other reset keeps it: what the frozen encoder sees has not
changed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from grpo_tta.guard import collapse
from grpo_tta.guard.collapse import LostDiversity, Regret
from grpo_tta.guard.reference import Reference
from grpo_tta.guard.shift import Shift
from grpo_tta.guard.signal import Seen, Signal, number_of, tensor_of
from grpo_tta.owners import stretches, sums_of
from grpo_tta.rewards import kept_after
from grpo_tta.settings import GuardSettings
from grpo_tta.state import tensor_bytes
from grpo_tta.types import Method, Report, State

Cause = Literal["collapse", "shift", "nonfinite", "scheduled", "manual"]

SIGNALS: tuple[type[Signal], ...] = (LostDiversity, Regret, Shift)
"""What is watched, in the order in which a probe is judged."""
_ILL_RESETS = 3
_SHOWN_FRAMES = 1000
"""Memory of what a stream shows: a shift under which the frozen encoder sees one class everywhere is found long before
it is forgotten that there were many."""
_PROBE_TYPE = torch.float16
"""Of what is kept of probes: means to a thousandth of themselves. A residual's spread is some tenth of its mean."""


@dataclass(frozen=True)
class GuardEvent:
    """Something the guard noticed."""

    signal: Literal[Cause, "ill"]
    statistic: float
    threshold: float
    frame: int
    """Frames of the stream the guard had seen."""
    reset: bool
    message: str
    size: float | None = None
    """Of a shift: how far the input moved, in standard deviations of a frame; see `guard.shift.size`. ``statistic``
    says how sure that is."""
    detector: str | None = None
    """The name of the `Signal` that stands over its threshold, where one does."""


@dataclass(frozen=True)
class Decision:
    """What is to be done with the method's state, see `applied`, and what is to be told."""

    action: Literal["none", "reset", "pull"] = "none"
    cause: Cause | None = None
    pull: float = 0.0
    events: tuple[GuardEvent, ...] = ()
    warming_up: bool = False
    serve_frozen: bool = False
    """The guard is ill: labels are the frozen encoder's and nothing is learnt."""

    @property
    def shifted(self) -> bool:
        """The input has shifted, whether that is a reset or only an event."""
        return any(event.signal == "shift" for event in self.events)

    def applied(self, method: Method, state: State) -> State:
        """The state of ``method`` to go on with: ``state``, of the step that was decided on, as this says."""
        if self.serve_frozen:
            state = {**method.initial_state(), "frames": state.get("frames", 0)}
        if self.action == "pull":
            return method.pull(state, self.pull)
        if self.shifted:
            return method.after_shift(state, reset=self.action == "reset")
        return method.initial_state() if self.action == "reset" else state


@dataclass(frozen=True)
class Standing:
    """Where a stream's guard stands, for those who watch it."""

    statistics: Mapping[str, float]
    """By signal, of those that are judged now; beside the thresholds of `DriftGuard.thresholds`."""
    marginal_entropy: float | None
    """Of the adapted predictions of the last probes, over ln C, in [0, 1]; ``None`` before the first."""
    frames_since_reset: int
    warming_up: bool
    """The stream's own reference is still to be made: the guard is blind to shifts."""


class DriftGuard:
    """Watches streams of one classifier; holds nothing of any stream.

    ``class_vectors``: ``[C, D]``, unit rows. ``reference``: shared, read-only; ``None``: each stream makes its own.
    ``signals``: what is watched. Raises ``ValueError`` where two signals have a column of the same name.
    """

    def __init__(
        self,
        settings: GuardSettings | None,
        class_vectors: Tensor,
        reference: Reference | None = None,
        signals: Sequence[type[Signal]] = SIGNALS,
    ) -> None:
        self.settings = settings or GuardSettings()
        vectors = class_vectors.detach().float().cpu()
        self._shape = vectors.shape
        self.signals = tuple(signal(self.settings, vectors, reference) for signal in signals)
        taken = set(self._common()) | set(self._restarted())
        for signal in self.signals:
            if both := taken.intersection(signal.columns):
                raise ValueError(f"the signal {signal.name} has a column {min(both)!r}, which is another's")
            taken.update(signal.columns)

    def initial_state(self) -> State:
        """The state of a stream that nothing was seen of yet."""
        state = {**self._common(), **self._restarted()}
        for signal in self.signals:
            state = _with(state, signal, signal.begun())
        return state

    def largest_state_bytes(self) -> int:
        """Of a state's tensors: the most that a made-up stream has until it has a reference and one probe more."""
        classes, dimensions = self._shape
        state, size = self.initial_state(), self.settings.probe_frames
        most, draw = tensor_bytes(state), torch.Generator().manual_seed(0)
        for _ in range((self.settings.reference_probes + 1) if self.settings.enabled else 0):
            even = torch.full((size, classes), 1.0 / classes)
            _, state = self.step(Report(even, even, torch.randn(size, dimensions, generator=draw)), state)
            most = max(most, tensor_bytes(state))
        return most

    def _common(self) -> State:
        shown = torch.zeros(self._shape[0], dtype=_PROBE_TYPE)
        return {"total": 0, "since_reset": 0, "ill_until": 0, "collapse_resets": _frames([]), "shown": shown}

    def _restarted(self) -> State:
        return {
            "frames": 0,
            "probes": 0,
            "marginals": torch.zeros(2, self._shape[0], dtype=_PROBE_TYPE),
            "marginal_sums": torch.zeros(2, self._shape[0]),
        }

    def _cleared(self, state: State) -> State:
        """What the signals have accumulated is dropped; counts and the reference, made or in the making, stay."""
        state = {**state, **self._restarted()}
        for signal in self.signals:
            state = _with(state, signal, signal.cleared(state))
        return state

    def _after_shift(self, state: State) -> State:
        """Cleared, and with the reference's mean and the classes shown still to be made of the frames to come."""
        state = self._cleared({**state, "shown": torch.zeros_like(tensor_of(state, "shown"))})
        for signal in self.signals:
            state = _with(state, signal, signal.anew(state))
        return state

    def step(self, report: Report, state: State) -> tuple[Decision, State]:
        """Take in a batch's report; the decision holds from the next batch on."""
        return self.step_many([report], [state])[0]

    @torch.no_grad()
    def step_many(self, reports: Sequence[Report], states: Sequence[State]) -> list[tuple[Decision, State]]:
        """`step` of several streams: their frames are summed together, a probe that is full is judged by itself."""
        if not self.settings.enabled:
            return [(Decision(), state) for state in states]
        found: dict[int, tuple[Decision, State]] = {}
        now = [self._counted(report, state) for report, state in zip(reports, states, strict=True)]
        whole = _finite(reports)
        for stream, report in enumerate(reports):
            if not whole and not _finite([report]):
                message = "a loss, gradient, parameter or probability was not finite"
                found[stream] = self._reset(_Noticed("nonfinite", message), now[stream])
            elif report.frozen_features is None or report.frozen_probabilities is None:
                found[stream] = self._backstop(Decision(serve_frozen=_ill(now[stream])), now[stream])
        shown = [stream for stream in range(len(reports)) if stream not in found]
        ended = self._watched([reports[stream] for stream in shown], [now[stream] for stream in shown])
        found.update(zip(shown, ended, strict=True))
        return [found[stream] for stream in range(len(reports))]

    def _watched(self, reports: Sequence[Report], states: list[State]) -> list[tuple[Decision, State]]:
        """The same of streams whose reports have frozen rows and are finite."""
        if not reports:
            return []
        frozen, features = (
            torch.cat([rows for rows in parts if rows is not None])
            for parts in (
                [report.frozen_probabilities for report in reports],
                [report.frozen_features for report in reports],
            )
        )
        adapted = torch.cat([report.probabilities for report in reports])
        found: dict[int, tuple[Decision, State]] = {}
        counts, seen = [len(report) for report in reports], [number_of(state, "frames") for state in states]
        for streams, sizes, rows in stretches(counts, seen, self.settings.probe_frames):
            frames = torch.tensor(sizes)
            these = Seen(features[rows], frozen[rows], adapted[rows], torch.repeat_interleave(frames))
            for stream, state in zip(streams, self._add(these, frames, [states[s] for s in streams]), strict=True):
                states[stream] = state
                if stream not in found and number_of(state, "frames") % self.settings.probe_frames == 0:
                    decision, states[stream] = self._judged(self._probe(state))
                    if decision is not None:
                        found[stream] = decision, states[stream]
        ended = []
        for stream, state in enumerate(states):
            quiet = Decision(serve_frozen=_ill(state), warming_up=self._warming_up(state))
            ended.append(found.get(stream) or self._backstop(quiet, state))
        return ended

    def thresholds(self) -> dict[str, float]:
        """Of the statistics that are watched, by signal."""
        return {signal.name: signal.threshold for signal in self.signals}

    def standing(self, state: State) -> Standing:
        """Where the stream of this state stands."""
        state = self._whole(state)
        found = ((signal.name, signal.statistic(state)) for signal in self.signals)
        statistics = {name: statistic for name, statistic in found if statistic is not None}
        marginal = tensor_of(state, "marginals")[1].float()
        ratio = collapse.entropy_ratio(marginal) if number_of(state, "probes") else None
        return Standing(statistics, ratio, number_of(state, "since_reset"), self._warming_up(state))

    def manual(self, state: State) -> tuple[Decision, State]:
        """A reset asked for from outside."""
        return self._reset(_Noticed("manual", "asked for"), self._whole(state))

    def _counted(self, report: Report, state: State) -> State:
        frames = len(report)
        counts: State = {name: number_of(state, name) + frames for name in ("total", "since_reset")}
        return {**self._whole(state), **counts}

    def _whole(self, state: State) -> State:
        """A signal that the state does not know yet begins."""
        for signal in self.signals:
            if signal.columns[0] not in state:
                state = _with(state, signal, signal.begun())
        return state

    def _warming_up(self, state: State) -> bool:
        """Whether no signal can tell a shift yet."""
        shifts = [signal.statistic(state) for signal in self.signals if signal.cause == "shift"]
        return bool(shifts) and all(statistic is None for statistic in shifts)

    def _add(self, seen: Seen, frames: Tensor, states: Sequence[State]) -> list[State]:
        """The states with the sums of their frames, ``frames`` of each one after another, taken in."""
        rows = {"marginal_sums": torch.stack([seen.frozen, seen.adapted], 1)}
        for signal in self.signals:
            rows |= signal.of_frames(seen, states)
        sums = {name: sums_of(values, frames).unbind() for name, values in rows.items()}
        return [
            {
                **state,
                "frames": number_of(state, "frames") + count,
                **{name: tensor_of(state, name) + of[number] for name, of in sums.items() if name in state},
            }
            for number, (state, count) in enumerate(zip(states, frames.tolist(), strict=True))
        ]

    def _probe(self, state: State) -> State:
        """The state of a full probe with it taken in by every signal."""
        size, probes = self.settings.probe_frames, number_of(state, "probes") + 1
        names = [name for signal in self.signals for name in signal.sums if name in state]
        means = {name: tensor_of(state, name) / size for name in ["marginal_sums", *names]}
        marginals = tensor_of(state, "marginals").float()
        marginals = torch.lerp(marginals, means["marginal_sums"], 1.0 / min(probes, self.settings.collapse_probes))
        shown = tensor_of(state, "shown").float() * kept_after(size, _SHOWN_FRAMES) + means["marginal_sums"][0]
        state = {
            **state,
            **{name: torch.zeros_like(mean) for name, mean in means.items()},
            "probes": probes,
            "marginals": marginals.to(_PROBE_TYPE),
            "shown": shown.to(_PROBE_TYPE),
        }
        for signal in self.signals:
            state = _with(state, signal, signal.after_probe(means, state))
        return state

    def _judged(self, state: State) -> tuple[Decision | None, State]:
        """The decision by the first signal that stands over its threshold, if one does."""
        for signal in self.signals:
            statistic = signal.statistic(state)
            if statistic is None or statistic <= signal.threshold:
                continue
            found = statistic, signal.threshold, signal.size(state), signal.name
            noticed = _Noticed(signal.cause, signal.message, *found)
            if signal.cause == "collapse" or self.settings.on_shift == "reset":
                return self._reset(noticed, state)
            event = noticed.event(number_of(state, "total"), reset=False)
            return Decision(events=(event,), serve_frozen=_ill(state)), self._after_shift(state)
        return None, state

    def _reset(self, noticed: "_Noticed", state: State) -> tuple[Decision, State]:
        total, horizon = number_of(state, "total"), 10 * self.settings.cooldown_frames
        events = [noticed.event(total, reset=True)]
        state = self._after_shift(state) if noticed.cause == "shift" else self._cleared(state)
        state["since_reset"] = 0
        if noticed.cause in ("collapse", "nonfinite"):
            recent = [frame for frame in tensor_of(state, "collapse_resets").tolist() if frame > total - horizon]
            recent.append(total)
            if len(recent) >= _ILL_RESETS:
                state["ill_until"] = total + horizon
                said = f"{_ILL_RESETS} such resets within {horizon} frames: the frozen encoder serves for as many"
                events.append(GuardEvent("ill", float(len(recent)), float(_ILL_RESETS), total, False, said))
                recent = []
            state["collapse_resets"] = _frames(recent)
        return Decision(
            "reset",
            noticed.cause,
            events=tuple(events),
            warming_up=self._warming_up(state),
            serve_frozen=_ill(state),
        ), state

    def _backstop(self, decision: Decision, state: State) -> tuple[Decision, State]:
        limit, since = self.settings.backstop_frames, number_of(state, "since_reset")
        if not limit or since < limit:
            return decision, state
        if decision.serve_frozen or decision.warming_up:
            return self._reset(_Noticed("scheduled", "the backstop's hard form", float(since), float(limit)), state)
        event = _Noticed("scheduled", "pulled to the start", float(since), float(limit))
        pulled = replace(
            decision,
            action="pull",
            pull=self.settings.backstop_pull,
            events=(event.event(number_of(state, "total"), reset=False),),
        )
        return pulled, {**state, "since_reset": 0}


class _Noticed(NamedTuple):
    """What an event tells of a cause."""

    cause: Cause
    message: str
    statistic: float = math.nan
    threshold: float = math.nan
    size: float | None = None
    detector: str | None = None

    def event(self, frame: int, *, reset: bool) -> GuardEvent:
        found = self.message, self.size, self.detector
        return GuardEvent(self.cause, self.statistic, self.threshold, frame, reset, *found)


def _with(state: State, signal: Signal, columns: State) -> State:
    """The state with ``columns`` in the place of the signal's own."""
    if other := columns.keys() - set(signal.columns):
        raise ValueError(f"the signal {signal.name} gave a column {min(other)!r}, which is none of its own")
    return {**{name: value for name, value in state.items() if name not in signal.columns}, **columns}


def _finite(reports: Sequence[Report]) -> bool:
    """Whether all that the reports say is finite."""
    seen = (
        rows
        for report in reports
        for rows in (report.probabilities, report.frozen_probabilities, report.frozen_features)
    )
    values = torch.cat([rows.flatten() for rows in seen if rows is not None]) if reports else torch.zeros(0)
    return all(report.finite for report in reports) and bool(torch.isfinite(values).all())


def _frames(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def _ill(state: State) -> bool:
    return number_of(state, "ill_until") > number_of(state, "total")
