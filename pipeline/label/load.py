"""What a process makes of a job before it labels: the model, the guard's reference, the reader of images, the labeler.

A labeler, and with it the model, is shared by all that runs for one job in a process, and goes when the last of them
lets go of it: jobs side by side keep each other's, jobs one after another do not pile up.
"""

import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from grpo_tta import Classifier, create_method, keep_freed_memory, load_classifier
from grpo_tta.adapters.canvases import CanvasReader
from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.images import Canvas, CanvasSpec, ImageLimits, Repaired
from grpo_tta.adapters.storage.fetch import Fetcher
from grpo_tta.checks import ModelError
from grpo_tta.device import resolve_device
from grpo_tta.guard import DriftGuard, Reference
from grpo_tta.images import canvas_spec
from grpo_tta.pipeline.checkpoint.cache import StateCache
from grpo_tta.pipeline.checkpoint.partition import Fingerprints
from grpo_tta.pipeline.config.classes import read_labels
from grpo_tta.pipeline.config.job import JobConfig, parse_duration
from grpo_tta.pipeline.config.policy import uri_policy
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.label.labeler import StreamLabeler
from grpo_tta.pipeline.label.records import RecordMaker
from grpo_tta.pipeline.versions import versions

_BATCH_SIZES = {"cpu": 64, "cuda": 256}
"""By device: a GPU is idle under small forwards."""


def load_job_classifier(config: JobConfig) -> Classifier:
    """The model and classes of a job; raises `ConfigurationError`."""
    names, prompts = read_labels(config.labels.file) if config.labels.file else (None, None)
    if config.model.name is not None and config.labels.file is None and config.labels.class_vectors is None:
        raise ConfigurationError(
            f"labels.file: model {config.model.name} brings no classes: name them with --labels FILE, or give "
            "--class-vectors FILE"
        )
    try:
        return load_classifier(
            config.model,
            class_names=names,
            templates=config.labels.templates or None,
            prompts=prompts,
            class_vectors=config.labels.class_vectors,
        )
    except ModelError as error:
        raise ConfigurationError(str(error)) from error


def load_reference(config: JobConfig, classifier: Classifier) -> Reference | None:
    """The guard's shared reference, if one is configured; raises `ConfigurationError`."""
    if config.guard.reference is None:
        return None
    try:
        reference = Reference.from_bytes(Path(config.guard.reference).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"reference {config.guard.reference}: {error}") from error
    if reference.fingerprint != classifier.fingerprint:
        raise ConfigurationError(
            f"reference {config.guard.reference} was calibrated with model {reference.fingerprint}, this one is "
            f"{classifier.fingerprint}: run 'grpo-tta calibrate' with this model and these classes"
        )
    return reference


@dataclass
class _Shared:
    labeler: StreamLabeler
    users: int
    states: StateCache


_shared: dict[str, _Shared] = {}
_lock = threading.Lock()


def take_labeler(job: ResolvedJob) -> StreamLabeler:
    """The process's labeler for a job, made where there is none; `leave_labeler` is to follow.

    Raises `ConfigurationError`, also where a file that the job was begun with holds something else by now.
    """
    with _lock:
        if job.key not in _shared:
            keep_freed_memory()
            job.check_files()
            labeler = _make_labeler(job)
            try:
                job.check_files()  # nor while they were read
            except BaseException:
                labeler.close()
                raise
            _shared[job.key] = _Shared(labeler, 0, StateCache())
        shared = _shared[job.key]
        shared.users += 1
        return shared.labeler


def leave_labeler(job: ResolvedJob) -> None:
    """The counterpart of `take_labeler`: the last to leave ends the labeler's threads and lets go of the model."""
    with _lock:
        shared = _shared.get(job.key)
        if shared is None:
            return
        shared.users -= 1
        if shared.users <= 0:
            del _shared[job.key]
            shared.labeler.close()


@contextmanager
def labeler_of(job: ResolvedJob) -> Iterator[StreamLabeler]:
    """`take_labeler` and `leave_labeler` around a block."""
    labeler = take_labeler(job)
    try:
        yield labeler
    finally:
        leave_labeler(job)


