"""Images as people have them become the canvases that a job would make of their files."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from grpo_tta import Classifier, Prediction, PreprocessCfg, canvases
from grpo_tta.adapters.images import CanvasSpec, CorruptImage, EmptyImage, UnknownFormat, UnsupportedPixels, decode

SPEC = CanvasSpec(8, 8)
CLASSIFIER = cast(Classifier, SimpleNamespace(preprocess=PreprocessCfg((8, 8), (0.5,) * 3, (0.5,) * 3)))
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def encoded(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


PNG = encoded(Image.fromarray(PIXELS))


def test_every_way_to_give_an_image_makes_the_same_canvas(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    made = canvases([PNG, path, str(path), Image.open(path), Image.fromarray(PIXELS), PIXELS], CLASSIFIER)
    assert made.dtype == torch.uint8
    assert made.shape == (6, 3, 8, 8)
    assert all(np.array_equal(canvas.numpy(), decode(PNG, SPEC)) for canvas in made)
    assert canvases([], CLASSIFIER).shape == (0, 3, 8, 8)


def test_an_opened_picture_is_turned_and_laid_on_white_and_stays_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = np.zeros((12, 20, 4), dtype=np.uint8)
    turned = Image.open(io.BytesIO(encoded(Image.fromarray(PIXELS), exif=exif)))
    upright = canvases([Image.fromarray(np.rot90(PIXELS, -1))], CLASSIFIER)
    apart = canvases([turned], CLASSIFIER).int() - upright.int()
    assert int(apart.abs().max()) <= 1  # it is resized before it is turned, which rounds otherwise
    assert turned.size == (20, 12)
    assert int(canvases([clear], CLASSIFIER).min()) == 255


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (b"", EmptyImage, "image 1: the file is empty"),
        (b"no image", UnknownFormat, "image 1: no image"),
        (PNG[:60], CorruptImage, "image 1: cannot"),
        (PIXELS.astype(np.float32), UnsupportedPixels, r"image 1: .* got float32 \[12, 20, 3\]"),
        (PIXELS.transpose(2, 0, 1), UnsupportedPixels, r"got uint8 \[3, 12, 20\]"),
        (7, TypeError, "image 1 is no bytes, path, Pillow image or array: int"),
        ("missing.png", FileNotFoundError, "missing.png"),
    ],
)
def test_what_is_no_image_is_named(image: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        canvases([PNG, image], CLASSIFIER)


def test_one_image_alone_is_refused() -> None:
    with pytest.raises(TypeError, match="several images"):
        canvases("photo.jpg", CLASSIFIER)


def test_a_prediction_is_read_by_names() -> None:
    prediction = Prediction(torch.tensor([[0.1, 0.9], [0.8, 0.2]]))
    assert prediction.labels(["cat", "dog"]) == ["dog", "cat"]
    with pytest.raises(ValueError, match="2 classes, got 1 names"):
        prediction.labels(["cat"])
