"""Bytes of an image to the canvas a model takes, as a person would see the image, within limits.

`decode` accepts JPEG, PNG, GIF, BMP, WebP and TIFF by content, whatever the name or content type said. Decoders are
given the file without its metadata (`images.bare`), so none of it, damaged or not, decides whether pixels are decoded;
its orientation is applied. Transparency (palette, colour key or alpha channel) lies on white; CMYK follows Adobe's
convention as Pillow reads it; grey of any depth up to 16 bits is scaled to 8 by the file's own black and white; of an
animation or a multi-page file the first picture counts; colour profiles are not applied, as in CLIP's own
preprocessing. What is cut off or cannot be decoded is an `ImageError`, never padded with grey; a JPEG that lacks only
its end marker is whole.

Sizes, scans, strips and tiles are judged from the headers, before anything is decoded. What a process decodes at a time
stays within one budget of bytes, and want of memory is a MemoryError, never damage.

Resize and centre crop are those of open_clip for the model's preprocessing, to within one level; a JPEG at least four
times as large as needed is shrunk while it is decoded (never below twice the needed size), which differs by a few
levels.
"""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

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

from grpo_tta.adapters.images.bare import Bare, Strip, bare_gif, bare_jpeg, bare_png, bare_webp
from grpo_tta.adapters.images.bmp import bare_bmp
from grpo_tta.adapters.images.canvas import Canvas, CanvasSpec, Plain, needed_size, to_canvas
from grpo_tta.adapters.images.limits import (
    BYTES_PER_PIXEL,
    BYTES_PER_SIDE,
    DECODING,
    FORMATS,
    CorruptImage,
    Deadline,
    EmptyImage,
    ImageError,
    ImageLimits,
    TooManyBytes,
    TooManyParts,
    TooManyPixels,
    TooSlow,
    UnknownFormat,
    UnsupportedPixels,
    check_memory,
)
from grpo_tta.adapters.images.tiff import bare_tiff
from grpo_tta.adapters.images.whole import OddSampling, strict_jpeg

__all__ = [
    "FORMATS",
    "Canvas",
    "CanvasSpec",
    "CorruptImage",
    "EmptyImage",
    "ImageError",
    "ImageLimits",
    "Repaired",
    "TooManyBytes",
    "TooManyParts",
    "TooManyPixels",
    "TooSlow",
    "UnknownFormat",
    "UnsupportedPixels",
    "canvas_of",
    "decode",
]

Repaired = Callable[[str], None]
"""Takes the kind of a repair."""

_DRAFT_GAP = 2
_ORIENTATION = 0x0112
"""Of EXIF."""
_SCALES = (8, 4, 2)
_WHITE = (255, 255, 255, 255)


class _Format(NamedTuple):
    accepts: Callable[[bytes], bool]
    strip: Strip
    open_: Any


_OPENERS: dict[str, _Format] = {
    "JPEG": _Format(lambda head: head.startswith(b"\xff\xd8\xff"), bare_jpeg, JpegImagePlugin.JpegImageFile),
    "PNG": _Format(lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), bare_png, PngImagePlugin.PngImageFile),
    "GIF": _Format(lambda head: head.startswith((b"GIF87a", b"GIF89a")), bare_gif, GifImagePlugin.GifImageFile),
    "BMP": _Format(lambda head: head.startswith(b"BM"), bare_bmp, BmpImagePlugin.BmpImageFile),
    "WEBP": _Format(
        lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP", bare_webp, WebPImagePlugin.WebPImageFile
    ),
    "TIFF": _Format(
        lambda head: head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
        bare_tiff,
        TiffImagePlugin.TiffImageFile,
    ),
}
assert tuple(_OPENERS) == FORMATS


def decode(
    data: bytes, spec: CanvasSpec, limits: ImageLimits | None = None, repaired: Repaired | None = None
) -> Canvas:
    """The canvas of an encoded image: uint8 ``[3, height, width]``, contiguous.

    ``repaired`` is told where something was missing that the picture does not need. Raises `ImageError`; MemoryError
    where there is too little, for the caller to try again.
    """
    limits = limits or ImageLimits()
    if not data:
        raise EmptyImage("the file is empty")
    if len(data) > limits.max_bytes:
        raise TooManyBytes(f"{len(data)} bytes exceed the limit of {limits.max_bytes}")
    deadline = Deadline(limits.max_seconds)
    try:
        name, bare = _bare(data, limits)
        if repaired is not None and not bare.closed:
            repaired("image_without_end")
        work = _Work(name, bare, spec, deadline)
        size = work.memory()
        if size > limits.memory:
            raise TooManyPixels(
                f"{bare.width} x {bare.height} pixels take {size} bytes to decode, which exceeds the limit of "
                f"{limits.memory}"
            )
        try:
            with DECODING.take(size, limits.memory):
                return work.canvas()
        except (ImageError, MemoryError):
            raise
        except Exception:  # some decoders call want of memory damage: once more, with all that may be had
            with DECODING.take(limits.memory, limits.memory):
                check_memory(size)
                return work.canvas()
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever broken bytes lead them to
        raise CorruptImage(f"cannot be decoded: {type(error).__name__}: {error}") from error


