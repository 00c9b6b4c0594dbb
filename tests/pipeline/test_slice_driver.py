"""The loop of plans and commits, with a stand-in for the graph."""

from dataclasses import fields, replace

import pytest
from pipeline_checkpoints import CLOCK, OURS, FakeGraph, Killed, killing, make_plan

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.log import CheckpointLog, Conflict
from grpo_tta.pipeline.checkpoint.packs import PackReader
from grpo_tta.pipeline.checkpoint.partition import Partition
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run.driver import PARTITION, SliceDriver


@pytest.fixture
def store(tmp_path):
    return ObjectStore(str(tmp_path / "checkpoint"))


@pytest.fixture
def graph(store):
    return FakeGraph(store)


@pytest.fixture
def driver(store, graph):
    partition = Partition(PARTITION, CheckpointLog(store), OURS)
    return SliceDriver(partition, graph, total=25, slice_records=10, clock=lambda: CLOCK)


def but(driver, **changes):
    """The driver, as another process would make it, with changes of its own or its partition's."""
    own = {field.name for field in fields(SliceDriver)}
    partition = replace(driver.partition, **{name: value for name, value in changes.items() if name not in own})
    rest = {name: value for name, value in changes.items() if name in own}
    return replace(driver, partition=partition, **rest)


def spans(graph):
    return [(plan.span.start, plan.span.stop) for plan in graph.plans]


def test_slices_follow_each_other_to_the_end(driver, graph, store):
    latest = driver.run()
    assert spans(graph) == [(0, 10), (10, 20), (20, 25)]
    assert [plan.sequence for plan in graph.plans] == [0, 1, 2]
    assert (latest.sequence, latest.position, latest.epoch) == (2, 25, 1)
    assert (latest.counters.events, latest.counters.labels) == (25, 25)
    assert latest.states == {f"cam-{i}": f"states/000001-{i:012d}.pack" for i in range(3)}
    assert CheckpointLog(store).latest() == latest


def test_a_finished_job_does_nothing(driver, graph):
    latest = driver.run()
    assert driver.run() == latest
    assert len(graph.plans) == 3


def test_an_empty_source_commits_nothing(driver, graph):
    assert but(driver, total=0).run() is None
    assert graph.plans == []


def test_it_stops_between_slices_and_goes_on(driver, graph):
    asked = iter([False, True])
    latest = but(driver, stop=lambda: next(asked)).run()
    assert latest.position == 10
    assert driver.run().position == 25
    assert spans(graph) == [(0, 10), (10, 20), (20, 25)]


def test_progress_is_told_after_each_commit(driver):
    told = []
    but(driver, progress=told.append).run()
    assert [(step.done, step.total, step.counters.events) for step in told] == [
        (10, 25, 10),
        (20, 25, 20),
        (25, 25, 25),
    ]
    assert all(step.images_per_second > 0 for step in told)


@pytest.mark.parametrize("point", ["before:1", "after:1", "before:4", "after:4", "before:collect", "after:collect"])
def test_killed_at_a_point_it_goes_on_where_it_was(driver, graph, point):
    with pytest.raises(Killed):
        but(driver, fault_point=killing(point, when=1)).run()
    latest = driver.run()
    assert (latest.counters.events, latest.position, latest.sequence) == (25, 25, 2)
    committed = point in ("after:4", "before:collect", "after:collect")
    again = [(10, 20)] if not committed and point == "before:4" else []
    assert spans(graph) == [(0, 10), (10, 20), *again, (20, 25)]


def test_a_plan_without_a_commit_is_run_again_as_it_was(driver, graph):
    with pytest.raises(Killed):
        but(driver, fault_point=killing("before:4")).run()
    later = but(driver, slice_records=3, clock=lambda: CLOCK.replace(hour=9))
    later.run()
    assert graph.plans[0] == graph.plans[1]
    assert spans(graph)[1:] == [(0, 10), *[(start, start + 3) for start in range(10, 25, 3)]]
    assert graph.plans[2].clock == CLOCK.replace(hour=9)


def test_a_slice_that_lost_an_event_is_not_committed(driver, graph, store):
    graph.lost = 1
    with pytest.raises(JobError, match="slice 0 of storage read 10 events and accounts for 9: not committed"):
        driver.run()
    assert CheckpointLog(store).latest() is None
    graph.lost = 0
    assert driver.run().counters.labels == 25


def test_two_processes_on_one_job_do_not_both_commit(driver, graph, store):
    def other(plan, latest):
        result = graph(plan, latest)
        if plan.sequence == 1 and len(graph.plans) == 2:
            but(driver, total=20).run()
        return result

    with pytest.raises(Conflict, match=r"commits/000001-000000000001\.json exists: another process runs this job"):
        but(driver, run_slice=other).run()
    assert CheckpointLog(store).latest().counters.events == 20


def test_a_plan_made_meanwhile_by_another_is_a_conflict(driver, store):
    def plan_first(point):
        if point == "before:1":
            CheckpointLog(store).write_plan(make_plan(0, clock=CLOCK.replace(hour=3)))

    with pytest.raises(Conflict, match=r"plans/000001-000000000000\.json exists"):
        but(driver, fault_point=plan_first).run()


