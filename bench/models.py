"""The classifier and the pictures of a comparison, made for each other."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grpo_tta import Classifier, load_classifier
from grpo_tta.bench.pictures import FilePictures, find_images, some_of
from grpo_tta.checks import ModelError
from grpo_tta.demo import pictures
from grpo_tta.demo.packaged import PICTURE_SETS, class_prompts
from grpo_tta.evaluation.plans import ScenePictures
from grpo_tta.images import canvas_spec
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.label.load import load_job_classifier

DEMO_SET = "fluent-emoji"


def of_images(config: JobConfig, folder: Path, truth: str | None, most: int | None) -> tuple[Classifier, FilePictures]:
    """Labelled files; classes are those of the configuration, or all that the files are of, in alphabetical order.

    Raises `ConfigurationError` or `JobError`.
    """
    images = find_images(folder, truth)
    if config.labels.file is None and config.labels.class_vectors is None:
        names = sorted({image.label for image in images})
        try:
            classifier = load_classifier(config.model, class_names=names, templates=config.labels.templates or None)
        except ModelError as error:
            raise ConfigurationError(f"{error} (classes are the {len(names)} that --images shows)") from error
    else:
        classifier = load_job_classifier(config)
    return classifier, FilePictures(some_of(images, most), classifier.class_names, canvas_spec(classifier))


def of_demo(config: JobConfig, set_name: str = DEMO_SET) -> tuple[Classifier, ScenePictures, str]:
    """Scenes of one set of pictures at the model's size, and what tells them from others; any model is asked for all of
    the demo's classes. ``set_name``: of ``PICTURE_SETS``, or an ``.npz`` file as ``demo.render`` writes it.

    Raises `ConfigurationError` for no such set, classes of one's own and a canvas that is not square."""
    labels = config.labels
    if labels.file is not None or labels.templates:
        raise ConfigurationError("--labels and --template go with --images: the demo has its classes")
    try:
        classifier = _demo_classifier(config)
    except ModelError as error:
        raise ConfigurationError(str(error)) from error
    height, width = classifier.preprocess.size
    if height != width:
        raise ConfigurationError(f"the demo's scenes are square, the model takes {height}x{width}: give --images")
    drawings, classes, data = _drawings(set_name, len(classifier.class_names))
    return classifier, ScenePictures(drawings, classes, height), data


def _demo_classifier(config: JobConfig) -> Classifier:
    if config.labels.class_vectors is None:
        return load_classifier(config.model, prompts=class_prompts() if config.model.name is not None else None)
    classifier = load_classifier(config.model, class_vectors=config.labels.class_vectors)
    if list(classifier.class_names) != list(class_prompts()):
        raise ConfigurationError(
            f"--class-vectors {config.labels.class_vectors}: without --images they must be of the demo's "
            f"{len(class_prompts())} classes in their order, got {len(classifier.class_names)} classes"
        )
    return classifier


def _drawings(set_name: str, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], str]:
    if set_name in PICTURE_SETS:
        return *pictures(set_name), f"demo:{set_name}"
    path = Path(set_name)
    if path.suffix != ".npz":
        raise ConfigurationError(f"--set must be {', '.join(PICTURE_SETS)} or an .npz file, got {set_name!r}")
    try:
        with np.load(path) as kept:
            drawings, labels = kept["pictures"], kept["concepts"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"--set {path}: {error}") from error
    fits = drawings.dtype == np.uint8 and drawings.ndim == 4 and drawings.shape[3] == 4 and len(drawings) > 0
    if not fits or labels.dtype != np.int64 or labels.shape != drawings.shape[:1]:
        raise ConfigurationError(
            f"--set {path}: pictures must be uint8 [N, h, w, 4] and concepts int64 [N], "
            f"got {drawings.dtype} {list(drawings.shape)} and {labels.dtype} {list(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ConfigurationError(
            f"--set {path}: concepts must be 0 to {classes - 1}, got {labels.min()} to {labels.max()}"
        )
    digest = hashlib.sha256(drawings.tobytes() + labels.tobytes()).hexdigest()[:16]
    return drawings, labels, f"{path.stem}:{digest}"
