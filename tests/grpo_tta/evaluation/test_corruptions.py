import itertools

import numpy as np
import pytest

from grpo_tta.evaluation.corruptions import CORRUPTIONS, DEVELOPMENT, CorruptionError, corrupt

KINDS = list(CORRUPTIONS)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Patches of colour that lie across any grid, and a little texture."""
    rng = np.random.default_rng(0)
    patches = rng.integers(60, 196, (6, 3, 8, 8)).repeat(8, axis=2).repeat(8, axis=3)
    return (np.roll(patches, (3, 5), axis=(2, 3)) + rng.integers(-60, 60, patches.shape)).astype(np.uint8)


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
        assert all(milder < severer for milder, severer in itertools.pairwise(distances))

    def test_images_of_other_sizes(self, seeds, kind):
        for height, width in ((32, 48), (97, 80)):
            frames = np.full((1, 3, height, width), 77, dtype=np.uint8)
            frames[:, :, 5:20, 8:30] = 200
            assert corrupt(frames, kind, 5, seeds[:1]).shape == frames.shape


SEEDLESS = {"defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - SEEDLESS - {"saturate"}))
def test_another_seed_is_another_frame(images, seeds, kind):
    assert not np.array_equal(corrupt(images, kind, 3, seeds), corrupt(images, kind, 3, seeds + 1))


def test_the_fifteen_the_four_and_those_of_development():
    by_family = {
        "noise": "gaussian_noise shot_noise impulse_noise",
        "blur": "defocus_blur glass_blur motion_blur zoom_blur",
        "weather": "snow frost fog brightness",
        "digital": "contrast elastic_transform pixelate jpeg_compression",
    }
    for family, names in by_family.items():
        assert [k.name for k in CORRUPTIONS.values() if k.family == family and not k.extra] == names.split()
    assert {k.name for k in CORRUPTIONS.values() if k.extra} == {
        "speckle_noise",
        "gaussian_blur",
        "spatter",
        "saturate",
    }
    assert set(DEVELOPMENT) == {"gaussian_noise", "defocus_blur", "fog", "contrast", "jpeg_compression"}
    assert all(len(kind.levels) == 5 for kind in CORRUPTIONS.values())


@pytest.mark.parametrize(
    "kind", [*(k.name for k in CORRUPTIONS.values() if k.family == "blur"), "contrast", "elastic_transform", "saturate"]
)
def test_what_only_moves_or_mixes_leaves_an_even_image_as_it_is(seeds, kind):
    even = np.full((1, 3, 64, 64), 90, dtype=np.uint8)
    assert np.array_equal(corrupt(even, kind, 5, seeds[:1]), even)


def test_a_black_image_under_glare_is_grey(seeds):
    assert np.unique(corrupt(np.zeros((1, 3, 8, 8), dtype=np.uint8), "brightness", 2, seeds[:1])).tolist() == [51]


def test_impulses_take_their_share(seeds):
    grey = np.full((6, 3, 64, 64), 128, dtype=np.uint8)
    changed = corrupt(grey, "impulse_noise", 5, seeds)
    assert (changed == 0).mean() == pytest.approx(0.135, abs=0.01)
    assert (changed == 255).mean() == pytest.approx(0.135, abs=0.01)


def test_pixelated_images_have_fewer_values(seeds):
    ramp = np.broadcast_to(np.arange(0, 250, 5, dtype=np.uint8), (1, 3, 50, 50)).copy()
    assert len(np.unique(corrupt(ramp, "pixelate", 3, seeds[:1]))) == 25


def test_shot_noise_has_the_deviation_of_its_photons(seeds):
    grey = np.full((6, 3, 64, 64), 128, dtype=np.uint8)
    noise = corrupt(grey, "shot_noise", 2, seeds).astype(float) / 255
    assert noise.std() == pytest.approx((128 / 255 / 100) ** 0.5, rel=0.03)


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