def canvas_of(image: Image.Image, spec: CanvasSpec) -> Canvas:
    """The canvas of a picture that Pillow has opened or made, which stays as it is; upright by its EXIF data, if it has
    any. Raises `ImageError`."""

    def plain(rows: Image.Image, top: int) -> Image.Image:
        return _on_white(_eight_bits(rows, 16) if rows.mode.startswith("I;16") else rows)

    try:
        picture = image.copy()
        turn = picture.getexif().get(_ORIENTATION, 1)
        as_it_is = picture.mode in ("RGB", "L") and "transparency" not in picture.info
        return to_canvas(picture, None if as_it_is else plain, turn if turn in range(1, 9) else 1, spec)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever broken bytes lead them to
        raise CorruptImage(f"cannot be decoded: {type(error).__name__}: {error}") from error


def _bare(data: bytes, limits: ImageLimits) -> tuple[str, Bare]:
    head = data[:16]
    for name in limits.formats:
        if _OPENERS[name].accepts(head):
            try:
                bare = _OPENERS[name].strip(data, limits)
            except CorruptImage as error:
                raise CorruptImage(f"cannot be decoded: {error}") from None
            if bare.width < 1 or bare.height < 1:
                raise CorruptImage(f"cannot be decoded: it has {bare.width} x {bare.height} pixels")
            if bare.width * bare.height > limits.max_pixels:
                raise TooManyPixels(f"{bare.width} x {bare.height} pixels exceed the limit of {limits.max_pixels}")
            return name, bare
    raise UnknownFormat(f"no image of an allowed format ({', '.join(limits.formats)}); it begins with {head!r}")


class _Timed(io.BytesIO):
    """A file that cannot be read for longer than the deadline."""

    def __init__(self, data: bytes, deadline: Deadline) -> None:
        super().__init__(data)
        self._deadline = deadline

    def read(self, size: int | None = -1) -> bytes:
        """Raises `TooSlow`."""
        self._deadline.check()
        return super().read(size)


