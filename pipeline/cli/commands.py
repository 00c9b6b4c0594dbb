"""What each command does, given its parsed flags; each returns the exit code."""

import argparse
import itertools
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml

from adapters.events import BadRecord, ImageRef
from adapters.images import ImageError
from adapters.storage.fetch import PermanentFetchError
from adapters.storage.sink import read_records
from adapters.storage.source import list_source
from grpo_tta.reference import ReferenceBuilder
from pipeline import labeling
from pipeline import run as job
from pipeline.cli.flags import job_values
from pipeline.config import JobConfig, make_config
from pipeline.driver import Progress
from pipeline.errors import ConfigurationError, JobError
from pipeline.evaluate import evaluate as evaluate_labels
from schemas import AdaptationLog

Flags = argparse.Namespace


def label(flags: Flags, beam_options: list[str]) -> int:
    """Run or resume a job."""
    return _label(make_config(job_values(flags, beam_options)))


def _label(config: JobConfig) -> int:
    stop = _StopRequest()
    result = job.run_label_job(config, progress=_ProgressLine(), stop=stop)
    summary, out = result.summary, config.output.url
    if result.did_nothing and summary.finished:
        print(f"already finished: {summary.events} events are labelled in {out}; nothing was done")
        return 0
    resets = ", ".join(f"{cause} {count}" for cause, count in sorted(summary.resets.items())) or "none"
    print(f"events {summary.events}, labels {summary.labels}, dead letters {summary.dead_letters}")
    print(f"streams {summary.streams}, updates {summary.updates}, resets: {resets}")
    print(f"{summary.images_per_second:.1f} images/s over {summary.seconds:.1f} s")
    print(f"results in {out}: labels/ adaptation/ drift/ dead_letters/ summary.json")
    if not summary.finished:
        print("stopped at a slice's end; run the same command again to go on")
        return 130 if stop() else 1
    return 0


class _StopRequest:
    """The first Ctrl-C or SIGTERM lets the running slice commit; the second drops it at once."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def __call__(self) -> bool:
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        print("\nstopping after this slice; once more to drop it", file=sys.stderr)


class _ProgressLine:
    """One line a committed slice; rewritten in place on a terminal."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: int | None = None

    def __call__(self, progress: Progress) -> None:
        first = self._first = progress.done if self._first is None else self._first
        elapsed = time.monotonic() - self._started
        rate = (progress.done - first) / elapsed if progress.done > first else progress.images_per_second
        left = (progress.total - progress.done) / rate if rate else 0.0
        line = (
            f"{progress.done}/{progress.total} images, {progress.images_per_second:.0f}/s, {left:.0f} s left, "
            f"resets {sum(progress.counters.resets.values())}"
        )
        end = "\r" if sys.stderr.isatty() and progress.done < progress.total else "\n"
        print(line, end=end, file=sys.stderr, flush=True)


def evaluate(flags: Flags, beam_options: list[str]) -> int:
    """Print accuracy, gain and calibration."""
    by = [key for key in flags.by.split(",") if key]
    result = evaluate_labels(flags.labels, flags.truth, by)
    if flags.json:
        print(json.dumps(result, indent=2))
        return 0
    _table(by, result)
    for key in ("labels_without_truth", "truth_without_label", "dead_letters"):
        if result[key]:
            print(f"{key.replace('_', ' ')}: {result[key]}")
    return 0


def _table(by: list[str], result: dict[str, Any]) -> None:
    head = [*by, "n", "frozen", "adapted", "gain", "interval", "ece"]
    lines = [head]
    rows = [*result["groups"], {**dict.fromkeys(by, ""), **result["all"]}]
    lines += [[*(row[key] for key in by), *_figures(row)] for row in rows]
    _print_columns(lines)


def _figures(row: dict[str, Any]) -> list[str]:
    if not row["n"]:
        return ["0", "", "", "", "", ""]
    frozen = "accuracy_frozen" in row
    return [
        str(row["n"]),
        f"{100 * row['accuracy_frozen']:.1f}" if frozen else "",
        f"{100 * row['accuracy']:.1f}",
        f"{100 * row['gain']:+.1f}" if frozen else "",
        f"{100 * row['interval'][0]:+.1f} to {100 * row['interval'][1]:+.1f}" if frozen else "",
        f"{row['ece']:.3f}",
    ]