def states_held(job: ResolvedJob) -> StateCache | None:
    """What this process holds of a job's states; ``None`` where nothing runs for it here."""
    shared = _shared.get(job.key)
    return None if shared is None else shared.states


def images_labelled(job: ResolvedJob) -> int:
    """How many this process has labelled for a job, the running slice included; 0 before the model is there."""
    shared = _shared.get(job.key)
    return 0 if shared is None else shared.labeler.labelled


def _make_labeler(job: ResolvedJob) -> StreamLabeler:
    config = job.config
    started = time.monotonic()
    classifier = load_job_classifier(config)
    load_seconds = time.monotonic() - started
    try:
        method = create_method(config.method.name, classifier, config.method.settings)
        guard = DriftGuard(config.guard.settings, classifier.class_vectors, load_reference(config, classifier))
        make = RecordMaker(
            classifier.class_names,
            classifier.fingerprint,
            method.name,
            top_k=config.output.top_k,
            min_probability=config.output.min_probability,
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    labeler = StreamLabeler(
        method,
        guard,
        make,
        ImageReader.make(config, classifier),
        config.event_time.windows(),
        settings_fingerprint=job.method_fingerprint,
        allowed_lateness=parse_duration(config.event_time.allowed_lateness),
        max_batch_size=batch_size(config),
        readers=config.run.readers,
    )
    _check_state_size(labeler, config.checkpoint.max_state_bytes)
    labeler.load_seconds = load_seconds
    labeler.model_bytes = sum(t.numel() * t.element_size() for t in classifier.visual.state_dict().values())
    return labeler


def batch_size(config: JobConfig) -> int:
    """Images of all streams in one forward, at most; by default fewer where several views of each are trained on."""
    if config.max_batch_size is not None:
        return config.max_batch_size
    device, views = resolve_device(config.model.device).type, getattr(config.method.settings, "confident_views", 1)
    return max(1, _BATCH_SIZES.get(device, _BATCH_SIZES["cpu"]) // views)


def fingerprints_of(job: ResolvedJob, labeler: StreamLabeler, source: str) -> Fingerprints:
    """What the labels of this process depend on."""
    device = resolve_device(job.config.model.device).type
    packages = " ".join(f"{name}-{number}" for name, number in versions().items())
    return Fingerprints(
        job.fingerprint,
        labeler.make.model_fingerprint,
        source,
        torch.get_num_threads(),
        f"{device} {platform.machine()} {packages}",
    )


def kind_of(job: ResolvedJob, labeler: StreamLabeler) -> tuple[str, str, str]:
    """Model, method and its settings, to which a calibration belongs."""
    return labeler.make.model_fingerprint, *job.config.method.kind()


def _check_state_size(labeler: StreamLabeler, most: int) -> None:
    """A stream's state goes through shuffles and checkpoints: it must stay small."""
    size = labeler.largest_state_bytes
    if size > most:
        raise ConfigurationError(
            f"a stream's state of method {labeler.method.name} would take {size} bytes, checkpoint.max_state_bytes is "
            f"{most}: tune fewer parameters (--tune norm), update more often where windows of images are kept "
            "(update_every), use --mode episodic, or raise the bound"
        )


class ImageReader:
    """Fetches and decodes one event's image, as the model wants it."""

    def __init__(self, fetcher: Fetcher, spec: CanvasSpec, limits: ImageLimits) -> None:
        self._read = CanvasReader(fetcher, limits)
        self.spec = spec
        self.limits = limits

    @classmethod
    def make(cls, config: JobConfig, classifier: Classifier) -> "ImageReader":
        """With the source's policy and limits and the model's own preprocessing."""
        return cls(
            Fetcher(uri_policy(config), max_bytes=config.source.max_image_bytes),
            canvas_spec(classifier),
            ImageLimits(max_bytes=config.source.max_image_bytes, max_pixels=config.source.max_image_pixels),
        )

    def __call__(self, ref: ImageRef, repaired: Repaired | None = None) -> Canvas:
        """uint8 ``[3, H, W]``."""
        return self._read(ref, self.spec, repaired)
