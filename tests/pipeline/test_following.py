"""Jobs over a folder that is followed: files come while they run, and they are stopped, killed and begun again."""

import json
import os
import re
import shutil
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from pipeline_checkpoints import Killed, killing
from pipeline_fakes import CountingMethod
from pipeline_jobs import job_config, job_labeler, output_files, outputs, serve, write_pictures

import grpo_tta.pipeline.run.bounded as run
from grpo_tta.adapters.storage.listing import Listing
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.source import SourceError
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackReader
from grpo_tta.pipeline.cli.label import run_and_report
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run.followed import Following
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.status import read_status

pytestmark = pytest.mark.jobs

FOLLOW = {"follow": True, "poll": "10ms", "settle": "1s"}
COUNTS = {"north": 14, "south": 10}
SLICE = 8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """All pictures of the feed, in the order of a listing."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, COUNTS)
    return folder, sorted(folder.rglob("*.png"), key=lambda path: (path.name, str(path)))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the feed of every test lies: records hold its path."""
    return tmp_path_factory.mktemp("followed") / "feed"


@pytest.fixture(scope="module")
def bounded(pictures, place, tmp_path_factory):
    """The output files and states of a job over all pictures, which are there from the beginning."""
    config = job_config(place, tmp_path_factory.mktemp("bounded") / "out", checkpoint={"slice_records": SLICE})
    shutil.copytree(pictures[0], place)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(monkeypatch, config)
        assert run.run_label_job(config).finished
    shutil.rmtree(place)
    return output_files(Path(config.output.url)), states(config)


@pytest.fixture
def feed(place, bounded):
    """Empty."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return place


@pytest.fixture
def bring(pictures, feed):
    """Bring the pictures ``start <= i < stop`` into the feed."""
    folder, paths = pictures

    def copy(start, stop):
        for path in paths[start:stop]:
            to = feed / path.relative_to(folder)
            to.parent.mkdir(exist_ok=True)
            shutil.copy2(path, to.with_name(f".{to.name}"))
            to.with_name(f".{to.name}").rename(to)

    return copy


@pytest.fixture
def config(place, tmp_path):
    def make(**sections):
        sections = {"source": FOLLOW, "checkpoint": {"slice_records": SLICE}, **sections}
        return job_config(place, tmp_path / "out", **sections)

    return make


@pytest.fixture
def label(monkeypatch):
    def run_job(config, **hooks):
        use(monkeypatch, config)
        return run.run_label_job(config, **hooks).summary

    return run_job


def use(monkeypatch, config):
    serve(monkeypatch, job_labeler(config))


def when_labelled(config, steps):
    """A ``stop`` that does a step whenever the job has labelled so many: ``{count: step}``; then it says stop."""
    log, left = CheckpointLog(ObjectStore(config.checkpoint_url)), sorted(steps.items())

    def stop():
        latest = log.latest()
        if left and (latest.position if latest else 0) >= left[0][0]:
            step = left.pop(0)[1]
            if step is not None:
                step()
        return not left

    return stop


def states(config):
    store = ObjectStore(config.checkpoint_url)
    commit = CheckpointLog(store).latest()
    return {stream: PackReader(store).read(name, stream) for stream, name in commit.states.items()}


def coordinates(config):
    return [record.coordinate for record in outputs_of(config)["labels"]]


def outputs_of(config):
    return outputs(Path(config.output.url))


def undated(config):
    """The output files of a followed job as a bounded one names them, without the day's folder."""
    found = output_files(Path(config.output.url))
    assert all(re.fullmatch(r"[a-z_]+/\d{4}-\d\d-\d\d/storage-\d+\.jsonl", name) for name in found)
    return {re.sub(r"/.+/", "/", name): data for name, data in found.items()}