def _print_columns(lines: list[list[str]]) -> None:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def calibrate(flags: Flags, beam_options: list[str]) -> int:
    """Make the guard's reference from a source's frozen features."""
    values = job_values(flags, beam_options)
    values.get("guard", {}).pop("reference", None)
    config = make_config({**values, "output": {"url": "unused"}, "method": {"name": "zero-shot"}})
    if flags.max_images < 1:
        raise ConfigurationError(f"--max-images must be >= 1, got {flags.max_images}")
    labeler = labeling.job_labeler(config)
    classifier = labeling.load_job_classifier(config)
    builder = ReferenceBuilder(classifier.class_vectors, classifier.fingerprint, config.guard.settings.probe_frames)
    read = labeling.ImageReader.make(config, classifier)
    refs = itertools.islice(_refs(config), flags.max_images)
    skipped = 0
    for group in iter(lambda: list(itertools.islice(refs, config.max_batch_size)), []):
        canvases = []
        for ref in group:
            try:
                canvases.append(torch.from_numpy(read(ref)))
            except (ImageError, PermanentFetchError):
                skipped += 1
        if canvases:
            features = classifier.features(classifier.normalise(torch.stack(canvases))).detach()
            builder.add(features.cpu(), classifier.probabilities(features).detach().cpu())
    try:
        reference = builder.build()
    except ValueError as error:
        raise JobError(f"calibration: {error}") from error
    Path(flags.reference).write_bytes(reference.to_bytes())
    print(f"reference of {builder.frames} images written to {flags.reference}; {skipped} could not be read")
    print(f"model {labeler.make.model_fingerprint}")
    return 0


def _refs(config: JobConfig) -> Any:
    source = config.source
    try:
        records = list_source(source.url, stream_pattern=source.stream_pattern, time_pattern=source.time_pattern)
    except ValueError as error:
        raise ConfigurationError(f"source: {error}") from error
    return (record for record in records if isinstance(record, ImageRef))


def check(flags: Flags, beam_options: list[str]) -> int:
    """Configuration, access, ten images; nothing is written."""
    config = make_config(job_values(flags, beam_options))
    labeler = labeling.job_labeler(config)
    print(
        f"model {labeler.make.model_fingerprint}, {len(labeler.make.class_names)} classes, method {labeler.make.method}"
    )
    source = config.source
    try:
        records = list_source(source.url, stream_pattern=source.stream_pattern, time_pattern=source.time_pattern)
    except ValueError as error:
        raise ConfigurationError(f"source: {error}") from error
    read = labeling.ImageReader.make(config, labeling.load_job_classifier(config))
    failed = 0
    for record in itertools.islice(records, 10):
        if isinstance(record, BadRecord):
            failed += 1
            print(f"{record.coordinate}: {record.error_class}: {record.error_message}")
            continue
        try:
            shape = read(record).shape
            print(f"{record.stream}  {record.id}: read, canvas {shape[2]}x{shape[1]}")
        except (ImageError, PermanentFetchError) as error:
            failed += 1
            print(f"{record.stream}  {record.id}: {type(error).__name__}: {error}")
    return 1 if failed else 0


def config(flags: Flags, beam_options: list[str]) -> int:
    """The effective configuration as YAML, or the JSON schema."""
    if flags.what == "schema":
        print(json.dumps(JobConfig.model_json_schema(), indent=2))
        return 0
    print(yaml.safe_dump(make_config(job_values(flags, beam_options)).plain(), sort_keys=False), end="")
    return 0


def version(flags: Flags, beam_options: list[str]) -> int:
    """Versions, a line each."""
    for name, number in job.versions().items():
        print(f"{name} {number}")
    return 0


def demo(flags: Flags, beam_options: list[str]) -> int:
    """The feed, or feed, labels and table."""
    from grpo_tta.demo import STREAM_PATTERN, TIME_PATTERN, reference_path, write_feed
    from grpo_tta.demo.feed import DEFAULT_IMAGES

    out = Path(flags.out)
    images = DEFAULT_IMAGES if flags.images is None else flags.images
    if images < 1:
        raise ConfigurationError(f"--images must be >= 1, got {images}")
    if flags.what == "feed":
        print(write_feed(out, flags.seed, images))
        return 0
    if flags.fresh and out.exists():
        shutil.rmtree(out)
    feed = out / "feed"
    if not (feed / "truth.jsonl").exists():
        print(f"writing {images} images to {feed}", file=sys.stderr)
        write_feed(feed, flags.seed, images)
    config = make_config(
        {
            "source": {"url": str(feed), "stream_pattern": STREAM_PATTERN, "time_pattern": TIME_PATTERN},
            "output": {"url": str(out)},
            "guard": {"reference": str(reference_path())},
        }
    )
    code = _label(config)
    if code == 0:
        _demo_table(out, feed / "truth.jsonl")
    return code


def _demo_table(out: Path, truth: Path) -> None:
    by = ["stream", "segment"]
    result = evaluate_labels(str(out), str(truth), by)
    resets: dict[str, int] = {}
    for row in read_records(str(out), "adaptation", AdaptationLog):
        if row.reset:
            resets[row.stream] = resets.get(row.stream, 0) + 1
    lines = [["stream", "segment", "n", "frozen", "GRPO-TTA", "gain", "resets of the stream"]]
    for row in [*result["groups"], {"stream": "all", "segment": "", **result["all"]}]:
        count = sum(resets.values()) if row["stream"] == "all" else resets.get(row["stream"], 0)
        lines.append([row["stream"], row["segment"], *_figures(row)[:4], str(count)])
    print()
    _print_columns(lines)
    places = {"feed": "feed", "labels": "labels", "log": "adaptation", "summary": "summary.json"}
    print("\n" + ", ".join(f"{what} in {out / where}" for what, where in places.items()))
