"""Tiny random classifiers, large enough to hold every kind of layer that is tuned."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from timm.layers import BatchNormAct2d, GroupNormAct, LayerNorm2d
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from grpo_tta import Batch, Classifier, PreprocessCfg

SIZE = 32
WIDTH = 32
CLASSES = 24
SMALL_CONFIG: dict[str, Any] = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear", "resize_mode": "squash"}


class TinyHybrid(nn.Module):
    """Convolutions with every sort of channel norm, then a transformer block: what timm towers are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4, bias=False)
        self.bn1 = BatchNormAct2d(16)
        self.conv = nn.Conv2d(16, 32, 2, stride=2)
        self.gn = GroupNormAct(32, group_size=8)
        self.ln2d = LayerNorm2d(32)
        self.block = Block(32, 4, qkv_bias=True)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ln2d(self.gn(self.conv(self.bn1(self.stem(x)))))
        x = self.block(x.flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))


def randomise(module: nn.Module) -> nn.Module:
    """Weights with some life: affine parts that are not one and zero, running statistics that are not either."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim <= 1 and "logit" not in name:
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
    return module


def make_classifier(visual: nn.Module, classes: int = CLASSES, **options: Any) -> Classifier:
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(classes, WIDTH, generator=generator)
    preprocess = PreprocessCfg.from_open_clip({"size": SIZE, **PREPROCESS})
    names = [f"thing {number}" for number in range(classes)]
    return Classifier(visual, names, vectors, preprocess, **{"logit_scale": 30.0, **options})


def make_batch(images: int, start: int = 0, size: int = SIZE) -> Batch:
    """Blobs of colour; image ``i`` depends on ``start + i`` alone."""
    canvases = []
    for number in range(start, start + images):
        generator = torch.Generator().manual_seed(number)
        coarse = torch.rand(1, 3, 4, 4, generator=generator) * 255
        canvases.append(nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")[0].to(torch.uint8))
    return Batch(torch.stack(canvases), torch.arange(start, start + images) * 7919 + 1)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and lose much where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def vit() -> Classifier:
    model = seeded(lambda: open_clip.CLIP(**SMALL_CONFIG))
    return make_classifier(randomise(model).visual)


@pytest.fixture(scope="session")
def hybrid() -> Classifier:
    return make_classifier(randomise(seeded(TinyHybrid)))


@pytest.fixture(params=["vit", "hybrid"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def batches() -> Callable[..., Batch]:
    return make_batch


@pytest.fixture(scope="session")
def classifiers() -> Callable[..., Classifier]:
    """Make a classifier over a fresh hybrid tower."""

    def make(classes: int = CLASSES, **options: Any) -> Classifier:
        return make_classifier(randomise(seeded(TinyHybrid)), classes, **options)

    return make


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as open_clip saves one."""
    folder = tmp_path_factory.mktemp("small-clip")
    model = seeded(lambda: open_clip.CLIP(**SMALL_CONFIG))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": SMALL_CONFIG, "preprocess_cfg": {"size": SIZE, **PREPROCESS}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder
