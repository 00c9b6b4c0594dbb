"""Many streams through one model: a slice's rate by streams, and what idle ones cost.

Rates: the same pictures in one slice of a manifest, once as one stream, then as many; the rate of each against that of
one stream, the median over rounds whose jobs alternate in one process. Model loading is not counted.

Idle streams: a first slice shows 300 of them; then slices of 16 images of one other stream follow. Bytes of states and
commits that such a slice writes, the mean over them.

Known streams: a checkpoint of a job that saw one image of each of 100 streams, or of 10,000, with copies of one state
as used streams have it; a process goes on from it with slices of 200 images of up to 200 of them. Of that: seconds
from the call to the first label, model load left out; the mean share of five seconds that plan, commit and
collection of a slice take; the most memory.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from benchmarks.live_commit import used_state
from benchmarks.report import Bar, finish, parser
from grpo_tta import keep_freed_memory, load_classifier
from grpo_tta.adapters.storage.listing import write_listing
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.demo.feed import write_feed
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.partition import Partition, no_fault
from grpo_tta.pipeline.config.job import JobConfig, make_config
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.graph import OpenSlice, WriteStates
from grpo_tta.pipeline.label.dofn import StreamKey
from grpo_tta.pipeline.label.load import fingerprints_of, labeler_of
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.pipeline.run.driver import PARTITION
from grpo_tta.pipeline.run.places import identity_of, list_job_source
from grpo_tta.pipeline.run.slice import slice_result
from grpo_tta.schemas import Counters

KNOWN, ACTIVE, ACTIVE_SLICES, LIVE_SECONDS = (100, 10_000), 200, 8, 5.0
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


def config_of(source: Path, out: Path, slice_records: int, **sections: Any) -> JobConfig:
    """The default job over a manifest."""
    places = {"source": {"url": str(source)}, "output": {"url": str(out)}}
    return make_config({**places, "checkpoint": {"slice_records": slice_records}, **sections})


def model_of(tower: str | None, device: str, folder: Path) -> dict[str, Any]:
    """Sections of a job: the demo's model, or an open_clip architecture with random weights and as many classes."""
    if tower is None:
        return {"model": {"device": device}}
    classes, vectors = folder / "classes.txt", folder / "class_vectors.safetensors"
    names = load_classifier().class_names
    classes.write_text("".join(f"{name}\n" for name in names))
    dimensions = open_clip.get_model_config(tower)["embed_dim"]
    random = torch.randn(len(names), dimensions, generator=torch.Generator().manual_seed(0))
    save_file({"class_vectors": F.normalize(random, dim=1)}, vectors)
    model = {"name": tower, "pretrained": "random", "device": device}
    return {"model": model, "labels": {"file": str(classes), "class_vectors": str(vectors)}}


