"""What each protection of the protocol is there for: taken away, the model of `protocol_world` sees something that must
not be; with all of them in place it sees nothing, over the same disturbances."""

import random
import re
from collections import defaultdict
from dataclasses import replace

import pytest
from protocol_fakes import WorldSink, WorldStore
from protocol_world import SLICE, ProtocolWorld, disturb

from grpo_tta.pipeline import graph
from grpo_tta.pipeline.checkpoint.log import CheckpointLog, _name
from grpo_tta.pipeline.checkpoint.partition import Partition
from grpo_tta.pipeline.checkpoint.protocol import KafkaProtocol

pytestmark = pytest.mark.jobs

MOST = 100
"""Schedules that are tried."""


def not_exclusively(folder):
    """Who creates in ``folder`` looks first and writes then, whatever has come in between."""

    def create_exclusively(monkeypatch, world):
        create = WorldStore.create

        def look_and_put(store, name, data):
            if not name.startswith(folder):
                return create(store, name, data)
            there = name in store._objects
            world.step(f"create {name}")
            if there:
                return False
            store._put(name, data)
            return True

        monkeypatch.setattr(WorldStore, "create", look_and_put)

    create_exclusively.__name__ = f"create_{folder.rstrip('/')}_exclusively"
    return create_exclusively


def plan_before_output(monkeypatch, world):
    """The plan is written just before the commit."""
    write_commit = Partition.write_commit

    def planned_late(partition, plan, result, seconds):
        partition.log.write_plan(plan)
        return write_commit(partition, plan, result, seconds)

    monkeypatch.setattr(Partition, "_write", lambda partition, plan: None)
    monkeypatch.setattr(Partition, "write_commit", planned_late)


def plan_run_again(monkeypatch, world):
    """A restart cuts a new slice."""
    monkeypatch.setattr(CheckpointLog, "open_plan", lambda log, latest: None)


def look_after_plan(monkeypatch, world):
    """Who has planned does not look whether a higher epoch has begun."""
    monkeypatch.setattr(
        CheckpointLog, "write_plan", lambda log, plan: log._create(_name("plans", plan.epoch, plan.sequence), plan)
    )


def plan_before_look(monkeypatch, world):
    """The look comes first."""

    def write_plan(log, plan):
        log.check_epoch(plan.epoch)
        log._create(_name("plans", plan.epoch, plan.sequence), plan)

    monkeypatch.setattr(CheckpointLog, "write_plan", write_plan)


def look_before_commit(monkeypatch, world):
    """Who was taken over commits."""

    def write_commit(log, commit):
        name = _name("commits", commit.epoch, commit.sequence)
        log._create(name, commit)
        return name

    monkeypatch.setattr(CheckpointLog, "write_commit", write_commit)


def claim_before_read(monkeypatch, world):
    """An owner reads the log in an epoch that nobody can see before its first plan."""
    monkeypatch.setattr(CheckpointLog, "claim", lambda log, owner: log._highest_epoch() + 1)


def after_commit(monkeypatch, world, do):
    """``do(process)`` once its slice counts."""
    counts = Partition.counts

    def counted(partition, commit):
        counts(partition, commit)
        do(world.current())

    monkeypatch.setattr(Partition, "counts", counted)


def outputs_before_commit(monkeypatch, world):
    """Files appear when the slice has been committed."""
    kept, put = defaultdict(list), world.put
    monkeypatch.setattr(world, "put", lambda *file: kept[world.current()].append(file))
    after_commit(monkeypatch, world, lambda process: [put(*file) for file in kept.pop(process, [])])


def pack_before_commit(monkeypatch, world):
    """The states are written when the slice has been committed; until then their process alone sees them."""
    kept, read, write = defaultdict(dict), WorldStore.read, WorldStore.write

    def write_later(store, name, data):
        if name.startswith("states/"):
            kept[world.current()][name] = (store, b"".join(data))
        else:
            write(store, name, data)

    def read_own(store, name):
        mine = kept[world.current()].get(name)
        return mine[1] if mine and mine[0].url == store.url else read(store, name)

    def flush(process):
        for name, (store, data) in kept.pop(process, {}).items():
            write(store, name, data)

    monkeypatch.setattr(WorldStore, "write", write_later)
    monkeypatch.setattr(WorldStore, "read", read_own)
    after_commit(monkeypatch, world, flush)


def leftovers_deleted(monkeypatch, world):
    """What an earlier attempt wrote and this one did not, stays."""
    monkeypatch.setattr(graph, "leftovers", lambda stem, written: [])


def events_accounted_for(monkeypatch, world):
    """A graph that lost a record commits."""
    monkeypatch.setattr(world, "losing", True)
    commit = Partition._commit

    def whatever(partition, plan, result, seconds):
        counters = result.counters.model_copy(update={"labels": result.counters.events, "dead_letters": 0})
        return commit(partition, plan, replace(result, counters=counters), seconds)

    monkeypatch.setattr(Partition, "_commit", whatever)


def resets_forgotten_at_restore(monkeypatch, world):
    """Whose owner was killed between the commit and forgetting a request, does it again."""
    monkeypatch.setattr(Partition, "_restore", lambda partition, commit: setattr(partition, "latest", commit))


def resets_in_the_commit(monkeypatch, world):
    """All requests are forgotten with the commit, also those that came meanwhile."""
    forget = CheckpointLog.forget_resets
    monkeypatch.setattr(
        CheckpointLog,
        "forget_resets",
        lambda log, requests: forget(log, [name for names in log.pending_resets().values() for name in names]),
    )


