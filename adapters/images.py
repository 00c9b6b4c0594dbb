"""Bytes of an image to the canvas a model takes, as a person would see the image, within limits.

`decode` accepts JPEG, PNG, GIF, BMP, WebP and TIFF by content, whatever the name or content type said. EXIF rotation
is applied; transparency (palette, colour key or alpha channel) lies on white; CMYK follows Adobe's convention as
Pillow reads it; 16-bit grey is scaled to 8 bits; of an animation or a multi-page file the first picture counts;
colour profiles are not applied, as in CLIP's own preprocessing. What is cut off or cannot be decoded is an
`ImageError`, never padded with grey. The number of pixels is judged from the header, before anything is decoded.

Resize and centre crop are those of open_clip for the model's preprocessing, to within one level; a JPEG at least four
times as large as needed is shrunk while it is decoded (never below twice the needed size), which differs by a few
levels.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

Canvas = np.ndarray[Any, np.dtype[np.uint8]]
"""uint8 ``[3, H, W]``, RGB, contiguous."""

_OPENERS: dict[str, Any] = {
    "JPEG": (JpegImagePlugin.jpeg_factory, lambda head: head.startswith(b"\xff\xd8\xff")),
    "PNG": (PngImagePlugin.PngImageFile, lambda head: head.startswith(b"\x89PNG\r\n\x1a\n")),
    "GIF": (GifImagePlugin.GifImageFile, lambda head: head.startswith((b"GIF87a", b"GIF89a"))),
    "BMP": (BmpImagePlugin.BmpImageFile, lambda head: head.startswith(b"BM")),
    "WEBP": (WebPImagePlugin.WebPImageFile, lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP"),
    "TIFF": (TiffImagePlugin.TiffImageFile, lambda head: head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))),
}
FORMATS = tuple(_OPENERS)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_MODES = ("shortest", "longest", "squash")
_ORIENTATION = 0x0112
_DRAFT_GAP = 2
_WHITE = (255, 255, 255, 255)


class ImageError(ValueError):
    """These bytes will never be a canvas."""


class EmptyImage(ImageError):
    """No bytes at all."""


class TooManyBytes(ImageError):
    """More bytes than allowed."""


class TooManyPixels(ImageError):
    """More pixels than allowed, by the header."""


class UnknownFormat(ImageError):
    """Not an image, or of a format that is not allowed."""


class CorruptImage(ImageError):
    """It begins like an image but cannot be decoded to its end."""


class UnsupportedPixels(ImageError):
    """Pixels without a defined black and white, such as 32-bit floats."""


@dataclass(frozen=True)
class ImageLimits:
    """Bounds of one image. Raises ValueError for a bound under 1 or an unknown format."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 64_000_000
    formats: tuple[str, ...] = FORMATS

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        unknown = [name for name in self.formats if name not in _OPENERS]
        if unknown or not self.formats:
            raise ValueError(f"formats must be some of {', '.join(FORMATS)}, got {', '.join(self.formats) or 'none'}")


