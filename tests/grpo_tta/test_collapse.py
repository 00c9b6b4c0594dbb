"""The statistics of a collapse, by hand."""

import math

import pytest
import torch
from torch import Tensor

from grpo_tta.guard import collapse

UNIFORM = torch.full((40,), 1 / 40)


def errors(frozen: Tensor, adapted: Tensor, bias: Tensor) -> Tensor:
    """Sums over the frames ``[2]`` of one stream of bias ``[C]``."""
    return collapse.errors(frozen, adapted, bias[None], torch.zeros(len(frozen), dtype=torch.int64)).sum(0)


def test_the_lost_diversity_is_the_smaller_loss_of_entropy_and_of_mutual_information() -> None:
    one = torch.nn.functional.one_hot(torch.tensor(3), 40).float()
    two = torch.zeros(40).index_fill(0, torch.tensor([0, 5]), 0.5)
    assert collapse.entropy_ratio(UNIFORM) == pytest.approx(1)
    assert collapse.lost_diversity(torch.stack([UNIFORM, one]), torch.zeros(2)) == pytest.approx(1)
    assert collapse.lost_diversity(torch.stack([one, two]), torch.zeros(2)) == pytest.approx(
        -math.log(2) / math.log(40)
    )
    assert collapse.lost_diversity(torch.stack([two, two]), torch.zeros(2)) == 0
    # the frozen encoder spreads each of two classes over all, the adapted one does not: as many are told apart
    sure = torch.tensor([math.log(40) - math.log(2), 0.0])
    assert collapse.lost_diversity(torch.stack([UNIFORM, two]), sure) == pytest.approx(0, abs=1e-6)
    # and one that spreads each of them more tells fewer apart, but its mean is no narrower
    assert collapse.lost_diversity(torch.stack([two, UNIFORM]), sure.flip(0)) < 0


def test_errors_are_those_of_the_labels_by_the_frozen_belief() -> None:
    frozen = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    adapted = torch.tensor([[0.1, 0.8, 0.1], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(errors(frozen, adapted, torch.full((3,), 1 / 3)), torch.tensor([0.3 + 0.4, 0.8 + 0.4]))


def test_a_bias_over_many_classes_is_divided_out_and_one_of_few_is_not() -> None:
    favourite = UNIFORM.clone()
    favourite[0] = 4 / 40
    favourite[1:] = (1 - 4 / 40) / 39
    frozen = UNIFORM.clone()
    frozen[0], frozen[1], frozen[2:] = 0.5, 0.25, 0.25 / 38
    by_plain = errors(frozen[None], frozen.roll(1)[None], UNIFORM)
    by_bias = errors(frozen[None], frozen.roll(1)[None], favourite)
    assert by_plain[0] < by_plain[1]  # of the labels 0 and 1
    assert by_bias[0] > by_bias[1]
    scene = torch.zeros(40).index_fill(0, torch.tensor([0]), 1.0)
    few = errors(frozen[None], frozen.roll(1)[None], scene)
    assert few[0] < few[1]


def test_the_regret_is_a_share_of_the_frozen_error_but_of_no_less_than_three_tenths() -> None:
    assert collapse.regret(torch.tensor([0.5, 0.6])) == pytest.approx(0.2)
    assert collapse.regret(torch.tensor([0.1, 0.16])) == pytest.approx(0.2)
    assert collapse.regret(torch.tensor([0.5, 0.4])) == pytest.approx(-0.2)


def test_the_bias_is_a_mean_of_few_frames_and_a_running_one_of_many() -> None:
    mean = torch.tensor([0.9, 0.1])
    bias = torch.tensor([0.5, 0.5])
    torch.testing.assert_close(collapse.learnt_bias(bias, mean, 32, 96), bias + (mean - bias) * 32 / 96)
    torch.testing.assert_close(
        collapse.learnt_bias(bias, mean, 32, 100_000), bias + (mean - bias) * (1 - math.exp(-32 / 1000))
    )
    for seen in range(96, 32 * 11, 32):  # 64 frames of before and 256 of now
        bias = collapse.learnt_bias(bias, mean, 32, seen)
    torch.testing.assert_close(bias, torch.tensor([0.5, 0.5]) * 64 / 320 + mean * 256 / 320)
