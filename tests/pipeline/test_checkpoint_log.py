import multiprocessing
import random
import threading

import pytest
from pipeline_checkpoints import CLOCK, make_commit, make_plan

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.known import known_streams, partition_url
from grpo_tta.pipeline.checkpoint.log import CheckpointLog, Conflict, DamagedCheckpoint
from grpo_tta.pipeline.errors import JobError
from grpo_tta.pipeline.watch.status import partition_logs
from grpo_tta.schemas import Counters, PackRef


@pytest.fixture
def store(tmp_path):
    return ObjectStore(str(tmp_path / "checkpoint"))


@pytest.fixture
def log(store):
    return CheckpointLog(store)


def test_an_empty_store_has_neither_commit_nor_plan(log):
    assert log.latest() is None
    assert log.open_plan(None) is None


def test_the_newest_commit_is_the_latest(log):
    for sequence in (0, 1, 2, 10):
        log.write_commit(make_commit(sequence))
    assert log.latest() == make_commit(10)


def test_a_commit_of_a_lower_epoch_does_not_win(log):
    log.write_commit(make_commit(7, epoch=1))
    log.write_commit(make_commit(3, epoch=2))
    assert log.latest() == make_commit(3, epoch=2)


def test_each_claim_is_a_higher_epoch_than_anything_before(log):
    assert log.owner() is None
    assert log.claim("a") == 1
    log.write_plan(make_plan(0, epoch=1))
    log.write_commit(make_commit(0, epoch=1))
    assert log.claim("b") == 2
    assert log.owner() == (2, "b")
    CheckpointLog(log._store).write_plan(make_plan(1, epoch=5))
    assert log.claim("c") == 6


def test_whose_epoch_is_over_neither_plans_nor_commits(log):
    first = log.claim("a")
    log.write_plan(make_plan(0, epoch=first))
    log.claim("b")
    with pytest.raises(Conflict, match="epoch 2 has begun after 1"):
        log.write_commit(make_commit(0, epoch=first))
    with pytest.raises(Conflict, match="epoch 2 has begun after 1"):
        log.write_plan(make_plan(1, epoch=first))
    assert log.latest() is None


def test_a_plan_written_before_a_claim_is_there_for_the_next_owner(log):
    """What an owner may have emitted under, the next one finds: the plan is written before its epoch is looked at."""
    first = log.claim("a")
    log.write_plan(make_plan(0, epoch=first))
    log.claim("b")
    assert log.open_plan(log.latest()) == make_plan(0, epoch=first)


def test_of_racing_claims_each_gets_its_own(store):
    claimed, barrier = [], threading.Barrier(8)

    def race():
        barrier.wait()
        claimed.append(CheckpointLog(store).claim("x"))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 9))


def test_who_was_taken_over_does_not_commit(log):
    log.write_plan(make_plan(3, epoch=1))
    assert log.claim("other settings") == 2
    log.write_plan(make_plan(3, epoch=2))
    with pytest.raises(Conflict, match="epoch 2 has begun after 1: another process has taken over"):
        log.write_commit(make_commit(3, epoch=1))
    log.write_commit(make_commit(3, epoch=2))
    assert log.latest() == make_commit(3, epoch=2)


def test_a_plan_is_open_until_its_commit(log):
    log.write_plan(make_plan(0))
    assert log.open_plan(None) == make_plan(0)
    log.write_commit(make_commit(0))
    assert log.open_plan(log.latest()) is None
    log.write_plan(make_plan(1))
    assert log.open_plan(log.latest()) == make_plan(1)


@pytest.mark.parametrize("beside", ["{}~", "{}.bak", "{} (copy).json", "{} 2.json", "x{}.json", "notes.json"])
def test_what_others_put_beside_its_files_is_passed_over(store, log, beside):
    epoch = log.claim("a")
    log.write_plan(make_plan(0, epoch=epoch))
    log.write_commit(make_commit(0, epoch=epoch))
    log.write_plan(make_plan(1, epoch=epoch))
    for name in (*store.names(), "states/000001-000000000000.pack"):
        folder, _, file = name.rpartition("/")
        store.write(f"{folder}/{beside.format(file.partition('.')[0])}", b"a copy")
    again = CheckpointLog(store)
    assert again.latest() == make_commit(0, epoch=epoch)
    assert (again.owner(), again.open_plan(again.latest())) == ((1, "a"), make_plan(1, epoch=epoch))
    again.collect_garbage(again.latest(), 1)
    assert again.claim("b") == 2


