"""`LabelImages`: events of a bounded PCollection -> labels, drift events, adaptation log, dead letters, their sums and
states."""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zlib import crc32

import apache_beam as beam
import torch
from apache_beam.transforms.window import GlobalWindows, TimestampedValue

import grpo_tta.beam.records  # noqa: F401  (registers how records travel)
from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.rows import KINDS, Row
from grpo_tta.beam.config import Config, config_of
from grpo_tta.beam.events import Event, to_ref
from grpo_tta.beam.read import ReadImages
from grpo_tta.pipeline.config.job import parse_duration
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.errors import JobError
from grpo_tta.pipeline.graph import NOTED, KeyByShard, MonitorBad
from grpo_tta.pipeline.label.dofn import COUNTERS, STATES, LabelStreams, Origin, ShardKey
from grpo_tta.pipeline.label.load import leave_labeler, take_labeler, uri_policy
from grpo_tta.pipeline.label.monitor import monitor_of
from grpo_tta.schemas import Counters, DeadLetter

_HERE = ""
"""The one partition of a pipeline's streams."""
_BAD, _REFS, _RECORDS = "bad", "refs", "records"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
State = tuple[str, bytes]
"""A stream and its encoded state (`grpo_tta.decode_state`)."""


class LabelError(JobError):
    """An event that cannot be labelled, of a `LabelImages` without exception handling."""


class LabelResults(NamedTuple):
    """What `LabelImages` gives. Records have their events' times as timestamps, in the global window."""

    labels: beam.PCollection
    """`LabeledImage`, one for every event that could be labelled."""
    drift: beam.PCollection
    """`DriftEvent`, whatever the guard noticed."""
    adaptation: beam.PCollection
    """`AdaptationLog`, one for every update and every reset."""
    dead_letters: beam.PCollection
    """`DeadLetter`, one for every event that could not be labelled; empty without `with_exception_handling`."""
    monitor: beam.PCollection
    """`MonitorRecord`, what the events of a stream and time add up to, for ``grpo-tta report``."""
    states: beam.PCollection
    """``(stream, bytes)``: what a later run goes on from, of every stream that was stepped or given."""


