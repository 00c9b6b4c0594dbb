"""ZERO, VTE, TPT's loss and RLCF against the plain re-computation, image by image."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo_tta import Batch, Classifier, create_method
from grpo_tta.methods.look import look_by
from grpo_tta.methods.rlcf import Rlcf, RlcfSettings, reinforce
from grpo_tta.methods.tpt_norm import TptNorm, TptNormSettings
from grpo_tta.methods.view_consensus import Vte, VteSettings, Zero, ZeroSettings, vote

Batches = Callable[..., Batch]
Classifiers = Callable[..., Classifier]
VIEWS: dict[str, Any] = {"views": 6, "confident_share": 0.5, "view_min_area": 0.3}


def test_the_published_settings() -> None:
    assert (ZeroSettings().views, ZeroSettings().confident_views, ZeroSettings().view_min_area) == (64, 19, 0.08)
    assert VteSettings().confident_views == TptNormSettings().confident_views == RlcfSettings().confident_views == 6
    assert VteSettings(views=4).confident_views == 1
    settings = RlcfSettings()
    assert (settings.group_size, settings.inner_steps, settings.step_size, settings.weight_decay) == (3, 3, 1e-5, 5e-4)
    assert RlcfSettings(tune="norm").step_size == 1e-3
    assert RlcfSettings(learning_rate=0.5).step_size == 0.5


@pytest.mark.parametrize(
    ("votes", "voters", "expected"),
    [
        ([2, 2, 1, 0, 0], 3, {2: 2 / 3, 1: 1 / 3}),  # no tie: later views do not count
        ([2, 1, 0, 1, 2], 2, {1: 2 / 3, 2: 1 / 3}),  # the first later view for a tied class decides
        ([2, 1, 0, 0, 0], 2, {2: 2 / 3, 1: 1 / 3}),  # none of them: the most confident voter
        ([3, 1, 0, 0, 1], 5, {1: 0.5, 0: 1 / 3, 3: 1 / 6}),  # all vote: the most confident of the tied, not the first
    ],
)
def test_votes_and_ties(votes: list[int], voters: int, expected: dict[int, float]) -> None:
    shares = vote(torch.tensor([votes]), voters, 4)[0]
    torch.testing.assert_close(shares, torch.tensor([expected.get(kind, 0.0) for kind in range(4)]))


def test_zero_lets_the_confident_views_vote(vit: Classifier, batches: Batches) -> None:
    settings = ZeroSettings(**{**VIEWS, "views": 9, "images_at_once": 2})
    batch = batches(12)
    method = Zero(vit, settings)
    prediction, state, report = method.step(batch, method.initial_state())
    look = look_by(settings, vit, batch.canvases, batch.seeds)
    for row, views in enumerate(look.probabilities):
        order = torch.special.entr(views).sum(-1).argsort()
        best = views.argmax(-1)[order]
        counts = torch.bincount(best[:4], minlength=24)
        tied = counts == counts.max()
        if int(tied.sum()) == 1:
            assert torch.equal(prediction.probabilities[row], counts / 4)
        assert bool(tied[prediction.probabilities[row].argmax()])
    assert state == {"frames": 12, "updates": 0}
    assert not report.updates


def test_vte_compares_the_mean_feature_of_the_confident_views(vit: Classifier, batches: Batches) -> None:
    settings, batch = VteSettings(**VIEWS), batches(5)
    prediction = Vte(vit, settings).predict(batch, {"frames": 0, "updates": 0})
    look = look_by(settings, vit, batch.canvases, batch.seeds)
    for row in range(5):
        chosen = torch.special.entr(look.probabilities[row]).sum(-1).argsort()[:3]
        logits = 30.0 * vit.class_vectors @ look.features[row, chosen].mean(0)
        torch.testing.assert_close(prediction.probabilities[row], logits.softmax(-1))


def adapted_alone(
    method: TptNorm | Rlcf, views: Tensor, loss: Callable[[Tensor], Tensor], steps: int, rate: float, decay: float
) -> Tensor:
    """Probabilities of the plain view after AdamW on one image's views; ``loss`` of logits ``[S, C]``."""
    weights, classifier = method.fast_weights, method.classifier
    parameter = nn.Parameter(weights.start.clone())
    optimiser = torch.optim.AdamW([parameter], lr=rate, weight_decay=decay)
    with torch.no_grad():
        entropy = torch.special.entr(classifier.probabilities(classifier.features(views))).sum(-1)
    chosen = views[entropy.argsort()[: method.settings.confident_views]]
    for _ in range(steps):
        optimiser.zero_grad()
        loss(classifier.logits(classifier.features(chosen, weights.overrides(parameter)))).backward()
        optimiser.step()
    with torch.no_grad():
        return classifier.probabilities(classifier.features(views[:1], weights.overrides(parameter)))[0]


