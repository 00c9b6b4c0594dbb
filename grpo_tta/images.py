"""`canvases`: images as people have them to what a model takes, by the decoder that labelling jobs use."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from grpo_tta.adapters.images import Canvas, CanvasSpec, ImageError, UnsupportedPixels, canvas_of, decode
from grpo_tta.classifier import Classifier

Picture = bytes | str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any]
"""An encoded image, the path of one, a Pillow image, or pixels uint8 ``[H, W]`` (grey), ``[H, W, 3]`` (RGB) or
``[H, W, 4]`` (RGBA)."""


def canvases(images: Iterable[Picture], classifier: Classifier) -> Tensor:
    """uint8 ``[B, 3, H, W]``, RGB, of the size that ``classifier`` takes.

    Images are turned by their EXIF data, laid on white where they are transparent, resized and cropped as the model
    wants it. Raises ``OSError`` for a file that cannot be read and `ImageError`, a ValueError, for what is no image;
    both name its place among ``images``.
    """
    if isinstance(images, bytes | str):
        raise TypeError(f"canvases takes several images, got one {type(images).__name__}: give [it]")
    spec = canvas_spec(classifier)
    made = [_canvas(image, place, spec) for place, image in enumerate(images)]
    if not made:
        return torch.empty(0, 3, spec.height, spec.width, dtype=torch.uint8)
    return torch.from_numpy(np.stack(made))


def canvas_spec(classifier: Classifier) -> CanvasSpec:
    """What an image is decoded to for this model."""
    cfg = classifier.preprocess
    return CanvasSpec(cfg.size[0], cfg.size[1], cfg.interpolation, cfg.resize_mode, cfg.fill_color)


def _canvas(image: Picture, place: int, spec: CanvasSpec) -> Canvas:
    try:
        if isinstance(image, Image.Image):
            return canvas_of(image, spec)
        if isinstance(image, np.ndarray):
            return canvas_of(_from_pixels(image), spec)
        if isinstance(image, bytes):
            return decode(image, spec)
        return decode(Path(image).read_bytes(), spec)
    except ImageError as error:
        named = f" ({os.fspath(image)})" if isinstance(image, str | os.PathLike) else ""
        raise type(error)(f"image {place}{named}: {error}") from error
    except TypeError as error:
        raise TypeError(f"image {place} is no bytes, path, Pillow image or array: {type(image).__name__}") from error


def _from_pixels(pixels: np.ndarray[Any, Any]) -> Image.Image:
    grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))) or not pixels.size:
        raise UnsupportedPixels(
            f"an array must be uint8 [H, W], [H, W, 3] or [H, W, 4], got {pixels.dtype} {list(pixels.shape)}"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
