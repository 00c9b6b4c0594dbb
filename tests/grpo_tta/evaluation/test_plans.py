"""Streams are what their names say, the same for everyone, and made of any labelled pictures."""

import numpy as np
import pytest

from grpo_tta.evaluation.corruptions import corrupt
from grpo_tta.evaluation.plans import CLEAN, Condition, KeptFrames, Plan, plan_frames
from grpo_tta.evaluation.stream_makers import STREAMS, make_plan
from grpo_tta.evaluation.streams import Frames

LABELS = np.random.default_rng(0).permutation(np.arange(600) % 50)
FOG, DARK = Condition("fog", 3), Condition("contrast", 4)


class Noise:
    """Pictures of 8 x 8 random values; another look is another picture."""

    labels = LABELS

    def load(self, indices: np.ndarray, looks: np.ndarray) -> np.ndarray:
        seeds = zip(indices.tolist(), looks.tolist(), strict=True)
        return np.stack([np.random.default_rng(pair).integers(0, 256, (3, 8, 8), dtype=np.uint8) for pair in seeds])


def made(stream: str, frames: int = 600, seed: int = 0) -> Plan:
    uses = {"clean": [], "one": [FOG], "several": [FOG, DARK]}[STREAMS[stream].uses]
    return make_plan(stream, LABELS, frames, uses, seed)


def collected(plan: Plan, batch: int) -> Frames:
    parts = list(plan_frames(plan, Noise(), batch))
    columns = ("canvases", "labels", "seeds")
    return Frames(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def runs(values: np.ndarray) -> list[int]:
    return np.diff([0, *(np.flatnonzero(np.diff(values)) + 1), len(values)]).tolist()


@pytest.mark.parametrize("stream", STREAMS)
class TestEveryStream:
    def test_is_the_same_for_the_same_seed_and_has_its_length(self, stream: str) -> None:
        plan, again = made(stream), made(stream)
        for name in ("pictures", "labels", "condition", "looks", "seeds"):
            assert np.array_equal(getattr(plan, name), getattr(again, name))
            assert len(getattr(plan, name)) == len(plan) == 600 * STREAMS[stream].longer
        assert (plan.changes, plan.conditions) == (again.changes, again.conditions)
        assert not np.array_equal(plan.seeds, made(stream, seed=1).seeds)
        assert not np.array_equal(plan.pictures, made(stream, seed=1).pictures)

    def test_shows_the_class_it_says(self, stream: str) -> None:
        plan = made(stream)
        shown = LABELS[plan.pictures]
        assert np.array_equal(shown, plan.labels if plan.classes is None else np.array(plan.classes)[plan.labels])

    def test_changes_are_where_the_condition_changes(self, stream: str) -> None:
        plan = made(stream)
        for change in plan.changes:
            assert plan.condition[change] != plan.condition[change - 1]
        if plan.changes:
            assert (np.diff(plan.condition) != 0).sum() == len(plan.changes)
        assert all(0 < part < len(plan) for part in plan.parts)
        assert plan.parts == sorted(set(plan.parts))


def test_frames_do_not_depend_on_the_batch() -> None:
    for stream in ("mixed-cameras", "fixed-camera"):
        plan = made(stream, 60)
        one, many = collected(plan, 1), collected(plan, 32)
        assert np.array_equal(one.canvases, many.canvases)
        assert np.array_equal(one.seeds, plan.seeds)
        assert np.array_equal(many.labels, plan.labels)


def test_kept_frames_are_made_once_as_far_as_they_fit() -> None:
    plan, made_frames = made("mixed-cameras", 60), []

    class Counting(Noise):
        def load(self, indices: np.ndarray, looks: np.ndarray) -> np.ndarray:
            made_frames.append(len(indices))
            return super().load(indices, looks)

    wanted = collected(plan, 16)
    for most, again in ((60 * 192, []), (2 * 16 * 192 + 191, [16, 12]), (0, [16, 16, 16, 12])):
        frames = KeptFrames(plan, Counting(), 16, most)
        for _ in range(2):
            made_frames.clear()
            parts = list(frames)
            for name in ("canvases", "labels", "seeds"):
                assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(wanted, name))
        assert made_frames == again


def test_a_frame_is_its_picture_under_its_condition() -> None:
    plan = made("mixed-cameras", 30)
    canvases, plain = collected(plan, 30).canvases, Noise().load(plan.pictures, plan.looks)
    for row, number in enumerate(plan.condition):
        condition = plan.conditions[number]
        wanted = plain[row : row + 1]
        if condition.kind is not None:
            wanted = corrupt(wanted, condition.kind, condition.severity, plan.seeds[row : row + 1])
        assert np.array_equal(canvases[row], wanted[0])


def test_no_picture_comes_twice_before_all_came() -> None:
    assert len(np.unique(made("null", 600).pictures)) == 600
    assert made("null").conditions == (CLEAN,)
    assert made("steady").conditions == (FOG,)


