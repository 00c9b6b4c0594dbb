"""The drift guard's shared reference, from a source that shows the input as it should be."""

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from grpo_tta.adapters.events import ImageRef, seed_of
from grpo_tta.adapters.images import ImageError
from grpo_tta.adapters.storage.fetch import PermanentFetchError
from grpo_tta.guard.reference import ReferenceBuilder
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.config.policy import uri_policy
from grpo_tta.pipeline.errors import JobError
from grpo_tta.pipeline.label.load import ImageReader, batch_size, load_job_classifier
from grpo_tta.pipeline.run.places import list_job_source


@dataclass(frozen=True)
class Calibrated:
    """A reference as bytes, and what it was made of."""

    data: bytes
    images: int
    unread: int
    """Images that could not be read, and records of the source that are no events."""
    model_fingerprint: str


def calibrate(config: JobConfig, max_images: int, progress: Callable[[int, int], None]) -> Calibrated:
    """A reference of at most ``max_images``, drawn evenly over the source by their ids' hashes. ``progress`` is told
    how many of them are done, and of how many.

    They are taken stream by stream in order of time, as the guard will meet them: the spread from probe to probe is
    that of one camera's frames, not of all cameras' mixed. Raises `JobError` where too few can be read.
    """
    unread = 0

    def events() -> Iterator[ImageRef]:
        nonlocal unread
        for record in list_job_source(config):
            if isinstance(record, ImageRef):
                yield record
            else:
                unread += 1

    uri_policy(config)
    drawn = heapq.nsmallest(max_images, events(), key=lambda ref: (seed_of(ref.id), ref.coordinate))
    drawn.sort(key=lambda ref: (ref.stream, ref.event_time, ref.coordinate))
    classifier = load_job_classifier(config)
    builder = ReferenceBuilder(classifier.class_vectors, classifier.fingerprint, config.guard.settings.probe_frames)
    read = ImageReader.make(config, classifier)
    rest, done = iter(drawn), 0
    while group := list(itertools.islice(rest, batch_size(config))):
        progress(done, len(drawn))
        done += len(group)
        canvases = []
        for ref in group:
            try:
                canvases.append(torch.from_numpy(read(ref)))
            except (ImageError, PermanentFetchError):
                unread += 1
        if canvases:
            with torch.no_grad():
                features = classifier.features(classifier.normalise(torch.stack(canvases)))
                builder.add(features.cpu(), classifier.probabilities(features).cpu())
    try:
        reference = builder.build()
    except ValueError as error:
        raise JobError(f"calibration: {error}") from error
    return Calibrated(reference.to_bytes(), builder.frames, unread, classifier.fingerprint)
