"""Live labelling against the bounded run over the same images, and how old a label is when it appears.

A local broker with topics of four partitions, eight streams, inline images. Rate: the bounded job labels the feed's
folder; the live job labels a topic that holds the same images already, into a topic. Both run in this process, in
slices cut so that each takes about five seconds, with one thread of torch: the broker is not to share its core. Both
rates count from the first commit to the last, without starting, which loads the model, and leaving. The two alternate;
the figure is the median of the rounds' ratios.

Age: a process of its own sends images at half of the live rate; the job labels them in slices of one second, windows
``fixed:1s``. Both topics are stamped by the broker when it appends, and the age is a label's stamp less its event's.
The first ten seconds' events are left out.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kafka

from benchmarks.feeds import feed_config
from benchmarks.report import Bar, finish, parser
from benchmarks.topics import PARTITIONS, make_topic, send
from demo.broker import LocalBroker
from grpo_tta import keep_freed_memory
from grpo_tta.demo.feed import write_feed
from grpo_tta.pipeline.cli.console import environment_for_torch
from grpo_tta.pipeline.config.job import JobConfig, make_config
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.pipeline.run.driver import Progress
from grpo_tta.pipeline.run.live_job import run_live_job
from grpo_tta.pipeline.watch.progress import LiveProgress

SETTLE_SECONDS = 10.0


def live_config(
    bootstrap: str, name: str, folder: Path, slices: dict[str, object], **kafka_values: object
) -> JobConfig:
    """From topic ``name`` to topic ``name-labels``, all partitions, checkpoint below ``folder``."""
    return make_config(
        {
            "source": {"url": f"kafka://{bootstrap}/{name}"},
            "output": {"url": f"kafka://{bootstrap}/{name}-labels"},
            "event_time": {"window": "fixed:1s"},
            "model": {"threads": 1},
            "checkpoint": {"url": str(folder / f"{name}-checkpoint"), **slices},
            "kafka": {"partitions": f"0-{PARTITIONS - 1}", "start": "earliest", **kafka_values},
        }
    )


class Span:
    """The commits of a job's slices; what is measured lies between the first and the last."""

    def __init__(self) -> None:
        self._commits: list[tuple[float, int]] = []

    def live(self, progress: LiveProgress) -> None:
        """Takes a live job's progress."""
        self._commits.append((time.perf_counter(), progress.images))

    def bounded(self, progress: Progress) -> None:
        """Takes a bounded job's."""
        if progress.result is not None:
            self._commits.append((time.perf_counter(), progress.result.counters.labels))

    @property
    def images(self) -> int:
        """Of all slices."""
        return sum(images for _, images in self._commits)

    @property
    def slices(self) -> int:
        """Of those that are measured."""
        return len(self._commits) - 1

    @property
    def seconds(self) -> float:
        """Between the first commit and the last."""
        return self._commits[-1][0] - self._commits[0][0]

    @property
    def rate(self) -> float:
        """Images a second. Raises `RuntimeError` where there is nothing between two commits."""
        if self.slices < 1:
            raise RuntimeError("a job of one slice has nothing to measure: give more --images")
        return sum(images for _, images in self._commits[1:]) / self.seconds


def bounded_rate(feed: Path, out: Path, slice_records: int) -> float:
    """Images a second of the bounded job."""
    span = Span()
    config = feed_config(feed, out, model={"threads": 1}, checkpoint={"slice_records": slice_records})
    run_label_job(config, progress=span.bounded)
    return span.rate


def live_rate(bootstrap: str, name: str, feed: Path, folder: Path, images: int, slice_records: int) -> Span:
    """The live job over a topic that is there already."""
    make_topic(bootstrap, name)
    send(bootstrap, name, feed, images)
    span = Span()
    slices: dict[str, object] = {"slice_records": slice_records, "slice_seconds": "5s"}
    run_live_job(live_config(bootstrap, name, folder, slices, until="latest"), progress=span.live)
    if span.images != images:
        raise RuntimeError(f"{images} events gave {span.images} labels")
    return span


def stamps(bootstrap: str, topic: str) -> dict[tuple[int, int], tuple[float, dict[str, bytes]]]:
    """Of every record, by partition and offset: the broker's stamp in seconds, and the headers."""
    consumer = kafka.KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    partitions = [kafka.TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends, found = consumer.end_offsets(partitions), {}
    while any(consumer.position(one) < end for one, end in ends.items()):
        for records in consumer.poll(200).values():
            for record in records:
                found[record.partition, record.offset] = record.timestamp / 1000, dict(record.headers)
    consumer.close(autocommit=False)
    return found


def ages(bootstrap: str, feed: Path, folder: Path, images: int, rate: float) -> list[float]:
    """Seconds from the append of an event to the append of its label, sorted."""
    name = "steady"
    for topic in (name, f"{name}-labels"):
        make_topic(bootstrap, topic)
    command = [sys.executable, "-m", "benchmarks.topics", bootstrap, name, str(feed), str(images), str(rate)]
    span = Span()
    with subprocess.Popen(command) as sender:
        run_live_job(
            live_config(bootstrap, name, folder, {"slice_seconds": "1s"}),
            progress=span.live,
            stop=lambda: span.images >= images or sender.poll() not in (None, 0),
        )
    appended = stamps(bootstrap, name)
    begin = min(stamp for stamp, _ in appended.values()) + SETTLE_SECONDS
    found = []
    for stamp, headers in stamps(bootstrap, f"{name}-labels").values():
        _, partition, offset = headers["coordinate"].decode().rsplit("-", 2)
        sent, _ = appended[int(partition), int(offset)]
        if sent >= begin:
            found.append(stamp - sent)
    return sorted(found)


def main() -> int:
    """Print the rounds and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--images", type=int, default=4800, help="default: 4800")
    flags.add_argument("--rounds", type=int, default=3, help="default: 3")
    arguments = flags.parse_args()
    environment_for_torch()
    keep_freed_memory()
    images, ratios, rates = arguments.images, [], []
    with tempfile.TemporaryDirectory() as name, LocalBroker(Path(name, "broker")) as broker:
        folder, feed = Path(name), Path(name, "feed")
        write_feed(feed, 0, images)
        slice_records = round(5 * bounded_rate(feed, folder / "warm", images // 4))
        for number in range(1, arguments.rounds + 1):
            bounded = bounded_rate(feed, folder / f"out-{number}", slice_records)
            each = max(slice_records // PARTITIONS, 1)
            span = live_rate(broker.bootstrap, f"backlog-{number}", feed, folder, images, each)
            rates.append(span.rate)
            ratios.append(rates[-1] / bounded)
            print(
                f"round {number}: live {rates[-1]:.1f} images/s in {span.slices} slices of "
                f"{span.seconds / span.slices:.1f} s, bounded {bounded:.1f} images/s, ratio {ratios[-1]:.3f}",
                flush=True,
            )
        half = statistics.median(rates) / 2
        waited = ages(broker.bootstrap, feed, folder, round(half * (60 + SETTLE_SECONDS)), half)
    middle, most = waited[len(waited) // 2], waited[int(0.95 * len(waited))]
    print(f"age at {half:.1f} images/s: median {middle:.2f} s, p95 {most:.2f} s, most {waited[-1]:.2f} s", flush=True)
    bars = [
        Bar("live against bounded", statistics.median(ratios), 0.9, unit="x"),
        Bar("event to label, p95", most, 3, at_most=True, unit=" s"),
    ]
    return finish(arguments, bars, {"ratios": ratios, "ages": waited})


if __name__ == "__main__":
    sys.exit(main())
