"""The package's own sources and sinks keep what `grpo_tta.beam.contracts` asks of everybody's."""

import tarfile
from pathlib import Path
from typing import Any

import pytest

from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.beam import ReadImages, WriteRecords
from grpo_tta.beam.contracts import SinkContract, SourceContract
from grpo_tta.schemas import LabeledImage

pytestmark = pytest.mark.jobs

LINE = '{"schema_version": "1", "id": "%d", "stream": "door", "event_time": "2026-01-01T06:00:00Z", "uri": "/a.jpg"}\n'


class InFolder:
    """``self.folder``: one of the test's own."""

    folder: Path

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.fill()

    def fill(self) -> None:
        """What lies there before."""


class TestFiles(InFolder, SourceContract):
    events = 5

    def fill(self) -> None:
        for name in ("a", "b"):
            (self.folder / f"{name}.jpg").write_bytes(b"not looked at")
        with tarfile.open(self.folder / "more.tar", "w") as archive:
            for name in ("c", "d", "a"):
                archive.add(self.folder / "a.jpg", f"{name}.jpg")

    def make(self) -> Any:
        return ReadImages(str(self.folder))


class TestManifest(InFolder, SourceContract):
    events = 3

    def fill(self) -> None:
        (self.folder / "events.jsonl").write_text("".join(LINE % number for number in (1, 2, 1)))

    def make(self) -> Any:
        return ReadImages(str(self.folder / "events.jsonl"))


class TestFilesOfRecords(InFolder, SinkContract):
    file_format: Any = "jsonl"

    def make(self) -> Any:
        return WriteRecords(str(self.folder), self.file_format, shards=2)

    def written(self) -> list[str]:
        return [label.coordinate for label in read_records(str(self.folder), "labels", LabeledImage)]


class TestParquetFilesOfRecords(TestFilesOfRecords):
    file_format = "parquet"
