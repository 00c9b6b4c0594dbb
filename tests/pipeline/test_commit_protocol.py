"""What makes a slice count: the bucket's commit log, or the group's offset that a transaction moves."""

import pytest
from live_fakes import FakeMember, FakeOffsets
from pipeline_checkpoints import CLOCK, OURS, FakeGraph

from grpo_tta.adapters.kafka.errors import CommitUnknown, Fenced, KafkaUnreachable
from grpo_tta.adapters.kafka.positions import Committed
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline import sinks
from grpo_tta.pipeline.checkpoint.log import CheckpointLog, Conflict
from grpo_tta.pipeline.checkpoint.partition import Partition
from grpo_tta.pipeline.checkpoint.protocol import BucketProtocol, KafkaProtocol
from grpo_tta.pipeline.errors import ConfigurationError


class FakeTransactions:
    """One partition's producer: notes its calls; its commit moves the group's offset."""

    def __init__(self, name, offsets, calls):
        self.name, self.offsets, self.calls = name, offsets, calls
        self.pending = {}
        self.error = None

    def open(self):
        self.calls.append("open")

    def begin(self):
        self.calls.append("begin")

    def send_offsets(self, positions, group_metadata):
        self.calls.append(f"offsets for {group_metadata}")
        self.pending = dict(positions)

    def commit(self):
        self.calls.append("commit")
        if self.error:
            raise self.error
        self.offsets.positions |= self.pending

    def close(self):
        self.calls.append("close")


@pytest.fixture
def store(tmp_path):
    return ObjectStore(str(tmp_path / "checkpoint"))


@pytest.fixture
def offsets():
    return FakeOffsets(t_0=100)


class World:
    """One partition, which counts by transactions, and every step in order."""

    def __init__(self, store, offsets):
        self.store, self.offsets, self.steps = store, offsets, []
        self.member = FakeMember(["t-0"])
        self.member.start()
        self.protocol = KafkaProtocol(self.make, self.steps.append)
        self.partition = self.owner()

    def make(self, name):
        self.sink = FakeTransactions(name, self.offsets, self.steps)
        return self.sink

    def owner(self):
        log = CheckpointLog(self.store)
        return Partition("t-0", log, OURS, epoch=log.claim("us"), fault_point=self.steps.append)

    def slice(self):
        partition = self.partition
        start = partition.position or 0
        plan = partition.open_plan() or partition.new_plan(start, start + 10, CLOCK)
        self.protocol.begin([partition])
        result = FakeGraph(self.store)(plan, partition.latest)
        return self.protocol.commit(partition, plan, result, 0.1, self.member)

    def take_over(self):
        self.partition = self.owner()
        self.protocol.restore(self.partition, self.offsets)


@pytest.fixture
def world(store, offsets):
    made = World(store, offsets)
    made.protocol.restore(made.partition, offsets)
    yield made
    sinks._transactions.clear()


def test_the_commit_is_written_first_and_named_by_the_transaction_that_makes_it_count(world):
    world.slice()
    assert world.steps == [
        "open", "before:1", "after:1", "begin", "before:4", "after:4",
        "before:5", "offsets for group", "after:5", "before:6", "commit", "after:6", "before:forget",
    ]  # fmt: skip
    assert world.offsets.positions == {"t-0": Committed(10, "commits/000001-000000000000.json")}
    assert sinks._transactions["t-0"] is world.sink


def test_a_restart_goes_on_from_the_commit_that_the_offset_names(world):
    world.slice()
    world.slice()
    world.take_over()
    assert (world.partition.position, world.partition.latest.sequence) == (20, 1)
    assert world.slice().epoch == 2


def test_a_commit_whose_transaction_did_not_come_through_does_not_count(world):
    world.slice()
    world.sink.error = KafkaUnreachable("away")
    with pytest.raises(KafkaUnreachable):
        world.slice()
    assert world.partition.position == 10
    world.take_over()
    assert CheckpointLog(world.store).latest().sequence == 1
    assert world.partition.latest.sequence == 0
    again = world.slice()
    assert (again.sequence, again.position) == (1, 20)


def test_an_end_that_is_not_known_lets_the_partition_go(world):
    world.sink.error = CommitUnknown("no answer")
    with pytest.raises(Fenced, match="no answer; the partition is loaded again"):
        world.slice()


def test_who_was_taken_over_writes_no_commit(world):
    CheckpointLog(world.store).claim("another")
    with pytest.raises(Conflict):
        world.slice()
    assert "commit" not in world.steps


def test_a_group_that_has_forgotten_its_offset_is_no_reason_to_begin_again(world):
    world.slice()
    world.slice()
    for lost in ({}, {"t-0": Committed(20)}):
        world.offsets.positions = lost
        with pytest.raises(
            ConfigurationError, match="no position with a commit for t-0, whose checkpoint holds slice 1"
        ):
            world.take_over()


def test_letting_go_closes_the_producer(world):
    world.protocol.forget("t-0")
    world.protocol.forget("t-0")
    assert world.steps.count("close") == 1


def test_by_the_bucket_the_group_s_offsets_come_last_and_may_fail(store, offsets):
    steps, member = [], FakeMember(["t-0"])
    member.start()
    protocol, log = BucketProtocol(steps.append), CheckpointLog(store)
    partition = Partition("t-0", log, OURS, epoch=log.claim("us"), fault_point=steps.append)
    protocol.restore(partition, offsets)
    since = dict(member.assignment().partitions)
    for refused in (None, KafkaUnreachable("away")):
        member.refused = refused
        start = partition.position or 0
        plan = partition.new_plan(start, start + 10, CLOCK)
        protocol.begin([partition])
        protocol.commit(partition, plan, FakeGraph(store)(plan, partition.latest), 0.1, member)
        protocol.tell([partition], member, since)
    assert log.latest().position == 20
    assert member.committed == [{"t-0": Committed(10)}]
    assert steps[-2:] == ["before:5", "after:5"]
    protocol.tell([], member, since)
    assert steps.count("before:5") == 2
