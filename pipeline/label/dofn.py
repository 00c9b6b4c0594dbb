"""`LabelStream`, the stateful step as a Beam DoFn keyed by partition and stream, and the process's objects behind it.

Beam state is per key *and window*, so the graph re-windows to global before it. A stream's state comes from the last
commit when the slice first meets the stream, is read and written through our own codec, and is written last: a batch
that fails leaves it as it was.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import torch
from apache_beam.coders import VarIntCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from grpo_tta import Classifier, create_method, keep_freed_memory, load_classifier
from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.images import Canvas, CanvasSpec, ImageLimits, decode
from grpo_tta.adapters.storage.fetch import Fetcher
from grpo_tta.adapters.storage.filesystems import scheme_of
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.policy import UriPolicy
from grpo_tta.classifier import ModelError
from grpo_tta.guard import DriftGuard
from grpo_tta.guard.reference import Reference
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackReader
from grpo_tta.pipeline.config.classes import read_labels
from grpo_tta.pipeline.config.job import JobConfig, is_kafka, parse_duration
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.label.coders import StreamBatch, StreamStateCoder
from grpo_tta.pipeline.label.labeler import Labeled, StreamLabeler
from grpo_tta.pipeline.label.records import RecordMaker
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.status import partition_logs
from grpo_tta.schemas import Commit, DriftEvent
from grpo_tta.state import ForeignStateError, StateVersionError, StreamState, check_state, decode_state, encode_state
from grpo_tta.types import Method

_log = logging.getLogger(__name__)
_labelers: dict[str, StreamLabeler] = {}
_lock = threading.Lock()

STATES, COUNTERS = "states", "counters"
StreamKey = tuple[str, str]
"""Partition and stream: a stream lives in one partition, its state is the partition's."""


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


def job_labeler(config: JobConfig) -> StreamLabeler:
    """The process's labeler for a configuration, made once: one read-only model a process."""
    key = labeler_key(config)
    with _lock:
        if key not in _labelers:
            keep_freed_memory()
            _labelers.clear()
            _labelers[key] = _make_labeler(config)
        return _labelers[key]


def images_labelled(config: JobConfig) -> int:
    """How many this process has labelled for a configuration, the running slice included; 0 before the model is
    there."""
    labeler = _labelers.get(labeler_key(config))
    return 0 if labeler is None else labeler.labelled


def labeler_key(config: JobConfig) -> str:
    """Equal for configurations that one labeler serves."""
    return repr((config.fingerprint(), config.model, config.source.url, config.run.readers))


def _make_labeler(config: JobConfig) -> StreamLabeler:
    started = time.monotonic()
    classifier = load_job_classifier(config)
    load_seconds = time.monotonic() - started
    try:
        settings = config.method.settings if config.method.name == "grpo" else None
        method = create_method(config.method.name, classifier, settings)
        guard = DriftGuard(config.guard.settings, classifier.class_vectors, load_reference(config, classifier))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    _check_state_size(method, config.checkpoint.max_state_bytes)
    make = RecordMaker(
        classifier.class_names,
        classifier.fingerprint,
        method.name,
        top_k=config.output.top_k,
        min_probability=config.output.min_probability,
    )
    labeler = StreamLabeler(
        method,
        guard,
        make,
        ImageReader.make(config, classifier),
        config.event_time.windows(),
        settings_fingerprint=config.method_fingerprint(),
        allowed_lateness=parse_duration(config.event_time.allowed_lateness),
        max_batch_size=config.max_batch_size,
        readers=config.run.readers,
    )
    labeler.load_seconds = load_seconds
    labeler.model_bytes = sum(t.numel() * t.element_size() for t in classifier.visual.state_dict().values())
    return labeler


