"""What the package carries: the model, its classes and their prompts, the pictures. Read from files, never fetched."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

import grpo_tta.demo.tower  # noqa: F401  (open_clip's configuration names the tower)
from grpo_tta.estimate import PACKAGED

__all__ = ["PICTURE_SETS", "accuracy_path", "assets_path", "class_prompts", "load_model", "pictures", "reference_path"]

PICTURE_SETS = ("fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast")
PICTURE_SIZE = 72


def assets_path() -> Path:
    """The folder with the packaged model; ``open_clip`` reads it as ``local-dir:<folder>``."""
    return Path(__file__).with_name("assets")


def reference_path() -> Path:
    """The drift guard's reference for the packaged model: clean frames of the packaged pictures, all classes equal."""
    return assets_path() / "drift_reference.safetensors"


def accuracy_path() -> Path:
    """The accuracy estimate's calibration for the packaged model and the default method: labelled clean frames of the
    packaged pictures, and the development kinds of corruption of them."""
    return PACKAGED


def load_model() -> tuple[open_clip.CLIP, SimpleTokenizer, dict[str, Any]]:
    """The demo model in float32 and evaluation mode, its tokenizer, and its open_clip ``preprocess_cfg``.

    The tokenizer has the first merges of CLIP's own vocabulary: every text has tokens, and texts longer than the
    context are cut at its end as by any open_clip tokenizer.
    """
    folder = assets_path()
    model = open_clip.create_model(f"local-dir:{folder}", precision="fp32").eval()
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    context = config["model_cfg"]["text_cfg"]["context_length"]
    tokenizer = SimpleTokenizer(bpe_path=str(folder / "bpe.txt.gz"), context_length=context)
    return model, tokenizer, open_clip.get_model_preprocess_cfg(model)


@cache
def _classes() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((assets_path() / "classes.json").read_text(encoding="utf-8"))
    return content


def class_prompts() -> dict[str, list[str]]:
    """The prompts of every class by its name, in class order: the label in each template, and with its tags."""
    return {entry["name"]: list(entry["prompts"]) for entry in _classes()["classes"]}


def pictures(set_name: str = "fluent-emoji") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """RGBA pictures ``[N, 72, 72, 4]`` (straight alpha) of one set of ``PICTURE_SETS`` and their class indices ``[N]``.

    Raises ``ValueError`` for a set that is not packaged.
    """
    if set_name not in PICTURE_SETS:
        raise ValueError(f"set_name must be one of {', '.join(PICTURE_SETS)}, got {set_name!r}")
    with Image.open(assets_path() / f"pictures-{set_name}.png") as sheet:
        pixels = np.asarray(sheet)
    side, number = PICTURE_SIZE, len(_classes()["classes"])
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    cells = pixels.reshape(rows, side, columns, side, 4).swapaxes(1, 2).reshape(-1, side, side, 4)
    return np.ascontiguousarray(cells[:number]), np.arange(number, dtype=np.int64)
