"""Memory and open files over 2,500 slices of 20 images.

Every slice holds as many images of each of four streams: a slice with larger batches takes more memory, and would pass
for growth. The manifest names the pictures of a demo feed again and again, with ids and times of their own.

The growth is the slope of a line through resident memory over the slices after the first fifth, when caches and the
allocator's arenas are full. Resident memory goes up and down by some ten megabytes, so the slope of a few hundred
slices says little. The bound is 5 KB a slice, which is 7 MB a day for a job that commits once a minute, and no
descriptor at all: the most open at the end against the most open after the first fifth.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path

import numpy as np
import psutil

from benchmarks.report import Bar, finish, parser
from grpo_tta import keep_freed_memory
from grpo_tta.demo.feed import write_feed
from grpo_tta.pipeline.cli.console import environment_for_torch
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.pipeline.run.driver import Progress

STREAMS = 4
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def events(feed: Path, count: int) -> Iterator[str]:
    """Lines of a manifest: one image of each stream after the other, a second apart."""
    streams = sorted(folder for folder in feed.iterdir() if folder.is_dir())[:STREAMS]
    pictures = {stream.name: cycle(sorted(stream.glob("*.jpg"))) for stream in streams}
    for number, name in zip(range(count), cycle(pictures), strict=False):
        event = {
            "schema_version": "1",
            "id": str(number),
            "stream": name,
            "event_time": (BEGIN + timedelta(seconds=number)).isoformat(),
            "uri": str(next(pictures[name]).relative_to(feed.parent)),
        }
        yield json.dumps(event) + "\n"


def main() -> int:
    """Print a line every fifty slices and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--slices", type=int, default=2500, help="default: 2500")
    flags.add_argument("--images", type=int, default=20, help="a slice (default: 20)")
    arguments = flags.parse_args()
    environment_for_torch()
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
        write_feed(feed, 0, 1000)
        manifest = Path(folder, "events.jsonl")
        manifest.write_text("".join(events(feed, arguments.slices * arguments.images)))
        config = make_config(
            {
                "source": {"url": str(manifest)},
                "output": {"url": str(Path(folder, "out"))},
                "checkpoint": {"slice_records": arguments.images},
            }
        )
        summary = run_label_job(config, progress=watch).summary
    settled = len(memory) // 5
    slope = float(np.polyfit(np.arange(len(memory) - settled), memory[settled:], 1)[0])
    tenth = max(1, len(memory) // 10)
    more = max(files[-tenth:]) - max(files[settled : settled + tenth])
    print(f"{summary.seconds / len(memory):.3f} s a slice, {summary.labels} labels")
    bars = [
        Bar("memory a slice", slope, 5, at_most=True, unit=" KB"),
        Bar("descriptors more", more, 0, at_most=True),
    ]
    return finish(arguments, bars, {"memory_kb": memory, "files": files, "threads": threads})


if __name__ == "__main__":
    sys.exit(main())
