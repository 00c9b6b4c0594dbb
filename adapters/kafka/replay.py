"""Send records of a source topic again: those that ended as dead letters and should be tried once more.

A record is read at its coordinate and sent to its topic and partition with the same key, value, headers and timestamp;
it gets a coordinate of its own there. What the log does not hold any more is told, not passed over.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import kafka

from grpo_tta.adapters.kafka.consumers import CONSUMERS
from grpo_tta.adapters.kafka.delivery import DeliveryLimits
from grpo_tta.adapters.kafka.errors import ReadStalled
from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.settings import KafkaSettings, translated
from grpo_tta.adapters.kafka.sink import close_producer, producer_options
from grpo_tta.adapters.kafka.topics import DEFAULT_MAX_MESSAGE_BYTES
from grpo_tta.adapters.kafka.wire import Position, parse_coordinate, parse_partition, partition_name

_POLL_MS = 500
_STALL_SECONDS = 30.0
_NEAR = 100
"""Records up to so many behind another are read on to, not sought."""


@dataclass
class Replay:
    """What became of every coordinate."""

    sent: list[str] = field(default_factory=list)
    """On a dry run: those that would have been."""
    left: list[tuple[str, str]] = field(default_factory=list)
    """With the reason."""


def read_values(settings: KafkaSettings, topic: str) -> Iterator[bytes]:
    """The values of all (committed) records that a topic holds now. Raises a `KafkaFailure`."""
    with KafkaOffsets(settings) as offsets:
        names = offsets.partitions([topic])
        begins, ends = offsets.beginning(names), offsets.end(names)
    for name in names:
        with translated(settings, f"read {name}"):
            for record in _read(settings, name, begins[name], ends[name]):
                if record.value is not None:
                    yield record.value


def replay(settings: KafkaSettings, topics: Iterable[str], coordinates: Iterable[str], *, dry_run: bool) -> Replay:
    """Send the records at ``coordinates`` again, each once; those of other topics than ``topics`` are left.

    Raises a `KafkaFailure`: what was sent before it is sent again by the next try.
    """
    result, allowed = Replay(), set(topics)
    wanted: dict[str, dict[int, str]] = {}
    for coordinate in dict.fromkeys(coordinates):
        position = _position(coordinate)
        if position is None:
            result.left.append((coordinate, "it is no coordinate of a Kafka record"))
        elif position.topic not in allowed:
            result.left.append((coordinate, f"topic {position.topic} is not one of the source's"))
        else:
            name = partition_name(position.topic, position.partition)
            wanted.setdefault(name, {})[position.offset] = coordinate
    producer = None if dry_run else settings.producer(**_options())
    try:
        with translated(settings, "send records again"):
            for name, offsets in sorted(wanted.items()):
                _replay_partition(settings, producer, name, offsets, result)
    finally:
        if producer is not None:
            close_producer(producer, 5.0)
    return result


def _replay_partition(
    settings: KafkaSettings, producer: Any, name: str, offsets: dict[int, str], result: Replay
) -> None:
    topic, number = parse_partition(name)
    with KafkaOffsets(settings) as asked:
        begin, end = asked.beginning([name])[name], asked.end([name])[name]
    sending: list[tuple[str, Any]] = []
    records = records_at(settings, name, [offset for offset in sorted(offsets) if begin <= offset < end])
    record = next(records, None)
    for offset, coordinate in sorted(offsets.items()):
        if record is None or record.offset != offset:
            result.left.append((coordinate, "the log does not hold it any more"))
            continue
        future = None
        if producer is not None:
            future = producer.send(
                topic,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
                partition=number,
                timestamp_ms=record.timestamp if record.timestamp >= 0 else None,
            )
        sending.append((coordinate, future))
        record = next(records, None)
    for coordinate, future in sending:
        if future is not None:
            future.get(timeout=DeliveryLimits().seconds)
        result.sent.append(coordinate)


def records_at(settings: KafkaSettings, name: str, offsets: list[int]) -> Iterator[Any]:
    """A partition's records at sorted ``offsets`` that are there. Raises a `KafkaFailure`."""
    while offsets:
        near = 1
        while near < len(offsets) and offsets[near] - offsets[near - 1] <= _NEAR:
            near += 1
        run, offsets = set(offsets[:near]), offsets[near:]
        for record in _read(settings, name, min(run), max(run) + 1):
            if record.offset in run:
                yield record


def _position(coordinate: str) -> Position | None:
    try:
        return parse_coordinate(coordinate)
    except ValueError:
        return None


def _options() -> dict[str, Any]:
    return producer_options([DEFAULT_MAX_MESSAGE_BYTES * 16], DeliveryLimits())


def _read(settings: KafkaSettings, name: str, start: int, stop: int) -> Iterator[Any]:
    """The records of ``start <= offset < stop`` that are there."""
    partition = kafka.TopicPartition(*parse_partition(name))
    with CONSUMERS.lend(settings, name, read_committed=True) as consumer:
        consumer.seek(partition, start)
        moved = time.monotonic()
        while (position := consumer.position(partition)) < stop:
            for record in consumer.poll(_POLL_MS).get(partition, ()):
                if record.offset >= stop:
                    return
                yield record
            if consumer.position(partition) > position:
                moved = time.monotonic()
            elif time.monotonic() - moved > _STALL_SECONDS:
                raise ReadStalled(f"partition {name}: offset {position} did not come in {_STALL_SECONDS:.0f} s")
