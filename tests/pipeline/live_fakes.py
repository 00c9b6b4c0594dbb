"""A member, a cluster's offsets, a clock and a graph for `LiveDriver`, and the driver made of them."""

from collections import defaultdict
from typing import Any

from pipeline_checkpoints import CLOCK, FakeGraph

from grpo_tta.adapters.kafka.errors import KafkaFailure, KafkaUnreachable
from grpo_tta.adapters.kafka.membership import Member, Ownership
from grpo_tta.adapters.kafka.positions import Committed, SkippedRange, in_range
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.known import partition_url
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.partition import Fingerprints
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.run.live import LiveDriver
from grpo_tta.pipeline.watch.progress import Watcher

OURS = Fingerprints("config", "model", "cluster", 1)


class FakeMember(Member):
    """Owns what `give` gave it until `take` takes it; ``ended``: what has ended the membership."""

    def __init__(self, partitions=()):
        self.ownership = Ownership()
        self.partitions = partitions
        self.committed: list[dict[str, Committed]] = []
        self.ended: KafkaFailure | None = None
        self.refused: KafkaFailure | None = None
        self.closed = 0

    def give(self, *partitions):
        self.ownership.change("assigned", partitions)

    def take(self, *partitions):
        self.ownership.change("lost", partitions)

    def start(self):
        self.give(*self.partitions)

    def assignment(self):
        if self.ended:
            raise self.ended
        return self.ownership.assignment()

    def events(self, seconds=0.0):
        if self.ended:
            raise self.ended
        return self.ownership.events(0.0)

    def commit(self, positions, acquired):
        if self.refused:
            raise self.refused
        self.ownership.check(positions, acquired)
        self.committed.append(dict(positions))

    def group_metadata(self):
        return "group"

    def close(self, seconds=10.0):
        self.closed += 1


class FakeOffsets:
    """Logs from ``beginnings`` to ``ends``; ``down``: so many questions more are not answered."""

    def __init__(self, **ends):
        self.ends: dict[str, int] = {name.replace("_", "-"): end for name, end in ends.items()}
        self.beginnings: dict[str, int] = defaultdict(int)
        self.positions: dict[str, Committed] = {}
        self.down = 0

    def _answer(self):
        if self.down:
            self.down -= 1
            raise KafkaUnreachable("nobody is there")

    def partitions(self, topics):
        return sorted(self.ends)

    def end(self, partitions):
        self._answer()
        return {name: self.ends[name] for name in partitions}

    def start(self, start, partitions):
        self._answer()
        return {name: self.ends[name] if start.kind == "latest" else self.beginnings[name] for name in partitions}

    def at_time(self, partitions, moment):
        return {name: self.ends[name] // 2 for name in partitions}

    def committed(self, partitions):
        return {name: self.positions[name] for name in partitions if name in self.positions}

    def check(self, positions, policy):
        found: list[SkippedRange] = []
        for name, wanted in positions.items():
            jump = in_range(name, wanted, self.beginnings[name], self.ends[name], policy)
            found += [jump] if jump else []
        return positions, found

    def close(self):
        pass


class Watching(Watcher):
    """Keeps what it is told."""

    def __init__(self):
        self.errors: list[Exception] = []
        self.progress: list[Any] = []
        self.owned: list[tuple[int, int]] = []
        """How many partitions it was told of, and after how many commits."""

    def owns(self, partitions):
        self.owned.append((partitions, len(self.progress)))

    def failed(self, error):
        self.errors.append(error)

    def committed(self, progress):
        self.progress.append(progress)


class LiveWorld:
    """A checkpoint below ``folder``, and drivers over it: processes, one after another or side by side."""

    def __init__(self, folder, **ends):
        self.url = str(folder / "checkpoint")
        self.offsets = FakeOffsets(**ends)
        self.runs: list[list[tuple[str, int, int]]] = []
        self.plans: list[Any] = []
        self.watching = Watching()
        self.during = lambda: None

    def log(self, name):
        return CheckpointLog(ObjectStore(partition_url(self.url, name)))

    def run_slice(self, parts):
        spans = [part.plan.span for part in parts]
        self.runs.append([(span.partition, span.start, span.stop) for span in spans])
        self.plans.append([part.plan for part in parts])
        results = [FakeGraph(ObjectStore(part.checkpoint_url))(part.plan, part.commit) for part in parts]
        self.during()
        return results

    def driver(self, member, turns=50, **options):
        sections: dict[str, Any] = {"kafka": {}, "checkpoint": {}}
        for name in ("until", "start", "out_of_range", "give_up_after", "partitions", "session", "shed_above"):
            if name in options:
                sections["kafka"][name] = options.pop(name)
        for name in ("slice_records", "slice_seconds"):
            if name in options:
                sections["checkpoint"][name] = options.pop(name)
        config = make_config(
            {
                "source": {"url": "kafka://broker:9092/t"},
                "output": {"url": options.pop("output", "kafka://broker:9092/labels")},
                "checkpoint": {"url": self.url, "slice_seconds": "1ms", "slice_records": 10, **sections["checkpoint"]},
                "kafka": {"until": "latest", **sections["kafka"]},
            }
        )
        asked = iter(range(turns))
        members = member if callable(member) else lambda: member
        return LiveDriver(
            config,
            OURS,
            members,
            self.offsets,
            options.pop("run_slice", self.run_slice),
            options.pop("owner", "us"),
            stop=lambda: next(asked, None) is None,
            watcher=self.watching,
            clock=lambda: CLOCK,
            **options,
        )
