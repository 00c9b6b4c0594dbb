"""What the accuracy estimate must know of a job's model, method and settings, from labelled normal images."""

import heapq
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from grpo_tta import Classifier, DriftGuard, create_method
from grpo_tta.adapters.events import ImageRef, seed_of
from grpo_tta.adapters.images import ImageError
from grpo_tta.adapters.storage.fetch import PermanentFetchError
from grpo_tta.estimate import AccuracyCalibration
from grpo_tta.evaluation.accuracy import (
    LEAST_IMAGES,
    WINDOW,
    calibration_images,
    calibration_stream,
    fit,
    measured_parts,
)
from grpo_tta.evaluation.corruptions import CORRUPTIONS
from grpo_tta.evaluation.run import run_stream
from grpo_tta.evaluation.streams import Frames
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.config.policy import uri_policy
from grpo_tta.pipeline.errors import JobError
from grpo_tta.pipeline.label.load import ImageReader, batch_size, load_job_classifier, load_reference
from grpo_tta.pipeline.run.evaluate import read_truth
from grpo_tta.pipeline.run.places import list_job_source

Progress = Callable[[int, int], None]
"""Is told how many images are through the model, and of how many."""


def calibrate_accuracy(
    config: JobConfig, truth_path: str, max_images: int, progress: Progress
) -> tuple[AccuracyCalibration, int]:
    """Of at most ``max_images``, drawn evenly over those of the source that the truth file knows, by their ids' hashes;
    and how many of these could not be read.

    Raises `JobError` where the truth names a class that the model has not, or too few images can be read.
    """
    uri_policy(config)
    truth = {identity: entry["label"] for identity, entry in read_truth(truth_path).items()}
    known = (record for record in list_job_source(config) if isinstance(record, ImageRef) and record.id in truth)
    drawn = heapq.nsmallest(max_images, known, key=lambda ref: (seed_of(ref.id), ref.coordinate))
    classifier = load_job_classifier(config)
    places = {name: place for place, name in enumerate(classifier.class_names)}
    foreign = sorted({truth[ref.id] for ref in drawn} - places.keys())
    if foreign:
        raise JobError(f"truth file {truth_path}: no class of the model is called {', '.join(map(repr, foreign[:5]))}")
    read, canvases, labels, seeds = ImageReader.make(config, classifier), [], [], []
    for ref in drawn:
        try:
            canvases.append(read(ref))
        except (ImageError, PermanentFetchError):
            continue
        labels.append(places[truth[ref.id]])
        seeds.append(seed_of(ref.id))
    if len(labels) < LEAST_IMAGES:
        raise JobError(
            f"calibration: an accuracy estimate needs at least {LEAST_IMAGES} labelled images that can be read, "
            f"got {len(labels)}; ids of the truth file are paths below --source"
        )
    frames = Frames(np.stack(canvases), np.array(labels), np.array(seeds, dtype=np.int64))
    return calibrated(config, classifier, frames, progress=progress), len(drawn) - len(labels)


def calibrated(
    config: JobConfig,
    classifier: Classifier,
    frames: Frames,
    kinds: Sequence[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> AccuracyCalibration:
    """Of labelled normal images in a random order, and ``kinds`` of corruption of them: by default all there are."""
    method = create_method(config.method.name, classifier, config.method.settings)
    guard = DriftGuard(config.guard.settings, classifier.class_vectors, load_reference(config, classifier))
    frozen, kinds = create_method("zero-shot", classifier), tuple(CORRUPTIONS if kinds is None else kinds)
    torch.set_grad_enabled(True)
    stream = _told(calibration_stream(frames, kinds, batch_size(config)), len(frames.labels), kinds, progress)
    result = run_stream(method, stream, guard=guard, frozen=frozen)
    fitted = fit(measured_parts(result, len(frames.labels), kinds))
    return AccuracyCalibration(
        classifier.fingerprint,
        *config.method.kind(),
        len(frames.labels),
        WINDOW,
        fitted.effective_classes,
        fitted.adapted,
        fitted.frozen,
        fitted.gain,
        "least_entropy" if result.frozen_reported else "entropy",
    )


def _told(stream: Iterator[Frames], count: int, kinds: Sequence[str], progress: Progress) -> Iterator[Frames]:
    done, total = 0, calibration_images(count, kinds)
    for part in stream:
        progress(done, total)
        yield part
        done += len(part.labels)
