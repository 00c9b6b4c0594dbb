"""The test for shifts: what a probe is expected to lie off, what it weighs, and what a shift leaves behind."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo_tta import GuardSettings, Reference, State
from grpo_tta.guard import shift

DIMENSIONS, CLASSES = 6, 50
ALL = torch.ones(CLASSES)
SETTINGS = GuardSettings(probe_frames=8, reference_probes=3, shift_delta=1.0)
REFERENCE = Reference(
    mean=torch.zeros(DIMENSIONS),
    metric=torch.ones(DIMENSIONS),
    expected=0.1,
    deviation=0.25,
    classes=float(CLASSES),
    probes=10,
    probe_frames=8,
)


def row_at(distance: float) -> Tensor:
    """A row of this squared length."""
    return math.sqrt(distance) * torch.eye(DIMENSIONS)[0]


def after(state: State, row: Tensor, shown: Tensor = ALL) -> State:
    return shift.after_row(row, None, shown, REFERENCE, state, SETTINGS)


def test_a_score_is_the_excess_over_what_is_expected_in_deviations_of_it() -> None:
    expected = 0.1 * (1 + 1 / 10)
    state = after(shift.begun(REFERENCE), row_at(0.2))
    assert state["statistic"] == pytest.approx((0.2 - expected) / (0.25 * expected) - 1)
    assert shift.size(state) == pytest.approx(math.sqrt(0.2 - expected))


def test_one_probe_brings_a_score_of_at_most_8() -> None:
    assert after(shift.begun(REFERENCE), row_at(1e6))["statistic"] == pytest.approx(8.0 - 1.0)


def test_a_probe_that_lies_near_leaves_the_test_at_rest() -> None:
    state = after(shift.begun(REFERENCE), row_at(0.05))
    assert (state["statistic"], state["excess"], state["raised"], shift.size(state)) == (0.0, 0.0, 0, 0.0)


def test_fewer_classes_widen_what_is_expected_and_make_a_probe_weigh_less() -> None:
    shown = torch.cat([torch.ones(10), torch.zeros(CLASSES - 10)])
    expected = 0.11 + 1 / 10 + 1 / CLASSES - 2 / CLASSES
    state = after(shift.begun(REFERENCE), row_at(0.5), shown)
    score = (0.5 - expected) / (0.25 * expected)
    assert state["statistic"] == pytest.approx((10 / 40) ** 2 * (score - 1))


def test_the_course_is_variance_covariance_and_changes_of_rows_about_their_middle() -> None:
    course = shift.Course(3.0, 0.2, 0.05, 0.1, 0.3)
    row, last, middle = (torch.tensor([value, 0.0]) for value in (0.5, 0.4, 0.1))
    found, moved = course.after(row, last, middle, REFERENCE)
    assert moved.tolist() == pytest.approx([0.1 + 0.4 / 5, 0.0])
    energy = 0.4**2 * 4 / 5
    variance = (8 * 0.1 + 3 * 0.2) / 11
    assert found.energy == pytest.approx(energy)
    assert found.variance == pytest.approx(0.2 + (energy - 0.2) / 4)
    assert found.covariance == pytest.approx(0.05 + (0.32 * 0.22 - 0.05) / 4)
    assert found.roughness == pytest.approx(0.1 + (0.5 * ((energy - 0.3) / variance) ** 2 - 0.1) / 4)


def rows_of(count: int, seed: int, *, run: int = 1) -> Tensor:
    """Rows of variance 0.1 in all, in runs of ``run`` equal ones."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(-(-count // run), DIMENSIONS, generator=generator) * math.sqrt(0.1 / DIMENSIONS)
    return rows.repeat_interleave(run, 0)[:count]


@pytest.mark.parametrize(("run", "like"), [(1, 0.0), (8, 0.6)])
def test_rows_that_resemble_the_one_before_are_known_by_it(run: int, like: float) -> None:
    state = shift.begun(REFERENCE)
    for row in rows_of(400, 1, run=run):
        state = after(state, row)
    variance, _, found = shift.Course(*torch.as_tensor(state["course"]).tolist()).spread(REFERENCE)
    assert variance == pytest.approx(0.1, rel=0.4)
    assert found == pytest.approx(like, abs=0.15)


def test_after_a_shift_the_mean_is_made_of_the_next_rows_and_watched_from_the_second_on() -> None:
    state = shift.anew(after(shift.begun(REFERENCE), row_at(1.0)))
    assert (state["known"], state["making"], state["statistic"]) == (0, 1, 0.0)
    places = [row_at(distance) for distance in (1.0, 0.9, 1.1)]
    for count, row in enumerate(places, start=1):
        state = after(state, row)
        assert (state["known"], state["making"]) == (count, int(count < 3))
        torch.testing.assert_close(state["mean"], torch.stack(places[:count]).mean(0))
    settled = after(state, row_at(0.8))
    assert torch.equal(torch.as_tensor(settled["mean"]), torch.as_tensor(state["mean"]))
    assert after(state, -row_at(1.0))["statistic"] == pytest.approx(7.0, abs=0.5)


