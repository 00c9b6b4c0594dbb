"""One slice's graph on Beam's in-process runner, and jobs of several slices."""

import json
import random
import threading
from pathlib import Path

import apache_beam as beam
import pytest
from pipeline_checkpoints import CLOCK, OURS, Killed, killing, make_commit
from pipeline_fakes import CountingMethod, canvas, dump, level_of, make_labeler, make_ref
from pipeline_jobs import files, job_config, job_labeler, output_files, outputs, png, serve, write_pictures

import grpo_tta.pipeline.graph as graph
import grpo_tta.pipeline.label.dofn as labeling
import grpo_tta.pipeline.run.bounded as run
import grpo_tta.pipeline.run.places as places
import grpo_tta.pipeline.run.slice as slices
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.source import list_source
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackReader, write_pack
from grpo_tta.pipeline.checkpoint.partition import no_fault
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.config.sections import RunConfig
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.graph import KeyByShard
from grpo_tta.pipeline.label.monitor import monitor_of
from grpo_tta.pipeline.run.runner import shards_of
from grpo_tta.schemas import PackRef
from grpo_tta.schemas.monitor import merged
from grpo_tta.state import decode_state, encode_state

pytestmark = pytest.mark.jobs

COUNTS = {"north": 30, "south": 21, "west": 9}
TWO = {"slice_records": 40}


@pytest.fixture(scope="module")
def feed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feed")
    write_pictures(folder, COUNTS)
    return folder


@pytest.fixture
def use(monkeypatch):
    """Make a labeler the process's own for a configuration."""

    def install(config, labeler):
        serve(monkeypatch, labeler)
        return labeler

    return install


@pytest.fixture
def label(use):
    """Run a job of the counting method, or of another; its configuration and result."""

    def run_job(config, method=None, **options):
        hooks = {name: options.pop(name) for name in ("stop", "fault_point", "progress") if name in options}
        use(config, job_labeler(config, method, **options))
        return run.run_label_job(config, **hooks)

    return run_job


@pytest.fixture(scope="module")
def undisturbed(feed, tmp_path_factory):
    """The configuration of a job over the feed in two slices, which nothing happens to."""
    config = job_config(feed, tmp_path_factory.mktemp("undisturbed") / "out", checkpoint=TWO)
    with pytest.MonkeyPatch.context() as monkeypatch:
        serve(monkeypatch, job_labeler(config))
        run.run_label_job(config)
    return config


def files_of(config):
    return output_files(Path(config.output.url))


def states(config):
    """Every stream's newest state, encoded."""
    store = ObjectStore(config.checkpoint_url)
    commit = CheckpointLog(store).latest()
    return {stream: PackReader(store).read(name, stream) for stream, name in commit.states.items()}


def stop_after(slices):
    asked = iter([False] * slices + [True] * 100)
    return lambda: next(asked)


def of_stream(rows, stream):
    return dump([row for row in rows if row.stream == stream])


# ---- order, shards --------------------------------------------------------------------------------------------------


def test_slices_equal_one_slice_where_arithmetic_is_exact(feed, tmp_path, label):
    """Slices of 13, no multiple of the method's window or of a batch."""
    whole, cut = (
        job_config(feed, tmp_path / name, checkpoint={"slice_records": records})
        for name, records in (("whole", 1000), ("cut", 13))
    )
    label(whole)
    label(cut)
    first, second = outputs(tmp_path / "whole"), outputs(tmp_path / "cut")
    first["monitor"], second["monitor"] = merged(first["monitor"]), merged(second["monitor"])
    for folder in first:
        assert sorted(dump(second[folder])) == sorted(dump(first[folder]))
    maker = monitor_of(ResolvedJob.of(cut), first["labels"][0].model_fingerprint)
    again = maker.records(*(second[folder] for folder in ("labels", "adaptation", "drift", "dead_letters")))
    assert dump(merged(again)) == dump(first["monitor"])
    assert states(cut) == states(whole)