class LabelImages(beam.PTransform):
    """Label images, stream by stream, with a model that adapts itself to each.

    Takes a bounded PCollection of `ImageEvent`, mappings or Beam rows with its fields, or what `ReadImages` gives.
    ``data`` of a mapping or row is the image file as bytes, or base64 text. Events of a stream are stepped in order of
    event time, whatever order they come in::

        >>> photos = os.path.abspath("photos")
        >>> when = "2026-01-01T06:00:00Z"
        >>> events = [{"id": "a", "stream": "door", "event_time": when, "uri": f"{photos}/a.jpg"}]
        >>> with beam.Pipeline(runner="FnApiRunner") as pipeline:
        ...     results = (
        ...         pipeline
        ...         | beam.Create(events)
        ...         | LabelImages({"source": {"allow_uris": [photos]}}).with_exception_handling()
        ...     )
        ...     _ = results.labels | beam.Map(lambda record: print(record.id, record.stream, record.method))
        a door grpo-online

    Events travel as references: prefer ``uri`` to ``data``, for a shard's events are in memory together. The model is
    loaded once a process. The same streams, images and settings give the labels of ``grpo-tta label``.

    Args:
        config: a job's configuration, its values or a YAML file; ``source.url`` or ``source.allow_uris`` say what
            events may point at, by absolute paths or URLs; outputs and checkpoint are not used.
        states: ``(stream, bytes)`` of an earlier run, its ``states`` or `ReadStates`; other streams start afresh.
        shards: of streams, stepped side by side where the runner has as many workers.

    Raises `ConfigurationError` for a bad configuration and ValueError for ``shards`` under 1 or an unbounded input.
    """

    def __init__(self, config: Config, *, states: beam.PCollection | None = None, shards: int = 16) -> None:
        super().__init__()
        if shards < 1:
            raise ValueError(f"shards must be >= 1, got {shards}")
        self._job = ResolvedJob.of(config_of(config))
        uri_policy(self._job.config)
        self._states = states
        self._shards = shards
        self._source: ReadImages | None = None
        self._threshold: float | None = None
        self._error_handler: Any = None
        self._step_hints: dict[str, Any] = {}

    @classmethod
    def from_source(cls, url: str, config: Config, **options: Any) -> "LabelImages":
        """Applied to a pipeline: label a folder, glob, bucket or manifest, whose images may lie below its own folder.

        ``source.stream_pattern``, ``source.time_pattern`` and ``source.every`` count as in a job.
        """
        transform = cls(config_of(config, source={"url": url}), **options)
        source = transform._job.config.source
        transform._source = ReadImages(url, source.stream_pattern, source.time_pattern, source.every)
        return transform

    from_manifest = from_source

    def with_exception_handling(self, *, threshold: float = 1.0) -> "LabelImages":
        """Events that cannot be labelled become dead letters; by default the first of them fails its bundle.

        ``threshold``: the pipeline fails where more than this share of all events do. Whatever may pass (a store that
        is away, want of memory) fails the bundle in any case, and the runner tries it again.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be within 0..1, got {threshold}")
        self._threshold = threshold
        return self

    def with_error_handler(self, error_handler: Any, *, threshold: float = 1.0) -> "LabelImages":
        """As `with_exception_handling`, and the dead letters go to Beam's ``ErrorHandler`` too."""
        self._error_handler = error_handler
        return self.with_exception_handling(threshold=threshold)

    def with_resource_hints(self, **hints: Any) -> "LabelImages":
        """Hints for the step with the model alone, such as ``accelerator="type:nvidia-l4;count:1"``."""
        self._step_hints.update(hints)
        return self

    def expand(self, pbegin_or_events: Any):  # type: ignore[no-untyped-def]  # Beam reads no other hint
        """`LabelResults`. Nothing is loaded or connected here."""
        events = pbegin_or_events if self._source is None else pbegin_or_events | self._source
        if not events.is_bounded:
            raise ValueError(
                "LabelImages takes a bounded PCollection: a topic or folder that never ends is labelled by "
                "'grpo-tta label --source kafka://HOST:PORT/TOPIC' or '--follow'"
            )
        strict = self._threshold is None
        keyed = (
            events
            | "Global" >> beam.WindowInto(GlobalWindows())
            | "ToRefs" >> beam.ParDo(_ToRefs()).with_output_types(tuple[str, Any])
            | "KeyByShard"
            >> beam.ParDo(KeyByShard({_HERE: self._latest()}, {_HERE: self._shards})).with_outputs(
                _BAD, NOTED, main=_REFS
            )
        )
        step = beam.ParDo(_LabelGroups(self._job))
        if self._job.config.model.device == "cuda" or self._step_hints:
            step = step.with_resource_hints(**{"max_active_bundles_per_worker": "1", **self._step_hints})
        labelled = self._grouped(keyed) | "LabelStreams" >> step.with_outputs(STATES, COUNTERS, main=_RECORDS)
        bad = keyed[_BAD] | "BadTogether" >> beam.GroupByKey()
        monitored = bad | "MonitorBad" >> beam.ParDo(_MonitorBad(self._job))
        rows = (keyed[_BAD], labelled[_RECORDS], monitored) | "Rows" >> beam.Flatten()
        kinds = {
            kind: rows | f"To {kind}" >> beam.ParDo(_Records(kind, strict=strict)).with_output_types(model)
            for kind, model in KINDS.items()
        }
        states = labelled[STATES] | "States" >> beam.Map(_of_stream).with_output_types(State)
        self._check_share(keyed[_BAD], labelled[COUNTERS])
        if self._error_handler is not None:
            self._error_handler.add_error_pcollection(kinds["dead_letters"])
        return LabelResults(**kinds, states=states)

    def _latest(self) -> int:
        """The newest time that is believed, counted from when the pipeline was made."""
        return round(time.time() * 1e6) + parse_duration(self._job.config.event_time.max_future)

    def _grouped(self, keyed: beam.PCollection) -> beam.PCollection:
        """``(shard, (references, states))``."""
        refs = keyed[_REFS] | "Refs" >> beam.Map(lambda pair: pair).with_output_types(tuple[ShardKey, ImageRef])
        if self._states is None:
            return refs | "ByShard" >> beam.GroupByKey() | "NoStates" >> beam.MapTuple(_without_states)
        states = (
            self._states
            | "GlobalStates" >> beam.WindowInto(GlobalWindows())
            | "StatesByShard"
            >> beam.Map(_state_by_shard, self._shards).with_output_types(tuple[ShardKey, tuple[str, bytes]])
        )
        return {"refs": refs, "states": states} | "ByShard" >> beam.CoGroupByKey() | "Joined" >> beam.MapTuple(_joined)

    def _check_share(self, bad: beam.PCollection, counted: beam.PCollection) -> None:
        if self._threshold is None or self._threshold >= 1:
            return
        counts = (
            bad | "CountBad" >> beam.Map(lambda _: Counters(events=1, dead_letters=1)),
            counted | "Counters" >> beam.Map(lambda pair: pair[1]),
        ) | "Counts" >> beam.Flatten()
        _ = (
            counts
            | "OneKey" >> beam.Map(lambda count: (0, count)).with_output_types(tuple[int, Any])
            | "Together" >> beam.GroupByKey()
            | "CheckShare" >> beam.Map(_check_share, self._threshold)
        )


