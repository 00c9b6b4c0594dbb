"""Print the packaged model's accuracies: training vendors, pictures held out of them, and the development data.

Nothing else may be measured here: the sets and corruptions kept for a final table stay unseen (``demo/README.md``).
"""

import argparse
import time
from collections.abc import Iterable

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from demo.concepts import TRAINING_VENDORS
from demo.data import Pictures, load_concepts, load_set, prompts, split
from grpo_tta.demo import class_prompts, load_model, pictures, scenes
from grpo_tta.evaluation.corruptions import DEVELOPMENT, corrupt

DEVELOPMENT_SET = "fluent-emoji"
BATCH = 128


@torch.no_grad()
def class_vectors(model: open_clip.CLIP, tokenizer: SimpleTokenizer, by_class: Iterable[list[str]]) -> Tensor:
    """Unit class vectors: the normalised mean over the prompts of each class."""
    vectors = []
    for texts_of_class in by_class:
        texts = F.normalize(model.encode_text(tokenizer(texts_of_class)), dim=-1)
        vectors.append(F.normalize(texts.mean(dim=0), dim=-1))
    return torch.stack(vectors)


@torch.no_grad()
def predict(visual: nn.Module, vectors: Tensor, frames: np.ndarray) -> np.ndarray:
    """Class indices of uint8 frames."""
    found = []
    for part in np.array_split(frames, max(1, len(frames) // BATCH)):
        images = (torch.from_numpy(part).float() / 255 - 0.5) / 0.5
        found.append((visual(images.contiguous(memory_format=torch.channels_last)) @ vectors.T).argmax(dim=1))
    return torch.cat(found).numpy()


class Meter:
    """The packaged model and the frames of its pictures."""

    def __init__(self, views: int) -> None:
        self.views = views
        model, tokenizer, _ = load_model()
        self.vectors = class_vectors(model, tokenizer, class_prompts().values())
        self.unseen = class_vectors(model, tokenizer, map(prompts, load_concepts("unseen")))
        self.visual = model.visual.to(memory_format=torch.channels_last)

    def accuracy(self, drawn: Pictures, kind: str = "fog", severity: int = 0) -> float:
        """Top-1 in percent over ``views`` frames of every picture that shows a class."""
        rows = np.tile(np.flatnonzero(drawn.concepts < len(self.vectors)), self.views)
        seeds = np.arange(len(rows)) + 10**6
        frames = corrupt(scenes(drawn.pictures, rows, seeds), kind, severity, seeds + 10**6)
        return float(100 * np.mean(predict(self.visual, self.vectors, frames) == drawn.concepts[rows]))

    def accuracy_unseen(self) -> float:
        """Top-1 in percent among concepts that are not trained on, drawn by a training vendor."""
        drawn = load_set("unseen")
        rows = np.tile(np.arange(len(drawn.concepts)), self.views)
        frames = scenes(drawn.pictures, rows, np.arange(len(rows)))
        return float(100 * np.mean(predict(self.visual, self.unseen, frames) == drawn.concepts[rows]))

    def milliseconds(self, batch: int) -> float:
        """Median time of a forward an image."""
        images = torch.rand(batch, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        times = []
        with torch.no_grad():
            for _ in range(40):
                start = time.perf_counter()
                self.visual(images)
                times.append(time.perf_counter() - start)
        return 1000 * float(np.median(times)) / batch


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--views", type=int, default=4, help="frames a picture")
    parser.add_argument("--clean-only", action="store_true")
    arguments = parser.parse_args()
    meter = Meter(arguments.views)
    _, held_out = split(len(meter.vectors))
    for name in TRAINING_VENDORS:
        print(f"{name} (all pictures, most of them trained on): {meter.accuracy(load_set(name)):.1f}", flush=True)
    print(f"held-out pictures of training vendors: {meter.accuracy(held_out):.1f}", flush=True)
    development = Pictures(*pictures(DEVELOPMENT_SET))
    print(f"{DEVELOPMENT_SET}, clean: {meter.accuracy(development):.1f}", flush=True)
    for kind in () if arguments.clean_only else DEVELOPMENT:
        figures = [meter.accuracy(development, kind, severity) for severity in range(1, 6)]
        print(f"{DEVELOPMENT_SET}, {kind} 1-5:", *(f"{figure:.1f}" for figure in figures), flush=True)
    chance = 100 / len(meter.unseen)
    print(f"concepts never trained on, {len(meter.unseen)}-way: {meter.accuracy_unseen():.1f} (chance {chance:.1f})")
    print(f"forward at batch 32: {meter.milliseconds(32):.2f} ms an image on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
