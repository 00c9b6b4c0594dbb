"""`ReadImagesFromKafka`: ranges of Kafka partitions -> ``(partition, ImageRef | BadRecord)``, as a splittable DoFn.

The restriction is the range of offsets; a reader seeks to its start, claims every offset it emits and, where the log
has gaps (compaction, transaction markers), claims the last offset before the next record, so that a finished range is
claimed to its end. After a limit of records, bytes or seconds it hands the rest back to the runner. The runner may not
split a range by itself: one reader a partition, in log order.

Ranges are closed, as slices read them, or open, for a runner that streams: at the end of the log a reader of an open
one hands back the rest for a moment later. Such a range has a backlog and a watermark, see `adapters.kafka.ranges`, and
its outputs have times. Where it stands is in the runner's state and nowhere else: no offset is committed here.
"""

import logging
import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import kafka
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import WatermarkEstimatorProvider
from apache_beam.utils.timestamp import Duration, Timestamp
from kafka import errors as kafka_errors

import grpo_tta.adapters.coders  # noqa: F401  (registers how events travel)
from grpo_tta.adapters.backoff import pause
from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.kafka.consumers import CONSUMERS, ConsumerCache
from grpo_tta.adapters.kafka.errors import KafkaFailure, OffsetOutOfRange, ReadStalled, RecordDamaged
from grpo_tta.adapters.kafka.positions import OutOfRangePolicy, SkippedRange, check_policy, in_range
from grpo_tta.adapters.kafka.ranges import INITIAL, OPEN, Claim, ClockState, EventClock, KafkaRange, Ranges
from grpo_tta.adapters.kafka.settings import KafkaSettings, as_failure, translated
from grpo_tta.adapters.kafka.tolerant import Undecodable, tolerant
from grpo_tta.adapters.kafka.wire import decode_record, parse_partition, partition_name, undecodable

_log = logging.getLogger(__name__)
SKIPPED = "skipped"
"""Tag of the output of `SkippedRange`s."""
SPANS = "spans"
"""Tag of the output of what each call has read of an open range: ``(partition, (origin, start, stop, records))``. The
range began at ``origin``; of the offsets from ``start`` to before ``stop`` so many had a record."""
_POLL_MS = 500
_PAUSE = 0.5


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


ENDLESS_LIMITS = ReadLimits(records=10_000, bytes=64 * 2**20, seconds=2.0)
"""The default for open ranges: what one call has read is only then on its way."""

_RESTRICTION = beam.DoFn.RestrictionParam(Ranges())
_WATERMARK = beam.DoFn.WatermarkEstimatorParam()


