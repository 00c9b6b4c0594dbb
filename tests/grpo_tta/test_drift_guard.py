"""Each cause of a reset, on reports made by hand; that nothing but frames counts; what a restart keeps."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta import (
    Batch,
    Decision,
    DriftGuard,
    GuardEvent,
    GuardSettings,
    Method,
    Prediction,
    Reference,
    ReferenceBuilder,
    Report,
    Standing,
    State,
)

CLASSES, DIMENSIONS = 6, 16
VECTORS = F.normalize(torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(1)), dim=1)
SMALL = GuardSettings(
    on_shift="reset", probe_frames=8, reference_probes=20, collapse_probes=4, cooldown_frames=64, backstop_frames=0
)

SHIFT = GuardEvent("shift", 20.0, 15.0, 640, False, "another input")


def report(frames: int, seed: int, *, shift: float = 0.0, adapted: Tensor | None = None) -> Report:
    """Frozen features around a quarter of their class's vector, which is what they are taken to owe to it, moved by
    ``shift`` in one direction; ``adapted``: ``[B, C]``."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(CLASSES, (frames,), generator=generator)
    noise = 0.1 * torch.randn(frames, DIMENSIONS, generator=generator)
    probabilities = F.one_hot(classes, CLASSES).float() * 0.9 + 0.1 / CLASSES
    features = 0.25 * VECTORS[classes] + noise + shift * torch.eye(DIMENSIONS)[0]
    return Report(probabilities if adapted is None else adapted, probabilities, features)


def one_class(frames: int) -> Tensor:
    """Predictions that have collapsed onto one class."""
    return F.one_hot(torch.zeros(frames, dtype=torch.int64), CLASSES).float()


def feed(guard: DriftGuard, state: State, whole: Report, batch: int) -> tuple[list[tuple[int, Decision]], State]:
    """All of a report in batches, cut at the probes as callers do: decisions that say something, with their frame."""
    found: list[tuple[int, Decision]] = []
    start, probe = 0, guard.settings.probe_frames
    while start < len(whole):
        stop = min(len(whole), start + min(batch, probe - int(state["frames"]) % probe))
        part = Report(
            whole.probabilities[start:stop],
            None if whole.frozen_probabilities is None else whole.frozen_probabilities[start:stop],
            None if whole.frozen_features is None else whole.frozen_features[start:stop],
            finite=whole.finite,
        )
        decision, state = guard.step(part, state)
        start = stop
        if decision.action != "none" or decision.events:
            found.append((start, decision))
    return found, state


def warmed(guard: DriftGuard) -> State:
    """The state once the stream's own reference is made."""
    _, state = feed(guard, guard.initial_state(), report(8 * guard.settings.reference_probes, 0), 8)
    return state


def calibrated() -> Reference:
    """A shared reference of 40 probes."""
    builder = ReferenceBuilder(VECTORS, "model", SMALL.probe_frames)
    calibration = report(8 * 40, 77)
    builder.add(calibration.frozen_features, calibration.frozen_probabilities)
    return builder.build()


def test_a_shift_of_the_input_is_found_within_a_few_probes_and_resets() -> None:
    guard = DriftGuard(SMALL, VECTORS)
    found, _ = feed(guard, warmed(guard), report(80, 9, shift=0.3), 8)
    frame, decision = found[0]
    assert (decision.action, decision.cause, decision.serve_frozen) == ("reset", "shift", False)
    assert frame <= 32
    (event,) = decision.events
    assert (event.signal, event.reset, event.threshold) == ("shift", True, SMALL.shift_lambda)
    assert event.statistic > event.threshold


@pytest.mark.parametrize("on_shift", ["reset", "event"])
def test_a_shift_s_event_tells_its_size_in_deviations_of_a_frame(on_shift: Literal["reset", "event"]) -> None:
    """0.3 in one of 16 dimensions whose deviation is 0.1."""
    guard = DriftGuard(replace(SMALL, on_shift=on_shift), VECTORS)
    sizes = {}
    for shift in (0.2, 0.3, 0.6):
        found, _ = feed(guard, warmed(guard), report(80, 9, shift=shift), 8)
        sizes[shift] = found[0][1].events[0].size
    assert sizes == {shift: pytest.approx(shift / 0.1 / DIMENSIONS**0.5, rel=0.3) for shift in sizes}


