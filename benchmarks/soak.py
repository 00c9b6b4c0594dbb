"""Memory and open files of a live job over 5,000 small slices, and over 20 minutes at a steady rate.

A local broker, topics of four partitions, eight streams, inline images; the job runs in this process, what sends and
the broker in others. Small slices: a topic that is full already, in slices of one image a partition. Steady: images
come at a rate, slices of one second. Each part is judged by itself, as `benchmarks.slices` does for bounded jobs: the
slope of a line through resident memory over the slices after the first fifth, at most 20 KB a slice, and no descriptor
more, the most open in the last tenth of the slices against the most open in the tenth after the first fifth.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.live import live_config
from benchmarks.report import Bar, finish, parser
from benchmarks.topics import PARTITIONS, make_topic
from demo.broker import LocalBroker
from grpo_tta import keep_freed_memory
from grpo_tta.demo.feed import write_feed
from grpo_tta.pipeline.cli.console import environment_for_torch
from grpo_tta.pipeline.run.live_job import run_live_job
from grpo_tta.pipeline.watch.progress import LiveProgress

SLOPE_BAR = 5.0
"""KB a slice."""
FEED = 400
"""Images; they are sent again and again, with ids of their own."""
AT_ONCE = 1e6


@dataclass
class Watch:
    """What this process holds after every slice."""

    name: str
    memory: list[float] = field(default_factory=list)
    """Resident, in KB."""
    files: list[int] = field(default_factory=list)
    images: int = 0

    def __call__(self, progress: LiveProgress) -> None:
        process = psutil.Process()
        self.images += progress.images
        self.memory.append(process.memory_info().rss / 1024)
        self.files.append(process.num_fds())
        if len(self.memory) % 100 == 0:
            print(
                f"{self.name}, slice {len(self.memory)}: {self.memory[-1] / 1024:.0f} MB, "
                f"{self.files[-1]} descriptors, {process.num_threads()} threads",
                flush=True,
            )

    def bars(self) -> list[Bar]:
        """The slope and the descriptors; raises RuntimeError where there are too few slices to tell."""
        if len(self.memory) < 20:
            raise RuntimeError(f"{self.name}: {len(self.memory)} slices, of which at least 20 are needed")
        settled, tenth = len(self.memory) // 5, len(self.memory) // 10
        slope = float(np.polyfit(np.arange(len(self.memory) - settled), self.memory[settled:], 1)[0])
        more = max(self.files[-tenth:]) - max(self.files[settled : settled + tenth])
        return [
            Bar(f"{self.name}, memory a slice", slope, SLOPE_BAR, at_most=True, unit=" KB"),
            Bar(f"{self.name}, descriptors more", more, 0, at_most=True),
        ]


@contextmanager
def sending(bootstrap: str, topic: str, feed: Path, images: int, rate: float) -> Iterator[Callable[[], bool]]:
    """A process that sends; yields whether it has failed."""
    command = [sys.executable, "-m", "benchmarks.topics", bootstrap, topic, str(feed), str(images), str(rate)]
    with subprocess.Popen(command) as sender:
        try:
            yield lambda: sender.poll() not in (None, 0)
        finally:
            sender.kill()


def soak(bootstrap: str, folder: Path, name: str, images: int, rate: float, slices: dict[str, object]) -> Watch:
    """Label ``images`` of topic ``name`` that come at ``rate``."""
    for topic in (name, f"{name}-labels"):
        make_topic(bootstrap, topic)
    watch, began = Watch(name), time.monotonic()
    with sending(bootstrap, name, folder / "feed", images, rate) as failed:
        run_live_job(
            live_config(bootstrap, name, folder, slices),
            progress=watch,
            stop=lambda: watch.images >= images or failed(),
        )
    seconds = time.monotonic() - began
    if watch.images < images:
        raise RuntimeError(f"{name}: {images} events were to come and {watch.images} were labelled")
    print(f"{name}: {watch.images} labels in {len(watch.memory)} slices and {seconds:.0f} s", flush=True)
    return watch


def main() -> int:
    """Print a line every hundred slices and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--slices", type=int, default=5000, help="small ones; 0: none (default: 5000)")
    flags.add_argument("--minutes", type=float, default=20.0, help="at a steady rate; 0: none (default: 20)")
    flags.add_argument("--rate", type=float, default=8.0, help="images a second (default: 8)")
    arguments = flags.parse_args()
    environment_for_torch()
    keep_freed_memory()
    watches = []
    with tempfile.TemporaryDirectory() as name, LocalBroker(Path(name, "broker")) as broker:
        folder = Path(name)
        write_feed(folder / "feed", 0, FEED)
        if arguments.slices:
            images, cut = PARTITIONS * arguments.slices, {"slice_records": 1, "slice_seconds": "1h"}
            watches.append(soak(broker.bootstrap, folder, "small", images, AT_ONCE, cut))
        if arguments.minutes:
            images = round(60 * arguments.minutes * arguments.rate)
            watches.append(soak(broker.bootstrap, folder, "steady", images, arguments.rate, {"slice_seconds": "1s"}))
    bars = [bar for watch in watches for bar in watch.bars()]
    return finish(arguments, bars, {watch.name: {"memory_kb": watch.memory, "files": watch.files} for watch in watches})


if __name__ == "__main__":
    sys.exit(main())
