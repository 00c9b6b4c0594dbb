"""Which Beam runners can run the graph, and a pipeline made for one."""

import shutil
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, _BeamArgumentParser
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.worker.statesampler import StateSampler

from grpo_tta.pipeline.config.job import RunConfig
from grpo_tta.pipeline.config.values import option_name
from grpo_tta.pipeline.errors import ConfigurationError

_KNOWN_TO_FAIL = {
    "DirectRunner": "it means different runners on different machines; name FnApiRunner or PrismRunner",
    "DaskRunner": "it runs no stateful step",
    "SparkRunner": "nobody has seen it keep the state of a Python step",
}

# Each bundle, of which a slice has several, ends by waiting for a thread that samples what it did; left alone, the
# thread sleeps up to 200 ms at a time.
StateSampler.__init__.__defaults__ = (10,)


def check_runner(run: RunConfig, *, transactional: bool = False) -> None:
    """Raises `ConfigurationError` for a Beam runner that cannot run this graph, or that cannot be made; of a
    ``transactional`` job also for one whose steps are in other processes: its producers are in this one."""
    if run.runner in _KNOWN_TO_FAIL:
        raise ConfigurationError(f"run.runner: {run.runner} cannot run this graph: {_KNOWN_TO_FAIL[run.runner]}")
    try:
        pipeline = make_pipeline(run)
        shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)  # a pipeline that never runs leaves it behind
    except (ValueError, RuntimeError, ImportError, AttributeError) as error:
        raise ConfigurationError(f"run.runner: {run.runner!r} cannot be made: {error}") from error
    if transactional and _other_processes(run.beam_options):
        raise ConfigurationError(
            "kafka.transactional: the records of a transaction are sent by the process that began it, and "
            "--direct_running_mode=multi_processing runs the steps in others: leave one of the two out"
        )
    # A job server has options of its own, which only it can judge.
    unknown = [] if isinstance(pipeline.runner, PortableRunner) else _unknown_options(run.beam_options)
    if unknown:
        raise ConfigurationError(
            f"options after -- go to Beam, which does not know {' '.join(map(option_name, unknown))}: "
            "options of grpo-tta itself come before --"
        )


def _other_processes(options: Sequence[str]) -> bool:
    return str(PipelineOptions(list(options)).view_as(DirectOptions).direct_running_mode) == "multi_processing"


def _unknown_options(options: Sequence[str]) -> list[str]:
    """What none of Beam's option classes takes; Beam itself drops it in silence."""
    parser = _BeamArgumentParser(allow_abbrev=False)
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)
    return list(parser.parse_known_args(list(options))[1])


def make_pipeline(run: RunConfig) -> beam.Pipeline:
    """An empty one."""
    return beam.Pipeline(runner=run.runner, options=PipelineOptions(list(run.beam_options)))
