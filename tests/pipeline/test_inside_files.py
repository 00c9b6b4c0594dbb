"""Jobs over images inside other files: the labels of the images by themselves, and a kill in the middle of a file."""

import io
import json
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pipeline_jobs import job_config, job_labeler, output_files, outputs, serve, write_pictures

from grpo_tta.adapters.images import CanvasSpec
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.report.sources import source_of
from grpo_tta.pipeline.run.bounded import run_label_job

pytestmark = pytest.mark.jobs


class Killed(BaseException):
    """Nothing catches it."""


def pack(folder: Path, shards: Path) -> None:
    """The folder's images, streams mixed, in two archives, with an empty sidecar each."""
    shards.mkdir()
    paths = sorted(folder.rglob("*.png"), key=lambda path: (path.name, path.parent.name))
    for number in range(2):
        with tarfile.open(shards / f"s-{number}.tar", "w") as archive:
            for path in paths[number::2]:
                archive.add(path, str(path.relative_to(folder)))
                info = tarfile.TarInfo(str(path.relative_to(folder).with_suffix(".json")))
                info.size = 2
                archive.addfile(info, io.BytesIO(b"{}"))


def film(path: Path, frames: int) -> None:
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        container.metadata["creation_time"] = "2026-01-01T06:00:00Z"
        stream = container.add_stream("libx264", rate=4, options={"bf": "2", "g": "16"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            grey = np.full((32, 32, 3), 50 + 29 * (number // 4) % 150, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 4)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def job(folder: Path, out: Path, **source: Any) -> JobConfig:
    return job_config(folder, out, source={"stream_pattern": None, **source}, checkpoint={"slice_records": 20})


def run(config: JobConfig, monkeypatch: pytest.MonkeyPatch, kill: str = "") -> None:
    """``kill``: the point of the second slice at which the process dies."""
    seen: list[str] = []

    def fault(point: str) -> None:
        seen.append(point)
        if seen.count(kill) == 2:
            raise Killed

    serve(monkeypatch, job_labeler(config))
    run_label_job(config, fault_point=fault)


def without_place(record: Any) -> str:
    name = record.id.split(".tar/")[-1]
    return str(record.model_copy(update={"coordinate": "", "id": name}).model_dump_json())


def test_images_in_tars_and_videos_are_labelled_as_any_and_a_killed_job_goes_on_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "images", {"cam1": 14, "cam2": 9})
    pack(tmp_path / "images", tmp_path / "feed")
    film(tmp_path / "feed" / "gate" / "2026-01-01T00-00-00Z.mp4", 60)
    run(job(tmp_path / "images", tmp_path / "plain"), monkeypatch)
    whole, killed = (job(tmp_path / "feed", tmp_path / name, every="1s") for name in ("whole", "killed"))
    run(whole, monkeypatch)
    labels = outputs(tmp_path / "whole")["labels"]
    of_tars = [record for record in labels if ".tar/" in record.id]
    assert sorted(map(without_place, of_tars)) == sorted(map(without_place, outputs(tmp_path / "plain")["labels"]))
    assert [record.id.rpartition("/")[2] for record in labels if record.stream == "gate"] == [
        f"2026-01-01T00-00-00Z.mp4#t={second}.000" for second in range(15)
    ]
    assert len(labels) == 23 + 15
    assert json.loads((tmp_path / "whole" / "summary.json").read_text())["passed_over"] == {}, "sidecars have images"
    with pytest.raises(Killed):
        run(killed, monkeypatch, kill="before:4")
    run(killed, monkeypatch)
    assert output_files(tmp_path / "killed") == output_files(tmp_path / "whole")
    source = source_of(str(tmp_path / "whole"))
    for ref in source.refs(labels).values():
        assert not isinstance(ref, str)
        assert source.canvas(ref, CanvasSpec(8, 8)).shape == (3, 8, 8), "the page shows it"
    with pytest.raises(ConfigurationError, match="is of the source and patterns"):
        run(job(tmp_path / "feed", tmp_path / "whole", every="2s"), monkeypatch)
