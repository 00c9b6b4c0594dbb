"""Images a second of two processes in one consumer group against one process alone, one torch thread each.

A local broker with a topic of four partitions and eight streams, two a partition. The processes run ``grpo-tta label``
with slices of up to five seconds into a topic; first they label a few hundred images, by which time the group has
settled, then a backlog is sent at once and the time until the last of it is committed counts. One process and two take
turns; the figure is the median of the rounds' ratios. On a machine with two cores broker and sender share them.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.report import Bar, finish, parser
from benchmarks.topics import PARTITIONS, make_topic, send
from demo.broker import LocalBroker
from demo.broker.quorum import free_ports
from grpo_tta.demo.feed import write_feed

WARM_IMAGES = 320
PATIENCE = 300.0


class Process:
    """A member of the group."""

    def __init__(self, bootstrap: str, topic: str, folder: Path) -> None:
        (self._port,) = free_ports(1)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "pipeline.cli", "label", "--threads", "1",
                "--source", f"kafka://{bootstrap}/{topic}", "--out", f"kafka://{bootstrap}/{topic}-labels",
                "--checkpoint", str(folder / topic), "--group", topic, "--start", "earliest",
                "--slice-seconds", "1s", "--slice-records", "150", "--metrics-port", str(self._port),
            ],
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment,
        )  # fmt: skip

    def figure(self, name: str) -> float:
        """One of its metrics; 0 before it serves them. Raises ``RuntimeError`` where it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"a process ended with exit code {self._process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=30) as answer:
                found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
        except (urllib.error.URLError, OSError):
            return 0.0
        return float(found[1]) if found else 0.0

    def stop(self) -> None:
        """As Ctrl-C would."""
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


def wait(processes: list[Process], name: str, wanted: list[float] | float) -> None:
    """Until the metric is ``wanted`` of each, or in sum."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        figures = [process.figure(name) for process in processes]
        if figures == wanted if isinstance(wanted, list) else sum(figures) >= wanted:
            return
        time.sleep(0.1)
    raise RuntimeError(f"{name} did not become {wanted} in {PATIENCE:.0f} s")


def rate(bootstrap: str, topic: str, feed: Path, folder: Path, images: int, count: int) -> float:
    """Images a second of ``count`` processes."""
    make_topic(bootstrap, topic)
    processes = [Process(bootstrap, topic, folder) for _ in range(count)]
    try:
        wait(processes, "tta_partitions_owned", [PARTITIONS / count] * count)
        send(bootstrap, topic, feed, WARM_IMAGES)
        wait(processes, "tta_samples_total", WARM_IMAGES)
        started = time.perf_counter()
        send(bootstrap, topic, feed, images)
        wait(processes, "tta_samples_total", WARM_IMAGES + images)
        return images / (time.perf_counter() - started)
    finally:
        for process in processes:
            process.stop()


def main() -> int:
    """Print the rounds and the bar."""
    flags = parser(__doc__)
    flags.add_argument("--images", type=int, default=3600, help="of the backlog (default: 3600)")
    flags.add_argument("--rounds", type=int, default=3, help="default: 3")
    arguments = flags.parse_args()
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name, LocalBroker(Path(name, "broker")) as broker:
        feed, folder = Path(name, "feed"), Path(name)
        write_feed(feed, 0, 1200)
        for number in range(1, arguments.rounds + 1):
            one, two = (
                rate(broker.bootstrap, f"round-{number}-{count}", feed, folder, arguments.images, count)
                for count in (1, 2)
            )
            ratios.append(two / one)
            print(f"round {number}: {one:.1f} and {two:.1f} images/s, ratio {ratios[-1]:.3f}", flush=True)
    return finish(arguments, [Bar("two processes against one", statistics.median(ratios), 1.7, unit="x")], ratios)


if __name__ == "__main__":
    sys.exit(main())
