"""The classifier and the pictures of a comparison, made for each other."""

from pathlib import Path

from adapters.images import CanvasSpec
from grpo_tta import Classifier, load_classifier
from grpo_tta.classifier import ModelError
from grpo_tta.demo import pictures
from grpo_tta.demo.packaged import class_prompts
from grpo_tta.evaluation.plans import ScenePictures
from pipeline.bench.pictures import FilePictures, find_images, some_of
from pipeline.config import JobConfig
from pipeline.errors import ConfigurationError
from pipeline.labeling import load_job_classifier

_DEMO_SET = "fluent-emoji"


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
    cfg = classifier.preprocess
    spec = CanvasSpec(cfg.size[0], cfg.size[1], cfg.interpolation, cfg.resize_mode, cfg.fill_color)
    return classifier, FilePictures(some_of(images, most), classifier.class_names, spec)


def of_demo(config: JobConfig) -> tuple[Classifier, ScenePictures, str]:
    """Scenes of the packaged pictures at the model's size, and what they are called; any model is asked for the
    demo's classes. Raises `ConfigurationError` for labels of one's own and a canvas that is not square."""
    labels = config.labels
    if labels.file is not None or labels.class_vectors is not None or labels.templates:
        raise ConfigurationError("--labels, --template and --class-vectors go with --images: the demo has its classes")
    try:
        classifier = load_classifier(config.model, prompts=class_prompts() if config.model.name is not None else None)
    except ModelError as error:
        raise ConfigurationError(str(error)) from error
    height, width = classifier.preprocess.size
    if height != width:
        raise ConfigurationError(f"the demo's scenes are square, the model takes {height}x{width}: give --images")
    drawings, classes = pictures(_DEMO_SET)
    return classifier, ScenePictures(drawings, classes, height), f"demo:{_DEMO_SET}"
