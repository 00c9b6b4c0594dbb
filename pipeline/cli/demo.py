"""``grpo-tta demo``: a feed of drifting cameras, labelled, the table of what came of it, and the page about it."""

import argparse
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from rich.text import Text

from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.demo import (
    STREAM_PATTERN,
    TIME_PATTERN,
    FeedSummary,
    read_summary,
    reference_path,
    write_feed,
)
from grpo_tta.demo.feed import DEFAULT_IMAGES, SHIFTED
from grpo_tta.pipeline.cli.columns import print_columns
from grpo_tta.pipeline.cli.console import results, say
from grpo_tta.pipeline.cli.evaluate import figures
from grpo_tta.pipeline.cli.label import run_and_report
from grpo_tta.pipeline.cli.report import print_written
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.report.report import ReportRequest, write_report
from grpo_tta.pipeline.run.evaluate import evaluate, read_truth, row, truth_series
from grpo_tta.schemas import AdaptationLog, LabeledImage

STRETCH = "30s"
"""Of a record of ``monitor/``: the feed's conditions last minutes."""


_HEAD = ("stream", "segment", "n", "frozen", "GRPO-TTA", "gain", "resets")
_GAIN = _HEAD.index("gain")


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
        truth = feed / "truth.jsonl"
        print_table(out, truth)
        print()
        request = ReportRequest(str(out), out / "report.html")
        print_written(write_report(request, truth_series(str(out), str(truth))))
        _print_what_to_look_at(out)
    return code


def _print_what_to_look_at(out: Path) -> None:
    places = {
        "report.html": "which cameras drifted, and what they looked like: open it in a browser",
        "labels": "a line an image, with the adapted and the frozen label",
        "drift": "what the guard saw, and when",
        "adaptation": "every update and reset of a camera",
        "feed": "the pictures themselves",
    }
    results.print("\nlook at", style="bold")
    there = [[str(out / name), about] for name, about in places.items() if (out / name).exists()]
    width = max(len(place) for place, _ in there)
    for place, about in there:
        results.print(Text(f"  {place.ljust(width)}  ", "cyan").append(about, "default"))
    results.print("A shift resets a camera here (--on-shift reset), to show it; the default only reports it.")
    results.print("Your own images: grpo-tta check --source FOLDER")


def _write(folder: Path, seed: int, images: int) -> FeedSummary:
    try:
        return write_feed(folder, seed, images)
    except (ValueError, FileExistsError) as error:
        raise ConfigurationError(str(error)) from error


def _feed(folder: Path, seed: int, images: int) -> None:
    """Write the feed unless it is there already; one of another seed or size is not labelled in its place."""
    there = read_summary(folder)
    if there is None:
        say(f"writing {images} images to {folder}")
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
    print(f"  grpo-tta label --source {feed.out} --out OUT --time-pattern auto")


def print_table(out: Path, truth_path: Path) -> None:
    """Accuracy and resets by stream and segment of the demo feed, labelled into ``out``."""
    by = ["stream", "segment"]
    result = evaluate(str(out), str(truth_path), by)
    resets = _resets(out, truth_path)
    lines = [list(_HEAD)]
    for group in result["groups"]:
        place = (group["stream"], group["segment"])
        lines.append([*place, *figures(group)[:4], str(resets[place])])
    lines.append(["shifted", "", *figures(_shifted_row(out, truth_path))[:4], str(_of_shifted(resets))])
    lines.append(["all", "", *figures(result["all"])[:4], str(sum(resets.values()))])
    print()
    print_columns(lines, style=_style)


def _style(line: list[str], column: int) -> str:
    if column == _GAIN and line[column]:
        return "green" if float(line[column]) > 0 else "red" if float(line[column]) < 0 else ""
    return "bold" if line[0] in ("shifted", "all") else ""


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
