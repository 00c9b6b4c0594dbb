import numpy as np
import pytest

from grpo_tta.evaluation.measures import (
    class_interval,
    expected_calibration_error,
    joint_interval,
    paired_accuracy,
)


def test_gain_is_paired_on_the_same_frames() -> None:
    right, frozen = np.array([True, True, False, True]), np.array([True, False, False, False])
    row = paired_accuracy(right, frozen, ["a", "b", "a", "b"])
    assert (row.n, row.accuracy, row.accuracy_frozen, row.gain) == (4, 0.75, 0.25, 0.5)


def test_the_interval_resamples_classes_not_frames() -> None:
    """Ten thousand frames of two classes, one always gained and one never, say no more than two classes can."""
    values = np.repeat([1.0, 0.0], 5000)
    assert class_interval(values, np.repeat([0, 1], 5000)) == (0.0, 1.0)
    low, high = class_interval(values, np.arange(10_000))
    assert 0.48 < low < 0.5 < high < 0.52


def test_a_class_counts_by_its_frames() -> None:
    low, high = class_interval(np.array([1.0] + [0.0] * 99), [0] + [1] * 99)
    assert (low, high) == (0.0, 1.0)
    assert class_interval(np.array([0.5, 0.5, 0.5]), ["a", "a", "b"]) == (0.5, 0.5)


def test_the_interval_is_the_same_every_time_and_narrows_with_classes() -> None:
    values = np.random.default_rng(0).normal(size=900)
    few, many = np.arange(900) % 9, np.arange(900) % 300
    assert class_interval(values, few) == class_interval(values, few)
    assert class_interval(values, few) != class_interval(values, few, seed=1)
    low, high = class_interval(values, many)
    assert low < values.mean() < high


@pytest.mark.parametrize(("values", "classes"), [([], []), ([1.0], ["a", "b"])])
def test_nothing_or_a_length_that_does_not_fit_is_refused(values: list[float], classes: list[str]) -> None:
    with pytest.raises(ValueError, match="equally many and some"):
        class_interval(np.array(values), classes)


def class_sums(cells: list[tuple[np.ndarray, np.ndarray]], classes: int) -> tuple[np.ndarray, np.ndarray]:
    sums = np.stack([np.bincount(own, values, minlength=classes) for values, own in cells])
    return sums, np.stack([np.bincount(own, minlength=classes) for _, own in cells])


def test_the_joint_interval_is_that_of_a_slow_loop() -> None:
    """Each draw takes whole classes out of all cells together; a frame weighs by its cell."""
    rng = np.random.default_rng(1)
    effect = rng.normal(0, 0.3, 12)
    cells = []
    for frames in (40, 90, 200):
        classes = rng.integers(0, 11, frames)  # the twelfth class is shown by none
        cells.append((effect[classes] + rng.normal(0, 0.5, frames), classes))
    sums, counts = class_sums(cells, 12)
    shown = np.flatnonzero(counts.sum(0))
    means, draw = [], np.random.default_rng(0)
    for times in draw.multinomial(len(shown), np.full(len(shown), 1 / len(shown)), 300):
        total = weight = 0.0
        for place, number in zip(times, shown, strict=True):
            for values, classes in cells:
                total += place * values[classes == number].sum() / len(values)
                weight += place * (classes == number).sum() / len(values)
        means.append(total / weight)
    assert joint_interval(sums, counts, draws=300) == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_the_same_drawings_in_more_cells_are_no_more_evidence() -> None:
    rng = np.random.default_rng(2)
    effect, classes = rng.normal(0, 1, 30), np.arange(300) % 30
    one = [(effect[classes], classes)]
    alone, many = (joint_interval(*class_sums(cells, 30)) for cells in (one, one * 50))
    assert many == pytest.approx(alone)
    assert class_interval(*one[0]) == pytest.approx(alone, abs=0.06)
    apart = [(effect[classes], classes + 30 * number) for number in range(50)]
    low, high = joint_interval(*class_sums(apart, 1500))
    assert high - low < (alone[1] - alone[0]) / 5


def test_a_cell_counts_once_however_long_it_is() -> None:
    cells = [(np.ones(10), np.arange(10)), (np.zeros(990), np.arange(990) % 10)]
    assert joint_interval(*class_sums(cells, 10)) == pytest.approx((0.5, 0.5))


def test_cells_without_frames_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="cell 1 has none"):
        joint_interval(np.zeros((2, 3)), np.array([[1, 1, 0], [0, 0, 0]]))
    with pytest.raises(ValueError, match="alike"):
        joint_interval(np.zeros((2, 3)), np.ones((2, 4), dtype=np.int64))


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.25, 0.25])
    right = np.array([True, True, True, False, False, False])
    assert expected_calibration_error(confidence, right) == pytest.approx((4 * 0.2 + 2 * 0.25) / 6)
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0.0
