"""The one file to read: the events of a slice in, records, states and counts out.

    the source's records -> keyed by partition and shard of its streams -> grouped
        -> LabelStreams -> files or topics of labels, adaptation log, drift events, dead letters, monitor
        -> one packed file of states a partition

References travel through the shuffles; pixels exist only inside `LabelStreams`. The packed file waits for the other
files: it is step 3 of the order of writing (`pipeline.checkpoint.partition`). One graph serves all partitions of a
slice.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import apache_beam as beam
from apache_beam.metrics import Metrics

import grpo_tta.adapters.coders  # noqa: F401  (registers how events travel)
from grpo_tta.adapters.events import BadRecord, ImageRef, group_of
from grpo_tta.adapters.kafka.ranges import KafkaRange
from grpo_tta.adapters.kafka.source import SKIPPED, ReadImagesFromKafka
from grpo_tta.adapters.kafka.wire import parse_partition
from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.listing import Listing
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.times import FIRST_PLAUSIBLE
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackReader, StoredState, pack_name, write_pack
from grpo_tta.pipeline.checkpoint.partition import SliceResult
from grpo_tta.pipeline.config.job import JobConfig, is_kafka, parse_duration
from grpo_tta.pipeline.config.kafka import settings_of
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.label.dofn import COUNTERS, STATES, LabelStreams, Origin, ShardKey, StreamKey
from grpo_tta.pipeline.label.load import states_held
from grpo_tta.pipeline.label.monitor import MonitorMaker, monitor_of
from grpo_tta.pipeline.label.records import bad_record
from grpo_tta.pipeline.sinks import SendRecords, WriteRecords, leftovers
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.notices import tell
from grpo_tta.pipeline.windows import to_datetime
from grpo_tta.schemas import Commit, Counters, DeadLetter, Plan, SliceRange
from grpo_tta.state import read_header

_BAD, NOTED = "bad", "noted"
T = TypeVar("T")
done: dict[tuple[str, str], SliceResult] = {}
"""What step 3 gave, by store and pack, where it ran in this process; who runs the slice takes it from here."""


@dataclass(frozen=True)
class OpenSlice:
    """One partition's part of a slice: the plan, the commit it goes on from, and where the partition's log lies.

    ``dated``: output files go into a folder of the plan's day, UTC; a job of months must not fill one folder.
    ``rerun``: the plan may have been run before.
    """

    plan: Plan
    commit: Commit | None
    checkpoint_url: str
    dated: bool = False
    rerun: bool = False

    @property
    def partition(self) -> str:
        """Its name."""
        return self.plan.span.partition

    @property
    def stem(self) -> str:
        """Of its output files' names."""
        name = f"{self.partition}-{self.plan.span.start:012d}"
        return f"{self.plan.clock:%Y-%m-%d}/{name}" if self.dated else name

    @property
    def origin(self) -> "Origin":
        """What `LabelStreams` starts its streams from."""
        return Origin(self.commit, self.checkpoint_url, tuple(self.plan.resets), self.plan.shed)


class ReadListing(beam.DoFn):
    """A range of a listing's rows -> ``(partition, ImageRef | BadRecord)``."""

    def __init__(self, checkpoint_url: str) -> None:
        self._url = checkpoint_url

    def process(self, span: SliceRange) -> Iterator[tuple[str, ImageRef | BadRecord]]:
        """The rows of ``span``."""
        listing = Listing.open(ObjectStore(self._url))
        if listing is None:
            raise FileNotFoundError(f"{self._url} holds no listing")
        for record in listing.read(span.start, span.stop):
            yield span.partition, record


