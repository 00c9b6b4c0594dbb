"""`LiveDriver` with a stand-in for the group, the cluster and the graph: who owns what, which slices, what failures."""

import pytest
from live_fakes import FakeMember, LiveWorld
from pipeline_checkpoints import CLOCK, Killed, killing

from grpo_tta.adapters.kafka.errors import Fenced, KafkaFailure, KafkaUnreachable
from grpo_tta.pipeline.checkpoint.partition import Fingerprints
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run import live
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.health import LiveStatus
from grpo_tta.schemas import MonitorRecord


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(live, "_PAUSES", (0.0,))


@pytest.fixture
def world(tmp_path):
    return LiveWorld(tmp_path, t_0=25, t_1=7)


# ---- slices ----


def test_all_owned_partitions_go_through_one_graph_slice_by_slice(world):
    member = FakeMember(["t-0", "t-1"])
    world.driver(member).run()
    assert world.runs == [[("t-0", 0, 10), ("t-1", 0, 7)], [("t-0", 10, 20)], [("t-0", 20, 25)]]
    assert {name: world.log(name).latest().position for name in ("t-0", "t-1")} == {"t-0": 25, "t-1": 7}
    assert [{name: at.offset for name, at in one.items()} for one in member.committed] == [
        {"t-0": 10, "t-1": 7}, {"t-0": 20}, {"t-0": 25},
    ]  # fmt: skip
    assert member.closed == 1
    assert world.watching.progress[0].lag == {"t-0": 15, "t-1": 0}
    assert [one.images for one in world.watching.progress] == [17, 10, 5]
    assert world.watching.owned[0] == (2, 0)  # before the first slice, however long it takes


def test_a_slice_waits_for_its_time_unless_it_would_be_full(world):
    member = FakeMember(["t-0", "t-1"])
    world.driver(member, turns=20, slice_seconds="1h").run()
    assert world.runs == [[("t-0", 0, 10), ("t-1", 0, 7)], [("t-0", 10, 20)]]  # the rest is neither full nor due


def test_what_is_not_there_yet_is_not_waited_for(world):
    world.offsets.ends["t-1"] = 0
    driver = world.driver(FakeMember(["t-0", "t-1"]), until=None, turns=30)
    world.during = lambda: world.offsets.ends.update({"t-1": 3})
    driver.run()
    assert world.runs[:2] == [[("t-0", 0, 10)], [("t-0", 10, 20), ("t-1", 0, 3)]]


@pytest.mark.parametrize(("until", "stop"), [("latest", 25), ("2026-01-01T00:00:00Z", 12)])
def test_it_ends_where_it_was_told_to(world, until, stop):
    world.during = lambda: world.offsets.ends.update({"t-0": 90})
    world.driver(FakeMember(["t-0"]), until=until).run()
    assert world.log("t-0").latest().position == stop


def test_it_begins_where_it_was_told_to_and_only_then_where_it_was(world):
    world.driver(FakeMember(["t-0"]), start="latest").run()
    assert world.runs == []
    world.offsets.ends["t-0"] = 30
    world.driver(FakeMember(["t-0"]), start="earliest", turns=3).run()
    assert world.runs[0] == [("t-0", 0, 10)]
    world.driver(FakeMember(["t-0"]), start="latest").run()
    assert world.runs[-1] == [("t-0", 20, 30)]


def test_where_it_begins_is_decided_once(world):
    world.driver(FakeMember(["t-0"]), start="latest", turns=3).run()  # at 25, and nothing comes
    world.offsets.ends["t-0"] = 30
    world.driver(FakeMember(["t-0"]), start="latest", turns=3).run()
    assert world.runs == [[("t-0", 25, 30)]]


def test_a_partition_added_later_is_read_from_its_first_record(world):
    world.driver(FakeMember(["t-0", "t-1"]), start="latest", turns=3).run()
    world.offsets.ends["t-2"] = 4
    world.driver(FakeMember(["t-2"]), start="latest", turns=3).run()
    assert world.runs == [[("t-2", 0, 4)]]


def test_explicit_offsets_that_leave_a_partition_out_are_no_configuration(world):
    world.offsets.start = lambda start, names: start.explicit(names)
    with pytest.raises(ConfigurationError, match=r"kafka\.start: start names no offset for t-1"):
        world.driver(FakeMember(["t-0", "t-1"]), start="t-0=3", turns=3).run()


