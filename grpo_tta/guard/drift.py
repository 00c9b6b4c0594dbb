"""`DriftGuard`: tells when a stream's input has shifted and when its adapted encoder has gone wrong. A pure step.

    decision, guard_state = guard.step(report, guard_state)

The caller applies the decision: ``state = decision.applied(method, state)``. Everything counts frames: features and
probabilities are summed per frame and looked at every ``probe_frames`` frames since the last restart, so the batch size
changes nothing as long as batches end there.

- *shift*: the frozen encoder's features less what their classes explain, their mean over a probe, its squared distance
  to a reference beside what the stream varies by itself, and a one-sided Page-Hinkley test (`guard.shift`). Only
  frozen quantities enter: adaptation cannot trigger it. [ours]
- *collapse*: how much less diverse the adapted predictions are than the frozen ones on the same images, and how much
  less they tell those apart, relative to ln C; and how much more often the adapted labels are wrong than the frozen
  ones by the frozen encoder's own probabilities, its bias over the last thousand frames divided out. Both are paired,
  so a stream that shows few classes cancels out; a frozen encoder gives exactly 0. [ours]
- *nonfinite*: a loss, gradient, parameter or probability was not finite. *scheduled*: the backstop, counted in frames
  as RDumb does [peer:RDumb], by default a soft pull towards the start.

The reference is given, or made from the stream's own first probes ("warming up"): only then is nothing watched. After a
shift its mean no longer describes the input, so the stream makes a new one of its next frames, be the old one shared or
its own, and is watched from the second probe on. Every other reset keeps it: what the frozen encoder sees has not
changed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from grpo_tta.guard import collapse, shift
from grpo_tta.guard.reference import Reference
from grpo_tta.owners import stretches, sums_of
from grpo_tta.policy import entropy
from grpo_tta.rewards import kept_after
from grpo_tta.settings import GuardSettings
from grpo_tta.types import Method, Report, State
from grpo_tta.whitening import unexplained

Cause = Literal["collapse", "shift", "nonfinite", "scheduled", "manual"]
Signal = Literal["collapse", "shift", "nonfinite", "scheduled", "manual", "ill"]

_ILL_RESETS = 3
_REGRET_PROBES = 4
_SHOWN_FRAMES = 1000
"""Memory of what a stream shows: a shift under which the frozen encoder sees one class everywhere is found long before
it is forgotten that there were many."""
_PROBE_TYPE = torch.float16
"""Of what is kept of probes: means to a thousandth of themselves. A residual's spread is some tenth of its mean."""


