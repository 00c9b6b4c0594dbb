"""The test images and class names of a set, out of its published folder.

ImageNet's classes are known by wnid, as timm's own data lists them, and called as in open_clip's list. The other sets
are read from CoOp's split file where it is there; else from torchvision's class or the set's own list; else all images
of a folder a class are taken, which is no published test set. Nothing is downloaded.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from grpo_tta.adapters.storage.names import IMAGE_SUFFIXES
from grpo_tta.bench.pictures import ImageFile
from grpo_tta.bench.suites.datasets import Dataset, LabelledImages, expected, folder_of
from grpo_tta.evaluation.plans import Condition
from grpo_tta.pipeline.errors import ConfigurationError

ALL = "all images"


def read(dataset: Dataset, data: Path, condition: Condition | None = None) -> LabelledImages:
    """The set below ``data``, or of ImageNet-C the images of one kind and severity.

    Raises `ConfigurationError` naming what is missing and the layout expected.
    """
    folder = folder_of(dataset, data)
    if dataset.classes != "own":
        return _imagenet(dataset, folder if condition is None else _of_condition(dataset, folder, condition))
    split = next((path for path in (folder / dataset.split, data / dataset.split) if path.is_file()), None)
    if split is not None:
        return _split(dataset, folder, split)
    if dataset.name == "pets":
        return _pets(dataset, folder)
    if dataset.name == "aircraft":
        return _aircraft(dataset, folder)
    if dataset.torchvision:
        return _torchvision(dataset, data)
    return _all(dataset, folder)


def _of_condition(dataset: Dataset, folder: Path, condition: Condition) -> Path:
    places = [folder / str(condition.kind), *sorted(folder.glob(f"*/{condition.kind}"))]
    found = next((place for place in places if (place / str(condition.severity)).is_dir()), None)
    if found is None:
        wanted = f"{condition.kind}/{condition.severity}"
        raise ConfigurationError(f"{dataset.name}: no {wanted} in {folder}; {expected(dataset)}")
    return found / str(condition.severity)


@cache
def wnids(which: str = "") -> tuple[str, ...]:
    """ImageNet's 1000 wnids in the order of its classes; ``_a`` or ``_r``: the 200 of ImageNet-A or -R."""
    return tuple((files("timm.data") / "_info" / f"imagenet{which}_synsets.txt").read_text("utf-8").split())


def _imagenet(dataset: Dataset, folder: Path) -> LabelledImages:
    from open_clip import IMAGENET_CLASSNAMES

    every = wnids()
    names = dict(zip(every, IMAGENET_CLASSNAMES, strict=True))
    if dataset.classes in ("wnids-a", "wnids-r"):
        names = {wnid: names[wnid] for wnid in wnids(f"_{dataset.classes[-1]}")}
    label_of = {wnid: wnid for wnid in names}
    if dataset.classes == "indices":
        label_of = {str(number): wnid for number, wnid in enumerate(every)}
    images = []
    for place, name in _images_below(folder):
        if place not in label_of:
            strange = f"images in {place or 'no folder of a class'}"
            raise ConfigurationError(f"{dataset.name}: {strange} in {folder}; {expected(dataset)}")
        images.append(ImageFile(name, folder / name, label_of[place]))
    return _some(dataset, folder, LabelledImages(images, names, "as published"))


def _images_below(folder: Path) -> Iterator[tuple[str, str]]:
    """Of each image its folder and its path, both relative, ``/`` between parts."""
    for place, inner, names in os.walk(folder, followlinks=True):
        inner.sort()
        below = Path(place).relative_to(folder).as_posix()
        below = "" if below == "." else below
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES):
                yield below, f"{below}/{name}" if below else name


def _some(dataset: Dataset, folder: Path, found: LabelledImages) -> LabelledImages:
    if not found.images:
        raise ConfigurationError(f"{dataset.name}: no images in {folder}; {expected(dataset)}")
    return found


