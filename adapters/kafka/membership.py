"""`Member`: which source partitions this process may work on, and the one voice that commits their positions.

`StaticMember` owns what it was told to own, `adapters.kafka.group_member.GroupMember` what a consumer group gives it.
What changes comes out as a queue of events; a partition counts as owned from its event ``assigned`` on and no longer
once ``revoked`` (handed over) or ``lost`` (taken away, perhaps long ago: another process may be at work on it already).
"""

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import kafka
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from grpo_tta.adapters.kafka.errors import Fenced, KafkaFailure
from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.positions import Committed
from grpo_tta.adapters.kafka.settings import KafkaSettings, translated
from grpo_tta.adapters.kafka.wire import parse_partition, partition_name


class MembershipEvent(NamedTuple):
    """Something happened to these partitions."""

    kind: Literal["assigned", "revoked", "lost"]
    partitions: tuple[str, ...]
    generation: int


@dataclass(frozen=True)
class Assignment:
    """What is owned, as a snapshot. ``generation`` grows with every event."""

    generation: int = 0
    partitions: Mapping[str, int] = field(default_factory=dict)
    """Name -> the generation in which it was acquired."""


class Member(ABC):
    """Owns partitions. All methods may be called from any thread; they raise a `KafkaFailure`."""

    @abstractmethod
    def start(self) -> None:
        """Begin to own; what is owned comes as events. Call once."""

    @abstractmethod
    def assignment(self) -> Assignment:
        """What is owned now; raises what has ended the membership, if something has."""

    @abstractmethod
    def events(self, seconds: float = 0.0) -> list[MembershipEvent]:
        """The events since the last call, oldest first, after at most ``seconds`` of waiting for the first."""

    @abstractmethod
    def commit(self, positions: Mapping[str, Committed], acquired: Mapping[str, int]) -> None:
        """Commit the next position of each partition, held since the generation ``acquired`` names; else `Fenced`."""

    @abstractmethod
    def group_metadata(self) -> Any:
        """What a transaction needs to have the group's position checked."""

    @abstractmethod
    def close(self, seconds: float = 10.0) -> None:
        """Own nothing any more and say so to the others, within ``seconds``."""


class Ownership:
    """The assignment and its events, kept by one thread and read by others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._assignment = Assignment()
        # Not a SimpleQueue: a signal that comes just before a time-out makes its `get` wait for ever.
        self._events: queue.Queue[MembershipEvent] = queue.Queue()

    def change(self, kind: Literal["assigned", "revoked", "lost"], partitions: Collection[str]) -> None:
        """Note an event; of partitions that it changes nothing for, nothing is said."""
        with self._lock:
            held = dict(self._assignment.partitions)
            changed = tuple(sorted(name for name in partitions if (name in held) != (kind == "assigned")))
            if not changed:
                return
            generation = self._assignment.generation + 1
            for name in changed:
                if kind == "assigned":
                    held[name] = generation
                else:
                    del held[name]
            self._assignment = Assignment(generation, held)
            self._events.put(MembershipEvent(kind, changed, generation))

    def assignment(self) -> Assignment:
        """As it is now."""
        return self._assignment

    def events(self, seconds: float) -> list[MembershipEvent]:
        """As `Member.events`."""
        found = []
        try:
            found.append(self._events.get(timeout=seconds) if seconds > 0 else self._events.get_nowait())
            while True:
                found.append(self._events.get_nowait())
        except queue.Empty:
            return found

    def check(self, partitions: Iterable[str], acquired: Mapping[str, int]) -> None:
        """Raise `Fenced` unless all are held, without a break, since they were acquired."""
        held = self._assignment.partitions
        for name in partitions:
            if name not in held or held[name] != acquired.get(name):
                raise Fenced(f"partition {name} is not owned any more, or was lost in between: let it go")


def commit_offsets(positions: Mapping[str, Committed]) -> dict[Any, Any]:
    """Positions as kafka-python takes them."""
    return {
        kafka.TopicPartition(*parse_partition(name)): OffsetAndMetadata(position.offset, position.metadata, -1)
        for name, position in positions.items()
    }


class StaticMember(Member):
    """Owns partitions ``numbers`` of each topic from `start` to `close`, whatever others do.

    Commits go to ``group`` if one is given; Kafka refuses them while that group has members of the other kind.
    """

    def __init__(
        self, settings: KafkaSettings, topics: Iterable[str], numbers: Iterable[int], *, group: str | None = None
    ) -> None:
        self._settings = settings
        self._topics = list(topics)
        self._numbers = tuple(numbers)
        if not self._numbers:
            raise ValueError("partitions must not be empty")
        self._group = group
        self._ownership = Ownership()
        self._lock = threading.Lock()
        self._consumer: Any = None

    def start(self) -> None:
        """Raises `adapters.kafka.errors.TopicMissing` for a topic, ValueError for a partition, that is not there."""
        with KafkaOffsets(self._settings) as offsets:
            present = set(offsets.partitions(self._topics))
        wanted = [partition_name(topic, number) for topic in self._topics for number in self._numbers]
        missing = [name for name in wanted if name not in present]
        if missing:
            raise ValueError(f"partitions {', '.join(missing)} do not exist; there are {', '.join(sorted(present))}")
        self._ownership.change("assigned", wanted)

    def assignment(self) -> Assignment:
        """See `Member`."""
        return self._ownership.assignment()

    def events(self, seconds: float = 0.0) -> list[MembershipEvent]:
        """See `Member`."""
        return self._ownership.events(seconds)

    def commit(self, positions: Mapping[str, Committed], acquired: Mapping[str, int]) -> None:
        """See `Member`; does nothing without a group."""
        self._ownership.check(positions, acquired)
        if self._group is None:
            return
        with self._lock, translated(self._settings, f"commit positions of group {self._group!r}"):
            if self._consumer is None:
                self._consumer = self._settings.consumer(group_id=self._group)
            self._consumer.commit(commit_offsets(positions), timeout_ms=round(self._settings.request_timeout * 1000))

    def group_metadata(self) -> Any:
        """See `Member`: a group without members; raises `KafkaFailure` without a group."""
        if self._group is None:
            raise KafkaFailure("transactions commit positions to a group: name one")
        return ConsumerGroupMetadata(self._group)

    def close(self, seconds: float = 10.0) -> None:
        """See `Member`."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close(autocommit=False, timeout_ms=round(seconds * 1000))
                self._consumer = None
        self._ownership.change("revoked", tuple(self._ownership.assignment().partitions))
