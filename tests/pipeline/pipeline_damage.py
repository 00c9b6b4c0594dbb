"""Jobs that are taken up again after one of their files was damaged, and what became of it.

Each `Job` lies in a folder as a death, or its end, has left it. `Job.outcome` takes up a copy of it, with a damage, and
compares what comes of it with what comes of a copy without one.
"""

import json
import shutil
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import pytest
from live_fakes import FakeMember, LiveWorld
from pipeline_checkpoints import Killed, killing
from pipeline_jobs import files, job_config, job_labeler, outputs, serve, write_pictures

from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.rows import KINDS, Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackReader, pack_name, write_pack
from grpo_tta.pipeline.checkpoint.partition import SliceResult
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.pipeline.sinks import WriteRecords
from grpo_tta.pipeline.watch.status import note_job, partition_logs
from grpo_tta.schemas import Counters

STREAMS = {"a": 16, "c": 6, "d": 10}
RECORDS = 8
WATCHFUL = {"settings": {"probe_frames": 2, "reference_probes": 3, "shift_lambda": 0.01, "shift_delta": 0.0}}
"""So that there are drift events."""


def write_feed(folder: Path) -> None:
    """The pictures of `STREAMS`, of which one is none."""
    write_pictures(folder, STREAMS)
    (folder / "c" / "2026-01-01T00-00-03Z.png").write_bytes(b"no picture")


def kind_of(name: str) -> str:
    """What a file of a job is, by its name."""
    *folders, file = name.removeprefix("checkpoint/").split("/")
    if "listing" in folders:
        return "listing, index" if file.startswith("segment") else "listing, rows"
    of = [folder for folder in folders if folder in (*KINDS, "commits", "plans", "states", "epochs")]
    return of[0] if of else file


class Job(ABC):
    """Made below ``folder`` when it is first asked for."""

    def __init__(self, folder: Path, name: str) -> None:
        self.made, self.again = folder / name, folder / f"{name} again"

    @abstractmethod
    def make(self, out: Path) -> None:
        """Run it in ``out`` until it dies or ends."""

    @abstractmethod
    def run(self, out: Path) -> None:
        """Take it up again."""

    @cached_property
    def stored(self) -> list[str]:
        """All of its files."""
        self.make(self.made)
        return sorted(files(self.made))

    @cached_property
    def expected(self) -> tuple[object, object]:
        """The records and states of a copy that nothing happens to."""
        self._copy()
        self.run(self.again)
        return self.records(self.again), self.states(self.again)

    def kinds(self) -> dict[str, list[str]]:
        """Its files by kind."""
        found: dict[str, list[str]] = {}
        for name in self.stored:
            found.setdefault(kind_of(name), []).append(name)
        return found

    def _copy(self) -> None:
        assert self.stored
        shutil.rmtree(self.again, ignore_errors=True)
        shutil.copytree(self.made, self.again)

    def outcome(self, stored: str, damage) -> str:
        """``refused``, ``undisturbed``, or what must not be, of a run after ``damage(path)``."""
        expected = self.expected
        self._copy()
        damage(self.again / stored)
        try:
            self.run(self.again)
            same = self.states(self.again) == expected[1]  # a stream that did not come again is refused when it does
        except (JobError, ConfigurationError, OSError) as error:
            named = stored if stored.split("/")[0] in KINDS else stored.rpartition("/")[2]
            return "refused" if named in str(error) else f"refused without its name: {error}"
        try:
            same = same and self.records(self.again) == expected[0]
        except ValueError:  # no records
            same = False
        return "undisturbed" if same else "other results"

    def records(self, out: Path) -> object:
        """Of all kinds, not how they were cut into files; the summary, but for times."""
        found = {kind: sorted(record.model_dump_json() for record in records) for kind, records in outputs(out).items()}
        summary = json.loads((out / "summary.json").read_text())
        return found, {key: value for key, value in summary.items() if key not in ("seconds", "images_per_second")}

    def states(self, out: Path) -> object:
        """Of each partition its position, its counters but for times, and its streams' states."""
        found = {}
        for name, store in partition_logs(str(out / "checkpoint")).items():
            commit = CheckpointLog(store).latest()
            if commit is not None:
                reader = PackReader(store, commit=commit)
                states = {stream: reader.read(pack, stream) for stream, pack in commit.states.items()}
                found[name] = commit.position, commit.counters.model_copy(update={"seconds": 0.0}), states
        return found


