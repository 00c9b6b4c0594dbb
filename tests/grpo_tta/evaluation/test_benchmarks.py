"""The arithmetic of the benchmarks of the guard, on cached features and made-up runs."""

import numpy as np
import pytest
import torch

from benchmarks import collapse
from benchmarks.alarms import HORIZON, Pool, Tally, changing
from benchmarks.report import upper_bound
from grpo_tta import GuardEvent
from grpo_tta.evaluation.plans import CLEAN, Condition
from grpo_tta.evaluation.run import StreamResult
from grpo_tta.evaluation.stream_makers import make_plan

FOG = Condition("fog", 3)


@pytest.mark.parametrize(("events", "bound"), [(0, 2.9957), (1, 4.7439), (10, 16.9622), (100, 118.08)])
def test_the_upper_bound_is_that_of_the_tables(events: int, bound: float) -> None:
    assert upper_bound(events) == pytest.approx(bound, abs=0.01)


def test_a_plan_is_drawn_from_the_pool_by_scene_and_condition() -> None:
    scenes = torch.arange(6.0)[:, None]
    pool = Pool({"clean": scenes, "fog:3": scenes + 100}, classes=3)
    labels = pool.labels(6)
    plan = changing(make_plan("null", labels, 40, [CLEAN], 0), [CLEAN, FOG, CLEAN, FOG])
    drawn = pool.draw(plan)[:, 0].numpy()
    assert plan.changes == (10, 20, 30)
    foggy = np.repeat([False, True, False, True], 10)
    assert (drawn >= 100).tolist() == foggy.tolist()
    assert (drawn % 100).tolist() == plan.pictures.tolist()
    assert (labels[(drawn % 100).astype(int)] == plan.labels).all()


def test_a_tally_counts_what_was_missed_as_the_horizon_and_what_came_late_as_false() -> None:
    tally = Tally()
    for alarms in ([4064], [100, 4000 + HORIZON + 1], [4096]):
        tally.add((4000,), [GuardEvent("shift", 16.0, 15.0, frame, False, "", size=0.5) for frame in alarms], 8000)
    assert (tally.frames, tally.false, tally.missed, tally.delays) == (24_000, 2, 1, (64, 96))
    assert (tally.delay, tally.missed_share) == (96, pytest.approx(100 / 3))
    assert tally.per_10k == pytest.approx(2e4 / 24_000)


def result(right: list[bool], resets: list[tuple[int, str]]) -> StreamResult:
    """Frozen labels are always right."""
    count = len(right)
    ones, nothing = np.ones(count, dtype=bool), np.zeros(count)
    return StreamResult(
        labels=np.zeros(count, dtype=np.int64),
        right=np.array(right),
        frozen_right=ones,
        confidence=nothing,
        frozen_confidence=nothing,
        resets=resets,
        forward_equivalents=4.0,
        reporting_equivalents=0.0,
        brier=nothing,
        frozen_brier=nothing,
        predicted=nothing.astype(np.int64),
        frozen_predicted=nothing.astype(np.int64),
        entropy=nothing,
        frozen_entropy=nothing,
        ill=nothing.astype(bool),
        detections=[],
        seconds=0.0,
        state_bytes=0,
    )


def test_a_collapse_is_judged_by_the_gap_before_its_detection_and_the_accuracy_after() -> None:
    bare = result([True] * 1000 + [False] * 2000, [])
    guarded = result([True] * 1000 + [False] * 20 + [True] * 1980, [(640, "shift"), (1020, "collapse")])
    judged = collapse.outcome(bare, guarded)
    assert (judged.collapsed_at, judged.end_gap) == (1025, 100)
    assert (judged.detected_at, judged.gap_before, judged.resets, judged.back) == (1020, 4, 1, 1)
    late = collapse.outcome(bare, result([True] * 1000 + [False] * 2000, [(1500, "collapse")]))
    assert (late.gap_before, late.back) == (100, 0)
    never = collapse.outcome(bare, result([True] * 3000, []))
    assert (never.detected_at, never.gap_before) == (None, 0)
    bars = {bar.name.strip(): bar.figure for bar in collapse.bars_of([judged, late, never])}
    assert list(bars.values()) == [pytest.approx(200 / 3), pytest.approx(100 / 3), 0]


def test_a_run_that_does_not_collapse_is_no_evidence() -> None:
    well = collapse.outcome(result([True] * 1000, []), result([True] * 1000, []))
    (bar,) = collapse.bars_of([well])
    assert not bar.reached
