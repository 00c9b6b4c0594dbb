"""Memory and open files over 500 slices of 20 images.

The growth is the slope of a line through resident memory over the slices after the first fifth, when caches and the
allocator's arenas are full. The bound is 20 KB a slice, which is 30 MB a day for a job that commits once a minute, and
no descriptor at all: the most open at the end against the most open after the first fifth.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil

from benchmarks.feeds import feed_config
from benchmarks.report import Bar, finish, parser
from grpo_tta import keep_freed_memory
from grpo_tta.demo.feed import write_feed
from pipeline.driver import Progress
from pipeline.run import run_label_job


def main() -> int:
    """Print a line every fifty slices and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--slices", type=int, default=500, help="default: 500")
    flags.add_argument("--images", type=int, default=20, help="a slice (default: 20)")
    arguments = flags.parse_args()
    keep_freed_memory()
    process = psutil.Process()
    memory: list[float] = []
    files: list[int] = []
    threads: list[int] = []

    def watch(progress: Progress) -> None:
        memory.append(process.memory_info().rss / 1024)
        files.append(process.num_fds())
        threads.append(process.num_threads())
        if len(memory) % 50 == 0:
            print(
                f"slice {len(memory)}: {memory[-1] / 1024:.0f} MB, {files[-1]} descriptors, {threads[-1]} threads",
                flush=True,
            )

    with tempfile.TemporaryDirectory() as folder:
        feed = Path(folder, "feed")
        write_feed(feed, 0, arguments.slices * arguments.images)
        config = feed_config(feed, Path(folder, "out"), checkpoint={"slice_records": arguments.images})
        summary = run_label_job(config, progress=watch).summary
    settled = len(memory) // 5
    slope = float(np.polyfit(np.arange(len(memory) - settled), memory[settled:], 1)[0])
    tenth = max(1, len(memory) // 10)
    more = max(files[-tenth:]) - max(files[settled : settled + tenth])
    print(f"{summary.seconds / len(memory):.3f} s a slice, {summary.labels} labels")
    bars = [
        Bar("memory a slice", slope, 20, at_most=True, unit=" KB"),
        Bar("descriptors more", more, 0, at_most=True),
    ]
    return finish(arguments, bars, {"memory_kb": memory, "files": files, "threads": threads})


if __name__ == "__main__":
    sys.exit(main())