def test_tpts_loss_is_the_entropy_of_the_confident_views_mean(classifier: Classifier, batches: Batches) -> None:
    settings = TptNormSettings(**VIEWS, learning_rate=3e-3, inner_steps=2, weight_decay=0.1)
    method, batch = TptNorm(classifier, settings), batches(5)
    prediction, state, report = method.step(batch, method.initial_state())
    look = look_by(settings, classifier, batch.canvases, batch.seeds)

    def loss(logits: Tensor) -> Tensor:
        mean = logits.softmax(-1).mean(0)
        return -(mean * mean.log()).sum()

    for row in range(5):
        expected = adapted_alone(method, look.views[row], loss, 2, 3e-3, 0.1)
        torch.testing.assert_close(prediction.probabilities[row], expected, atol=5e-3, rtol=0)
    assert prediction.frozen is not None
    assert (prediction.probabilities - prediction.frozen).abs().max() > 0.02
    mean = look.trained(look.probabilities).mean(1)
    assert report.updates[0].loss == pytest.approx(float(torch.special.entr(mean).sum(-1).mean()), rel=1e-3)
    assert report.updates[0].reward is None
    assert state == {"frames": 5, "updates": 1}


def test_reinforce_by_hand() -> None:
    logits = torch.tensor([[[2.0, 1.0, 0.0, -9.0]]], requires_grad=True)
    scores = torch.tensor([[[0.5, 0.8, 0.2, 9.0]]])
    loss = reinforce(logits, scores, 3)
    log = logits.detach().log_softmax(-1)[0, 0]
    torch.testing.assert_close(loss[0], -(0.0 * log[0] + 0.3 * log[1] - 0.3 * log[2]) / 3)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient[0, 0], torch.tensor([0.0, -0.1, 0.1, 0.0]))


@pytest.mark.parametrize("tune", ["norm", "full"])
def test_rlcf_draws_again_at_every_step(classifier: Classifier, batches: Batches, tune: str) -> None:
    rate = 3e-3 if tune == "norm" else 1e-4
    settings = RlcfSettings(**VIEWS, tune=tune, learning_rate=rate)  # type: ignore[arg-type]
    method, batch = Rlcf(classifier, settings), batches(3)
    prediction, _, report = method.step(batch, method.initial_state())
    look = look_by(settings, classifier, batch.canvases, batch.seeds)
    rewards = []
    for row in range(3):
        chosen = torch.special.entr(look.probabilities[row]).sum(-1).argsort()[:3]
        scores = (2.5 * look.features[row, chosen] @ classifier.class_vectors.T).clamp_min(0)

        def loss(logits: Tensor, scores: Tensor = scores) -> Tensor:
            group = logits.topk(3, dim=-1).indices
            reward = scores.gather(1, group)
            rewards.append(float(reward.mean()))
            weights = (reward - reward.mean(1, keepdim=True)).flatten()
            pairs = nn.functional.cross_entropy(logits.repeat_interleave(3, dim=0), group.flatten(), reduction="none")
            return (weights * pairs).mean()

        expected = adapted_alone(method, look.views[row], loss, 3, rate, 5e-4)
        torch.testing.assert_close(prediction.probabilities[row], expected, atol=5e-3, rtol=0)
    assert report.updates[0].reward == pytest.approx(sum(rewards[::3]) / 3, rel=1e-3)
    assert report.updates[0].dispersion is None
    assert prediction.frozen is not None
    assert not torch.equal(prediction.probabilities, prediction.frozen)


@pytest.mark.parametrize("name", ["zero", "vte", "tpt-norm", "rlcf"])
def test_an_images_label_is_its_own(name: str, vit: Classifier, batches: Batches) -> None:
    """Order, neighbours and what the stream has seen do not matter; the job's seed does."""
    from grpo_tta import METHODS

    changes = {**VIEWS, **({"tune": "norm"} if name == "rlcf" else {})}
    method, other = (create_method(name, vit, METHODS[name].settings(**changes, seed=seed)) for seed in (0, 1))
    batch = batches(6)
    plain, state, _ = method.step(batch, method.initial_state())
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    mixed = method.step(Batch(batch.canvases[order], batch.seeds[order]), state)[0]
    torch.testing.assert_close(mixed.probabilities, plain.probabilities[order], atol=1e-3, rtol=0)
    assert torch.equal(method.predict(batch, state).probabilities, plain.probabilities)
    assert not torch.allclose(other.predict(batch, state).probabilities, plain.probabilities, atol=1e-3)
