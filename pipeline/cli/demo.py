"""``grpo-tta demo``: a feed of drifting cameras, labelled, the table of what came of it, and the page about it."""

import argparse
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.demo import (
    STREAM_PATTERN,
    TIME_PATTERN,
    FeedSummary,
    accuracy_path,
    read_summary,
    reference_path,
    write_feed,
)
from grpo_tta.demo.feed import DEFAULT_IMAGES, SHIFTED
from grpo_tta.estimate import AccuracyCalibration
from grpo_tta.pipeline.cli.columns import print_columns
from grpo_tta.pipeline.cli.evaluate import figures
from grpo_tta.pipeline.cli.label import run_and_report
from grpo_tta.pipeline.cli.report import print_written
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.report.report import ReportRequest, write_report
from grpo_tta.pipeline.run.evaluate import evaluate, read_truth, row
from grpo_tta.schemas import AdaptationLog, LabeledImage

STRETCH = "30s"
"""Of a record of ``monitor/``: the feed's conditions last minutes."""


def demo(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """The feed alone, or feed, labels and table."""
    out = Path(flags.out)
    images = DEFAULT_IMAGES if flags.images is None else flags.images
    if flags.what == "feed":
        _print_feed(_write(out, flags.seed, images))
        return 0
    if flags.fresh and out.exists():
        shutil.rmtree(out)
    feed = out / "feed"
    _feed(feed, flags.seed, images)
    config = make_config(
        {
            "source": {"url": str(feed), "stream_pattern": STREAM_PATTERN, "time_pattern": TIME_PATTERN},
            "output": {"url": str(out), "monitor": STRETCH},
            "guard": {"reference": str(reference_path()), "settings": {"on_shift": "reset"}},
        }
    )
    code = run_and_report(config)
    if code == 0:
        print_table(out, feed / "truth.jsonl")
        known = AccuracyCalibration.load(accuracy_path()) if accuracy_path().exists() else None
        print_written(write_report(ReportRequest(str(out), out / "report.html", known)))
    return code


def _write(folder: Path, seed: int, images: int) -> FeedSummary:
    try:
        return write_feed(folder, seed, images)
    except (ValueError, FileExistsError) as error:
        raise ConfigurationError(str(error)) from error


def _feed(folder: Path, seed: int, images: int) -> None:
    """Write the feed unless it is there already; one of another seed or size is not labelled in its place."""
    there = read_summary(folder)
    if there is None:
        print(f"writing {images} images to {folder}", file=sys.stderr)
        _write(folder, seed, images)
    elif (there.seed, there.images) != (seed, images):
        raise ConfigurationError(
            f"{folder} holds a feed of {there.images} images and seed {there.seed}, not {images} and {seed}: "
            "--fresh throws it away, --out takes another folder"
        )


def _print_feed(feed: FeedSummary) -> None:
    lines = [["stream/segment", "images"], *([name, str(count)] for name, count in feed.segments.items())]
    print_columns(lines)
    print(f"\n{feed.images} images, seed {feed.seed}, in {feed.out}; what they show: {feed.truth}")
    print("to label them:")
    print(
        f"  grpo-tta label --source {feed.out} --out OUT --stream-pattern '{STREAM_PATTERN}' "
        f"--time-pattern '{TIME_PATTERN}'"
    )


def print_table(out: Path, truth_path: Path) -> None:
    """Accuracy and resets by stream and segment of the demo feed, labelled into ``out``."""
    by = ["stream", "segment"]
    result = evaluate(str(out), str(truth_path), by)
    resets = _resets(out, truth_path)
    lines = [["stream", "segment", "n", "frozen", "GRPO-TTA", "gain", "resets"]]
    for group in result["groups"]:
        place = (group["stream"], group["segment"])
        lines.append([*place, *figures(group)[:4], str(resets[place])])
    lines.append(["shifted", "", *figures(_shifted_row(out, truth_path))[:4], str(_of_shifted(resets))])
    lines.append(["all", "", *figures(result["all"])[:4], str(sum(resets.values()))])
    print()
    print_columns(lines)
    places = {"feed": "feed", "labels": "labels", "log": "adaptation", "summary": "summary.json"}
    there = {what: out / where for what, where in places.items() if (out / where).exists()}
    print("\n" + ", ".join(f"{what} in {where}" for what, where in there.items()))


def _shifted_row(out: Path, truth_path: Path) -> dict[str, Any]:
    """Of all segments that are not clean, together."""
    truth = read_truth(str(truth_path))
    labels = read_records(str(out), "labels", LabeledImage)
    return row((label for label in labels if (label.stream, truth[label.id]["segment"]) in SHIFTED), truth)


def _of_shifted(resets: Counter[tuple[str, str]]) -> int:
    return sum(count for where, count in resets.items() if where in SHIFTED)


def _resets(out: Path, truth_path: Path) -> Counter[tuple[str, str]]:
    """How many by stream and segment: a reset lies where the last image before it does."""
    truth = read_truth(str(truth_path))
    ids = {record.coordinate: record.id for record in read_records(str(out), "labels", LabeledImage)}
    return Counter(
        (entry.stream, truth[ids[entry.coordinate]]["segment"])
        for entry in read_records(str(out), "adaptation", AdaptationLog)
        if entry.reset
    )