def rates(
    folder: Path, pictures: Sequence[Path], images: int, kinds: Sequence[int], rounds: int, model: dict[str, Any]
) -> dict[int, float]:
    """By number of streams: images a second against one stream, the median over rounds."""
    made = {
        kind: manifest(folder / f"{kind}.jsonl", pictures, [f"cam-{n % kind:05d}" for n in range(images)])
        for kind in kinds
    }
    found: dict[int, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind, source in made.items():
            config = config_of(source, folder / f"out-{kind}-{number}", images, **model)
            with labeler_of(ResolvedJob.of(config)):
                started = time.perf_counter()
                run_label_job(config)
                found[kind].append(images / (time.perf_counter() - started))
            print(f"round {number + 1}: {kind} streams, {found[kind][-1]:.0f} images/s", flush=True)
    if not rounds:
        return {}
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


class Clock:
    """Seconds that the steps of slices take beside labelling, told by a job's fault points."""

    def __init__(self) -> None:
        self.slices: list[float] = []
        self._began = self._planned = 0.0

    def __call__(self, point: str) -> None:
        """Called at every step."""
        now = time.perf_counter()
        if point in ("before:1", "before:4"):
            self._began = now
        elif point == "after:1":
            self._planned = now - self._began
        elif point == "after:collect":
            self.slices.append(self._planned + now - self._began)


def peak_memory() -> float:
    """Megabytes, of this program alone: what getrusage says begins with the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def go_on(config: JobConfig) -> dict[str, float]:
    """Run the job; what is said of known streams."""
    job, clock = ResolvedJob.of(config), Clock()
    with labeler_of(job) as labeler:
        started = time.perf_counter()
        first: list[float] = []

        def look() -> None:
            while not labeler.labelled:
                time.sleep(0.005)
            first.append(time.perf_counter() - started)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        run_label_job(job, fault_point=clock)
        looking.join()
    memory = peak_memory()
    share = 100 * statistics.mean(clock.slices) / LIVE_SECONDS
    return {"first label, s": first[0], "commit, % of a slice": share, "memory, MB": memory}


def known_streams(folder: Path, pictures: Sequence[Path], known: int, state: bytes) -> dict[str, float]:
    """What a process says that goes on with a job that knows so many streams."""
    names = [f"cam-{number:05d}" for number in range(known)]
    active = names[:ACTIVE]
    streams = names + [active[n % len(active)] for n in range(ACTIVE * ACTIVE_SLICES)]
    source = manifest(folder / f"known-{known}.jsonl", pictures, streams)
    out = folder / f"out-known-{known}"
    know(config_of(source, out, ACTIVE), names, state)
    command = [sys.executable, "-m", "benchmarks.fleet", "--go-on", str(source), str(out)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(f"{known} known streams: {said.strip()}", flush=True)
    return {name: float(figure) for name, figure in json.loads(said).items()}


def know(config: JobConfig, streams: Sequence[str], state: bytes) -> None:
    """Commit slices of up to 1,000 images, one of each stream, which all come to ``state``."""
    job, store = ResolvedJob.of(config), ObjectStore(config.checkpoint_url)
    listing = write_listing(store, list_job_source(config), origin=config.origin, job=identity_of(store))
    with labeler_of(job) as labeler:
        made = fingerprints_of(job, labeler, listing.fingerprint)
    partition = Partition.of(config.checkpoint, PARTITION, CheckpointLog(store), made)
    for start in range(0, len(streams), 1000):
        some = streams[start : start + 1000]
        plan = partition.new_plan(start, start + len(some), datetime.now(UTC))
        part, counted = OpenSlice(plan, partition.latest, store.url), Counters(events=len(some), labels=len(some))
        states: list[tuple[StreamKey, bytes]] = [((PARTITION, stream), state) for stream in some]
        WriteStates(job, no_fault)(part, states, [(PARTITION, counted)], [], [])
        partition.commit(plan, slice_result(part), 0.0)


def as_a_process(source: str, out: str) -> int:
    """Go on with a job, and say what is said of it as JSON."""
    keep_freed_memory()
    torch.set_num_threads(1)
    print(json.dumps(go_on(config_of(Path(source), Path(out), ACTIVE))))
    return 0


def main() -> int:
    """Print the rounds and the bars."""
    if sys.argv[1:2] == ["--go-on"]:
        return as_a_process(*sys.argv[2:])
    flags = parser(__doc__)
    flags.add_argument("--images", type=int, default=2000, help="of the slice that is timed (default: 2000)")
    flags.add_argument("--rounds", type=int, default=3, help="default: 3; 0 leaves the rates out")
    flags.add_argument("--device", default="auto", help="of the rates: cpu, cuda or auto (default: auto)")
    flags.add_argument("--tower", metavar="NAME", help="rates alone, of this open_clip architecture: ViT-B-32")
    arguments = flags.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_feed(folder / "feed", 0, arguments.images)
        pictures = sorted((folder / "feed").glob("*/*.jpg"))
        many, all_of_them = arguments.images // 5, arguments.images
        model = model_of(arguments.tower, arguments.device, folder)
        found = rates(folder, pictures, arguments.images, (1, many, all_of_them), arguments.rounds, model)
        bars = [
            Bar(f"{kind} streams of {arguments.images // kind} images against one stream", found[kind], bar, unit="x")
            for kind, bar in ((many, 0.9), (all_of_them, 0.75))
            if found
        ]
        if arguments.tower is not None:
            return finish(arguments, bars, {"rates": found})
        written = bytes_a_slice(folder, pictures) / 2**20
        state = used_state(folder / "used")
        few, thousands = (known_streams(folder, pictures, known, state) for known in KNOWN)
    memory = thousands["memory, MB"] / few["memory, MB"]
    bars += [
        Bar("written a slice of 16 images with 300 idle streams", written, 0.2, at_most=True, unit=" MiB"),
        Bar("10,000 known streams, commit of a slice of 5 s", thousands["commit, % of a slice"], 5, True, " %"),
        Bar("10,000 known streams, memory against 100", memory, 1.3, at_most=True, unit="x"),
        Bar("10,000 known streams, restart to first label", thousands["first label, s"], 3, True, " s"),
    ]
    return finish(arguments, bars, {"rates": found, "known": [few, thousands]})


if __name__ == "__main__":
    sys.exit(main())
