"""A feed as cameras would write it: JPEG files by stream and event time, with conditions that change.

Each stream follows its own schedule of segments. File names carry stream and event time (``STREAM_PATTERN``,
``TIME_PATTERN``); ``truth.jsonl`` beside the streams says what every file shows, for evaluation only. The same seed and
number of images give the same bytes.
"""

import datetime as dt
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grpo_tta.demo.packaged import class_prompts, pictures
from grpo_tta.demo.scenes import scenes
from grpo_tta.evaluation.corruptions import corrupt

__all__ = [
    "DEFAULT_IMAGES",
    "STREAM_PATTERN",
    "STREAMS",
    "TIME_PATTERN",
    "SHIFTED",
    "FeedSummary",
    "Segment",
    "Stream",
    "read_summary",
    "write_feed",
]

STREAM_PATTERN = r"(?P<stream>[^/]+)/[^/]+\.jpg$"
"""Finds the stream in a path: the folder that holds the file."""
TIME_PATTERN = r"(?P<time>\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}\.\d{3}Z)_\d+\.jpg$"
"""Finds the event time in a path: RFC 3339 in UTC with ``-`` for ``:``, which file systems dislike."""

DEFAULT_IMAGES = 10_800
QUALITY = 92
"""High enough that the compression itself is no shift."""
START = dt.datetime(2026, 1, 1, 6, tzinfo=dt.UTC)
INTERVAL_MS = 1_000
JITTER_MS = 400
BATCH = 256
_SUMMARY = "feed.json"
"""Written last: a feed without it was not finished."""


@dataclass(frozen=True)
class Segment:
    """A stretch of one condition, or of one that worsens evenly from ``severity[0]`` to ``severity[1]``."""

    name: str
    kind: str | None = None
    severity: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Stream:
    """One camera: its segments in order; ``zipf`` is the exponent of the class shares (0: equal)."""

    name: str
    segments: tuple[Segment, ...]
    zipf: float = 0.0


def _steady(name: str, kind: str, severity: int) -> Segment:
    return Segment(name, kind, (severity, severity))


STREAMS = (
    Stream("cam-01", (Segment("1-clean"),)),
    Stream("cam-02", (Segment("1-clean"), _steady("2-fog", "fog", 3))),
    Stream(
        "cam-03",
        (Segment("1-clean"), _steady("2-noise", "gaussian_noise", 5), Segment("3-clean")),
    ),
    Stream(
        "cam-04",
        (Segment("1-clean"), Segment("2-dusk", "contrast", (0, 4)), _steady("3-low-contrast", "contrast", 4)),
    ),
    Stream("cam-05", (_steady("1-fog", "fog", 3), _steady("2-blur", "defocus_blur", 5)), zipf=1.0),
    Stream("cam-06", (_steady("1-noise", "gaussian_noise", 4),)),
)
"""The schedules of the cameras."""
SHIFTED = frozenset((stream.name, part.name) for stream in STREAMS for part in stream.segments if part.kind)
"""(stream, segment) of everything that is not clean."""


@dataclass(frozen=True)
class FeedSummary:
    """What was written: images by stream and by ``stream/segment``, and where the truth is."""

    out: Path
    truth: Path
    seed: int
    images: int
    streams: dict[str, int] = field(default_factory=dict)
    segments: dict[str, int] = field(default_factory=dict)


