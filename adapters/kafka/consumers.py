"""Data consumers: one connection for each (cluster, isolation, partition) of the process, kept between reads.

A consumer is lent to one reader at a time and always sought by it; nothing of an earlier read can show. One that has
been idle is closed when the next is lent, one that failed is not kept. The consumers are `assign`ed: they belong to no
group and commit nothing.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import kafka

from grpo_tta.adapters.kafka.bounded import MAX_RECORDS, BoundedConsumer, bound_codecs
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.wire import parse_partition

IDLE_SECONDS = 60.0
_FETCH = 2**20
"""Bytes of an answer as they are on the broker, which may be compressed; a larger batch comes alone."""


class _Key(NamedTuple):
    settings: KafkaSettings
    isolation: str
    partition: str


class _Idle(NamedTuple):
    consumer: Any
    since: float


class ConsumerCache:
    """Lends consumers; safe for many threads."""

    def __init__(
        self, *, idle_seconds: float = IDLE_SECONDS, clock: Callable[[], float] = time.monotonic, open_: Any = None
    ) -> None:
        self._idle: dict[_Key, _Idle] = {}
        self._lock = threading.Lock()
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._open = open_ or _open

    def __len__(self) -> int:
        return len(self._idle)

    @contextmanager
    def lend(self, settings: KafkaSettings, partition: str, *, read_committed: bool) -> Iterator[Any]:
        """A consumer assigned to ``partition``. Raises `adapters.kafka.errors.KafkaFailure` if none can be made."""
        self.close_idle()
        key = _Key(settings, "read_committed" if read_committed else "read_uncommitted", partition)
        with self._lock:
            idle = self._idle.pop(key, None)
        consumer = idle.consumer if idle else self._open(*key)
        closing = consumer
        try:
            yield consumer
            closing = self._keep(key, consumer)
        except GeneratorExit:  # the reader had enough
            closing = self._keep(key, consumer)
            raise
        finally:
            if closing is not None:
                _close(closing)

    def _keep(self, key: _Key, consumer: Any) -> Any:
        """Put a consumer back; one that was already there instead of it, or None."""
        with self._lock:
            surplus = self._idle.get(key)
            self._idle[key] = _Idle(consumer, self._clock())
        return surplus.consumer if surplus else None

    def close_idle(self, *, all_of_them: bool = False) -> None:
        """Close those that nobody has used for a while, or all that are not lent."""
        now = self._clock()
        with self._lock:
            old = [key for key, idle in self._idle.items() if all_of_them or now - idle.since > self._idle_seconds]
            closing = [self._idle.pop(key).consumer for key in old]
        for consumer in closing:
            _close(consumer)


def _open(settings: KafkaSettings, isolation: str, partition: str) -> Any:
    bound_codecs()
    consumer = settings.consumer(
        group_id=None,
        isolation_level=isolation,
        auto_offset_reset="none",
        max_poll_records=MAX_RECORDS,
        fetch_max_bytes=_FETCH,
        max_partition_fetch_bytes=_FETCH,
    )
    consumer.assign([kafka.TopicPartition(*parse_partition(partition))])
    return BoundedConsumer(consumer)


def _close(consumer: Any) -> None:
    consumer.close(autocommit=False, timeout_ms=2000)


CONSUMERS = ConsumerCache()
"""The process's own."""