def test_output_files_go_into_a_folder_of_the_plans_day(world):
    stems = []
    world.driver(
        FakeMember(["t-0"]), run_slice=lambda parts: stems.extend(p.stem for p in parts) or world.run_slice(parts)
    ).run()
    assert stems[0] == f"{CLOCK:%Y-%m-%d}/t-0-000000000000"


def test_a_partition_too_far_behind_is_shed_until_half_of_that(world, caplog):
    with pytest.raises(Killed):
        world.driver(FakeMember(["t-0"]), shed_above=12, slice_records=6, fault_point=killing("before:4")).run()
    world.offsets.ends["t-0"] = 7  # what is run again is shed as it was
    world.driver(FakeMember(["t-0"]), shed_above=12, slice_records=6).run()
    world.offsets.ends["t-0"] = 30
    world.driver(FakeMember(["t-0", "t-1"]), shed_above=12, slice_records=6).run()
    shed = [(plan.span.partition, plan.span.start, plan.shed) for plans in world.plans for plan in plans]
    assert shed == [
        ("t-0", 0, True), ("t-0", 0, True), ("t-0", 6, False),  # 25 behind, as it was, 1
        ("t-0", 7, True), ("t-1", 0, False), ("t-0", 13, True), ("t-1", 6, False), ("t-0", 19, True),
        ("t-0", 25, False),  # 23, 17, 11, and 5, less than half
    ]  # fmt: skip
    assert "t-0 is 5 records behind: its images are learnt from again" in caplog.text
    assert "t-0 is 25 records behind: its images are only labelled" in caplog.text


# ---- open plans ----


def test_an_open_plan_comes_first_and_as_it_was(world):
    with pytest.raises(Killed):
        world.driver(FakeMember(["t-0"]), fault_point=killing("before:4")).run()
    world.driver(FakeMember(["t-0", "t-1"]), slice_records=3, slice_seconds="1h", turns=4).run()
    assert world.runs[:2] == [[("t-0", 0, 10)], [("t-0", 0, 10), ("t-1", 0, 3)]]
    old, new = world.plans[0][0], world.plans[1][0]
    assert (old.epoch, new.epoch) == (1, 2)
    assert new == old.model_copy(update={"epoch": 2})


def test_every_owner_claims_an_epoch_before_it_reads(world):
    world.driver(FakeMember(["t-0"]), owner="first").run()
    world.driver(FakeMember(["t-0"]), owner="second").run()
    assert world.log("t-0").owner() == (2, "second")


def test_a_commit_of_other_settings_is_refused_at_once(world):
    world.driver(FakeMember(["t-0"])).run()
    driver = world.driver(FakeMember(["t-0"]))
    driver._fingerprints = Fingerprints("others", "model", "cluster", 1)
    with pytest.raises(ConfigurationError, match="other settings"):
        driver.run()
    assert world.watching.errors == []


# ---- ownership ----


def test_a_partition_that_is_taken_away_in_the_middle_of_a_slice_is_not_committed(world):
    member = FakeMember(["t-0", "t-1"])
    world.during = lambda: member.take("t-0")
    world.driver(member).run()
    assert world.runs[0] == [("t-0", 0, 10), ("t-1", 0, 7)]
    assert world.log("t-0").latest() is None
    assert world.log("t-1").latest().position == 7


@pytest.mark.parametrize("comes_back", [False, True])
def test_streams_of_a_partition_that_is_taken_away_are_no_more_among_this_process_s(world, comes_back):
    def observed(parts):
        results = world.run_slice(parts)
        metrics.begin_slice()
        metrics.observe_monitor(
            MonitorRecord(
                stream=stream, bucket_start=CLOCK, bucket_seconds=1, coordinate="c", n=200, model_fingerprint="m",
                method="grpo", settings_fingerprint="s",
            )
            for result in results for stream in result.streams
        )  # fmt: skip
        return results

    def take():
        if len(world.runs) == 2:
            member.take("t-0")
            if comes_back:
                member.give("t-0")

    member, world.during, world.watching = FakeMember(["t-0"]), take, LiveStatus(30.0)
    metrics.watch_streams(None, 0)
    world.driver(member, until=None, turns=10, run_slice=observed).run()
    shown = [line for line in metrics.scraped().decode().splitlines() if line.startswith("tta_streams{")]
    assert sum(float(line.split()[-1]) for line in shown) == (3 if comes_back else 0)
    metrics.watch_streams(None, 0)