def _split(dataset: Dataset, folder: Path, split: Path) -> LabelledImages:
    """CoOp's file: ``train``, ``val`` and ``test``, each a list of path, label and class name."""
    try:
        parts: dict[str, list[tuple[str, int, str]]] = json.loads(split.read_text(encoding="utf-8"))
        names = {int(label): str(name) for part in parts.values() for _, label, name in part}
        test = [(str(path), int(label)) for path, label, _ in parts["test"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{dataset.name}: {split} is no split file (train, val, test: lists of path, label, class name): {error!r}"
        ) from error
    root = folder / dataset.images
    if test and not (root / test[0][0]).is_file():
        root = folder
    labels = sorted(names)
    place = {label: number for number, label in enumerate(labels)}
    items = [(path, place[label]) for path, label in test]
    return _listed(dataset, root, items, [names[label].replace("_", " ") for label in labels], split.name)


def _listed(
    dataset: Dataset, root: Path, items: Iterable[tuple[str, int]], names: Sequence[str], split: str
) -> LabelledImages:
    """Images by path below ``root`` and class index; all of them must be there."""
    keys = [f"{number} {name}" for number, name in enumerate(names)]
    images = [ImageFile(path, root / path, keys[number]) for path, number in items]
    gone = [image for image in images if not image.path.is_file()]
    if gone:
        raise ConfigurationError(
            f"{dataset.name}: {len(gone)} of {len(images)} images of its list ({split}) are missing, the first is "
            f"{gone[0].path}; {expected(dataset)}"
        )
    return _some(dataset, root, LabelledImages(images, dict(zip(keys, names, strict=True)), split))


def _pets(dataset: Dataset, folder: Path) -> LabelledImages:
    lines = [line.split() for line in _lines(dataset, folder / "annotations" / "test.txt")]
    names = {int(number) - 1: image.rpartition("_")[0].lower().replace("_", " ") for image, number, *_ in lines}
    place = {label: number for number, label in enumerate(sorted(names))}
    items = [(f"{image}.jpg", place[int(number) - 1]) for image, number, *_ in lines]
    return _listed(dataset, folder / dataset.images, items, [names[label] for label in sorted(names)], "test.txt")


def _aircraft(dataset: Dataset, folder: Path) -> LabelledImages:
    names = _lines(dataset, folder / "variants.txt")
    place = {name: number for number, name in enumerate(names)}
    lines = [line.partition(" ") for line in _lines(dataset, folder / "images_variant_test.txt")]
    strange = [name for _, _, name in lines if name not in place]
    if strange:
        raise ConfigurationError(f"{dataset.name}: {folder}: {strange[0]!r} of the test images is not in variants.txt")
    items = [(f"{image}.jpg", place[name]) for image, _, name in lines]
    return _listed(dataset, folder / dataset.images, items, names, "images_variant_test.txt")


def _lines(dataset: Dataset, path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{dataset.name}: {error}; {expected(dataset)}") from error
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _torchvision(dataset: Dataset, data: Path) -> LabelledImages:
    """Its test images, which its loader hands over as paths."""
    from torchvision import datasets

    try:
        made: Any = getattr(datasets, dataset.torchvision)(data, split="test", loader=str)
        items = [made[number] for number in range(len(made))]
    except (RuntimeError, ImportError, OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(
            f"{dataset.name}: no {dataset.split} in {folder_of(dataset, data)}, and torchvision.datasets."
            f"{dataset.torchvision} says: {error}; {expected(dataset)}"
        ) from error
    names = [str(name).replace("_", " ") for name in made.classes]
    if dataset.name == "cars":  # the year is first in CoOp's names
        names = [" ".join([name.split()[-1], *name.split()[:-1]]) for name in names]
    listed = [(Path(path).relative_to(data).as_posix(), int(label)) for path, label in items]
    return _listed(dataset, data, listed, names, f"torchvision's {dataset.torchvision}")


def _all(dataset: Dataset, folder: Path) -> LabelledImages:
    root = folder / dataset.images if (folder / dataset.images).is_dir() else folder
    found = [(place, name) for place, name in _images_below(root) if place.split("/")[0] not in dataset.dropped]
    if any(not place for place, _ in found):
        raise ConfigurationError(f"{dataset.name}: images in no folder of a class in {root}; {expected(dataset)}")
    names = {place: _spoken(dataset, place) for place in sorted({place for place, _ in found})}
    images = [ImageFile(name, root / name, place) for place, name in found]
    return _some(dataset, root, LabelledImages(images, names, ALL))


def _spoken(dataset: Dataset, place: str) -> str:
    """A folder's name as words: ``Apply_Eye_Makeup`` and ``ApplyEyeMakeup``; of ``a/apartment_building/outdoor`` the
    letter is left out and what comes last is said first."""
    if dataset.name == "sun397":
        place = " ".join(reversed(place.split("/")[1:]))
    name = dataset.renamed.get(place, place)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " "))
