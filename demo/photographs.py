"""A third tower and real photographs, for measuring alone: neither is shipped, and no setting was chosen with them.

``build/towers/imagenet``: EfficientNet-lite0 as it was trained for ImageNet's 1,000 classes, in a folder as open_clip
reads it. Its class vectors are the rows of its classifier less their mean (``class_vectors.safetensors``), or the means
of those that are of one of the ten things that the photographs show (``ten.safetensors``).

``build/photographs/CLASS/NNN.png``: the first photographs of CIFAR-10's test part, 300 of each class, 32 by 32 pixels;
the pinned package is 139 MB.

    grpo-tta bench --images build/photographs --model local-dir:build/towers/imagenet \
        --class-vectors build/towers/imagenet/ten.safetensors
"""

import io
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from demo.fetch import Package, fetch, packages
from demo.towers import write
from demo.train import imagenet_classifier, imagenet_weights, normalise, vision_config
from grpo_tta.demo.tower import STEM

PHOTOGRAPHS, TOWER = Path("build/photographs"), Path("build/towers/imagenet")
PIXELS, EMBED_DIM = 128, 1280
PER_CLASS = 300
_BATCH = 64
THINGS: dict[str, tuple[int, ...]] = {
    "airplane": (404, 895),
    "automobile": (436, 468, 511, 609, 627, 656, 661, 751, 817),
    "bird": (*range(7, 25), *range(80, 101), *range(127, 147)),
    "cat": tuple(range(281, 288)),
    "deer": (351, 352, 353),
    "dog": tuple(range(151, 269)),
    "frog": (30, 31, 32),
    "horse": (339,),
    "ship": (403, 484, 510, 554, 625, 628, 724, 814, 871, 914),
    "truck": (555, 569, 675, 717, 864, 867),
}
"""What CIFAR-10 shows, in its order, with ImageNet's classes of the same thing; of deer the nearest that it has."""
NAMES = [f"{index} {name}" for index, name in enumerate(IMAGENET_CLASSNAMES)]
"""Of ImageNet's classes; two have names that others have too."""


def photographs_of(package: Package) -> tuple[np.ndarray, list[int]]:
    """Photographs uint8 ``[N, 32, 32, 3]``, a row of one picture each, and their things."""
    picture = package.read("test_batch.png")
    assert picture is not None
    rows = np.array(Image.open(io.BytesIO(picture)).convert("RGB"))
    return rows.reshape(-1, 32, 32, 3), package.member("test_lables.json")


def write_photographs(pictures: np.ndarray, things: list[int]) -> None:
    """The first ``PER_CLASS`` of each thing."""
    for thing, name in enumerate(THINGS):
        folder = PHOTOGRAPHS / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(np.flatnonzero(np.array(things) == thing)[:PER_CLASS]):
            Image.fromarray(pictures[row]).save(folder / f"{number:03d}.png")


def class_vectors() -> tuple[Tensor, Tensor]:
    """Unit vectors of ImageNet's classes ``[1000, D]``, and of the ten things ``[10, D]``."""
    rows = imagenet_classifier()
    thousand = F.normalize(rows - rows.mean(0), dim=1)
    return thousand, F.normalize(torch.stack([thousand[list(of)].mean(0) for of in THINGS.values()]), dim=1)


@torch.no_grad()
def logit_scale(visual: torch.nn.Module, thousand: Tensor, pictures: np.ndarray, things: list[int]) -> float:
    """The scale of 10 to 60 in halves under which the thing that a photograph shows is likeliest, all classes asked."""
    small = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    frames = F.interpolate(small, (PIXELS, PIXELS), mode="bilinear")
    cosines = torch.cat(
        [F.normalize(visual(normalise(some)), dim=1) @ thousand.T for some in torch.split(frames, _BATCH)]
    )
    of = torch.zeros(len(NAMES), len(THINGS))
    for thing, classes in enumerate(THINGS.values()):
        of[list(classes), thing] = 1
    scales: list[float] = np.arange(10, 60, 0.5).tolist()
    truth = torch.tensor(things)
    return min(scales, key=lambda scale: float(F.nll_loss(((scale * cosines).softmax(1) @ of).log(), truth)))


def main() -> None:
    """Write both."""
    (package,) = packages("photographs")
    fetch(package)
    pictures, things = photographs_of(package)
    write_photographs(pictures, things)
    visual = open_clip.timm_model.TimmModel(STEM, EMBED_DIM, PIXELS, "avg", "none").eval()
    visual.trunk.load_state_dict(imagenet_weights())
    thousand, ten = class_vectors()
    others = slice(-1000, None)  # None of those that were written, which are the first.
    scale = logit_scale(visual, thousand, pictures[others], things[others])
    print(f"imagenet: logit scale {scale}")
    vision = vision_config(STEM) | {"image_size": PIXELS, "timm_proj": "none"}
    vectors = {"class_vectors": (NAMES, thousand), "ten": (list(THINGS), ten)}
    write(TOWER, EMBED_DIM, vision, visual, scale, vectors)


if __name__ == "__main__":
    main()