def test_a_slice_has_no_more_events_than_states_that_fit(feed, tmp_path, label, monkeypatch):
    config = job_config(feed, tmp_path / "out", checkpoint={"slice_records": 1000})
    monkeypatch.setattr(slices, "_STATES", 20 * job_labeler(config).largest_state_bytes + 1)
    done = []
    label(config, progress=lambda progress: done.append(progress.done))
    assert done[:3] == [0, 20, 40]
    monkeypatch.setattr(slices, "_STATES", 0)
    assert slices.most_records(1000, 1) == 1


def step_of(config, commit=None):
    origin = labeling.Origin(commit, config.checkpoint_url)
    return labeling.LabelStreams(ResolvedJob.of(config), {"storage": origin})


def stepped(config, refs, commit=None):
    """A shard of references through a DoFn of its own: records without their partition, and states by stream."""
    step = step_of(config, commit)
    step.setup()
    found = list(step.process((("storage", 0), refs)))
    step.teardown()
    records = [row[1].record() for row in found if not hasattr(row, "tag")]
    return records, {row.value[0][1]: row.value[1] for row in found if getattr(row, "tag", None) == labeling.STATES}


def fake_job(use, tmp_path, **sections):
    config = job_config(tmp_path, tmp_path / "out", **sections)
    use(config, make_labeler(settings_fingerprint=config.method_fingerprint()))
    return config


def test_a_shard_gives_what_its_streams_give_alone_in_whatever_order_it_comes(use, tmp_path):
    config = fake_job(use, tmp_path)
    refs = {stream: [make_ref(number, stream) for number in range(count)] for stream, count in (("a", 9), ("b", 23))}
    mixed = [*refs["a"], *refs["b"]]
    random.Random(3).shuffle(mixed)
    records, states = stepped(config, mixed)
    alone = {stream: stepped(config, own) for stream, own in refs.items()}
    assert dump(records) == dump([*alone["a"][0], *alone["b"][0]])
    assert states == {**alone["a"][1], **alone["b"][1]}


def test_images_are_read_ahead_over_the_streams_of_a_shard(use, tmp_path):
    started, release = [], threading.Event()

    def read(ref, repaired):
        started.append(ref.stream)
        if ref.stream == "cam-0":
            assert release.wait(10)
        return canvas(level_of(ref))

    config = job_config(tmp_path, tmp_path / "out")
    use(config, make_labeler(read=read, settings_fingerprint=config.method_fingerprint(), readers=3))
    refs = [make_ref(0, f"cam-{number}") for number in range(6)]
    labelling = threading.Thread(target=lambda: stepped(config, refs))
    labelling.start()
    for _ in range(1000):
        if len(started) == 6:
            break
        threading.Event().wait(0.005)
    assert started[0] == "cam-0"
    assert len(started) == 6, "while the first stream's only image is not there"
    release.set()
    labelling.join(10)


def test_several_workers_give_the_files_and_states_of_one(feed, undisturbed, tmp_path, label):
    three = job_config(feed, tmp_path / "out", checkpoint=TWO, run={"beam_options": ("--direct_num_workers=3",)})
    label(three)
    assert files_of(three) == files_of(undisturbed)
    assert states(three) == states(undisturbed)


@pytest.mark.parametrize(
    ("run", "shards"),
    [
        (RunConfig(), 1),
        (RunConfig(beam_options=("--direct_num_workers=3",)), 3),
        (RunConfig(runner="PortableRunner"), 16),
    ],
)
def test_a_partition_has_a_shard_for_each_worker(run, shards):
    key = KeyByShard({"p-0": 10**18}, {"p-0": shards_of(run)})
    keys = {next(iter(key.process(("p-0", make_ref(0, f"cam-{number}")))))[0] for number in range(400)}
    assert keys == {("p-0", shard) for shard in range(shards)}


