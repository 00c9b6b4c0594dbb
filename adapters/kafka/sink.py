"""`KafkaSink`: records to their topics, all acknowledged or an error; duplicates are possible after an error.

One idempotent producer, made at the first use. After any error it is thrown away and the next call makes another: a
record that a broker refuses as too large, or one that timed out, leaves it unusable or uncertain. Records that are
sent again have the same bytes and coordinate.
"""

import logging
from collections.abc import Iterable
from typing import Any

from grpo_tta.adapters.kafka.delivery import Delivery, DeliveryLimits, SinkResult
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.topics import OutTopics, TopicPlan, ensure_topics
from grpo_tta.adapters.rows import Row

_log = logging.getLogger(__name__)
CLOSE_SECONDS = 5.0


def producer_options(max_bytes: Iterable[int], limits: DeliveryLimits) -> dict[str, Any]:
    """Tuned for throughput, bounded in time. ``max_request_size`` is a net below `Delivery`'s own check."""
    return {
        "acks": "all",
        "batch_size": 262144,
        "linger_ms": 5,
        "max_block_ms": round(limits.seconds * 1000),
        "delivery_timeout_ms": round(limits.seconds * 1000) + 20_000,
        "max_request_size": max(max_bytes),
    }


class KafkaSink:
    """Not for several threads at once."""

    def __init__(
        self,
        settings: KafkaSettings,
        topics: OutTopics,
        *,
        plan: TopicPlan | None = None,
        limits: DeliveryLimits | None = None,
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._plan = plan or TopicPlan()
        self._limits = limits or DeliveryLimits()
        self._max_bytes: dict[str, int] | None = None
        self._producer: Any = None

    def open(self) -> None:
        """Connect and see that the topics are there. Called by the first `send_all` if nobody did."""
        if self._max_bytes is None:
            self._max_bytes = ensure_topics(self._settings, self._topics.names(), self._plan)
        if self._producer is None:
            self._producer = self._settings.producer(**producer_options(self._max_bytes.values(), self._limits))

    def send_all(self, rows: Iterable[Row]) -> SinkResult:
        """Send the records in order and wait until every one is acknowledged; else raises a `KafkaFailure`.

        After an error some may have been written: send all of them again.
        """
        try:
            self.open()
            assert self._max_bytes is not None
            delivery = Delivery(self._producer, self._settings, self._topics, self._max_bytes, self._limits)
            delivery.send_all(rows)
            result = delivery.finish()
        except BaseException:
            self._discard()
            raise
        for letter in result.too_large:
            _log.warning("%s: %s", letter.coordinate, letter.error_message)
        return result

    def close(self) -> None:
        """Let go of the producer, in bounded time; nothing is pending after a `send_all`."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            close_producer(producer, CLOSE_SECONDS)

    def _discard(self) -> None:
        self._max_bytes = None
        if self._producer is not None:
            producer, self._producer = self._producer, None
            close_producer(producer, 0)


def close_producer(producer: Any, seconds: float) -> None:
    """Close one that may be broken: what it still has to say is of no interest."""
    try:
        producer.close(timeout=seconds)
    except Exception as error:
        _log.debug("closing a producer: %s", type(error).__name__)
