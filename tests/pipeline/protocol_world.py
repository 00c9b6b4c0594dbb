"""Processes of a live job in one memory: the real driver, partitions, commit log, step 3 and truths, over a store, a
group and a cluster that are dictionaries.

Each process is a thread of which one runs at a time. It stops before every operation of the store or the cluster and
at every fault point; who goes on, who is killed there and who stays frozen is up to the test. A frozen process notices
nothing: that it has lost a partition it learns when `ProtocolWorld.notice` says so. What a label says depends on the
state before, the slice's range, its clock and its resets, so that another plan for the same events cannot go unseen.
``violations`` is what was seen of things that must not be.
"""

import hashlib
import io
import json
import random
import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

from live_fakes import OURS, FakeOffsets
from pipeline_checkpoints import CLOCK
from protocol_fakes import Inline, Process, WorldSink, WorldStore

from grpo_tta.adapters.storage.sink import file_digest
from grpo_tta.pipeline import graph
from grpo_tta.pipeline.checkpoint import log, outputs
from grpo_tta.pipeline.checkpoint import protocol as transactions
from grpo_tta.pipeline.checkpoint.known import partition_url
from grpo_tta.pipeline.checkpoint.log import CheckpointLog, Conflict
from grpo_tta.pipeline.checkpoint.packs import PackReader
from grpo_tta.pipeline.checkpoint.partition import Partition
from grpo_tta.pipeline.checkpoint.protocol import BucketProtocol, KafkaProtocol
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.graph import OpenSlice, WriteStates
from grpo_tta.pipeline.run import live
from grpo_tta.pipeline.run import slice as run
from grpo_tta.pipeline.run.driver import SliceDriver
from grpo_tta.pipeline.run.live import LiveDriver
from grpo_tta.schemas import Counters

PARTITIONS = ("t-0", "t-1")
SLICE = 3
_PATIENCE = 20_000
"""Steps after which a job that should end is stuck."""


