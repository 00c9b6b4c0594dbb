"""What the tests of the Kafka adapters share: records, a producer, a consumer of everything, patience."""

import base64
import json
import time
from datetime import UTC, datetime

import kafka

from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.schemas import LabeledImage

TIME = datetime(2026, 1, 1, tzinfo=UTC)


def event(number):
    data = base64.b64encode(b"jpeg").decode()
    fields = {"schema_version": "1", "id": f"e{number}", "stream": "cam", "event_time": TIME.isoformat(), "data": data}
    return json.dumps(fields).encode()


def label(number, **fields):
    return LabeledImage(
        coordinate=f"images-0-{number:019d}", id=f"e{number}", stream=f"cam{number % 3}", event_time=TIME,
        window_start=TIME, window_end=TIME, label="cat", probability=0.5, top_k=[], model_fingerprint="m",
        method="grpo", update_count=0, **fields,
    )  # fmt: skip


def produce(settings, topic, values, **options):
    """In one transaction if a ``transactional_id`` is given; ``end`` is how it ends."""
    end = options.pop("end", "commit_transaction")
    producer = settings.producer(**options)
    if "transactional_id" in options:
        producer.init_transactions()
        producer.begin_transaction()
    for future in [producer.send(topic, value, key=b"k", partition=0) for value in values]:
        future.get(timeout=10)
    if "transactional_id" in options:
        getattr(producer, end)()
    producer.close(timeout=5)


def consume(settings, topic, isolation="read_uncommitted"):
    """Everything a topic holds, partition by partition."""
    with KafkaOffsets(settings, read_committed=isolation == "read_committed") as offsets:
        ends = offsets.end(offsets.partitions([topic]))
    consumer = settings.consumer(isolation_level=isolation, auto_offset_reset="earliest")
    partitions = [kafka.TopicPartition(topic, number) for number in range(len(ends))]
    consumer.assign(partitions)
    found = []
    deadline = time.monotonic() + 20
    while any(consumer.position(one) < ends[f"{topic}-{one.partition}"] for one in partitions):
        assert time.monotonic() < deadline
        for records in consumer.poll(200).values():
            found += records
    consumer.close(autocommit=False)
    return found


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
