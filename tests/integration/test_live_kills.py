"""A live job killed before and after every step of both orders of writing, and at random moments, against a real
broker: every event is labelled or dead-lettered, and the states in the end are those of a job that nothing disturbed.

One job is killed at every step in turn, mostly at the second partition's, and started again each time.
"""

import random
import signal
import time
from dataclasses import dataclass

import pytest
from live_jobs import LiveJob, all_of, check_bucket_truth, feed, send

from benchmarks.faults import note
from demo.broker import create_topic

EVENTS = 32
"""In each of the two partitions, four a slice."""
BUCKET = {
    "before:1": 0, "after:1": 0, "before:2": 0, "after:2": 0, "before:3": 0, "after:3": 0,
    "before:4": 1, "after:4": 2, "before:5": 2, "after:5": 2,
    "before:collect": 2, "after:collect": 2,
}  # fmt: skip
"""Partitions that the killed process had committed a slice of."""
KAFKA = {
    "after:3": 0, "before:4": 1, "after:4": 1, "before:5": 1, "after:5": 1, "before:6": 1, "after:6": 2,
    "before:collect": 2, "after:collect": 2,
}  # fmt: skip
KAFKA_EARLY = dict.fromkeys(["before:1", "after:1", "before:2", "after:2", "before:3"], 0)
"""As with the bucket's truth but for the open transaction."""
ONCE_A_SLICE = {"bucket": ("before:2", "before:5", "after:5"), "kafka": (), "kafka-early": ("before:2",)}
OTHERS = (".adaptation", ".drift", ".monitor")
"""Topics beside those of labels and dead letters."""
TRUTHS = {"bucket": BUCKET, "kafka": KAFKA, "kafka-early": KAFKA_EARLY}
CASES = [
    pytest.param(truth, point, id=f"{truth}-{point}", marks=[pytest.mark.slow] if truth == "kafka-early" else [])
    for truth, points in TRUTHS.items()
    for point in points
]


def sections(truth):
    kafka = {"partitions": "0-1", "transactional": truth != "bucket"}
    return {"kafka": kafka, "checkpoint": {"slice_records": 4}}


def records_with_faults(events):
    """The feed of all jobs here: two pictures of it cannot be decoded."""
    records = feed(events)
    for number in (9, 22):
        records[number][1]["data"] = "AAAA"
    return records


@dataclass
class World:
    """A topic with everything in it, its coordinates, and a job that was not disturbed."""

    topic: str
    coordinates: list[str]
    undisturbed: LiveJob


def make_world(job_server, broker, folder, events):
    topic = f"killed-{events}"
    create_topic(broker.bootstrap, topic, 2)
    coordinates = send(broker, topic, records_with_faults(events))
    job = LiveJob(job_server, broker, folder, topic, **sections("bucket"))
    job.finish(seconds=300.0)
    return World(topic, coordinates, job)


@pytest.fixture(scope="module")
def world(job_server, broker, tmp_path_factory):
    return make_world(job_server, broker, tmp_path_factory.mktemp("undisturbed"), EVENTS)


@pytest.fixture(scope="module")
def long_world(job_server, broker, tmp_path_factory):
    return make_world(job_server, broker, tmp_path_factory.mktemp("long"), 6 * EVENTS)


@dataclass
class Killed:
    """A job that was killed at every step, how each of its processes ended, and what each had committed."""

    job: LiveJob
    codes: dict[str, int]
    committed: dict[str, int]


@pytest.fixture(scope="module")
def killed(world, job_server, broker, tmp_path_factory):
    """By truth; made at the first use."""
    made = {}

    def make(truth):
        if truth not in made:
            folder = tmp_path_factory.mktemp(truth)
            made[truth] = Killed(LiveJob(job_server, broker, folder, world.topic, **sections(truth)), {}, {})
            kill_at_every_step(made[truth], truth)
        return made[truth]

    yield make
    for one in made.values():
        one.job.end()


