"""Records a second of `ReadImagesFromKafka` against a bare kafka-python consumer loop over the same topic.

A local broker holds one partition of JSON events with inline images, records of about 5 KB and, in another topic, of
50 KB. The bare loop is an assigned consumer with the same fetch sizes that polls from the first offset to the last and
drops what it gets. The source runs in a Beam pipeline on the in-process runner, with everything a job's source does:
claims, decoding of the event and its image's base64, and a count behind it. The start of a broker and the first,
unmeasured round apart, the two sides alternate; the figure is the median of the rounds' ratios.
"""

import base64
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import apache_beam as beam
import kafka

from benchmarks.report import Bar, finish, parser
from demo.broker import LocalBroker, create_topic
from grpo_tta.adapters.kafka.ranges import KafkaRange
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.source import ReadImagesFromKafka


def fill(bootstrap: str, topic: str, count: int, size: int) -> None:
    """``count`` events in records of about ``size`` bytes."""
    create_topic(bootstrap, topic)
    data = base64.b64encode(os.urandom(size * 3 // 4 - 120)).decode()
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, batch_size=262144)
    for number in range(count):
        event = {
            "schema_version": "1",
            "id": f"event-{number}",
            "stream": f"cam-{number % 20:02d}",
            "event_time": "2026-01-01T06:00:00Z",
            "data": data,
        }
        producer.send(topic, json.dumps(event).encode(), key=event["stream"].encode())
    producer.flush()
    producer.close()


def bare(settings: KafkaSettings, topic: str, count: int) -> float:
    """Seconds of the consumer loop."""
    started = time.perf_counter()
    consumer = settings.consumer(max_poll_records=2000)
    partition = kafka.TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    seen = 0
    while seen < count:
        seen += sum(len(records) for records in consumer.poll(500).values())
    consumer.close(autocommit=False)
    return time.perf_counter() - started


def expect(found: int, count: int) -> None:
    """Raises ``RuntimeError`` unless they are equal."""
    if found != count:
        raise RuntimeError(f"{count} events were there, {found} read")


def source(settings: KafkaSettings, topic: str, count: int) -> float:
    """Seconds of the pipeline."""
    started = time.perf_counter()
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        read = pipeline | beam.Create([KafkaRange(topic, 0, 0, count)]) | ReadImagesFromKafka(settings)
        _ = read.refs | beam.combiners.Count.Globally() | beam.Map(expect, count)
    return time.perf_counter() - started


def main() -> int:
    """Print the rounds and a bar for each size."""
    flags = parser(__doc__)
    flags.add_argument("--megabytes", type=int, default=200, help="in each topic (default: 200)")
    flags.add_argument("--rounds", type=int, default=5, help="default: 5")
    arguments = flags.parse_args()
    bars, details = [], {}
    with tempfile.TemporaryDirectory() as folder, LocalBroker(Path(folder)) as broker:
        settings = KafkaSettings((broker.bootstrap,))
        for size in (5_000, 50_000):
            topic, count = f"events-{size}", arguments.megabytes * 1_000_000 // size
            fill(broker.bootstrap, topic, count, size)
            ratios: list[float] = []
            for number in range(arguments.rounds + 1):
                loop, job = bare(settings, topic, count), source(settings, topic, count)
                said = f"{count / job:.0f} records/s, bare loop {count / loop:.0f} records/s, ratio {loop / job:.3f}"
                print(f"{size // 1000} KB, {f'round {number}' if number else 'warm-up'}: {said}", flush=True)
                if number:
                    ratios.append(loop / job)
            bars.append(Bar(f"source alone, {size // 1000} KB records", statistics.median(ratios), 0.7, unit="x"))
            details[topic] = ratios
    return finish(arguments, bars, details)


if __name__ == "__main__":
    sys.exit(main())
