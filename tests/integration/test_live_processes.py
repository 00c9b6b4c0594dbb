"""Live jobs under load against a real broker: processes of a group that die, freeze, wake and come; a broker that goes
and comes back."""

import os
import signal
import threading
import time

import psutil
import pytest
from kafka.errors import KafkaError
from live_jobs import (
    LiveJob,
    Load,
    all_of,
    check_bucket_truth,
    check_commits_follow_each_other,
    check_states_hold_every_frame,
    wait_for_the_end,
    wait_until,
)

from benchmarks.faults import note
from demo.broker import BrokerFailed, LocalCluster, create_topic
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.watch.status import partition_logs

UNDER_LOAD = {"checkpoint": {"slice_records": 50, "slice_seconds": "500ms", "keep": 1000}, "kafka": {"session": "3s"}}


MORE_MEMORY = 100.0
"""MB that a process may take on while its broker is away and while it catches up, however long that was."""


def owners(job):
    """The process ids of the last to claim each partition."""
    found = [CheckpointLog(store).owner() for store in partition_logs(job.checkpoint).values()]
    return [int(one[1].rpartition(":")[2]) for one in found if one]


def all_go_on(job):
    """Waits until every partition has committed more than now."""
    at = job.positions()
    wait_until(lambda: all(job.positions()[one] > at[one] for one in at), job)


def check_all(job):
    check_bucket_truth(job, all_of(job))
    check_states_hold_every_frame(job)
    check_commits_follow_each_other(job)


@pytest.mark.slow
def test_of_three_processes_one_is_killed_one_is_frozen_and_wakes_and_one_is_added(broker, topic, live_job):
    name = topic(partitions=4)
    job = live_job(name, **UNDER_LOAD)
    with Load(broker, name, 4, rate=8):
        first, second, third = job.start(), job.start(), job.start()
        wait_until(lambda: job.positions() != {}, job)
        wait_until(lambda: set(owners(job)) == {first, second, third}, job)
        wait_until(lambda: len(job.positions()) == 4, job)
        job.kill(first)
        os.kill(second, signal.SIGSTOP)
        added = job.start()
        wait_until(lambda: len(owners(job)) == 4 and set(owners(job)) <= {third, added}, job)
        all_go_on(job)
        os.kill(second, signal.SIGCONT)
        all_go_on(job)
        wait_until(lambda: second in owners(job), job)  # it has joined again, with epochs of its own
    wait_for_the_end(job)
    job.end()
    check_all(job)
    note("live events, of three processes one killed and one frozen", len(all_of(job)), 2, 0)


def test_a_group_with_transactions_grows_under_load_and_every_event_is_seen_once(broker, topic, live_job):
    name = topic(partitions=4)
    job = live_job(name, **UNDER_LOAD | {"kafka": {"transactional": True, "session": "3s"}})
    with Load(broker, name, 4, rate=8):
        running = [job.start()]
        wait_until(lambda: len(job.positions()) == 4, job)
        for _ in range(2):
            running.append(job.start())
            wait_until(lambda: set(owners(job)) == set(running), job)
            all_go_on(job)
    wait_for_the_end(job)
    assert [job.wait(pid, 0) for pid in running] == [None] * 3, job.said()
    job.end()
    outcomes = job.outcomes("read_committed")
    assert sorted(outcomes) == all_of(job)
    assert {len(values) for values in outcomes.values()} == {1}
    check_states_hold_every_frame(job)


def test_a_frozen_process_that_wakes_in_the_middle_of_its_slice_commits_nothing(broker, topic, live_job):
    """It is stopped after step 3, and woken when another has taken over."""
    name = topic(partitions=1)
    job = live_job(name, **UNDER_LOAD)
    with Load(broker, name, 1, rate=6):
        zombie = job.start(stop_at="before:4")
        wait_until(lambda: state_of(zombie) == "T", job)
        heir = job.start()
        wait_until(lambda: job.positions() != {}, job)
        os.kill(zombie, signal.SIGCONT)
        at = sum(job.positions().values())
        wait_until(lambda: sum(job.positions().values()) > at, job)
    wait_for_the_end(job)
    said = job.said()
    job.end()
    check_all(job)
    commits = [commit for store in partition_logs(job.checkpoint).values() for commit in store.names("commits/")]
    assert not any(commit.startswith("commits/000001-") for commit in commits), (commits, zombie, heir)
    assert "let go" in said


def state_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def resumes(job, seconds):
    """Waits until more is committed than now."""
    before, began = job.positions(), time.monotonic()
    wait_until(lambda: sum(job.positions().values()) > sum(before.values()), job, seconds)
    return time.monotonic() - began


def caught_up(job):
    """Whether less than a slice of each partition is left."""
    return len(all_of(job)) - sum(job.positions().values()) <= 2 * UNDER_LOAD["checkpoint"]["slice_records"]


class Memory:
    """The most that a process holds while this is entered, in MB."""

    def __init__(self, pid):
        self._process, self._left = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.before = self.most = self._held()

    def _held(self):
        return self._process.memory_info().rss / 2**20

    def _look(self):
        while not self._left.wait(0.1):
            self.most = max(self.most, self._held())

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._left.set()
        self._thread.join()


@pytest.mark.parametrize("outage", [2.0, pytest.param(60.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("truth", ["bucket", pytest.param("kafka", marks=pytest.mark.slow)])
def test_a_broker_that_is_killed_and_comes_back_is_taken_up_again(broker_to_disturb, topic, live_job, outage, truth):
    name = topic(partitions=2)
    job = live_job(name, **UNDER_LOAD | {"kafka": {"transactional": truth == "kafka", "give_up_after": "5m"}})
    with Load(broker_to_disturb, name, 2, rate=8):
        pid = job.start()
        wait_until(lambda: len(job.positions()) == 2, job)
        with Memory(pid) as memory:
            broker_to_disturb.kill()
            time.sleep(outage)
            broker_to_disturb.restart()
            resumes(job, 5.0)
            wait_until(lambda: caught_up(job), job)
    wait_for_the_end(job)
    assert memory.most - memory.before <= MORE_MEMORY, (memory.before, memory.most)
    assert job.wait(pid, 0) is None
    job.end()
    if truth == "kafka":
        outcomes = job.outcomes("read_committed")
        assert sorted(outcomes) == all_of(job)
        assert {len(values) for values in outcomes.values()} == {1}
    else:
        check_all(job)
    note(f"live events, the broker away for {outage:.0f} s ({truth})", len(all_of(job)), 1, 0)


def leads(cluster, topic, dead):
    """Whether both partitions have a leader that lives."""
    try:
        return all(cluster.leader(topic, number) is not dead for number in (0, 1))
    except (BrokerFailed, KafkaError):
        return False


@pytest.mark.slow
def test_a_leader_that_is_killed_is_followed_by_another(broker_libraries, job_server, tmp_path):
    with LocalCluster(tmp_path / "cluster") as cluster:
        create_topic(cluster.bootstrap, "led", 2, replicas=3)
        job = LiveJob(job_server, cluster, tmp_path, "led", **UNDER_LOAD)
        try:
            with Load(cluster, "led", 2, rate=8):
                job.start()
                wait_until(lambda: len(job.positions()) == 2, job)
                dead = cluster.leader("led")
                dead.kill()
                wait_until(lambda: leads(cluster, "led", dead), job)  # the cluster takes a session to notice
                resumes(job, 5.0)
            wait_for_the_end(job)
        finally:
            job.end()
        check_all(job)
        note("live events, a partition's leader killed", len(all_of(job)), 1, 0)
