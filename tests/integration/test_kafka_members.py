"""Owners of partitions against a real broker: they come, go, are stopped and wake again."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from kafka_records import wait_for

from grpo_tta.adapters.kafka.errors import Fenced, KafkaFailure
from grpo_tta.adapters.kafka.group_member import GroupMember
from grpo_tta.adapters.kafka.membership import StaticMember
from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.positions import Committed
from grpo_tta.adapters.kafka.settings import KafkaSettings

MEMBER = Path(__file__).with_name("kafka_member.py")


@pytest.fixture
def settings(broker):
    return KafkaSettings((broker.bootstrap,), request_timeout=10.0)


class OtherProcess:
    """See ``kafka_member.py``: prints its events, commits on demand."""

    def __init__(self, settings, topic, group):
        self._process = subprocess.Popen(
            [sys.executable, str(MEMBER), settings.servers[0], topic, group],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": str(MEMBER.parents[2])},
        )  # fmt: skip
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self.lines.append(line.split())

    def owned(self):
        owned = set()
        for kind, *names in list(self.lines):
            if kind == "assigned":
                owned.update(names)
            elif kind in ("revoked", "lost"):
                owned.difference_update(names)
        return owned

    def tell(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def signal(self, number):
        os.kill(self._process.pid, number)

    def answers(self):
        return [words[1:] for words in list(self.lines) if words[0] == "answer"]

    def end(self):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        self._process.wait(10)
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture
def other(settings):
    made = []

    def make(topic, group):
        made.append(OtherProcess(settings, topic, group))
        return made[-1]

    yield make
    for process in made:
        process.end()


def test_two_processes_share_the_partitions_and_what_stays_is_not_interrupted(settings, topic, other):
    name, group = topic(partitions=4), uuid4().hex
    member = GroupMember(settings, [name], group, session=6.0)
    member.start()
    wait_for(lambda: len(member.assignment().partitions) == 4)
    first = member.assignment()
    second = other(name, group)
    wait_for(lambda: len(second.owned()) == 2 and len(member.assignment().partitions) == 2)
    kept = member.assignment().partitions
    assert second.owned() | set(kept) == {f"{name}-{number}" for number in range(4)}
    assert kept == {partition: first.partitions[partition] for partition in kept}
    assert [one.kind for one in member.events()] == ["assigned", "revoked"]
    second.tell("close")
    wait_for(lambda: len(member.assignment().partitions) == 4, seconds=5)
    member.close()


def test_a_stopped_process_loses_its_partitions_and_commits_nothing_when_it_wakes(settings, topic, other):
    name, group = topic(partitions=2), uuid4().hex
    zombie = other(name, group)
    wait_for(lambda: len(zombie.owned()) == 2)
    held = zombie.owned()
    zombie.tell("commit 5")
    wait_for(lambda: zombie.answers() == [["committed"]])
    zombie.tell("sleep-then-commit 6")  # in the middle of a slice when it is stopped
    time.sleep(0.5)
    zombie.signal(signal.SIGSTOP)
    member = GroupMember(settings, [name], group, session=6.0)
    member.start()
    wait_for(lambda: len(member.assignment().partitions) == 2)
    held_by_us = member.assignment().partitions
    member.commit({partition: Committed(7, "ours") for partition in held}, held_by_us)
    zombie.signal(signal.SIGCONT)
    wait_for(lambda: len(zombie.answers()) == 2)
    assert zombie.answers()[1] == ["Fenced"]
    wait_for(lambda: any(words[0] == "lost" for words in zombie.lines))
    with KafkaOffsets(settings, group=group) as offsets:
        assert offsets.committed(held) == dict.fromkeys(held, Committed(7, "ours"))
    member.close()


def test_added_partitions_are_noticed(settings, topic):
    name = topic()
    member = GroupMember(settings, [name], uuid4().hex, session=6.0, discovery=1.0)
    member.start()
    wait_for(lambda: len(member.assignment().partitions) == 1)
    with settings.admin() as admin:
        admin.create_partitions({name: 3})
    wait_for(lambda: len(member.assignment().partitions) == 3)
    member.close()
    with pytest.raises(KafkaFailure, match="closed"):
        member.assignment()


def test_a_group_is_joined_once_its_topics_are_known(settings, topic, caplog):
    """A leader that knows no partitions gives none out, and may never ask the group to join again."""
    for _ in range(5):
        member = GroupMember(settings, [topic(partitions=2)], uuid4().hex)
        member.start()
        wait_for(partial(_owns, member, 2), seconds=10)
        time.sleep(0.5)
        assert member.group_metadata().generation_id == 1
        member.close()
    assert "No partition metadata" not in caplog.text


def _owns(member, count):
    return len(member.assignment().partitions) == count


def test_a_topic_that_is_made_later_is_joined_then(settings):
    name = f"late-{uuid4().hex}"
    quick = replace(settings, request_timeout=2.0)
    member = GroupMember(quick, [name], uuid4().hex, discovery=1.0)
    member.start()
    assert not member.assignment().partitions
    with settings.admin() as admin:
        admin.create_topics({name: {"num_partitions": 2, "replication_factor": 1}})
    wait_for(lambda: len(member.assignment().partitions) == 2)
    member.close()


def test_a_broker_s_restart_does_not_end_a_membership(settings, topic, broker_to_disturb):
    name = topic()
    member = GroupMember(settings, [name], uuid4().hex, session=6.0)
    member.start()
    wait_for(lambda: len(member.assignment().partitions) == 1)
    broker_to_disturb.kill()
    time.sleep(2)
    broker_to_disturb.restart()

    def commits():
        try:
            held = member.assignment().partitions
            member.commit(dict.fromkeys(held, Committed(1)), held)
        except KafkaFailure:
            return False
        return bool(held)

    wait_for(commits)
    started = time.monotonic()
    member.close()
    assert time.monotonic() - started < 5


def test_static_assignment(settings, topic):
    name, group = topic(partitions=3), uuid4().hex
    member = StaticMember(settings, [name], [0, 2], group=group)
    member.start()
    held = member.assignment().partitions
    assert list(held) == [f"{name}-0", f"{name}-2"]
    member.commit({f"{name}-2": Committed(4)}, held)
    with pytest.raises(Fenced):
        member.commit({f"{name}-1": Committed(4)}, held)
    member.close()
    assert [one.kind for one in member.events()] == ["assigned", "revoked"]
    with KafkaOffsets(settings, group=group) as offsets:
        assert offsets.committed([f"{name}-1", f"{name}-2"]) == {f"{name}-2": Committed(4)}
    with pytest.raises(ValueError, match=f"partitions {name}-3 do not exist"):
        StaticMember(settings, [name], [3]).start()