class KeyByShard(beam.DoFn):
    """``(partition, record)`` -> ``((partition, shard), ImageRef)``; what is no event goes, as ``(partition,
    Row)`` of a dead letter, to the tagged output ``bad``. Times too far ahead of the plan's clock are capped. Counts of
    that, of times that cannot be, and of what a name did not tell, go to the tagged output ``noted``.

    ``latest_times``, ``shards``: of each partition."""

    def __init__(self, latest_times: Mapping[str, int], shards: Mapping[str, int]) -> None:
        self._latest = dict(latest_times)
        self._shards = dict(shards)

    def process(self, element: tuple[str, ImageRef | BadRecord]) -> Iterator[Any]:
        """One record."""
        partition, record = element
        if isinstance(record, BadRecord):
            for name in ("events", "dead_letters"):
                Metrics.counter(LabelStreams, name).inc()
            yield beam.pvalue.TaggedOutput(_BAD, (partition, Row.of(bad_record(record))))
            return
        cap, given = self._latest[partition], record
        if given.event_time > cap:
            record = given._replace(event_time=cap, time_capped=True)
        yield (partition, group_of(record.stream, self._shards[partition])), record
        if record.time_capped:
            yield self._noted(partition, "time_capped", given)
        elif record.event_time < FIRST_PLAUSIBLE:
            yield self._noted(partition, "time_before_1980", given)
        for kind in given.guessed.split():
            yield self._noted(partition, kind, given)

    def _noted(self, partition: str, kind: str, record: ImageRef) -> Any:
        said = (
            f"is of stream {record.stream!r}" if kind == "stream_guessed" else f"is of {to_datetime(record.event_time)}"
        )
        tell(kind, record.coordinate, said)
        return beam.pvalue.TaggedOutput(NOTED, (partition, Counters(notices={kind: 1})))


class MonitorBad(beam.DoFn):
    """``(partition, rows)`` of records that are no events -> ``(partition, Row)`` of what they add up to."""

    def __init__(self, makers: Mapping[str, MonitorMaker]) -> None:
        self._makers = dict(makers)

    def process(self, element: tuple[str, Iterable[Row]]) -> Iterator[tuple[str, Row]]:
        """All of a partition's."""
        partition, rows = element
        records = self._makers[partition].records(dead_letters=[DeadLetter.model_validate_json(r.value) for r in rows])
        metrics.observe_monitor(records)
        for record in records:
            yield partition, Row.of(record)


@dataclass(frozen=True)
class WriteStates:
    """Step 3: a partition's changed states, those that an old file would hold alive, and the slice's record.

    What an earlier attempt at the slice left, and this one did not write, goes before: a file that has vanished since,
    or other settings, give other records.
    """

    job: ResolvedJob
    fault_point: Callable[[str], None]

    def __call__(
        self,
        part: OpenSlice,
        states: list[tuple[StreamKey, bytes]],
        counters: list[tuple[str, Counters]],
        files: list[tuple[str, tuple[str, str]]],
        sent: list[str],
    ) -> None:
        """Write the pack. ``files`` and ``sent`` are what step 2 wrote: inputs, so that it comes before."""
        store = ObjectStore(part.checkpoint_url)
        written = dict(_of(part.partition, files))
        if part.rerun and not CheckpointLog(store).superseded(part.plan.epoch):  # else they may be the next owner's
            for url in self.job.config.folders:
                output = ObjectStore(url)
                for name in leftovers(part.stem, written):
                    output.delete(name)
        self.fault_point("after:2")
        changed = {stream: state for (partition, stream), state in states if partition == part.partition}
        newest = {stream: time for stream, state in changed.items() if (time := newest_image(state)) is not None}
        reader, name = PackReader(store, states_held(self.job), part.commit), pack_name(part.plan)
        carried: dict[str, StoredState] = {}
        if part.commit:
            carried = reader.carried(part.commit, changed, part.plan.sequence, self.job.config.checkpoint.keep)
        total = Counters()
        for count in _of(part.partition, counters):
            total = total.plus(count)
        record: dict[str, Any] = {
            "stepped": sorted(changed),
            "newest": newest,
            "counters": total.model_dump(mode="json"),
            "files": written,
        }
        self.fault_point("before:3")
        digest = write_pack(store, name, {**changed, **carried}, record)
        reader.remember(name, changed)
        streams = tuple(sorted([*changed, *carried]))
        done[store.url, name] = SliceResult(name, streams, tuple(sorted(changed)), total, newest, digest, written)
        self.fault_point("after:3")


def newest_image(state: bytes) -> int | None:
    """The event time, in microseconds, of the newest image that an encoded state has learnt from, if there is one."""
    time = read_header(state).position.get("event_time")
    return None if time is None else int(time)


def _of(partition: str, pairs: Iterable[tuple[str, T]]) -> list[T]:
    return [value for owner, value in pairs if owner == partition]


