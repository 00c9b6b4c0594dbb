"""What a job has written, in its checkpoint or beside it, may be damaged between two of its runs: a bit that flips, a
file that is cut, or another job's in its place. The next run ends with the records and states of a job that nothing
happened to, or refuses and names the file."""

import json
import random
import shutil
import stat
from collections import Counter
from pathlib import Path

import pytest
from pipeline_checkpoints import make_plan
from pipeline_damage import RECORDS, STREAMS, FollowedJob, ListedJob, LiveJob, ShardedJob, write_feed
from pipeline_jobs import files, job_config, job_labeler, outputs, serve, write_pictures

from benchmarks.faults import note
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import file_digest
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import pack_name, write_pack
from grpo_tta.pipeline.checkpoint.starts import Starts
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.report.report import ReportRequest, write_report
from grpo_tta.pipeline.run import live
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.pipeline.run.evaluate import evaluate
from grpo_tta.pipeline.run.garbage import settled_heap
from grpo_tta.pipeline.watch.status import note_job, read_status

pytestmark = pytest.mark.jobs

FOLLOWED = {"follow": True, "poll": "10ms", "settle": "1s"}
OUTPUTS = ("adaptation", "dead_letters", "drift", "labels", "monitor")
CHECKPOINT = ("commits", "identity.json", "job.json", "listing, index", "listing, rows", "plans", "states")
EACH = 36
"""Flips of a kind of file of a job, in the campaign."""


class World:
    """Jobs of every sort, and two more, whose files are not those of the first."""

    def __init__(self, folder, patch):
        self.folder, self.patch = folder, patch
        write_feed(folder / "feed")
        write_pictures(folder / "others", {"a": 16, "x": 16})
        self.jobs = {
            "killed": ListedJob(folder, "killed", patch, 3),
            "finished": ListedJob(folder, "finished", patch, None, output={"format": "parquet"}),
            "followed": FollowedJob(folder, "followed", patch, 2, source=FOLLOWED),
            "sharded": ShardedJob(folder, "sharded", patch, 1),
            "live": LiveJob(folder, "live"),
        }
        self.foreign = {
            "cuts": ListedJob(folder, "other cuts", patch, None, checkpoint={"slice_records": RECORDS - 2}),
            "source": ListedJob(folder, "other source", patch, None, source={"url": str(folder / "others")}),
        }

    def run(self, name):
        """Take up the bounded job in the folder of this name."""
        config = job_config(self.folder / "feed", self.folder / name, checkpoint={"slice_records": RECORDS})
        serve(self.patch, job_labeler(config))
        return run_label_job(config)

    def others(self, stored):
        """Damages by files of the same name, or at least the same kind, of other jobs."""

        def foreign(job):
            there = job.made / stored
            if stored not in job.stored:
                there = next(iter(sorted(there.parent.glob("*"))))
            return lambda path: shutil.copy(there, path)

        return {name: foreign(job) for name, job in self.foreign.items()}


def flip(chance, where=None):
    """Another byte in a file's place ``0 <= where < 1``."""

    def damage(path):
        data = bytearray(path.read_bytes())
        data[int(len(data) * (chance.random() if where is None else where))] ^= chance.randrange(1, 256)
        path.write_bytes(data)

    return damage


def cut(chance):
    return lambda path: path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch, settled_heap():
        monkeypatch.setattr(live, "_PAUSES", (0.0,))
        yield World(tmp_path_factory.mktemp("stored"), monkeypatch)


def test_every_kind_of_file_is_tried(world):
    assert {name: set(job.kinds()) for name, job in world.jobs.items()} == {
        "killed": {*OUTPUTS, *CHECKPOINT},
        "finished": {*OUTPUTS, *CHECKPOINT, "summary.json"},
        "followed": {*OUTPUTS, *CHECKPOINT},
        "sharded": {*OUTPUTS, *CHECKPOINT, "summary.json", "shards.json"},
        "live": {"labels", "commits", "plans", "states", "epochs", "live.json", "starts.json", "start.json"},
    }
    killed = world.jobs["killed"]
    assert len(killed.kinds()["plans"]) == 1 + len(killed.kinds()["commits"]), "one is open"
    assert killed.expected[0][0] == world.jobs["finished"].expected[0][0], "in either format"


def test_a_damaged_file_is_named_or_changes_nothing(world):
    """Of each kind the newest, which a resume needs; of some another one, or another job's."""
    chance, job = random.Random(1), world.jobs["killed"]
    for kind in ("labels", *CHECKPOINT):
        *_, before, newest = 2 * job.kinds()[kind]
        ways = {"flip": flip(chance), "cut": cut(chance)}
        if kind in ("commits", "listing, index", "plans", "states"):
            ways |= world.others(newest)
        came = {how: job.outcome(newest, damage) for how, damage in ways.items()}
        if kind in ("commits", "labels"):
            came["before"] = job.outcome(before, flip(chance))
        assert set(came.values()) <= {"refused", "undisturbed"}, (kind, came)
        if kind in ("commits", "listing, index", "identity.json"):
            assert (came["flip"], came["cut"]) == ("refused", "refused"), came
        assert kind != "labels" or came["before"] == "refused", came


