"""The commit of a live slice that knows 1,000 streams, 20 of them changed: its share of a slice of five seconds.

A partition's log in a local folder, with a state as the default job leaves it after some hundred images. Slice after
slice 20 other streams change, round and round, so that the states of idle streams are carried along as their packs
grow old, as in a job that has run for long. Measured is what a commit is made of: the pack, reading its record back,
the commit, the collection of garbage. The figure is the mean over one round of all streams, after a first one; the
slowest commit is printed too.
"""

import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.feeds import feed_config
from benchmarks.report import Bar, finish, parser
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.demo.feed import write_feed
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackReader
from grpo_tta.pipeline.checkpoint.partition import Fingerprints, Partition, no_fault
from grpo_tta.pipeline.config.job import JobConfig, make_config
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.graph import OpenSlice, WriteStates
from grpo_tta.pipeline.label.dofn import StreamKey
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.pipeline.run.slice import slice_result
from grpo_tta.schemas import Counters

SLICE_SECONDS = 5.0
PARTITION = "images-0"


def used_state(folder: Path) -> bytes:
    """An encoded state of a stream of the demo feed."""
    write_feed(folder / "feed", 0, 960)
    config = feed_config(folder / "feed", folder / "out")
    run_label_job(config)
    store = ObjectStore(config.checkpoint_url)
    latest = CheckpointLog(store).latest()
    assert latest is not None
    stream, pack = sorted(latest.states.items())[0]
    return PackReader(store).read(pack, stream)


def commit_slice(config: JobConfig, partition: Partition, store: ObjectStore, changed: dict[str, bytes]) -> float:
    """Plan a slice, then commit it; seconds of the latter."""
    start, counters = partition.position or 0, Counters(events=len(changed), labels=len(changed))
    plan = partition.new_plan(start, start + len(changed), datetime.now(UTC))
    part = OpenSlice(plan, partition.latest, store.url)
    states: list[tuple[StreamKey, bytes]] = [((PARTITION, stream), state) for stream, state in changed.items()]
    started = time.perf_counter()
    WriteStates(ResolvedJob.of(config), no_fault)(part, states, [(PARTITION, counters)], [], [])
    partition.commit(plan, slice_result(part), 0.0)
    partition.collect_garbage()
    return time.perf_counter() - started


def main() -> int:
    """Print the bar."""
    flags = parser(__doc__)
    flags.add_argument("--streams", type=int, default=1000, help="default: 1000")
    flags.add_argument("--changed", type=int, default=20, help="a slice (default: 20)")
    arguments = flags.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        state = used_state(folder)
        url = "kafka://localhost:9092/"
        config = make_config(
            {
                "source": {"url": url + "images"},
                "output": {"url": url + "labels"},
                "checkpoint": {"url": str(folder / "live")},
            }
        )
        store = ObjectStore(config.checkpoint_url)
        partition = Partition(PARTITION, CheckpointLog(store), Fingerprints("c", "m", "s", 1), config.checkpoint.keep)
        streams = [f"cam-{number:04d}" for number in range(arguments.streams)]
        commit_slice(config, partition, store, dict.fromkeys(streams, state))
        parts = [streams[i : i + arguments.changed] for i in range(0, len(streams), arguments.changed)]
        for part in parts:
            commit_slice(config, partition, store, dict.fromkeys(part, state))
        seconds = [commit_slice(config, partition, store, dict.fromkeys(part, state)) for part in parts]
    share = 100 * statistics.mean(seconds) / SLICE_SECONDS
    print(
        f"states of {len(state) / 1e3:.0f} KB; a commit takes {1e3 * statistics.mean(seconds):.0f} ms, "
        f"median {1e3 * statistics.median(seconds):.0f}, at most {1e3 * max(seconds):.0f}",
        flush=True,
    )
    return finish(arguments, [Bar("commit, share of a slice", share, 2, at_most=True, unit=" %")], seconds)


if __name__ == "__main__":
    sys.exit(main())
