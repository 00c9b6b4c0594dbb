"""Images a second of ``grpo-tta label`` against a bare torch loop over the same files.

Both run in this process with one model, the same method, settings, batch size and thread count, over the demo feed.
The bare loop reads a file, decodes it with the same decoder and steps the method, stream after stream; it has no guard,
no Beam, no records, no checkpoint, and decodes in the thread that steps. The job is everything: listing, graph, reading
ahead, guard, JSON Lines, plan, states, commit. The two sides alternate; the figure is the median of the rounds' ratios.

The same job without the records of ``monitor/`` tells what those cost, by the processor's time of both. Rounds differ
by more than the 2 % that is asked about, so the time in which the records are made is counted too. With ``--streams``
the job's images are dealt out to so many streams; the bare loop keeps the feed's own six, in full batches.
"""

import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.feeds import feed_config
from benchmarks.report import Bar, finish, parser
from grpo_tta import Batch, Method, keep_freed_memory
from grpo_tta.adapters.events import seed_of
from grpo_tta.adapters.images import decode
from grpo_tta.demo.feed import write_feed
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.label.load import ImageReader, labeler_of, load_job_classifier
from grpo_tta.pipeline.label.monitor import MonitorMaker
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.schemas import MonitorRecord

_BATCH = 32


def bare(config: JobConfig, method: Method, reader: ImageReader, feed: Path) -> float:
    """Seconds of the bare loop, in batches of 32 of one stream; the job's rounds hold several."""
    streams: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(feed.glob("*/*.jpg")):
        streams[path.parent.name].append(path)
    started = time.perf_counter()
    for name, paths in streams.items():
        state = method.initial_state()
        for start in range(0, len(paths), _BATCH):
            part = paths[start : start + _BATCH]
            canvases = [torch.from_numpy(decode(path.read_bytes(), reader.spec, reader.limits)) for path in part]
            seeds = torch.tensor([seed_of(f"{name}/{path.name}") for path in part])
            _, state, _ = method.step(Batch(torch.stack(canvases), seeds), state)
    return time.perf_counter() - started


@contextmanager
def monitor(*, made: bool) -> Iterator[list[float]]:
    """Inside, seconds of the processor that the records of ``monitor/`` take; or none is made."""
    records, spent = MonitorMaker.records, []

    def counted(*streams: Any, **kinds: Any) -> list[MonitorRecord]:
        started = time.thread_time()
        found = records(*streams, **kinds) if made else []
        spent.append(time.thread_time() - started)
        return found

    setattr(MonitorMaker, "records", counted)  # noqa: B010
    try:
        yield spent
    finally:
        setattr(MonitorMaker, "records", records)  # noqa: B010


def dealt(feed: Path, streams: int, to: Path) -> Path:
    """The same files, each camera's dealt out to as many streams as make ``streams`` in all."""
    cameras = sorted(path for path in feed.iterdir() if path.is_dir())
    each = max(streams // len(cameras), 1)
    for camera in cameras:
        for number, path in enumerate(sorted(camera.glob("*.jpg"))):
            folder = to / f"{camera.name}-{number % each:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            os.link(path, folder / path.name)
    return to


def job_seconds(feed: Path, out: Path) -> tuple[float, float]:
    """Of a whole job: by the clock, and of the processor, all threads."""
    started, worked = time.perf_counter(), time.process_time()
    run_label_job(feed_config(feed, out))
    return time.perf_counter() - started, time.process_time() - worked


def main() -> int:
    """Print the rounds and the bar."""
    flags = parser(__doc__)
    flags.add_argument("--images", type=int, default=4800, help="default: 4800")
    flags.add_argument("--rounds", type=int, default=5, help="default: 5")
    flags.add_argument("--streams", type=int, help="of the job (default: the feed's six)")
    arguments = flags.parse_args()
    keep_freed_memory()
    ratios: list[float] = []
    monitored: list[float] = []
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        feed = Path(folder, "feed")
        write_feed(feed, 0, arguments.images)
        labelled = feed if arguments.streams is None else dealt(feed, arguments.streams, Path(folder, "dealt"))
        config = feed_config(labelled, Path(folder, "warm"))
        reader = ImageReader.make(config, load_job_classifier(config))
        with labeler_of(ResolvedJob.of(config)) as labeler:  # no job loads the model again
            run_label_job(config)
            for number in range(arguments.rounds):
                loop = bare(config, labeler.method, reader, feed)
                with monitor(made=True) as spent:
                    job, work = job_seconds(labelled, Path(folder, f"out-{number}"))
                shares.append(sum(spent) / work)
                with monitor(made=False):
                    _, less = job_seconds(labelled, Path(folder, f"without-{number}"))
                ratios.append(loop / job)
                monitored.append(less / work)
                rates = f"{arguments.images / job:.0f} images/s, bare loop {arguments.images / loop:.0f} images/s"
                print(
                    f"round {number + 1}: {rates}, ratio {ratios[-1]:.3f}, with monitor/ {monitored[-1]:.3f}",
                    flush=True,
                )
    bars = [
        Bar(
            "label against a bare loop", statistics.median(ratios), 0.9 if arguments.streams is None else 0.8, unit="x"
        ),
        Bar("label with monitor/ against without, processor's time", statistics.median(monitored), 0.98, unit="x"),
    ]
    print(f"making the records of monitor/: {100 * statistics.median(shares):.2f} % of the processor's time")
    return finish(arguments, bars, {"bare": ratios, "monitor": monitored, "records": shares})


if __name__ == "__main__":
    sys.exit(main())
