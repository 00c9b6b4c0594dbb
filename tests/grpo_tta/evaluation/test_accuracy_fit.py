"""The fit of an accuracy calibration on frames whose truth is known, and the stream that it measures."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from grpo_tta.estimate import share_under
from grpo_tta.evaluation.accuracy import LEAST_IMAGES, WINDOW, Measured, Seen, calibration_stream, error_of, fit
from grpo_tta.evaluation.streams import Frames


def frames_of(kind: str, count: int, accuracy: float, seed: int, classes: int = 50, spread: float = 0.0) -> Measured:
    """Entropy is low where a frame is right, but for one in ten; with ``spread`` whole classes are surer than right."""
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = rng.integers(classes, size=count)
    right = rng.random(count) < accuracy
    unsure = np.where(right ^ (rng.random(count) < 0.1), rng.uniform(0, 0.3, count), rng.uniform(0.3, 1, count))
    unsure = np.where(rng.random(classes)[labels] < spread, 0.05, unsure)
    seen = Seen(unsure, right, np.where(right, labels, (labels + 1) % classes))
    return Measured(kind, labels, seen, seen)


def test_the_threshold_is_unbiased_over_kinds_and_the_width_is_the_worst_kinds() -> None:
    measured = [frames_of("clean", 1000, 0.6, 1), frames_of("fog", 600, 0.4, 2), frames_of("noise", 600, 0.2, 3)]
    fitted = fit(measured)
    side = fitted.adapted
    assert side.threshold == pytest.approx(0.3, abs=0.06)
    thresholds = {"adapted": side.threshold, "frozen": side.threshold}
    biases = [error_of(part, "adapted", thresholds) for part in measured]
    assert np.mean(biases) == pytest.approx(0, abs=1e-9)
    assert (side.accuracy, side.lowest) == (measured[0].adapted.right.mean(), measured[2].adapted.right.mean())
    assert sorted(side.width.quantiles) == ["clean", "fog", "noise"]
    assert 0.01 < side.width.bound < 0.2
    assert fitted.frozen == side
    assert fitted.gain.bound == 0
    assert share_under(measured[0].adapted.histogram(), side.threshold) == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize(("reported", "score"), [(True, [0.1, 0.2]), (False, [0.1, 0.9])])
def test_the_adapted_encoder_is_as_sure_as_the_surer_of_both_where_the_method_gives_both(
    reported: bool, score: list[float]
) -> None:
    ones, places = np.ones(2, bool), np.arange(2)
    result: Any = SimpleNamespace(
        labels=places, entropy=np.array([0.1, 0.9]), right=ones, predicted=places, frozen_entropy=np.array([0.3, 0.2]),
        frozen_right=ones, frozen_predicted=places, frozen_reported=reported,
    )  # fmt: skip
    measured = Measured.of("fog", result, slice(0, 2))
    assert measured.adapted.entropy.tolist() == score
    assert measured.frozen.entropy.tolist() == [0.3, 0.2]


def test_classes_that_are_surer_than_right_widen_windows_of_few_classes() -> None:
    widths = [fit([frames_of("clean", 2000, 0.5, 4, spread=spread)]).adapted.width for spread in (0.0, 0.5)]
    assert widths[1].class_variance > 2 * widths[0].class_variance > 0


def test_the_stream_warms_up_and_then_shows_every_image_and_each_kind_at_three_severities() -> None:
    rng = np.random.Generator(np.random.PCG64(5))
    canvases = rng.integers(0, 256, (LEAST_IMAGES, 3, 8, 8), dtype=np.uint8)
    frames = Frames(canvases, np.arange(LEAST_IMAGES), np.arange(LEAST_IMAGES))
    parts = list(calibration_stream(frames, ("fog", "contrast"), batch=100))
    labels = np.concatenate([part.labels for part in parts])
    assert len(labels) == 2 * LEAST_IMAGES + 6 * WINDOW
    assert np.array_equal(labels[:LEAST_IMAGES], labels[LEAST_IMAGES : 2 * LEAST_IMAGES])
    assert np.array_equal(parts[0].canvases, canvases[:100])
    assert not np.array_equal(parts[10].canvases, canvases[parts[10].labels])
    few = Frames(canvases[1:], frames.labels[1:], frames.seeds[1:])
    with pytest.raises(ValueError, match="at least 500 labelled images are needed, got 499"):
        next(calibration_stream(few, ("fog",)))