class _Work:
    """The decoding of one bare file."""

    def __init__(self, name: str, bare: Bare, spec: CanvasSpec, deadline: Deadline) -> None:
        self._name = name
        self._bare = bare
        self._spec = spec
        self._deadline = deadline
        self._scale = 1
        if name == "JPEG":
            needed = needed_size(bare.width, bare.height, bare.turn, spec)
            ratio = min(bare.width // (_DRAFT_GAP * needed[0]), bare.height // (_DRAFT_GAP * needed[1]))
            self._scale = next((scale for scale in _SCALES if scale <= ratio), 1)

    def memory(self) -> int:
        """Bytes it takes, roughly."""
        bare, scale = self._bare, self._scale
        pixels = BYTES_PER_PIXEL * bare.width * bare.height // scale**2
        return 2 * len(bare.data) + bare.memory + pixels + BYTES_PER_SIDE * (bare.width + bare.height) // scale

    def canvas(self) -> Canvas:
        """Raises whatever the decoder raises."""
        bare, image = self._bare, self._loaded()
        if bare.blocks:
            image = bare.blocks.picture(image, bare.width, bare.height, self._deadline.check)
        return to_canvas(image, self._plain(image), self._bare.turn, self._spec)

    def _loaded(self) -> Image.Image:
        if self._name == "JPEG":
            return self._jpeg()
        bare = self._bare
        if bare.check and not bare.last_pixel_tells:
            bare.check(self._deadline)
        image = self._opened()
        image.load()
        if bare.check and bare.last_pixel_tells and not np.any(image.getpixel((bare.width - 1, bare.height - 1))):
            bare.check(self._deadline)
        if bare.colours < 256 and image.mode in ("P", "L"):
            _check_colours(image, bare.colours)
        if not bare.may_be_all_clear and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
            image.putalpha(255)
        return image

    def _opened(self) -> ImageFile.ImageFile:
        """Not `Image.open`: its own guard against bombs is a global that other code shares."""
        bare = self._bare
        data = bare.written_out(self._deadline) if bare.written_out else bare.data
        image: ImageFile.ImageFile = _OPENERS[self._name].open_(_Timed(data, self._deadline), "")
        if image.size != (bare.stored or (bare.width, bare.height)):
            raise CorruptImage(f"cannot be decoded: its headers say {bare.width} x {bare.height} pixels")
        return image

    def _jpeg(self) -> Image.Image:
        """By a decoder that says so where data is damaged or missing; Pillow's would fill it up with grey."""
        width, height = -(-self._bare.width // self._scale), -(-self._bare.height // self._scale)
        try:
            pixels, space = strict_jpeg(self._bare.data, width, height)
        except OddSampling:
            image = self._opened()
            image.draft(None, (width, height))
            image.load()
            return image
        if space == "CMYK":
            return Image.fromarray(255 - pixels, "CMYK")
        return Image.fromarray(pixels[..., 0] if space == "GRAY" else pixels)

    def _plain(self, image: Image.Image) -> Plain | None:
        """How to make rows of the picture RGB or L; None where it is."""
        colours = self._colours(image)
        if self._bare.frame is None:
            return colours
        left, upper, right, lower = self._bare.frame

        def plain(rows: Image.Image, top: int) -> Image.Image:
            pixels = np.array(colours(rows, top) if colours else rows)
            outside = np.ones(pixels.shape[:2], bool)
            outside[max(0, upper - top) : max(0, lower - top), left:right] = False
            pixels[outside] = 255
            return Image.fromarray(pixels)

        return plain

    def _colours(self, image: Image.Image) -> Plain | None:
        bare = self._bare
        if bare.key is not None:
            return self._keyed(image, bare.key)
        if image.mode in ("RGB", "L") and not bare.white_is_zero and "transparency" not in image.info:
            return None

        def plain(rows: Image.Image, top: int) -> Image.Image:
            self._deadline.check()
            grey = _eight_bits(rows, bare.depth) if rows.mode.startswith("I") else rows
            return _on_white(_inverted(grey) if bare.white_is_zero else grey)

        return plain

    def _keyed(self, image: Image.Image, key: tuple[int, ...]) -> Plain:
        """With the colour that stands for transparent made white."""
        bare = self._bare
        low = None
        if len(key) == 3 and bare.depth == 16:  # Pillow has the upper halves of the samples, or the lower ones
            low = self._opened()
            low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
            low.load()

        def plain(rows: Image.Image, top: int) -> Image.Image:
            self._deadline.check()
            if rows.mode.startswith("I"):
                hit = np.asarray(rows) == key[0]
                pixels = np.array(_eight_bits(rows, bare.depth))
            elif len(key) == 1:
                pixels = np.array(rows.convert("L"))
                hit = pixels == key[0] * 255 // (2**bare.depth - 1)
            else:
                pixels = np.array(rows)
                hit = (pixels == np.array(key) // (256 if low else 1)).all(axis=2)
                if low is not None:
                    lower = np.asarray(low.crop((0, top, rows.width, top + rows.height)))
                    hit &= (lower == np.array(key) % 256).all(axis=2)
            pixels[hit] = 255
            return Image.fromarray(pixels)

        return plain


def _check_colours(image: Image.Image, colours: int) -> None:
    """Raise `CorruptImage` for an index of none of them, unless it is transparent."""
    counts, clear = image.histogram(), image.info.get("transparency")
    if any(counts[index] for index in range(colours, 256) if index != clear):
        raise CorruptImage(f"cannot be decoded: it has pixels of more than the {colours} colours of its palette")


def _inverted(rows: Image.Image) -> Image.Image:
    """Grey, with or without alpha, of which black is white."""
    if rows.mode in ("1", "L"):
        return Image.fromarray(255 - np.asarray(rows.convert("L")))
    if rows.mode != "LA":
        raise UnsupportedPixels(f"{rows.mode} pixels in a picture of which white is zero")
    grey, alpha = rows.split()
    return Image.merge("LA", (_inverted(grey), alpha))


def _on_white(rows: Image.Image) -> Image.Image:
    """As RGB or, where that is all it has, L."""
    if rows.mode in ("F", "I"):
        raise UnsupportedPixels("32-bit pixels have no defined white")
    if rows.mode in ("RGBA", "LA", "PA") or "transparency" in rows.info:
        colours = rows if rows.mode == "RGBA" else rows.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, _WHITE), colours).convert("RGB")
    if rows.mode in ("RGB", "L"):
        return rows
    return rows.convert("L" if rows.mode == "1" else "RGB")


def _eight_bits(rows: Image.Image, depth: int) -> Image.Image:
    """Grey of up to 16 bits: all bits set is white."""
    white = 2**depth - 1
    values = np.asarray(rows)
    if white > 65535 or rows.mode == "I":
        raise UnsupportedPixels(f"{rows.mode} pixels have no defined white; unsigned ones of 1 to 16 bits have")
    return Image.fromarray(((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8))
