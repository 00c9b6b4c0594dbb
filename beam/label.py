"""`LabelImages`: events -> labels, drift events, adaptation log, dead letters, their sums and states.

Of a bounded input streams are grouped and stepped in one call, which needs no state of Beam's; one that never ends is
stepped by `beam.continuous`. What goes in and what comes out are the same.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows, TimestampedValue

import grpo_tta.beam.records  # noqa: F401  (registers how records travel)
from grpo_tta.adapters.events import BadRecord, ImageRef, group_of
from grpo_tta.adapters.rows import KINDS, Row
from grpo_tta.beam.config import Config, check_shards, config_of, place_of
from grpo_tta.beam.continuous import HERE, KeyByStream, LabelContinuously, LabelHere
from grpo_tta.beam.events import Event, to_ref
from grpo_tta.beam.read import ReadImages
from grpo_tta.beam.runners import check_bounded, check_continuous, check_windows, keep_bundles_whole
from grpo_tta.beam.states import ReadStates, State, newest_states
from grpo_tta.pipeline.config.job import parse_duration
from grpo_tta.pipeline.config.policy import uri_policy
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.graph import NOTED, KeyByShard, MonitorBad
from grpo_tta.pipeline.label.dofn import COUNTERS, STATES, ShardKey
from grpo_tta.pipeline.label.load import leave_labeler, take_labeler
from grpo_tta.pipeline.label.monitor import monitor_of
from grpo_tta.schemas import AdaptationLog, Counters, DeadLetter, DriftEvent, LabeledImage, MonitorRecord

_BAD, _REFS, _RECORDS = "bad", "refs", "records"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LabelError(JobError):
    """An event that cannot be labelled, of a `LabelImages` without exception handling."""


class LabelResults(NamedTuple):
    """What `LabelImages` gives, in the global window. Records have their events' times as timestamps; of an input that
    never ends the end of their batch, so that none is behind the watermark that was not so before."""

    labels: beam.PCollection[LabeledImage]
    """`LabeledImage`, one for every event that could be labelled."""
    drift: beam.PCollection[DriftEvent]
    """`DriftEvent`, whatever the guard noticed."""
    adaptation: beam.PCollection[AdaptationLog]
    """`AdaptationLog`, one for every update and every reset."""
    dead_letters: beam.PCollection[DeadLetter]
    """`DeadLetter`, one for every event that could not be labelled; empty without `with_exception_handling`."""
    monitor: beam.PCollection[MonitorRecord]
    """`MonitorRecord`, what the events of a stream and time add up to, for ``grpo-tta report``."""
    states: beam.PCollection[State]
    """``(stream, bytes)``: what a later run goes on from, of every stream that was stepped or given. Of an input that
    never ends one for each time that a stream was stepped."""


class _Graph(NamedTuple):
    """What the two ways of stepping have in common."""

    bad: beam.PCollection
    """Rows of what is no event."""
    rows: tuple[beam.PCollection, ...]
    """Of all other records."""
    states: beam.PCollection


class LabelImages(beam.PTransform):
    """Label images, stream by stream, with a model that adapts itself to each.

    Takes a PCollection of `ImageEvent`, mappings or Beam rows with its fields, or what `ReadImages` gives.
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

    An input that is not bounded is labelled as it comes, with state and timers of Beam's: events wait for older ones
    until the watermark has passed the end of their stretch of ``checkpoint.slice_seconds`` of event time, and at most
    that and ``event_time.allowed_lateness`` together by the clock. Later ones, and those that come again, are labelled
    and not learnt from. A stream that is idle for ``checkpoint.forget_after`` is forgotten.

    Args:
        config: a job's configuration, its values or a YAML file; ``source.url`` or ``source.allow_uris`` say what
            events may point at, by absolute paths or URLs; outputs and checkpoint are not used.
        states: where an earlier run's `WriteStates` or job's checkpoint lies, or its ``(stream, bytes)``; other streams
            start afresh. An input without an end takes a place alone, where nothing may lie yet.
        shards: of streams of a bounded input, stepped side by side where the runner has as many workers.

    Raises `ConfigurationError` for a bad configuration or a runner that is known not to run this, and ValueError for
    ``shards`` under 1.
    """

    def __init__(self, config: Config, *, states: beam.PCollection | str | None = None, shards: int = 16) -> None:
        super().__init__()
        check_shards(shards)
        self._job = ResolvedJob.of(config_of(config))
        uri_policy(self._job.config)
        self._states = place_of(states) if isinstance(states, str) else states
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

    def expand(self, pbegin_or_events: Any):  # type: ignore[no-untyped-def]  # Beam warns of any other hint
        """`LabelResults`. Nothing is loaded or connected here."""
        if isinstance(pbegin_or_events, beam.PCollection) == (self._source is not None):
            raise ConfigurationError(
                "LabelImages(config) is applied to a PCollection of events, LabelImages.from_source(url, config) to a "
                "pipeline"
            )
        events = pbegin_or_events if self._source is None else pbegin_or_events | self._source
        check_windows(events)
        refs = (
            events
            | "Global" >> beam.WindowInto(GlobalWindows())
            | "ToRefs" >> beam.ParDo(_ToRefs()).with_output_types(tuple[str, Any])
        )
        bad, rows, states = self._bounded(refs) if events.is_bounded else self._continuous(refs)
        all_rows = (bad, *rows) | "Rows" >> beam.Flatten()
        strict = self._threshold is None
        kinds = {
            kind: all_rows
            | f"To {kind}"
            >> beam.ParDo(_Records(kind, strict=strict, timed=events.is_bounded)).with_output_types(model)
            for kind, model in KINDS.items()
        }
        if self._error_handler is not None:
            self._error_handler.add_error_pcollection(kinds["dead_letters"])
        return LabelResults(**kinds, states=states)

    def _bounded(self, refs: beam.PCollection) -> _Graph:
        """Shards of streams, each stepped in one call."""
        check_bounded(refs.pipeline)
        keyed = refs | "KeyByShard" >> beam.ParDo(
            KeyByShard({HERE: self._latest()}, {HERE: self._shards})
        ).with_outputs(_BAD, NOTED, main=_REFS)
        step = self._hinted(beam.ParDo(_LabelGroups(self._job)))
        labelled = self._grouped(keyed) | "LabelStreams" >> step.with_outputs(STATES, COUNTERS, main=_RECORDS)
        bad = (
            keyed[_BAD]
            | "Bad" >> beam.Map(lambda pair: pair).with_output_types(tuple[str, Row])
            | "BadTogether" >> beam.GroupByKey()
        )
        monitored = bad | "MonitorBad" >> beam.ParDo(_MonitorBad(self._job))
        self._check_share(keyed[_BAD], labelled[COUNTERS])
        states = labelled[STATES] | "States" >> beam.Map(_of_stream).with_output_types(State)
        return _Graph(keyed[_BAD], (labelled[_RECORDS], monitored), states)

    def _continuous(self, refs: beam.PCollection) -> _Graph:
        """Streams, each with a state of Beam's."""
        check_continuous(refs.pipeline)
        keep_bundles_whole(refs.pipeline)
        if self._states is not None and not isinstance(self._states, str):
            raise ValueError("states of an input that never ends must be a place: the url that WriteStates was given")
        if self._threshold is not None and self._threshold < 1:
            raise ValueError(f"threshold must be 1 where the input never ends, got {self._threshold}")
        config = self._job.config
        keyed = refs | "KeyByStream" >> beam.ParDo(
            KeyByStream(parse_duration(config.event_time.max_future))
        ).with_outputs(_BAD, NOTED, main=_REFS)
        streams = keyed[_REFS] | "Streams" >> beam.Map(lambda pair: pair).with_output_types(tuple[bytes, ImageRef])
        step = self._hinted(beam.ParDo(LabelContinuously(self._job, self._states)))
        labelled = streams | "LabelStreams" >> step.with_outputs(STATES, main=_RECORDS)
        one_by_one = keyed[_BAD] | "EachBad" >> beam.MapTuple(lambda partition, row: (partition, [row]))
        monitored = one_by_one | "MonitorBad" >> beam.ParDo(_MonitorBad(self._job))
        states = labelled[STATES] | "States" >> beam.Map(lambda state: state).with_output_types(State)
        return _Graph(keyed[_BAD], (labelled[_RECORDS], monitored), states)

    def _hinted(self, step: beam.ParDo) -> Any:
        if self._job.config.model.device == "cuda" or self._step_hints:
            return step.with_resource_hints(**{"max_active_bundles_per_worker": "1", **self._step_hints})
        return step

    def _latest(self) -> int:
        """The newest time that is believed, counted from when the pipeline was made."""
        return round(time.time() * 1e6) + parse_duration(self._job.config.event_time.max_future)

    def _grouped(self, keyed: beam.PCollection) -> beam.PCollection:
        """``(shard, (references, states))``."""
        refs = keyed[_REFS] | "Refs" >> beam.Map(lambda pair: pair).with_output_types(tuple[ShardKey, ImageRef])
        given = self._states
        if given is None:
            return refs | "ByShard" >> beam.GroupByKey() | "NoStates" >> beam.MapTuple(_without_states)
        if isinstance(given, str):
            given = refs.pipeline | "ReadStates" >> ReadStates(given)
        states = (
            given
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
        yield HERE, to_ref(element)


class _LabelGroups(LabelHere):
    """``(shard, (references, states))``: `LabelStreams` with states that came along instead of a checkpoint's."""

    def process(self, element: Any) -> Iterator[Any]:
        key, (refs, states) = element
        self.brought = left = newest_states(states)
        stepped = set()
        for found in super().process((key, refs)):
            if getattr(found, "tag", None) == STATES:
                stepped.add(found.value[0][1])
            yield found
        for stream in sorted(left.keys() - stepped):
            yield beam.pvalue.TaggedOutput(STATES, ((HERE, stream), left[stream]))


class _MonitorBad(MonitorBad):
    """`MonitorBad`; whose model it is shows when it is loaded."""

    def __init__(self, job: ResolvedJob) -> None:
        super().__init__({})
        self._job = job

    def setup(self) -> None:
        model = take_labeler(self._job).make.model_fingerprint
        self._makers = {HERE: monitor_of(self._job, model)}

    def teardown(self) -> None:
        leave_labeler(self._job)


class _Records(beam.DoFn):
    """Rows -> the records of one kind, ``timed`` at their events' times. ``strict``: a dead letter is an error."""

    def __init__(self, kind: str, *, strict: bool, timed: bool) -> None:
        self._kind = kind
        self._strict = strict
        self._timed = timed

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
        if not self._timed:
            yield record
            return
        moment = getattr(record, "event_time", None)
        at = 0.0 if moment is None else (moment - _EPOCH) / timedelta(seconds=1)
        yield TimestampedValue(record, at)


def _of_stream(changed: tuple[tuple[str, str], bytes]) -> State:
    return changed[0][1], changed[1]


def _state_by_shard(state: State, shards: int) -> tuple[ShardKey, State]:
    return (HERE, group_of(state[0], shards)), state


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
