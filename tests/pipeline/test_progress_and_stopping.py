"""What a person at the terminal sees, and what Ctrl-C does."""

import json
import logging
import os
import signal
import time

import pytest
from pipeline_fakes import CountingMethod
from pipeline_jobs import job_config, job_labeler, serve, write_pictures

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.partition import SliceResult
from grpo_tta.pipeline.cli.console import set_up
from grpo_tta.pipeline.cli.label import run_and_report
from grpo_tta.pipeline.cli.progress import ListedWatch, LiveWatch
from grpo_tta.pipeline.cli.stopping import StopRequest
from grpo_tta.pipeline.errors import JobError
from grpo_tta.pipeline.run.driver import Progress
from grpo_tta.pipeline.watch.progress import LiveProgress
from grpo_tta.schemas import Counters


def interrupt_twice() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


class Interrupted(CountingMethod):
    """Two Ctrl-C come while the model works on a batch of the second slice."""

    images = 0

    def step(self, batch, state):
        before, self.images = self.images, self.images + len(batch)
        if before <= 28 < self.images:
            interrupt_twice()
        return super().step(batch, state)


def test_a_second_ctrl_c_in_the_middle_of_a_step_drops_the_slice(tmp_path, monkeypatch):
    write_pictures(tmp_path / "feed", {"north": 40})
    config = job_config(tmp_path / "feed", tmp_path / "out", checkpoint={"slice_records": 20})
    labeler = job_labeler(config, Interrupted(), max_batch_size=8)
    serve(monkeypatch, labeler)
    with pytest.raises(KeyboardInterrupt):
        run_and_report(config)
    assert CheckpointLog(ObjectStore(config.checkpoint_url)).latest().position == 20
    assert run_and_report(config) == 0


def test_an_error_that_nobody_asked_for_stays_an_error():
    with pytest.raises(JobError, match="lost"), StopRequest():
        raise JobError("lost")
    with pytest.raises(JobError, match="lost"), StopRequest():
        lose_after(signal.SIGTERM)


def lose_after(number: int) -> None:
    os.kill(os.getpid(), number)
    raise JobError("lost")


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(autouse=True)
def plain_lines():
    """How a command line speaks is of the process."""
    set_up()
    yield
    set_up()


def test_no_traceback_of_a_step_is_told_beside_our_own_message():
    assert not logging.getLogger("apache_beam.runners.common").isEnabledFor(logging.ERROR)


def test_time_left_is_of_the_rate_so_far(clock):
    labelled = [0]
    watch = ListedWatch(lambda: labelled[0])
    watch(Progress(0, 600, Counters(), 0.0))
    said = [watch.told()[0]]
    for done in (100, 200, 300):
        clock[0] += 2
        labelled[0] = done
        watch(Progress(done, 600, Counters(resets={"shift": 1}, dead_letters=2, drift_events={"shift": 3}), 50.0))
        said.append(watch.told()[0])
    seen = "dead letters 2, drift events 3, resets 1"
    assert said == [
        "0/600 images, dead letters 0, drift events 0, resets 0",
        f"100/600 images, 50/s, 10 s left, {seen}",
        f"200/600 images, 50/s, 8 s left, {seen}",
        f"300/600 images, 50/s, 6 s left, {seen}",
    ]


def test_it_speaks_before_the_first_commit_within_a_slice_and_seldom_of_what_stands(clock, capsys):
    labelled = [7]
    watch = ListedWatch(lambda: labelled[0])
    clock[0] += 40
    watch.say()
    watch(Progress(1000, 2000, Counters(), 0.0))
    clock[0] += 10
    labelled[0] = 12
    watch.say()
    live = LiveWatch()
    for _ in range(3):
        live.say()
        clock[0] += 25
    live.say()
    assert capsys.readouterr().err.splitlines() == [
        "loading the model and listing the source, 40 s",
        "1005/2000 images, 0.5/s, 1990 s left, dead letters 0, drift events 0, resets 0",
        "waiting for partitions and their first images",
        "waiting for partitions and their first images",
    ]


def test_a_live_job_says_how_fast_and_how_far_behind_it_is(clock):
    watch = LiveWatch()
    counters = Counters(events=60, labels=59, dead_letters=1, drift_events={"shift": 2})
    for _ in range(2):
        clock[0] += 5
        watch(LiveProgress(59, 5.0, {"t-0": 60}, {"t-0": 7}, (SliceResult("", (), (), counters),)))
    text, figures = watch.told()
    assert text.startswith("118 images, 12/s, lag 7 in 1 partitions")
    assert text.endswith("dead letters 2, drift events 4, resets 0")
    assert (figures["images"], figures["lag"], figures["dead_letters"]) == (118, 7, 2)


@pytest.mark.parametrize(("form", "lines"), [("text", 1), ("json", 1), ("quiet", 0)])
def test_a_job_ends_with_its_last_figures_in_the_form_that_was_asked_for(form, lines, capsys):
    set_up(quiet=form == "quiet", log_format="json" if form == "json" else "text")
    watch = ListedWatch(lambda: 0)
    with watch:
        watch(Progress(0, 2, Counters(), 0.0))
        watch.say()
        capsys.readouterr()
        watch(Progress(2, 2, Counters(dead_letters=2), 0.0))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    if form == "json":
        line = json.loads(said[0])
        assert (line["figures"]["images"], line["figures"]["dead_letters"]) == (2, 2)
        assert line["message"].startswith("2/2 images")
    elif lines:
        assert said[0].startswith("2/2 images, ")
