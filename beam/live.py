"""``python -m grpo_tta.beam.live`` labels a Kafka topic continuously on a Beam runner that streams (docs/deploy.md).

It is what a pipeline of one's own would be: an endless source, the labelling, sinks, states on the way to the next run,
offsets committed behind the sinks.
"""

import argparse
import sys
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions

from grpo_tta.adapters.rows import KINDS
from grpo_tta.beam.commit import EVENTS, CommitOffsets
from grpo_tta.beam.config import Config, config_of
from grpo_tta.beam.label import LabelImages
from grpo_tta.beam.read import ReadImagesFromKafka
from grpo_tta.beam.runners import wait_until_finish
from grpo_tta.beam.states import WriteStates
from grpo_tta.beam.write import WriteRecords, WriteRecordsToKafka
from grpo_tta.pipeline.cli import exit_code
from grpo_tta.pipeline.cli.console import set_up
from grpo_tta.pipeline.cli.parser import add_general_flags
from grpo_tta.pipeline.config.job import is_kafka, parse_duration
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run.runner import check_reached

_NO_PIP = "disable_logging_submission_environment"
"""Beam would run pip, which an environment of make does not have, and warn."""
_LONGEST = 400


def build(pipeline: beam.Pipeline, source: str, out: str, states: str, config: Config) -> None:
    """Add the steps to ``pipeline``. ``source`` is a ``kafka://`` address, ``out`` one too or a folder or bucket,
    ``states`` a folder or bucket. Nothing is connected here. Raises `ConfigurationError`."""
    job = config_of(config, source={"url": source}, output={"url": out}, checkpoint={"url": states})
    kafka = job.plain()["kafka"]
    lateness = parse_duration(job.event_time.allowed_lateness) / 1e6
    read = pipeline | ReadImagesFromKafka(source, kafka, endless=True, lateness=lateness)
    results = read.images | LabelImages(job, states=states).with_exception_handling()
    written = {}
    for kind in KINDS:
        sink = WriteRecordsToKafka(out, kafka) if is_kafka(out) else WriteRecords(out, job.output.format)
        written[kind] = getattr(results, kind) | f"Write {kind}" >> sink
    _ = results.states | WriteStates(states)
    _ = read.spans | CommitOffsets(source, kafka, written=[written[kind] for kind in EVENTS])


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m grpo_tta.beam.live",
        description="Label a Kafka topic continuously on Prism, Flink or Dataflow.",
        epilog="Runners and their options: docs/deploy.md.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--source", required=True, metavar="kafka://HOST:PORT/TOPIC", help="the topic of image events")
    add("--out", required=True, metavar="URL", help="a folder, bucket or kafka://HOST:PORT/LABELS_TOPIC")
    add("--states", required=True, metavar="URL", help="a folder or bucket for the states of streams")
    add("--config", metavar="FILE.yaml", help="configuration file, as of 'grpo-tta label'")
    add(
        "--give-up-after", default="5m", metavar="5m",
        help="cancel a job that made no progress for this long (default: %(default)s)",
    )  # fmt: skip
    add("beam", nargs="*", metavar="-- BEAM_OPTION", help="such as --runner and --job_endpoint")
    add_general_flags(parser, default=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the job fails, stalls or is cancelled; exit codes as of ``grpo-tta``."""
    given = make_parser().parse_args(argv)
    set_up(verbose=given.verbose, quiet=given.quiet, log_format=given.log_format)
    return exit_code(lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    try:
        parse_duration(given.give_up_after)
    except ValueError as error:
        raise ConfigurationError(f"--give-up-after: {error}") from error
    options = PipelineOptions(["--streaming", *given.beam])
    options.view_as(DebugOptions).add_experiment(_NO_PIP)
    pipeline = beam.Pipeline(options=options)
    try:
        build(pipeline, given.source, given.out, given.states, given.config or {})
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    check_reached(type(pipeline.runner).__name__, options)
    try:
        wait_until_finish(pipeline.run(), given.give_up_after)
    except JobError:
        raise
    except RuntimeError as error:  # of Beam, for a job that its runner gave up
        raise JobError(f"{reason(str(error))}; what is started again goes on from the committed offsets") from error
    return 0


def reason(said: str) -> str:
    """The line of a runner's message that says what happened, and of a worker's traceback the last one too: some
    runners add stacks of their own."""
    lines = said.strip().splitlines() or ["the job failed"]
    last = f" ... {lines[-1].strip()[:_LONGEST]}" if "Traceback (most" in said else ""
    return lines[0][:_LONGEST] + last


if __name__ == "__main__":
    sys.exit(main())