def uri_policy(config: JobConfig) -> UriPolicy:
    """What events may point at: below the source's own folder, and ``allow_uris``; a topic has no folder.

    Raises `ConfigurationError`.
    """
    allowed = config.source.allow_uris
    try:
        if is_kafka(config.source.url):
            return UriPolicy({scheme_of(prefix) for prefix in allowed} or {"file"}, allowed)
        return UriPolicy.for_source(config.source.url, allowed)
    except ValueError as error:
        raise ConfigurationError(f"source: {error}") from error


def _check_state_size(method: Method, most: int) -> None:
    """A stream's state goes through shuffles and checkpoints: it must stay small."""
    state = method.initial_state()
    size = sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, torch.Tensor))
    if size > most:
        raise ConfigurationError(
            f"a stream's state of method {method.name} would take {size} bytes, checkpoint.max_state_bytes is {most}: "
            "tune fewer parameters (--tune norm), use --mode episodic, or raise the bound"
        )


@dataclass(frozen=True)
class ImageReader:
    """Fetches and decodes one event's image."""

    fetcher: Fetcher
    spec: CanvasSpec
    limits: ImageLimits

    @classmethod
    def make(cls, config: JobConfig, classifier: Classifier) -> "ImageReader":
        """With the source's policy and limits and the model's own preprocessing."""
        return cls(
            Fetcher(uri_policy(config), max_bytes=config.source.max_image_bytes),
            canvas_of(classifier),
            ImageLimits(max_bytes=config.source.max_image_bytes, max_pixels=config.source.max_image_pixels),
        )

    def __call__(self, ref: ImageRef) -> Canvas:
        """uint8 ``[3, H, W]``."""
        return decode(self.fetcher.fetch(ref), self.spec, self.limits)


def canvas_of(classifier: Classifier) -> CanvasSpec:
    """What an image is decoded to for this model."""
    cfg = classifier.preprocess
    return CanvasSpec(cfg.size[0], cfg.size[1], cfg.interpolation, cfg.resize_mode, cfg.fill_color)


class Origin(NamedTuple):
    """What the streams of a partition start from: its newest commit, where its log with the packed states lies, and
    the streams that are to be reset first."""

    commit: Commit | None
    checkpoint_url: str
    resets: tuple[str, ...] = ()


