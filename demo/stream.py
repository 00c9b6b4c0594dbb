"""``make demo-stream``: a real local broker, the demo feed produced into it at a steady rate and labelled live.

Every camera's images arrive in order, all cameras side by side, stamped with the moment they are sent. The labels go to
a topic and to files; when all images are labelled the table of `grpo_tta`'s demo is printed and everything is stopped.
It needs Java and, once, Maven.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import kafka

from demo.broker import BrokerUnavailable, LocalBroker, create_topic
from grpo_tta.demo import write_feed

FRAMES, LABELS = "frames", "labels"
PARTITIONS = 4


def events(feed: Path) -> Iterator[tuple[str, bytes]]:
    """``(camera, image file)`` of the whole feed: the next image of every camera in turn."""
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


def send(bootstrap: str, feed: Path, rate: float, done: threading.Event) -> None:
    """Produce, and say when it is done."""
    produce(bootstrap, FRAMES, feed, rate)
    done.set()


def label(bootstrap: str, out: Path) -> "subprocess.Popen[bytes]":
    """``grpo-tta label`` from the topic to a topic and a folder."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "pipeline.cli", "label",
            "--source", f"kafka://{bootstrap}/{FRAMES}",
            "--out", str(out), "--out", f"kafka://{bootstrap}/{LABELS}",
            "--start", "earliest", "--slice-seconds", "1s",
        ]
    )  # fmt: skip


def labelled(out: Path) -> int:
    """How many labels there are by now."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob("labels/*.jsonl"))


def wait(process: "subprocess.Popen[bytes]", out: Path, images: int, done: threading.Event) -> None:
    """Until all images are labelled; raises RuntimeError if the job ends before."""
    while not (done.is_set() and labelled(out) >= images):
        if process.poll() is not None:
            raise RuntimeError(f"the job ended with exit code {process.returncode}")
        time.sleep(0.5)


def run(out: Path, images: int, rate: float) -> int:
    """The whole demonstration; the exit code."""
    if out.exists():
        shutil.rmtree(out)
    feed = out / "feed"
    print(f"writing {images} images to {feed}", flush=True)
    write_feed(feed, 0, images)
    with LocalBroker(out / "broker") as broker:
        create_topic(broker.bootstrap, FRAMES, PARTITIONS)
        print(f"a broker listens at {broker.bootstrap}; {rate:g} images a second go to topic {FRAMES!r}", flush=True)
        job, done = label(broker.bootstrap, out), threading.Event()
        threading.Thread(target=send, args=(broker.bootstrap, feed, rate, done), daemon=True).start()
        try:
            wait(job, out, images, done)
        finally:
            job.terminate()
            job.wait(60)
        show = [sys.executable, "-m", "pipeline.cli"]
        subprocess.run([*show, "status", "--checkpoint", str(out / "checkpoint")], check=True)
    subprocess.run(
        [*show, "evaluate", "--labels", str(out), "--truth", str(feed / "truth.jsonl"), "--by", "stream,segment"],
        check=True,
    )
    print(f"\nlabels in {out / 'labels'}, log in {out / 'adaptation'}; the broker and the job are stopped")
    return 0


def main() -> int:
    """The flags, and what is missing said in one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo-stream"), help="default: out/demo-stream")
    parser.add_argument("--images", type=int, default=4800, help="default: 4800")
    parser.add_argument("--rate", type=float, default=60.0, help="images a second (default: 60)")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return run(arguments.out, arguments.images, arguments.rate)
    except BrokerUnavailable as missing:
        print(f"make demo-stream needs a local Kafka broker: {missing}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
