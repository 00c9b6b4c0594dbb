"""A random classifier small enough to adapt in milliseconds, and images for it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from grpo_tta import Classifier, PreprocessCfg
from grpo_tta.adapters.events import ImageRef, seed_of
from grpo_tta.adapters.images import Repaired

SIZE = 16
WIDTH = 16
CLASSES = tuple(f"thing {number}" for number in range(8))


class TinyTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 4, stride=4)
        self.norm = nn.LayerNorm(16)
        self.hidden = nn.Linear(16, 32)
        self.norm2 = nn.LayerNorm(32)
        self.head = nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x).flatten(2).transpose(1, 2))
        x = self.norm2(torch.relu(self.hidden(x)))
        return self.head(x.mean(1))


def tiny_classifier(names: Sequence[str] = CLASSES) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        tower, vectors = TinyTower(), torch.randn(len(names), WIDTH)
    preprocess = PreprocessCfg.from_open_clip({"size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3})
    return Classifier(tower.eval(), list(names), vectors, preprocess, logit_scale=20.0)


def blobs(ref: ImageRef, repaired: Repaired | None = None) -> np.ndarray:
    """Blobs of colour, by the id."""
    generator = torch.Generator().manual_seed(seed_of(ref.id))
    coarse = torch.rand(1, 3, 4, 4, generator=generator) * 255
    return nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")[0].to(torch.uint8).numpy()
