"""`LabelStreams`, the step as a Beam DoFn: all events of a shard of a slice in, records and new states out.

A shard is a partition's streams whose names hash alike, so one call sees many streams and steps them together. A
stream's state comes from the last commit and is given out once, behind its records: a slice that fails changes none.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import torch
from apache_beam.metrics import Metrics

from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.known import known_streams
from grpo_tta.pipeline.checkpoint.packs import PackReader
from grpo_tta.pipeline.config.job import is_kafka
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.label.labeled import Labeled
from grpo_tta.pipeline.label.load import leave_labeler, states_held, take_labeler
from grpo_tta.pipeline.label.monitor import monitor_of
from grpo_tta.pipeline.label.records import WindowedRef
from grpo_tta.pipeline.label.rounds import Asked
from grpo_tta.pipeline.watch import metrics
from grpo_tta.schemas import Commit, DriftEvent
from grpo_tta.state import ForeignStateError, StateVersionError, StreamState, check_state, decode_state, encode_state

_log = logging.getLogger(__name__)

STATES, COUNTERS = "states", "counters"
ShardKey = tuple[str, int]
"""Partition and the number of a shard of its streams."""
StreamKey = tuple[str, str]
"""Partition and stream: a stream lives in one partition, its state is the partition's."""


class Origin(NamedTuple):
    """What the streams of a partition start from: its newest commit, where its log with the packed states lies,
    the streams that are to be reset first, and whether images are only labelled. Without a log they start from what
    `LabelStreams.brought` holds."""

    commit: Commit | None
    checkpoint_url: str | None
    resets: tuple[str, ...] = ()
    shed: bool = False


class LabelStreams(beam.DoFn):
    """``((partition, shard), references)`` -> ``(partition, Row)``, and the tagged outputs ``states`` of
    ``((partition, stream), encoded state)`` and ``counters`` of ``(partition, Counters)``.

    ``origins``: what each partition's streams start from.
    """

    def __init__(self, job: ResolvedJob, origins: Mapping[str, Origin]) -> None:
        self._job = job
        self._origins = dict(origins)
        self.brought: Mapping[str, bytes] = {}
        """Encoded states by stream, of partitions without a log."""
        self.once = False
        """See `Asked.once`."""
        self._reset_foreign = job.config.checkpoint.on_state_mismatch == "reset"

    def setup(self) -> None:
        """Take the process's labeler; nothing is connected before."""
        self._labeler = take_labeler(self._job)
        self._monitor = monitor_of(self._job, self._labeler.make.model_fingerprint)
        self._loaded = False
        self._known: Mapping[str, frozenset[str]] | None = None
        held = states_held(self._job)
        self._packs = {
            name: PackReader(ObjectStore(at.checkpoint_url), held, at.commit)
            for name, at in self._origins.items()
            if at.checkpoint_url is not None
        }
        torch.set_grad_enabled(True)

    def teardown(self) -> None:
        """Let go of the labeler."""
        leave_labeler(self._job)

    def process(self, element: tuple[ShardKey, Iterable[ImageRef]]) -> Iterator[Any]:
        """Step all streams of a shard, in rounds of many."""
        self._count_load()
        (partition, _), refs = element
        streams: dict[str, list[ImageRef]] = {}
        for ref in refs:
            streams.setdefault(ref.stream, []).append(ref)
        told: dict[str, list[DriftEvent]] = {}
        try:
            for stream, labeled in self._labeler.label_many(self._asked(partition, streams, told)):
                labeled.drift[:0] = told.pop(stream)
                yield from self._given(partition, stream, labeled)
        except Exception:
            Metrics.counter(type(self), "failed_batches_counter").inc()
            raise

    def _asked(
        self, partition: str, streams: dict[str, list[ImageRef]], told: dict[str, list[DriftEvent]]
    ) -> Iterator[Asked]:
        """The streams by name, taken out of ``streams`` one by one; what is to be told of each goes to ``told``."""
        for stream in sorted(streams):
            refs = sorted(streams.pop(stream), key=lambda ref: (ref.event_time, ref.coordinate))
            events = self._labeler.in_windows(refs)
            state, told[stream] = self._first(partition, stream, events[0])
            origin = self._origins[partition]
            yield Asked(stream, events, state, reset=stream in origin.resets, shed=origin.shed, once=self.once)

    def _given(self, partition: str, stream: str, labeled: Labeled) -> Iterator[Any]:
        self._count(labeled)
        kinds = (labeled.labels, labeled.adaptation, labeled.drift, labeled.dead_letters)
        monitors = self._monitor.records(*kinds)
        metrics.observe_monitor(monitors)
        for kind in (*kinds, monitors):
            for record in kind:
                yield partition, Row.of(record)
        yield beam.pvalue.TaggedOutput(COUNTERS, (partition, labeled.counters()))
        encoded = encode_state(labeled.state)
        self._distribution("state_bytes", len(encoded))
        metrics.STATE_BYTES.observe(len(encoded))
        guard = self._labeler.guard
        metrics.observe_guard(guard.standing(labeled.state.guard), guard.thresholds())
        yield beam.pvalue.TaggedOutput(STATES, ((partition, stream), encoded))

    def _first(self, partition: str, stream: str, event: WindowedRef) -> tuple[StreamState, list[DriftEvent]]:
        """What the stream goes on from, and what is to be told of it."""
        data = self._encoded(partition, stream)
        if data is None:
            fresh = self._labeler.initial_state()
            before = self._elsewhere(partition, stream)
            if before is None:
                return fresh, []
            said = f"the stream was in partition {before} before: it starts afresh here"
            _log.warning("stream %s in partition %s: %s", stream, partition, said)
            return fresh, [self._labeler.make.foreign_state(event, said, frame=0)]
        try:
            state = decode_state(data)
            make = self._labeler.make
            check_state(state, make.model_fingerprint, make.method, self._job.method_fingerprint)
        except (ForeignStateError, StateVersionError) as error:
            if not self._reset_foreign:
                raise
            _log.warning("stream %s starts afresh: %s", stream, error)
            return self._labeler.initial_state(), [self._labeler.make.foreign_state(event, str(error), frame=0)]
        return state, []

    def _encoded(self, partition: str, stream: str) -> bytes | None:
        """The state to go on from; ``None`` of a stream that is new."""
        if partition not in self._packs:
            return self.brought.get(stream)
        commit = self._origins[partition].commit
        pack = commit.states.get(stream) if commit else None
        return None if pack is None else self._packs[partition].read(pack, stream)

    def _elsewhere(self, partition: str, stream: str) -> str | None:
        """Another partition of a live job that knows the stream: its key went to another partition."""
        if partition not in self._packs or not is_kafka(self._job.config.source.url):
            return None
        if self._known is None:
            own = {name: at.commit for name, at in self._origins.items()}
            self._known = known_streams(self._job.config.checkpoint_url, own)
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
