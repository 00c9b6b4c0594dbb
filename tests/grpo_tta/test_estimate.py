"""The accuracy estimate: what it is made of, when it says nothing, and that a calibration's file comes back."""

import re
from dataclasses import dataclass, field, replace

import pytest

from grpo_tta.estimate import (
    ENTROPY_BINS,
    AccuracyCalibration,
    Estimate,
    Side,
    Unknown,
    Width,
    effective_classes,
    estimate,
    half_width,
    share_under,
)
from grpo_tta.schemas.monitor import ENTROPY_BINS as RECORDED_BINS

WIDTH = Width({"clean": 0.04, "fog": 0.10}, 0.2)
CALIBRATION = AccuracyCalibration(
    "m", "grpo", "s", 500, 200, 50.0,
    Side(0.30, 0.6, 0.15, WIDTH), Side(0.40, 0.5, 0.10, WIDTH), Width({"clean": 0.05}, 0.1),
)  # fmt: skip
OLD = re.sub(' "digest": .*\n', "", CALIBRATION.to_json())
BROKEN = [
    ('"window": 200', '"window": null'), ('"window": 200', '"window": "200"'), ('"images": 500', '"images": true'),
    ("0.15", "NaN"), ("0.15", "1" + "0" * 400), ('"method": "grpo"', '"method": 1'),
    ("0.05", "[]"), ("0.2", "Infinity"),
]  # fmt: skip
MANY = {str(number): 2 for number in range(100)}


@dataclass
class Counts:
    """A window of 200 images, 120 of them under the adapted threshold and 80 under the frozen one."""

    model_fingerprint: str = "m"
    method: str = "grpo"
    settings_fingerprint: str = "s"
    n: int = 200
    frozen_n: int = 200
    agree: int = 160
    ill: int = 0
    resets: dict[str, int] = field(default_factory=dict)
    entropy: dict[int, int] = field(default_factory=lambda: {10: 120, 60: 80})
    least_entropy: dict[int, int] = field(default_factory=lambda: {10: 100, 60: 100})
    frozen_entropy: dict[int, int] = field(default_factory=lambda: {39: 80, 40: 120})
    labels: dict[str, int] = field(default_factory=lambda: MANY)
    frozen_labels: dict[str, int] = field(default_factory=lambda: MANY)


def test_an_estimate_is_the_share_under_the_threshold_with_the_worst_kinds_width() -> None:
    found = estimate(Counts(), CALIBRATION)
    assert found.adapted == Estimate(0.6, pytest.approx(0.5), pytest.approx(0.7))
    assert found.frozen == Estimate(0.4, pytest.approx(0.3), pytest.approx(0.5))
    assert found.gain == Estimate(pytest.approx(0.2), pytest.approx(0.15), pytest.approx(0.25))
    assert ENTROPY_BINS == RECORDED_BINS
    assert estimate(Counts(), replace(CALIBRATION, score="least_entropy")).adapted.value == 0.5


def test_within_a_bin_the_share_is_even() -> None:
    histogram = {0: 4, 30: 8, 99: 4}
    shares = [share_under(histogram, threshold) for threshold in (0.0, 0.005, 0.30, 0.3025, 0.31, 0.9999, 1.0, 2.0)]
    assert shares == pytest.approx([0, 0.125, 0.25, 0.375, 0.75, 0.9975, 1, 1])
    assert share_under({}, 0.5) == 0


def test_the_width_grows_with_fewer_images_and_fewer_classes_and_is_never_under_half_the_worst_kinds() -> None:
    by_images = [half_width(WIDTH, 0.24, n, 50, 200, 50) for n in (100, 200, 500, 10**6)]
    assert by_images == sorted(by_images, reverse=True)
    assert by_images[1] == pytest.approx(0.10)
    assert by_images[-1] >= 0.05
    by_classes = [half_width(WIDTH, 0.24, 200, classes, 200, 50) for classes in (3, 10, 50, 500)]
    assert by_classes == sorted(by_classes, reverse=True)
    assert by_classes[2] == by_classes[3]