class _ReadRange(beam.DoFn, WatermarkEstimatorProvider):
    """``lateness``: seconds, see `EventClock`; None where every range is closed."""

    def __init__(
        self,
        settings: KafkaSettings,
        limits: ReadLimits,
        policy: OutOfRangePolicy,
        read_committed: bool,
        cache: ConsumerCache | None = None,
        lateness: float | None = None,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._policy = policy
        self._read_committed = read_committed
        self._cache = cache
        self._lateness = lateness

    def initial_estimator_state(self, element: KafkaRange, restriction: OffsetRange) -> ClockState | None:
        """None for a closed range."""
        return INITIAL if restriction.stop == OPEN else None

    def create_watermark_estimator(self, estimator_state: ClockState | None) -> EventClock:
        """Also for a closed range, which has no watermark of its own."""
        return EventClock(estimator_state, self._lateness or 0.0)

    def process(self, element: KafkaRange, tracker: Any = _RESTRICTION, watermark: Any = _WATERMARK) -> Iterator[Any]:
        """Emit the records of the restriction, or of its beginning."""
        span = tracker.current_restriction()
        if span.start >= span.stop:
            return
        partition = partition_name(element.topic, element.partition)
        Metrics.counter(type(self), "reads").inc()
        endless = span.stop == OPEN
        if endless and self._lateness is None:
            raise ValueError(f"range of partition {partition} has no stop: read it with endless=True")
        reader = _Reader(self._settings, partition, self._limits, self._policy, self._read_committed, self._cache)
        taken = _Taken(span.start)
        yield from self._claimed(reader, span, taken, tracker, watermark)
        if endless and taken.stop > span.start:
            found = (element.start, span.start, taken.stop, taken.records)
            yield beam.pvalue.TaggedOutput(SPANS, self._timed((partition, found)))

    def _claimed(
        self, reader: "_Reader", span: OffsetRange, taken: "_Taken", tracker: Any, watermark: Any
    ) -> Iterator[Any]:
        """The outputs of what could be claimed; hands back the rest."""
        endless, size = span.stop == OPEN, 0
        deadline = time.monotonic() + self._limits.seconds
        limits = self._limits
        with closing(reader.read(span.start, span.stop)) as items:
            for item in items:
                if isinstance(item, SkippedRange):
                    yield beam.pvalue.TaggedOutput(SKIPPED, self._timed(item))
                    continue
                offset, record = item
                if not tracker.try_claim(Claim(offset, reader.end) if endless else offset):
                    return
                taken.stop = offset + 1
                if record is not None:
                    yield self._timed((reader.partition, _decoded(record)), watermark)
                    taken.records, size = taken.records + 1, size + len(record.value or b"")
                if taken.records >= limits.records or size >= limits.bytes or time.monotonic() >= deadline:
                    if offset < span.stop - 1:
                        tracker.defer_remainder()
                    return
        if endless:
            if reader.idle:
                watermark.caught_up()
            tracker.defer_remainder(Duration(_PAUSE))

    def _timed(self, item: Any, watermark: Any = None) -> Any:
        """With ``endless`` an output has a time: an image its own, what is no image that of its reading."""
        if self._lateness is None:
            return item
        if not isinstance(item, SkippedRange) and isinstance(item[1], ImageRef):
            watermark.saw(item[1].event_time)
            return beam.window.TimestampedValue(item, Timestamp(micros=item[1].event_time))
        return beam.window.TimestampedValue(item, Timestamp.now())


@dataclass
class _Taken:
    """What one call has claimed: the offsets before ``stop``, of which so many had a record."""

    stop: int
    records: int = 0


def _decoded(record: Any) -> ImageRef | BadRecord:
    """Never raises for what a producer wrote or a broker holds."""
    if isinstance(record.value, Undecodable):
        return undecodable(record, record.value.reason)
    return decode_record(record)


def read_span(settings: KafkaSettings, partition: str, start: int, stop: int) -> Iterator[ImageRef | BadRecord]:
    """What is committed from ``start`` to before ``stop``, outside of a pipeline; what the log no longer holds is
    passed over. Raises a `KafkaFailure`, one that may pass after half a minute."""
    reader = _Reader(settings, partition, ReadLimits(), "earliest", True, None)
    for item in reader.read(start, stop):
        if not isinstance(item, SkippedRange) and item[1] is not None:
            yield _decoded(item[1])


@dataclass
class _Reader:
    """Reads one range: records, gaps and skipped ranges in log order, up to its last offset or the end of the log."""

    settings: KafkaSettings
    partition: str
    limits: ReadLimits
    policy: OutOfRangePolicy
    read_committed: bool
    cache: ConsumerCache | None
    moved: float = 0.0
    """When a record or gap was last given, and taken."""
    end: int = 0
    """Of the log, as last heard of; only for an open range. It counts transactions that are still open."""
    caught_up: bool = False
    """The end of what can be read was reached; only for an open range."""
    idle: bool = False
    """Nor is a transaction open in which there may be older images than those to come."""

    def read(self, start: int, stop: int) -> Generator[SkippedRange | tuple[int, Any], None, None]:
        """``(offset, record)``; ``(offset, None)`` says that nothing is left up to ``offset``. The last offset given
        is ``stop - 1``, or of an open range that of the log."""
        position, damaged, failures = start, -1, 0
        self.moved = time.monotonic()
        while position < stop and not self.caught_up:
            try:
                for item in self._attempt(position, stop, tolerantly=damaged == position):
                    position = item.resumed if isinstance(item, SkippedRange) else item[0] + 1
                    yield item
                    self.moved, failures = time.monotonic(), 0
            except RecordDamaged as error:
                if damaged == position:
                    raise
                _log.warning("%s; read again from offset %d, one by one", error, position)
                damaged = position
            except KafkaFailure as error:
                if not error.retriable or time.monotonic() - self.moved >= self.limits.stall_seconds:
                    raise
                failures += 1
                time.sleep(pause(failures, _PAUSE, 4 * _PAUSE))

    def _attempt(self, start: int, stop: int, *, tolerantly: bool) -> Iterator[SkippedRange | tuple[int, Any]]:
        """As `read`, with one consumer and up to its first failure; ``tolerantly``: of what cannot be decoded there is
        a record too, up to the first poll that has one."""
        cache = CONSUMERS if self.cache is None else self.cache
        with (
            cache.lend(self.settings, self.partition, read_committed=self.read_committed) as consumer,
            tolerant(consumer) if tolerantly else nullcontext(),
        ):
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
                except MemoryError:
                    raise
                except Exception as error:  # kafka-python's own, or one of a codec
                    raise self._failure(error) from error
                if stop == OPEN:
                    self.end = consumer.highwater(topic_partition) or self.end
                for record in records:
                    if record.offset >= stop:
                        break
                    yield record.offset, record
                    position = record.offset + 1
                if any(isinstance(record.value, Undecodable) for record in records):
                    return
                # Compaction and transaction markers leave offsets that no record has.
                reached = min(consumer.position(topic_partition, timeout_ms=_POLL_MS) or position, stop)
                if reached > position:
                    yield reached - 1, None
                    position = reached
                elif not records:
                    if stop == OPEN and self._is_end(consumer, topic_partition, position):
                        return
                    self._check_stalled(position, stop)

    def _failure(self, error: Exception) -> KafkaFailure:
        """What a poll raised, as one of ours."""
        known = isinstance(error, kafka_errors.KafkaError) and not isinstance(error, kafka_errors.CorruptRecordError)
        if known:
            return as_failure(error, self.settings, f"read {self.partition}")
        return RecordDamaged(f"partition {self.partition}: a record cannot be decoded: {error!r}")

    def _is_end(self, consumer: Any, topic_partition: Any, position: int) -> bool:
        """Whether nothing (stable) lies at ``position`` or behind it."""
        with translated(self.settings, f"read the end of {self.partition}"):
            self.caught_up = consumer.end_offsets([topic_partition])[topic_partition] <= position
        self.idle = self.caught_up and self.end <= position
        return self.caught_up

    def _skip(self, consumer: Any, topic_partition: Any, position: int, stop: int) -> SkippedRange:
        """What the policy makes of a position that the log does not hold, within the range."""
        with translated(self.settings, f"read the offsets of {self.partition}"):
            beginning = consumer.beginning_offsets([topic_partition])[topic_partition]
            end = consumer.end_offsets([topic_partition])[topic_partition]
        skipped = in_range(self.partition, position, beginning, end, self.policy)
        if skipped is None:
            raise ReadStalled(f"partition {self.partition}: position {position} came and went; read again")
        if stop == OPEN and skipped.resumed < position:
            raise OffsetOutOfRange(f"{skipped.message()}; an endless range cannot go back: start another there")
        resumed = skipped.resumed if position < skipped.resumed <= stop else stop
        return skipped._replace(resumed=resumed)

    def _check_stalled(self, position: int, stop: int) -> None:
        waited = time.monotonic() - self.moved
        if waited >= self.limits.stall_seconds:
            upto = "without an end" if stop == OPEN else f"up to {stop}"
            raise ReadStalled(
                f"partition {self.partition}: offset {position} of a range {upto} did not come in "
                f"{waited:.0f} s: the broker is down, the topic is gone or a transaction is open; "
                f"{self.settings.advice()}"
            )


class ReadImagesFromKafka(beam.PTransform):
    """`KafkaRange`s -> ``(topic-partition, ImageRef | BadRecord)``, ``position`` being the offset.

    The result has the outputs ``refs`` and, tagged `SKIPPED`, a `SkippedRange` for whatever the policy
    ``out_of_range`` passed over; for open ranges also `SPANS`. Raises ValueError for an unknown policy or bad lateness;
    while running a `KafkaFailure`, those that may pass after ``limits.stall_seconds``.

    ``endless`` takes open ranges too and makes the outputs unbounded; images then have their event times as Beam's
    timestamps, other outputs the time they were read, and the watermark is ``lateness`` seconds behind the newest image
    of each range, see `EventClock`. The runner must stream splittable DoFns: FnApiRunner runs nothing behind the first
    grouping, for the range does not end. A range whose log was cut below where it stands fails by any policy.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        limits: ReadLimits | None = None,
        out_of_range: OutOfRangePolicy = "fail",
        read_committed: bool = True,
        endless: bool = False,
        lateness: float = 30.0,
    ) -> None:
        super().__init__()
        check_policy(out_of_range)
        if not 0 <= lateness < math.inf:
            raise ValueError(f"lateness must be a number of seconds >= 0, got {lateness}")
        self._endless = endless
        limits = limits or (ENDLESS_LIMITS if endless else ReadLimits())
        self._read = _ReadRange(settings, limits, out_of_range, read_committed, lateness=lateness if endless else None)

    def expand(self, ranges: Any) -> Any:
        """Nothing is connected here."""
        read = ranges | "ReadRange" >> beam.ParDo(self._read).with_outputs(SKIPPED, SPANS, main="refs")
        if self._endless:  # Beam's own mark is on a method, for all uses of it, and does not reach tagged outputs.
            read.refs.is_bounded = read[SKIPPED].is_bounded = read[SPANS].is_bounded = False
        return read