def test_of_open_plans_the_one_of_the_highest_epoch_counts(log):
    log.write_plan(make_plan(1, epoch=1))
    log.write_plan(make_plan(1, epoch=2))
    assert log.open_plan(make_commit(0)) == make_plan(1, epoch=2)


def test_a_plan_of_an_epoch_that_is_over_is_not_run(log):
    log.write_plan(make_plan(4, epoch=1))
    assert log.open_plan(make_commit(3, epoch=2)) is None


def test_the_same_plan_again_is_no_conflict(log):
    log.write_plan(make_plan(0))
    log.write_plan(make_plan(0))
    assert log.open_plan(None) == make_plan(0)


def test_another_plan_or_commit_of_the_slice_is_a_conflict_that_names_it(log):
    log.write_plan(make_plan(0))
    with pytest.raises(Conflict, match=r"plans/000001-000000000000.json exists: another process runs this job"):
        log.write_plan(make_plan(0, clock=CLOCK.replace(hour=1)))
    log.write_commit(make_commit(0))
    with pytest.raises(Conflict, match=r"commits/000001-000000000000\.json exists"):
        log.write_commit(make_commit(0, counters=Counters(events=9)))
    assert log.latest() == make_commit(0)
    assert log.open_plan(None) == make_plan(0)


def test_of_racing_threads_one_commits(store):
    wins, barrier = [], threading.Barrier(8)

    def race(number):
        barrier.wait()
        try:
            CheckpointLog(store).write_commit(make_commit(0, counters=Counters(events=number)))
        except Conflict:
            return
        wins.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [CheckpointLog(store).latest().counters.events] == wins


def _commit(url, number, gate, wins):
    gate.wait(10)
    try:
        CheckpointLog(ObjectStore(url)).write_commit(make_commit(0, counters=Counters(events=number)))
    except Conflict:
        return
    wins.put(number)


def test_of_racing_processes_one_commits(tmp_path):
    context = multiprocessing.get_context("fork")
    url = str(tmp_path / "checkpoint")
    gate, wins = context.Event(), context.Queue()
    racers = [context.Process(target=_commit, args=(url, number, gate, wins)) for number in range(4)]
    for racer in racers:
        racer.start()
    gate.set()
    for racer in racers:
        racer.join(20)
        assert racer.exitcode == 0
    winner = wins.get(timeout=5)
    assert wins.empty()
    assert CheckpointLog(ObjectStore(url)).latest().counters.events == winner


@pytest.mark.parametrize("data", [b"", b'{"epoch": 1', b'{"schema_version": "2"}', b"\xff\xfe"])
def test_a_damaged_file_is_named(store, log, data):
    store.write("commits/000001-000000000000.json", data)
    with pytest.raises(JobError, match=r"checkpoint file commits/000001-000000000000.json is damaged or of another"):
        log.latest()
    store.write("plans/000001-000000000000.json", data)
    with pytest.raises(JobError, match=r"checkpoint file plans/000001-000000000000.json is damaged or of another"):
        log.open_plan(None)


def test_garbage_collection_keeps_the_last_and_what_the_latest_needs(store, log):
    for sequence in range(6):
        log.write_plan(make_plan(sequence))
        store.write(f"states/000001-{sequence:012d}.pack", b"x")
        log.write_commit(make_commit(sequence))
    store.write("listing/segment-000000000000.json", b"{}")
    needed = "states/000001-000000000001.pack"
    latest = make_commit(5, states={"idle": needed, "busy": "states/000001-000000000005.pack"})
    log.collect_garbage(latest, keep=2)
    kept = [f"000001-{sequence:012d}" for sequence in (4, 5)]
    assert store.names("plans/") == [f"plans/{name}.json" for name in kept]
    assert store.names("commits/") == [f"commits/{name}.json" for name in kept]
    assert store.names("states/") == [needed, *[f"states/{name}.pack" for name in kept]]
    assert store.exists("listing/segment-000000000000.json")
    assert log.latest() == make_commit(5)
    log.collect_garbage(latest, keep=2)
    assert len(store.names("states/")) == 3