@dataclass(frozen=True)
class CanvasSpec:
    """What the model takes, as in open_clip's ``preprocess_cfg``.

    ``resize_mode``: ``shortest`` edge to the canvas, then centre crop; ``longest`` edge, then pad with ``fill``;
    ``squash``.
    """

    height: int
    width: int
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int = 0

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"canvas height and width must be >= 1, got {self.height} x {self.width}")
        if self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation must be one of {', '.join(_FILTERS)}, got {self.interpolation!r}")
        if self.resize_mode not in _MODES:
            raise ValueError(f"resize_mode must be one of {', '.join(_MODES)}, got {self.resize_mode!r}")
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill must be within 0..255, got {self.fill}")

    @property
    def resample(self) -> Image.Resampling:
        """Pillow's filter; as in open_clip, ``shortest`` onto a canvas that is not square is always bicubic."""
        square = self.height == self.width
        return _FILTERS[self.interpolation if square or self.resize_mode != "shortest" else "bicubic"]

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a whole image resized for this canvas, before crop or padding."""
        if self.resize_mode == "squash":
            return self.width, self.height
        if self.resize_mode == "shortest" and self.height == self.width:
            short = self.width
            return (short, short * height // width) if width <= height else (short * width // height, short)
        ratios = (width / self.width, height / self.height)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def decode(data: bytes, spec: CanvasSpec, limits: ImageLimits | None = None) -> Canvas:
    """The canvas of an encoded image: uint8 ``[3, height, width]``, contiguous. Raises `ImageError`."""
    limits = limits or ImageLimits()
    if not data:
        raise EmptyImage("the file is empty")
    if len(data) > limits.max_bytes:
        raise TooManyBytes(f"{len(data)} bytes exceed the limit of {limits.max_bytes}")
    with _translated(), _open(data, limits) as image:
        return _canvas(image, spec)


def canvas_of(image: Image.Image, spec: CanvasSpec) -> Canvas:
    """The canvas of a picture that Pillow has opened or made, which stays as it is; upright by its EXIF data, if it has
    any. Raises `ImageError`."""
    with _translated():
        return _canvas(image.copy(), spec)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixels(str(error)) from error
    except Exception as error:  # decoders raise whatever broken bytes lead them to
        raise CorruptImage(f"cannot be decoded: {type(error).__name__}: {error}") from error


def _open(data: bytes, limits: ImageLimits) -> ImageFile.ImageFile:
    """Read the header. Not `Image.open`: its own guard against bombs is a global that other code shares."""
    head = data[:16]
    for name in limits.formats:
        factory, accepts = _OPENERS[name]
        if accepts(head):
            image: ImageFile.ImageFile = factory(io.BytesIO(data), "")
            width, height = image.size
            if width * height > limits.max_pixels:
                image.close()
                raise TooManyPixels(f"{width} x {height} pixels exceed the limit of {limits.max_pixels}")
            return image
    raise UnknownFormat(f"no image of an allowed format ({', '.join(limits.formats)}); it begins with {head!r}")


def _canvas(image: Image.Image, spec: CanvasSpec) -> Canvas:
    turn = _turn(image)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        width, height = image.size
        sideways = turn is not None and turn.value >= Image.Transpose.ROTATE_90 and turn != Image.Transpose.ROTATE_180
        wide, high = spec.resized(height, width)[::-1] if sideways else spec.resized(width, height)
        image.draft(None, (_DRAFT_GAP * wide, _DRAFT_GAP * high))
    image.load()
    if turn is None and image.format == "PNG":  # its EXIF may lie behind the pixels
        turn = _turn(image)
    plain = _plain(image)
    if turn is not None:
        plain = plain.transpose(turn)
    return _to_array(_fit(plain, spec))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to turn the pixels so that the image is upright; what cannot be read turns nothing.

    Pillow turns TIFF itself.
    """
    if image.format == "TIFF" or not ("exif" in image.info or "xmp" in image.info):
        return None
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block, of a picture that is not
        return None


def _plain(image: Image.Image) -> Image.Image:
    """The image as RGB or, where that is all it has, L."""
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.mode == "F":
        raise UnsupportedPixels("32-bit float pixels have no defined white")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colours = image if image.mode == "RGBA" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, _WHITE), colours).convert("RGB")
    if image.mode in ("RGB", "L"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits: 65535 is white."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnsupportedPixels(f"{image.mode} pixels from {low} to {high} have no defined white; 16 bits have")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _fit(image: Image.Image, spec: CanvasSpec) -> Image.Image:
    """Resize and crop in one step: what the crop drops is never computed, whatever the image's proportions."""
    width, height = image.size
    wide, high = spec.resized(width, height)
    left, top = _crop_start(wide, spec.width), _crop_start(high, spec.height)
    out = (min(wide, spec.width), min(high, spec.height))
    if (wide, high) != (width, height):
        across, down = width / wide, height / high
        box = (left * across, top * down, min((left + out[0]) * across, width), min((top + out[1]) * down, height))
        image = image.resize(out, spec.resample, box=box)
    elif out != (width, height):
        image = image.crop((left, top, left + out[0], top + out[1]))
    if out == (spec.width, spec.height):
        return image
    padded = Image.new(image.mode, (spec.width, spec.height), spec.fill if image.mode == "L" else (spec.fill,) * 3)
    padded.paste(image, ((spec.width - out[0]) // 2, (spec.height - out[1]) // 2))
    return padded


def _crop_start(size: int, wanted: int) -> int:
    return round((size - wanted) / 2) if size > wanted else 0


def _to_array(image: Image.Image) -> Canvas:
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return np.repeat(pixels[None], 3, axis=0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
