"""The packaged model: it loads from files alone, keeps its bounds, knows its classes, and its tower is functional."""

import socket

import numpy as np
import open_clip
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from grpo_tta import DriftGuard, GuardSettings, Reference, demo, load_classifier
from grpo_tta.demo.tower import Hybrid

CLEAN_FLOOR = 0.45


@pytest.fixture(scope="module")
def loaded():
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("the demo model must load without a network")

        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield demo.load_model()


@pytest.fixture(scope="module")
def vectors(loaded):
    model, tokenizer, _ = loaded
    prompts = demo.class_prompts()
    with torch.no_grad():
        texts = F.normalize(
            model.encode_text(tokenizer([text for texts in prompts.values() for text in texts])), dim=-1
        )
    return F.normalize(texts.reshape(len(prompts), -1, texts.shape[1]).mean(dim=1), dim=-1)


@pytest.fixture(scope="module")
def images():
    drawn, _ = demo.pictures()
    frames = demo.scenes(drawn, np.arange(8), np.arange(8))
    return (torch.from_numpy(frames).float() / 255 - 0.5) / 0.5


def test_model_is_an_evaluating_float32_clip(loaded):
    model, _, preprocess = loaded
    assert isinstance(model, open_clip.CLIP)
    assert not model.training
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())
    assert preprocess["size"] == (64, 64)
    assert tuple(preprocess["mean"]) == tuple(preprocess["std"]) == (0.5, 0.5, 0.5)


def test_open_clip_loads_the_folder_by_itself(loaded):
    model, *_ = loaded
    again = open_clip.create_model(f"local-dir:{demo.assets_path()}")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_sizes_are_within_their_bounds():
    sizes = {path.name: path.stat().st_size for path in demo.assets_path().iterdir()}
    assert sizes["open_clip_model.safetensors"] <= 12_000_000
    assert sum(size for name, size in sizes.items() if name.startswith("pictures-")) <= 3_000_000


def test_any_text_has_tokens_and_an_embedding(loaded):
    model, tokenizer, _ = loaded
    tokens = tokenizer(["an icon of a cat", "Ωμέγα 漢字 🦑", "", "word " * 100])
    assert tokens.shape == (4, tokenizer.context_length)
    assert int(tokens.max()) < model.vocab_size
    with torch.no_grad():
        embedded = model.encode_text(tokens)
    assert embedded.shape == (4, 256)
    assert torch.isfinite(embedded).all()


def test_prompts_and_pictures_are_in_class_order():
    prompts = demo.class_prompts()
    assert all(name in text for name, texts in prompts.items() for text in texts)
    for name in demo.PICTURE_SETS:
        drawn, labels = demo.pictures(name)
        assert drawn.shape == (len(prompts), 72, 72, 4)
        assert drawn.dtype == np.uint8
        assert labels.tolist() == list(range(len(prompts)))
        assert drawn[..., 3].reshape(len(drawn), -1).any(axis=1).all()


def test_an_unknown_picture_set_is_named():
    with pytest.raises(ValueError, match=r"one of fluent-emoji, .*got 'openmoji'"):
        demo.pictures("openmoji")


def test_labels_clean_frames_of_a_style_it_never_saw(loaded, vectors):
    model, *_ = loaded
    drawn, labels = demo.pictures()
    labels = labels[::3]
    frames = demo.scenes(drawn, labels, np.arange(len(labels)) + 77)
    with torch.no_grad():
        embedded = model.encode_image((torch.from_numpy(frames).float() / 255 - 0.5) / 0.5)
    right = (embedded @ vectors.T).argmax(dim=1).numpy() == labels
    assert right.mean() >= CLEAN_FLOOR


def test_timm_knows_the_tower():
    tower = timm.create_model("grpo_tta_hybrid", num_classes=10, depth=1)
    assert isinstance(tower, Hybrid)
    assert tower(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
    assert timm.create_model("grpo_tta_hybrid", num_classes=0, depth=1)(torch.zeros(1, 3, 64, 64)).shape == (1, 192)
    with pytest.raises(ValueError, match="no timm weights of its own"):
        timm.create_model("grpo_tta_hybrid", pretrained=True)
    with pytest.raises(ValueError, match="img_size must be a multiple of 16, got 60"):
        timm.create_model("grpo_tta_hybrid", img_size=60)
    with pytest.raises(ValueError, match="heads must divide the width 192, got 5"):
        timm.create_model("grpo_tta_hybrid", heads=5)


def _norms(tower: nn.Module) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{kind}": tensor.detach()
        for name, module in tower.named_modules()
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d)
        for kind, tensor in module.named_parameters(recurse=False)
    }


def test_the_tower_has_both_kinds_of_norm(loaded):
    tower = loaded[0].visual
    kinds = [type(module).__mro__ for module in tower.modules()]
    assert sum(nn.LayerNorm in kind for kind in kinds) == 9
    assert any(nn.BatchNorm2d in kind for kind in kinds)
    assert any(name.endswith("attn.qkv") for name, module in tower.named_modules() if isinstance(module, nn.Linear))


def test_gradients_reach_every_norm_through_functional_call(loaded, images):
    tower = loaded[0].visual
    norms = {name: tensor.clone().requires_grad_() for name, tensor in _norms(tower).items()}
    embedded = torch.func.functional_call(tower, norms, (images,))
    assert torch.equal(embedded, tower(images))
    for gradient in torch.autograd.grad(embedded.square().sum(), list(norms.values())):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0


def test_vmap_gives_every_image_its_own_norms(loaded, images):
    tower = loaded[0].visual
    generator = torch.Generator().manual_seed(0)
    norms = {
        name: tensor + 0.02 * torch.randn(len(images), *tensor.shape, generator=generator)
        for name, tensor in _norms(tower).items()
    }

    def loss(own: dict[str, torch.Tensor], image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedded = torch.func.functional_call(tower, own, (image[None],))[0]
        return embedded.square().sum(), embedded

    gradients, together = torch.func.vmap(torch.func.grad(loss, has_aux=True))(norms, images)
    for row in (0, 5):
        own = {name: tensor[row] for name, tensor in norms.items()}
        gradient, alone = torch.func.grad(loss, has_aux=True)(own, images[row])
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)
        for name in ("trunk.norm.weight", "trunk.stem.1.weight"):
            torch.testing.assert_close(gradients[name][row], gradient[name], rtol=1e-2, atol=1e-3)


def test_the_packaged_drift_reference_belongs_to_the_packaged_model() -> None:
    reference = Reference.from_bytes(demo.reference_path().read_bytes())
    classifier = load_classifier()
    assert reference.fingerprint == classifier.fingerprint
    DriftGuard(GuardSettings(), classifier.class_vectors, reference)