@pytest.mark.parametrize(
    ("name", "partition", "plan_is_open"),
    [
        ("killed", "", True),
        ("finished", "", False),
        ("live", "partitions/t-0/", True),
        ("live", "partitions/t-1/", False),
    ],
)
def test_a_newest_commit_that_is_gone_is_missed_where_a_plan_went_on_from_it_or_made_again(
    world, name, partition, plan_is_open
):
    """Its plan is still there, or not; a plan alone that is gone is missed."""
    job = world.jobs[name]
    commit = [stored for stored in job.kinds()["commits"] if f"checkpoint/{partition}commits/" in stored][-1]
    plan = commit.replace("commits/", "plans/")
    expected = "refused" if plan_is_open else "undisturbed"
    assert job.outcome(commit, Path.unlink) == expected
    assert job.outcome(commit, lambda path: (path.unlink(), (job.again / plan).unlink())) == expected
    assert job.outcome(plan, Path.unlink) == "refused"


@pytest.mark.parametrize("name", ["finished", "live"])
def test_any_file_of_a_job_that_has_little_left_to_do(world, name):
    chance, job = random.Random(2), world.jobs[name]
    for kind, names in job.kinds().items():
        came = job.outcome(names[0], flip(chance))
        assert came == "refused" or (came == "undisturbed" and kind not in OUTPUTS), (kind, came)


@pytest.mark.parametrize("name", ["followed", "sharded"])
def test_output_files_are_looked_at_before_a_job_goes_on(world, name):
    job = world.jobs[name]
    first = job.kinds()["labels"][0]
    assert job.outcome(first, flip(random.Random(3))) == "refused"


@pytest.mark.parametrize("name", ["killed", "finished", "sharded"])
def test_who_reads_outputs_is_told_of_damage_too(world, name, tmp_path):
    """From a job that is under way, or at its end; of either format."""
    job = world.jobs[name]
    assert job.stored
    images = [record.id for record in outputs(job.made)["labels"]]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps({"id": one, "label": "red"}) + "\n" for one in images))
    request = ReportRequest(str(job.again), tmp_path / "page.html")
    read = {
        "labels": lambda: evaluate(str(job.again), str(tmp_path / "truth.jsonl")),
        "monitor": lambda: write_report(request),
    }
    for kind, reading in read.items():
        job._copy()
        reading()
        flip(random.Random(5))(job.again / job.kinds()[kind][0])
        with pytest.raises(JobError, match=f"output file {job.kinds()[kind][0]} is not what"):
            reading()


def test_an_output_file_that_is_gone_was_taken_by_its_reader(world):
    job = world.jobs["finished"]
    taken = job.kinds()["labels"][0]
    assert job.outcome(taken, Path.unlink) == "other results"
    job.run(job.again)
    assert not (job.again / taken).exists()


def test_an_output_file_that_another_owner_has_written_since_is_none_that_was_damaged(world, caplog):
    """One that was taken over ends its slice after its successor has, and rounds otherwise; or dies in the middle."""
    job = world.jobs["finished"]
    name = job.kinds()["labels"][1]

    def late(sequence, pack):
        def damage(path):
            shutil.copy(job.made / job.kinds()["labels"][0], path)
            store, plan = ObjectStore(str(job.again / "checkpoint")), make_plan(sequence, epoch=2)
            CheckpointLog(store).write_plan(plan)
            if pack:
                with path.open("rb") as file:
                    write_pack(store, pack_name(plan), {}, {"files": {pack: file_digest(file)}})

        return damage

    assert job.outcome(name, late(1, name)) == "other results", "and no refusal"
    assert job.outcome(name, late(2, name)) == "refused", "that is another slice"
    assert job.outcome(name, late(1, "another.jsonl")) == "refused"
    warning = f"output file {name} is not what was committed: epoch 2 has written it, or damage"
    assert warning not in caplog.text
    assert job.outcome(name, late(1, None)) == "other results"
    assert warning in caplog.text


def test_output_files_are_looked_at_as_long_as_their_commits_are_kept(world, tmp_path):
    """Two are, at least."""
    job = ListedJob(world.folder, "keeps two", world.patch, None, checkpoint={"keep": 2})
    came = {name: job.outcome(name, flip(random.Random(4))) for name in job.kinds()["labels"]}
    assert list(came.values()) == ["other results", "other results", "refused", "refused"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_thousand_flips_through_whole_jobs(world):
    """Of every kind of file of every sort of job, evenly over files and places in them."""
    chance, rows, wrong = random.Random(0), [], []
    for sort, job in world.jobs.items():
        for kind, names in job.kinds().items():
            came: Counter[str] = Counter()
            for number in range(EACH):
                where = (number + chance.random()) / EACH
                came[outcome := job.outcome(name := names[number % len(names)], flip(chance, where))] += 1
                wrong += [(name, where, outcome)] if outcome not in ("refused", "undisturbed") else []
            rows.append((sort, kind, len(names), EACH, came["refused"], came["undisturbed"]))
    print_counts(rows)
    note("bytes flipped in stored files of whole jobs", tried := sum(row[3] for row in rows), tried, len(wrong))
    assert not wrong, wrong
    assert tried >= 2000


def print_counts(rows):
    """A line a kind of file, and one for all."""
    total = ("all", "", *(sum(column) for column in list(zip(*rows, strict=True))[2:]))
    print(f"{'job':9} {'kind':15} {'files':>6} {'flips':>6} {'refused':>8} {'undisturbed':>12} {'unseen':>7}")
    for sort, kind, names, tried, refused, undisturbed in (*rows, total):
        unseen = tried - refused - undisturbed
        print(f"{sort:9} {kind:15} {names:6} {tried:6} {refused:8} {undisturbed:12} {unseen:7}")


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
    assert world.jobs["finished"].stored
    made = world.jobs["finished"].made / "checkpoint"
    listing = [path for path in (made / "listing").iterdir() if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in listing} == {0o600}
    others = (made / "commits").iterdir()
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
    assert run_label_job(second).summary.events == sum(STREAMS.values())
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