@pytest.mark.parametrize(("classes", "probes"), [(CLASSES, 4), (30, 8)])
def test_a_mean_that_saw_few_classes_is_made_of_more_probes(classes: int, probes: int) -> None:
    """A mean of few classes takes the weight off every probe to come."""
    settings = replace(SETTINGS, reference_probes=8)
    shown = torch.cat([torch.ones(classes), torch.zeros(CLASSES - classes)])
    state, made = shift.anew(shift.begun(REFERENCE)), 0
    while state["making"]:
        state = shift.after_row(row_at(1.0), None, shown, REFERENCE, state, settings)
        made += 1
    assert (made, state["known"]) == (probes, probes)


def test_what_raises_the_test_does_not_go_into_a_mean_that_is_being_made() -> None:
    state = after(shift.anew(shift.begun(REFERENCE)), row_at(1.0))
    raised = after(state, -row_at(1.0))
    assert raised["statistic"] > 0
    assert torch.equal(torch.as_tensor(raised["mean"]), torch.as_tensor(state["mean"]))
    assert (raised["known"], raised["making"]) == (1, 1)


def test_what_rises_with_a_shift_is_forgotten_with_it() -> None:
    state = shift.begun(REFERENCE)
    for row in rows_of(40, 2):
        state = after(state, row)
    state = after({**state, "statistic": 0.0}, row_at(0.0))
    before = torch.as_tensor(state["course"])
    for _ in range(3):
        state = after(state, row_at(5.0))
    assert float(torch.as_tensor(state["course"])[1]) > 1.1 * float(before[1])
    assert torch.equal(torch.as_tensor(shift.anew(state)["course"]), before)


def test_a_reference_of_a_stream_s_own_is_made_of_its_first_rows() -> None:
    state: State = shift.nothing(DIMENSIONS)
    frames = torch.randn(3, 8, DIMENSIONS, generator=torch.Generator().manual_seed(3))
    for number, probe in enumerate(frames):
        assert "rows" in state
        state = shift.after_row(probe.mean(0), probe.square().mean(0), ALL, None, state, SETTINGS)
        assert ("rows" in state) == (number < 2)
    whole = frames.flatten(0, 1)
    made = Reference.from_probes(frames.mean(1).half(), whole.var(0, unbiased=False), float(CLASSES), 8)
    for name in ("metric", "mean"):
        torch.testing.assert_close(state[name], getattr(made, name), rtol=1e-2, atol=1e-3)
    assert state["known"] == 3
    far: dict[str, Any] = shift.after_row(10 + whole.mean(0), None, ALL, None, state, SETTINGS)
    assert far["statistic"] == pytest.approx(7.0)
    again = shift.after_row(10 + whole.mean(0), None, ALL, None, replace_numbers(state), SETTINGS)
    assert again["statistic"] == far["statistic"]


def replace_numbers(state: State) -> State:
    """The state as a codec gives it back: tensors and numbers."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}


def test_a_calibrated_reference_s_metric_is_no_part_of_a_stream() -> None:
    matrix = replace(REFERENCE, metric=2 * torch.eye(DIMENSIONS))
    state = shift.begun(matrix)
    assert "metric" not in state
    one = shift.after_row(row_at(0.05), None, ALL, matrix, state, SETTINGS)
    other = after(shift.begun(REFERENCE), row_at(0.2))
    assert one["statistic"] == pytest.approx(other["statistic"])


def test_frames_of_a_probe_that_was_cleared_do_not_widen_the_reference_in_the_making() -> None:
    signal = shift.Shift(SETTINGS, torch.eye(DIMENSIONS), None)
    begun = signal.begun()
    assert all(equal(begun, signal.cleared({**begun, name: 1 + torch.as_tensor(begun[name])})) for name in signal.sums)


def equal(one: State, two: State) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(two[name])) for name, value in one.items()
    )


def test_a_reference_of_frames_that_are_nearly_alike_knows_how_little_they_vary() -> None:
    """Rows are kept as bytes: what they vary by must not be lost beside what they have in common."""
    draw = torch.Generator().manual_seed(4)
    common, state = 0.1 * torch.randn(DIMENSIONS, generator=draw), shift.nothing(DIMENSIONS)
    frames = common + 1e-3 * torch.randn(12, 8, DIMENSIONS, generator=draw)
    settings = GuardSettings(probe_frames=8, reference_probes=12)
    for probe in frames:
        state = shift.after_row(probe.mean(0), probe.square().mean(0), ALL, None, state, settings)
    whole = frames.flatten(0, 1)
    made = Reference.from_probes(frames.mean(1), whole.var(0, unbiased=False), float(CLASSES), 8)
    torch.testing.assert_close(state["metric"], made.metric, rtol=5e-2, atol=0)
    assert float(state["expected"]) == pytest.approx(made.expected, rel=0.1)
