"""Images a second of two processes in one consumer group against one process alone, one torch thread each.

A local broker with a topic of four partitions and eight streams, two a partition, which holds a backlog before the
processes start. They run ``grpo-tta label`` with slices of at most five seconds or 375 records a partition, into a
topic. A process's rate is taken from commit to commit, from when every process owns its share of the partitions and has
committed one slice, to when the first of them has none left: nobody waits and nobody sends meanwhile. One process and
two take turns; the figure is the median of the rounds' ratios. On a machine with two cores the broker shares them.
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

PATIENCE = 300.0
RECORDS = 375
"""A slice's bound, of each partition: with two of them one core is busy for about five seconds."""


class Process:
    """A member of the group."""

    def __init__(self, bootstrap: str, topic: str, folder: Path) -> None:
        (self._port,) = free_ports(1)
        self._log = folder / f"{topic}-{self._port}.log"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "grpo_tta.pipeline.cli", "label", "--threads", "1",
                "--source", f"kafka://{bootstrap}/{topic}", "--out", f"kafka://{bootstrap}/{topic}-labels",
                "--checkpoint", str(folder / topic), "--group", topic, "--start", "earliest",
                "--slice-seconds", "5s", "--slice-records", str(RECORDS), "--metrics-port", str(self._port),
            ],
            stderr=self._log.open("wb"), stdout=subprocess.DEVNULL, env=environment,
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

    def log(self) -> str:
        """What it has told on its error stream."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """As Ctrl-C would."""
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


def wait_for_shares(processes: list[Process]) -> None:
    """Until every process owns as many partitions as the others. Raises ``RuntimeError`` where that takes too long."""
    deadline = time.monotonic() + PATIENCE
    share = PARTITIONS / len(processes)
    while any(process.figure("tta_partitions_owned") != share for process in processes):
        if time.monotonic() > deadline:
            told = "\n---\n".join(process.log() for process in processes)
            raise RuntimeError(f"not every process owned {share:g} partitions within {PATIENCE:.0f} s:\n{told}")
        time.sleep(0.2)


def commits(processes: list[Process], images: int) -> list[list[tuple[float, float]]]:
    """For each process when its count of labelled images grew from now on, and to what, until they have ``images``
    together.

    Raises ``RuntimeError`` where nothing is committed for too long.
    """
    seen: list[list[tuple[float, float]]] = [[] for _ in processes]
    counts = [process.figure("tta_samples_total") for process in processes]
    last = time.monotonic()
    while sum(counts) < images:
        time.sleep(0.2)
        for place, process in enumerate(processes):
            count = process.figure("tta_samples_total")
            if count > counts[place]:
                counts[place], last = count, time.monotonic()
                seen[place].append((last, count))
        if time.monotonic() > last + PATIENCE:
            raise RuntimeError(f"nothing was committed for {PATIENCE:.0f} s")
    return seen


def rate_of(seen: list[list[tuple[float, float]]]) -> float:
    """Images a second together: of each process from its first commit to its last before the first process was done."""
    end = min(entries[-1][0] if entries else 0.0 for entries in seen)
    total = 0.0
    for entries in seen:
        busy = [entry for entry in entries if entry[0] <= end]
        if len(busy) < 3:
            raise RuntimeError("a process committed fewer than three slices while all were busy: give more --images")
        (start, before), (stop, after) = busy[0], busy[-1]
        total += (after - before) / (stop - start)
    return total


def rate(bootstrap: str, topic: str, feed: Path, folder: Path, images: int, count: int) -> float:
    """Images a second of ``count`` processes."""
    make_topic(bootstrap, topic)
    send(bootstrap, topic, feed, images)
    processes = [Process(bootstrap, topic, folder) for _ in range(count)]
    try:
        wait_for_shares(processes)
        return rate_of(commits(processes, images))
    finally:
        for process in processes:
            process.stop()


def main() -> int:
    """Print the rounds and the bar."""
    flags = parser(__doc__)
    flags.add_argument("--images", type=int, default=12000, help="of the backlog (default: 12000)")
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