def write_feed(out: Path, seed: int = 0, images: int = DEFAULT_IMAGES) -> FeedSummary:
    """Write the feed below ``out``, in place of an earlier feed where there is one.

    All segments of ``STREAMS`` are equally long, give or take an image. Raises ``ValueError`` for a negative seed or
    for fewer images than segments, ``FileExistsError`` where files would be replaced that are no feed.
    """
    total = sum(len(stream.segments) for stream in STREAMS)
    if images < total:
        raise ValueError(f"images must be at least {total}, one a segment, got {images}")
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    out = Path(out)
    truth = out / "truth.jsonl"
    _make_room(out, truth)
    names, drawn = list(class_prompts()), pictures()[0]
    sizes = _shares(images)
    segments: dict[str, int] = {}
    with truth.open("w", encoding="utf-8", newline="\n") as lines:
        for number, stream in enumerate(STREAMS):
            folder = out / stream.name
            folder.mkdir()
            frames = [sizes.pop(0) for _ in stream.segments]
            segments |= {f"{stream.name}/{s.name}": n for s, n in zip(stream.segments, frames, strict=True)}
            rng = np.random.Generator(np.random.PCG64([seed, number]))
            for path, label, segment in _write_stream(folder, stream, frames, drawn, rng):
                record = {"id": f"{stream.name}/{path.name}", "label": names[label], "segment": segment}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    streams = {s.name: sum(segments[f"{s.name}/{part.name}"] for part in s.segments) for s in STREAMS}
    (out / _SUMMARY).write_text(json.dumps({"seed": seed, "images": images, "streams": streams, "segments": segments}))
    return FeedSummary(out, truth, seed, images, streams, segments)


def read_summary(out: Path) -> FeedSummary | None:
    """What `write_feed` wrote below ``out``; None where no feed was finished there."""
    out = Path(out)
    try:
        found = json.loads((out / _SUMMARY).read_text())
    except FileNotFoundError:
        return None
    return FeedSummary(out, out / "truth.jsonl", **found)


def _make_room(out: Path, truth: Path) -> None:
    """Remove an earlier feed, known by its truth, and nothing else."""
    folders = [folder for folder in (out / stream.name for stream in STREAMS) if folder.exists()]
    if folders and not truth.is_file():
        raise FileExistsError(f"{folders[0]} is there, but no feed ({truth} is missing): give another folder")
    out.mkdir(parents=True, exist_ok=True)
    truth.touch()
    (out / _SUMMARY).unlink(missing_ok=True)
    for folder in folders:
        shutil.rmtree(folder)


def _shares(images: int) -> list[int]:
    """Frames of every segment of every stream, in order: equal, ``images`` in all."""
    total = sum(len(stream.segments) for stream in STREAMS)
    return [images // total + (number < images % total) for number in range(total)]


def _write_stream(
    folder: Path, stream: Stream, frames: list[int], drawn: NDArray[np.uint8], rng: np.random.Generator
) -> Iterator[tuple[Path, int, str]]:
    """Write one camera's files in order of time; yields path, class and segment of each."""
    shares = _class_shares(len(drawn), stream.zipf, rng)
    step = 0
    for segment, count in zip(stream.segments, frames, strict=True):
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            rows = rng.choice(len(drawn), size, p=shares)
            progress = (start + np.arange(size)) / max(count - 1, 1)
            batch = _frames(drawn, rows, segment, progress, rng)
            late = rng.integers(JITTER_MS, size=size)
            for image, row, jitter in zip(batch, rows, late, strict=True):
                when = START + dt.timedelta(milliseconds=step * INTERVAL_MS + int(jitter))
                stamp = when.strftime("%Y-%m-%dT%H-%M-%S.") + f"{when.microsecond // 1000:03d}Z"
                path = folder / f"{stamp}_{step:06d}.jpg"
                path.write_bytes(as_jpeg(image))
                yield path, int(row), segment.name
                step += 1


def as_jpeg(image: NDArray[np.uint8]) -> bytes:
    """A frame uint8 ``[3, H, W]`` as the feed's cameras write it."""
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def _class_shares(classes: int, exponent: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Zipf's law over the classes in random order."""
    shares = (1 + rng.permutation(classes)) ** -exponent
    return shares / shares.sum()


def _frames(
    drawn: NDArray[np.uint8],
    rows: NDArray[np.int64],
    segment: Segment,
    progress: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Frames of one segment; between two severities each frame has the one below or above, whichever chance has it."""
    seeds = rng.integers(2**62, size=(2, len(rows)))
    frames = scenes(drawn, rows, seeds[0])
    first, last = segment.severity
    levels = np.floor(first + (last - first) * progress + rng.random(len(rows))).astype(int)
    if segment.kind is not None:
        for level in np.unique(np.clip(levels, first, last)):
            at = np.flatnonzero(np.clip(levels, first, last) == level)
            frames[at] = corrupt(frames[at], segment.kind, int(level), seeds[1][at])
    return frames
