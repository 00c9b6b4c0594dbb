"""Groups, confident views, alignment and dispersion: each a small function, each with its algebra."""

import math

import pytest
import torch
from torch import Tensor

from grpo_tta import policy, rewards


def probabilities(*shape: int, seed: int = 0) -> Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def test_top_group_is_the_most_probable_classes_in_order_and_never_more_than_there_are() -> None:
    p = probabilities(4, 3, 8)
    group = policy.top_group(p.log(), 5)
    assert torch.equal(group, p.sort(-1, descending=True).indices[..., :5])
    assert policy.top_group(p.log(), 10).shape == (4, 3, 8)


def test_sampled_groups_have_no_duplicates_and_depend_on_their_own_seed_alone() -> None:
    p = probabilities(6, 2, 12)
    seeds = torch.arange(6)
    group = policy.sampled_group(p.log(), 5, 1.0, seeds)
    assert all(len(set(row.tolist())) == 5 for row in group.flatten(0, 1))
    for row in range(6):
        alone = policy.sampled_group(p[row : row + 1].log(), 5, 1.0, seeds[row : row + 1])
        assert torch.equal(alone[0], group[row])
    assert not torch.equal(group, policy.sampled_group(p.log(), 5, 1.0, seeds + 100))
    assert not torch.equal(group, policy.sampled_group(p.log(), 5, 1.0, seeds, seed=1))


def test_sampled_first_candidates_follow_the_policy() -> None:
    p = torch.tensor([0.6, 0.3, 0.1])
    seeds = torch.arange(20_000)
    first = policy.sampled_group(p.log().expand(20_000, 3), 1, 1.0, seeds)[:, 0]
    shares = torch.bincount(first, minlength=3) / 20_000
    torch.testing.assert_close(shares, p, atol=0.015, rtol=0)


def test_a_low_temperature_samples_the_top_group() -> None:
    p = probabilities(5, 9)
    cold = policy.sampled_group(p.log(), 4, 1e-4, torch.arange(5))
    assert torch.equal(cold, policy.top_group(p.log(), 4))


def test_entropy_is_zero_when_certain_and_one_when_uniform() -> None:
    certain, uniform = torch.eye(4)[:1], torch.full((1, 4), 0.25)
    assert policy.entropy(certain).item() == 0
    assert policy.normalised_entropy(uniform).item() == pytest.approx(1)


def test_confident_views_have_the_lowest_entropy() -> None:
    p = torch.stack(
        [torch.full((4,), 0.25), torch.tensor([0.97, 0.01, 0.01, 0.01]), torch.tensor([0.7, 0.1, 0.1, 0.1])]
    )
    assert policy.confident_views(p[None], 2).tolist() == [[1, 2]]


def test_consensus_is_the_mean_of_the_chosen_views() -> None:
    p = probabilities(2, 4, 5)
    chosen = torch.tensor([[0, 2], [3, 1]])
    torch.testing.assert_close(rewards.consensus(p, chosen)[1], (p[1, 3] + p[1, 1]) / 2)


def test_clip_score_is_never_negative() -> None:
    vectors = torch.eye(3)
    features = torch.tensor([[0.6, 0.8, 0.0], [-1.0, 0.0, 0.0]])
    torch.testing.assert_close(rewards.clip_score(features, vectors), torch.tensor([[1.5, 2.0, 0.0], [0.0, 0.0, 0.0]]))


def test_marginal_dispersion_is_zero_for_a_uniform_marginal_and_falls_with_frequency() -> None:
    uniform = torch.full((50,), 1 / 50)
    torch.testing.assert_close(rewards.marginal_dispersion(uniform), torch.zeros(50), atol=1e-5, rtol=0)
    skewed = torch.linspace(1, 3, 50) / torch.linspace(1, 3, 50).sum()
    reward = rewards.marginal_dispersion(skewed)
    torch.testing.assert_close(reward, -torch.log(50 * skewed))
    assert (reward.diff() < 0).all()


def test_marginal_dispersion_of_a_class_never_seen_is_bounded() -> None:
    marginal = torch.cat([torch.zeros(1), torch.full((99,), 1 / 99)])
    assert rewards.marginal_dispersion(marginal)[0].item() == pytest.approx(math.log(20), rel=1e-3)


