"""Pictures with structure, their encoded bytes, and what is wrong with what they come out as."""

import io

import numpy as np
from PIL import Image

from grpo_tta.adapters.images import CanvasSpec, decode

SIZE = (20, 24)
SAME = CanvasSpec(*SIZE, resize_mode="squash")
ORDERS = ("<", ">")


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    width, height = size
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def wrong(data, expected, within=0, spec=SAME):
    """What is wrong with an image, or None. ``expected``: ``[H, W]`` or ``[H, W, 3]``."""
    try:
        found = decode(data, spec).transpose(1, 2, 0).astype(int)
    except Exception as error:
        return repr(error)
    off = np.abs(found - (expected[..., None] if expected.ndim == 2 else expected).astype(int)).max()
    return None if off <= within else f"off by {off}"


def problems(cases):
    return {name: said for name, *case in cases if (said := wrong(*case)) is not None}