def test_a_plan_that_is_run_again_keeps_its_groups_of_streams(feed, tmp_path, label, monkeypatch):
    """Whatever workers there are by then: labels depend on who goes through the model together, by rounding."""
    seen, process = [], labeling.LabelStreams.process

    def noted(self, element):
        seen.append(element[0][1])
        return process(self, element)

    monkeypatch.setattr(labeling.LabelStreams, "process", noted)
    three, one = (
        job_config(feed, tmp_path / "out", run={"beam_options": options})
        for options in (("--direct_num_workers=3",), ())
    )
    with pytest.raises((Killed, JobError)):
        label(three, fault_point=killing("after:2"))
    groups, seen[:] = sorted(seen), []
    assert max(groups) > 0
    label(one)
    assert sorted(seen) == groups


def test_shuffled_input_gives_the_labels_of_sorted_input(feed, undisturbed, tmp_path, label, monkeypatch):
    def shuffled(*args, **options):
        rows = list(list_source(*args, **options))
        random.Random(5).shuffle(rows)
        return iter(rows)

    monkeypatch.setattr(places, "list_source", shuffled)
    mixed = job_config(feed, tmp_path / "shuffled", checkpoint=TWO)
    label(mixed)
    assert files_of(mixed) == files_of(undisturbed)
    assert states(mixed) == states(undisturbed)


def test_a_streams_labels_do_not_depend_on_the_others(feed, undisturbed, tmp_path, label):
    write_pictures(tmp_path / "alone", {"north": COUNTS["north"]})
    both, alone = undisturbed, job_config(tmp_path / "alone", tmp_path / "one")
    label(alone)
    for folder in ("labels", "adaptation"):
        rows = outputs(tmp_path / "one")[folder]
        expected = [row.replace(str(tmp_path / "alone"), str(feed)) for row in dump(rows)]
        assert of_stream(outputs(Path(both.output.url))[folder], "north") == expected
        assert expected
    assert len(states(both)) == 3
    first, second = decode_state(states(both)["north"]), decode_state(states(alone)["north"])
    assert first.counters == second.counters
    assert first.method["sum"] == second.method["sum"]


# ---- accounting and files ---------------------------------------------------------------------------------------


def test_labels_and_dead_letters_are_the_events(tmp_path, label):
    folder = tmp_path / "feed"
    write_pictures(folder, {"north": 12, "south": 8})
    (folder / "north" / "2026-01-01T00-00-03Z.png").write_bytes(png(3)[:40])
    (folder / "south" / "2026-01-01T00-00-02Z.png").write_bytes(b"no picture")
    (folder / "south" / "2026-01-01T00-00-07Z.png").write_bytes(b"")
    config = job_config(folder, tmp_path / "out", checkpoint={"slice_records": 10})
    summary = label(config).summary
    found = outputs(tmp_path / "out")
    assert (summary.events, summary.labels, summary.dead_letters, summary.streams) == (20, 17, 3, 2)
    assert len(found["labels"]) == 17
    assert sorted((row.id, row.error_class) for row in found["dead_letters"]) == [
        ("north/2026-01-01T00-00-03Z.png", "CorruptImage"),
        ("south/2026-01-01T00-00-02Z.png", "UnknownFormat"),
        ("south/2026-01-01T00-00-07Z.png", "EmptyImage"),
    ]
    coordinates = [row.coordinate for folder in ("labels", "dead_letters") for row in found[folder]]
    assert len(set(coordinates)) == 20
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["finished"] is True


