"""The guide's code blocks do what the text around them says."""

import io
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from grpo_tta.adapters.canvases import CanvasReader
from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.images import CanvasSpec, ImageLimits
from grpo_tta.adapters.storage.fetch import Fetcher
from grpo_tta.adapters.storage.policy import UriPolicy
from grpo_tta.adapters.storage.source import list_source

GUIDE = Path(__file__).parents[2] / "docs/guide.md"


def jpeg(grey: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (grey, grey, grey)).save(out, "JPEG")
    return out.getvalue()


def test_a_hugging_face_dataset_becomes_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are read from the files that a dataset is made of: parquet with images as a struct."""
    (block,) = re.findall(r"```python\n(import json\nfrom base64.*?)```", GUIDE.read_text(), re.DOTALL)
    images = [{"bytes": jpeg(grey), "path": f"{grey}.jpg"} for grey in (10, 110, 210)]
    times = [f"2026-01-01T06:00:0{number}Z" for number in range(3)]
    table = pa.table({"image": images, "camera": ["door", "gate", "door"], "time": times, "label": [0, 1, 2]})
    pq.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    monkeypatch.chdir(tmp_path)
    exec(block, {"dataset": pq.read_table("test-00000-of-00001.parquet").to_pylist()})
    events = list(list_source("events.jsonl"))
    read = CanvasReader(Fetcher(UriPolicy.for_source("events.jsonl")), ImageLimits())
    found = []
    for event in events:
        assert isinstance(event, ImageRef)
        found.append((event.id, event.stream, round(read(event, CanvasSpec(8, 8)).mean(), -1)))
    assert found == [("0", "door", 10), ("1", "gate", 110), ("2", "door", 210)]
