"""Write ``grpo_tta/demo/assets``: the model, its vocabulary, the classes and the shipped pictures.

Weights are fp16 safetensors under open_clip's names, so that ``open_clip.create_model("local-dir:...")`` reads them.
Only pictures under the MIT licence are shipped, each set as one lossless PNG sheet, class after class, row by row.
"""

import argparse
import gzip
import io
import json
import math
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from demo.data import TEMPLATES, load_concepts, load_set, prompts
from demo.fetch import BUILD
from demo.train import BPE, EMBED_DIM, IMAGE_SIZE, TEXT, vision_config

ASSETS = BPE.parent
MERGES = 2048
SHIPPED = ("fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast")
COLUMNS = 20
PREPROCESS = {
    "size": IMAGE_SIZE,
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}
MAX_MODEL_BYTES, MAX_PICTURE_BYTES = 12_000_000, 3_000_000


def write_vocabulary() -> None:
    """The first merges of CLIP's own byte pair encoding: any text has tokens, if more than with all merges."""
    lines = gzip.decompress(Path(open_clip.tokenizer.default_bpe()).read_bytes()).decode().split("\n")
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
        file.write("\n".join(lines[: 1 + MERGES]).encode())
    BPE.write_bytes(buffer.getvalue())


def write_model(weights: Path) -> None:
    """Checkpoint and configuration."""
    state = torch.load(weights, weights_only=True)
    half = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
        if name != "attn_mask"
    }
    path = ASSETS / "open_clip_model.safetensors"
    save_file(half, path, metadata={"format": "pt"})
    path.chmod(0o644)
    _check_size([path], MAX_MODEL_BYTES)
    model = {"embed_dim": EMBED_DIM, "vision_cfg": vision_config("grpo_tta_hybrid"), "text_cfg": TEXT}
    config = {"model_cfg": model, "preprocess_cfg": PREPROCESS}
    (ASSETS / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_classes() -> None:
    """Names, prompts, tags and group of every class, in class order."""
    classes = [
        {"name": concept.label, "prompts": prompts(concept), "tags": list(concept.tags), "group": concept.group}
        for concept in load_concepts()
        if concept.is_class
    ]
    content = {"templates": list(TEMPLATES), "classes": classes}
    (ASSETS / "classes.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_pictures() -> None:
    """One sheet a shipped set; the number of pictures is the number of classes."""
    paths = []
    for name in SHIPPED:
        drawn = load_set(name)
        if not np.array_equal(drawn.concepts, np.arange(len(drawn.concepts))):
            raise ValueError(f"{name} must have exactly one picture a class, got concepts {drawn.concepts.tolist()}")
        side = drawn.pictures.shape[1]
        rows = math.ceil(len(drawn.pictures) / COLUMNS)
        cells = np.zeros((rows * COLUMNS, side, side, 4), dtype=np.uint8)
        cells[: len(drawn.pictures)] = drawn.pictures
        cells[cells[..., 3] == 0] = 0
        sheet = cells.reshape(rows, COLUMNS, side, side, 4).swapaxes(1, 2).reshape(rows * side, COLUMNS * side, 4)
        paths.append(ASSETS / f"pictures-{name}.png")
        Image.fromarray(sheet).save(paths[-1], optimize=True)
    _check_size(paths, MAX_PICTURE_BYTES)


def _check_size(paths: list[Path], limit: int) -> None:
    size = sum(path.stat().st_size for path in paths)
    names = ", ".join(path.name for path in paths)
    print(f"{names}: {size:,} bytes")
    if size > limit:
        raise ValueError(f"{names} must not exceed {limit:,} bytes together, got {size:,}")


def main() -> None:
    """Write all assets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=BUILD / "scale.pt")
    arguments = parser.parse_args()
    ASSETS.mkdir(parents=True, exist_ok=True)
    write_vocabulary()
    write_model(arguments.weights)
    write_classes()
    write_pictures()


if __name__ == "__main__":
    main()