def test_files_that_come_while_the_job_runs_are_labelled_as_a_job_over_all_of_them_does(bring, config, label, bounded):
    followed = config()
    steps = {8 * i: lambda i=i: bring(8 * i, 8 * i + 8) for i in range(3)}
    summary = label(followed, stop=when_labelled(followed, {**steps, 24: None}))
    assert (summary.finished, summary.events, summary.labels, summary.dead_letters) == (False, 24, 24, 0)
    assert (undated(followed), states(followed)) == bounded
    assert len(output_files(Path(followed.output.url))) > 5
    written = json.loads((ObjectStore(followed.output.url)).read("summary.json"))
    assert (written["finished"], written["events"]) == (False, 24)


def test_it_goes_on_where_it_was_and_carries_states_on(bring, config, label, bounded):
    followed = config()
    for i in range(3):
        bring(8 * i, 8 * i + 8)
        assert label(followed, stop=when_labelled(followed, {8 * i + 8: None})).events == 8 * i + 8
    assert (undated(followed), states(followed)) == bounded


@pytest.mark.parametrize("point", ["before:1", "after:1", "before:4", "after:4"])
def test_killed_at_a_step_nothing_is_labelled_twice_and_nothing_lost(bring, config, label, bounded, point):
    followed = config()
    bring(0, 8)
    label(followed, stop=when_labelled(followed, {8: None}))
    bring(8, 16)

    with pytest.raises((Killed, JobError)):
        label(followed, fault_point=killing(point))
    bring(16, 24)
    summary = label(followed, stop=when_labelled(followed, {24: None}))
    assert (summary.events, summary.labels) == (24, 24)
    assert (undated(followed), states(followed)) == bounded


def test_an_overwritten_file_is_labelled_once_more_and_a_late_one_is_a_dead_letter(bring, config, label, feed):
    followed = config(source={**FOLLOW, "look_back": "60s"})
    again = feed / "north" / "2026-01-01T00-00-00Z.png"

    def overwrite():
        shutil.copyfile(feed / "south" / again.name, again)
        os.utime(again, (1_767_225_700, 1_767_225_700))

    def late():
        bring(8, 9)

    bring(0, 8)
    label(followed, stop=when_labelled(followed, {8: overwrite, 9: late, 10: None}))
    found = outputs_of(followed)
    assert len(found["labels"]) == len(set(coordinates(followed))) == 9
    twice = [record for record in found["labels"] if record.id == f"north/{again.name}"]
    assert [record.coordinate.rpartition("@")[2].partition("-")[0] for record in twice] == [
        "1767225600000000000",
        "1767225700000000000",
    ]
    (letter,) = found["dead_letters"]
    assert (letter.stage, letter.error_class) == ("source", "ArrivedTooLate")


def test_it_waits_for_the_first_file_and_for_those_that_may_still_be_written(bring, config, label, feed):
    followed = config(source={**FOLLOW, "settle": "400ms"})
    path = feed / "north" / "2026-01-01T00-00-00Z.png"
    written = []

    def begin_to_write():
        bring(0, 1)
        whole = path.read_bytes()
        path.write_bytes(whole[:40])
        threading.Timer(0.2, lambda: (path.write_bytes(whole), written.append(time.time()))).start()

    label(followed, stop=when_labelled(followed, {0: begin_to_write, 1: None}))
    assert outputs_of(followed)["dead_letters"] == []
    assert len(coordinates(followed)) == 1
    assert time.time() - written[0] > 0.4


def test_a_stopped_job_says_so_and_exits_130(bring, config, monkeypatch, capsys):
    followed = config()
    use(monkeypatch, followed)
    bring(0, 8)
    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.start()
    started = time.monotonic()
    assert run_and_report(followed) == 130
    assert time.monotonic() - started < 5
    said = capsys.readouterr().out
    assert "events 8, labels 8, dead letters 0" in said
    assert "run the same command again to go on" in said


