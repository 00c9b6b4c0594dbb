import datetime as dt
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grpo_tta import demo
from grpo_tta.demo.feed import DEFAULT_IMAGES, STREAMS, FeedSummary

IMAGES = 180


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> FeedSummary:
    return demo.write_feed(tmp_path_factory.mktemp("feed"), seed=3, images=IMAGES)


@pytest.fixture(scope="module")
def truth(feed: FeedSummary) -> list[dict[str, str]]:
    return [json.loads(line) for line in feed.truth.read_text(encoding="utf-8").splitlines()]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes(feed, tmp_path):
    demo.write_feed(tmp_path, seed=3, images=IMAGES)
    assert digests(tmp_path) == digests(feed.out)


def test_another_seed_gives_other_frames(feed, tmp_path):
    demo.write_feed(tmp_path, seed=4, images=IMAGES)
    assert not set(digests(tmp_path).values()) & set(digests(feed.out).values())


def test_writing_again_leaves_nothing_of_the_earlier_feed(tmp_path):
    demo.write_feed(tmp_path, seed=0, images=40)
    demo.write_feed(tmp_path, seed=0, images=20)
    assert len(list(tmp_path.rglob("*.jpg"))) == 20


def test_every_file_is_in_the_truth_and_in_the_summary(feed, truth):
    written = {path.relative_to(feed.out).as_posix() for path in feed.out.rglob("*.jpg")}
    assert {line["id"] for line in truth} == written
    assert len(truth) == len(written) == feed.images == IMAGES
    assert {line["label"] for line in truth} <= set(demo.class_prompts())
    assert Counter(line["id"].split("/")[0] for line in truth) == feed.streams
    assert Counter(f"{line['id'].split('/')[0]}/{line['segment']}" for line in truth) == feed.segments


def test_only_the_truth_and_the_summary_are_no_images(feed):
    others = [path.name for path in feed.out.rglob("*") if path.is_file() and path.suffix != ".jpg"]
    assert sorted(others) == ["feed.json", "truth.jsonl"]

    with Image.open(next(feed.out.rglob("*.jpg"))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))


def test_a_finished_feed_can_be_told_from_an_unfinished_one(feed, tmp_path):
    assert demo.read_summary(feed.out) == feed
    assert demo.read_summary(tmp_path) is None


def test_patterns_read_stream_and_time_and_times_rise(truth):
    last: dict[str, dt.datetime] = {}
    for line in truth:
        stream = re.search(demo.STREAM_PATTERN, line["id"])
        time = re.search(demo.TIME_PATTERN, line["id"])
        assert stream is not None
        assert time is not None
        when = dt.datetime.strptime(time["time"], "%Y-%m-%dT%H-%M-%S.%fZ")
        assert when > last.get(stream["stream"], dt.datetime.min)
        last[stream["stream"]] = when
    assert set(last) == {stream.name for stream in STREAMS}


def test_schedules_hold_what_the_feed_promises():
    segments = [segment for stream in STREAMS for segment in stream.segments]
    assert {segment.kind for segment in segments} == {None, "fog", "gaussian_noise", "defocus_blur", "contrast"}
    assert any(segment.severity[0] != segment.severity[1] for segment in segments)
    assert sum(stream.zipf > 0 for stream in STREAMS) == 1
    assert any([segment.kind for segment in stream.segments] == [None, "gaussian_noise", None] for stream in STREAMS)
    assert DEFAULT_IMAGES / len(segments) >= 900


def test_a_gradual_segment_worsens(tmp_path):
    feed = demo.write_feed(tmp_path, seed=1, images=720)
    lines = [json.loads(line) for line in feed.truth.read_text(encoding="utf-8").splitlines()]
    dusk = [line["id"] for line in lines if line["segment"] == "2-dusk"]
    contrast = np.array([np.asarray(Image.open(feed.out / name)).std(axis=(0, 1)).mean() for name in dusk])
    quarter = len(contrast) // 4
    assert contrast[:quarter].mean() > 2 * contrast[-quarter:].mean()


def test_leaves_the_files_of_others_alone(tmp_path):
    (tmp_path / "cam-02").mkdir()
    (tmp_path / "cam-02" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="cam-02 is there, but no feed"):
        demo.write_feed(tmp_path, images=20)
    assert digests(tmp_path).keys() == {"cam-02/mine.jpg"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"images": 3}, "images must be at least 12, one a segment, got 3"), ({"seed": -1}, "seed must be >= 0, got -1")],
)
def test_says_what_is_wrong(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        demo.write_feed(tmp_path / "feed", **arguments)
    assert not (tmp_path / "feed").exists()
