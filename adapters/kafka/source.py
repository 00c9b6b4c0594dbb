"""`ReadImagesFromKafka`: ranges of Kafka partitions -> ``(partition, ImageRef | BadRecord)``, as a splittable DoFn.

The restriction is the range of offsets; a reader seeks to its start, claims every offset it emits and, where the log
has gaps (compaction, transaction markers), claims the last offset before the next record, so that a finished range is
claimed to its end. After a limit of records, bytes or seconds it hands the rest back to the runner. The runner may not
split a range by itself: one reader a partition, in log order.

Ranges are closed: the slice that reads one knows its end. An open one needs no other reader, only a tracker that is
unbounded, a watermark and a pause instead of `ReadStalled`.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import kafka
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider
from kafka import errors as kafka_errors

from adapters.events import BadRecord, ImageRef
from adapters.kafka.consumers import CONSUMERS, ConsumerCache
from adapters.kafka.errors import KafkaFailure, ReadStalled
from adapters.kafka.offsets import OutOfRangePolicy, SkippedRange, check_policy, in_range
from adapters.kafka.settings import KafkaSettings, as_failure, translated
from adapters.kafka.wire import decode_record, parse_partition, partition_name

SKIPPED = "skipped"
"""Tag of the output of `SkippedRange`s."""
_POLL_MS = 500
_PAUSE = 0.5


class KafkaRange(NamedTuple):
    """Offsets ``start <= o < stop`` of a partition."""

    topic: str
    partition: int
    start: int
    stop: int


@dataclass(frozen=True)
class ReadLimits:
    """Of one call of the reader: after ``records``, ``bytes`` or ``seconds`` the rest is another call's.

    ``stall_seconds`` without progress, whatever the cause and however often it was tried again, fail the read.
    """

    records: int = 100_000
    bytes: int = 256 * 2**20
    seconds: float = 60.0
    stall_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("records", "bytes", "seconds", "stall_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


class _RangeTracker(OffsetRestrictionTracker):
    """Only the reader itself hands back a rest."""

    def try_split(self, fraction_of_remainder: float) -> Any:
        return super().try_split(fraction_of_remainder) if fraction_of_remainder == 0 else None


class _Ranges(RestrictionProvider):
    """Connects to nothing: a range is given with its element."""

    def initial_restriction(self, element: KafkaRange) -> OffsetRange:
        return OffsetRange(element.start, element.stop)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return _RangeTracker(restriction)

    def restriction_size(self, element: KafkaRange, restriction: OffsetRange) -> int:
        return int(restriction.size())


_RESTRICTION = beam.DoFn.RestrictionParam(_Ranges())


class _ReadRange(beam.DoFn):
    def __init__(
        self,
        settings: KafkaSettings,
        limits: ReadLimits,
        policy: OutOfRangePolicy,
        read_committed: bool,
        cache: ConsumerCache | None = None,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._policy = policy
        self._read_committed = read_committed
        self._cache = cache

    def process(
        self, element: KafkaRange, tracker: Any = _RESTRICTION
    ) -> Iterator[tuple[str, ImageRef | BadRecord] | Any]:
        """Emit the records of the restriction, or of its beginning."""
        span = tracker.current_restriction()
        if span.start >= span.stop:
            return
        partition = partition_name(element.topic, element.partition)
        reader = _Reader(self._settings, partition, self._limits, self._policy, self._read_committed, self._cache)
        count = size = 0
        deadline = time.monotonic() + self._limits.seconds
        limits = self._limits
        with closing(reader.read(span.start, span.stop)) as items:
            for item in items:
                if isinstance(item, SkippedRange):
                    yield beam.pvalue.TaggedOutput(SKIPPED, item)
                    continue
                offset, record = item
                if not tracker.try_claim(offset):
                    return
                if record is not None:
                    yield partition, decode_record(record)
                    count, size = count + 1, size + len(record.value or b"")
                if count >= limits.records or size >= limits.bytes or time.monotonic() >= deadline:
                    if offset < span.stop - 1:
                        tracker.defer_remainder()
                    return


@dataclass
class _Reader:
    """Reads one closed range: records, gaps and skipped ranges in log order, up to its last offset."""

    settings: KafkaSettings
    partition: str
    limits: ReadLimits
    policy: OutOfRangePolicy
    read_committed: bool
    cache: ConsumerCache | None
    moved: float = 0.0
    """When a record or gap was last given, and taken."""

    def read(self, start: int, stop: int) -> Generator[SkippedRange | tuple[int, Any], None, None]:
        """``(offset, record)``; ``(offset, None)`` says that nothing is left up to ``offset``. The last offset given
        is ``stop - 1``."""
        position = start
        self.moved = time.monotonic()
        while position < stop:
            try:
                for item in self._attempt(position, stop):
                    position = item.resumed if isinstance(item, SkippedRange) else item[0] + 1
                    yield item
                    self.moved = time.monotonic()
            except KafkaFailure as error:
                if not error.retriable or time.monotonic() - self.moved >= self.limits.stall_seconds:
                    raise
                time.sleep(_PAUSE)

    def _attempt(self, start: int, stop: int) -> Iterator[SkippedRange | tuple[int, Any]]:
        """As `read`, with one consumer and up to its first failure."""
        cache = CONSUMERS if self.cache is None else self.cache
        with cache.lend(self.settings, self.partition, read_committed=self.read_committed) as consumer:
            topic_partition = kafka.TopicPartition(*parse_partition(self.partition))
            consumer.seek(topic_partition, start)
            position = start
            while position < stop:
                try:
                    records = consumer.poll(_POLL_MS).get(topic_partition, ())
                except kafka_errors.OffsetOutOfRangeError:
                    skipped = self._skip(consumer, topic_partition, position, stop)
                    yield skipped
                    yield skipped.resumed - 1, None
                    return
                except kafka_errors.KafkaError as error:
                    raise as_failure(error, self.settings, f"read {self.partition}") from error
                for record in records:
                    if record.offset >= stop:
                        break
                    yield record.offset, record
                    position = record.offset + 1
                # Compaction and transaction markers leave offsets that no record has.
                reached = min(consumer.position(topic_partition, timeout_ms=_POLL_MS) or position, stop)
                if reached > position:
                    yield reached - 1, None
                    position = reached
                elif not records:
                    self._check_stalled(position, stop)

    def _skip(self, consumer: Any, topic_partition: Any, position: int, stop: int) -> SkippedRange:
        """What the policy makes of a position that the log does not hold, within the range."""
        with translated(self.settings, f"read the offsets of {self.partition}"):
            beginning = consumer.beginning_offsets([topic_partition])[topic_partition]
            end = consumer.end_offsets([topic_partition])[topic_partition]
        skipped = in_range(self.partition, position, beginning, end, self.policy)
        if skipped is None:
            raise ReadStalled(f"partition {self.partition}: position {position} came and went; read again")
        resumed = skipped.resumed if position < skipped.resumed <= stop else stop
        return skipped._replace(resumed=resumed)

    def _check_stalled(self, position: int, stop: int) -> None:
        waited = time.monotonic() - self.moved
        if waited >= self.limits.stall_seconds:
            raise ReadStalled(
                f"partition {self.partition}: offset {position} of a range up to {stop} did not come in "
                f"{waited:.0f} s: the broker is down, the topic is gone or a transaction is open; "
                f"{self.settings.advice()}"
            )


class ReadImagesFromKafka(beam.PTransform):
    """`KafkaRange`s -> ``(topic-partition, ImageRef | BadRecord)``, ``position`` being the offset.

    The result has the outputs ``refs`` and, tagged `SKIPPED`, a `SkippedRange` for whatever the policy
    ``out_of_range`` passed over. Raises ValueError for an unknown policy; while running a `KafkaFailure`, those that
    may pass after ``limits.stall_seconds``.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        limits: ReadLimits | None = None,
        out_of_range: OutOfRangePolicy = "fail",
        read_committed: bool = True,
    ) -> None:
        super().__init__()
        check_policy(out_of_range)
        self._read = _ReadRange(settings, limits or ReadLimits(), out_of_range, read_committed)

    def expand(self, ranges: Any) -> Any:
        """Nothing is connected here."""
        return ranges | "ReadRange" >> beam.ParDo(self._read).with_outputs(SKIPPED, main="refs")
