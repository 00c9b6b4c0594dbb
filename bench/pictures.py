"""Labelled image files as the pictures that streams are made of: found once, decoded when a frame needs them.

A folder a class, or a truth file as in ``grpo-tta evaluate``. Decoded canvases are kept up to a number of bytes, so
that memory does not grow with the number of images.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grpo_tta.adapters.images import Canvas, CanvasSpec, ImageError, decode
from grpo_tta.adapters.storage.names import IMAGE_SUFFIXES
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run.evaluate import read_truth

_CACHE_BYTES = 256 * 2**20

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class ImageFile:
    """``id``: the path below the folder of all images, with ``/``."""

    id: str
    path: Path
    label: str


def find_images(folder: Path, truth: str | None) -> list[ImageFile]:
    """All images below ``folder`` that have a label, by id: that of the truth file's line, or the first folder's name.

    Raises `ConfigurationError` for a folder that is none, `JobError` where no image has a label.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"--images {folder}: no such folder")
    known = None if truth is None else read_truth(truth)
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        if known is None and "/" in name:
            found.append(ImageFile(name, path, name.partition("/")[0]))
        elif known is not None and name in known:
            found.append(ImageFile(name, path, known[name]["label"]))
    if not found:
        wanted = "in a folder named like its class" if truth is None else f"named in {truth} (ids are paths below it)"
        raise JobError(f"--images {folder} holds no image {wanted}")
    return found


def some_of(images: Sequence[ImageFile], most: int | None) -> list[ImageFile]:
    """At most ``most`` of them, always the same: one of each class in turn, so that no class is cut off first."""
    if most is None or len(images) <= most:
        return list(images)
    rng = np.random.Generator(np.random.PCG64(0))
    by_class: dict[str, list[ImageFile]] = {}
    for number in rng.permutation(len(images)):
        by_class.setdefault(images[number].label, []).append(images[number])
    turns = [(turn, name, image) for name, own in by_class.items() for turn, image in enumerate(own)]
    kept = sorted(turns, key=lambda entry: entry[:2])[:most]
    return sorted((image for _, _, image in kept), key=lambda image: image.id)


class FilePictures:
    """Pictures of image files; ``classes`` are the names that ``labels`` count.

    Raises `ConfigurationError` for a label that is no class.
    """

    def __init__(self, images: Sequence[ImageFile], classes: Sequence[str], spec: CanvasSpec) -> None:
        self._images, self._spec = list(images), spec
        place = {name: number for number, name in enumerate(classes)}
        strange = sorted({image.label for image in images} - place.keys())
        if strange:
            raise ConfigurationError(
                f"the images are also of {', '.join(map(repr, strange[:5]))}, which is none of the {len(classes)} "
                "classes: name folders or labels of the truth file as --labels does"
            )
        self._labels = np.array([place[image.label] for image in images], dtype=np.int64)
        self._kept: OrderedDict[int, Canvas] = OrderedDict()
        self._most_kept = max(1, _CACHE_BYTES // (3 * spec.height * spec.width))

    @property
    def labels(self) -> Int64:
        """The class of each image."""
        return self._labels

    @property
    def digest(self) -> str:
        """16 hex digits over ids and labels."""
        digest = hashlib.sha256()
        for image in self._images:
            digest.update(f"{image.id}\0{image.label}\n".encode())
        return digest.hexdigest()[:16]

    def load(self, indices: Int64, looks: Int64) -> NDArray[np.uint8]:
        """Canvases; a file looks the same whenever it is seen. Raises `JobError` naming a file that is no image."""
        return np.stack([self._canvas(int(index)) for index in indices])

    def _canvas(self, index: int) -> Canvas:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        path = self._images[index].path
        try:
            canvas = decode(path.read_bytes(), self._spec)
        except ImageError as error:
            raise JobError(f"{path}: {error}: take it out of the images") from error
        self._kept[index] = canvas
        if len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)
        return canvas