def test_runners_up_leave_the_best_class_out() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.0, 0.9], [0.0, 1.0, 0.0]])
    expected = torch.tensor([[0.0, 0.6, 0.4], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(rewards.runner_up(p), expected)


def test_a_stream_of_one_class_does_not_hold_that_class_back() -> None:
    p = torch.full((64, 10), 0.2 / 9)
    p[:, 3] = 0.8
    marginal = rewards.update_marginal(torch.full((10,), 0.1), rewards.runner_up(p).mean(0), 64, 20)
    assert rewards.marginal_dispersion(marginal).argmax() == 3


@pytest.mark.parametrize(
    ("classes", "shown", "expected"),
    [(2, 2, 1.0), (10, 10, 1.0), (10, 3, 1 / 9), (365, 90, 1.0), (365, 365, 1.0), (365, 45, 0.25), (365, 1, 1 / 8100)],
)
def test_a_stream_is_trusted_by_the_number_of_classes_it_shows(classes: int, shown: int, expected: float) -> None:
    sums = torch.zeros(classes)
    sums[:shown] = 7.5
    assert rewards.trust(sums, 90) == pytest.approx(expected, rel=1e-3)


def test_a_stream_of_which_nothing_was_seen_is_not_trusted() -> None:
    assert rewards.trust(torch.zeros(10), 90) == 0.0


def test_marginal_memory_does_not_depend_on_how_frames_are_cut() -> None:
    start, mean = torch.full((4,), 0.25), torch.tensor([0.7, 0.1, 0.1, 0.1])
    whole = rewards.update_marginal(start, mean, 96, 120.0)
    parts = start
    for _ in range(3):
        parts = rewards.update_marginal(parts, mean, 32, 120.0)
    torch.testing.assert_close(whole, parts)
    assert whole.sum().item() == pytest.approx(1)


def test_text_dispersion_prefers_the_odd_one_out() -> None:
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]]), dim=-1)
    group = torch.tensor([[0, 1, 2]])
    reward = rewards.text_dispersion(vectors, group)
    cosines = vectors @ vectors.T
    assert reward[0, 1].item() == pytest.approx(1 - (cosines[1, 0] + cosines[1, 2]).item() / 2)
    assert reward.argmax().item() == 2


def unit(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_feature_dispersion_is_the_mean_over_other_classes_each_counted_once() -> None:
    others, of_others = unit(5, 8), torch.tensor([3, 3, 3, 7, 1])
    seen = torch.tensor([[True] * 5, [True, True, False, True, False], [False, True, True, False, False]])
    features = unit(3, 8, seed=1).requires_grad_()
    found = rewards.feature_dispersion(features, torch.tensor([1, 3, 3]), others[None], of_others[None], seen)
    first = (features[0] @ others[:3].mean(0) + features[0] @ others[3]) / 2
    torch.testing.assert_close(found, torch.stack([-first, -(features[1] @ others[3]), torch.zeros(())]))
    found.sum().backward()
    assert features.grad is not None
    assert not features.grad[2].any()


def test_squeeze_is_the_mean_cosine_of_different_classes_whatever_one_class_shows() -> None:
    features, classes, counted = unit(6, 8), torch.tensor([0, 1, 2, 0, 1, 2]), torch.ones(6)
    pairs = [features[i] @ features[j] for i in range(6) for j in range(6) if classes[i] != classes[j]]
    found, any_pair = rewards.squeeze(features[None], classes[None], counted[None])
    torch.testing.assert_close(found[0], torch.stack(pairs).mean().clamp_min(0))
    assert any_pair == 1
    together = torch.nn.functional.normalize(features + 2, dim=-1)
    few, _ = rewards.squeeze(together[None], classes[None], torch.tensor([[1.0, 1, 0, 0, 0, 0]]))
    torch.testing.assert_close(few[0], together[0] @ together[1])
    assert rewards.squeeze(together[None], torch.zeros(1, 6, dtype=torch.int64), counted[None]) == (0, 0)
    assert rewards.squeeze(
        torch.stack([features[0], -features[0]])[None], torch.tensor([[0, 1]]), torch.ones(1, 2)
    ) == (0, 1)
