"""Bad files in the middle of good ones, through a whole job on the packaged model.

What a person could look at is labelled, the rest becomes dead letters, and the other images of the batch get the very
labels they get where the bad ones are not there.
"""

import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_jobs import outputs

from grpo_tta import Classifier
from grpo_tta.demo import class_prompts, pictures, render_scene
from grpo_tta.pipeline.config.job import JobConfig, make_config
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.pipeline.run.check import check_job
from grpo_tta.pipeline.watch import notices

pytestmark = pytest.mark.jobs

NAMES = list(class_prompts())
TIMES = r"(?P<time>\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}Z)"
GOOD = 20


def scene(label: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(render_scene(pictures()[0][label], np.random.default_rng(seed)))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def bomb() -> bytes:
    """A whole PNG of 30,000 x 30,000 black pixels, one bit each."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(1)
    rows = [packer.compress(bytes(1000 * 3751)) for _ in range(30)]
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    data = b"".join(rows) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bad_files() -> dict[str, bytes]:
    jpeg = encoded(scene(3), "JPEG")
    return {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "text.jpg": b"not a picture at all\n",
        "empty.jpg": b"",
        "bomb.png": bomb(),
    }


def write_good(folder: Path, stream: str = "cam", count: int = GOOD) -> None:
    (folder / stream).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = scene(int(np.random.default_rng(number).integers(len(NAMES))), number)
        image.save(folder / stream / f"2026-01-01T00-00-{number:02d}Z.jpg", quality=92)


def config(folder: Path, out: Path, **source: object) -> JobConfig:
    return make_config({"source": {"url": str(folder), "time_pattern": TIMES, **source}, "output": {"url": str(out)}})


def labels_by_id(out: Path) -> dict[str, str]:
    """Of every record but for the coordinate, which holds the folder's name."""
    return {
        record.id: record.model_copy(update={"coordinate": ""}).model_dump_json() for record in outputs(out)["labels"]
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder of good files, and their labels."""
    folder = tmp_path_factory.mktemp("good")
    write_good(folder / "feed")
    run_label_job(config(folder / "feed", folder / "out"))
    return folder / "feed", labels_by_id(folder / "out")


def test_bad_files_are_dead_letters_and_change_nothing_else(good: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, expected = good
    shutil.copytree(folder, tmp_path / "feed")
    for number, (name, data) in enumerate(bad_files().items()):
        (tmp_path / "feed/cam" / f"2026-01-01T00-00-{9 * number:02d}Z-{name}").write_bytes(data)
    (tmp_path / "feed/cam/2026-01-01T00-00-20Z-link.jpg").symlink_to("gone.jpg")
    result = run_label_job(config(tmp_path / "feed", tmp_path / "out"))
    letters = {
        letter.coordinate.rpartition("Z-")[2].partition("@")[0]: letter
        for letter in outputs(tmp_path / "out")["dead_letters"]
    }
    assert labels_by_id(tmp_path / "out") == expected
    assert {name: letter.stage for name, letter in letters.items()} == {
        **dict.fromkeys(bad_files(), "decode_image"),
        "link.jpg": "source",
    }
    assert "30000" in letters["bomb.png"].error_message
    summary = result.summary
    assert (summary.events, summary.labels, summary.dead_letters) == (GOOD + 5, GOOD, 5)


def test_an_image_that_breaks_the_model_is_a_dead_letter_of_the_step_and_the_rest_is_labelled(
    good: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = good
    shutil.copytree(folder, tmp_path / "feed")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "feed/cam/2026-01-01T00-00-09Z-white.png")
    normalise = Classifier.normalise

    def breaking(self: Classifier, canvases: torch.Tensor) -> torch.Tensor:
        if bool((canvases == 255).flatten(1).all(1).any()):
            raise ArithmeticError("too bright")
        return normalise(self, canvases)

    monkeypatch.setattr(Classifier, "normalise", breaking)
    summary = run_label_job(config(tmp_path / "feed", tmp_path / "out")).summary
    found = labels_by_id(tmp_path / "out")  # halves of a batch differ from the whole by rounding
    assert {name: json.loads(record)["label"] for name, record in found.items()} == {
        name: json.loads(record)["label"] for name, record in expected.items()
    }
    (letter,) = outputs(tmp_path / "out")["dead_letters"]
    assert (letter.stage, letter.error_class, letter.error_message) == ("step", "ArithmeticError", "too bright")
    assert letter.id.endswith("white.png")
    assert (summary.events, summary.labels, summary.dead_letters) == (GOOD + 1, GOOD, 1)


def test_what_is_repaired_is_labelled_the_same_counted_and_told_once(
    good: tuple[Path, dict[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_told", set())
    folder, expected = good
    shutil.copytree(folder, tmp_path / "feed")
    without_end = sorted((tmp_path / "feed/cam").iterdir())[3:6]
    for path in without_end:
        assert path.read_bytes().endswith(b"\xff\xd9")
        path.write_bytes(path.read_bytes()[:-2])
    result = run_label_job(config(tmp_path / "feed", tmp_path / "out"))
    assert labels_by_id(tmp_path / "out") == expected
    assert result.summary.notices == {"image_without_end": 3}
    assert result.summary.notices.keys() <= set(notices.KINDS)
    told = [record.getMessage() for record in caplog.records if "logged once" in record.getMessage()]
    assert [line.partition(":")[0] for line in told] == ["image_without_end"]
    assert without_end[0].name in told[0]


def test_what_a_name_does_not_quite_tell_is_counted_and_told_once(
    good: tuple[Path, dict[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_told", set())
    picture = next((good[0] / "cam").iterdir())
    names = [
        "2026-01-01_06-00-00.jpg",
        "cam/2026-01-01_06-00-01.jpg",
        "cam/2026-01-01.jpg",
        "images/2026-01-01/b/x.jpg",
    ]
    for name in names:
        (tmp_path / "feed" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, tmp_path / "feed" / name)
    job = make_config(
        {
            "source": {"url": str(tmp_path / "feed"), "time_pattern": "auto"},
            "output": {"url": str(tmp_path / "out")},
            "method": {"name": "zero-shot"},
        }
    )
    assert run_label_job(job).summary.notices == {"stream_guessed": 2, "time_guessed": 2}
    told = [record.getMessage() for record in caplog.records if "logged once" in record.getMessage()]
    assert sorted(line.partition(":")[0] for line in told) == ["stream_guessed", "time_guessed"]
    assert {"stream_guessed", "time_guessed"} <= set(notices.KINDS)
    said = list(check_job(job, 1).warnings(job))
    assert [line.partition(",")[0] for line in said] == [
        "1 images are in no folder of a camera",
        "the streams of 1 images are guesses",
        "2 images tell only a day",
    ]


def test_a_file_that_vanishes_between_listing_and_reading(good: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, expected = good
    shutil.copytree(folder, tmp_path / "feed")
    extra = tmp_path / "feed/cam/2026-01-01T00-00-30Z-extra.jpg"
    scene(9).save(extra)
    job = config(tmp_path / "feed", tmp_path / "out")
    assert not run_label_job(job, stop=lambda: True).summary.finished
    extra.unlink()
    run_label_job(job)
    (letter,) = outputs(tmp_path / "out")["dead_letters"]
    assert (letter.stage, letter.error_class, letter.id) == ("fetch", "NotFound", "cam/2026-01-01T00-00-30Z-extra.jpg")
    assert labels_by_id(tmp_path / "out") == expected


def odd_files(image: Image.Image) -> dict[str, bytes]:
    """One picture in the shapes in which cameras and people send it."""
    grey16 = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    palette = image.convert("RGB").quantize(255)
    turned = Image.Exif()
    turned[0x0112] = 6
    later = Image.new("RGB", image.size, "red")
    return {
        "plain.png": encoded(image, "PNG"),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG", quality=98),
        "16-bit.png": encoded(grey16, "PNG"),
        "palette.png": encoded(palette, "PNG", transparency=palette.getpixel((0, 0))),
        "rotated.jpg": encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=98, exif=turned),
        "animated.gif": encoded(image, "GIF", save_all=True, append_images=[later, later]),
        "a name with spaces, ünïcödé and 図.jpg": encoded(image, "JPEG", quality=98),
        "really-a-png.jpg": encoded(image, "PNG"),
    }


def test_what_a_person_can_see_is_labelled_as_they_see_it(tmp_path: Path) -> None:
    image = scene(NAMES.index("artist palette"))
    (tmp_path / "feed/cam").mkdir(parents=True)
    for name, data in {**odd_files(image), "one-pixel.png": encoded(Image.new("RGB", (1, 1)), "PNG")}.items():
        (tmp_path / "feed/cam" / name).write_bytes(data)
    job = make_config(
        {
            "source": {"url": str(tmp_path / "feed")},
            "output": {"url": str(tmp_path / "out")},
            "method": {"name": "zero-shot"},
        }
    )
    run_label_job(job)
    records = outputs(tmp_path / "out")
    assert not records["dead_letters"]
    labels = {record.id.removeprefix("cam/"): record for record in records["labels"]}
    assert labels.pop("one-pixel.png").probability < 1
    del labels["16-bit.png"]  # grey: a person sees the shape, the model need not know it
    assert {record.label for record in labels.values()} == {"artist palette"}
    assert {record.id for record in records["labels"]} >= {"cam/a name with spaces, ünïcödé and 図.jpg"}


def test_two_events_of_one_id_and_a_wrong_content_type(tmp_path: Path) -> None:
    write_good(tmp_path, "cam", 2)
    files = sorted(path.name for path in (tmp_path / "cam").iterdir())
    lines = [
        {
            "schema_version": "1",
            "id": "same",
            "stream": "cam",
            "event_time": f"2026-01-01T00:00:0{number}Z",
            "uri": f"cam/{name}",
            "content_type": "image/png",
        }
        for number, name in enumerate(files)
    ]
    manifest = tmp_path / "events.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_label_job(make_config({"source": {"url": str(manifest)}, "output": {"url": str(tmp_path / "out")}}))
    records = outputs(tmp_path / "out")
    assert [record.id for record in records["labels"]] == ["same", "same"]
    assert len({record.coordinate for record in records["labels"]}) == 2
    assert not records["dead_letters"]


FORBIDDEN = ["../secret.jpg", "/etc/hostname", "file:///etc/hostname", "zip://a.jpg::/b.zip", "https://localhost/a.jpg"]


def test_a_manifest_cannot_make_the_job_read_what_the_policy_forbids(tmp_path: Path) -> None:
    write_good(tmp_path / "in", "cam", 1)
    scene(0).save(tmp_path / "secret.jpg")
    line = {"schema_version": "1", "id": "a", "stream": "cam", "event_time": "2026-01-01T00:00:00Z"}
    good = next((tmp_path / "in/cam").iterdir()).name
    manifest = tmp_path / "in/events.jsonl"
    manifest.write_text(
        "".join(json.dumps({**line, "id": uri, "uri": uri}) + "\n" for uri in (*FORBIDDEN, f"cam/{good}"))
    )
    job = {"source": {"url": str(manifest)}, "output": {"url": str(tmp_path / "out")}, "method": {"name": "zero-shot"}}
    run_label_job(make_config(job))
    records = outputs(tmp_path / "out")
    assert [record.id for record in records["labels"]] == [f"cam/{good}"]
    assert len(records["dead_letters"]) == len(FORBIDDEN)
    assert {letter.stage for letter in records["dead_letters"]} <= {"policy", "decode_event"}
    for name in FORBIDDEN:
        assert any(name in letter.model_dump_json() for letter in records["dead_letters"]), name
