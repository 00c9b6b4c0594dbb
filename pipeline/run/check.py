"""Label a few images of a source without writing anything."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.source import read_span
from grpo_tta.adapters.storage.filesystems import is_manifest
from grpo_tta.adapters.storage.names import DEFAULT_STREAM
from grpo_tta.adapters.storage.passed import PassedOver
from grpo_tta.adapters.storage.path_times import find
from grpo_tta.adapters.storage.pointers import is_pointer
from grpo_tta.adapters.storage.times import holds_date
from grpo_tta.pipeline.config.job import JobConfig, is_kafka
from grpo_tta.pipeline.config.kafka import check_reached, settings_of, source_topics
from grpo_tta.pipeline.config.policy import uri_policy
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.label.labeled import Labeled
from grpo_tta.pipeline.label.labeler import StreamLabeler
from grpo_tta.pipeline.label.load import labeler_of
from grpo_tta.pipeline.label.records import RecordMaker, WindowedRef, bad_record
from grpo_tta.pipeline.run.places import list_job_source, output_stores
from grpo_tta.pipeline.run.runner import check_runner

MOST_COUNTED = 100_000
"""Records whose streams are counted."""
_SAMPLED = 1000
_NEWEST = 200
"""Records of a topic."""
_MINUTE = 60 * 10**6


@dataclass(frozen=True)
class Checked:
    """``streams``: events of each, of the first ``looked_at`` records that the source lists, or of a topic's newest
    ones; ``passed_over``: files that are no events by their names, by suffix."""

    make: RecordMaker
    labeled: Labeled
    streams: Counter[str]
    looked_at: int
    passed_over: dict[str, int]
    guessed: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By kind, as notices have them: how many, and the first one's coordinate."""
    dated: list[str] = field(default_factory=list)
    """Images, of the first records, whose names tell a time that is not their event time, for want of a pattern."""

    def warnings(self, config: JobConfig) -> Iterator[str]:
        """What the streams' names say of a pattern that is missing or wrong."""
        if is_manifest(config.source.url) or is_kafka(config.source.url):
            return
        way_out = "say by --stream-pattern which part of the path is the camera"
        if config.source.stream_pattern is None and DEFAULT_STREAM in self.streams:
            yield f"{self.streams[DEFAULT_STREAM]} images are in no folder of a camera, stream 'default': {way_out}"
        count = self.guessed.get("stream_guessed", (0, ""))[0]
        count -= self.streams[DEFAULT_STREAM] if config.source.stream_pattern is None else 0
        if count > 0:
            yield f"the streams of {count} images are guesses, for which folder is the camera cannot be told: {way_out}"
        count, example = self.guessed.get("time_guessed", (0, ""))
        if count:
            yield f"{count} images tell only a day, such as {example!r}, and are taken for its midnight"
        if self.dated:
            said = f"the names of {len(self.dated)} images tell a time, such as {self.dated[0]!r}"
            yield f"{said}, but they count as taken when the file was changed: --time-pattern auto takes the name's"
        dated = [stream for stream in sorted(self.streams) if holds_date(stream)]
        if dated:
            yield f"{len(dated)} streams look like dates, such as {dated[0]!r}, and adapt each on its own: {way_out}"


def check_job(config: JobConfig, images: int) -> Checked:
    """Label a few of the first images that the source lists, or of a topic's newest ones, of all its streams; writes
    nothing, commits no position and makes no topic.

    Raises as `run_label_job` does, for a topic as `run_live_job`.
    """
    job = ResolvedJob.of(config)
    live = is_kafka(config.source.url)
    check_runner(config.run, transactional=live and config.kafka.transactional)
    uri_policy(config)
    outputs, checkpoint = output_stores(config)
    for store in (*outputs, checkpoint):
        store.check_access()
    if live:
        check_reached(config)
    with labeler_of(job) as labeler:
        passed, streams, looked_at = PassedOver(), Counter[str](), 0
        guessed: dict[str, tuple[int, str]] = {}
        records = _newest(config) if live else list_job_source(config, passed)
        first = list(islice(records, _SAMPLED))
        for record in chain(first, islice(records, MOST_COUNTED - len(first))):
            looked_at += 1
            if isinstance(record, ImageRef):
                streams[record.stream] += 1
                for kind in record.guessed.split():
                    count, example = guessed.get(kind, (0, record.coordinate))
                    guessed[kind] = count + 1, example
        labeled = _labelled(labeler, _sample(first, images))
        files = [record for record in first if isinstance(record, ImageRef)]
        dated = [] if config.source.time_pattern or live else [file.id for file in files if _told_otherwise(file)]
        return Checked(labeler.make, labeled, streams, looked_at, passed.plain(), guessed, dated)


def _newest(config: JobConfig) -> Iterator[ImageRef | BadRecord]:
    """Some of the newest records of each partition of the topics."""
    settings = settings_of(config, config.source.url)
    with KafkaOffsets(settings) as offsets:
        partitions = offsets.partitions(source_topics(config))
        starts, stops = offsets.beginning(partitions), offsets.end(partitions)
    each = max(_NEWEST // len(partitions), 1)
    for name in partitions:
        yield from read_span(settings, name, max(starts[name], stops[name] - each), stops[name])


def _told_otherwise(record: ImageRef) -> bool:
    """Whether the name of a file, that lies in no other, tells another minute than that it was changed in."""
    if is_pointer(record.uri or ""):
        return False
    try:
        told = find(record.id)
    except ValueError:
        return False
    return not told.guessed and abs(told.value - record.event_time) > _MINUTE


def _labelled(labeler: StreamLabeler, records: list[ImageRef | BadRecord]) -> Labeled:
    total = Labeled(labeler.initial_state())
    streams: dict[str, list[WindowedRef]] = {}
    for record in records:
        if isinstance(record, BadRecord):
            total.dead_letters.append(bad_record(record))
        else:
            event = WindowedRef(record, (record.event_time, record.event_time))
            streams.setdefault(record.stream, []).append(event)
    for _, events in sorted(streams.items()):
        ordered = sorted(events, key=lambda event: (event.ref.event_time, event.ref.coordinate))
        labeled = labeler.label(ordered, labeler.initial_state())
        total.labels += labeled.labels
        total.dead_letters += labeled.dead_letters
    return total


def _sample(records: list[ImageRef | BadRecord], most: int) -> list[ImageRef | BadRecord]:
    """The earliest of each stream in turn; what is no event counts as a stream."""
    first = sorted(records, key=lambda record: (getattr(record, "event_time", 0), record.coordinate))
    ranks: Counter[str] = Counter()
    ranked: list[tuple[int, str, int]] = []
    for index, record in enumerate(first):
        stream = getattr(record, "stream", "")
        ranked.append((ranks[stream], stream, index))
        ranks[stream] += 1
    return [first[index] for _, _, index in sorted(ranked)[:most]]
