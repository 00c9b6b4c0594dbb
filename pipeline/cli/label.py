"""``grpo-tta label``, ``check`` and ``calibrate``: the commands that load a model and read a source."""

import argparse
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from grpo_tta.adapters.kafka.errors import KafkaFailure
from grpo_tta.adapters.rows import KINDS
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.adapters.video.container import SUFFIXES as VIDEO_SUFFIXES
from grpo_tta.pipeline.cli.columns import print_columns
from grpo_tta.pipeline.cli.console import check_replaceable, say
from grpo_tta.pipeline.cli.flags import check_values, job_values
from grpo_tta.pipeline.cli.progress import CountedWatch, ListedWatch, LiveWatch
from grpo_tta.pipeline.cli.stopping import StopRequest
from grpo_tta.pipeline.config.job import JobConfig, is_kafka, make_config
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.label.load import images_labelled
from grpo_tta.pipeline.printable import printable
from grpo_tta.pipeline.run import calibrate as calibration
from grpo_tta.pipeline.run.accuracy import calibrate_accuracy
from grpo_tta.pipeline.run.bounded import SUMMARY, run_label_job
from grpo_tta.pipeline.run.check import MOST_COUNTED, Checked, check_job
from grpo_tta.pipeline.run.cluster import run_on_cluster
from grpo_tta.pipeline.run.live_job import run_live_job
from grpo_tta.pipeline.run.runner import DASK
from grpo_tta.schemas import DeadLetter, Summary

Flags = argparse.Namespace
_STREAMS_SHOWN = 20


def label(flags: Flags, beam_options: list[str]) -> int:
    """Run or resume a job."""
    config = make_config(job_values(flags, beam_options))
    return run_live(config) if is_kafka(config.source.url) else run_and_report(config)


def run_and_report(config: JobConfig) -> int:
    """Run a job, say how far it is and then what came of it."""
    job = ResolvedJob.of(config)
    run = run_on_cluster if config.run.runner == DASK else run_label_job
    with StopRequest() as stop, ListedWatch(lambda: images_labelled(job)) as progress:
        result = run(job, progress=progress, stop=stop)
    summary, out = result.summary, config.output.url
    if config.run.shard is not None:
        print(f"shard {config.run.shard} {'is done' if result.finished else 'stopped'}; the figures are of all shards")
    if result.did_nothing:
        print(f"already finished: {summary.events} events are labelled in {out}; nothing was done")
        return 0
    _show_summary(config, summary)
    print(f"results in {out}: {' '.join(_written(config, summary))}")
    if summary.dead_letters and not summary.labels:
        first = next(read_records(out, "dead_letters", DeadLetter))
        say(
            f"no image could be labelled; the first: {first.coordinate}: {first.stage}: {first.error_message}",
            logging.WARNING,
        )
    if not result.finished:
        print("stopped at a slice's end; run the same command again to go on")
        return 130 if stop() else 1
    return 0


def _show_summary(config: JobConfig, summary: Summary) -> None:
    resets = ", ".join(f"{cause} {count}" for cause, count in sorted(summary.resets.items())) or "none"
    print(
        f"events {summary.events}, labels {summary.labels}, dead letters {summary.dead_letters}, "
        f"drift events {summary.drift_events}"
    )
    forgotten = f" ({summary.forgotten} forgotten)" if summary.forgotten else ""
    print(f"streams {summary.streams}{forgotten}, updates {summary.updates}, resets: {resets}")
    print(f"{summary.images_per_second:.1f} images/s over {summary.seconds:.1f} s")
    _show_passed_over(config, summary.passed_over)
    if summary.notices:
        print(f"taken, but: {_counted(summary.notices)}")


def _show_passed_over(config: JobConfig, counts: Mapping[str, int]) -> None:
    """Where there are any; and how videos become events."""
    if not counts:
        return
    videos = not config.source.every and not config.source.follow and counts.keys() & set(VIDEO_SUFFIXES)
    print(printable(f"passed over: {_counted(counts)}{' (videos: --every 1s)' if videos else ''}"))


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in counts.items())


def _written(config: JobConfig, summary: Summary) -> Iterator[str]:
    """What the first output holds."""
    if not is_kafka(config.output.url):
        store = ObjectStore(config.output.url)
        yield from (f"{kind}/" for kind in KINDS if store.names(f"{kind}/"))
        yield SUMMARY


def run_live(config: JobConfig) -> int:
    """Label until asked to stop or until ``kafka.until``; the exit code."""
    with StopRequest() as stop, LiveWatch() as watch:
        try:
            run_live_job(config, progress=watch, stop=stop)
        except KafkaFailure as error:
            raise JobError(str(error)) from error
    print(f"{watch.images} images labelled, {watch.counters.dead_letters} dead letters; positions are committed")
    return 130 if stop() else 0


def check(flags: Flags, beam_options: list[str]) -> int:
    """Configuration, access, ten images labelled; nothing is written. 1 where one of the ten cannot be labelled."""
    config = make_config(check_values(flags, beam_options))
    try:
        checked = check_job(config, images=10)
    except KafkaFailure as error:
        raise JobError(str(error)) from error
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
    _show_streams(config, checked)
    _show_passed_over(config, checked.passed_over)
    for warning in checked.warnings(config):
        say(f"warning: {warning}", logging.WARNING)
    print(
        f"{len(labeled.labels)} of {len(labeled.labels) + len(labeled.dead_letters)} images labelled, nothing written"
    )
    return 1 if labeled.dead_letters else 0


def _show_streams(config: JobConfig, checked: Checked) -> None:
    """The largest streams with their counts."""
    begun = f" of the first {checked.looked_at} records" if checked.looked_at >= MOST_COUNTED else ""
    if is_kafka(config.source.url):
        begun = f" of the newest {checked.looked_at} records"
    largest = sorted(checked.streams.items(), key=lambda one: (-one[1], one[0]))
    shown = ", ".join(f"{stream} {count}" for stream, count in largest[:_STREAMS_SHOWN])
    more = len(checked.streams) - _STREAMS_SHOWN
    print(printable(f"{len(checked.streams)} streams{begun}: {shown}" + (f", and {more} more" if more > 0 else "")))


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
        with CountedWatch() as progress:
            made = calibration.calibrate(config, flags.max_images, progress)
        _replace(Path(flags.reference), made.data)
        print(f"reference of {made.images} images written to {flags.reference}; {made.unread} could not be read")
        print(f"model {made.model_fingerprint}")
    if flags.accuracy:
        with CountedWatch() as progress:
            accuracy, unread = calibrate_accuracy(make_config(values), flags.truth, flags.max_images, progress)
        _replace(Path(flags.accuracy), accuracy.to_json().encode())
        said = f"accuracy calibration of {accuracy.images} labelled images written to {flags.accuracy}"
        print(f"{said}; {unread} could not be read")
        for name, side in (("adapted", accuracy.adapted), ("frozen", accuracy.frozen)):
            if side is not None:
                print(
                    f"{name}: accuracy {100 * side.accuracy:.1f} %, estimates in windows of {accuracy.window} images "
                    f"+-{100 * side.width.bound:.1f} points"
                )
    return 0


def _check_writable(name: str, path: str | None) -> None:
    if path:
        check_replaceable(f"--{name}", path)
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
