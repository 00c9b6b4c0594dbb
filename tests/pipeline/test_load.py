"""What a process makes of a job: the method with its settings, one labeler for all who label, files read once."""

import threading
from pathlib import Path
from typing import Any

import pytest
from pipeline_jobs import job_config, outputs, write_pictures

from grpo_tta import METHODS
from grpo_tta.pipeline.config.classes import read_labels
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.config.sections import RunConfig
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.label.load import images_labelled, labeler_of, leave_labeler, take_labeler
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.pipeline.run.runner import check_runner

OTHER = {"learning_rate": 0.0123, "views": 3, "logit_adjustment": 0.25, "strength": 0.5, "eta": 0.1}
"""Values that are no method's default."""


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feed")
    write_pictures(folder, {"a": 20, "b": 12}, side=64)
    return folder


def job_of(feed: Path, out: Path, **sections: Any) -> ResolvedJob:
    return ResolvedJob.of(job_config(feed, out, **sections))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "zero-shot"])
def test_the_method_is_made_with_the_jobs_settings(name: str, feed: Path) -> None:
    changed = {key: value for key, value in OTHER.items() if METHODS[name].has(key)}
    assert changed, "a method whose settings this test does not change"
    with labeler_of(job_of(feed, feed / "out", method={"name": name, "settings": changed})) as labeler:
        settings = vars(labeler.method)["settings"]
    assert {key: getattr(settings, key) for key in changed} == changed


def test_settings_reach_the_updates_of_a_whole_job(feed: Path, tmp_path: Path) -> None:
    run_label_job(job_config(feed, tmp_path, method={"name": "tent", "settings": {"update_every": 4}}))
    assert [(row.stream, row.images) for row in outputs(tmp_path)["adaptation"]] == [("a", 4)] * 5 + [("b", 4)] * 3


def test_a_transaction_is_not_handed_to_other_processes() -> None:
    check_runner(RunConfig(), transactional=True)
    portable = ("--job_endpoint=localhost:1", "--environment_type=LOOPBACK")
    check_runner(RunConfig(beam_options=("--direct_running_mode=multi_processing",)))
    for run in (
        RunConfig(beam_options=("--direct_running_mode=multi_processing",)),
        RunConfig(runner="PortableRunner", beam_options=portable),
    ):
        with pytest.raises(ConfigurationError, match=r"kafka\.transactional: .* the steps must run in this one"):
            check_runner(run, transactional=True)


def test_classes_that_are_edited_under_a_running_job_change_nothing(feed: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("cat face\ndog face\n")
    sections = {
        "labels": {"file": str(classes)}, "checkpoint": {"slice_records": 16}, "method": {"name": "zero-shot"}
    }  # fmt: skip

    def edit(progress: Any) -> None:
        if progress.done:
            classes.write_text("apple\nbus\n")

    summary = run_label_job(job_config(feed, tmp_path / "out", **sections), progress=edit).summary
    classes.write_text("cat face\ndog face\n")
    undisturbed = run_label_job(job_config(feed, tmp_path / "again", **sections)).summary
    assert summary.config_fingerprint == undisturbed.config_fingerprint
    labels = outputs(tmp_path / "out")["labels"]
    assert {row.label for row in labels} <= {"cat face", "dog face"}
    assert labels == outputs(tmp_path / "again")["labels"]


def test_a_worker_that_comes_later_refuses_files_that_were_changed(feed: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("cat face\ndog face\n")
    job = job_of(feed, tmp_path / "out", labels={"file": str(classes)})
    classes.write_text("cat face\nbus\n")
    with pytest.raises(ConfigurationError, match="was changed after the job began: put the old one back, or stop"):
        take_labeler(job)


def test_files_that_are_changed_while_they_are_read_are_refused(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("cat face\ndog face\n")
    job = job_of(feed, tmp_path / "out", labels={"file": str(classes)})

    def edited(path: str) -> Any:
        classes.write_text("cat face\nbus\n")
        return read_labels(path)

    monkeypatch.setattr("grpo_tta.pipeline.label.load.read_labels", edited)
    before = reading_threads()
    with pytest.raises(ConfigurationError, match="was changed after the job began"):
        take_labeler(job)
    assert reading_threads() <= before
    assert images_labelled(job) == 0


def reading_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("read-image")}


def test_jobs_side_by_side_keep_their_labelers_and_the_last_to_leave_ends_the_threads(
    feed: Path, tmp_path: Path
) -> None:
    method = {"name": "zero-shot"}
    one, other = (job_of(feed, tmp_path / str(top), output={"top_k": top}, method=method) for top in (3, 4))
    before = reading_threads()
    first = take_labeler(one)
    run_label_job(one)
    assert images_labelled(one) == 32
    run_label_job(other)
    assert take_labeler(one) is first
    assert images_labelled(other) == 0, "its labeler went with its job"
    assert reading_threads() - before
    leave_labeler(one)
    assert images_labelled(one) == 32
    leave_labeler(one)
    assert images_labelled(one) == 0
    for thread in reading_threads() - before:
        thread.join(5)
    assert not reading_threads() - before