def test_two_events_of_one_id_are_both_labelled_and_a_line_that_is_no_event_is_kept(tmp_path, label):
    write_pictures(tmp_path / "feed", {"north": 2})
    line = {
        "schema_version": "1",
        "id": "same",
        "stream": "north",
        "event_time": "2026-01-01T00:00:00Z",
        "uri": "north/2026-01-01T00-00-00Z.png",
    }
    manifest = tmp_path / "feed" / "events.jsonl"
    manifest.write_text("\n".join([json.dumps(line), json.dumps(line), "{no json"]) + "\n")
    config = job_config(
        tmp_path, tmp_path / "out", source={"url": str(manifest), "stream_pattern": None, "time_pattern": None}
    )
    summary = label(config).summary
    found = outputs(tmp_path / "out")
    assert [row.id for row in found["labels"]] == ["same", "same"]
    assert len({row.coordinate for row in found["labels"]}) == 2
    assert [row.stage for row in found["dead_letters"]] == ["decode_event"]
    assert [(row.stream, row.n, list(row.dead_letters.values())) for row in found["monitor"]] == [
        (None, 0, [1]),
        ("north", 2, []),
    ]
    assert (summary.events, summary.labels, summary.dead_letters) == (3, 2, 1)


def test_parquet_holds_the_records_of_json_lines(feed, tmp_path, label):
    folder = tmp_path / "feed"
    write_pictures(folder, {"north": 10})
    (folder / "north" / "2026-01-01T00-00-03Z.png").write_bytes(b"no picture")
    for kind in ("jsonl", "parquet"):
        label(job_config(folder, tmp_path / kind, output={"format": kind}))
        names = {name.rsplit(".", 1)[1] for name in output_files(tmp_path / kind)}
        assert names == {kind}
    assert outputs(tmp_path / "parquet") == outputs(tmp_path / "jsonl")
    assert len(outputs(tmp_path / "jsonl")["labels"]) == 9


def test_a_time_far_in_the_future_is_capped_and_makes_nobody_late(tmp_path, label):
    folder = tmp_path / "feed"
    write_pictures(folder, {"north": 6})
    (folder / "north" / "2226-01-01T00-00-00Z.png").write_bytes(png(9))
    config = job_config(folder, tmp_path / "out")
    label(config)
    rows = outputs(tmp_path / "out")["labels"]
    assert [row.time_capped for row in rows] == [False] * 6 + [True]
    assert rows[-1].event_time.year < 2226
    position = decode_state(states(config)["north"]).position
    assert position["event_time"] == round(rows[5].event_time.timestamp() * 1e6)


def test_an_attempt_leaves_no_files_of_the_one_before(feed, tmp_path, label):
    """A slice that failed after its outputs: what the next attempt does not write must go."""
    folder = tmp_path / "feed"
    write_pictures(folder, {"north": 6})
    moved = folder / "north" / "2026-01-01T00-00-03Z.png"

    def vanish_and_fail(point):
        if point == "before:2":
            moved.rename(tmp_path / "moved")
        if point == "after:2":
            raise OSError("the disk went away")

    config = job_config(folder, tmp_path / "out")
    with pytest.raises(JobError, match="the disk went away"):
        label(config, fault_point=vanish_and_fail)
    assert len(outputs(tmp_path / "out")["dead_letters"]) == 1
    (tmp_path / "moved").rename(moved)
    summary = label(config).summary
    assert (summary.labels, summary.dead_letters) == (6, 0)
    found = outputs(tmp_path / "out")
    assert (len(found["labels"]), len(found["dead_letters"])) == (6, 0)


def test_settings_that_take_over_leave_no_files_of_the_old_ones(feed, tmp_path, label):
    def fail(point):
        if point == "before:4":
            raise OSError("the disk went away")

    sections = {"checkpoint": {"slice_records": 40, "on_state_mismatch": "reset"}}
    with pytest.raises(OSError, match="the disk went away"):
        label(job_config(feed, tmp_path / "out", output={"format": "parquet"}, **sections), fault_point=fail)
    assert {name.rsplit(".", 1)[1] for name in output_files(tmp_path / "out")} == {"parquet"}
    config = job_config(feed, tmp_path / "out", **sections)
    assert label(config).summary.labels == 60
    assert {name.rsplit(".", 1)[1] for name in output_files(tmp_path / "out")} == {"jsonl"}
    assert len(outputs(tmp_path / "out")["labels"]) == 60
    latest = CheckpointLog(ObjectStore(config.checkpoint_url)).latest()
    assert (latest.epoch, latest.config_fingerprint) == (2, config.fingerprint())