class _ToRefs(beam.DoFn):
    """Events -> ``(partition, ImageRef | BadRecord)``."""

    def process(self, element: Event) -> Iterator[tuple[str, ImageRef | BadRecord]]:
        yield _HERE, to_ref(element)


class _LabelGroups(LabelStreams):
    """``(shard, (references, states))``: `LabelStreams` with states that came along instead of a checkpoint's."""

    def __init__(self, job: ResolvedJob) -> None:
        super().__init__(job, {_HERE: Origin(None, None)})
        self._threads = job.config.model.threads

    def setup(self) -> None:
        super().setup()
        if self._threads:
            torch.set_num_threads(self._threads)

    def process(self, element: Any) -> Iterator[Any]:
        key, (refs, states) = element
        self.brought = left = dict(states)
        stepped = set()
        for found in super().process((key, refs)):
            if getattr(found, "tag", None) == STATES:
                stepped.add(found.value[0][1])
            yield found
        for stream in sorted(left.keys() - stepped):
            yield beam.pvalue.TaggedOutput(STATES, ((_HERE, stream), left[stream]))


class _MonitorBad(MonitorBad):
    """`MonitorBad`; whose model it is shows when it is loaded."""

    def __init__(self, job: ResolvedJob) -> None:
        super().__init__({})
        self._job = job

    def setup(self) -> None:
        model = take_labeler(self._job).make.model_fingerprint
        self._makers = {_HERE: monitor_of(self._job, model)}

    def teardown(self) -> None:
        leave_labeler(self._job)


class _Records(beam.DoFn):
    """Rows -> the records of one kind, at their events' times. ``strict``: a dead letter is an error."""

    def __init__(self, kind: str, *, strict: bool) -> None:
        self._kind = kind
        self._strict = strict

    def process(self, element: tuple[str, Row]) -> Iterator[Any]:
        row = element[1]
        if row.kind != self._kind:
            return
        record: Any = row.record()
        if self._strict and isinstance(record, DeadLetter):
            raise LabelError(
                f"{record.coordinate}: {record.stage}: {record.error_class}: {record.error_message} "
                "(LabelImages(...).with_exception_handling() makes it a dead letter)"
            )
        moment = getattr(record, "event_time", None)
        at = 0.0 if moment is None else (moment - _EPOCH) / timedelta(seconds=1)
        yield TimestampedValue(record, at)


def _of_stream(changed: tuple[tuple[str, str], bytes]) -> State:
    return changed[0][1], changed[1]


def _state_by_shard(state: State, shards: int) -> tuple[ShardKey, State]:
    return (_HERE, crc32(state[0].encode("utf-8", "surrogatepass")) % shards), state


def _without_states(key: ShardKey, refs: Iterable[ImageRef]) -> Any:
    return key, (refs, ())


def _joined(key: ShardKey, found: Mapping[str, Iterable[Any]]) -> Any:
    return key, (found["refs"], found["states"])


def _check_share(grouped: tuple[int, Iterable[Counters]], share: float) -> None:
    total = Counters()
    for count in grouped[1]:
        total = total.plus(count)
    if total.dead_letters > share * total.events:
        raise LabelError(
            f"{total.dead_letters} of {total.events} events could not be labelled, more than the threshold of {share}"
        )
