"""Pictures with structure, and their encoded bytes."""

import io

import numpy as np
from PIL import Image


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    width, height = size
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