class ListedJob(Job):
    """Over a folder: killed before the ``dies``-th commit, or at its end; ``sections`` of its configuration."""

    def __init__(self, folder: Path, name: str, patch: pytest.MonkeyPatch, dies: int | None, **sections) -> None:
        super().__init__(folder, name)
        self.feed, self.patch, self.dies, self.sections = folder / "feed", patch, dies, sections

    def label(self, out: Path, **options) -> None:
        """With the options of `run_label_job`."""
        checkpoint = {"slice_records": RECORDS, "keep": 4, **self.sections.get("checkpoint", {})}
        config = job_config(self.feed, out, **{"guard": WATCHFUL, **self.sections, "checkpoint": checkpoint})
        serve(self.patch, job_labeler(config))
        run_label_job(config, **options)

    def make(self, out: Path) -> None:
        if self.dies is None:
            self.run(out)
        else:
            with pytest.raises(Killed):
                self.label(out, fault_point=killing("before:4", when=self.dies))

    def run(self, out: Path) -> None:
        self.label(out)


class FollowedJob(ListedJob):
    """Over a folder that is followed; it stops when all is labelled."""

    def run(self, out: Path) -> None:
        done: list[bool] = []
        self.label(out, progress=lambda step: done.append(True) if step.done == step.total else None, stop=done.copy)


class ShardedJob(ListedJob):
    """In two shards: the first has ended, the second was killed."""

    def make(self, out: Path) -> None:
        self._shard(out, 0)
        with pytest.raises(Killed):
            self._shard(out, 1, fault_point=killing("before:4", when=1))

    def run(self, out: Path) -> None:
        for index in range(2):
            self._shard(out, index)

    def _shard(self, out: Path, index: int, **options) -> None:
        self.sections = {**self.sections, "run": {"shard": f"{index}/2"}}
        self.label(out, **options)


class LiveJob(Job):
    """Partitions of a topic, into files: one has slices and an open plan, one has slices, one has not begun, one is
    new."""

    def _live(self, out: Path, *ends: int, **options) -> None:
        world = LiveWorld(out, **{f"t_{number}": end for number, end in enumerate(ends)})

        def label(parts):
            return [self._label(out, part) for part in parts]

        note_job(ObjectStore(world.url), KafkaSettings(("broker:9092",)), "group")
        member = FakeMember([f"t-{number}" for number in range(len(ends))])
        world.driver(member, run_slice=label, start="latest", output=str(out), **options).run()

    def _label(self, out: Path, part) -> SliceResult:
        """Steps 2 and 3 with a label each offset, and a state that holds all that its stream has seen."""
        plan, store = part.plan, ObjectStore(part.checkpoint_url)
        stream, offsets = f"cam-{plan.sequence % 2}", range(plan.span.start, plan.span.stop)
        rows = [Row("labels", stream, at, f"{part.partition}-{at}", at, False, b"label %d" % at) for at in offsets]
        write = WriteRecords(str(out), "jsonl", {part.partition: part.stem})
        written = dict(file for _, file in write.process(((part.partition, "labels"), rows)))
        held = part.commit.states if part.commit else {}
        before = PackReader(store, commit=part.commit).read(held[stream], stream) if stream in held else b""
        state = before + b"".join(row.value for row in rows)
        digest = write_pack(store, name := pack_name(plan), {stream: state}, {"files": written})
        counters = Counters(events=len(rows), labels=len(rows))
        return SliceResult(name, (stream,), (stream,), counters, digest=digest, files=written)

    def make(self, out: Path) -> None:
        self._live(out, 0, 0, 5)  # it begins there
        with pytest.raises(Killed):
            self._live(out, 35, 17, 5, fault_point=killing("before:4", when=4))

    def run(self, out: Path) -> None:
        self._live(out, 35, 17, 9, 4)

    def records(self, out: Path) -> object:
        return {name: data for name, data in files(out).items() if name.startswith("labels/")}