def test_one_that_was_lost_and_came_back_is_taken_up_anew(world):
    member = FakeMember(["t-0"])

    def lose_once():
        if len(world.runs) == 1:
            member.take("t-0")
            member.give("t-0")

    world.during = lose_once
    world.driver(member).run()
    assert world.runs == [[("t-0", 0, 10)], [("t-0", 0, 10)], [("t-0", 10, 20)], [("t-0", 20, 25)]]
    assert [plans[0].epoch for plans in world.plans] == [1, 2, 2, 2]


@pytest.mark.parametrize("moment", ["before the commit", "before the plan"])
def test_a_partition_that_another_has_claimed_is_left_alone_for_a_session(world, moment):
    claim = iter([world.log("t-0").claim])

    def claimed(point):
        if point == ("before:4" if moment == "before the commit" else "before:1") and len(world.runs) == 1:
            next(claim, lambda owner: None)("another")

    member = FakeMember(["t-0", "t-1"])
    world.offsets.ends["t-1"] = 25
    world.driver(member, turns=60, fault_point=claimed).run()
    committed = world.log("t-0").latest()
    assert (committed and committed.position) == (None if moment == "before the commit" else 10)
    assert world.log("t-0").owner() == (2, "another")
    assert world.log("t-1").latest().position == 25
    assert world.watching.errors == []


def test_after_the_session_it_is_taken_up_again_if_it_is_still_ours(world):
    def claimed(point):
        if point == "before:4" and len(world.runs) == 1:
            world.log("t-0").claim("another")

    world.driver(FakeMember(["t-0"]), session="1ms", turns=5000, fault_point=claimed).run()
    assert world.runs[:2] == [[("t-0", 0, 10)], [("t-0", 0, 10)]]
    assert world.log("t-0").latest().position == 25
    assert world.log("t-0").owner() == (3, "us")


def test_of_two_that_were_given_the_same_partition_by_hand_one_ends(world):
    def claimed(point):
        if point == "before:4":
            world.log("t-0").claim("another")

    with pytest.raises(JobError, match=r"partition t-0: epoch 2 has begun after 1.*only one process may be given"):
        world.driver(FakeMember(["t-0"]), partitions="0", fault_point=claimed).run()


def test_positions_that_the_group_refuses_do_not_undo_a_commit(world):
    member = FakeMember(["t-0"])
    member.refused = Fenced("gone on without us")
    world.driver(member).run()
    assert world.log("t-0").latest().position == 25


# ---- resets that were asked for ----


def planned_resets(world):
    return [list(plan.resets) for plans in world.plans for plan in plans]


def test_a_reset_is_in_every_plan_until_its_stream_has_had_an_event(world):
    world.log("t-0").request_reset("cam-1")  # the graph's second slice has its first event
    world.log("t-0").request_reset("cam-1")
    world.driver(FakeMember(["t-0"])).run()
    assert planned_resets(world) == [["cam-1"], ["cam-1"], []]
    assert world.log("t-0").pending_resets() == {}


def test_killed_between_the_commit_and_forgetting_it_is_not_done_twice(world):
    world.log("t-0").request_reset("cam-0")
    with pytest.raises(Killed):
        world.driver(FakeMember(["t-0"]), fault_point=killing("before:forget")).run()
    assert list(world.log("t-0").pending_resets()) == ["cam-0"]
    world.driver(FakeMember(["t-0"])).run()
    assert planned_resets(world) == [["cam-0"], [], []]


def test_killed_before_the_commit_the_plan_has_it_still(world):
    world.log("t-0").request_reset("cam-0")
    with pytest.raises(Killed):
        world.driver(FakeMember(["t-0"]), fault_point=killing("before:4")).run()
    world.driver(FakeMember(["t-0"])).run()
    assert planned_resets(world) == [["cam-0"], ["cam-0"], [], []]


def test_one_that_comes_while_another_is_done_is_kept(world):
    log = world.log("t-0")
    log.request_reset("cam-0")
    world.during = lambda: log.request_reset("cam-0") if len(world.runs) == 1 else None
    world.driver(FakeMember(["t-0"])).run()
    assert planned_resets(world) == [["cam-0"], ["cam-0"], ["cam-0"]]


# ---- failures ----


