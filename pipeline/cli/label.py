"""``grpo-tta label``, ``check`` and ``calibrate``: the commands that load a model and read a source."""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from grpo_tta.adapters.kafka.errors import KafkaFailure
from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.pipeline.cli.columns import print_columns
from grpo_tta.pipeline.cli.flags import job_values
from grpo_tta.pipeline.cli.stopping import StopRequest
from grpo_tta.pipeline.config.job import JobConfig, is_kafka, make_config
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.label.load import images_labelled
from grpo_tta.pipeline.printable import printable
from grpo_tta.pipeline.run import calibrate as calibration
from grpo_tta.pipeline.run.accuracy import calibrate_accuracy
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.pipeline.run.check import MOST_COUNTED, Checked, check_job
from grpo_tta.pipeline.run.cluster import run_on_cluster
from grpo_tta.pipeline.run.driver import Progress
from grpo_tta.pipeline.run.live_job import run_live_job
from grpo_tta.pipeline.run.runner import DASK
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.progress import LiveProgress
from grpo_tta.schemas import DeadLetter

Flags = argparse.Namespace
_PROGRESS_SECONDS = 5.0
_STREAMS_SHOWN = 20


def label(flags: Flags, beam_options: list[str]) -> int:
    """Run or resume a job."""
    config = make_config(job_values(flags, beam_options))
    return run_live(config) if is_kafka(config.source.url) else run_and_report(config)


def run_and_report(config: JobConfig) -> int:
    """Run a job with progress lines and say what came of it."""
    job = ResolvedJob.of(config)
    run = run_on_cluster if config.run.runner == DASK else run_label_job
    with StopRequest() as stop, _ProgressLine(lambda: images_labelled(job)) as progress:
        result = run(job, progress=progress, stop=stop)
    summary, out = result.summary, config.output.url
    if config.run.shard is not None:
        print(f"shard {config.run.shard} {'is done' if result.finished else 'stopped'}; the figures are of all shards")
    if result.did_nothing:
        print(f"already finished: {summary.events} events are labelled in {out}; nothing was done")
        return 0
    resets = ", ".join(f"{cause} {count}" for cause, count in sorted(summary.resets.items())) or "none"
    print(f"events {summary.events}, labels {summary.labels}, dead letters {summary.dead_letters}")
    forgotten = f" ({summary.forgotten} forgotten)" if summary.forgotten else ""
    print(f"streams {summary.streams}{forgotten}, updates {summary.updates}, resets: {resets}")
    print(f"{summary.images_per_second:.1f} images/s over {summary.seconds:.1f} s")
    for what, counts in (("passed over", summary.passed_over), ("taken, but", summary.notices)):
        if counts:
            print(f"{what}: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()))
    print(f"results in {out}: labels/ adaptation/ drift/ dead_letters/ monitor/ summary.json")
    if summary.dead_letters and not summary.labels:
        first = next(read_records(out, "dead_letters", DeadLetter))
        print(
            f"no image could be labelled; the first: {first.coordinate}: {first.stage}: {first.error_message}",
            file=sys.stderr,
        )
    if not result.finished:
        print("stopped at a slice's end; run the same command again to go on")
        return 130 if stop() else 1
    return 0


class _ProgressLine:
    """Done, rate, time left and resets: every few seconds and after each commit; rewritten in place on a terminal.

    ``labelled`` counts the images of this process, those of the running slice included. The clock of the rate starts at
    the first call, which says where the job begins.
    """

    def __init__(self, labelled: Callable[[], int], seconds: float = 5.0) -> None:
        self._source = labelled
        self._most = 0
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._started = time.monotonic()
        self._first = self._labelled()
        self._at_commit = self._first
        self._begun = 0
        self._last: Progress | None = None

    def _labelled(self) -> int:
        """A labeler that its job has left counts no more."""
        self._most = max(self._most, self._source())
        return self._most

    def __enter__(self) -> "_ProgressLine":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, progress: Progress) -> None:
        self._at_commit = self._labelled()
        if self._last is None:
            self._started, self._first, self._begun = time.monotonic(), self._at_commit, progress.done
        self._last = progress
        self._say()

    def _tick(self) -> None:
        while not self._ended.wait(self._seconds):
            self._say()

    def _say(self) -> None:
        labelled, elapsed = self._labelled(), time.monotonic() - self._started
        progress = self._last
        here, there = labelled - self._first, progress.done - self._begun if progress else 0  # or in other processes
        rate = max(here, there) / elapsed if elapsed else 0.0
        if progress is None:
            print(f"loading the model and listing the source, {elapsed:.0f} s", file=sys.stderr, flush=True)
            return
        done = progress.done + labelled - self._at_commit
        left = f"{(progress.total - done) / rate:.0f} s left" if rate else "time left unknown"
        line = (
            f"{done}/{progress.total} images, {_rate(rate)}/s, {left}, resets {sum(progress.counters.resets.values())}"
        )
        end = "\r" if sys.stderr.isatty() and done < progress.total else "\n"
        print(line, end=end, file=sys.stderr, flush=True)


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def run_live(config: JobConfig) -> int:
    """Label until asked to stop or until ``kafka.until``; the exit code."""
    watch = _LiveLine()
    with StopRequest() as stop:
        try:
            run_live_job(config, progress=watch, stop=stop)
        except KafkaFailure as error:
            raise JobError(str(error)) from error
    watch.say()
    print(f"{watch.images} images labelled, {watch.dead_letters} dead letters; positions are committed")
    return 130 if stop() else 0


