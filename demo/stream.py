"""``make demo-stream``: a real local broker, the demo feed produced into it at a steady rate and labelled live.

Every camera's images arrive in order, all cameras side by side, stamped with the moment they are sent. Nothing is sent
before the job owns its partitions. The labels go to a topic and to files; when all images are labelled the table of
``grpo-tta demo`` is printed, with the ages of the labels, and everything is stopped. It needs Java and, once, Maven.
"""

import argparse
import base64
import json
import logging
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import kafka

from demo.broker import BrokerUnavailable, LocalBroker, create_topic
from demo.broker.quorum import free_ports
from grpo_tta.demo import reference_path, write_feed
from grpo_tta.pipeline.cli.console import environment_for_torch

FRAMES, LABELS = "frames", "labels"
PARTITIONS = 4
READY_SECONDS = 120.0
STOP_SECONDS = 60.0
_DONE = re.compile(r"^tta_(?:samples|dead_letters)_total (\S+)$", re.MULTILINE)


def events(feed: Path) -> Iterator[tuple[str, bytes]]:
    """``(camera/file name, image file)`` of the whole feed: the next image of every camera in turn."""
    cameras = {folder.name: sorted(folder.glob("*.jpg")) for folder in sorted(feed.iterdir()) if folder.is_dir()}
    for number in range(max(len(paths) for paths in cameras.values())):
        for paths in cameras.values():
            if number < len(paths):
                yield f"{paths[number].parent.name}/{paths[number].name}", paths[number].read_bytes()


def produce(bootstrap: str, topic: str, feed: Path, rate: float) -> int:
    """Send the feed as JSON events with inline images, ``rate`` a second; how many there were."""
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, reconnect_backoff_max_ms=500)
    began, sent = time.monotonic(), []
    for number, (name, data) in enumerate(events(feed)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        event = {
            "schema_version": "1",
            "id": name,
            "stream": name.partition("/")[0],
            "event_time": datetime.now(UTC).isoformat(),
            "data": base64.b64encode(data).decode(),
        }
        sent.append(producer.send(topic, json.dumps(event).encode(), key=event["stream"].encode()))
    for future in sent:
        future.get(timeout=30)
    producer.close()
    return len(sent)


class Job:
    """``grpo-tta label`` from the topic to a topic and a folder, as a process of its own."""

    def __init__(self, bootstrap: str, out: Path) -> None:
        (self._port,) = free_ports(1)
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "grpo_tta.pipeline.cli", "label",
                "--source", f"kafka://{bootstrap}/{FRAMES}",
                "--out", str(out), "--out", f"kafka://{bootstrap}/{LABELS}",
                "--start", "earliest", "--slice-seconds", "1s", "--window", "fixed:1s",
                "--reference", str(reference_path()), "--on-shift", "reset", "--metrics-port", str(self._port),
            ]
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Until it owns its partitions."""
        deadline = time.monotonic() + READY_SECONDS
        while self._ask("readyz") is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the job was not ready within {READY_SECONDS:.0f} s")
            time.sleep(0.2)

    def wait(self, sending: "Future[int]") -> None:
        """Until everything that was sent is labelled, or a dead letter."""
        while not (sending.done() and self._done() >= sending.result()):
            time.sleep(0.5)

    def stop(self) -> None:
        """As Ctrl-C would: the running slice is committed."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def _done(self) -> float:
        return sum(float(count) for count in _DONE.findall(self._ask("metrics") or ""))

    def _ask(self, path: str) -> str | None:
        """What the job says there; None while it says nothing or that it is not ready. Raises where it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the job ended with exit code {self._process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError):
            return None


def ages(bootstrap: str) -> list[float]:
    """Of every label, sorted: seconds from the sending of its image to the label's arrival at the producer of labels.

    The job is over, so the topic's ends are final.
    """
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False, consumer_timeout_ms=3000
    )
    consumer.assign([kafka.TopicPartition(LABELS, number) for number in consumer.partitions_for_topic(LABELS)])
    left = sum(consumer.end_offsets(consumer.assignment()).values())
    found = []
    for record in consumer:
        sent = datetime.fromisoformat(json.loads(record.value)["event_time"])
        found.append(record.timestamp / 1000 - sent.timestamp())
        left -= 1
        if left <= 0:
            break
    consumer.close()
    return sorted(found)


def run(out: Path, images: int, rate: float) -> int:
    """The whole demonstration; the exit code."""
    if out.exists():
        shutil.rmtree(out)
    feed = out / "feed"
    print(f"writing {images} images to {feed}", flush=True)
    write_feed(feed, 0, images)
    with LocalBroker(out / "broker") as broker, ThreadPoolExecutor(1) as pool:
        create_topic(broker.bootstrap, FRAMES, PARTITIONS)
        print(f"a broker listens at {broker.bootstrap}; the job starts", flush=True)
        job = Job(broker.bootstrap, out)
        try:
            job.wait_until_ready()
            print(f"the job is ready; {rate:g} images a second go to topic {FRAMES!r}", flush=True)
            job.wait(pool.submit(produce, broker.bootstrap, FRAMES, feed, rate))
        finally:
            job.stop()
        subprocess.run(
            [sys.executable, "-m", "grpo_tta.pipeline.cli", "status", "--checkpoint", str(out / "checkpoint")],
            check=True,
        )
        waited = ages(broker.bootstrap)
    from grpo_tta.pipeline.cli.demo import print_table  # here, for Beam has something to say when it is imported

    print_table(out, feed / "truth.jsonl")
    half, most = waited[len(waited) // 2], waited[int(0.95 * len(waited))]
    print(f"from sending an image to writing its label: half within {half:.1f} s, 95 % within {most:.1f} s")
    print("the broker and the job are stopped")
    return 0


def send(bootstrap: str, out: Path, images: int, rate: float) -> int:
    """The feed to a broker that is there, again and again, at its rate."""
    feed = out / "feed"
    if not feed.exists():
        write_feed(feed, 0, images)
    while True:
        print(f"{produce(bootstrap, FRAMES, feed, rate)} images are sent to topic {FRAMES!r}", flush=True)


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo-stream"), help="default: out/demo-stream")
    parser.add_argument("--images", type=int, default=4800, help="default: 4800")
    parser.add_argument("--rate", type=float, default=40.0, help="images a second (default: 40)")
    parser.add_argument("--send-to", metavar="HOST:PORT", help="only send the feed to this broker, until stopped")
    return parser


def main() -> int:
    """What is missing is said in one line."""
    arguments = make_parser().parse_args()
    logging.basicConfig(level=logging.ERROR)
    environment_for_torch()
    if arguments.send_to:
        return send(arguments.send_to, arguments.out, arguments.images, arguments.rate)
    try:
        return run(arguments.out, arguments.images, arguments.rate)
    except BrokerUnavailable as missing:
        print(f"make demo-stream needs a local Kafka broker: {missing}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