class LabelStream(beam.DoFn):
    """``((partition, stream), StreamBatch)`` -> ``(partition, record)``, and the tagged outputs ``states`` of
    ``((partition, stream), encoded state)`` and ``counters`` of ``(partition, Counters)``.

    ``origins``: what each partition's streams start from.
    """

    STATE = ReadModifyWriteStateSpec("stream", StreamStateCoder())
    STRETCHES = ReadModifyWriteStateSpec("stretches", VarIntCoder())
    """How many the slice has stepped: a runner that lets one overtake another is noticed."""

    def __init__(self, config: JobConfig, origins: Mapping[str, Origin]) -> None:
        self._config = config
        self._origins = dict(origins)
        self._reset_foreign = config.checkpoint.on_state_mismatch == "reset"

    def setup(self) -> None:
        """Take the process's labeler; nothing is connected before."""
        self._labeler = job_labeler(self._config)
        self._loaded = False
        self._known: dict[str, frozenset[str]] | None = None
        self._packs = {name: PackReader(ObjectStore(at.checkpoint_url)) for name, at in self._origins.items()}
        torch.set_grad_enabled(True)

    def process(
        self,
        element: tuple[StreamKey, StreamBatch],
        cell: Any = beam.DoFn.StateParam(STATE),
        stretches: Any = beam.DoFn.StateParam(STRETCHES),
    ) -> Iterator[Any]:
        """Step one stretch of a stream."""
        self._count_load()
        key, batch = element
        partition, stream = key
        expected = stretches.read() or 0
        if batch.index != expected:
            raise RuntimeError(f"stream {stream!r}: stretch {batch.index} came where {expected} was expected")
        state = cell.read()
        drift: list[DriftEvent] = []
        if state is None:
            state, drift = self._first(partition, stream, batch)
        reset = batch.index == 0 and stream in self._origins[partition].resets
        try:
            labeled = self._labeler.label(batch.events, state, reset=reset)
        except Exception:
            Metrics.counter(type(self), "failed_batches_counter").inc()
            raise
        labeled.drift[:0] = drift
        self._count(labeled)
        for kind in (labeled.labels, labeled.adaptation, labeled.drift, labeled.dead_letters):
            for record in kind:
                yield partition, record
        yield beam.pvalue.TaggedOutput(COUNTERS, (partition, labeled.counters()))
        encoded = encode_state(labeled.state) if batch.last else None
        if encoded is not None:
            self._distribution("state_bytes", len(encoded))
            metrics.STATE_BYTES.observe(len(encoded))
            guard = self._labeler.guard
            metrics.observe_guard(guard.standing(labeled.state.guard), guard.thresholds())
            yield beam.pvalue.TaggedOutput(STATES, (key, encoded))
        cell.write(labeled.state)
        stretches.write(batch.index + 1)

    def _first(self, partition: str, stream: str, batch: StreamBatch) -> tuple[StreamState, list[DriftEvent]]:
        commit = self._origins[partition].commit
        pack = commit.states.get(stream) if commit else None
        if pack is None:
            fresh = self._labeler.initial_state()
            before = self._elsewhere(partition, stream)
            if before is None:
                return fresh, []
            said = f"the stream was in partition {before} before: it starts afresh here"
            _log.warning("stream %s in partition %s: %s", stream, partition, said)
            return fresh, [self._labeler.make.foreign_state(batch.events[0], said, frame=0)]
        try:
            state = decode_state(self._packs[partition].read(pack, stream))
            make = self._labeler.make
            check_state(state, make.model_fingerprint, make.method, self._config.method_fingerprint())
        except (ForeignStateError, StateVersionError) as error:
            if not self._reset_foreign:
                raise
            _log.warning("stream %s starts afresh: %s", stream, error)
            fresh = self._labeler.initial_state()
            return fresh, [self._labeler.make.foreign_state(batch.events[0], str(error), frame=0)]
        return state, []

    def _elsewhere(self, partition: str, stream: str) -> str | None:
        """Another partition of a live job that knows the stream: its key went to another partition."""
        if not is_kafka(self._config.source.url):
            return None
        if self._known is None:
            commits = {
                name: CheckpointLog(store).latest()
                for name, store in partition_logs(self._config.checkpoint_url).items()
            }
            self._known = {name: frozenset(commit.states) for name, commit in commits.items() if commit is not None}
        return next((name for name, known in self._known.items() if name != partition and stream in known), None)

    def _count_load(self) -> None:
        """Once a DoFn: metrics cannot be kept outside of a bundle."""
        if not self._loaded:
            self._loaded = True
            self._distribution("load_model_latency_milli_secs", round(self._labeler.load_seconds * 1000))
            self._distribution("model_byte_size", self._labeler.model_bytes)

    def _distribution(self, name: str, value: int) -> None:
        Metrics.distribution(type(self), name).update(value)

    def _count(self, labeled: Labeled) -> None:
        counters = labeled.counters()
        for name, value in (
            ("num_inferences", counters.labels),
            ("events", counters.events),
            ("labels", counters.labels),
            ("dead_letters", counters.dead_letters),
            ("updates", counters.updates),
            *((f"resets_{cause}", count) for cause, count in counters.resets.items()),
        ):
            if value:
                Metrics.counter(type(self), name).inc(value)
        for batch in labeled.batches:
            self._distribution("inference_request_batch_size", batch.images)
            self._distribution("inference_request_batch_byte_size", batch.bytes)
            self._distribution("inference_batch_latency_micro_secs", round(batch.seconds * 1e6))
        metrics.observe_labels(labeled.labels, time.time())
        metrics.observe_updates(labeled.adaptation)
