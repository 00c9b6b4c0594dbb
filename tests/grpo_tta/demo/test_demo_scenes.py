import numpy as np
import pytest

from grpo_tta.demo import pictures, render_scene, scenes


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    return pictures()[0]


def test_a_frame_is_a_function_of_its_picture_and_seed(drawn):
    together = scenes(drawn, [4, 9, 4], [1, 2, 1])
    assert together.shape == (3, 3, 64, 64)
    assert together.dtype == np.uint8
    assert np.array_equal(together[0], together[2])
    assert np.array_equal(together[1], scenes(drawn, [9], [2])[0])
    assert not np.array_equal(together[0], scenes(drawn, [4], [3])[0])


def test_one_scene_is_the_batch_of_one(drawn):
    single = render_scene(drawn[7], np.random.Generator(np.random.PCG64(5)))
    assert single.shape == (64, 64, 3)
    assert np.array_equal(single.transpose(2, 0, 1), scenes(drawn, [7], [5])[0])


def test_backgrounds_come_from_the_seed_and_not_from_the_picture():
    nothing = np.zeros((2, 72, 72, 4), dtype=np.uint8)
    frames = scenes(nothing, [0, 1], [11, 11])
    assert np.array_equal(frames[0], frames[1])


def test_without_spread_the_picture_stands_where_it_was():
    square = np.zeros((72, 72, 4), dtype=np.uint8)
    square[20:52, 20:52] = 255
    frame = render_scene(square, np.random.Generator(np.random.PCG64(0)), spread=0.0)
    assert (frame[25:39, 25:39] == 255).all()
    white = np.argwhere((frame == 255).all(axis=2))
    assert white.min(axis=0).tolist() == (63 - white.max(axis=0)).tolist()


def test_size_and_mirroring(drawn):
    assert scenes(drawn, [0], [0], size=96).shape == (1, 3, 96, 96)
    assert not np.array_equal(scenes(drawn, [0], [0], flip=1.0), scenes(drawn, [0], [0]))


def test_says_what_does_not_fit(drawn):
    with pytest.raises(ValueError, match="equally many, got 2 and 1"):
        scenes(drawn, [0, 1], [0])