class _LiveLine:
    """A line every few seconds: how many, how fast, how far behind."""

    def __init__(self) -> None:
        self.images = 0
        self.dead_letters = 0
        self._resets = 0
        self._last: LiveProgress | None = None
        self._said_at = time.monotonic()
        self._said_images = 0

    def __call__(self, progress: LiveProgress) -> None:
        self.images += progress.images
        self.dead_letters += sum(result.counters.dead_letters for result in progress.results)
        self._resets += sum(sum(result.counters.resets.values()) for result in progress.results)
        self._last = progress
        if time.monotonic() - self._said_at >= _PROGRESS_SECONDS:
            self.say()

    def say(self) -> None:
        """Print it."""
        now, age = time.monotonic(), metrics.recent_age(0.95)
        rate = (self.images - self._said_images) / max(now - self._said_at, 1e-9)
        owned, lag = (len(self._last.owned), sum(self._last.lag.values())) if self._last else (0, 0)
        shown = "" if age is None else f", p95 age {age:.1f} s"
        print(
            f"{self.images} images, {rate:.0f}/s, lag {lag} in {owned} partitions{shown}, resets {self._resets}",
            file=sys.stderr,
            flush=True,
        )
        self._said_at, self._said_images = now, self.images


def check(flags: Flags, beam_options: list[str]) -> int:
    """Configuration, access, ten images labelled; nothing is written. 1 where one of the ten cannot be labelled."""
    config = make_config(job_values(flags, beam_options))
    checked = check_job(config, images=10)
    made, labeled = checked.make, checked.labeled
    print(f"model {made.model_fingerprint}, {len(made.class_names)} classes, method {made.method}")
    lines = [["stream", "id", "label", "probability", "frozen"]]
    lines += [
        [record.stream, record.id, record.label, f"{record.probability:.3f}", record.frozen_label or ""]
        for record in labeled.labels
    ]
    print_columns(lines)
    for letter in labeled.dead_letters:
        print(printable(f"{letter.coordinate}: {letter.stage}: {letter.error_class}: {letter.error_message}"))
    _show_streams(checked)
    for warning in checked.warnings(config):
        print(f"warning: {printable(warning)}", file=sys.stderr)
    print(
        f"{len(labeled.labels)} of {len(labeled.labels) + len(labeled.dead_letters)} images labelled, nothing written"
    )
    return 1 if labeled.dead_letters else 0


def _show_streams(checked: Checked) -> None:
    """The largest streams with their counts, and what is passed over."""
    begun = f" of the first {checked.looked_at} records" if checked.looked_at >= MOST_COUNTED else ""
    shown = ", ".join(f"{stream} {count}" for stream, count in checked.streams.most_common(_STREAMS_SHOWN))
    more = len(checked.streams) - _STREAMS_SHOWN
    print(printable(f"{len(checked.streams)} streams{begun}: {shown}" + (f", and {more} more" if more > 0 else "")))
    if checked.passed_over:
        print(printable("passed over: " + ", ".join(f"{kind} {count}" for kind, count in checked.passed_over.items())))


def calibrate(flags: Flags, beam_options: list[str]) -> int:
    """Make the guard's reference from a source's frozen features, and what accuracy estimates need from labelled
    images; of both, the second with the guard that the first makes."""
    if flags.max_images < 1:
        raise ConfigurationError(f"--max-images must be >= 1, got {flags.max_images}")
    if not flags.reference and not flags.accuracy:
        raise ConfigurationError("name what to write: --reference FILE, --accuracy FILE, or both")
    if bool(flags.accuracy) != bool(flags.truth):
        raise ConfigurationError("--accuracy and --truth go together")
    values = {**job_values(flags, beam_options), "output": {"url": "unused"}}
    for name in ("reference", "accuracy"):
        _check_writable(name, getattr(flags, name))
    if flags.reference:
        guard = {key: value for key, value in values.get("guard", {}).items() if key != "reference"}
        config = make_config({**values, "guard": guard, "method": {"name": "zero-shot"}})
        made = calibration.calibrate(config, flags.max_images)
        _replace(Path(flags.reference), made.data)
        print(f"reference of {made.images} images written to {flags.reference}; {made.unread} could not be read")
        print(f"model {made.model_fingerprint}")
    if flags.accuracy:
        accuracy = calibrate_accuracy(make_config(values), flags.truth, flags.max_images)
        _replace(Path(flags.accuracy), accuracy.to_json().encode())
        print(f"accuracy calibration of {accuracy.images} labelled images written to {flags.accuracy}")
        for name, side in (("adapted", accuracy.adapted), ("frozen", accuracy.frozen)):
            if side is not None:
                print(
                    f"{name}: accuracy {100 * side.accuracy:.1f} %, estimates in windows of {accuracy.window} images "
                    f"+-{100 * side.width.worst:.1f} points"
                )
    return 0


def _check_writable(name: str, path: str | None) -> None:
    folder = Path(path or ".").resolve().parent
    if path and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ConfigurationError(f"--{name} {path}: {folder} is no folder that can be written to")


def _replace(path: Path, data: bytes) -> None:
    """Write a file that is complete before it appears; a job may be reading the old one."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
