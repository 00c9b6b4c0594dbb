import numpy as np
import pytest

from grpo_tta.evaluation.corruptions import CORRUPTIONS, CorruptionError, corrupt

KINDS = list(CORRUPTIONS)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    return smooth.repeat(8, axis=2).repeat(8, axis=3)


@pytest.fixture(scope="module")
def seeds() -> np.ndarray:
    return np.arange(6, dtype=np.int64) + 2**40


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_keeps_shape_and_type_and_leaves_its_input_alone(self, images, seeds, kind):
        before = images.copy()
        corrupted = corrupt(images, kind, 3, seeds)
        assert corrupted.shape == images.shape
        assert corrupted.dtype == np.uint8
        assert np.array_equal(images, before)

    def test_a_frame_does_not_depend_on_its_batch(self, images, seeds, kind):
        together = corrupt(images, kind, 4, seeds)
        alone = np.concatenate([corrupt(images[i : i + 1], kind, 4, seeds[i : i + 1]) for i in range(6)])
        assert np.array_equal(together, alone)
        order = np.array([3, 0, 5, 1, 4, 2])
        assert np.array_equal(together[order], corrupt(images[order], kind, 4, seeds[order]))

    def test_is_further_from_the_image_the_severer_it_is(self, images, seeds, kind):
        distances = [
            np.abs(corrupt(images, kind, severity, seeds).astype(float) - images).mean() for severity in range(6)
        ]
        assert distances[0] == 0
        assert distances[0] < distances[1] < distances[3] < distances[5]

    def test_images_of_other_sizes(self, seeds, kind):
        for height, width in ((32, 48), (97, 80)):
            frames = np.full((1, 3, height, width), 77, dtype=np.uint8)
            frames[:, :, 5:20, 8:30] = 200
            assert corrupt(frames, kind, 5, seeds[:1]).shape == frames.shape


@pytest.mark.parametrize("kind", ["gaussian_noise", "fog"])
def test_another_seed_is_another_frame(images, seeds, kind):
    assert not np.array_equal(corrupt(images, kind, 3, seeds), corrupt(images, kind, 3, seeds + 1))


def test_an_even_image_stays_as_it_is_under_blur_and_contrast(seeds):
    even = np.full((1, 3, 64, 64), 90, dtype=np.uint8)
    for kind in ("defocus_blur", "contrast"):
        assert np.array_equal(corrupt(even, kind, 5, seeds[:1]), even)


def test_noise_has_the_stated_deviation(seeds):
    grey = np.full((6, 3, 64, 64), 128, dtype=np.uint8)
    noise = corrupt(grey, "gaussian_noise", 1, seeds).astype(float) - 128
    assert noise.std() / 255 == pytest.approx(0.04, rel=0.02)


def test_blur_spreads_a_point_over_a_disk_that_scales_with_the_image(seeds):
    for size in (64, 224):
        point = np.zeros((1, 3, size, size), dtype=np.uint8)
        point[:, :, size // 2, size // 2] = 255
        spread = np.flatnonzero(corrupt(point, "defocus_blur", 4, seeds[:1])[0, 0].any(axis=0))
        assert spread[-1] - spread[0] + 1 == pytest.approx(2 * 8 * size / 224, abs=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("snowstorm", 3), "kind must be one of gaussian_noise.*got 'snowstorm'"),
        (("fog", 6), "severity must be 0 .* to 5, got 6"),
        (("fog", -1), "severity must be 0 .* to 5, got -1"),
    ],
)
def test_says_what_is_wrong(images, seeds, arguments, message):
    with pytest.raises(CorruptionError, match=message):
        corrupt(images, *arguments, seeds)


def test_refuses_what_is_no_batch_of_frames(images, seeds):
    with pytest.raises(CorruptionError, match=r"images must be uint8 \[B, 3, H, W\], got float64"):
        corrupt(images / 255, "fog", 1, seeds)
    with pytest.raises(CorruptionError, match="got 2 seeds for 6 images"):
        corrupt(images, "fog", 1, seeds[:2])