@pytest.mark.parametrize(("kinds", "bound"), [(1, 0.0), (6, 0.05), (18, 0.17), (19, 0.171), (20, 0.1805), (41, 0.38)])
def test_of_many_kinds_a_few_may_err_by_more_than_the_width(kinds: int, bound: float) -> None:
    width = Width({str(kind): kind / 100 for kind in range(kinds)}, 0.0)
    assert width.bound == pytest.approx(bound)
    above = sum(quantile > width.bound + 1e-9 for quantile in width.quantiles.values())
    assert (above + 1) / (kinds + 1) <= max(0.1, 1 / (kinds + 1))


def test_effective_classes_do_not_depend_on_how_many_images_there_are() -> None:
    assert effective_classes({"a": 500, "b": 500}) == pytest.approx(2, abs=0.01)
    assert effective_classes({"a": 5}) == 1
    assert effective_classes({"a": 1, "b": 1}) == 2
    assert effective_classes({"a": 1}) == 1
    assert effective_classes({}) == 0


def test_under_the_lowest_accuracy_of_the_calibration_the_interval_reaches_to_nothing() -> None:
    found = estimate(Counts(entropy={10: 24, 60: 176}), CALIBRATION).adapted
    assert found == Estimate(pytest.approx(0.12), 0.0, pytest.approx(0.22))


FEW = {"a": 150, "b": 50}


@pytest.mark.parametrize(
    ("changes", "causes"),
    [
        ({"model_fingerprint": "other"}, ("uncalibrated",) * 3),
        ({"method": "tent"}, ("uncalibrated",) * 3),
        ({"settings_fingerprint": "other"}, ("uncalibrated",) * 3),
        ({"entropy": {1: 99}, "frozen_entropy": {1: 99}}, ("few_images",) * 3),
        ({"entropy": {}}, ("few_images", None, "few_images")),
        ({"frozen_n": 0, "frozen_entropy": {}, "frozen_labels": {}}, (None, "no_frozen", "no_frozen")),
        ({"frozen_n": 150}, (None, None, "no_frozen")),
        ({"ill": 1}, ("ill", None, "ill")),
        ({"resets": {"collapse": 1}}, ("collapse", None, "collapse")),
        ({"resets": {"nonfinite": 1}}, ("collapse", None, "collapse")),
        ({"resets": {"shift": 1, "scheduled": 1}}, (None, None, None)),
        ({"labels": {"a": 150, **{str(one): 1 for one in range(50)}}}, ("sharpened", None, "sharpened")),
        ({"labels": FEW, "frozen_labels": FEW}, ("few_classes", "few_classes", "few_classes")),
    ],
)
def test_what_cannot_be_said_is_unknown_with_its_cause(changes: dict[str, object], causes: tuple[str | None]) -> None:
    found = estimate(replace(Counts(), **changes), CALIBRATION)
    said = (found.adapted, found.frozen, found.gain)
    assert tuple(one.cause if isinstance(one, Unknown) else None for one in said) == causes
    assert all(one.message for one in said if isinstance(one, Unknown))


def test_without_a_calibration_or_with_one_that_misses_by_much_nothing_is_said() -> None:
    assert isinstance(estimate(Counts(), None).adapted, Unknown)
    wide = replace(CALIBRATION, adapted=replace(CALIBRATION.adapted, width=Width({"fog": 0.21}, 0.0)))
    found = estimate(Counts(), wide).adapted
    assert isinstance(found, Unknown)
    assert (found.cause, "+-21 points" in found.message) == ("too_wide", True)


def test_a_calibration_comes_back_from_its_file(tmp_path) -> None:
    path = tmp_path / "accuracy.json"
    for one in (CALIBRATION, replace(CALIBRATION, frozen=None, gain=None), replace(CALIBRATION, score="least_entropy")):
        one.save(path)
        assert AccuracyCalibration.load(path) == one
    path.write_text(OLD)
    assert AccuracyCalibration.load(path) == CALIBRATION


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2}',
        CALIBRATION.to_json().replace('"window"', '"w"'),
        CALIBRATION.to_json().replace('"score": "entropy"', '"score": "n"'),
        CALIBRATION.to_json().replace('"window": 200', '"window": 300'),
        "[" * 100_000,
        *(OLD.replace(*change) for change in BROKEN),
    ],
)
def test_a_file_that_is_no_calibration_is_refused_by_name(tmp_path, text: str) -> None:
    path = tmp_path / "accuracy.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"accuracy\.json: no accuracy calibration"):
        AccuracyCalibration.load(path)
