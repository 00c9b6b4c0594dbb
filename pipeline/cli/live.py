"""The commands of live jobs: label a Kafka source, look at a checkpoint, ask for a reset, send dead letters again."""

import argparse
import sys
import time
from collections.abc import Iterator

from grpo_tta.adapters.kafka.errors import KafkaFailure
from grpo_tta.adapters.kafka.replay import read_values, replay
from grpo_tta.adapters.kafka.settings import KafkaAddress, KafkaSecurity, KafkaSettings
from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.pipeline.cli.columns import print_columns
from grpo_tta.pipeline.cli.stopping import StopRequest
from grpo_tta.pipeline.config.job import JobConfig, is_kafka, make_config, merged, read_config_file
from grpo_tta.pipeline.config.kafka import security_of
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run.live import LiveProgress
from grpo_tta.pipeline.run.live_job import run_live_job
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.status import Status, read_status, request_reset
from grpo_tta.schemas import DeadLetter

_PROGRESS_SECONDS = 5.0


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


def status(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """Print partitions and streams."""
    found = read_status(flags.checkpoint)
    if flags.json:
        print(found.to_json())
        return 0
    _print_status(found)
    return 0


def _print_status(found: Status) -> None:
    lines = [["partition", "position", "end", "lag", "epoch", "owner", "events", "labels", "dead letters"]]
    lines += [
        [
            one.partition, _text(one.position), _text(one.end), _text(one.lag), _text(one.epoch), _text(one.owner),
            str(one.events), str(one.labels), str(one.dead_letters),
        ]
        for one in found.partitions
    ]  # fmt: skip
    print_columns(lines)
    lines = [["stream", "partition", "frames", "updates", "since reset", "warming up", "newest", "last reset", "cause"]]
    lines += [
        [
            one.stream, one.partition, str(one.frames), str(one.updates), str(one.frames_since_reset),
            "yes" if one.warming_up else "-", _text(one.newest), _text(one.last_reset), _text(one.last_reset_cause),
        ]
        for one in found.streams
    ]  # fmt: skip
    print()
    print_columns(lines)


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def reset(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """Ask for a stream's reset."""
    asked = request_reset(flags.checkpoint, flags.stream)
    print(f"stream {flags.stream} is reset before its next image, in {', '.join(asked)}")
    return 0


def dead_letters(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """Send the events of dead letters to the source's topics again; 1 where some cannot be."""
    security = _security(flags.config)
    source, topics = _cluster(flags.source, "--source", security)
    try:
        letters = [letter for letter in _letters(flags.come_from, security) if _wanted(letter, flags)]
        result = replay(source, topics, [letter.coordinate for letter in letters], dry_run=flags.dry_run)
    except KafkaFailure as error:
        raise JobError(str(error)) from error
    except ValueError as error:
        raise JobError(f"{flags.come_from}: {error}") from error
    for coordinate, reason in result.left:
        print(f"{coordinate}: not sent: {reason}")
    print(
        f"{len(result.sent)} events {'would be' if flags.dry_run else 'were'} sent again, {len(result.left)} cannot be"
    )
    return 1 if result.left else 0


def _letters(url: str, security: KafkaSecurity) -> Iterator[DeadLetter]:
    """Those of a job's folder or bucket, or of a topic."""
    if not is_kafka(url):
        yield from read_records(url, "dead_letters", DeadLetter)
        return
    settings, topics = _cluster(url, "--from", security)
    for topic in topics:
        for value in read_values(settings, topic):
            yield DeadLetter.model_validate_json(value)


def _wanted(letter: DeadLetter, flags: argparse.Namespace) -> bool:
    return flags.stage in (None, letter.stage) and flags.stream in (None, letter.stream)


def _cluster(url: str, flag: str, security: KafkaSecurity) -> tuple[KafkaSettings, tuple[str, ...]]:
    """A cluster and topics."""
    try:
        address = KafkaAddress.parse(url)
        return KafkaSettings(address.servers, security), address.topics
    except ValueError as error:
        raise ConfigurationError(f"{flag}: {error}") from error


def _security(config_file: str | None) -> KafkaSecurity:
    """Of a job's configuration file, or else of the environment; raises `ConfigurationError`."""
    unused = {"source": {"url": "unused"}, "output": {"url": "unused"}}
    values = merged(unused, read_config_file(config_file)) if config_file else unused
    return security_of(make_config(values))