def kill_at_every_step(killed, truth):
    assert killed.job.run(slices=1) == 0, killed.job.said()
    before = killed.job.positions()
    for point in TRUTHS[truth]:
        when = 0 if point in ONCE_A_SLICE[truth] else 1
        killed.codes[point] = killed.job.run(kill_at=point, kill_when=when)
        after = killed.job.positions()
        killed.committed[point] = sum(after[name] > before[name] for name in before)
        before = after
    killed.job.finish()


def test_the_undisturbed_job_has_everything_that_could_go_wrong(world):
    outcomes = check_bucket_truth(world.undisturbed, world.coordinates)
    assert {len(values) for values in outcomes.values()} == {1}
    assert world.undisturbed.counted() == {"events": 2 * EVENTS, "labels": 2 * EVENTS - 2, "dead_letters": 2}
    assert len(world.undisturbed.states()) == 4
    for commit in world.undisturbed.commits().values():
        assert commit.counters.updates >= 4
        assert commit.counters.resets.get("scheduled", 0) >= 1


@pytest.mark.parametrize(("truth", "point"), CASES)
def test_killed_at_a_step_what_counts_is_what_was_committed(killed, truth, point):
    found = killed(truth)
    assert (found.codes[point], found.committed[point]) == (-signal.SIGKILL, TRUTHS[truth][point]), found.job.said()


def check_bucket(world, job):
    outcomes = check_bucket_truth(job, world.coordinates)
    assert job.states() == world.undisturbed.states()
    assert job.counted() == world.undisturbed.counted()
    for kind in OTHERS:
        assert set(job.values(kind)) == set(world.undisturbed.values(kind)), kind
    return outcomes


def check_kafka(world, job):
    outcomes = job.outcomes("read_committed")
    assert sorted(outcomes) == sorted(world.coordinates)
    assert {len(values) for values in outcomes.values()} == {1}
    assert outcomes == {where: values[:1] for where, values in world.undisturbed.outcomes().items()}
    assert job.states() == world.undisturbed.states()
    assert job.counted() == world.undisturbed.counted()
    for kind in OTHERS:
        assert job.values(kind, "read_committed") == world.undisturbed.values(kind), kind


def test_after_all_of_it_nothing_is_lost_and_duplicates_are_the_same_to_the_byte(world, killed):
    job = killed("bucket").job
    outcomes = check_bucket(world, job)
    assert max(len(values) for values in outcomes.values()) > 1
    assert outcomes.keys() == world.undisturbed.outcomes().keys()
    assert {where: set(values) for where, values in outcomes.items()} == {
        where: set(values) for where, values in world.undisturbed.outcomes().items()
    }


@pytest.mark.parametrize("truth", ["kafka", pytest.param("kafka-early", marks=pytest.mark.slow)])
def test_after_all_of_it_a_read_committed_reader_sees_every_event_once(world, killed, truth):
    job = killed(truth).job
    check_kafka(world, job)
    assert max(len(values) for values in job.outcomes().values()) > 1  # what was aborted is there for others


def kill_at_random(world, job, kills):
    """The seed fixes the moments, not what happens at them."""
    chance = random.Random(kills)
    codes = []
    for _ in range(kills):
        pid = job.start({"kafka": {"until": "latest"}})
        time.sleep(chance.uniform(0.3, 3.5))
        codes.append(job.kill(pid))
    assert codes.count(-signal.SIGKILL) > kills / 2
    job.finish(seconds=300.0)
    transactional = job.config["kafka"]["transactional"]
    (check_kafka if transactional else check_bucket)(world, job)
    note(f"live events, the job killed at random{' (transactional)' * transactional}", len(all_of(job)), kills, 0)


def test_killed_at_a_random_moment(world, live_job):
    kill_at_random(world, live_job(world.topic, **sections("bucket")), 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("truth", ["bucket", "kafka"])
def test_killed_at_thirty_random_moments(long_world, live_job, truth):
    kill_at_random(long_world, live_job(long_world.topic, **sections(truth)), 30)
