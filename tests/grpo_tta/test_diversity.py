"""What a stream shows: independent frames are told from repeated ones, whatever noise is over them."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.diversity import Diversity

WIDTH, CLASSES, WINDOW = 24, 100, 16


def shown(features: Tensor, probabilities: Tensor | None = None) -> Diversity:
    """After all windows of ``features``."""
    diversity = Diversity.empty(CLASSES, WIDTH)
    if probabilities is None:
        probabilities = torch.eye(CLASSES)[torch.arange(len(features)) % CLASSES]
    for number, start in enumerate(range(0, len(features) - WINDOW + 1, WINDOW), start=1):
        part = slice(start, start + WINDOW)
        rows, shown_now = features[None, part], probabilities[None, part]
        diversity = diversity.after(rows, shown_now, torch.ones(1, WINDOW), torch.tensor([number]), 0.99)
    return diversity


def features(scenes: int, frames: int, noise: float, seed: int = 0) -> Tensor:
    """``scenes`` in a row, each ``frames`` times under noise."""
    generator = torch.Generator().manual_seed(seed)
    each = torch.randn(scenes, WIDTH, generator=generator).repeat_interleave(frames, 0)
    return F.normalize(1 + each + noise * torch.randn(len(each), WIDTH, generator=generator), dim=-1)


@pytest.mark.parametrize("seed", range(5))
def test_independent_frames_are_told_as_such(seed: int) -> None:
    diversity = shown(features(2048, 1, 0.3, seed))
    assert 1 <= float(diversity.correlation(WINDOW)) < 1.7
    assert float(diversity.independent(WINDOW)) > 500
    assert float(diversity.trust(WINDOW)) == 1


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("frames", [64, 256])
def test_scenes_that_stay_are_few_independent_frames_under_any_noise(frames: int, noise: float) -> None:
    diversity = shown(features(4096 // frames, frames, noise))
    share = 1 / (1 + noise * noise)
    assert float(diversity.correlation(WINDOW)) > 0.5 * share * frames
    assert float(diversity.independent(WINDOW)) < 2 * 1024 / frames / share
    assert float(diversity.trust(WINDOW)) < 1


def test_nothing_is_trusted_before_anything_was_shown_and_little_soon_after() -> None:
    nothing = Diversity.empty(CLASSES, WIDTH)
    assert nothing.trust(WINDOW) == 0
    assert nothing.independent(WINDOW) == 0
    assert nothing.classes() == 1
    assert float(shown(features(16, 1, 0.3)).trust(WINDOW)) == pytest.approx((16 / 45) ** 2)


def test_trust_is_the_smaller_of_classes_and_frames() -> None:
    one = torch.eye(CLASSES)[torch.zeros(1024, dtype=torch.int64)]
    assert float(shown(features(1024, 1, 0.3), one).trust(WINDOW)) == pytest.approx(0, abs=1e-6)
    assert shown(features(1024, 1, 0.3), one).classes() == pytest.approx(1)
    many = torch.eye(CLASSES)[torch.arange(1024) % CLASSES]
    assert shown(features(1024, 1, 0.3), many).classes() == pytest.approx(CLASSES, rel=0.01)


def test_predictions_that_noise_spreads_alike_tell_no_classes_apart() -> None:
    """The mean prediction is of many classes either way; only in the second stream each frame is of its own."""
    rows, spread = features(1024, 1, 0.3), torch.full((1024, CLASSES), 0.5 / CLASSES)
    alike = spread + 0.5 / CLASSES
    own = spread + 0.5 * torch.eye(CLASSES)[torch.arange(1024) % CLASSES]
    assert shown(rows, alike).classes() == pytest.approx(1, abs=3e-3)
    assert float(shown(rows, own).classes()) > 5
    two = torch.eye(CLASSES)[torch.arange(1024) % 2]
    assert shown(rows, two).classes() == pytest.approx(2, rel=3e-3)
    assert float(shown(rows, two).variety()) == pytest.approx(1 / 25, rel=1e-2)


def test_a_level_waits_for_its_block_and_then_begins_anew() -> None:
    diversity = shown(features(48, 1, 0.3))
    assert [bool(row.any()) for row in diversity.partial[0]] == [False, True, True, True, True]
    torch.testing.assert_close(
        diversity.partial[0, 2].float(), features(48, 1, 0.3).view(3, 16, -1).mean(1).sum(0), atol=2e-3, rtol=2e-3
    )
    assert diversity.blocks[0, 1] == 1
    torch.testing.assert_close(diversity.mean[0, 1].float(), features(48, 1, 0.3)[:32].mean(0), atol=1e-3, rtol=1e-3)


def test_rows_that_do_not_count_are_as_if_they_had_not_been_there() -> None:
    rows, p = features(16, 1, 0.3), torch.full((16, CLASSES), 1 / CLASSES)
    counted = torch.tensor([1.0] * 10 + [0.0] * 6)
    found = Diversity.empty(CLASSES, WIDTH).after(rows[None], p[None], counted[None], torch.ones(1), 1.0)
    assert found.frames == 10
    torch.testing.assert_close(found.mean[0, 0].float(), rows[:10].mean(0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.shown.float().sum(), torch.tensor(10.0), atol=2e-2, rtol=0)
