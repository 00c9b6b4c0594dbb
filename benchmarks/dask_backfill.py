"""A backfill on a Dask cluster: two workers of one thread against one; what 20,000 references take in the scheduler.

Scheduler and workers are processes of their own on this machine. The source is a manifest of 24 streams over the demo
feed's pictures, in as many shards. A rate is taken from the first look at which images were labelled to the end; one
worker and two take turns, and the figure is the median of the rounds' ratios. Then the scheduler's
memory is watched while the larger manifest is labelled by the frozen model, all of it or, after ``--enough`` images,
no further; the figure is its peak.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import Bar, finish, parser
from grpo_tta.demo.feed import write_feed
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.run.cluster import run_on_cluster
from grpo_tta.pipeline.run.driver import Progress

STREAMS = 24
PICTURES = 1200
_START = datetime(2026, 1, 1, tzinfo=UTC)


def write_manifest(feed: Path, references: int) -> Path:
    """``references`` events, streams in turn, a second apart; the feed's pictures come again and again."""
    pictures = sorted(path.relative_to(feed) for path in feed.rglob("*.jpg"))
    path = feed / f"{references}.jsonl"
    with path.open("w") as manifest:
        for number in range(references):
            event = {
                "schema_version": "1",
                "id": str(number),
                "stream": f"camera-{number % STREAMS:02d}",
                "event_time": (_START + timedelta(seconds=number // STREAMS)).isoformat(),
                "uri": str(pictures[number // STREAMS * 7 % len(pictures)]),
            }
            manifest.write(json.dumps(event) + "\n")
    return path


class Cluster:
    """A scheduler and workers of one thread."""

    def __init__(self, folder: Path, workers: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        file = folder / f"scheduler-{time.time_ns()}.json"
        dask = [sys.executable, "-m", "dask"]
        log = (folder / "dask.log").open("ab")
        scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        self._scheduler = subprocess.Popen(
            [*scheduler, "--scheduler-file", str(file)], stdout=log, stderr=log, env=environment
        )
        worker = [*dask, "worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard"]
        self._workers = [
            subprocess.Popen([*worker, "--host", "127.0.0.1"], stdout=log, stderr=log, env=environment, cwd=folder)
            for _ in range(workers)
        ]
        while not file.exists() or not file.read_text().endswith("}"):
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]

    def memory(self) -> int:
        """Bytes of the scheduler."""
        return int(psutil.Process(self._scheduler.pid).memory_info().rss)

    def close(self) -> None:
        """End its processes."""
        for process in (*self._workers, self._scheduler):
            process.terminate()
            process.wait(60)


@contextmanager
def cluster_of(folder: Path, workers: int) -> Iterator[Cluster]:
    """For a block."""
    cluster = Cluster(folder, workers)
    try:
        yield cluster
    finally:
        cluster.close()


def run(cluster: Cluster, manifest: Path, out: Path, method: str, enough: int | None = None) -> float:
    """Label the manifest, or as much of it as is ``enough``; images a second."""
    seen: list[tuple[float, int]] = []

    def look(progress: Progress) -> None:
        if progress.done:
            seen.append((time.monotonic(), progress.done))

    values: dict[str, Any] = {
        "source": {"url": str(manifest)},
        "output": {"url": str(out)},
        "method": {"name": method},
        "model": {"threads": 1},
        "checkpoint": {"slice_records": 25},
        "run": {
            "runner": "DaskRunner",
            "beam_options": [f"--dask_client_address={cluster.address}", f"--dask_npartitions={STREAMS}"],
        },
    }
    result = run_on_cluster(
        make_config(values), progress=look, stop=lambda: enough is not None and bool(seen) and seen[-1][1] >= enough
    )
    if not (result.finished or enough) or result.summary.dead_letters:
        raise RuntimeError(f"the job did not label all of its images: {result.summary}")
    (begun, before), (ended, after) = seen[0], seen[-1]
    return (after - before) / (ended - begun)


def peak_of(cluster: Cluster, work: threading.Thread) -> int:
    """The scheduler's memory at its highest while ``work`` runs."""
    peak = 0
    work.start()
    while work.is_alive():
        peak = max(peak, cluster.memory())
        work.join(0.5)
    return peak


def main() -> int:
    """Print the rounds and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--images", type=int, default=2400, help="of a round's job (default: 2400)")
    flags.add_argument("--rounds", type=int, default=3, help="default: 3")
    flags.add_argument("--references", type=int, default=20_000, help="of the last job (default: 20000)")
    flags.add_argument("--enough", type=int, metavar="N", help="end the last job after N images (default: all)")
    arguments = flags.parse_args()
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_feed(folder / "feed", images=PICTURES)
        manifest = write_manifest(folder / "feed", arguments.images)
        for number in range(1, arguments.rounds + 1):
            rates = []
            for workers in (1, 2):
                with cluster_of(folder, workers) as cluster:
                    rates.append(run(cluster, manifest, folder / f"out-{number}-{workers}", "grpo"))
            ratios.append(rates[1] / rates[0])
            print(f"round {number}: {rates[0]:.1f} and {rates[1]:.1f} images/s, ratio {ratios[-1]:.3f}", flush=True)
        many = write_manifest(folder / "feed", arguments.references)
        with cluster_of(folder, 2) as cluster:
            job = threading.Thread(target=run, args=(cluster, many, folder / "many", "zero-shot", arguments.enough))
            peak = peak_of(cluster, job)
    bars = [
        Bar("two workers against one", statistics.median(ratios), 1.7, unit="x"),
        Bar(f"peak of the scheduler, {arguments.references} references", peak / 1e9, 1.0, at_most=True, unit=" GB"),
    ]
    return finish(arguments, bars, {"ratios": ratios, "peak": peak})


if __name__ == "__main__":
    sys.exit(main())