def test_the_next_scene_of_a_camera_is_no_shift() -> None:
    """Near-duplicates of one class, another scene of it after 25 probes."""
    guard = DriftGuard(SMALL, VECTORS)
    state = guard.initial_state()
    probabilities = (F.one_hot(torch.tensor(0), CLASSES).float() * 0.99 + 0.01 / CLASSES).expand(200, -1)
    for scene in range(2):
        seen = report(200, scene)
        noise = 0.1 * (seen.frozen_features - seen.frozen_probabilities @ VECTORS)
        place = 0.2 * torch.randn(DIMENSIONS, generator=torch.Generator().manual_seed(scene))
        found, state = feed(guard, state, Report(probabilities, probabilities, VECTORS[0] + place + noise), 8)
        assert not found
    assert float(state["statistic"]) > 0


def test_a_shift_under_which_the_frozen_encoder_sees_one_class_everywhere_is_found() -> None:
    guard = DriftGuard(SMALL, VECTORS)
    _, state = feed(guard, guard.initial_state(), report(1000, 0), 8)
    blind = replace(report(48, 1, shift=1.0), frozen_probabilities=one_class(48), probabilities=one_class(48))
    found, _ = feed(guard, state, blind, 8)
    assert [decision.cause for _, decision in found][:1] == ["shift"]


def test_on_shift_event_reports_and_resets_nothing() -> None:
    guard = DriftGuard(replace(SMALL, on_shift="event"), VECTORS)
    found, state = feed(guard, warmed(guard), report(8 * 60, 9, shift=0.3), 8)
    assert [(decision.action, decision.cause) for _, decision in found] == [("none", None)]
    assert [event.reset for event in found[0][1].events] == [False]
    assert "rows" not in state


def test_after_a_shift_the_stream_makes_a_reference_of_its_own_frames() -> None:
    guard = DriftGuard(SMALL, VECTORS)
    found, state = feed(guard, warmed(guard), report(8 * 100, 9, shift=0.3), 8)
    assert len(found) == 1
    back, _ = feed(guard, state, report(80, 11), 8)
    assert back[0][1].cause == "shift"


@pytest.mark.parametrize("shared", [True, False])
def test_a_second_change_is_found_while_the_new_reference_is_being_made(shared: bool) -> None:
    """Another 2 probes after the first one was found; 4 make the new mean."""
    guard = DriftGuard(SMALL, VECTORS, calibrated() if shared else None)
    state = guard.initial_state() if shared else warmed(guard)
    found, state = feed(guard, state, report(24, 9, shift=0.6), 8)
    assert [decision.cause for _, decision in found] == ["shift"]
    assert not found[0][1].warming_up
    found, state = feed(guard, state, report(16, 10, shift=0.6), 8)
    assert found == []
    assert state["making"]
    found, _ = feed(guard, state, report(80, 12), 8)
    assert [decision.cause for _, decision in found] == ["shift"]
    assert found[0][0] <= 32


@pytest.mark.parametrize("shared", [True, False])
def test_a_drift_that_goes_on_slowly_is_found_again(shared: bool) -> None:
    guard = DriftGuard(SMALL, VECTORS, calibrated() if shared else None)
    state = guard.initial_state() if shared else warmed(guard)
    alarms = []
    for probe in range(40):
        found, state = feed(guard, state, report(8, 100 + probe, shift=0.02 * probe), 8)
        alarms += [probe for _ in found]
    assert len(alarms) == 2


def test_warming_up_is_said_until_the_reference_is_made() -> None:
    guard = DriftGuard(SMALL, VECTORS)
    state, said = guard.initial_state(), []
    for number in range(SMALL.reference_probes + 1):
        decision, state = guard.step(report(8, number), {**state})
        said.append("rows" in state)
    assert said == [True] * (SMALL.reference_probes - 1) + [False, False]
    decision, _ = guard.step(report(3, 0), guard.initial_state())
    assert decision.warming_up
    assert not guard.step(report(3, 0), state)[0].warming_up