def test_a_failing_slice_is_not_committed_and_says_why(feed, undisturbed, tmp_path, label):
    class Tiring(CountingMethod):
        seen = 0

        def step(self, batch, state):
            self.seen += len(batch)
            self.fail_always = self.fail_always or self.seen > 44
            return super().step(batch, state)

    config = job_config(feed, tmp_path / "out", checkpoint=TWO)
    with pytest.raises(JobError, match=r"slice \d of storage failed and was not committed: .*the step failed"):
        label(config, Tiring())
    latest = CheckpointLog(ObjectStore(config.checkpoint_url)).latest()
    committed = latest.counters.events if latest else 0
    assert label(config, CountingMethod()).summary.events == 60
    assert committed < 60
    assert files_of(config) == files_of(undisturbed)


# ---- states of others -------------------------------------------------------------------------------------------


def half_done(feed, tmp_path, label, **checkpoint):
    """A job stopped after its first slice of 30 of 60 events."""
    config = job_config(feed, tmp_path / "out", checkpoint={"slice_records": 30, **checkpoint})
    assert not label(config, stop=stop_after(1)).summary.finished
    return config


def age(config, stream):
    """Make one committed state one of another codec version."""
    store = ObjectStore(config.checkpoint_url)
    name = CheckpointLog(store).latest().states[stream]
    reader = PackReader(store)
    states = {other: reader.read(name, other) for other in reader.streams(name)}
    assert states[stream].count(b'\\"version\\":5') == 1
    states[stream] = states[stream].replace(b'\\"version\\":5', b'\\"version\\":7')
    digest = write_pack(store, name, states, reader.record(name))
    log = CheckpointLog(store)
    commit = log.latest()
    (first,) = store.names("commits/")
    store.delete(first)
    log = CheckpointLog(store)
    log.open_plan(None)
    log.write_commit(commit.model_copy(update={"packs": {name: PackRef(states=len(states), digest=digest)}}))


def test_a_state_of_another_codec_version_fails_the_job(feed, tmp_path, label):
    config = half_done(feed, tmp_path, label)
    age(config, "north")
    before = output_files(tmp_path / "out")
    with pytest.raises(JobError, match="stream state has codec version 7, this build reads 5"):
        label(config)
    assert {name: data for name, data in output_files(tmp_path / "out").items() if name in before} == before
    assert CheckpointLog(ObjectStore(config.checkpoint_url)).latest().sequence == 0


def test_a_state_of_another_codec_version_starts_afresh_where_allowed(feed, tmp_path, label):
    config = half_done(feed, tmp_path, label)
    age(config, "north")
    again = job_config(feed, tmp_path / "out", checkpoint={"slice_records": 30, "on_state_mismatch": "reset"})
    summary = label(again).summary
    assert (summary.finished, summary.events, summary.drift_events) == (True, 60, 1)
    (event,) = outputs(tmp_path / "out")["drift"]
    assert (event.stream, event.signal, event.reset, event.frame) == ("north", "state", True, 0)
    assert "codec version 7" in event.message
    done = {stream: decode_state(data).counters["frames"] for stream, data in states(again).items()}
    second = [row.stream for row in outputs(tmp_path / "out")["labels"]].count("north")
    assert second == 30
    assert done["south"] == 21
    assert done["north"] < 30


def test_a_damaged_state_is_never_reset(feed, tmp_path, label):
    config = half_done(feed, tmp_path, label, on_state_mismatch="reset")
    store = ObjectStore(config.checkpoint_url)
    name = CheckpointLog(store).latest().states["north"]
    data, state = bytearray(store.read(name)), PackReader(store).read(name, "north")
    data[data.index(state) + len(state) - 5] ^= 1
    store.write(name, bytes(data))
    with pytest.raises(JobError, match="is damaged"):
        label(config)


