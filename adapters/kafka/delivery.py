"""From records to acknowledgements: what a record looks like on the wire, and a batch of sends that are all checked.

``flush()`` raises nothing for records that failed, so every send's future is kept and asked. What is sent and not yet
acknowledged is bounded in bytes: a slow broker slows the caller. A record that its topic would not take becomes a
dead letter before it is sent, for a broker's refusal poisons an idempotent producer for good.
"""

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kafka import errors as kafka_errors

from grpo_tta.adapters.kafka.errors import KafkaFailure, KafkaTrouble, RecordTooLarge, SendFailed
from grpo_tta.adapters.kafka.settings import KafkaSettings, as_failure
from grpo_tta.adapters.kafka.topics import OutTopics
from grpo_tta.adapters.rows import KINDS, Row
from grpo_tta.schemas import DeadLetter, WireModel

_OVERHEAD = 128
"""More than a record's own frame, that of a batch of one and the lengths of its parts take."""


class Outgoing(NamedTuple):
    """One record as Kafka takes it."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]

    @property
    def size(self) -> int:
        """An upper bound on its bytes, in a batch of its own."""
        headers = sum(len(name.encode()) + len(value) + 10 for name, value in self.headers)
        return _OVERHEAD + len(self.key) + len(self.value) + headers


def outgoing(row: Row, topics: OutTopics) -> Outgoing:
    """Keyed by stream, or by coordinate where the stream is not known, so that a replay goes to the same partition."""
    model = KINDS[row.kind]
    headers = [
        ("coordinate", row.coordinate.encode("utf-8", "replace")),
        ("schema", model.__name__.encode()),
        ("schema_version", str(model.model_fields["schema_version"].default).encode()),
    ]
    return Outgoing(topics.of(row.kind), (row.stream or row.coordinate).encode("utf-8", "replace"), row.value, headers)


def too_large(record: WireModel, message: str) -> DeadLetter:
    """The dead letter of a record that its topic does not take."""
    return DeadLetter(
        coordinate=getattr(record, "coordinate", ""),
        stage="sink",
        error_class="RecordTooLarge",
        error_message=message,
        id=getattr(record, "id", None),
        stream=getattr(record, "stream", None),
        event_time=getattr(record, "event_time", None),
        truncated=True,
    )


def cut_to_fit(letter: DeadLetter, topics: OutTopics, limit: int) -> Outgoing:
    """The dead letter with as much of its event as ``limit`` bytes hold. Raises `KafkaFailure` if none do."""
    sending = outgoing(Row.of(letter), topics)
    if sending.size <= limit:
        return sending
    event = letter.event if isinstance(letter.event, str) else None
    while event:
        event = event[: len(event) // 2]
        sending = outgoing(Row.of(letter.model_copy(update={"event": event or None, "truncated": True})), topics)
        if sending.size <= limit:
            return sending
    short = {"event": None, "truncated": True, "error_message": letter.error_message[:200]}
    sending = outgoing(Row.of(letter.model_copy(update=short)), topics)
    if sending.size > limit:
        raise KafkaFailure(
            f"the dead letter of {letter.coordinate} takes {sending.size} bytes, {topics.dead_letters} only {limit}: "
            "raise its max.message.bytes"
        )
    return sending


@dataclass(frozen=True)
class SinkResult:
    """All of it was acknowledged."""

    sent: Mapping[str, int]
    """Records by topic."""
    bytes: int
    too_large: tuple[DeadLetter, ...] = ()
    """What was sent in place of records that their topics do not take."""


@dataclass(frozen=True)
class DeliveryLimits:
    """``seconds`` for one acknowledgement; ``in_flight_bytes`` sent and not acknowledged."""

    seconds: float = 30.0
    in_flight_bytes: int = 32 * 2**20

    def __post_init__(self) -> None:
        for name in ("seconds", "in_flight_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


@dataclass
class Delivery:
    """Sends records with one producer; `finish` waits for the last acknowledgement. After an error: throw it away."""

    producer: Any
    settings: KafkaSettings
    topics: OutTopics
    max_bytes: Mapping[str, int]
    limits: DeliveryLimits
    _waiting: deque[tuple[Any, Outgoing]] = field(default_factory=deque)
    _in_flight: int = 0
    _bytes: int = 0
    _sent: dict[str, int] = field(default_factory=dict)
    _too_large: list[DeadLetter] = field(default_factory=list)

    def send_all(self, rows: Iterable[Row]) -> None:
        """Send in order. Raises a `KafkaFailure` at the first that is known to have failed."""
        for row in rows:
            self._send(self._fitting(row))

    def finish(self) -> SinkResult:
        """Wait for all acknowledgements; raises `SendFailed` or another `KafkaFailure` unless every one came."""
        while self._waiting:
            self._acknowledge()
        return SinkResult(dict(self._sent), self._bytes, tuple(self._too_large))

    def _fitting(self, row: Row) -> Outgoing:
        sending = outgoing(row, self.topics)
        limit = self.max_bytes[sending.topic]
        if sending.size <= limit:
            return sending
        record = row.record()
        if isinstance(record, DeadLetter):
            return cut_to_fit(record, self.topics, limit)
        letter = too_large(
            record, f"{type(record).__name__} takes {sending.size} bytes, topic {sending.topic} at most {limit}"
        )
        self._too_large.append(letter)
        return cut_to_fit(letter, self.topics, self.max_bytes[self.topics.dead_letters])

    def _send(self, sending: Outgoing) -> None:
        while self._waiting and self._in_flight + sending.size > self.limits.in_flight_bytes:
            self._acknowledge()
        try:
            future = self.producer.send(sending.topic, sending.value, key=sending.key, headers=sending.headers)
        except kafka_errors.KafkaError as error:
            raise self._failure(error, sending) from error
        self._waiting.append((future, sending))
        self._in_flight += sending.size

    def _acknowledge(self) -> None:
        """Wait for the oldest."""
        future, sending = self._waiting.popleft()
        started = time.monotonic()
        try:
            future.get(timeout=self.limits.seconds)
        except kafka_errors.KafkaTimeoutError as error:
            waited = time.monotonic() - started
            raise SendFailed(
                f"a record for topic {sending.topic} was not acknowledged in {waited:.0f} s; "
                f"check that the topic exists and has a leader; {self.settings.advice()}"
            ) from error
        except kafka_errors.KafkaError as error:
            raise self._failure(error, sending) from error
        self._in_flight -= sending.size
        self._bytes += sending.size
        self._sent[sending.topic] = self._sent.get(sending.topic, 0) + 1

    def _failure(self, error: Exception, sending: Outgoing) -> KafkaFailure:
        failure = as_failure(error, self.settings, f"write to topic {sending.topic}")
        if type(failure) not in (KafkaFailure, KafkaTrouble):
            return failure
        too_large = isinstance(error, kafka_errors.MessageSizeTooLargeError)
        return (RecordTooLarge if too_large else SendFailed)(str(failure))
