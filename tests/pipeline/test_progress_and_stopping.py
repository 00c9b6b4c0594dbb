"""What a person at the terminal sees, and what Ctrl-C does."""

import os
import signal
import time

import pytest
from pipeline_fakes import CountingMethod
from pipeline_jobs import job_config, job_labeler, serve, write_pictures

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.cli.label import _ProgressLine, run_and_report
from grpo_tta.pipeline.cli.stopping import StopRequest
from grpo_tta.pipeline.errors import JobError
from grpo_tta.pipeline.run.driver import Progress
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


def test_time_left_is_of_the_rate_so_far(clock, capsys):
    labelled = [0]
    line = _ProgressLine(lambda: labelled[0])
    line(Progress(0, 600, Counters(), 0.0))
    for done in (100, 200, 300):
        clock[0] += 2
        labelled[0] = done
        line(Progress(done, 600, Counters(resets={"shift": 1}), 50.0))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "0/600 images, 0/s, time left unknown, resets 0",
        "100/600 images, 50/s, 10 s left, resets 1",
        "200/600 images, 50/s, 8 s left, resets 1",
        "300/600 images, 50/s, 6 s left, resets 1",
    ]


def test_it_speaks_before_the_first_commit_and_within_a_slice(clock, capsys):
    labelled = [7]
    line = _ProgressLine(lambda: labelled[0])
    clock[0] += 40
    line._say()
    line(Progress(1000, 2000, Counters(resets={"shift": 2}), 0.0))
    clock[0] += 10
    labelled[0] = 12
    line._say()
    assert capsys.readouterr().err.splitlines() == [
        "loading the model and listing the source, 40 s",
        "1000/2000 images, 0/s, time left unknown, resets 2",
        "1005/2000 images, 0.5/s, 1990 s left, resets 2",
    ]