class ProtocolWorld:
    """``truth``: what counts, bucket or kafka. ``fenced``: whether a producer is refused once another has come."""

    def __init__(self, truth="bucket"):
        self.truth, self.fenced = truth, True
        self.objects = defaultdict(dict)
        self.offsets = FakeOffsets(t_0=0, t_1=0)
        self.topic, self.visible = [], []
        self.fences = Counter()
        self.vanished = set()
        self.requests = set()
        self.losing = False
        self._watching = True
        self.processes, self.violations = [], []
        self.turn = threading.Semaphore(0)
        self.now = 0
        self._best = {}
        self._over = {}
        self.config = make_config(
            {
                "source": {"url": "kafka://broker:9092/t"},
                "output": {"url": "/world/out"},
                "checkpoint": {"url": "/world/log", "slice_seconds": "1ms", "slice_records": SLICE, "keep": 2},
                "kafka": {"start": "earliest", "session": "2s", "give_up_after": "1000h"},
            }
        )

    # ---- what the processes run in ----

    @contextmanager
    def entered(self, monkeypatch):
        """The modules that open stores and look at clocks see this world."""
        for module in (live, graph, run):
            monkeypatch.setattr(module, "ObjectStore", lambda url: WorldStore(self, url))
        for module in (live, log, outputs):
            monkeypatch.setattr(module, "ThreadPoolExecutor", Inline)
        monkeypatch.setattr(graph, "newest_image", lambda state: None)
        monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=self._tick, sleep=lambda seconds: None))
        for module in (live, transactions):
            monkeypatch.setattr(module._log, "disabled", True)
        try:
            yield self
        finally:
            for process in self.processes:
                process.kill()

    def _tick(self):
        self.now += 1
        return float(self.now)

    def current(self):
        thread = threading.current_thread()
        return next((process for process in self.processes if process.thread is thread), None)

    @contextmanager
    def unwatched(self):
        """Inside, the process that runs does not stop."""
        self._watching = False
        yield
        self._watching = True

    def step(self, name):
        """Of the process that runs; the test itself does not stop."""
        process = self.current()
        if process is not None and self._watching:
            process.point(name)

    def store(self, name):
        return WorldStore(self, partition_url("/world/log", name))

    def _point(self, process):
        def point(name):
            process.point(name)
            if name == "before:4":
                self._over[process] = {name: self._highest(name) for name in PARTITIONS}

        return point

    def _clock(self):
        return CLOCK + timedelta(seconds=self._tick())

    def driver(self, process):
        """Of a live job."""
        point = self._point(process)
        kafka = KafkaProtocol(lambda name: WorldSink(self, name), point)
        return LiveDriver(
            self.config, OURS, lambda: process.member, self.offsets,
            lambda parts: self.run_slice(parts, kafka, point), f"process {self.processes.index(process)}",
            protocol=kafka if self.truth == "kafka" else BucketProtocol(point),
            clock=self._clock, fault_point=point,
        )  # fmt: skip

    def bounded(self, process):
        """Of a bounded job."""
        name, point = PARTITIONS[0], self._point(process)
        store = self.store(name)
        fingerprints = replace(OURS, source=f"kafka:{name}")
        partition = Partition(name, CheckpointLog(store), fingerprints, keep=2, fault_point=point)
        return SliceDriver(
            partition,
            lambda *slice: self.run_slice([OpenSlice(*slice, store.url, rerun=partition.rerun)], None, point)[0],
            self.offsets.ends[name], SLICE, clock=self._clock,
        )  # fmt: skip

    def _highest(self, name):
        epochs = [one for one in self.objects[partition_url("/world/log", name)] if one.startswith("epochs/")]
        return max(map(_epoch, epochs), default=0)

    # ---- the graph ----

    def run_slice(self, parts, sinks, point):
        """Steps 2 and 3, of which step 3 is the real one."""
        point("before:2")
        done = [self._label(part) for part in parts]
        files = []
        for part, (rows, _, _) in zip(parts, done, strict=True):
            files += self._write(part, rows, sinks)
        results = []
        for part, (_, states, counters) in zip(parts, done, strict=True):
            WriteStates(ResolvedJob.of(self.config), point)(part, states, [(part.partition, counters)], files, [])
            results.append(run.slice_result(part))
        return results

    def _label(self, part):
        span, store = part.plan.span, self.store(part.partition)
        states, rows = {}, []
        for offset in range(span.start, span.stop):
            stream = f"cam-{offset % 2}" if offset else "idle"
            if stream not in states:
                states[stream] = self._stepped(part, store, stream)
            states[stream]["frames"] += 1
            where = f"{part.partition}-{offset}"
            dead = where in self.vanished
            rows.append(("dead_letters" if dead else "labels", where, "" if dead else states[stream]["hash"]))
        dead_letters = sum(kind == "dead_letters" for kind, _, _ in rows)
        if self.losing:
            rows, self.losing = rows[:-1], False
        counters = Counters(events=span.stop - span.start, labels=len(rows) - dead_letters, dead_letters=dead_letters)
        return rows, [((part.partition, name), json.dumps(one).encode()) for name, one in states.items()], counters

    def _stepped(self, part, store, stream):
        """A stream's state after the slice's beginning."""
        pack = part.commit.states.get(stream) if part.commit else None
        state = json.loads(PackReader(store).read(pack, stream)) if pack else {"hash": "", "frames": 0, "resets": []}
        resets = part.plan.resets.get(stream, [])
        for name in resets:
            if name in state["resets"]:
                self.violated(f"{name} was done twice")
        seen = [state["hash"], part.plan.span.start, part.plan.span.stop, str(part.plan.clock), list(resets)]
        digest = hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:12]
        return {**state, "hash": digest, "resets": [*state["resets"], *resets]}

    def _write(self, part, rows, sinks):
        """Step 2: a file of each kind, of other bytes with every owner, and every row as a record."""
        written = []
        for kind in ("labels", "dead_letters"):
            lines = {where: value for found, where, value in rows if found == kind}
            if lines:
                name, data = f"{kind}/{part.stem}.jsonl", json.dumps(lines, indent=part.plan.epoch).encode()
                written.append((part.partition, (name, file_digest(io.BytesIO(data)))))
                self.put(name, data)
        for _, where, value in rows:
            if self.truth == "kafka":
                sinks._sinks[part.partition].send(where, value)
            else:
                self.step("send")
                self.topic.append((where, value))
        return written

    def put(self, name, data):
        """Write a file of step 2."""
        WorldStore(self, "/world/out").write(name, data)

    # ---- what a test does ----

    def start(self, *partitions):
        """Another process, to which the group gives ``partitions``; their owners have not noticed."""
        self.processes.append(Process(self, partitions, self.driver))
        return self.processes[-1]

    def start_bounded(self):
        """A process that labels the first partition as a bounded job does, in no epoch of its own."""
        self.processes.append(Process(self, (), self.bounded))
        return self.processes[-1]

    def alive(self):
        return [process for process in self.processes if not process.ended and not process.killed]

    def holders(self, name):
        return [one for one in self.alive() if name in one.member.ownership.assignment().partitions]

    def move(self, name, process):
        """The group gives the partition to ``process``. The others that held it believe to be its owners still."""
        process.member.give(name)

    def notice(self, process):
        """It learns which of its partitions have been given to younger processes."""
        for name in list(process.member.ownership.assignment().partitions):
            if self.holders(name)[-1] is not process:
                process.member.take(name)

    def run_to(self, process, point, most=400):
        """Until it stops at ``point``; whether it did."""
        for _ in range(most):
            if process.ended:
                return False
            process.go_on()
            if process.at == point:
                return True
        return False

    def forward(self, process, steps):
        for _ in range(steps):
            if process.ended:
                return
            process.go_on()

    def grow(self, name, count):
        self.offsets.ends[name] += count

    def request_reset(self, name, stream):
        log = CheckpointLog(self.store(name))
        before = set(log.pending_resets().get(stream, []))
        log.request_reset(stream)
        self.requests |= {(name, stream, one) for one in set(log.pending_resets()[stream]) - before}

    def vanish(self, name, offset):
        """The image behind this event is gone for good, and so are the processes: two that run one plan side by side,
        one before and one after, may leave the event in both files or in none (docs/guarantees.md)."""
        for process in self.alive():
            process.kill()
        self.vanished.add(f"{name}-{offset}")

    # ---- what must hold ----

    def violated(self, what):
        self.violations.append(what)

    def written(self, store, name, before, data):
        """At every put into the store."""
        folder = name.partition("/")[0]
        if folder not in ("epochs", "plans", "commits"):
            return
        if before is not None and before != data:
            self.violated(f"{name} was written a second time, with other content")
        if folder == "commits" and before is None:
            self._committed(store.url.rpartition("/")[2], _epoch(name), store._objects)

    def _committed(self, partition, epoch, objects):
        process = self.current()
        over = self._over.get(process, {}).get(partition, 0)
        if over > epoch:
            self.violated(f"a slice of {partition} was committed in epoch {epoch}, long after {over} had begun")
        with self.unwatched():
            commit = CheckpointLog(self.store(partition)).latest()
        missing = {pack for pack in commit.states.values() if pack not in objects}
        if missing:
            self.violated(f"the newest commit of {partition} names {missing}, which is not there")
        best = self._best.get(partition, 0)
        if self.truth == "bucket" and commit.position < best:
            self.violated(f"what counts of {partition} went back from {best} to {commit['position']}")
        self._best[partition] = max(best, commit.position)

    def finish(self):
        """All processes die, more events come, and one that owns everything runs to the end; then everything counts."""
        for process in self.processes:
            process.kill()
        for name in PARTITIONS:
            self.grow(name, 2 * SLICE)
        last = self.start(*PARTITIONS)
        for _ in range(_PATIENCE):
            if last.ended or (last.at == "turn" and all(self._position(name) == end for name, end in self._ends())):
                break
            last.go_on()
        else:
            self.violated("the job does not come to its end")
        errors = [one.error for one in self.processes if one.error and not isinstance(one.error, Conflict)]
        self.violations += [f"a process ended: {error!r}" for error in errors]
        last.kill()
        if not self.violations:
            self._check_streams()
            self._check_files()
            self._check_records()

    def _ends(self):
        return self.offsets.ends.items()

    def _commit(self, name):
        log = CheckpointLog(self.store(name))
        if self.truth == "bucket":
            return log.latest()
        found = self.offsets.positions.get(name)
        return log.commit_named(found.metadata) if found else None

    def _position(self, name):
        commit = self._commit(name)
        return commit.position if commit else 0

    def _check_streams(self):
        done = set()
        for name, end in self._ends():
            commit, store = self._commit(name), self.store(name)
            try:
                states = {one: json.loads(PackReader(store).read(pack, one)) for one, pack in commit.states.items()}
            except FileNotFoundError as error:
                self.violated(f"the newest commit of {name} names {error}, which is not there")
                continue
            frames = sum(state["frames"] for state in states.values())
            if not frames == commit.counters.events == commit.counters.labels + commit.counters.dead_letters == end:
                self.violated(f"{name} has {end} events, {frames} in states, and counts {commit.counters}")
            done |= {(name, stream, one) for stream, state in states.items() for one in state["resets"]}
        if done != self.requests:
            self.violated(f"resets done {sorted(done)}, asked for {sorted(self.requests)}")

    def _all(self):
        return {f"{name}-{offset}" for name, end in self._ends() for offset in range(end)}

    def _check_files(self):
        files = self.objects["/world/out"].values()
        seen = Counter(where for data in files for where in json.loads(data))
        wrong = {where: seen[where] for where in self._all() | set(seen) if seen[where] != 1}
        if wrong:
            self.violated(f"events so often in files: {wrong}")

    def _check_records(self):
        values = defaultdict(list)
        for where, value in self.visible if self.truth == "kafka" else self.topic:
            values[where].append(value)
        if set(values) != self._all():
            self.violated(f"records of {set(values) ^ self._all()}")
        for where, found in values.items():
            if where not in self.vanished and len(set(found)) > 1:
                self.violated(f"{where} has differing records")
            if self.truth == "kafka" and len(found) > 1:
                self.violated(f"{where} is visible {len(found)} times")


