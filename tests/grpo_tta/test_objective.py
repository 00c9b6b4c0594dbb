"""The algebra of advantages and of the clipped surrogate, and what follows from it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo_tta.objective import advantages, clipped_surrogate, group_weights, kl_divergence, policy_loss
from grpo_tta.policy import entropy, top_group
from grpo_tta.rewards import of_group, probability_dispersion


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def first_step(logits: Tensor, group: Tensor, advantage: Tensor, clip: float = 0.2) -> Tensor:
    """Gradient of the loss in the logits, at ratio 1."""
    logits = logits.clone().requires_grad_()
    log_policy = logits.log_softmax(-1)
    old = log_policy.detach()
    loss = policy_loss(log_policy, old, old, group, advantage, clip=clip, kl=0.0)
    return torch.autograd.grad(loss.sum(), logits)[0]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.sampled_from(["centred", "zscore"]))
def test_advantages_of_a_group_sum_to_zero(rewards: list[float], kind: str) -> None:
    assert advantages(torch.tensor(rewards, dtype=torch.float64), kind).sum().abs() < 1e-6


def test_zscored_advantages_have_deviation_one_and_centred_keep_their_scale() -> None:
    rewards = random(4, 10)
    assert advantages(rewards, "zscore").square().mean(-1).sqrt() == pytest.approx(torch.ones(4), abs=1e-4)
    torch.testing.assert_close(advantages(3 * rewards, "centred"), 3 * advantages(rewards, "centred"))


def test_fact_1_first_step_pushes_group_logits_by_their_advantages_and_no_other_class() -> None:
    logits = random(5, 20)
    group = top_group(logits.log_softmax(-1), 6)
    advantage = advantages(random(5, 6, seed=1), "centred")
    gradient = first_step(logits, group, advantage)
    expected = torch.zeros_like(logits).scatter(-1, group, -advantage / 6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
    renormalised = logits.gather(-1, group)
    places = torch.arange(6).expand(5, 6)
    torch.testing.assert_close(
        gradient.gather(-1, group), first_step(renormalised, places, advantage), atol=1e-6, rtol=1e-4
    )


def test_fact_2_one_candidate_gives_no_gradient_and_two_count_by_order_alone() -> None:
    alone = advantages(random(3, 1), "zscore")
    assert torch.equal(alone, torch.zeros(3, 1))
    assert not first_step(random(3, 8), torch.zeros(3, 1, dtype=torch.int64), alone).any()
    pairs = torch.tensor([[0.9, 0.1], [0.50, 0.49], [1.0, 7.0]])
    torch.testing.assert_close(
        advantages(pairs, "zscore"), torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]), atol=1e-3, rtol=0
    )


def test_fact_3_a_reward_that_follows_the_views_own_logits_only_sharpens_it() -> None:
    logits = random(6, 12)
    old = logits.log_softmax(-1)
    group = top_group(old, 5)
    advantage = advantages(of_group(old.exp(), group), "zscore")
    assert (advantage.diff(dim=-1) <= 0).all(), "the order of the advantages is the policy's own"
    moved = logits - 0.5 * first_step(logits, group, advantage)
    assert (moved.argmax(-1) == logits.argmax(-1)).all()
    assert (entropy(moved.gather(-1, group).softmax(-1)) < entropy(logits.gather(-1, group).softmax(-1))).all()


def test_fact_4_probability_dispersion_is_vacuous_beside_the_same_views_probability() -> None:
    old = random(4, 9).softmax(-1)
    group = top_group(old.log(), 5)
    alignment = of_group(old, group)
    for weight in (0.1, 0.5, 0.9):
        total = alignment + weight * probability_dispersion(of_group(old, group))
        torch.testing.assert_close(advantages(total, "zscore"), advantages(alignment, "zscore"), atol=1e-3, rtol=1e-3)
    consensus = of_group(random(4, 9, seed=5).softmax(-1), group)
    total = consensus + 0.5 * probability_dispersion(of_group(old, group))
    assert not torch.allclose(advantages(total, "zscore"), advantages(consensus, "zscore"), atol=1e-2)


def test_fact_5_a_reward_constant_in_the_group_is_erased() -> None:
    rewards = random(4, 6)
    for kind in ("centred", "zscore"):
        shifted = rewards - 0.75 * random(4, 1, seed=2)
        torch.testing.assert_close(advantages(shifted, kind), advantages(rewards, kind), atol=1e-5, rtol=1e-4)


def test_fact_6_the_clip_spares_a_confident_favourite_and_stops_suppression() -> None:
    def slope(old: float, new: float, advantage: float) -> float:
        log_new = torch.tensor([new]).log().requires_grad_()
        value = clipped_surrogate(log_new - torch.tensor([old]).log(), torch.tensor([advantage]), 0.2)
        return float(torch.autograd.grad(value, log_new)[0])

    assert slope(0.9, 1.0, 1.0) > 0, "1 / 0.9 stays inside the clip"
    assert slope(0.1, 0.2, 1.0) == 0, "a rare favourite is stopped at 1.2 times"
    assert slope(0.1, 0.07, -1.0) == 0, "suppression stops at 0.8 times"
    assert slope(0.1, 0.09, -1.0) < 0


def test_kl_is_exact_and_zero_for_the_same_policy() -> None:
    policy, reference = random(3, 7).log_softmax(-1), random(3, 7, seed=1).log_softmax(-1)
    expected = torch.nn.functional.kl_div(reference, policy, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(kl_divergence(policy, reference), expected)
    torch.testing.assert_close(kl_divergence(policy, policy), torch.zeros(3))


def test_kl_pulls_the_loss_towards_the_frozen_policy() -> None:
    logits = random(2, 6).requires_grad_()
    policy, reference = logits.log_softmax(-1), random(2, 6, seed=1).log_softmax(-1)
    group, nothing = torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2)
    loss = policy_loss(policy, policy.detach(), reference, group, nothing, clip=0.2, kl=0.5).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    moved = (logits - 0.1 * gradient).log_softmax(-1)
    assert (kl_divergence(moved, reference) < kl_divergence(policy, reference)).all()


def test_weights_of_the_policy_are_its_probabilities_within_the_group() -> None:
    log_old = random(3, 8).log_softmax(-1)
    group = log_old.topk(4).indices
    chosen = log_old.gather(-1, group).exp()
    weights = group_weights(log_old.gather(-1, group), "policy")
    torch.testing.assert_close(weights, chosen / chosen.sum(-1, keepdim=True))
    torch.testing.assert_close(group_weights(chosen.log(), "uniform"), torch.full((3, 4), 0.25, dtype=chosen.dtype))


@pytest.mark.parametrize("kind", ["centred", "zscore"])
def test_advantages_sum_to_zero_by_their_weights(kind: str) -> None:
    weights = random(5, 6, seed=2).softmax(-1)
    assert (weights * advantages(random(5, 6, seed=1), kind, weights)).sum(-1).abs().max() < 1e-6


def test_the_weighted_surrogate_is_the_expectation_over_draws_of_the_policy() -> None:
    """Of every candidate as often as the policy draws it: the same as a group with candidates repeated."""
    ratio, advantage = torch.tensor([[0.1, -0.3]]), torch.tensor([[0.5, -1.0]])
    repeated = clipped_surrogate(ratio[:, [0, 0, 0, 1]], advantage[:, [0, 0, 0, 1]], 0.2)
    torch.testing.assert_close(clipped_surrogate(ratio, advantage, 0.2, torch.tensor([[0.75, 0.25]])), repeated)
