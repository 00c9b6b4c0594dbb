import numpy as np
import pytest

from grpo_tta.evaluation.measures import class_interval, expected_calibration_error, paired_accuracy


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


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.25, 0.25])
    right = np.array([True, True, True, False, False, False])
    assert expected_calibration_error(confidence, right) == pytest.approx((4 * 0.2 + 2 * 0.25) / 6)
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0.0