@dataclass(frozen=True)
class GuardEvent:
    """Something the guard noticed."""

    signal: Signal
    statistic: float
    threshold: float
    frame: int
    """Frames of the stream the guard had seen."""
    reset: bool
    message: str
    size: float | None = None
    """Of a shift: how far the input moved, in standard deviations of a frame; see `guard.shift.size`. ``statistic``
    says how sure that is."""


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
    """

    def __init__(
        self, settings: GuardSettings | None, class_vectors: Tensor, reference: Reference | None = None
    ) -> None:
        self.settings = settings or GuardSettings()
        self._vectors = class_vectors.detach().float().cpu()
        self._reference = reference
        if reference is not None and reference.mean.shape != self._vectors.shape[1:]:
            raise ValueError(
                f"the reference has {reference.mean.numel()} dimensions, the class vectors {self._vectors.shape[1]}: "
                "calibrate it with this model"
            )
        if reference is not None and reference.probe_frames != self.settings.probe_frames:
            raise ValueError(
                f"the reference has probes of {reference.probe_frames} frames, probe_frames is "
                f"{self.settings.probe_frames}: calibrate it with these settings"
            )

    def initial_state(self) -> State:
        """The state of a stream that nothing was seen of yet."""
        classes = len(self._vectors)
        state: State = {"total": 0, "since_reset": 0, "ill_until": 0, "collapse_resets": _frames([])}
        state["shown"] = torch.zeros(classes, dtype=_PROBE_TYPE)
        state["bias"] = torch.full((classes,), 1.0 / classes, dtype=_PROBE_TYPE)
        if self._reference is not None:
            return self._cleared({**state, **shift.begun(self._reference)})
        return self._cleared({**state, **shift.nothing(self._vectors.shape[1])})

    def _cleared(self, state: State) -> State:
        """What the detectors have accumulated is dropped; counts and the reference, made or in the making, stay."""
        classes, dimensions = self._vectors.shape
        return {
            **shift.cleared(state),
            "frames": 0,
            "probes": 0,
            "sum": torch.zeros(dimensions),
            "marginals": torch.zeros(2, classes, dtype=_PROBE_TYPE),
            "marginal_sums": torch.zeros(2, classes),
            "unsure": torch.zeros(2),
            "unsure_sums": torch.zeros(2),
            "errors": torch.zeros(2),
            "error_sums": torch.zeros(2),
        }

    def _after_shift(self, state: State) -> State:
        """Cleared, and with the reference's mean and the classes shown still to be made of the frames to come."""
        return shift.anew({**self._cleared(state), "shown": torch.zeros_like(_tensor(state, "shown"))})

    def step(self, report: Report, state: State) -> tuple[Decision, State]:
        """Take in a batch's report; the decision holds from the next batch on."""
        return self.step_many([report], [state])[0]

    @torch.no_grad()
    def step_many(self, reports: Sequence[Report], states: Sequence[State]) -> list[tuple[Decision, State]]:
        """`step` of several streams: their frames are summed together, a probe that is full is judged by itself."""
        if not self.settings.enabled:
            return [(Decision(), state) for state in states]
        found: dict[int, tuple[Decision, State]] = {}
        now = [_counted(report, state) for report, state in zip(reports, states, strict=True)]
        whole = _finite(reports)
        for stream, report in enumerate(reports):
            if not whole and not _finite([report]):
                message = "a loss, gradient, parameter or probability was not finite"
                found[stream] = self._reset("nonfinite", math.nan, math.nan, message, now[stream])
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
        residuals = self._residuals(features, frozen)
        found: dict[int, tuple[Decision, State]] = {}
        counts, seen = [len(report) for report in reports], [_int(state, "frames") for state in states]
        for streams, sizes, rows in stretches(counts, seen, self.settings.probe_frames):
            parts = residuals[rows], frozen[rows], adapted[rows]
            for stream, state in zip(streams, self._add(*parts, sizes, [states[s] for s in streams]), strict=True):
                states[stream] = state
                if stream not in found and _int(state, "frames") % self.settings.probe_frames == 0:
                    decision, states[stream] = self._probe(state)
                    if decision is not None:
                        found[stream] = decision, states[stream]
        ended = []
        for stream, state in enumerate(states):
            quiet = Decision(serve_frozen=_ill(state), warming_up="rows" in state)
            ended.append(found.get(stream) or self._backstop(quiet, state))
        return ended

    def thresholds(self) -> dict[str, float]:
        """Of the statistics that are watched: ``shift``, ``collapse`` (lost diversity) and ``regret``."""
        settings = self.settings
        return {
            "shift": settings.shift_lambda,
            "collapse": settings.collapse_threshold,
            "regret": settings.regret_threshold,
        }

    def standing(self, state: State) -> Standing:
        """Where the stream of this state stands."""
        probes, marginals = _int(state, "probes"), _tensor(state, "marginals").float()
        statistics = {}
        if "rows" not in state:
            statistics["shift"] = float(state["statistic"])
        if probes >= self.settings.collapse_probes:
            statistics["collapse"] = collapse.lost_diversity(marginals, _tensor(state, "unsure"))
        if probes >= _REGRET_PROBES:
            statistics["regret"] = collapse.regret(_tensor(state, "errors"))
        entropy = collapse.entropy_ratio(marginals[1]) if probes else None
        return Standing(statistics, entropy, _int(state, "since_reset"), "rows" in state)

    def manual(self, state: State) -> tuple[Decision, State]:
        """A reset asked for from outside."""
        return self._reset("manual", math.nan, math.nan, "asked for", state)

    def _residuals(self, features: Tensor, probabilities: Tensor) -> Tensor:
        if self._reference is not None:
            return self._reference.residuals(features, probabilities, self._vectors)
        return unexplained(features, probabilities, self._vectors)

    def _add(
        self, residuals: Tensor, frozen: Tensor, adapted: Tensor, counts: list[int], states: Sequence[State]
    ) -> list[State]:
        """The states with the sums of their frames, ``counts`` of each one after another, taken in."""
        frames = torch.tensor(counts)
        owner = torch.repeat_interleave(frames)
        bias = torch.stack([_tensor(state, "bias") for state in states]).float()
        rows = {
            "sum": residuals,
            "marginal_sums": torch.stack([frozen, adapted], 1),
            "unsure_sums": torch.stack([entropy(frozen), entropy(adapted)], 1),
            "error_sums": collapse.errors(frozen, adapted, bias, owner),
        }
        sums = {name: sums_of(values, frames).unbind() for name, values in rows.items()}
        squares = sums_of(residuals.square(), frames).unbind()
        return [
            {
                **shift.after_frames(squares[number], state),
                "frames": _int(state, "frames") + count,
                **{name: _tensor(state, name) + values[number] for name, values in sums.items()},
            }
            for number, (state, count) in enumerate(zip(states, counts, strict=True))
        ]

    def _probe(self, state: State) -> tuple[Decision | None, State]:
        """Judge a full probe: the decision if there is something to say."""
        settings = self.settings
        row = _tensor(state, "sum") / settings.probe_frames
        means = _tensor(state, "marginal_sums") / settings.probe_frames
        probes = _int(state, "probes") + 1
        errors = _tensor(state, "error_sums") / settings.probe_frames
        rate, regret_rate = (1.0 / min(probes, memory) for memory in (settings.collapse_probes, _REGRET_PROBES))
        state = {
            **state,
            "probes": probes,
            "sum": torch.zeros_like(row),
            "marginal_sums": torch.zeros_like(means),
            "marginals": torch.lerp(_tensor(state, "marginals").float(), means, rate).to(_PROBE_TYPE),
            "unsure_sums": torch.zeros(2),
            "unsure": torch.lerp(_tensor(state, "unsure"), _tensor(state, "unsure_sums") / settings.probe_frames, rate),
            "error_sums": torch.zeros_like(errors),
            "errors": torch.lerp(_tensor(state, "errors"), errors, regret_rate),
            "bias": collapse.learnt_bias(
                _tensor(state, "bias").float(), means[0], settings.probe_frames, probes * settings.probe_frames
            ).to(_PROBE_TYPE),
            "shown": (_tensor(state, "shown").float() * kept_after(settings.probe_frames, _SHOWN_FRAMES) + means[0]).to(
                _PROBE_TYPE
            ),
        }
        gap = collapse.lost_diversity(_tensor(state, "marginals").float(), _tensor(state, "unsure"))
        if probes >= settings.collapse_probes and gap > settings.collapse_threshold:
            message = "the adapted predictions lost diversity against the frozen encoder's"
            return self._reset("collapse", gap, settings.collapse_threshold, message, state)
        regret = collapse.regret(_tensor(state, "errors"))
        if probes >= _REGRET_PROBES and regret > settings.regret_threshold:
            message = "the adapted labels are wrong more often than the frozen ones by the frozen encoder's belief"
            return self._reset("collapse", regret, settings.regret_threshold, message, state)
        shown = _tensor(state, "shown").float()
        state = shift.after_row(row, shown, self._reference, state, settings)
        if float(state["statistic"]) > settings.shift_lambda:
            return self._shifted(state)
        return None, state

    def _shifted(self, state: State) -> tuple[Decision, State]:
        settings, statistic = self.settings, float(state["statistic"])
        message = "the frozen encoder sees another input than the reference's"
        if settings.on_shift == "reset":
            return self._reset("shift", statistic, settings.shift_lambda, message, state)
        total, size = _int(state, "total"), shift.size(state)
        event = GuardEvent("shift", statistic, settings.shift_lambda, total, False, message, size)
        return Decision(events=(event,), serve_frozen=_ill(state)), self._after_shift(state)

    def _reset(
        self, cause: Cause, statistic: float, threshold: float, message: str, state: State
    ) -> tuple[Decision, State]:
        total, horizon = _int(state, "total"), 10 * self.settings.cooldown_frames
        size = shift.size(state) if cause == "shift" else None
        events = [GuardEvent(cause, statistic, threshold, total, True, message, size)]
        state = self._after_shift(state) if cause == "shift" else self._cleared(state)
        state["since_reset"] = 0
        if cause in ("collapse", "nonfinite"):
            recent = [frame for frame in _tensor(state, "collapse_resets").tolist() if frame > total - horizon]
            recent.append(total)
            if len(recent) >= _ILL_RESETS:
                state["ill_until"] = total + horizon
                said = f"{_ILL_RESETS} such resets within {horizon} frames: the frozen encoder serves for as many"
                events.append(GuardEvent("ill", float(len(recent)), float(_ILL_RESETS), total, False, said))
                recent = []
            state["collapse_resets"] = _frames(recent)
        warming_up = "rows" in state
        return Decision("reset", cause, events=tuple(events), warming_up=warming_up, serve_frozen=_ill(state)), state

    def _backstop(self, decision: Decision, state: State) -> tuple[Decision, State]:
        limit, since = self.settings.backstop_frames, _int(state, "since_reset")
        if not limit or since < limit:
            return decision, state
        if decision.serve_frozen or decision.warming_up:
            return self._reset("scheduled", float(since), float(limit), "the backstop's hard form", state)
        event = GuardEvent("scheduled", float(since), float(limit), _int(state, "total"), False, "pulled to the start")
        pulled = replace(decision, action="pull", pull=self.settings.backstop_pull, events=(event,))
        return pulled, {**state, "since_reset": 0}


def _counted(report: Report, state: State) -> State:
    frames = len(report)
    return {**state, "total": _int(state, "total") + frames, "since_reset": _int(state, "since_reset") + frames}


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
    return _int(state, "ill_until") > _int(state, "total")


def _int(state: Mapping[str, Any], name: str) -> int:
    return int(state[name])


def _tensor(state: Mapping[str, Any], name: str) -> Tensor:
    value = state[name]
    if not isinstance(value, Tensor):
        raise TypeError(f"state {name!r} must be a tensor, got {type(value).__name__}")
    return value