def needed_packs_kept(monkeypatch, world):
    """Garbage collection goes by age alone, and idle streams' states do not move into new packs."""
    collect = CheckpointLog.collect_garbage
    monkeypatch.setattr(
        CheckpointLog,
        "collect_garbage",
        lambda log, latest, keep: collect(log, latest.model_copy(update={"states": {}}), keep),
    )
    monkeypatch.setattr(graph.PackReader, "carried", lambda *_: {})


def fence(monkeypatch, world):
    """An old owner's producer goes on."""
    world.fenced = False


def position_in_the_transaction(monkeypatch, world):
    """The group's position is committed by itself, before the records."""
    send_offsets = WorldSink.send_offsets

    def at_once(sink, positions, group):
        send_offsets(sink, positions, group)
        world.offsets.positions.update(positions)
        world.step("between")

    monkeypatch.setattr(WorldSink, "send_offsets", at_once)


def commit_by_offset(monkeypatch, world):
    """The newest commit counts, whether its transaction came through or not."""
    restore = KafkaProtocol.restore

    def newest(truth, partition, offsets):
        restore(truth, partition, offsets)
        partition.restore()

    monkeypatch.setattr(KafkaProtocol, "restore", newest)


# ---- what happens to the job ----


def by_chance(seed):
    """Whatever comes to the generator's mind."""
    return lambda world: disturb(world, random.Random(seed))


def takeover(steps):
    """The owner freezes after so many steps, another takes over and commits, the first wakes."""

    def happen(world):
        world.grow("t-0", 2 * SLICE)
        owner = world.start("t-0")
        world.forward(owner, steps)
        heir = world.start("t-0")
        world.run_to(heir, "after:4")
        world.forward(heir, 10)
        world.forward(owner, 100)

    return happen


def two_of_a_bounded_job(steps):
    """A bounded job is started a second time while the first run is frozen after so many steps."""

    def happen(world):
        world.grow("t-0", 2 * SLICE)
        first = world.start_bounded()
        world.forward(first, steps)
        world.forward(world.start_bounded(), 1000)
        world.forward(first, 1000)

    return happen


def vanishing(_):
    """All images of a slice vanish after it was labelled and before it is committed."""

    def happen(world):
        world.grow("t-0", SLICE)
        world.run_to(world.start("t-0"), "before:4")
        for offset in range(SLICE):
            world.vanish("t-0", offset)

    return happen


def killed_before_forgetting(_):
    """The owner dies between the commit and forgetting the requests for resets that the slice has done."""

    def happen(world):
        world.grow("t-0", SLICE)
        for stream in ("cam-0", "cam-1"):
            world.request_reset("t-0", stream)
        world.run_to(world.start("t-0"), "before:forget")

    return happen


FIRST = {
    "plan_run_again": 2,
    "plan_before_look": 16,
    "look_before_commit": 2,
    "pack_before_commit": 1,
    "resets_in_the_commit": 1,
    "fence": 14,
    "position_in_the_transaction": 7,
    "commit_by_offset": 7,
}
"""Of these the schedule that has shown it before; where it does no more, the others are tried."""

PROTECTIONS = [
    (plan_before_output, "bucket", by_chance, "differing records"),
    (plan_run_again, "bucket", by_chance, "differing records"),
    (look_after_plan, "bucket", by_chance, "differing records"),
    (plan_before_look, "bucket", takeover, "differing records"),
    (look_before_commit, "bucket", by_chance, "long after"),
    (claim_before_read, "bucket", by_chance, "differing records"),
    (not_exclusively("epochs/"), "bucket", takeover, r"epochs/\S+ was written a second time"),
    (not_exclusively("plans/"), "bucket", two_of_a_bounded_job, r"plans/\S+ was written a second time"),
    (not_exclusively("commits/"), "bucket", two_of_a_bounded_job, r"commits/\S+ was written a second time"),
    (outputs_before_commit, "bucket", by_chance, "in files: .*: 0"),
    (pack_before_commit, "bucket", by_chance, "names .* which is not there"),
    (leftovers_deleted, "bucket", vanishing, "in files: .*: 2"),
    (events_accounted_for, "bucket", by_chance, "in files: .*: 0"),
    (resets_forgotten_at_restore, "bucket", killed_before_forgetting, "was done twice"),
    (resets_in_the_commit, "bucket", by_chance, "resets done"),
    (needed_packs_kept, "bucket", by_chance, "names .* which is not there"),
    (fence, "kafka", by_chance, "is visible 2 times"),
    (position_in_the_transaction, "kafka", by_chance, "records of"),
    (commit_by_offset, "kafka", by_chance, "records of"),
]
"""What is removed, the truth it belongs to, what happens then, and what is seen."""


def seen(truth, happen, remove=None):
    """The violations."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        world = ProtocolWorld(truth)
        if remove is not None:
            remove(monkeypatch, world)
        with world.entered(monkeypatch):
            happen(world)
            world.finish()
        return world.violations


@pytest.mark.parametrize(
    ("remove", "truth", "schedule", "expected"),
    PROTECTIONS,
    ids=[remove.__name__ for remove, *_ in PROTECTIONS],
)
def test_without_it_something_is_seen_that_must_not_be(remove, truth, schedule, expected):
    for number in (FIRST.get(remove.__name__, 0), *range(MOST)):
        if any(re.search(expected, one) for one in seen(truth, schedule(number), remove)):
            assert seen(truth, schedule(number)) == []
            return
    pytest.fail(f"{MOST} schedules do not show what it protects from")
