"""A feed's images as events of a Kafka topic, for the benchmarks of live jobs. Run as a module it sends them at a rate,
from a process of its own: ``python -m benchmarks.topics BOOTSTRAP TOPIC FEED IMAGES RATE``."""

import base64
import json
import sys
import time
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path

import kafka

from demo.broker import create_topic

STREAMS = 8
PARTITIONS = 4


def make_topic(bootstrap: str, name: str) -> None:
    """Four partitions; records are stamped by the broker when it appends them."""
    create_topic(bootstrap, name, PARTITIONS, config={"message.timestamp.type": "LogAppendTime"})


def send(bootstrap: str, topic: str, feed: Path, images: int, rate: float | None = None) -> None:
    """``images`` events, evenly over streams and partitions, ``rate`` a second or as fast as it goes."""
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, linger_ms=2, reconnect_backoff_max_ms=500)
    paths = sorted(feed.glob("*/*.jpg"))
    began, sent = time.monotonic(), []
    for number, path in enumerate(islice(cycle(paths), images)):
        if rate is not None:
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
        event = {
            "schema_version": "1",
            "id": f"{number}",
            "stream": f"cam-{number % STREAMS}",
            "event_time": datetime.now(UTC).isoformat(),
            "data": base64.b64encode(path.read_bytes()).decode(),
        }
        sent.append(producer.send(topic, json.dumps(event).encode(), partition=number % PARTITIONS))
    for future in sent:
        future.get(timeout=60)
    producer.close()


if __name__ == "__main__":
    bootstrap, topic, feed, images, rate = sys.argv[1:]
    send(bootstrap, topic, Path(feed), int(images), float(rate))