def test_requests_to_reset_are_kept_by_stream_until_they_are_forgotten(log):
    assert log.pending_resets() == {}
    for stream in ("cam/ü 1", "=a", "cam/ü 1", ".b"):
        log.request_reset(stream)
    pending = log.pending_resets()
    assert {stream: len(names) for stream, names in pending.items()} == {"cam/ü 1": 2, "=a": 1, ".b": 1}
    log.forget_resets(pending["cam/ü 1"])
    log.forget_resets(pending["cam/ü 1"])
    assert sorted(log.pending_resets()) == [".b", "=a"]


def test_of_many_streams_a_commit_writes_down_what_has_changed(store, log):
    """The whole of it comes back, whoever reads; what is written follows what changes, and garbage takes none of it."""
    chance, streams, known = random.Random(3), [f"cam-{number:04d}" for number in range(2000)], {}
    sizes = []
    for sequence in range(40):
        pack = f"states/000001-{sequence:012d}.pack"
        store.write(pack, b"x")
        changed = streams if sequence == 0 else chance.sample(streams, 20)
        known |= {stream: (pack, 1000 * sequence + number) for number, stream in enumerate(changed)}
        for gone in chance.sample(sorted(known), 2) if sequence else ():
            del known[gone]
        states = {stream: name for stream, (name, _) in known.items()}
        packs = {name: PackRef(states=20, digest=name[-9:]) for name in set(states.values())}
        newest = {stream: time for stream, (_, time) in known.items()}
        commit = make_commit(sequence, states=states, newest=newest, packs=packs)
        log.write_plan(make_plan(sequence))
        name = log.write_commit(commit)
        sizes.append(len(store.read(name)))
        assert CheckpointLog(store).latest() == commit
        if sequence % 4 == 3:
            log.collect_garbage(commit, keep=2)
            assert CheckpointLog(store).latest() == commit
        if sequence % 10 == 9:
            log = CheckpointLog(store)
            assert log.latest() == commit
    changes = [size for size in sizes if size < sizes[0] / 2]
    assert len(changes) > 35
    assert sum(sizes) / len(sizes) < sizes[0] / 5


def test_a_file_of_the_chain_that_is_another_s_is_refused(tmp_path, store, log):
    other = CheckpointLog(ObjectStore(str(tmp_path / "other")))
    for number, one in enumerate((log, other)):
        for sequence in range(3):
            one.write_plan(make_plan(sequence, clock=CLOCK.replace(hour=number)))
            one.write_commit(make_commit(sequence))
        one.write_plan(make_plan(3, clock=CLOCK.replace(hour=number)))
    newest = log.latest()
    for name in (
        "commits/000001-000000000002.json",
        "plans/000001-000000000002.json",
        "plans/000001-000000000003.json",
    ):
        own = store.read(name)
        store.write(name, other._store.read(name))
        reader = CheckpointLog(store)
        with pytest.raises(DamagedCheckpoint, match=name):
            reader.open_plan(reader.latest())
        store.write(name, own)
    reader = CheckpointLog(store)
    assert reader.latest() == newest
    assert reader.open_plan(newest).sequence == 3


def test_what_partitions_know_is_read_once_a_commit(tmp_path, monkeypatch):
    root, reads = str(tmp_path / "checkpoint"), []
    logs = {name: CheckpointLog(ObjectStore(partition_url(root, name))) for name in ("t-0", "t-1", "t-2")}
    for name, one in logs.items():
        one.write_commit(make_commit(0, partition=name, states={f"cam of {name}": "p"}))
    own = {"t-0": make_commit(0, states={"mine": "p"})}
    for beside in ("notes.txt", "t-1/commits/000001-000000000000.json~"):
        ObjectStore(root).write(f"partitions/{beside}", b"what others put there")
    assert sorted(partition_logs(root)) == sorted(logs)
    read = ObjectStore.read
    monkeypatch.setattr(ObjectStore, "read", lambda store, name: reads.append(store.url) or read(store, name))
    for _ in range(3):
        known = known_streams(root, own)
        assert known == {name: {f"cam of {name}" if name != "t-0" else "mine"} for name in logs}
    assert sorted(reads) == [partition_url(root, name) for name in ("t-1", "t-2")]
    logs["t-2"].write_commit(make_commit(1, partition="t-2", states={"new": "p"}))
    reads.clear()
    assert known_streams(root, own)["t-2"] == {"new"}
    assert set(reads) == {partition_url(root, "t-2")}
