"""What the training sees: concepts, captions, the split of pictures, and augmented batches, all from one seed."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Queue

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from demo.concepts import TRAINING_VENDORS, Concept
from demo.fetch import BUILD
from grpo_tta.demo.scenes import scenes

TEMPLATES = ("an icon of a {}", "a picture of a {}", "a drawing of a {}", "{}")
HELD_OUT = 180
"""So many classes have one training vendor's picture kept out of the training."""
SPLIT_SEED = 20
SPREAD, FLIP = 1.7, 0.4


@dataclass(frozen=True)
class Pictures:
    """uint8 ``[N, 72, 72, 4]`` and the row in the list of concepts of each."""

    pictures: np.ndarray
    concepts: np.ndarray


def load_concepts(name: str = "concepts") -> list[Concept]:
    """As ``demo.render`` wrote them: classes first; or the ``unseen``."""
    entries = json.loads((BUILD / f"{name}.json").read_text())
    return [Concept(**{**e, "tags": tuple(e["tags"]), "vendors": tuple(e["vendors"])}) for e in entries]


def load_set(name: str) -> Pictures:
    """One vendor's pictures."""
    with np.load(BUILD / "pictures" / f"{name}.npz") as arrays:
        return Pictures(arrays["pictures"], arrays["concepts"])


def split(classes: int) -> tuple[Pictures, Pictures]:
    """Training pictures (classes and extras) and held-out pictures of the same vendors: at most one of a class."""
    rng = np.random.Generator(np.random.PCG64(SPLIT_SEED))
    chosen = rng.choice(classes, HELD_OUT, replace=False)
    vendor_of = dict(zip(chosen.tolist(), rng.integers(len(TRAINING_VENDORS), size=HELD_OUT).tolist(), strict=True))
    kept: list[Pictures] = []
    held: list[Pictures] = []
    for number, name in enumerate(TRAINING_VENDORS):
        vendor = load_set(name)
        out = np.array([vendor_of.get(row) == number for row in vendor.concepts.tolist()])
        kept.append(Pictures(vendor.pictures[~out], vendor.concepts[~out]))
        held.append(Pictures(vendor.pictures[out], vendor.concepts[out]))
    return _join(kept), _join(held)


def _join(parts: list[Pictures]) -> Pictures:
    return Pictures(
        np.concatenate([part.pictures for part in parts]), np.concatenate([part.concepts for part in parts])
    )


def prompts(concept: Concept) -> list[str]:
    """The captions of a concept: its label in every template, and its label with its tags."""
    plain = [template.format(concept.label) for template in TEMPLATES]
    return [*plain, ", ".join((concept.label, *concept.tags))]


def batches(
    data: Pictures, classes: int, *, steps: int, size: int, seed: int, share: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """``steps`` batches of float images ``[size, 3, 64, 64]`` in [0, 1] and concept rows; ``share`` of them classes.

    A thread renders ahead: drawing and learning share the two cores.
    """
    queue: Queue[tuple[np.ndarray, np.ndarray, int]] = Queue(maxsize=4)

    def produce() -> None:
        rng = np.random.Generator(np.random.PCG64(seed))
        is_class = data.concepts < classes
        groups = np.flatnonzero(is_class), np.flatnonzero(~is_class)
        first = round(size * share)
        for _ in range(steps):
            rows = np.concatenate(
                [
                    rng.choice(group, n, replace=n > len(group))
                    for group, n in zip(groups, (first, size - first), strict=True)
                ]
            )
            seeds = rng.integers(2**62, size=size)
            frames = scenes(data.pictures, rows, seeds, spread=SPREAD, flip=FLIP)
            queue.put((frames, data.concepts[rows], int(seeds[0])))

    threading.Thread(target=produce, daemon=True).start()
    for _ in range(steps):
        frames, rows, draw = queue.get()
        generator = torch.Generator().manual_seed(draw)
        yield augment(torch.from_numpy(frames).float() / 255, generator), torch.from_numpy(rows)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Training only: turned hues, some grey, mild blur and noise, an erased square; each on a part of the batch."""
    batch = len(images)

    def draw(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator)

    def on(probability: float) -> Tensor:
        return (draw(1, 1, 1) < probability).float()

    images = torch.einsum("bij,bjhw->bihw", _hue_matrices(draw(), draw()), images)
    grey = images.mean(dim=1, keepdim=True)
    images = torch.lerp(images, grey.expand_as(images), on(0.12))
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = torch.lerp(images, soft, on(0.25) * draw(1, 1, 1))
    noise = torch.randn(images.shape, generator=generator)
    images = images + on(0.3) * 0.08 * draw(1, 1, 1) * noise
    images = torch.where(_square(draw(), draw(), images.shape[-1]) * on(0.25) > 0, draw(3, 1, 1), images)
    return images.clamp(0, 1)


def _hue_matrices(turn: Tensor, amount: Tensor) -> Tensor:
    """``[B, 3, 3]``: rotations about the grey axis (mostly small) with a change of saturation."""
    angle = torch.pi * (2 * turn - 1) ** 3
    cos, sin = torch.cos(angle), torch.sin(angle)
    third, cross = torch.full((3, 3), 1 / 3), torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    saturation = 0.6 + 0.8 * amount
    chroma = cos[:, None, None] * (torch.eye(3) - third) + sin[:, None, None] * cross
    return third + saturation[:, None, None] * chroma


def _square(x: Tensor, y: Tensor, size: int) -> Tensor:
    """``[B, 1, size, size]``: 1 in a square of 5/16 of the side at a random place."""
    grid = torch.arange(size)
    side = 5 * size // 16

    def inside(start: Tensor) -> Tensor:
        offset = grid[None] - (start * (size - side)).floor()[:, None]
        return ((offset >= 0) & (offset < side)).float()

    return inside(y)[:, None, :, None] * inside(x)[:, None, None, :]