def failing(world, times, error):
    """The graph fails so many times."""
    left = iter(range(times))

    def run_slice(parts):
        if next(left, None) is not None:
            world.runs.append("failed")
            raise error
        return world.run_slice(parts)

    return run_slice


@pytest.mark.parametrize("error", [JobError("lost"), KafkaUnreachable("away"), OSError("bucket away")])
def test_a_slice_that_fails_is_run_again_exactly_as_it_was(world, error):
    world.driver(FakeMember(["t-0"]), run_slice=failing(world, 3, error)).run()
    assert world.runs == ["failed"] * 3 + [[("t-0", 0, 10)], [("t-0", 10, 20)], [("t-0", 20, 25)]]
    assert world.plans[0][0].clock == CLOCK
    assert world.watching.errors == [error] * 3


def test_what_cannot_pass_ends_it_at_once(world):
    with pytest.raises(JobError, match="forbidden"):
        world.driver(FakeMember(["t-0"]), run_slice=failing(world, 9, KafkaFailure("forbidden"))).run()
    assert world.runs == ["failed"]


def test_it_gives_up_when_nothing_came_through_for_long(world):
    always = failing(world, 10**6, JobError("lost"))
    driver = world.driver(FakeMember(["t-0"]), run_slice=always, give_up_after="50ms", turns=10**6)
    with pytest.raises(JobError, match=r"no slice came through in \d+ s, the last try: lost"):
        driver.run()


def test_a_first_failure_after_hours_without_events_is_no_reason_to_give_up(world, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    world.offsets.ends["t-0"] = 0
    error = KafkaUnreachable("away")

    class Idle(FakeMember):
        def events(self, seconds=0.0):
            now[0] += 3600
            world.offsets.down = int(now[0] == 1000.0 + 2 * 3600)  # once, and it passed
            if now[0] > 20_000:
                world.offsets.ends["t-0"] = 5
            return super().events(seconds)

    world.driver(Idle(["t-0"]), until=None, turns=12, run_slice=failing(world, 1, error)).run()
    assert [str(one) for one in world.watching.errors] == ["nobody is there", "away"]
    assert world.log("t-0").latest().position == 5


def test_a_membership_that_has_ended_is_begun_anew_as_often_as_it_takes(world):
    first, dead, last = FakeMember(["t-0"]), FakeMember(), FakeMember(["t-0"])

    def unreachable():
        raise KafkaUnreachable("still away")

    dead.start = unreachable
    members = iter([first, dead, dead, last])

    def end():
        if len(world.runs) == 1:
            first.ended = KafkaUnreachable("the broker is away")

    world.during = end
    world.driver(lambda: next(members)).run()
    assert world.log("t-0").latest().position == 25
    assert (first.closed, dead.closed, last.closed) == (1, 2, 1)


def test_a_first_join_that_fails_ends_it_at_once(world):
    member = FakeMember()

    def unreachable():
        raise KafkaUnreachable("nobody")

    member.start = unreachable
    with pytest.raises(KafkaUnreachable):
        world.driver(member).run()
    assert member.closed == 1


# ---- positions that the log does not hold ----


def test_lost_positions_end_it_where_the_policy_is_to_fail(world):
    world.driver(FakeMember(["t-0"])).run()
    world.offsets.beginnings["t-0"], world.offsets.ends["t-0"] = 40, 60
    with pytest.raises(JobError, match="partition t-0: position 25 is not there, the log holds 40 to 60"):
        world.driver(FakeMember(["t-0"])).run()


@pytest.mark.parametrize(("policy", "first"), [("earliest", [("t-0", 40, 50)]), ("latest", [("t-0", 60, 70)])])
def test_lost_positions_are_passed_over_counted_and_said(world, caplog, policy, first):
    world.driver(FakeMember(["t-0"])).run()
    world.offsets.beginnings["t-0"], world.offsets.ends["t-0"] = 40, 60
    before = metrics.SKIPPED._value.get()
    world.runs.clear()

    check = world.offsets.check

    def checked_and_growing(positions, policy):
        found = check(positions, policy)
        world.offsets.ends["t-0"] = 80
        return found

    world.offsets.check = checked_and_growing
    world.driver(FakeMember(["t-0"]), out_of_range=policy, until=None, turns=3).run()
    assert world.runs[0] == first
    assert f"reading goes on at {first[0][1]}" in caplog.text
    assert metrics.SKIPPED._value.get() - before == first[0][1] - 25
