"""What a job has written may be damaged between two of its runs: a bit that flips, a file that is cut, or another job's
in its place. The next run ends with the records and states of a job that nothing happened to, or refuses and names the
file."""

import random
import shutil
import stat
from pathlib import Path

import pytest
from pipeline_checkpoints import Killed, killing
from pipeline_jobs import files, job_config, job_labeler, outputs, serve, write_pictures

from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackError, PackReader
from grpo_tta.pipeline.checkpoint.starts import Starts
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.pipeline.watch.status import note_job, read_status

STREAMS = {"a": 16, "b": 10, "c": 6}
RECORDS = 8


class World:
    """A job that was killed with an open plan, what it would have come to, and jobs whose files are not its own."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.patch = folder, monkeypatch
        write_pictures(folder / "feed", STREAMS)
        write_pictures(folder / "others", {"a": 16, "x": 16})
        self.run("whole")
        self.expected = self.records("whole"), self.states("whole")
        with pytest.raises(Killed):
            self.run("killed", fault_point=killing("before:4", when=3))
        self.run("other cuts", slice_records=6)
        self.run("other source", source="others")
        self.stored = sorted(name for name in files(folder / "killed") if name.startswith(("checkpoint/", "job.json")))

    def run(self, name, source="feed", slice_records=RECORDS, **options):
        checkpoint = {"slice_records": slice_records, "keep": 2}
        config = job_config(self.folder / source, self.folder / name, checkpoint=checkpoint)
        serve(self.patch, job_labeler(config))
        return run_label_job(config, **options)

    def states(self, name):
        store = ObjectStore(str(self.folder / name / "checkpoint"))
        commit = CheckpointLog(store).latest()
        reader = PackReader(store, commit=commit)
        return {stream: reader.read(pack, stream) for stream, pack in commit.states.items()}

    def records(self, name):
        """Not how they were cut into files."""
        found = outputs(self.folder / name)
        return {kind: sorted(record.model_dump_json() for record in records) for kind, records in found.items()}

    def outcome(self, stored, damage):
        """``refused`` or ``undisturbed``, of a run after ``damage(path)``."""
        shutil.rmtree(self.folder / "damaged", ignore_errors=True)
        shutil.copytree(self.folder / "killed", self.folder / "damaged")
        damage(self.folder / "damaged" / stored)
        try:
            self.run("damaged")
        except (JobError, ConfigurationError, OSError) as error:
            said = str(error)
        else:
            assert self.records("damaged") == self.expected[0], stored
            try:
                assert self.states("damaged") == self.expected[1], stored
                return "undisturbed"
            except PackError as error:  # a stream that did not come again is refused when it does
                said = str(error)
        assert stored.rpartition("/")[2] in said, (stored, said)
        return "refused"

    def damages(self, stored, chance):
        """All that can happen to a file, by name."""

        def flip(path):
            data = bytearray(path.read_bytes())
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(data)

        def cut(path):
            path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])

        def foreign(other):
            there = self.folder / other / stored
            if not there.exists():  # of the same kind, then
                there = next(iter(sorted((self.folder / other / stored).parent.glob("*"))))
            return lambda path: shutil.copy(there, path)

        return {"flip": flip, "cut": cut, "cuts": foreign("other cuts"), "source": foreign("other source")}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield World(tmp_path_factory.mktemp("stored"), monkeypatch)


def test_every_kind_of_file_is_tried(world):
    kinds = {name.removeprefix("checkpoint/").split("/")[0] for name in world.stored}
    assert kinds == {"commits", "identity.json", "job.json", "listing", "plans", "states"}
    plans = [name for name in world.stored if "plans/" in name]
    assert len(plans) == 1 + len([name for name in world.stored if "commits/" in name]), "one is open"


def test_a_damaged_file_is_named_or_changes_nothing(world):
    """Of each kind the newest, which a resume needs, and one before it."""
    chance = random.Random(1)
    for kind in ("commits/", "plans/", "states/", "listing/segment", "listing/0", "identity", "job.json"):
        newest = [name for name in world.stored if kind in name][-2:]
        came = {
            (stored, how): world.outcome(stored, damage)
            for stored in newest
            for how, damage in world.damages(stored, chance).items()
            if stored == newest[-1] or how == "flip"
        }
        if kind in ("commits/", "listing/segment", "identity"):
            assert {came[newest[-1], how] for how in ("flip", "cut")} == {"refused"}, came


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(6))
def test_damaged_again_and_again(world, seed):
    """Every file in every way."""
    chance = random.Random(seed)
    came = [
        world.outcome(stored, damage) for stored in world.stored for damage in world.damages(stored, chance).values()
    ]
    counts = {how: came.count(how) for how in ("refused", "undisturbed")}
    print(f"seed {seed}: {len(came)} damages of {len(world.stored)} files: {counts}")
    assert min(counts.values()) > len(came) / 4


def test_what_a_live_job_notes_is_sealed_too(tmp_path, monkeypatch):
    store = ObjectStore(str(tmp_path))

    class Offsets:
        def partitions(self, topics):
            return ["t-0"]

        def start(self, start, names):
            return dict.fromkeys(names, 7)

    starts = Starts("earliest", store, ("t",), Offsets())
    starts.note()
    assert starts.of("t-0", store) == 7
    note_job(store, KafkaSettings(("broker:9092",)), "group")
    again = {
        "live.json": lambda: note_job(store, KafkaSettings(("broker:9092",)), "group"),
        "start.json": lambda: starts.of("t-0", store),
        "starts.json": lambda: (store.delete("start.json"), starts.of("t-0", store)),
    }
    for name, read in again.items():
        whole = store.read(name)
        for at in range(0, len(whole), 7):
            store.write(name, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(OSError, match=f"checkpoint file {name} is damaged"):
                read()
        store.write(name, whole)


def test_a_checkpoint_of_the_version_before_is_refused_with_the_way_out(world):
    """As that one wrote it, file by file."""
    before = {
        "commits/000001-000000000000.json": b'{"schema_version":"1","epoch":1,"sequence":0,"partition":"storage",'
        b'"position":8,"states":{"a":"states/000001-000000000000.pack"},"packs":{"states/000001-000000000000.pack":1},'
        b'"resets":[],"counters":{"events":8,"labels":8,"dead_letters":0,"updates":0,"late":0,"updates_skipped":{},'
        b'"drift_events":{},"resets":{},"forward_equivalents":8.0,"seconds":0.1},"config_fingerprint":"c",'
        b'"model_fingerprint":"m","source_fingerprint":"s"}',
        "plans/000001-000000000000.json": b'{"schema_version":"1","epoch":1,"sequence":0,"span":{"partition":"storage",'
        b'"start":0,"stop":8},"clock":"2026-01-01T00:00:00.000000Z","config_fingerprint":"c","model_fingerprint":"m",'
        b'"threads":1,"environment":"","source_fingerprint":"s","resets":{}}',
        "listing/segment-000000000000.json": b'{"version":2,"rows":0,"fingerprint":"f","origin":"o","cursor":null,'
        b'"newest":null,"parts":[]}',
        "identity.json": b'{"job": "0123"}',
    }
    for kept in range(1, 1 + len(before)):  # the younger a job, the fewer files it has
        out = world.folder / f"before-{kept}"
        store = ObjectStore(str(out / "checkpoint"))
        for name in list(before)[-kept:]:
            store.write(name, before[name])
        there = files(out)
        with pytest.raises((JobError, OSError), match=r"written by a version before .* finish or drain the job"):
            world.run(out.name)
        assert files(out) == there, "nothing was written into it"
    with pytest.raises((JobError, OSError), match="written by a version before"):
        read_status(str(out / "checkpoint"))


def test_a_listing_is_for_its_owner_s_eyes_alone(world):
    """A URI may hold a password or a signature."""
    listing = [path for path in (world.folder / "whole" / "checkpoint" / "listing").iterdir() if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in listing} == {0o600}
    others = (world.folder / "whole" / "checkpoint" / "commits").iterdir()
    assert {stat.S_IMODE(path.stat().st_mode) & 0o044 for path in others} == {0o044}


@pytest.mark.parametrize("checkpoint", [None, "elsewhere"])
def test_a_job_that_fails_before_it_commits_binds_its_place_to_no_source(world, checkpoint, tmp_path):
    def config(source, used):
        section = {"url": str(tmp_path / used)} if used else {}
        return job_config(world.folder / source, tmp_path / "out", checkpoint=section)

    def failing(point):
        if point == "before:2":
            raise JobError("the runner cannot start")

    first = config("others", checkpoint)
    serve(world.patch, job_labeler(first))
    with pytest.raises(JobError, match="the runner cannot start"):
        run_label_job(first, fault_point=failing)
    second = config("feed", None)
    serve(world.patch, job_labeler(second))
    assert run_label_job(second).summary.labels == sum(STREAMS.values())
    with pytest.raises(ConfigurationError):
        run_label_job(config("others", checkpoint))


def test_a_stream_without_images_for_long_is_forgotten_and_said(world, tmp_path):
    for day in range(1, 5):
        name = "rare" if day in (1, 4) else "often"
        write_pictures(tmp_path / "feed", {f"day-{day}/{name}": 4})
        for path in (tmp_path / "feed" / f"day-{day}" / name).iterdir():
            path.rename(path.with_name(path.name.replace("01-01T", f"01-{day:02d}T")))
    config = job_config(tmp_path / "feed", tmp_path / "out", checkpoint={"slice_records": 4, "forget_after": "36h"})
    serve(world.patch, job_labeler(config))
    known = []
    summary = run_label_job(config, progress=lambda _: known.append(_known(tmp_path / "out" / "checkpoint"))).summary
    assert known == [[], ["rare"], ["often", "rare"], ["often"], ["often", "rare"]]
    assert (summary.forgotten, summary.streams) == (1, 2)
    frames = {one.stream: one.frames for one in read_status(str(tmp_path / "out" / "checkpoint")).streams}
    assert frames == {"often": 8, "rare": 4}, "it came again as a new one"


def _known(checkpoint: Path) -> list[str]:
    commit = CheckpointLog(ObjectStore(str(checkpoint))).latest()
    return sorted(commit.states) if commit else []
