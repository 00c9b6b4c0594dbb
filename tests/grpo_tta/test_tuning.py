"""Presets: which tensors they choose on which towers, and per-image fast weights in one forward."""

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grpo_tta import Batch, Classifier, GrpoSettings, ModelError
from grpo_tta.per_image import PerImageTower
from grpo_tta.tuning import FastWeights, attention_weights, norm_tensors

Batches = Callable[..., Batch]
Classifiers = Callable[..., Classifier]
PRESETS = ("norm", "lora", "full")


def fast(classifier: Classifier, tune: Any, **changes: Any) -> FastWeights:
    return FastWeights(classifier.visual, GrpoSettings(tune=tune, **changes))


def perturbed(weights: FastWeights, images: int, scale: float = 0.05) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return weights.start + scale * torch.randn(images, weights.size, generator=generator)


def test_norm_of_a_vit_is_its_layer_norms(vit: Classifier) -> None:
    names = set(norm_tensors(vit.visual))
    blocks = [f"transformer.resblocks.{block}.ln_{number}" for block in (0, 1) for number in (1, 2)]
    assert names == {f"{layer}.{kind}" for layer in ["ln_pre", "ln_post", *blocks] for kind in ("weight", "bias")}


def test_norm_of_a_hybrid_is_every_sort_of_norm_and_no_running_statistics(hybrid: Classifier) -> None:
    names = set(norm_tensors(hybrid.visual))
    layers = ["bn1", "gn", "ln2d", "block.norm1", "block.norm2", "norm"]
    assert names == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto", "convnextv2_atto", "resnet10t"])
def test_norm_of_timm_towers_is_of_channel_vectors(name: str) -> None:
    tensors = norm_tensors(timm.create_model(name))
    assert all(tensor.ndim == 1 for tensor in tensors.values())
    assert not any("running" in tensor or "grn" in tensor for tensor in tensors)


def test_norm_of_clips_own_resnet_is_batch_norm() -> None:
    tower = open_clip.modified_resnet.ModifiedResNet([1, 1, 1, 1], 32, 4, image_size=32, width=16)
    tensors = norm_tensors(tower)
    assert {"bn1.weight", "bn1.bias", "layer1.0.downsample.1.bias"} <= set(tensors)
    assert len(tensors) == 2 * sum(isinstance(module, nn.BatchNorm2d) for module in tower.modules())


def test_lora_takes_the_last_blocks_and_starts_as_the_frozen_tower(vit: Classifier) -> None:
    assert list(attention_weights(vit.visual, 1)) == ["transformer.resblocks.1.attn"]
    weights = fast(vit, "lora", lora_rank=4)
    assert weights.size == 2 * 4 * (64 + 192)
    for name, tensor in weights.overrides(weights.start).items():
        assert torch.equal(tensor, vit.visual.get_parameter(name))


def test_lora_is_w_plus_b_a(hybrid: Classifier) -> None:
    weights = fast(hybrid, "lora", lora_rank=3)
    theta = perturbed(weights, 1)[0]
    pieces = weights.pieces(theta)
    expected = hybrid.visual.block.attn.qkv.weight + pieces["block.attn.qkv.lora_B"] @ pieces["block.attn.qkv.lora_A"]
    torch.testing.assert_close(weights.overrides(theta)["block.attn.qkv.weight"], expected)


def test_full_is_every_parameter(classifier: Classifier) -> None:
    assert fast(classifier, "full").size == sum(parameter.numel() for parameter in classifier.visual.parameters())


def test_towers_without_what_a_preset_needs_are_refused_with_the_way_out() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False))
    with pytest.raises(ModelError, match=r"no normalisation layer .* use tune 'lora'$"):
        FastWeights(plain, GrpoSettings())
    with pytest.raises(ModelError, match=r"no attention .* use tune 'norm'$"):
        FastWeights(plain, GrpoSettings(tune="lora"))


@pytest.mark.parametrize("tune", PRESETS)
def test_overrides_are_differentiable_in_theta_alone(classifier: Classifier, batches: Batches, tune: str) -> None:
    weights = fast(classifier, tune)
    theta = perturbed(weights, 1)[0].requires_grad_()
    pixels = classifier.normalise(batches(2).canvases)
    (gradient,) = torch.autograd.grad(classifier.features(pixels, weights.overrides(theta))[:, 0].sum(), theta)
    assert gradient.shape == theta.shape
    assert gradient.any()
    assert all(parameter.grad is None for parameter in classifier.visual.parameters())


@pytest.mark.parametrize("tune", PRESETS)
def test_images_together_are_images_one_by_one_with_their_gradients(
    classifier: Classifier, batches: Batches, tune: str
) -> None:
    weights = fast(classifier, tune)
    tower = PerImageTower(classifier, weights)
    assert tower.batched == (tune != "full")
    pixels = classifier.normalise(batches(6).canvases).view(3, 2, 3, 32, 32)
    theta = perturbed(weights, 3).requires_grad_()
    features = tower.features(pixels, theta)
    (together,) = torch.autograd.grad(features.square()[..., :5].sum(), theta)
    for image in range(3):
        own = theta[image].detach().requires_grad_()
        alone = classifier.features(pixels[image], weights.overrides(own))
        torch.testing.assert_close(features[image], alone, atol=2e-5, rtol=1e-4)
        (gradient,) = torch.autograd.grad(alone.square()[:, :5].sum(), own)
        torch.testing.assert_close(together[image], gradient, atol=2e-5, rtol=1e-3)


class OddNorm(nn.Module):
    """Called a norm, holds a weight, and is not affine in it: nothing that could be done per image by scaling."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (32,)).pow(3) * self.weight.square()


def test_a_layer_that_cannot_be_batched_is_noticed_and_goes_one_by_one(
    classifiers: Classifiers, batches: Batches
) -> None:
    base = classifiers()
    base.visual.norm = OddNorm()
    odd = Classifier(base.visual, base.class_names, base.class_vectors, base.preprocess, logit_scale=30.0)
    weights = fast(odd, "norm")
    tower = PerImageTower(odd, weights)
    assert not tower.batched
    pixels = odd.normalise(batches(2).canvases)[:, None]
    theta = perturbed(weights, 2)
    expected = odd.features(pixels[1], weights.overrides(theta[1]))
    torch.testing.assert_close(tower.features(pixels, theta)[1], expected)