def test_a_source_that_is_away_for_a_while_is_looked_at_again(bring, config, label, feed, tmp_path, caplog):
    followed = config()
    away = tmp_path / "away"
    stop = when_labelled(followed, {8: lambda: feed.rename(away), 9: None})

    def until_it_was_missed():
        if away.exists() and "looked at again" in caplog.text:
            away.rename(feed)
            bring(8, 9)
        return stop()

    bring(0, 8)
    assert label(followed, stop=until_it_was_missed).labels == 9


def test_a_source_that_stays_away_ends_the_job(bring, config, label, feed):
    followed = config(source={**FOLLOW, "give_up_after": "50ms"})
    bring(0, 8)
    with pytest.raises(SourceError, match="does not exist"):
        label(followed, stop=when_labelled(followed, {8: lambda: shutil.rmtree(feed), 9: None}))
    assert CheckpointLog(ObjectStore(followed.checkpoint_url)).latest().position == 8


def test_old_segments_go_and_status_sees_the_end(bring, config, label, feed):
    followed = config(source={**FOLLOW, "look_back": "0s"})

    def later(i):
        bring(i, i + 1)
        for path in feed.rglob("*.png"):
            if path.stat().st_mtime == 1_767_225_600:
                os.utime(path, (1_767_226_000 + i, 1_767_226_000 + i))

    label(followed, stop=when_labelled(followed, {**{i: lambda i=i: later(i) for i in range(6)}, 6: None}))
    store = ObjectStore(followed.checkpoint_url)
    assert len(store.names("listing/segment")) < 3
    assert len(Listing.open(store)) == 6
    (partition,) = read_status(followed.checkpoint_url).partitions
    assert (partition.position, partition.end, partition.lag) == (6, 6, 0)
    assert len(set(coordinates(followed))) == 6


def test_a_listing_that_is_gone_is_noticed(bring, config, label):
    followed = config()
    bring(0, 8)
    label(followed, stop=when_labelled(followed, {8: None}))
    store = ObjectStore(followed.checkpoint_url)
    for name in store.names("listing/"):
        store.delete(name)
    with pytest.raises(JobError, match="is at position 8 of a listing that holds 0"):
        label(followed)


def test_one_checkpoint_is_not_followed_and_bounded(bring, config, label):
    bring(0, 8)
    label(config(source={}))
    with pytest.raises(ConfigurationError, match="is of the source and patterns"):
        label(config())
    with pytest.raises(ConfigurationError, match="is of the source and patterns"):
        Following(ResolvedJob.of(config()), ObjectStore(config().checkpoint_url))


@pytest.mark.parametrize(
    ("url", "said"),
    [("kafka://localhost:9092/images", "a topic is followed anyway"), ("feed.jsonl", "a manifest is read once")],
)
def test_what_cannot_be_followed_is_refused(url, said):
    with pytest.raises(ConfigurationError, match=said):
        make_config({"source": {"url": url, "follow": True}, "output": {"url": "out"}})


def test_how_a_source_is_followed_changes_no_label(config):
    one = config(source={}).fingerprint()
    assert one == config().fingerprint() == config(source={**FOLLOW, "look_back": "3d", "settle": "0s"}).fingerprint()


def test_the_method_of_these_tests_updates_within_the_feed():
    assert CountingMethod.cadence is not None
    assert CountingMethod.cadence < min(COUNTS.values())


def test_metrics_are_served_while_it_waits(bring, config, label):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    followed = config(run={"metrics_port": port})
    before = metrics.REGISTRY.get_sample_value("tta_samples_total")
    answers = {}

    def ask():
        for path in ("metrics", "readyz"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
                answers[path] = answer.read().decode()

    bring(0, 8)
    label(followed, stop=when_labelled(followed, {8: ask}))
    assert json.loads(answers["readyz"]) == {"ready": True, "problem": None}
    assert f"tta_samples_total {before + 8}" in answers["metrics"]
    assert 'tta_lag_records{partition="storage"} 0.0' in answers["metrics"]