@pytest.mark.parametrize("policy", ["fail", "reset"])
def test_a_state_of_other_settings_is_met_by_policy(use, tmp_path, policy):
    config = fake_job(use, tmp_path, checkpoint={"on_state_mismatch": policy})
    store = ObjectStore(config.checkpoint_url)
    _, found = stepped(config, [make_ref(number) for number in range(6)])
    foreign = decode_state(found["cam"])
    object.__setattr__(foreign, "settings_fingerprint", "others")
    write_pack(store, "states/000001-000000000000.pack", {"cam": encode_state(foreign)}, {})
    commit = make_commit(0, states={"cam": "states/000001-000000000000.pack"})
    refs = [make_ref(number) for number in range(6, 12)]
    if policy == "fail":
        with pytest.raises(ValueError, match="of another settings: it has others, this job has"):
            stepped(config, refs, commit)
        return
    records, state = stepped(config, refs, commit)
    assert decode_state(state["cam"]).counters == {"frames": 6, "updates": 1}
    assert [row.signal for row in records if hasattr(row, "signal")] == ["state"]


def test_a_resume_with_other_settings_is_refused_or_starts_the_streams_afresh(feed, tmp_path, label):
    half_done(feed, tmp_path, label)
    other = {"method": {"settings": {"learning_rate": 0.5}}}
    config = job_config(feed, tmp_path / "out", checkpoint={"slice_records": 30}, **other)
    with pytest.raises(ConfigurationError, match="the checkpoint was made with other settings"):
        label(config)
    config = job_config(feed, tmp_path / "out", checkpoint={"slice_records": 30, "on_state_mismatch": "reset"}, **other)
    summary = label(config).summary
    assert (summary.events, summary.finished) == (60, True)
    assert {row.signal for row in outputs(tmp_path / "out")["drift"]} == {"state"}
    assert label(config).did_nothing


# ---- one job, one place -----------------------------------------------------------------------------------------


def test_two_jobs_do_not_share_a_place_for_outputs(feed, undisturbed, tmp_path, label):
    out = Path(undisturbed.output.url)
    there = files(out)
    other = job_config(feed, out, checkpoint={"url": str(tmp_path / "elsewhere"), "slice_records": 50})
    with pytest.raises(ConfigurationError, match="out holds the results of another job"):
        label(other)
    assert files(out) == there


def test_an_attempt_that_committed_nothing_binds_no_place(feed, tmp_path, label):
    write_pictures(tmp_path / "other", {"yard": 3})

    def killed(point):
        if point == "after:3":
            raise RuntimeError("no runner")

    with pytest.raises(JobError, match="no runner"):
        label(job_config(feed, tmp_path / "out"), fault_point=killed)
    label(job_config(tmp_path / "other", tmp_path / "out"))
    assert {record.stream for record in outputs(tmp_path / "out")["labels"]} == {"yard"}
    with pytest.raises(ConfigurationError, match="is of the source"):
        label(job_config(feed, tmp_path / "out"))


def test_every_place_gets_all_records(feed, tmp_path, label):
    also = {"also": [str(tmp_path / "second")]}
    label(job_config(feed, tmp_path / "out", output=also))
    assert output_files(tmp_path / "out") == output_files(tmp_path / "second")
    assert len(outputs(tmp_path / "second")["labels"]) == 60
    assert (tmp_path / "second" / "summary.json").exists()