def test_garbage_goes_and_what_is_needed_stays(driver, graph, store):
    latest = but(driver, total=120, keep=3).run()
    assert latest.sequence == 11
    assert [name[-8:-5] for name in store.names("commits/")] == ["009", "010", "011"]
    reader = PackReader(store)
    assert {stream: reader.read(name, stream) for stream, name in latest.states.items()} == {
        "cam-0": b"state 9",
        "cam-1": b"state 10",
        "cam-2": b"state 11",
    }


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("config", "others", r"other settings \(config, now others\)"),
        ("model", "others", r"other model \(model, now others\)"),
    ],
)
def test_a_commit_of_another_job_is_refused(driver, graph, field, value, message):
    but(driver, total=10).run()
    with pytest.raises(ConfigurationError, match=message):
        but(driver, fingerprints=replace(OURS, **{field: value})).run()
    assert len(graph.plans) == 1


@pytest.mark.parametrize(("field", "value"), [("config", "others"), ("model", "others"), ("threads", 2)])
def test_an_open_plan_of_other_conditions_is_refused(driver, graph, field, value):
    with pytest.raises(Killed):
        but(driver, fault_point=killing("after:1")).run()
    name = {"config": "settings"}.get(field, field)
    with pytest.raises(ConfigurationError, match=f"the checkpoint was made with other {name}.*--on-state-mismatch"):
        but(driver, fingerprints=replace(OURS, **{field: value})).run()
    assert graph.plans == []


@pytest.mark.parametrize("reset", [False, True])
def test_another_listing_is_always_refused(driver, reset):
    but(driver, total=10).run()
    with pytest.raises(JobError, match="the checkpoint belongs to another listing of the source"):
        but(driver, fingerprints=replace(OURS, source="others"), reset_on_mismatch=reset).run()


def test_where_allowed_other_settings_go_on(driver, graph):
    but(driver, total=10).run()
    theirs = replace(OURS, config="others", threads=2)
    latest = but(driver, fingerprints=theirs, reset_on_mismatch=True).run()
    assert (latest.config_fingerprint, latest.epoch, latest.counters.events) == ("others", 1, 25)
    assert [plan.threads for plan in graph.plans] == [1, 2, 2]


def test_an_open_plan_of_other_settings_is_replaced_where_allowed(driver, graph, store):
    with pytest.raises(Killed):
        but(driver, fault_point=killing("before:4", when=1)).run()
    theirs = replace(OURS, config="others")
    latest = but(
        driver,
        fingerprints=theirs,
        reset_on_mismatch=True,
        slice_records=3,
        clock=lambda: CLOCK.replace(hour=9),
    ).run()
    first, old, new, *rest = graph.plans
    assert (old.epoch, old.sequence, old.config_fingerprint) == (1, 1, "config")
    assert (new.epoch, new.sequence, new.config_fingerprint) == (2, 1, "others")
    assert (new.span, new.clock) == (old.span, old.clock)
    assert [plan.epoch for plan in rest] == [2, 2]
    assert (latest.epoch, latest.config_fingerprint, latest.counters.events) == (2, "others", 25)
    assert CheckpointLog(store).latest() == latest
    assert first.epoch == 1
    with pytest.raises(ConfigurationError, match="other settings"):
        driver.run()


def test_who_claimed_and_died_before_it_planned_locks_nobody_out(driver, graph, monkeypatch):
    with pytest.raises(Killed):
        but(driver, fault_point=killing("before:4", when=1)).run()
    taking_over = but(driver, fingerprints=replace(OURS, config="others"), reset_on_mismatch=True)
    with pytest.raises(Killed):
        but(taking_over, fault_point=killing("before:1")).run()
    assert CheckpointLog(driver.partition.log._store).claimed() == 2
    latest = driver.run()
    assert (latest.epoch, latest.config_fingerprint, latest.counters.events) == (2, "config", 25)


def test_a_late_commit_of_the_older_process_locks_nobody_out(driver, graph):
    with pytest.raises(Killed):
        but(driver, fault_point=killing("before:4", when=1)).run()
    taking_over = but(driver, fingerprints=replace(OURS, config="others"), reset_on_mismatch=True)
    with pytest.raises(Killed):
        but(taking_over, fault_point=killing("before:4")).run()
    log = driver.partition.log
    older = log.latest().model_copy(update={"sequence": 1, "position": 20})
    log._create("commits/000001-000000000001.json", older)  # it had looked at the epochs just before the claim
    for _ in range(2):
        latest = but(driver, stop=lambda: False).run()
    assert (latest.epoch, latest.sequence, latest.position) == (2, 2, 25)


def test_who_was_taken_over_in_the_middle_of_a_slice_stops(driver, graph):
    taking_over = but(driver, fingerprints=replace(OURS, config="others"), reset_on_mismatch=True)

    def slow(plan, latest):
        result = graph(plan, latest)
        if len(graph.plans) == 1:
            taking_over.run()
        return result

    with pytest.raises(Conflict, match="another process has taken over"):
        but(driver, run_slice=slow).run()
    assert driver.partition.log.latest().epoch == 2
    assert driver.partition.log.latest().counters.events == 25


def test_a_replaced_plan_is_run_again_as_it_was(driver, graph):
    with pytest.raises(Killed):
        but(driver, fault_point=killing("before:4")).run()
    taking_over = but(driver, fingerprints=replace(OURS, config="others"), reset_on_mismatch=True)
    with pytest.raises(Killed):
        but(taking_over, fault_point=killing("before:4")).run()
    taking_over.run()
    assert graph.plans[1] == graph.plans[2]
    assert [plan.epoch for plan in graph.plans] == [1, 2, 2, 2, 2]
