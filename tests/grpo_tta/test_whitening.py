"""The similarity in the metric of a stream's own features: its algebra, and how sure it is."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta import Classifier
from grpo_tta.whitening import Metric, Moments, Similarity, metric_of, sharper, unexplained, unit_rows, weight

WIDTH, CLASSES = 12, 9
ONE = torch.ones(1)
NOTHING = torch.zeros(1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def squeezed(count: int = 200) -> Tensor:
    """Features with a mean of their own and a few large directions."""
    return 0.5 + 0.2 * drawn(count, WIDTH) @ torch.diag(torch.linspace(0.1, 3, WIDTH)) @ drawn(WIDTH, WIDTH, seed=1)


def moments_of(features: Tensor, rank: int = WIDTH) -> Moments:
    return Moments.empty(WIDTH, rank).after(features[None], torch.ones(1, len(features)), 1.0)


def covariance(moments: Moments) -> Tensor:
    directions = unit_rows(moments.factor[0])
    return directions.T @ (moments.energies[0][:, None] * directions) + moments.rest * torch.eye(WIDTH)


def cosines(metric: Metric, features: Tensor) -> Tensor:
    """Of features ``[n, D]`` of one stream."""
    return metric.cosines(features[:, None], torch.zeros(len(features), dtype=torch.int64))[:, 0]


def vectors() -> Tensor:
    return F.normalize(drawn(CLASSES, WIDTH, seed=2), dim=-1)


def test_moments_are_mean_and_covariance_however_the_frames_came() -> None:
    features, weights = squeezed(), torch.rand(200, generator=torch.Generator().manual_seed(3))
    moments, fading = Moments.empty(WIDTH, WIDTH), Moments.empty(WIDTH, WIDTH)
    for part in torch.arange(200).split(16):
        moments = moments.after(features[None, part], weights[None, part], 1.0)
        fading = fading.after(features[None, part], weights[None, part], 0.9)
    ages = 0.9 ** (12 - torch.arange(200) // 16)
    for found, count in ((moments, weights), (fading, weights * ages)):
        mean = count @ features / count.sum()
        expected = (features - mean).T @ (count[:, None] * (features - mean)) / count.sum()
        assert found.mass == pytest.approx(float(count.sum()), rel=1e-5)
        torch.testing.assert_close(found.mean[0], mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(covariance(found), expected, atol=2e-2 * float(expected.max()), rtol=0)
        gram = unit_rows(found.factor[0]) @ unit_rows(found.factor[0]).T
        torch.testing.assert_close(gram, torch.eye(WIDTH), atol=3e-2, rtol=0)


def test_a_low_rank_keeps_the_largest_directions_and_the_whole_variance() -> None:
    whole, low = moments_of(squeezed()), moments_of(squeezed(), rank=3)
    assert low.factor.shape == (1, 3, WIDTH)
    torch.testing.assert_close(covariance(low).trace(), covariance(whole).trace(), atol=0, rtol=2e-3)
    torch.testing.assert_close(low.factor, whole.factor[:, :3], atol=1, rtol=0)
    torch.testing.assert_close(low.energies, whole.energies[:, :3])


def test_the_metric_is_the_written_one() -> None:
    features, moments, share = squeezed(), moments_of(squeezed()), torch.tensor([0.7])
    inverse = torch.linalg.inv(covariance(moments) + 6 * covariance(moments).diagonal().mean() * torch.eye(WIDTH))
    whole = 0.7 * inverse / inverse.diagonal().mean() + 0.3 * torch.eye(WIDTH)
    x, t = features - 0.7 * moments.mean, vectors() - 0.7 * vectors().mean(0)
    lengths = [((y @ whole) * y).sum(1).sqrt() for y in (x, t)]
    expected = x @ whole @ t.T / lengths[0][:, None] / lengths[1]
    torch.testing.assert_close(cosines(metric_of(moments, share, vectors()), features), expected, atol=1e-3, rtol=0)


def test_a_weight_of_nothing_is_the_plain_cosine() -> None:
    features = F.normalize(squeezed(), dim=-1)
    for moments in (moments_of(features), Moments.empty(WIDTH)):
        torch.testing.assert_close(cosines(metric_of(moments, NOTHING, vectors()), features), features @ vectors().T)


def test_equal_variance_everywhere_stretches_nothing() -> None:
    moments = Moments(
        torch.tensor([1e3]), drawn(1, WIDTH), torch.zeros(1, 4, WIDTH, dtype=torch.int8), torch.zeros(1, 4), ONE
    )
    metric = metric_of(moments, ONE, vectors())
    assert not metric.stretch.any()
    x, t = squeezed() - moments.mean, vectors() - vectors().mean(0)
    torch.testing.assert_close(cosines(metric, squeezed()), F.normalize(x, dim=-1) @ F.normalize(t, dim=-1).T)


def test_a_common_shift_and_a_common_scale_of_all_features_change_nothing() -> None:
    features = squeezed()
    expected = cosines(metric_of(moments_of(features), ONE, vectors()), features)
    for moved in (features + 3 * drawn(WIDTH, seed=5), 0.2 * features, 0.1 * features + 1):
        metric = metric_of(moments_of(moved), ONE, vectors())
        torch.testing.assert_close(cosines(metric, moved), expected, atol=2e-3, rtol=2e-3)


def test_it_is_differentiable_in_features() -> None:
    features = squeezed(5).requires_grad_()
    cosines(metric_of(moments_of(squeezed()), ONE, vectors()), features).sum().backward()
    assert features.grad is not None
    assert bool(torch.isfinite(features.grad).all())
    assert features.grad.any()


def test_one_class_or_no_frame_tells_nothing_and_many_of_both_everything() -> None:
    assert weight(torch.tensor(1e6), torch.zeros(())) == 0
    assert weight(torch.zeros(()), ONE) == 0
    assert weight(torch.tensor(50.0), ONE) == pytest.approx(0.5)
    assert weight(torch.tensor(1e6), torch.tensor(0.25)) == pytest.approx(0.25, abs=1e-3)


def test_what_a_prediction_explains_is_a_quarter_of_its_class_vector_offset() -> None:
    features, certain = squeezed(CLASSES), torch.eye(CLASSES)
    expected = features - (vectors() - vectors().mean(0)) / 4
    torch.testing.assert_close(unexplained(features, certain, vectors()), expected)
    flat = torch.full((CLASSES, CLASSES), 1 / CLASSES)
    torch.testing.assert_close(unexplained(features, flat, vectors()), features)


def test_a_similarity_of_nothing_is_the_frozen_encoder(classifiers) -> None:  # type: ignore[no-untyped-def]
    classifier: Classifier = classifiers(logit_bias=-7.0)
    width = classifier.class_vectors.shape[1]
    features = F.normalize(drawn(20, width), dim=-1)
    owner = torch.zeros(20, dtype=torch.int64)
    found = Similarity.empty(width).log_probabilities(features[:, None], owner, NOTHING, classifier)[:, 0].exp()
    torch.testing.assert_close(found, classifier.probabilities(features))


@pytest.mark.parametrize("scale", [20.0, 30.0, 100.0])
def test_predictions_become_as_sure_as_the_frozen_ones_whatever_the_scale(classifiers, scale: float) -> None:  # type: ignore[no-untyped-def]
    classifier: Classifier = classifiers(logit_scale=scale)
    vectors, width = classifier.class_vectors, classifier.class_vectors.shape[1]
    similarity, counted, share = Similarity.empty(width), torch.ones(1, 16), torch.tensor([0.8])
    owner = torch.zeros(1, dtype=torch.int64)
    means = []
    for window in range(150):
        noise = drawn(16, width, seed=window) / math.sqrt(width)
        features = F.normalize(0.8 + 0.5 * vectors[torch.arange(16) % len(vectors)] + noise, dim=-1)[None]
        plain = classifier.probabilities(features)
        probabilities = similarity.log_probabilities(features, owner, share, classifier).exp()
        similarity = similarity.after(features, probabilities, plain, counted, classifier, 0.98)
        means.append([float(torch.special.entr(p).sum(2).mean()) for p in (probabilities, plain)])
    ours, theirs = torch.tensor(means[-30:]).mean(0).tolist()
    assert ours == pytest.approx(theirs, abs=0.05)
    assert abs(float(similarity.log_sharpness)) > 0.1


def test_sharpness_goes_up_where_predictions_are_less_sure_and_rows_that_do_not_count_do_not() -> None:
    flat, certain = torch.full((1, 4, 5), 0.2), torch.eye(5)[None, :4]
    zero, counted = NOTHING, torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert sharper(zero, flat, certain, counted) == pytest.approx(0.3 * math.log(5))
    assert sharper(zero, certain, flat, counted) == pytest.approx(-0.3 * math.log(5), rel=1e-4)
    assert sharper(zero, torch.cat([certain[:, :2], flat[:, :2]], 1), certain, counted) == 0
    assert sharper(torch.tensor([2.9]), flat, certain, counted) == 3.0


@pytest.mark.parametrize("classes", [10, 1_000, 20_000])
def test_sharpness_settles_however_many_classes_there_are(classes: int) -> None:
    logits, log_sharpness = 3 * drawn(1, 16, classes, seed=7), NOTHING
    plain, seen = (0.6 * logits).softmax(-1), []
    for _ in range(60):
        log_sharpness = sharper(log_sharpness, (log_sharpness.exp() * logits).softmax(-1), plain, torch.ones(1, 16))
        seen.append(float(log_sharpness))
    assert seen[-1] == pytest.approx(math.log(0.6), abs=0.02)
    assert max(seen[-5:]) - min(seen[-5:]) < 0.01
