"""Small jobs over folders of pictures, with the process's labeler replaced by one of a tiny method."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pipeline_fakes import NAMES, SIDE, VECTORS, CountingMethod, make_labeler

from grpo_tta.adapters.images import CanvasSpec, ImageLimits
from grpo_tta.adapters.rows import KINDS
from grpo_tta.adapters.storage.fetch import Fetcher
from grpo_tta.adapters.storage.policy import UriPolicy
from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.pipeline.config.job import JobConfig, make_config
from grpo_tta.pipeline.label import load
from grpo_tta.pipeline.label.labeler import StreamLabeler
from grpo_tta.pipeline.label.load import ImageReader
from grpo_tta.pipeline.windows import SECOND
from grpo_tta.schemas import WireModel
from grpo_tta.types import Method

STREAM_PATTERN = r"(?P<stream>[^/]+)/[^/]+$"
TIME_PATTERN = r"(?P<time>\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}Z)"


def png(level: int, side: int = SIDE) -> bytes:
    """A picture of one grey level, or of blobs where ``side`` is larger."""
    out = io.BytesIO()
    if side == SIDE:
        image = Image.new("L", (side, side), level)
    else:
        coarse = np.random.default_rng(level).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR)
    image.save(out, "PNG")
    return out.getvalue()


def write_pictures(folder: Path, counts: dict[str, int], side: int = SIDE) -> None:
    """One picture a second of each stream; contents, times and modification times are always the same."""
    for stream, count in counts.items():
        (folder / stream).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            name = f"2026-01-01T00-{number // 60:02d}-{number % 60:02d}Z.png"
            path = folder / stream / name
            path.write_bytes(png((7 * number + number // 3 + len(stream)) % 251, side))
            os.utime(path, (1_767_225_600, 1_767_225_600))


def job_config(folder: Path, out: Path, **sections: dict[str, Any]) -> JobConfig:
    values: dict[str, dict[str, Any]] = {
        "source": {"url": str(folder), "stream_pattern": STREAM_PATTERN, "time_pattern": TIME_PATTERN},
        "output": {"url": str(out)},
    }
    merged = {name: {**values.get(name, {}), **sections.get(name, {})} for name in {*values, *sections}}
    return make_config(merged)


def job_labeler(config: JobConfig, method: Method | None = None, **options: Any) -> StreamLabeler:
    """A labeler with the job's own reader, policy and settings."""
    side = options.pop("side", SIDE)
    names, vectors = options.pop("names", NAMES), options.pop("vectors", VECTORS)
    reader = ImageReader(
        Fetcher(UriPolicy.for_source(config.source.url, config.source.allow_uris), first_pause=0.0, max_pause=0.0),
        CanvasSpec(side, side),
        ImageLimits(),
    )
    return make_labeler(
        method or CountingMethod(),
        config.guard.settings,
        reader,
        names=names,
        vectors=vectors,
        windows=config.event_time.windows(),
        settings_fingerprint=config.method_fingerprint(),
        allowed_lateness=30 * SECOND,
        **options,
    )


def serve(monkeypatch: pytest.MonkeyPatch, labeler: StreamLabeler) -> None:
    """Every job of this process gets ``labeler`` where it would make its own."""
    monkeypatch.setattr(load, "_make_labeler", lambda job: labeler)


def outputs(out: Path) -> dict[str, list[WireModel]]:
    """All records by folder."""
    return {folder: list(read_records(str(out), folder, model)) for folder, model in KINDS.items()}


def files(root: Path) -> dict[str, bytes]:
    """Every file below ``root``."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def output_files(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(out).items() if name.split("/")[0] in KINDS}
