"""Which label files the report reads and which pictures it chooses, of many slices of four cameras."""

import os
import shutil
import time
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from pipeline_report import START, report, shift

from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import RecordFiles
from grpo_tta.pipeline.label.monitor import MonitorMaker
from grpo_tta.pipeline.report import page as pages
from grpo_tta.pipeline.report.pictures import NOTICED_AFTER
from grpo_tta.pipeline.report.report import ReportRequest, write_report
from grpo_tta.schemas import ClassProbability, LabeledImage

FRAMES, SLICE, SHIFTED = 1600, 25, 800
UNSURE = {333: 0.05, FRAMES - 9: 0.1, 334: 0.2, 999: 0.3}
"""Probabilities of some frames; the others are surer."""


def frame(stream: str, at: int) -> LabeledImage:
    time = START + timedelta(seconds=30 * at)
    return LabeledImage(
        coordinate=f"{stream}/{at:05d}", id=str(at), stream=stream, event_time=time, window_start=time, window_end=time,
        label="a", probability=UNSURE.get(at, 0.5), top_k=[ClassProbability(label="a", probability=0.5)],
        update_count=0, model_fingerprint="m", method="grpo-online",
    )  # fmt: skip


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many slices of four cameras, as a job writes them; cam-1 drifts half-way, within a stretch of an hour."""
    out = tmp_path_factory.mktemp("many")
    store, maker = ObjectStore(str(out)), MonitorMaker(3600, "m", "grpo-online", "s")
    streams = [f"cam-{number}" for number in range(4)]
    for first in range(0, FRAMES, SLICE):
        labels = [frame(stream, at) for stream in streams for at in range(first, first + SLICE)]
        drifts = [shift(SHIFTED / 120).model_copy(update={"stream": "cam-1"})] if first == SHIFTED else []
        for kind, records in (("labels", labels), ("drift", drifts), ("monitor", maker.records(labels, drift=drifts))):
            RecordFiles(store, kind).write(f"storage-{first:012d}", [Row.of(record) for record in records])
    return out


def test_label_files_are_read_once_for_all_streams_and_pages_and_only_where_something_is_shown(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    read = ObjectStore.open_read
    monkeypatch.setattr(ObjectStore, "open_read", lambda self, name: opened.append(name) or read(self, name))
    written = write_report(ReportRequest(str(many), tmp_path / "page.html", streams_in_page=1))
    labels = Counter(name for name in opened if name.startswith("labels/"))
    assert set(labels.values()) == {1}
    assert 10 < len(labels) < FRAMES // SLICE - 5
    views = [pages.unpack(path.read_bytes())["details"] for path in written.pages]
    (drift,) = views[0]["cam-1"]["drifts"]
    places = {side: [int(one["id"]) for one in drift[side]] for side in ("before", "after")}
    assert places["before"][0] < SLICE
    assert SHIFTED - NOTICED_AFTER - SLICE <= places["before"][-1] < SHIFTED - NOTICED_AFTER
    assert max(after - before for before, after in pairwise(places["before"])) <= 150
    assert drift["before_text"] == "since the first image, up to 96 images before the alarm"
    assert places["after"] == [800 + 199 * at // 7 for at in range(8)]
    for name, view in {name: view for page in views for name, view in page.items()}.items():
        assert [one["coordinate"] for one in view["unsure"][:4]] == [f"{name}/{at:05d}" for at in UNSURE]


def test_of_streams_that_are_not_the_worst_only_near_label_files_are_read(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_tta.pipeline.report.pictures.FAR_STREAMS", 0)
    details = report(many, tmp_path / "page.html")["details"]
    assert [int(one["id"]) for one in details["cam-0"]["unsure"]][:1] == [FRAMES - 9]
    (drift,) = details["cam-1"]["drifts"]
    assert int(drift["before"][0]["id"]) >= SHIFTED - 400
    assert drift["before_text"] == "the last 296 images, up to 96 images before the alarm"


def test_pictures_before_a_shift_that_was_noticed_late_reach_back_to_the_shift_before(
    many: Path, tmp_path: Path
) -> None:
    """The second change begins 344 images before its alarm."""
    out, began, alarm = tmp_path / "out", 1200, 1200 + 344
    shutil.copytree(many, out)
    second = shift(alarm / 120).model_copy(update={"stream": "cam-1"})
    RecordFiles(ObjectStore(str(out)), "drift").write("storage-late", [Row.of(second)])
    drifts = report(out, tmp_path / "page.html")["details"]["cam-1"]["drifts"]
    places = [int(one["id"]) for one in drifts[0]["before"]]
    assert len(places) == 8
    assert sum(SHIFTED <= place < began for place in places) >= 4
    assert places[-1] < alarm - NOTICED_AFTER
    assert drifts[0]["before_text"] == "since the shift before, up to 96 images before the alarm"
    assert [int(one["id"]) for one in drifts[1]["before"]][-1] < SHIFTED


@pytest.mark.parametrize("ended", [False, True])
def test_of_a_job_that_has_not_ended_streams_fall_silent_by_the_clock(many: Path, tmp_path: Path, ended: bool) -> None:
    out = tmp_path / "out"
    shutil.copytree(many, out)
    old = time.time() - 7 * 86_400
    for path in (out / "monitor").iterdir():
        os.utime(path, (old, old))
    if ended:
        (out / "summary.json").write_text('{"finished": true}')
    data = report(out, tmp_path / "page.html")
    states = {row["name"]: row["state"] for row in data["streams"]}
    assert (
        states == {"cam-0": "normal", "cam-1": "drifted", "cam-2": "normal", "cam-3": "normal"}
        if ended
        else (dict.fromkeys(states, "silent"))
    )