def test_a_summary_left_behind_by_a_death_after_the_last_commit_is_written_again(feed, tmp_path, label):
    config = job_config(feed, tmp_path / "out", checkpoint={"slice_records": 30})
    assert not label(config, stop=stop_after(1)).summary.finished

    def die(point):
        if point == "after:collect":
            raise SystemExit

    with pytest.raises(SystemExit):
        label(config, fault_point=die)
    summary = tmp_path / "out" / "summary.json"
    assert json.loads(summary.read_text())["events"] == 30
    assert label(config).did_nothing
    found = json.loads(summary.read_text())
    assert (found["events"], found["finished"]) == (60, True)


@pytest.mark.parametrize("policy", ["fail", "reset"])
def test_a_finished_job_is_not_taken_for_one_of_other_settings(feed, undisturbed, label, policy):
    out, checkpoint = Path(undisturbed.output.url), {**TWO, "on_state_mismatch": policy}
    there = files(out)
    other = job_config(feed, out, checkpoint=checkpoint, method={"settings": {"learning_rate": 0.5}})
    changed = "checkpoint.on_state_mismatch, method" if policy == "reset" else "method"
    said = rf"this job is finished, with other settings .*; changed: {changed}.settings.learning_rate\)"
    with pytest.raises(ConfigurationError, match=said):
        label(other)
    assert files(out) == there


def test_a_reset_that_was_asked_for_is_done_once_before_the_next_event(feed, tmp_path, label):
    config = job_config(feed, tmp_path / "out", checkpoint=TWO)
    label(config, stop=stop_after(1))
    log = CheckpointLog(ObjectStore(config.checkpoint_url))
    log.request_reset("north")
    summary = label(config).summary
    assert summary.resets == {"manual": 1}
    rows = [row for row in outputs(tmp_path / "out")["adaptation"] if row.reset]
    assert [(row.stream, row.cause) for row in rows] == [("north", "manual")]
    assert not log.pending_resets()
    assert decode_state(states(config)["north"]).position["reset_cause"] == "manual"


def test_a_state_above_the_bound_is_refused_before_anything_is_read(tmp_path):
    config = job_config(tmp_path, tmp_path / "out", method={"settings": {"tune": "full"}})
    with pytest.raises(ConfigurationError, match=r"would take \d+ bytes, checkpoint.max_state_bytes is 4194304"):
        run.run_label_job(config)
    assert not (tmp_path / "out").exists()


def test_metrics_have_runinferences_names(tmp_path, use):
    write_pictures(tmp_path / "feed", COUNTS)
    (tmp_path / "feed" / "when.jpg").write_bytes(b"a name that tells no time")
    config = job_config(tmp_path / "feed", tmp_path / "out")
    use(config, job_labeler(config))
    listing = run.job_listing(config, ObjectStore(config.checkpoint_url))
    partition = run.Partition("storage", CheckpointLog(ObjectStore(config.checkpoint_url)), OURS)
    plan = partition.new_plan(0, len(listing), CLOCK)
    pipeline = beam.Pipeline(runner="FnApiRunner")
    graph.build(pipeline, ResolvedJob.of(config), [graph.OpenSlice(plan, None, config.checkpoint_url)], no_fault)
    result = pipeline.run()
    result.wait_until_finish()
    found = {metric.key.metric.name: metric for kind in result.metrics().query().values() for metric in kind}
    assert set(found) >= {
        "num_inferences",
        "inference_request_batch_size",
        "inference_request_batch_byte_size",
        "inference_batch_latency_micro_secs",
        "load_model_latency_milli_secs",
        "model_byte_size",
        "events",
        "labels",
        "updates",
        "state_bytes",
    }
    assert found["num_inferences"].committed == 60
    counts = dict.fromkeys(("events", "labels", "dead_letters"), 0)
    for kind in result.metrics().query().values():
        for metric in kind:
            if metric.key.metric.name in counts:
                counts[metric.key.metric.name] += metric.committed
    assert counts == {"events": 61, "labels": 60, "dead_letters": 1}
    assert found["inference_request_batch_size"].committed.sum == 60
    assert found["inference_request_batch_size"].committed.max <= 32
    assert found["state_bytes"].committed.count == 3
