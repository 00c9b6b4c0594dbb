import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from kafka import TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import ConsumerGroupMetadata, MemberState

from grpo_tta.adapters.kafka.errors import Fenced, KafkaFailure, KafkaUnreachable
from grpo_tta.adapters.kafka.group_member import GroupMember, _Listener
from grpo_tta.adapters.kafka.membership import MembershipEvent, Ownership, StaticMember
from grpo_tta.adapters.kafka.positions import parse_numbers
from grpo_tta.adapters.kafka.settings import KafkaSettings

SETTINGS = KafkaSettings(("h:1",))


def test_events_and_generations():
    ownership = Ownership()
    ownership.change("assigned", ["a-1", "a-0"])
    ownership.change("assigned", ["a-1", "a-2"])
    ownership.change("revoked", ["a-1", "b-0"])
    ownership.change("lost", ["b-0"])
    assert ownership.events(0) == [
        MembershipEvent("assigned", ("a-0", "a-1"), 1),
        MembershipEvent("assigned", ("a-2",), 2),
        MembershipEvent("revoked", ("a-1",), 3),
    ]
    assert ownership.events(0.01) == []
    assert ownership.assignment().generation == 3
    assert ownership.assignment().partitions == {"a-0": 1, "a-2": 2}


def test_a_partition_lost_and_won_again_is_not_the_one_that_was_held():
    ownership = Ownership()
    ownership.change("assigned", ["a-0", "a-1"])
    held = ownership.assignment().partitions
    ownership.check(["a-0", "a-1"], held)
    ownership.change("lost", ["a-0"])
    with pytest.raises(Fenced, match="partition a-0"):
        ownership.check(["a-0"], held)
    ownership.change("assigned", ["a-0"])
    with pytest.raises(Fenced, match="partition a-0 is not owned any more, or was lost in between"):
        ownership.check(["a-0"], held)
    ownership.check(["a-1"], held)
    ownership.check(["a-0"], ownership.assignment().partitions)


@pytest.mark.timeout(20)
def test_a_signal_does_not_make_waiting_for_events_endless():
    before = signal.signal(signal.SIGUSR1, lambda *_: time.sleep(0.3))  # longer than what is left of the time
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        assert Ownership().events(0.2) == []
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(("text", "numbers"), [("0", (0,)), ("0-3,7", (0, 1, 2, 3, 7)), (" 4, 2-2 ,4", (2, 4))])
def test_lists_of_partitions(text, numbers):
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "1-", "3-1", "1-2-3", "0-999999999"])
def test_what_is_no_list_of_partitions(text):
    with pytest.raises(ValueError, match="partitions"):
        parse_numbers(text)


def test_who_lost_its_membership_claims_nothing_so_that_every_partition_has_an_owner_at_once():
    """Without that partitions 2 and 3 are kept for a claimant who does not know that it should give them up."""
    partitions = [TopicPartition("a", number) for number in range(4)]
    lost, new = CooperativeStickyAssignor(), CooperativeStickyAssignor()
    lost.member_assignment = partitions
    _Listener(None, lost, Ownership()).on_partitions_lost(partitions)
    cluster = SimpleNamespace(topics=lambda: {"a"}, partitions_for_topic=lambda topic: {0, 1, 2, 3})
    members = [
        SimpleNamespace(member_id=name, metadata=assignor.metadata({"a"}))
        for name, assignor in (("A", lost), ("B", new))
    ]
    given = new.assign(cluster, members)
    owned = [number for one in given.values() for _, numbers in one.assigned_partitions for number in numbers]
    assert sorted(owned) == [0, 1, 2, 3]


def test_members_that_cannot_be():
    with pytest.raises(ValueError, match="session must be >= 3 heartbeats, got 2 and 1"):
        GroupMember(SETTINGS, ["a"], "g", session=2, heartbeat=1)
    with pytest.raises(ValueError, match="group must not be empty"):
        GroupMember(SETTINGS, ["a"], "")
    with pytest.raises(ValueError, match="partitions must not be empty"):
        StaticMember(SETTINGS, ["a"], [])


class JoiningConsumer:
    """Is in a group and then begins a join that does not end."""

    def __init__(self):
        self.states = iter([MemberState.UNJOINED, MemberState.REBALANCING, MemberState.STABLE])
        self.closed = False

    def subscribe(self, topics, listener):
        pass

    def topics(self):
        return {"a"}

    def poll(self, timeout_ms):
        time.sleep(0.01)

    def group_metadata(self):
        return ConsumerGroupMetadata("g", state=next(self.states, MemberState.REBALANCING))

    def close(self, autocommit, timeout_ms):
        self.closed = True


@pytest.mark.timeout(20)
def test_a_join_that_does_not_end_ends_the_membership_so_that_another_can_begin():
    consumer = JoiningConsumer()
    settings = SimpleNamespace(consumer=lambda **_: consumer, request_timeout=1.0)
    member = GroupMember(settings, ["a"], "g", session=0.4, heartbeat=0.1, max_poll_interval=0.2)
    member.start()
    began = time.monotonic()
    member._thread.join(10)
    assert 0.5 < time.monotonic() - began < 5
    with pytest.raises(KafkaUnreachable, match="group g: joining did not end in 1 s") as caught:
        member.assignment()
    assert caught.value.retriable
    member.close()
    assert consumer.closed


def test_a_member_that_was_not_started_or_is_closed_says_so():
    member = GroupMember(SETTINGS, ["a"], "g")
    for call in (member.assignment, member.events, member.group_metadata):
        with pytest.raises(KafkaFailure, match="not started, or closed"):
            call()
    member.close()
    with pytest.raises(KafkaFailure, match="transactions commit positions to a group"):
        StaticMember(SETTINGS, ["a"], [0]).group_metadata()
