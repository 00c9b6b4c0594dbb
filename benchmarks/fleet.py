"""Many streams through one model: a slice's rate by streams, and what idle ones cost.

Rates: the same pictures in one slice of a manifest, once as one stream, then as many; the rate of each against that of
one stream, the median over rounds whose jobs alternate in one process. Model loading is not counted.

Idle streams: a first slice shows 300 of them; then slices of 16 images of one other stream follow. Bytes of states and
commits that such a slice writes, the mean over them.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch

from benchmarks.report import Bar, finish, parser
from grpo_tta import keep_freed_memory
from grpo_tta.demo.feed import write_feed
from grpo_tta.pipeline.config.job import JobConfig, make_config
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.label.load import labeler_of
from grpo_tta.pipeline.run.bounded import run_label_job

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
IDLE, COLD_SLICES, COLD_IMAGES = 300, 40, 16


def manifest(path: Path, pictures: Sequence[Path], streams: Sequence[str]) -> Path:
    """One event a second, picture after picture, of the stream at its place."""
    with path.open("w") as file:
        for number, stream in enumerate(streams):
            event = {
                "schema_version": "1",
                "id": str(number),
                "stream": stream,
                "event_time": (BEGIN + timedelta(seconds=number)).isoformat(),
                "uri": str(pictures[number % len(pictures)].relative_to(path.parent)),
            }
            file.write(json.dumps(event) + "\n")
    return path


def config_of(source: Path, out: Path, slice_records: int) -> JobConfig:
    """The default job over a manifest."""
    checkpoint = {"slice_records": slice_records}
    return make_config({"source": {"url": str(source)}, "output": {"url": str(out)}, "checkpoint": checkpoint})


def rates(folder: Path, pictures: Sequence[Path], images: int, kinds: Sequence[int], rounds: int) -> dict[int, float]:
    """By number of streams: images a second against one stream, the median over rounds."""
    made = {
        kind: manifest(folder / f"{kind}.jsonl", pictures, [f"cam-{n % kind:05d}" for n in range(images)])
        for kind in kinds
    }
    found: dict[int, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind, source in made.items():
            config = config_of(source, folder / f"out-{kind}-{number}", images)
            with labeler_of(ResolvedJob.of(config)):
                started = time.perf_counter()
                run_label_job(config)
                found[kind].append(images / (time.perf_counter() - started))
            print(f"round {number + 1}: {kind} streams, {found[kind][-1]:.0f} images/s", flush=True)
    alone = found[kinds[0]]
    return {kind: statistics.median(a / b for a, b in zip(own, alone, strict=True)) for kind, own in found.items()}


def bytes_a_slice(folder: Path, pictures: Sequence[Path]) -> float:
    """Mean bytes of states and commits of a slice of 16 images of one stream, while 300 others are idle."""
    streams = [f"idle-{number:03d}" for number in range(IDLE)] + ["busy"] * (COLD_SLICES * COLD_IMAGES)
    source = manifest(folder / "cold.jsonl", pictures, streams)
    checkpoint = folder / "out-cold" / "checkpoint"
    sizes: dict[str, int] = {}

    def watch(progress: object) -> None:
        for kind in ("states", "commits"):
            sizes.update({path.name: path.stat().st_size for path in (checkpoint / kind).glob("*")})

    run_label_job(config_of(source, folder / "out-cold", COLD_IMAGES), progress=watch)
    first = -(-IDLE // COLD_IMAGES)
    later = [size for name, size in sizes.items() if int(name.split("-")[1].split(".")[0]) > first]
    return sum(later) / (COLD_SLICES - 1)


def main() -> int:
    """Print the rounds and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--images", type=int, default=2000, help="of the slice that is timed (default: 2000)")
    flags.add_argument("--rounds", type=int, default=3, help="default: 3")
    arguments = flags.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_feed(folder / "feed", 0, arguments.images)
        pictures = sorted((folder / "feed").glob("*/*.jpg"))
        many, all_of_them = arguments.images // 5, arguments.images
        found = rates(folder, pictures, arguments.images, (1, many, all_of_them), arguments.rounds)
        written = bytes_a_slice(folder, pictures) / 2**20
    bars = [
        Bar(f"{many} streams of 5 images against one stream", found[many], 0.9, unit="x"),
        Bar(f"{all_of_them} streams of 1 image against one stream", found[all_of_them], 0.75, unit="x"),
        Bar("written a slice of 16 images with 300 idle streams", written, 0.2, at_most=True, unit=" MiB"),
    ]
    return finish(arguments, bars, found)


if __name__ == "__main__":
    sys.exit(main())
