"""Tent, SAR, DeYO and BATCLIP against the plain re-computation of one and two updates."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from method_runs import assert_close, run
from torch import Tensor, nn

from grpo_tta import Batch, Classifier
from grpo_tta.methods.batclip import Batclip, BatclipSettings, class_mean_terms
from grpo_tta.methods.deyo import Deyo, DeyoSettings, shuffled_patches
from grpo_tta.methods.known import Known
from grpo_tta.methods.sar import Sar, SarSettings
from grpo_tta.methods.tent import Tent, TentSettings
from grpo_tta.optimiser import adam, sgd
from grpo_tta.owners import stack
from grpo_tta.tuning import FastWeights, is_norm

Batches = Callable[..., Batch]
Classifiers = Callable[..., Classifier]


def logits_of(classifier: Classifier, weights: FastWeights, theta: Tensor, batch: Batch) -> Tensor:
    return classifier.logits(classifier.features(classifier.normalise(batch.canvases), weights.overrides(theta)))


def entropies(logits: Tensor) -> Tensor:
    probabilities = logits.softmax(-1)
    return -(probabilities * probabilities.log()).sum(-1)


def gradient_of(loss: Tensor, theta: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, theta)
    return gradient


def torch_optimiser(kind: Any, start: Tensor, gradients: list[Tensor], **options: Any) -> Tensor:
    parameter = nn.Parameter(start.clone())
    optimiser = kind([parameter], **options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimiser.step()
    return parameter.detach()


def test_adam_with_decay_and_momentum_are_torchs() -> None:
    start, gradients = torch.randn(50), [torch.randn(50) for _ in range(4)]
    theta, first, second = start, torch.zeros(50), torch.zeros(50)
    moved, velocity = start, torch.zeros(50)
    for step, gradient in enumerate(gradients, start=1):
        theta, first, second = adam(theta, gradient, first, second, step=step, rate=0.1, decay=0.3)
        moved, velocity = sgd(moved, gradient, velocity, rate=0.1, momentum=0.9)
    expected = torch_optimiser(torch.optim.AdamW, start, gradients, lr=0.1, weight_decay=0.3)
    torch.testing.assert_close(theta, expected)
    torch.testing.assert_close(moved, torch_optimiser(torch.optim.SGD, start, gradients, lr=0.1, momentum=0.9))


def test_two_updates_of_tent_are_adam_on_the_mean_entropy(classifier: Classifier, batches: Batches) -> None:
    method = Tent(classifier, TentSettings(update_every=8, learning_rate=1e-2))
    weights = method.fast_weights
    _, state, report = method.step(batches(16), method.initial_state())
    theta, gradients = weights.start.clone(), []
    for start in (0, 8):
        theta.requires_grad_()
        loss = entropies(logits_of(classifier, weights, theta, batches(8, start=start))).mean()
        gradients.append(gradient_of(loss, theta))
        theta = torch_optimiser(torch.optim.Adam, weights.start, gradients, lr=1e-2)
        assert report.updates[start // 8].loss == pytest.approx(loss.item(), rel=1e-3)
    torch.testing.assert_close(state["theta"], theta, atol=2e-4, rtol=0)
    assert report.updates[0].gradient_norm == pytest.approx(float(gradients[0].norm()), rel=1e-3)
    assert report.updates[0].disagreement == 0
    assert report.updates[0].reward is None


def test_whitened_labels_of_tent_are_those_of_its_features_in_their_metric(vit: Classifier, batches: Batches) -> None:
    plain, method = (Tent(vit, TentSettings(update_every=8, similarity=kind)) for kind in ("plain", "whitened"))
    first, state, _ = method.step(batches(24), method.initial_state())
    expected, other, _ = plain.step(batches(24), plain.initial_state())
    assert_close({name: state[name] for name in other}, {**other, "sums": state["sums"]})  # it learns as before
    torch.testing.assert_close(first.probabilities[:8], expected.probabilities[:8], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(first.probabilities[16:], expected.probabilities[16:], atol=1e-3)
    columns = stack([state], torch.device("cpu"))
    later = batches(4, start=24)
    features = vit.features(vit.normalise(later.canvases), method.fast_weights.overrides(columns["theta"][0]))
    served = Known.of(columns).served(features[:, None], torch.zeros(4, dtype=torch.int64), vit)[:, 0].exp()
    torch.testing.assert_close(method.step(later, state)[0].probabilities, served, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(method.predict(later, state).probabilities, served, atol=1e-5, rtol=1e-4)
    assert_close(run(method, batches(24), 3)[1], state)


def test_tent_sharpens_and_a_frame_is_labelled_before_its_own_update(vit: Classifier, batches: Batches) -> None:
    method = Tent(vit, TentSettings(update_every=8, learning_rate=5e-3))
    prediction, _, report = method.step(batches(64), method.initial_state())
    assert prediction.frozen is not None
    torch.testing.assert_close(prediction.probabilities[:8], prediction.frozen[:8], atol=1e-5, rtol=0)
    assert not torch.allclose(prediction.probabilities[8:], prediction.frozen[8:], atol=1e-3)
    assert report.updates[-1].entropy < report.updates[0].entropy / 2


def sar(classifier: Classifier, **changes: Any) -> Sar:
    return Sar(classifier, SarSettings(**{"update_every": 12, "learning_rate": 0.05, **changes}))


def test_one_update_of_sar_is_the_gradient_at_the_perturbed_parameters(
    classifier: Classifier, batches: Batches
) -> None:
    frozen = classifier.probabilities(classifier.features(classifier.normalise(batches(12).canvases)))
    share = float(entropies(frozen.log()).median()) / math.log(24) + 1e-4
    method = sar(classifier, reliable_entropy=share, recovery_entropy=0.0)
    weights, bound = method.fast_weights, share * math.log(24)
    _, state, report = method.step(batches(12), method.initial_state())

    theta = weights.start.clone().requires_grad_()
    first = entropies(logits_of(classifier, weights, theta, batches(12)))
    reliable = first < bound
    assert 0 < int(reliable.sum()) < 12
    gradient = gradient_of(first[reliable].mean(), theta)
    moved = (weights.start + 0.05 * gradient / gradient.norm()).requires_grad_()
    second = entropies(logits_of(classifier, weights, moved, batches(12)))
    still = second[reliable & (second < bound)]
    step = gradient_of(still.mean(), moved)
    torch.testing.assert_close(state["theta"], weights.start - 0.05 * step, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(state["velocity"], step, atol=2e-3, rtol=1e-2)
    assert state["loss_mean"] == pytest.approx(still.mean().item(), rel=1e-3)
    assert report.updates[0].loss == pytest.approx(first[reliable].mean().item(), rel=1e-3)
    assert report.forward_equivalents == 12 * 4 + 3 * int(reliable.sum())


def test_without_a_reliable_frame_only_momentum_moves(vit: Classifier, batches: Batches) -> None:
    method = sar(vit, reliable_entropy=1e-9)
    start = method.initial_state()
    velocity = torch.ones(method.fast_weights.size)
    _, state, report = method.step(batches(12), {**start, "velocity": velocity})
    torch.testing.assert_close(state["velocity"], 0.9 * velocity)
    torch.testing.assert_close(state["theta"], start["theta"] - 0.05 * 0.9 * velocity)
    assert state["loss_mean"] == -1
    assert report.finite


def test_sar_recovers_from_collapse_and_forgets_the_running_mean(vit: Classifier, batches: Batches) -> None:
    method = sar(vit, reliable_entropy=1.0, recovery_entropy=2.0)
    state = {**method.initial_state(), "loss_mean": 0.5}
    _, kept, _ = method.step(batches(11), state)
    assert kept["loss_mean"] == 0.5
    _, state, _ = method.step(batches(1, start=11), kept)
    assert (state["recoveries"], state["loss_mean"], state["updates"]) == (1, -1, 1)
    assert torch.equal(state["theta"], method.initial_state()["theta"])
    assert not state["velocity"].any()
    never = sar(vit, reliable_entropy=1.0, recovery_entropy=0.0)
    _, state, _ = never.step(batches(12), {**never.initial_state(), "loss_mean": 0.5})
    assert state["recoveries"] == 0
    assert 0.45 < state["loss_mean"] < 0.45 + 0.1 * math.log(24)


def test_sar_leaves_the_last_quarter_of_the_norm_layers_alone(classifier: Classifier) -> None:
    norms = [name for name, module in classifier.visual.named_modules() if is_norm(module)]
    tuned = {name.rpartition(".")[0] for name in sar(classifier).fast_weights.names}
    assert tuned == set(norms[: len(norms) - math.ceil(len(norms) / 4)])
    assert len(sar(classifier, skip_last=1.0).fast_weights.names) == 2


def deyo(classifier: Classifier, **changes: Any) -> Deyo:
    return Deyo(classifier, DeyoSettings(**{"update_every": 12, "learning_rate": 2e-3, **changes}))


@pytest.mark.parametrize("size", [12, 5])
def test_two_updates_of_deyo_are_sgd_on_the_weighted_entropy_of_frames_that_hang_on_shapes(
    classifier: Classifier, batches: Batches, size: int
) -> None:
    batch = batches(24)
    pixels = classifier.normalise(batch.canvases)
    frozen, shuffled = (
        classifier.probabilities(classifier.features(seen))
        for seen in (pixels, shuffled_patches(pixels, batch.seeds, 3))
    )
    share = float(entropies(frozen.log()).quantile(0.7)) / math.log(24) + 1e-4
    least = max(float((frozen - shuffled)[range(24), frozen.argmax(1)].quantile(0.4)) + 1e-5, 0.0)
    method = deyo(classifier, reliable_entropy=share, least_drop=least, patches=3, weight_entropy=0.3)
    weights, state, cost = method.fast_weights, method.initial_state(), 0.0
    for start in range(0, 24, size):
        _, state, report = method.step(batches(min(size, 24 - start), start=start), state)
        cost += report.forward_equivalents
    theta, velocity, certain = weights.start, torch.zeros(weights.size), 0
    for start in (0, 12):
        batch = batches(12, start=start)
        theta = theta.detach().requires_grad_()
        logits = logits_of(classifier, weights, theta, batch)
        pixels = shuffled_patches(classifier.normalise(batch.canvases), batch.seeds, 3)
        shuffled = classifier.probabilities(classifier.features(pixels, weights.overrides(theta)))
        terms = []
        for row, entropy in enumerate(entropies(logits)):
            label = int(logits[row].argmax())
            drop = (logits[row].softmax(-1)[label] - shuffled[row, label]).item()
            certain += entropy.item() < share * math.log(24)
            if entropy.item() < share * math.log(24) and drop > least:
                terms.append(entropy * (math.exp(0.3 * math.log(24) - entropy.item()) + math.exp(drop)))
        assert 0 < len(terms) < 12
        velocity = 0.9 * velocity + gradient_of(torch.stack(terms).mean(), theta)
        theta = theta - 2e-3 * velocity
    torch.testing.assert_close(state["theta"], theta.detach(), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(state["velocity"], velocity, atol=1e-3, rtol=1e-2)
    assert cost == 24 * (4 if size == 12 else 5) + certain
    assert len(state["seeds"]) == len(state["window"]) == 0


def test_without_a_frame_to_learn_from_deyo_takes_no_step(vit: Classifier, batches: Batches) -> None:
    for changes in ({"reliable_entropy": 1e-9}, {"reliable_entropy": 1.0, "least_drop": 1.0}):
        method = deyo(vit, **changes)
        start = {**method.initial_state(), "velocity": torch.ones(method.fast_weights.size)}
        _, state, report = method.step(batches(12), start)
        assert torch.equal(state["theta"], start["theta"])
        assert torch.equal(state["velocity"], start["velocity"])
        assert state["updates"] == 1
        assert report.finite


def test_deyo_keeps_the_seeds_of_an_unfinished_window(vit: Classifier, batches: Batches) -> None:
    method = deyo(vit)
    _, state, _ = method.step(batches(17), method.initial_state())
    assert torch.equal(state["seeds"], batches(5, start=12).seeds)
    assert torch.equal(state["window"], batches(5, start=12).canvases)


@pytest.mark.parametrize("size", [16, 18])
def test_patches_are_shuffled_whole_and_by_the_images_own_seed(size: int) -> None:
    pixels = torch.arange(16.0).view(1, 1, 4, 4).repeat(6, 3, 1, 1)
    pixels = nn.functional.interpolate(pixels, (size, size), mode="nearest")
    seeds = torch.arange(6) * 31
    shuffled = shuffled_patches(pixels, seeds, 4)
    assert shuffled.shape == pixels.shape
    assert torch.equal(shuffled_patches(pixels[2:4], seeds[2:4], 4), shuffled[2:4])
    assert torch.equal(shuffled_patches(pixels, seeds, 1), pixels)
    if size == 16:
        orders = shuffled[:, 0, ::4, ::4].flatten(1)
        assert all(sorted(order.tolist()) == [*range(16)] for order in orders)
        assert len({tuple(order.tolist()) for order in orders}) == 6
        blocks = nn.functional.interpolate(orders.view(6, 1, 4, 4), (16, 16), mode="nearest")
        assert torch.equal(blocks.expand(-1, 3, -1, -1), shuffled)


def test_class_mean_terms_by_hand() -> None:
    embeddings = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    matching, separation = class_mean_terms(embeddings, torch.tensor([1, 1, 2]), vectors)
    assert float(matching) == pytest.approx((3 * 0.6 + 3 * 1.0) / 2)
    assert float(separation) == pytest.approx(2.0)  # two ordered pairs, at right angles
    alone, nothing = class_mean_terms(embeddings[:2], torch.tensor([0, 0]), vectors)
    assert float(alone) == pytest.approx(3.0)
    assert float(nothing) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("size", [16, 5])
def test_two_updates_of_batclip_are_adamw_on_its_losses(classifier: Classifier, batches: Batches, size: int) -> None:
    method = Batclip(classifier, BatclipSettings(update_every=16, learning_rate=1e-2, weight_decay=0.5))
    weights, state = method.fast_weights, method.initial_state()
    for start in range(0, 32, size):
        _, state, _ = method.step(batches(min(size, 32 - start), start=start), state)
    theta, gradients = weights.start.clone(), []
    for start in (0, 16):
        theta.requires_grad_()
        pixels = classifier.normalise(batches(16, start=start).canvases)
        embeddings = classifier.embeddings(pixels, weights.overrides(theta))
        logits = classifier.logits(embeddings / embeddings.norm(dim=1, keepdim=True))
        labels = logits.argmax(1)
        means = {label: embeddings[labels == label].mean(0) for label in labels.tolist()}
        matching = sum(mean @ classifier.class_vectors[label] for label, mean in means.items()) / len(means)
        apart = sum(
            1 - torch.cosine_similarity(one, other, dim=0)
            for one in means.values()
            for other in means.values()
            if one is not other
        )
        gradients.append(gradient_of(entropies(logits).mean() - matching - apart, theta))
        theta = torch_optimiser(torch.optim.AdamW, weights.start, gradients, lr=1e-2, weight_decay=0.5)
    torch.testing.assert_close(state["theta"], theta, atol=1e-3, rtol=0)
    assert state["updates"] == 2


def test_a_window_that_begins_late_is_learnt_from_as_it_is(vit: Classifier, batches: Batches) -> None:
    method, short = (Batclip(vit, BatclipSettings(update_every=size)) for size in (8, 3))
    _, state, report = method.step(batches(3), {**method.initial_state(), "frames": 5})
    _, expected, _ = short.step(batches(3), short.initial_state())
    torch.testing.assert_close(state["theta"], expected["theta"], atol=1e-4, rtol=0)
    assert (report.updates[0].frame, report.updates[0].images) == (8, 3)
    assert report.forward_equivalents == 3 * (1 + 1 + 3)


def test_an_unfinished_window_is_kept_and_a_finished_one_is_not(vit: Classifier, batches: Batches) -> None:
    method = Batclip(vit, BatclipSettings(update_every=8))
    _, state, whole = method.step(batches(8), method.initial_state())
    assert len(state["window"]) == 0
    _, state, _ = method.step(batches(5, start=8), state)
    assert torch.equal(state["window"], batches(5, start=8).canvases)
    _, state, parts = method.step(batches(3, start=13), state)
    assert len(state["window"]) == 0
    assert whole.forward_equivalents == 8 * 4
    assert parts.forward_equivalents == 3 * 2 + 8 * 3
    assert [report.updates[0].forward_equivalents for report in (whole, parts)] == [4, 5]