def test_classes_come_together_the_more_the_smaller_the_concentration() -> None:
    counts = [len(runs(made(name).labels)) for name in ("class-ordered", "class-ordered-0.1", "null")]
    assert 50 <= counts[0] < counts[1] / 2
    assert counts[1] < counts[2] - 200
    assert set(runs(made("class-runs", 640).labels)) <= {64, 128, 192}


def test_a_label_shift_is_no_change_of_the_input() -> None:
    plan = made("label-shift")
    assert plan.changes == ()
    assert len(plan.segments) == 7
    first, second = (np.bincount(part, minlength=50) for part in np.split(plan.labels, plan.segments)[:2])
    assert np.minimum(first, second).sum() < 0.6 * 75


def test_skewed_and_few() -> None:
    counts = np.sort(np.bincount(made("skewed", 3000).labels))[::-1]
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.25)
    for name, count in (("few-shown", 40), ("few-shown-5", 5)):
        assert len(np.unique(made(name, 3000).labels)) == count
    plan = made("few-classes-5")
    assert plan.classes is not None
    assert len(plan.classes) == 5
    assert set(plan.labels) == set(range(5))


def test_a_fixed_camera_sees_one_class_most_of_the_time_again_and_again() -> None:
    plan = made("fixed-camera", 6000)
    counts = np.sort(np.bincount(plan.labels))[::-1]
    assert counts[0] / 6000 == pytest.approx(0.8, abs=0.05)
    assert (counts > 0).sum() <= 8
    assert set(runs(plan.looks)) == {500}
    frames = collected(make_plan("fixed-camera", LABELS, 40, [CLEAN], 0), 40).canvases.astype(float)
    assert np.abs(frames[0] - frames[1]).mean() > 0


def test_near_duplicates_are_near() -> None:
    plan = make_plan("fixed-camera", LABELS, 40, [CLEAN], 0)
    smooth = np.broadcast_to(np.arange(64, dtype=np.uint8) * 3, (4, 3, 64, 64))

    class Ramp(Noise):
        def load(self, indices: np.ndarray, looks: np.ndarray) -> np.ndarray:
            return smooth[: len(indices)].copy()

    (part, *_) = plan_frames(plan, Ramp(), 4)
    away = np.abs(part.canvases.astype(float) - smooth).mean(axis=(1, 2, 3))
    assert (away > 0.5).all()
    assert (away < 10).all()
    assert not np.array_equal(part.canvases[0], part.canvases[1])


def test_abrupt_goes_through_all_conditions_once_and_begins_clean() -> None:
    orders = [[made("abrupt", seed=seed).conditions, made("abrupt", seed=seed).changes] for seed in range(8)]
    for conditions, changes in orders:
        assert conditions[0] == CLEAN
        assert set(conditions[1:]) == {FOG, DARK}
        assert len(changes) == 2
    assert len({order[0] for order in orders}) == 2
    assert len({order[1] for order in orders}) == 8


def test_gradual_recurring_blips() -> None:
    plan = made("gradual")
    assert [plan.conditions[n].severity for n in plan.condition[::60]] == [0, 1, 2, 3, 4, 5, 4, 3, 2, 1]
    assert runs(made("recurring").condition) == [15] * 40
    blips = made("blips").condition > 0
    assert blips.sum() == 12
    assert not (blips[1:] & blips[:-1]).any()
    assert made("blips").changes == ()
    assert set(made("mixed-cameras").condition) == {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sudden", LABELS, 100, [FOG], 0), "stream must be one of null, .*got 'sudden'"),
        (("abrupt", LABELS, 59, [FOG], 0), "abrupt needs at least 60 frames, got 59"),
        (("recurring", LABELS, 39, [FOG], 0), "recurring needs at least 40 frames, got 39"),
        (("few-classes-10", LABELS % 4, 100, [FOG], 0), "needs pictures of 10 classes, there are 4"),
        (("steady", LABELS, 100, [FOG, DARK], 0), "takes one of the conditions, got 2"),
        (("steady", LABELS, 100, [], 0), "takes one of the conditions, got 0"),
        (("null", LABELS[:0], 100, [], 0), "needs a picture"),
        (("null", LABELS, 100, [], -1), "seed must be >= 0, got -1"),
    ],
)
def test_bad_values_are_named(arguments: tuple[object, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_plan(*arguments)


def test_bad_conditions_and_batches_are_named() -> None:
    with pytest.raises(ValueError, match=r"corruption must be one of .*got 'mist'"):
        Condition("mist", 3)
    with pytest.raises(ValueError, match="severity of fog must be 1 to 5, got 0"):
        Condition("fog")
    with pytest.raises(ValueError, match="batch must be >= 1, got 0"):
        next(plan_frames(made("null"), Noise(), 0))