def test_a_reference_of_another_width_is_refused() -> None:
    reference = Reference.from_probes(
        torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.ones(5), 4, 8
    )
    with pytest.raises(ValueError, match=r"the reference has 5 dimensions, the class vectors 16: calibrate"):
        DriftGuard(SMALL, VECTORS, reference)


def test_a_reference_of_other_probes_is_refused() -> None:
    rows = torch.randn(4, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    reference = Reference.from_probes(rows, torch.ones(DIMENSIONS), 4, 32)
    with pytest.raises(ValueError, match=r"probes of 32 frames, probe_frames is 8: calibrate"):
        DriftGuard(SMALL, VECTORS, reference)


def test_predictions_that_collapse_against_the_frozen_encoders_reset() -> None:
    guard = DriftGuard(SMALL, VECTORS)
    plain = report(8 * 40, 3)
    found, _ = feed(guard, guard.initial_state(), replace(plain, probabilities=one_class(len(plain))), 8)
    frame, decision = found[0]
    assert (decision.action, decision.cause) == ("reset", "collapse")
    assert frame == 8 * SMALL.collapse_probes
    assert decision.events[0].statistic > SMALL.collapse_threshold


def sure(frames: int, seed: int, *, best: float = 0.8) -> Report:
    """Frozen probabilities: ``best`` for one class at random, half of the rest for the next one."""
    number = torch.randint(CLASSES, (frames,), generator=torch.Generator().manual_seed(seed))
    probabilities = torch.full((frames, CLASSES), (1 - best) / 2 / (CLASSES - 2))
    rows = torch.arange(frames)
    probabilities[rows, number], probabilities[rows, (number + 1) % CLASSES] = best, (1 - best) / 2
    return Report(probabilities, probabilities, VECTORS[number])


def test_labels_that_contradict_a_sure_frozen_encoder_are_a_collapse_however_diverse() -> None:
    guard = DriftGuard(replace(SMALL, on_shift="event"), VECTORS)
    plain = sure(8 * 40, 3)
    found, _ = feed(guard, guard.initial_state(), replace(plain, probabilities=plain.probabilities.roll(5, 1)), 8)
    frame, decision = found[0]
    assert (frame, decision.action, decision.cause) == (8 * 4, "reset", "collapse")
    assert decision.events[0].threshold == SMALL.regret_threshold
    # expected errors 1 - 0.2 / 2 / (C - 2) against 0.2, measured against 0.3; the bias is not known yet
    assert decision.events[0].statistic == pytest.approx((0.8 - 0.1 / (CLASSES - 2)) / 0.3, rel=0.05)


def test_to_choose_what_an_unsure_frozen_encoder_likes_nearly_as_well_is_no_collapse() -> None:
    guard = DriftGuard(replace(SMALL, on_shift="event"), VECTORS)
    plain = sure(8 * 40, 3, best=0.35)
    found, _ = feed(guard, guard.initial_state(), replace(plain, probabilities=plain.probabilities.roll(1, 1)), 8)
    assert [decision.cause for _, decision in found] == [None] * len(found)


def test_to_give_up_what_only_a_bias_makes_likely_is_no_collapse() -> None:
    classes = 40
    vectors = torch.nn.functional.normalize(torch.randn(classes, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    guard = DriftGuard(replace(SMALL, on_shift="event", shift_lambda=1e9), vectors)
    number = torch.randint(1, classes, (8 * 400,), generator=torch.Generator().manual_seed(2))
    frozen = torch.full((len(number), classes), 0.1 / (classes - 2))
    frozen[:, 0] = 0.6  # the favourite, whatever is shown
    frozen[torch.arange(len(number)), number] = 0.3
    plain = Report(frozen, frozen, torch.zeros(len(number), 8))
    unbiased = replace(plain, probabilities=torch.nn.functional.one_hot(number, classes).float())
    assert feed(guard, guard.initial_state(), unbiased, 8)[0] == []
    wrong = replace(plain, probabilities=unbiased.probabilities.roll(1, 0))
    assert feed(guard, guard.initial_state(), wrong, 8)[0][0][1].cause == "collapse"


def test_after_a_shift_the_bias_is_that_of_the_next_frames_and_after_another_reset_it_goes_on() -> None:
    guard = DriftGuard(SMALL, VECTORS)
    known = {**warmed(guard), "bias": torch.tensor([0.5, 0.5, 0, 0, 0, 0])}
    seen = report(8, 50)
    _, after = guard.manual(known)
    _, after = guard.step(seen, after)
    assert torch.as_tensor(after["bias"])[:2].sum() > 0.8
    shifted: State = known
    for seed in range(9, 30):
        found, shifted = feed(guard, shifted, report(8, seed, shift=0.3), 8)
        if found:
            break
    assert found[0][1].cause == "shift"
    _, after = guard.step(seen, shifted)
    torch.testing.assert_close(after["bias"], seen.frozen_probabilities.mean(0).half())


def test_a_stream_of_one_class_is_no_collapse() -> None:
    guard = DriftGuard(SMALL, VECTORS)
    few = one_class(8 * 40)
    found, _ = feed(
        guard, guard.initial_state(), Report(few, few, report(8 * 40, 3).frozen_features * 0 + VECTORS[0]), 8
    )
    assert found == []


def test_what_is_not_finite_resets_at_once() -> None:
    guard = DriftGuard(SMALL, VECTORS)
    decision, state = guard.step(replace(report(3, 0), finite=False), warmed(guard))
    assert (decision.action, decision.cause) == ("reset", "nonfinite")
    assert state["since_reset"] == 0


def test_a_reset_asked_for_from_outside() -> None:
    guard = DriftGuard(SMALL, VECTORS)
    decision, state = guard.manual(warmed(guard))
    assert (decision.action, decision.cause) == ("reset", "manual")
    assert (state["since_reset"], state["total"]) == (0, 8 * SMALL.reference_probes)


def test_the_backstop_pulls_softly_and_counts_from_anew() -> None:
    guard = DriftGuard(replace(SMALL, backstop_frames=240, backstop_pull=0.25), VECTORS)
    found, state = feed(guard, guard.initial_state(), report(8 * 65, 5), 8)
    assert [(frame, decision.action, decision.pull) for frame, decision in found] == [
        (240, "pull", 0.25),
        (480, "pull", 0.25),
    ]
    assert [event.signal for _, decision in found for event in decision.events] == ["scheduled"] * 2
    assert state["since_reset"] == 40


def test_the_backstop_resets_a_stream_whose_input_nothing_watches_yet() -> None:
    guard = DriftGuard(replace(SMALL, backstop_frames=80), VECTORS)
    found, _ = feed(guard, guard.initial_state(), report(8 * 10, 5), 8)
    assert [(frame, decision.action, decision.cause) for frame, decision in found] == [(80, "reset", "scheduled")]


def test_three_collapses_within_ten_cooldowns_make_the_frozen_encoder_serve() -> None:
    guard = DriftGuard(SMALL, VECTORS)
    state, served = guard.initial_state(), []
    for number in range(3):
        decision, state = guard.step(replace(report(8, number), finite=False), state)
        served.append((decision.serve_frozen, [event.signal for event in decision.events]))
    assert served == [(False, ["nonfinite"]), (False, ["nonfinite"]), (True, ["nonfinite", "ill"])]
    healthy = report(8, 50)
    assert guard.step(healthy, state)[0].serve_frozen
    later = {**state, "total": int(state["ill_until"])}
    assert not guard.step(healthy, later)[0].serve_frozen


def test_collapses_far_apart_make_nobody_ill() -> None:
    guard = DriftGuard(SMALL, VECTORS)
    state = guard.initial_state()
    for number in range(4):
        decision, state = guard.step(replace(report(8, number), finite=False), state)
        assert not decision.serve_frozen
        state = {**state, "total": int(state["total"]) + 10 * SMALL.cooldown_frames}


def test_decisions_fall_on_the_same_frames_whatever_the_batch() -> None:
    guard = DriftGuard(replace(SMALL, backstop_frames=8 * 30), VECTORS)
    parts = [report(8 * 30, 5), report(8 * 30, 9, shift=0.3)]
    whole = Report(
        *(
            torch.cat([getattr(part, name) for part in parts])
            for name in ("probabilities", "frozen_probabilities", "frozen_features")
        )
    )
    expected, _ = feed(guard, guard.initial_state(), whole, 8)
    found, _ = feed(guard, guard.initial_state(), whole, 3)
    assert [(frame, decision.action, decision.cause) for frame, decision in found] == [
        (frame, decision.action, decision.cause) for frame, decision in expected
    ]
    assert {decision.cause for _, decision in expected} == {None, "shift"}


def test_disabled_it_does_nothing() -> None:
    guard = DriftGuard(GuardSettings(enabled=False), VECTORS)
    state = guard.initial_state()
    decision, after = guard.step(replace(report(64, 0), finite=False), state)
    assert decision == Decision()
    assert after is state


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("on_shift", "stop", "on_shift must be one of reset, event, got 'stop'"),
        ("probe_frames", 0, "probe_frames must be >= 1, got 0"),
        ("reference_probes", 2, "reference_probes must be >= 3, got 2"),
        ("shift_lambda", 0.0, "shift_lambda must be > 0, got 0.0"),
        ("shift_lambda", math.nan, "shift_lambda must be > 0, got nan"),
        ("shift_delta", -1.0, "shift_delta must be >= 0, got -1.0"),
        ("backstop_pull", 1.5, r"backstop_pull must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(field: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GuardSettings(**{field: value})


def test_where_a_stream_stands() -> None:
    guard = DriftGuard(replace(SMALL, shift_lambda=1e9), VECTORS)
    assert guard.standing(guard.initial_state()) == Standing({}, None, 0, True)
    state = warmed(guard)
    whole = report(8 * 6, 9, shift=0.3)
    _, state = feed(guard, state, replace(whole, probabilities=0.5 * whole.probabilities + 0.5 / CLASSES), 8)
    found = guard.standing(state)
    assert found.statistics.keys() == guard.thresholds().keys()
    assert found.statistics["shift"] == float(state["statistic"]) > 0
    assert found.statistics["regret"] == pytest.approx(0, abs=1e-6)  # the labels are the same
    assert found.statistics["collapse"] < 0  # and their probabilities flatter
    flat = 0.5 * whole.frozen_probabilities[16:].mean(0) + 0.5 / CLASSES
    entropy = float(torch.special.entr(flat).sum()) / math.log(CLASSES)
    assert found.marginal_entropy == pytest.approx(entropy, abs=0.02)
    assert (found.frames_since_reset, found.warming_up) == (8 * 26, False)


class Told(Method):
    """Says what was made of its state."""

    name = "told"

    def initial_state(self) -> State:
        return {"did": "initial", "frames": 0}

    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        raise NotImplementedError

    def predict(self, batch: Batch, state: State) -> Prediction:
        raise NotImplementedError

    def after_shift(self, state: State, *, reset: bool) -> State:
        return {**state, "did": f"shift after {state['did']}, reset {reset}"}

    def pull(self, state: State, strength: float) -> State:
        return {**state, "did": f"pulled by {strength}"}


@pytest.mark.parametrize(
    ("decision", "did", "frames"),
    [
        (Decision(), "before", 9),
        (Decision("pull", pull=0.5), "pulled by 0.5", 9),
        (Decision("reset", "collapse"), "initial", 0),
        (Decision("reset", "shift", events=(SHIFT,)), "shift after before, reset True", 9),
        (Decision(events=(SHIFT,)), "shift after before, reset False", 9),
        (Decision(serve_frozen=True), "initial", 9),
        (Decision(events=(SHIFT,), serve_frozen=True), "shift after initial, reset False", 9),
    ],
)
def test_a_decision_is_applied_to_a_methods_state(decision: Decision, did: str, frames: int) -> None:
    assert decision.applied(Told(), {"did": "before", "frames": 9}) == {"did": did, "frames": frames}
