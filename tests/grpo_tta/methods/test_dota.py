"""DOTA against loops over frames and classes."""

from collections.abc import Callable

import pytest
import torch
from method_runs import run
from torch import Tensor

from grpo_tta import Batch, Classifier
from grpo_tta.methods.dota import Dota, DotaSettings

Batches = Callable[..., Batch]

WINDOW = 8
EPSILON, SIGMA, ETA, RHO = 0.05, 0.02, 0.03, 0.02


def dota(classifier: Classifier, **changes: float) -> Dota:
    settings = {"epsilon": EPSILON, "sigma": SIGMA, "eta": ETA, "rho": RHO, **changes}
    return Dota(classifier, DotaSettings(update_every=WINDOW, **settings))


def taken_in(means: Tensor, covariance: Tensor, counts: Tensor, features: Tensor, shares: Tensor) -> tuple[Tensor, ...]:
    """Means, covariance and counts after a window, frame by frame and class by class."""
    after, total = counts[:, None] * means, counts.sum() * covariance
    for feature, share in zip(features, shares, strict=True):
        for kind in range(len(means)):
            away = feature - means[kind]
            total = total + share[kind] * torch.outer(away, away)
            after[kind] = after[kind] + share[kind] * feature
    counts_after = counts + shares.sum(0)
    return after / counts_after[:, None], total / counts_after.sum(), counts_after


@pytest.mark.parametrize("size", [24, 5])
def test_dota_is_a_gaussian_a_class_beside_the_encoder(classifier: Classifier, batches: Batches, size: int) -> None:
    method, batch = dota(classifier), batches(24)
    labels, state, _ = run(method, batch, size)
    features = classifier.features(classifier.normalise(batch.canvases))
    means, counts = classifier.class_vectors, torch.ones(24)
    covariance, weights = SIGMA * torch.eye(32), []
    for start in range(0, 24, WINDOW):
        part = features[start : start + WINDOW]
        precision = ((1 - EPSILON) * covariance + EPSILON * torch.eye(32)).inverse()
        weights.append(min(RHO * float(counts.mean()), ETA))
        rows = torch.stack(
            [
                torch.stack([feature @ precision @ mean - mean @ precision @ mean / 2 for mean in means])
                for feature in part
            ]
        )
        expected = (classifier.logits(part) + weights[-1] * rows).softmax(-1)
        torch.testing.assert_close(labels[start : start + WINDOW], expected, atol=1e-3, rtol=0)
        means, covariance, counts = taken_in(means, covariance, counts, part, classifier.probabilities(part))
    assert weights[0] < weights[1] < weights[2] == ETA
    for name, value in (("means", means), ("covariance", covariance), ("counts", counts)):
        torch.testing.assert_close(state[name], value, atol=1e-4, rtol=1e-3)
    assert float(counts.sum()) == pytest.approx(24 + 24)
    assert state["window"].shape == (0, 32)
    assert state["updates"] == 0


def test_a_window_is_kept_until_it_is_full_and_predict_adds_nothing_to_it(vit: Classifier, batches: Batches) -> None:
    method = dota(vit)
    _, state, _ = run(method, batches(13), 13)
    features = vit.features(vit.normalise(batches(5, start=8).canvases))
    torch.testing.assert_close(state["window"], features, atol=1e-5, rtol=0)
    assert torch.equal(method.pull(state, 1.0)["means"], state["means"])
    prediction = method.predict(batches(3, start=13), state)
    labels, after, _ = run(method, batches(3, start=13), 3, state)
    torch.testing.assert_close(prediction.probabilities, labels)
    assert len(state["window"]) == 5
    assert len(after["window"]) == 0
    assert not torch.equal(after["means"], state["means"])


def test_without_a_weight_the_gaussians_say_nothing(vit: Classifier, batches: Batches) -> None:
    for changes in ({"eta": 0.0}, {"rho": 0.0}):
        prediction, _, _ = (method := dota(vit, **changes)).step(batches(20), method.initial_state())
        assert prediction.frozen is not None
        torch.testing.assert_close(prediction.probabilities, prediction.frozen)
