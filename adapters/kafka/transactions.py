"""`TransactionalSink`: a slice's records of one source partition and the group's new position, all or nothing.

The transactional id belongs to the source partition: a new owner's `open` aborts what an older one left unfinished and
fences it, whatever it believes of its membership. The order of a slice:

1. `begin` 2. `send_all` 3. `send_offsets`, with the commit's name as metadata 4. `commit`: the slice counts.

After any error but `CommitUnknown` nothing of it counts; `abort` and either begin again or, when `Fenced`, let the
partition go. kafka-python waits without end for the last two, so they run beside us and their wait is bounded.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from grpo_tta.adapters.kafka.delivery import Delivery, DeliveryLimits, SinkResult
from grpo_tta.adapters.kafka.errors import CommitUnknown, Fenced, KafkaFailure, SendFailed
from grpo_tta.adapters.kafka.positions import Committed
from grpo_tta.adapters.kafka.settings import KafkaSettings, as_failure
from grpo_tta.adapters.kafka.sink import CLOSE_SECONDS, close_producer, producer_options
from grpo_tta.adapters.kafka.topics import OutTopics, TopicPlan, ensure_topics
from grpo_tta.adapters.kafka.wire import parse_partition
from grpo_tta.adapters.rows import Row

MAX_METADATA = 4096
"""Kafka's default of ``offset.metadata.max.bytes``."""
FENCED = (
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.ProducerFencedError,
    kafka_errors.InvalidProducerIdMappingError,
    kafka_errors.TransactionCoordinatorFencedError,
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
    kafka_errors.FencedInstanceIdError,
)
"""What the broker answers to one that has been replaced."""
_REBALANCING = kafka_errors.RebalanceInProgressError.__name__
"""Answered to a group's position while its members are given their partitions. kafka-python takes it for fatal to the
producer and names it only in the text."""


def transactional_id(group: str, partition: str) -> str:
    """One a source partition: ``grpo-tta.<group>.<topic>-<partition>``."""
    return f"grpo-tta.{group}.{partition}"


class TransactionalSink:
    """One source partition's producer. Not for several threads at once. Every method raises a `KafkaFailure`."""

    def __init__(
        self,
        settings: KafkaSettings,
        topics: OutTopics,
        *,
        group: str,
        partition: str,
        plan: TopicPlan | None = None,
        limits: DeliveryLimits | None = None,
        transaction_seconds: float = 60.0,
    ) -> None:
        parse_partition(partition)
        self._settings = settings
        self._topics = topics
        self._partition = partition
        self._id = transactional_id(group, partition)
        self._plan = plan or TopicPlan()
        self._limits = limits or DeliveryLimits()
        self._transaction_ms = round(transaction_seconds * 1000)
        self._max_bytes: dict[str, int] = {}
        self._producer: Any = None

    def open(self) -> None:
        """Connect, finish or abort what an earlier owner left, and fence it."""
        self.close()
        self._max_bytes = ensure_topics(self._settings, self._topics.names(), self._plan)
        self._producer = self._settings.producer(
            transactional_id=self._id,
            transaction_timeout_ms=self._transaction_ms,
            **producer_options(self._max_bytes.values(), self._limits),
        )
        self._call("begin to own", lambda producer: producer.init_transactions())

    def begin(self) -> None:
        """Step 1."""
        self._call("begin a transaction for", lambda producer: producer.begin_transaction())

    def send_all(self, rows: Iterable[Row]) -> SinkResult:
        """Step 2: as `KafkaSink.send_all`; nothing can be seen by read_committed readers yet."""
        delivery = Delivery(self._producer, self._settings, self._topics, self._max_bytes, self._limits)
        try:
            delivery.send_all(rows)
            return delivery.finish()
        except KafkaFailure as error:
            raise self._fenced(error.__cause__) or error from error.__cause__

    def send_offsets(self, positions: Mapping[str, Committed], group_metadata: Any) -> None:
        """Step 3: the next position to read and a string that a restart finds beside it, at most 4096 bytes.

        ``group_metadata``: of the `Member`, so that one that has left the group is refused.
        """
        for name, position in positions.items():
            if len(position.metadata.encode()) > MAX_METADATA:
                raise ValueError(f"metadata of {name} must be <= {MAX_METADATA} bytes, got {len(position.metadata)}")
        offsets = {
            kafka.TopicPartition(*parse_partition(name)): OffsetAndMetadata(position.offset, position.metadata, -1)
            for name, position in positions.items()
        }
        self._call(
            "add the position of", lambda producer: producer.send_offsets_to_transaction(offsets, group_metadata)
        )

    def commit(self) -> None:
        """Step 4. Raises `CommitUnknown` where the answer did not come."""
        try:
            self._call("commit the slice of", lambda producer: producer.commit_transaction())
        except _TimedOut as error:
            raise CommitUnknown(f"{error}: the group's committed offset says whether it happened") from error

    def abort(self) -> None:
        """Give up the transaction; what was sent is never seen by read_committed readers."""
        self._call("abort the slice of", lambda producer: producer.abort_transaction())

    def close(self) -> None:
        """Let go of the producer; an open transaction is aborted by the next `open` or by the broker's time-out."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            close_producer(producer, CLOSE_SECONDS)

    def _call(self, doing: str, call: Callable[[Any], None]) -> None:
        doing = f"{doing} partition {self._partition}"
        if self._producer is None:
            raise KafkaFailure(f"could not {doing}: the sink is not open")
        producer = self._producer
        try:
            _bounded(lambda: call(producer), self._limits.seconds + CLOSE_SECONDS, f"could not {doing}")
        except KafkaFailure:
            self._discard()
            raise
        except kafka_errors.KafkaError as error:
            fenced = self._fenced(error)
            if fenced is not None:
                self._discard()
                raise fenced from error
            if _REBALANCING in str(error):
                self._discard()
                raise SendFailed(f"could not {doing}: the group is rebalancing; the slice is run again") from error
            raise as_failure(error, self._settings, doing) from error

    def _fenced(self, error: BaseException | None) -> Fenced | None:
        if not isinstance(error, FENCED):
            return None
        return Fenced(f"partition {self._partition} has another owner ({type(error).__name__}): let it go")

    def _discard(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, 0)


class _TimedOut(SendFailed):
    """The broker did not answer in time."""


def _bounded(call: Callable[[], None], seconds: float, what: str) -> None:
    """Run ``call`` in a thread of its own and wait that long for it; the thread ends with its producer."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="kafka-transaction", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise _TimedOut(f"{what}: no answer in {seconds:.0f} s")
    if raised:
        raise raised[0]