def build(
    pipeline: beam.Pipeline,
    job: ResolvedJob,
    slices: Sequence[OpenSlice],
    fault_point: Callable[[str], None],
) -> None:
    """Add one slice's graph, over all its partitions, to ``pipeline``. Nothing is connected here."""
    config = job.config
    max_future = parse_duration(config.event_time.max_future)
    latest_times = {part.partition: round(part.plan.clock.timestamp() * 1e6) + max_future for part in slices}
    shards = {part.partition: part.plan.shards for part in slices}
    keyed = _read(pipeline, config, slices) | "KeyByShard" >> beam.ParDo(KeyByShard(latest_times, shards)).with_outputs(
        _BAD, NOTED, main="refs"
    ).with_output_types(tuple[ShardKey, ImageRef])
    labelled = (
        keyed.refs
        | "ByShard" >> beam.GroupByKey()
        | "LabelStreams"
        >> beam.ParDo(LabelStreams(job, {part.partition: part.origin for part in slices})).with_outputs(
            STATES, COUNTERS, main="records"
        )
    )
    monitors = {part.partition: monitor_of(job, part.plan.model_fingerprint) for part in slices}
    monitored = keyed[_BAD] | "BadByPartition" >> beam.GroupByKey() | "MonitorBad" >> beam.ParDo(MonitorBad(monitors))
    records = (labelled.records, keyed[_BAD], monitored) | "Records" >> beam.Flatten()
    bad = keyed[_BAD] | "CountBad" >> beam.MapTuple(
        lambda partition, _: (partition, Counters(events=1, dead_letters=1))
    )
    counters = (labelled[COUNTERS], bad, keyed[NOTED]) | "Counters" >> beam.Flatten()
    _ = (
        pipeline
        | "Partitions" >> beam.Create(list(slices), reshuffle=False)
        | "WriteStates"
        >> beam.Map(
            WriteStates(job, fault_point),
            beam.pvalue.AsList(labelled[STATES]),
            beam.pvalue.AsList(counters),
            beam.pvalue.AsList(_write_files(records, config, slices)),
            beam.pvalue.AsList(_send(records, config)),
        )
    )


def _read(pipeline: beam.Pipeline, config: JobConfig, slices: Sequence[OpenSlice]) -> beam.PCollection:
    """The source's records of all ranges, as ``(partition, ImageRef | BadRecord)``."""
    spans = [part.plan.span for part in slices]
    if not is_kafka(config.source.url):
        return (
            pipeline
            | "Ranges" >> beam.Create(spans, reshuffle=False)
            | "ReadListing" >> beam.ParDo(ReadListing(config.checkpoint_url))
        )
    ranges = [KafkaRange(*parse_partition(span.partition), span.start, span.stop) for span in spans]
    read = ReadImagesFromKafka(
        settings_of(config, config.source.url), out_of_range=config.kafka.out_of_range, read_committed=True
    )
    found = pipeline | "Ranges" >> beam.Create(ranges, reshuffle=False) | "ReadKafka" >> read
    _ = found[SKIPPED] | "Skipped" >> beam.Map(metrics.note_skipped)
    return found.refs


def _write_files(
    records: beam.PCollection, config: JobConfig, slices: Sequence[OpenSlice]
) -> Iterable[beam.PCollection]:
    """``(partition, (name, digest))`` of every file written, in every folder: of one name all have the same bytes."""
    stems = {part.partition: part.stem for part in slices}
    grouped = (
        records
        | "ByKind"
        >> beam.MapTuple(lambda partition, row: ((partition, row.kind), row)).with_output_types(
            tuple[tuple[str, str], Row]
        )
        | "GroupKinds" >> beam.GroupByKey()
    )
    written = [
        grouped
        | f"WriteRecords {number}"
        >> beam.ParDo(WriteRecords(url, config.output.format, stems)).with_output_types(tuple[str, tuple[str, str]])
        for number, url in enumerate(config.folders)
    ]
    return written | "Files" >> beam.Flatten(pipeline=records.pipeline)


def _send(records: beam.PCollection, config: JobConfig) -> Iterable[beam.PCollection]:
    """The partitions whose records were acknowledged, once a Kafka output."""
    topics = [url for url in config.outputs if is_kafka(url)]
    if not topics:
        return records.pipeline | "Sent" >> beam.Create([], reshuffle=False)
    grouped = (
        records
        | "ByPartition" >> beam.Map(lambda pair: pair).with_output_types(tuple[str, Row])
        | "GroupPartitions" >> beam.GroupByKey()
    )
    sent = [
        grouped | f"SendRecords {number}" >> beam.ParDo(SendRecords(config, url)).with_output_types(str)
        for number, url in enumerate(topics)
    ]
    return sent | "Sent" >> beam.Flatten(pipeline=records.pipeline)
