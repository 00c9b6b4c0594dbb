"""Small stand-ins for kafka-python."""

from collections import deque
from typing import NamedTuple

from kafka import errors as kafka_errors
from kafka.structs import TopicPartition


class Record(NamedTuple):
    """The part of a ``ConsumerRecord`` that is read."""

    topic: str = "images"
    partition: int = 0
    offset: int = 7
    timestamp: int = 1_767_225_600_000
    key: bytes | None = b"cam"
    value: bytes | None = b""
    headers: tuple = ()


class FakeFuture:
    def __init__(self, error=None):
        self.error = error
        self.asked = []

    def get(self, timeout):
        self.asked.append(timeout)
        if self.error is not None:
            raise self.error


class FakeProducer:
    """``outcomes``: for each send in turn None, an error of its future, or ``("send", error)``."""

    def __init__(self, outcomes=()):
        self.outcomes = deque(outcomes)
        self.sent = []
        self.futures = []
        self.closed = []

    def send(self, topic, value, *, key, headers):
        outcome = self.outcomes.popleft() if self.outcomes else None
        if isinstance(outcome, tuple):
            raise outcome[1]
        self.sent.append((topic, key, value, headers))
        self.futures.append(FakeFuture(outcome))
        return self.futures[-1]

    def close(self, timeout):
        self.closed.append(timeout)


class FakeConsumer:
    """A log of ``offset -> record`` with gaps, its ``beginning`` and ``end``; ``polls``: errors to raise, in turn.

    ``high``: its end with open transactions, if that is another; ``record``: ``offset -> Record``.
    """

    def __init__(self, offsets=(), beginning=0, end=0, polls=(), batch=3, high=None, record=None):
        self.log = sorted(offsets)
        self.high = high
        self.record = record or (lambda offset: Record(offset=offset, value=b"{}"))
        self.beginning, self.end, self.batch = beginning, end, batch
        self.polls = deque(polls)
        self.at = None
        self.sought = []
        self.closed = False

    def seek(self, partition, offset):
        self.partition, self.at = partition, offset
        self.sought.append(offset)

    def poll(self, timeout_ms):
        error = self.polls.popleft() if self.polls else None
        if error is not None:
            raise error
        if not self.beginning <= self.at <= self.end:
            raise kafka_errors.OffsetOutOfRangeError({self.partition: self.at})
        found = [offset for offset in self.log if offset >= self.at][: self.batch]
        after = [offset for offset in self.log if offset > found[-1]] if found else []
        self.at = found[-1] + 1 if found and after else self.end
        records = [self.record(offset) for offset in found]
        return {self.partition: records} if records else {}

    def position(self, partition, timeout_ms=None):
        return self.at

    def beginning_offsets(self, partitions):
        return dict.fromkeys(partitions, self.beginning)

    def end_offsets(self, partitions):
        return dict.fromkeys(partitions, self.end)

    def highwater(self, partition):
        return self.end if self.high is None else self.high

    def close(self, autocommit=True, timeout_ms=None):
        self.closed = True


PARTITION = TopicPartition("images", 0)
