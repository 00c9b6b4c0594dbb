"""``grpo-tta demo``: from nothing to the table, and what it does where a feed is there already."""

import json
from pathlib import Path

import pytest

from grpo_tta.demo.feed import DEFAULT_IMAGES, SHIFTED, STREAMS
from grpo_tta.pipeline.cli import main
from grpo_tta.pipeline.report.page import unpack

pytestmark = pytest.mark.jobs

IMAGES = 48


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--out", str(folder), "--images", str(IMAGES)]) == 0
    return folder


def test_all_is_where_the_last_line_says(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["events"], summary["labels"], summary["finished"]) == (IMAGES, IMAGES, True)
    assert {path.name for path in out.iterdir()} >= {"feed", "labels", "summary.json", "checkpoint"}


def test_the_page_draws_the_truth_of_the_feed_beside_the_estimate(out: Path) -> None:
    details = unpack((out / "report.html").read_bytes())["details"]
    assert set(details) == {stream.name for stream in STREAMS}
    for view in details.values():
        assert len(view["truth"]["adapted"]) == len(view["time"])
        assert None not in view["truth"]["adapted"]


def test_run_again_it_labels_nothing_and_prints_the_same_table(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(out), "--images", str(IMAGES)]) == 0
    said = capsys.readouterr().out
    assert f"already finished: {IMAGES} events are labelled" in said
    rows = [line.split() for line in said.splitlines() if line.startswith(("cam-", "shifted", "all"))]
    assert [tuple(row[:2]) for row in rows[:-2]] == [(s.name, part.name) for s in STREAMS for part in s.segments]
    shown = {row[0]: int(row[1]) for row in rows[-2:]}
    assert shown == {"shifted": IMAGES * len(SHIFTED) // 12, "all": IMAGES}


def test_a_feed_of_another_seed_is_not_labelled_in_its_place(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(out), "--images", str(IMAGES), "--seed", "7"]) == 2
    assert "--fresh throws it away" in capsys.readouterr().err


def test_help_tells_how_many_images_the_feed_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    assert f"images in the feed (default: {DEFAULT_IMAGES})" in " ".join(capsys.readouterr().out.split())


def test_the_feed_alone_says_how_to_label_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "feed", "--out", str(tmp_path / "feed"), "--images", "24"]) == 0
    assert f"grpo-tta label --source {tmp_path / 'feed'}" in capsys.readouterr().out
    assert not (tmp_path / "feed" / "labels").exists()
