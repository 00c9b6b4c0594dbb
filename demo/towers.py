"""A second development tower, so that settings are not fitted to one: ``build/towers/efficientnet``, never shipped.

The demo model's teacher as a model of its own: EfficientNet-lite0 with BatchNorm at 64 pixels, and the vectors that it
learnt as class vectors. It is trained from the same pictures (``demo.train teacher``) if ``build/demo/teacher.pt`` is
missing, its logit scale is fitted on the held-out ones, and it is saved as open_clip reads a folder:

    grpo-tta bench --model local-dir:build/towers/efficientnet \
        --class-vectors build/towers/efficientnet/class_vectors.safetensors
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from demo.data import split
from demo.fetch import BUILD
from demo.pack import PREPROCESS
from demo.train import EMBED_DIM, SEED, Captions, best_scale, load_teacher, normalise, vision_config
from grpo_tta.demo import scenes
from grpo_tta.demo.tower import STEM

FOLDER = Path("build/towers/efficientnet")
_NO_TEXT = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
"""open_clip wants a text tower; nothing is ever encoded by it."""
_LOOKS = 4
_BATCH = 128


@torch.no_grad()
def held_out_cosines(captions: Captions, visual: torch.nn.Module, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines ``[N, C]`` of ``_LOOKS`` frames of every held-out picture, and their classes ``[N]``."""
    _, held = split(captions.classes)
    rows = np.tile(np.arange(len(held.concepts)), _LOOKS)
    frames = torch.from_numpy(scenes(held.pictures, rows, SEED["scale"] + np.arange(len(rows)))).float() / 255
    features = torch.cat([F.normalize(visual(normalise(part)), dim=-1) for part in torch.split(frames, _BATCH)])
    return features @ vectors.T, torch.from_numpy(held.concepts[rows])


def main() -> None:
    """Train what is missing, and write the folder."""
    if not (BUILD / "concepts.json").is_file():
        for step in ("demo.fetch", "demo.render"):
            subprocess.run([sys.executable, "-m", step], check=True)
    if not (BUILD / "teacher.pt").is_file():
        subprocess.run([sys.executable, "-m", "demo.train", "teacher"], check=True)
    captions = Captions()
    teacher = load_teacher(captions)
    vectors = F.normalize(teacher.vectors[: captions.classes], dim=-1)
    cosines, labels = held_out_cosines(captions, teacher.visual, vectors)
    scale = best_scale(cosines, labels)
    accuracy = float((cosines.argmax(1) == labels).float().mean())
    print(f"efficientnet: logit scale {scale}, {100 * accuracy:.1f} % of the held-out pictures' frames right")
    names = [concept.label for concept in captions.concepts[: captions.classes]]
    write(FOLDER, EMBED_DIM, vision_config(STEM), teacher.visual, scale, {"class_vectors": (names, vectors)})


def write(
    folder: Path,
    embed_dim: int,
    vision: dict[str, Any],
    visual: torch.nn.Module,
    scale: float,
    vectors: dict[str, tuple[list[str], Tensor]],
) -> None:
    """A folder as open_clip reads it; beside the model ``NAME.safetensors`` of class names and vectors ``[C, D]``."""
    model = open_clip.CLIP(embed_dim, vision, _NO_TEXT)
    model.visual.load_state_dict(visual.state_dict())
    model.logit_scale.data.fill_(math.log(scale))
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_cfg": {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": _NO_TEXT},
        "preprocess_cfg": PREPROCESS | {"size": vision["image_size"]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name, (classes, rows) in vectors.items():
        metadata = {"class_names": json.dumps(classes, ensure_ascii=False)}
        save_file({"class_vectors": rows.contiguous()}, folder / f"{name}.safetensors", metadata=metadata)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "attn_mask"}
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
