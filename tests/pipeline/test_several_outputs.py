"""Several outputs at once: each gets all records, and one that fails holds back the commit for all."""

import pytest
from pipeline_jobs import job_config, job_labeler, output_files, serve, write_pictures

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import RecordFiles
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.errors import JobError
from grpo_tta.pipeline.run.bounded import run_label_job

pytestmark = pytest.mark.jobs


@pytest.fixture
def config(tmp_path, monkeypatch):
    write_pictures(tmp_path / "feed", {"north": 13, "south": 5})
    broken = tmp_path / "feed" / "north" / "2026-01-01T00-00-03Z.png"
    broken.write_bytes(broken.read_bytes()[:20])
    output = {"url": str(tmp_path / "one"), "also": [str(tmp_path / "two")]}
    made = job_config(tmp_path / "feed", tmp_path / "one", output=output, checkpoint={"slice_records": 10})
    serve(monkeypatch, job_labeler(made))
    return made


def test_two_folders_get_the_same_files(config, tmp_path):
    run_label_job(config)
    one, two = output_files(tmp_path / "one"), output_files(tmp_path / "two")
    assert one == two
    assert {name.split("/")[0] for name in one} == {"labels", "adaptation", "dead_letters", "monitor"}
    assert sum(data.count(b"\n") for name, data in one.items() if name.startswith("labels/")) == 17
    assert (tmp_path / "one" / "checkpoint").is_dir()
    assert not (tmp_path / "two" / "checkpoint").exists()


def test_one_that_fails_holds_back_the_commit_and_what_it_missed_comes_later(config, tmp_path, monkeypatch):
    write = RecordFiles.write

    def full(self, stem, records):
        if self._store.url.endswith("two"):
            raise OSError("disk full")
        return write(self, stem, records)

    with monkeypatch.context() as patched:
        patched.setattr(RecordFiles, "write", full)
        with pytest.raises(JobError, match="disk full"):
            run_label_job(config)
    assert CheckpointLog(ObjectStore(config.checkpoint_url)).latest() is None
    run_label_job(config)
    assert output_files(tmp_path / "one") == output_files(tmp_path / "two")
