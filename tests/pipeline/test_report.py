"""The report of a real job's outputs: what the page holds, and what is counted."""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pipeline_jobs import job_config, job_labeler, outputs, serve, write_pictures
from pipeline_report import CALIBRATION, HOUR, START, STEADY, moved, report, shift, stretch, stretches

from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import RecordFiles
from grpo_tta.estimate import PACKAGED, AccuracyCalibration, estimate
from grpo_tta.pipeline.cli import main
from grpo_tta.pipeline.cli.report import print_written
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.report import page as pages
from grpo_tta.pipeline.report.answers import Answer, read_answers, to_lines
from grpo_tta.pipeline.report.data import spark_of
from grpo_tta.pipeline.report.read import read_outputs
from grpo_tta.pipeline.report.report import ReportRequest, write_questions, write_report
from grpo_tta.pipeline.report.stretches import time_of
from grpo_tta.pipeline.report.sums import Sums
from grpo_tta.pipeline.report.windows import StreamWindow, changes, estimator, windows_of
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.schemas.monitor import join, merged

HOSTILE = "<img src=x onerror=alert(1)>\"'&<!--"
COUNTS = {"north": 30, HOSTILE: 12}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels, monitor and one dead letter, as a job writes them."""
    folder = tmp_path_factory.mktemp("report")
    write_pictures(folder / "feed", COUNTS)
    (folder / "feed/north/2026-01-01T01-00-00Z.png").write_bytes(b"no picture </script><script>alert(1)</script>")
    config = job_config(folder / "feed", folder / "out", output={"url": str(folder / "out"), "monitor": "5s"})
    with pytest.MonkeyPatch.context() as patch:
        serve(patch, job_labeler(config))
        run_label_job(config)
    return folder / "out"


def test_the_page_says_what_the_outputs_say(out: Path, tmp_path: Path) -> None:
    data = report(out, tmp_path / "page.html")
    labels = Counter(label.stream for label in outputs(out)["labels"])
    assert {row["name"]: row["images"] for row in data["streams"]} == dict(labels) == COUNTS
    assert sum(data["details"]["north"]["images"]) == 30
    (cause,) = data["details"]["north"]["dead"]
    assert (cause["cause"], cause["count"]) == ("decode_image/UnknownFormat", 1)
    assert cause["coordinate"].startswith(str(out.parent / "feed/north/2026-01-01T01-00-00Z.png@"))
    assert all(picture["image"] is not None for picture in data["details"]["north"]["unsure"])
    views = data["details"].values()
    shown = {picture["coordinate"] for view in views for part in ("unsure", "disagree") for picture in view[part]}
    assert len(data["images"]) == len(shown)


def test_without_monitor_the_same_images_are_counted_of_the_labels(out: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").symlink_to(out / "labels")
    (tmp_path / "dead_letters").symlink_to(out / "dead_letters")
    data, whole = report(tmp_path, tmp_path / "page.html"), report(out, tmp_path / "whole.html")
    for row, other in zip(data["streams"], whole["streams"], strict=True):
        same = ("name", "images", "dead", "agreement", "classes", "confidence")
        assert [row[key] for key in same] == [other[key] for key in same]
    assert "no monitor/" in data["notes"][0]


def test_no_text_of_the_outputs_is_part_of_the_html_and_the_policy_allows_only_the_pages_own_script(
    out: Path, tmp_path: Path
) -> None:
    report(out, tmp_path / "page.html")
    write_questions(ReportRequest(str(out), tmp_path / "ask.html"), HOSTILE, 5)
    for name in ("page.html", "ask.html"):
        html = (tmp_path / name).read_text()
        assert "onerror" not in html
        assert "north" not in html
        (script,) = re.findall(r"<script>(.*)</script>", html, re.DOTALL)
        assert "</script" not in script
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'sha256-" in html


def test_the_scripts_make_no_markup_and_evaluate_nothing() -> None:
    for name in {*pages.REPORT, *pages.ASK}:
        text = (files("grpo_tta.pipeline.report") / "assets" / name).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|srcdoc", text
        ), name


def test_streams_beyond_the_page_have_pages_of_their_own(out: Path, tmp_path: Path) -> None:
    written = write_report(ReportRequest(str(out), tmp_path / "page.html", streams_in_page=1))
    assert [path.name for path in written.pages] == ["page.html", "page-001.html"]
    first, second = (pages.unpack(path.read_bytes()) for path in written.pages)
    assert [row["page"] for row in first["streams"]] == ["page.html", "streams/page-001.html"]
    assert [row["name"] for row in second["streams"]] == list(second["details"]) == [first["streams"][1]["name"]]


def test_answers_are_folded_in(out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_questions(ReportRequest(str(out), tmp_path / "ask.html"), "north", 10)
    asked = pages.unpack((tmp_path / "ask.html").read_bytes())["questions"]
    assert sorted(one["question"]["stratum"] for one in asked) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    given = [Answer(**one["question"], right=number % 2 == 0) for number, one in enumerate(asked)]
    (tmp_path / "answers.jsonl").write_text(to_lines([*given, replace(given[0], coordinate="x", stream="elsewhere")]))
    assert main(["report", "--out", str(out), "--page", str(tmp_path / "page.html"),
                 "--answers", str(tmp_path / "answers.jsonl")]) == 0  # fmt: skip
    assert "streams that the job has not, and count for nothing: elsewhere" in caplog.text
    data = pages.unpack((tmp_path / "page.html").read_bytes())
    (told,) = data["details"]["north"]["answers"]
    assert told["text"].startswith("5 of 10 labels from 01 Jan")
    assert told["together"] == next(row["estimate"] for row in data["streams"] if row["name"] == "north")
    assert told["together"] == told["answers"]
    assert told["answers"]["low"] < 0.5 < told["answers"]["high"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ask", "5"], "--stream NAME"),
        (["--ask", "0", "--stream", "north"], "at least 1"),
        (["--stream", "north"], "only with --ask"),
        (["--floor", "60"], "from 0 to 1, got 60"),
        (["--since", "yesterday"], "got 'yesterday'"),
        (["--since", "20260101"], "a time like 2026-01-31T06:00:00Z, or a duration like 24h, got '20260101'"),
        (["--since", "2026-01-01"], "got '2026-01-01'"),
        (["--streams-in-page", "0"], "at least 1"),
        (["--accuracy", "missing.json"], "--accuracy"),
        (["--answers", "missing.jsonl"], "--answers missing.jsonl"),
        (["--page", "/dev/null"], "--page /dev/null: it is there and no file, give another name"),
    ],
)
def test_a_bad_flag_is_named(out: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--out", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_what_cannot_be_reported_says_why(out: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="neither monitor/ nor labels/"):
        write_report(ReportRequest(str(tmp_path), tmp_path / "page.html"))
    with pytest.raises(JobError, match="no stream 'south'"):
        write_questions(ReportRequest(str(out), tmp_path / "ask.html"), "south", 5)
    with pytest.raises(JobError, match="no image since"):
        write_report(ReportRequest(str(out), tmp_path / "page.html", since=datetime(2030, 1, 1, tzinfo=UTC)))
    assert read_outputs(str(out), timedelta.max).since == datetime.min.replace(tzinfo=UTC), "no image is so old"
    (tmp_path / "answers.jsonl").write_text("{}\n")
    with pytest.raises(ConfigurationError, match="line 1"):
        read_answers(str(tmp_path / "answers.jsonl"))


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 300), st.floats(0, 1), st.integers(0, 3)), min_size=1),
    st.integers(),
)
def test_columns_of_parts_add_up_as_records_do_and_say_the_same(
    parts: list[tuple[int, int, float, int]], cut: int
) -> None:
    records = [
        stretch(hour, n, sure, agree=n // 2, frozen_n=n, frozen_entropy={10: n}, least_entropy={10: n},
                frozen_labels={f"l{n % 7}": n},
                probability={n % 20: n}, frozen_probability={3: n}, ill=n // 2, late=n // 3,
                resets={"collapse": resets}, dead_letters={"fetch/NotFound": resets})
        for hour, n, sure, resets in parts
    ]  # fmt: skip
    first, second = Sums(), Sums()
    for number, record in enumerate(records):
        (second if cut < number else first).add(f"file-{number % 3}", record)
    first.absorb(second)
    packed = first.streams["cam"]
    rows, files, dead, *_ = packed.unpack(None)
    whole = merged(records)
    assert [time_of(start) for start in rows.start.tolist()] == [record.bucket_start for record in whole]
    for name in ("n", "ill", "late", "frozen_n", "agree"):
        assert rows.totals[name].tolist() == [getattr(record, name) for record in whole]
    for name, table in {**rows.histograms, **rows.labels}.items():
        names = rows.names if name in rows.labels else range(table.shape[1])
        counted = [{key: n for key, n in zip(names, row, strict=True) if n} for row in table.tolist()]
        assert counted == [getattr(record, name) for record in whole]
    assert estimator(CALIBRATION, from_labels=False)(rows) == [estimate(record, CALIBRATION) for record in whole]
    assert dead == sum((Counter(record.dead_letters) for record in whole), Counter())
    assert sum(file.images for file in files.values()) == sum(record.n for record in whole)
    joined = rows.joined([0])
    assert joined.totals["n"].tolist() == [join(whole).n]
    assert time_of(int(joined.end[0])) == START + HOUR * (1 + max(hour for hour, *_ in parts))
    late = packed.unpack(START + HOUR * 4)[0]
    assert late.totals["n"].sum() == sum(record.n for record in whole if record.bucket_start >= START + HOUR * 4)


def test_several_processes_read_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_tta.pipeline.report.sums._BYTES_OF_A_RUN", 1)
    store = ObjectStore(str(tmp_path))
    for hour in range(7):
        told = {"labels": {f"l{hour}": 150, "b": 50}, "dead_letters": {"fetch/NotFound": hour}}
        rows = [Row.of(stretch(hour, 200 * (stream < hour)).model_copy(update={"stream": f"cam-{stream}", **told}))
                for stream in range(4)]  # fmt: skip
        nowhere = {"stream": None, "bucket_start": None, "dead_letters": {"source/BadRecord": hour}}
        RecordFiles(store, "monitor").write(f"p-{hour}", [*rows, Row.of(STEADY[0].model_copy(update=nowhere))])
    found = [read_outputs(str(tmp_path), readers=readers) for readers in (1, 2)]
    assert [one.names for one in found] == [[f"cam-{stream}" for stream in range(4)]] * 2
    assert (found[0].newest, found[0].unplaced, found[0].kinds) == (found[1].newest, found[1].unplaced, found[1].kinds)
    for name in found[0].names:
        alone, together = (one.stream(name) for one in found)
        assert (alone.images, alone.files, alone.dead) == (together.images, together.files, together.dead)
        assert alone.stretches.names == together.stretches.names
        for column in ("histograms", "labels", "totals"):
            one, other = (getattr(stream.stretches, column) for stream in (alone, together))
            assert all((one[key] == other[key]).all() for key in one)
    monkeypatch.setattr("grpo_tta.pipeline.report.report._STREAMS_OF_A_PART", 2)
    alone, together = (report(tmp_path, tmp_path / f"{readers}/page.html", readers=readers) for readers in (1, 2))
    assert {**alone, "made": 0} == {**together, "made": 0}
    store.write("monitor/p-9.jsonl", b"{}\n")
    with pytest.raises(ValueError, match=r"monitor/p-9\.jsonl, line 1"):
        read_outputs(str(tmp_path), readers=2)


def test_windows_whose_truth_lies_inside_the_interval_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [*STEADY, stretch(4, sure=0.9), moved(4.5)]
    RecordFiles(ObjectStore(str(tmp_path)), "monitor").write("storage-0", [Row.of(one) for one in records])
    shares = [600, 600, None, 0, 900]

    def truth(_: str, windows: Sequence[StreamWindow]) -> dict[str, Any]:
        assert len(windows) == len(shares)
        return {"adapted": shares, "frozen": None}

    print_written(write_report(ReportRequest(str(tmp_path), tmp_path / "page.html", calibration=CALIBRATION), truth))
    assert "1 of 1 streams shifted; truth inside the interval in 3 of 4 windows" in capsys.readouterr().out


def test_many_counts_without_a_label_are_packed_too() -> None:
    counts = {"entropy": dict.fromkeys(range(100), 1), "labels": {}}
    records = [stretch(hour, 100).model_copy(update=counts) for hour in range(120)]
    assert stretches(records).histograms["entropy"].sum() == 12_000


@pytest.mark.parametrize("settings", ["", "others"])
def test_the_packaged_calibration_is_taken_where_it_is_of_the_labels(tmp_path: Path, settings: str) -> None:
    known = AccuracyCalibration.load(PACKAGED)
    kind = {
        "model_fingerprint": known.model_fingerprint, "method": known.method,
        "settings_fingerprint": settings or known.settings_fingerprint, "labels": {str(at): 4 for at in range(50)},
    }  # fmt: skip
    rows = [Row.of(one.model_copy(update={**kind, "least_entropy": one.entropy})) for one in STEADY]
    RecordFiles(ObjectStore(str(tmp_path)), "monitor").write("storage-0", rows)
    data = report(tmp_path, tmp_path / "page.html")
    assert ("value" in data["streams"][0]["estimate"]) == (not settings)
    assert any("there is no calibration" in note for note in data["notes"]) == bool(settings)


@example([1, 0, 1], [1.0])
@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=60),
    st.lists(st.floats(0, 60), max_size=4),
)
def test_windows_hold_every_image_once_and_never_cross_a_shift(counts: list[int], shifts: list[float]) -> None:
    records = [stretch(hour, n) for hour, n in enumerate(counts)]
    drift = [shift(hour) for hour in shifts]
    windows = windows_of(stretches(records), drift, estimator(None, from_labels=False)).shown
    assert sum(window.n for window in windows) == sum(counts)
    assert [window.start for window in windows] == sorted(window.start for window in windows)
    for window in windows:
        inside = [at for at in shifts if window.start + HOUR <= START + HOUR * at < window.end]
        assert not inside


@pytest.mark.parametrize("at", [1.1, 3.9, 10.0])
def test_a_mark_lies_between_the_points_of_the_windows_before_and_after_the_shift(at: float) -> None:
    hours = [0, 1, 2, 3, 4, 9, 10, 11]
    event = shift(at)
    shown = windows_of(stretches([stretch(hour) for hour in hours]), [event], estimator(None, from_labels=False)).shown
    (mark,) = spark_of(shown, [event])["marks"]
    middles = [(window.start + (window.end - window.start) / 2 - START) / HOUR for window in shown]
    before = sum(middle < at for middle in middles) - 1
    assert 1000 * before / (len(shown) - 1) <= mark <= 1000 * (before + 1) / (len(shown) - 1)


def test_only_labels_whose_share_changed_by_more_than_chance_are_named() -> None:
    before, after = {"a": 500, "b": 250, "c": 250}, {"a": 300, "b": 455, "c": 245}
    found = changes(before, after)
    assert [change.label for change in found] == ["b", "a"]
    assert all(change.low <= change.change <= change.high for change in found)
    assert changes(before, before) == changes({}, after) == []


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("images", [(200, 200), (2000, 300)])
def test_where_no_share_of_many_labels_changes_hardly_ever_one_is_named(power: float, images: tuple[int, int]) -> None:
    rng, shares = np.random.default_rng(0), np.arange(1, 366) ** -power
    draws = [[dict(enumerate(rng.multinomial(n, shares / shares.sum()).tolist())) for n in images] for _ in range(100)]
    named = sum(bool(changes(*({str(at): n for at, n in side.items()} for side in draw))) for draw in draws)
    assert named <= 10


@pytest.mark.parametrize("interrupted", [False, True])
def test_watching_begins_before_the_first_slice_and_ends_with_the_job_or_when_it_is_interrupted(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    from grpo_tta.pipeline.cli import report as command

    job, page, seen = tmp_path / "job", tmp_path / "page.html", []
    job.mkdir()
    summary = (out / "summary.json").read_bytes()

    def later(_: float) -> None:
        """First there is nothing, then outputs without an end, then the end: the job's own, or Ctrl-C."""
        seen.append(pages.unpack(page.read_bytes())["renew"] if page.exists() else "none")
        if len(seen) == 1:
            (job / "monitor").symlink_to(out / "monitor")
        elif interrupted:
            raise KeyboardInterrupt
        else:
            (job / "summary.json").write_bytes(summary)

    monkeypatch.setattr(command.time, "sleep", later)
    assert main(["report", "--out", str(job), "--page", str(page), "--watch"]) == 0
    assert seen == ["none", command.RENEW_SECONDS]
    assert pages.unpack(page.read_bytes())["renew"] is None
