"""A topic labelled without an end on a Beam runner that streams: ``python -m grpo_tta.beam.live``, see docs/deploy.md.

What a pipeline of one's own would have: an endless source, the labelling, sinks, states on the way to the next run,
offsets committed behind the sinks.
"""

import argparse
import sys
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from grpo_tta.adapters.rows import KINDS
from grpo_tta.beam.commit import EVENTS, CommitOffsets
from grpo_tta.beam.config import Config, config_of
from grpo_tta.beam.label import LabelImages
from grpo_tta.beam.read import ReadImagesFromKafka
from grpo_tta.beam.runners import wait_until_finish
from grpo_tta.beam.states import WriteStates
from grpo_tta.beam.write import WriteRecords, WriteRecordsToKafka
from grpo_tta.pipeline.config.job import is_kafka, parse_duration
from grpo_tta.pipeline.errors import JobError


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the job fails, stalls or is cancelled; 1 with a message in the end."""
    parser = argparse.ArgumentParser(prog="python -m grpo_tta.beam.live", description=__doc__, allow_abbrev=False)
    parser.add_argument("--source", required=True, metavar="kafka://HOST:PORT/TOPIC")
    parser.add_argument("--out", required=True, help="a folder, bucket or kafka://HOST:PORT/LABELS_TOPIC")
    parser.add_argument("--states", required=True, help="a folder or bucket for the states of streams")
    parser.add_argument("--config", help="a YAML file, as of 'grpo-tta label'")
    parser.add_argument("--give-up-after", default="5m", help="of a job that does not move (default %(default)s)")
    parser.add_argument("beam", nargs="*", metavar="-- BEAM_OPTION", help="such as --runner and --job_endpoint")
    given = parser.parse_args(argv)
    try:
        parse_duration(given.give_up_after)
        pipeline = beam.Pipeline(options=PipelineOptions(["--streaming", *given.beam]))
        build(pipeline, given.source, given.out, given.states, given.config or {})
        wait_until_finish(pipeline.run(), given.give_up_after)
    except (JobError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