def _epoch(name):
    return int(name.rpartition("/")[2].partition("-")[0].removesuffix(".json"))


POINTS = [f"{when}:{number}" for number in range(1, 7) for when in ("before", "after")] + [
    "before:forget",
    "before:collect",
    "after:collect",
]


def disturb(world, chance: random.Random, moves=40):
    """Does at random what can happen to a job."""
    for name in PARTITIONS:
        world.grow(name, chance.randrange(2 * SLICE))
    world.start(*PARTITIONS)
    for _ in range(moves):
        alive, name = world.alive(), chance.choice(PARTITIONS)
        what = chance.random()
        if not alive or (what < 0.08 and len(alive) < 3):
            world.start(name, *chance.sample(PARTITIONS, chance.randrange(2)))
            continue
        process = chance.choice(alive)
        if what < 0.50:
            world.forward(process, chance.randrange(1, 60))
        elif what < 0.72:
            world.run_to(process, chance.choice(POINTS))
        elif what < 0.78:
            process.kill()
        elif what < 0.84:
            world.notice(process)
        elif what < 0.88:
            world.move(name, process)
        elif what < 0.95:
            world.grow(name, chance.randrange(1, SLICE + 2))
        elif what < 0.98:
            world.request_reset(name, f"cam-{chance.randrange(2)}")
        else:
            world.vanish(name, chance.randrange(world.offsets.ends[name] + 1))
