"""Which Beam runners can run the graph, and a pipeline made for one."""

import inspect
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, _BeamArgumentParser
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.transforms import core

from grpo_tta.pipeline.config.sections import RunConfig
from grpo_tta.pipeline.config.values import option_name
from grpo_tta.pipeline.errors import ConfigurationError

_KNOWN_TO_FAIL = {
    "DirectRunner": "it means different runners on different machines; name FnApiRunner or PrismRunner",
    "DaskRunner": "it gives all outputs of a step to whoever takes one; on several machines start one job a --shard",
    "SparkRunner": "nobody has run this graph on it; on several machines start one job a --shard",
}

IN_PROCESS = "FnApiRunner"
_SHARDS_ELSEWHERE = 16
_SAMPLING_MILLISECONDS = 10


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
    if transactional and not _in_this_process(run):
        raise ConfigurationError(
            "kafka.transactional: a transaction's records are sent by the process that began it, so the steps must run "
            f"in this one: by {IN_PROCESS} (run.runner is {run.runner}), without --direct_running_mode=multi_processing"
        )
    # A job server has options of its own, which only it can judge.
    unknown = [] if isinstance(pipeline.runner, PortableRunner) else _unknown_options(run.beam_options)
    if unknown:
        raise ConfigurationError(
            f"options after -- go to Beam, which does not know {' '.join(map(option_name, unknown))}: "
            "options of grpo-tta itself come before --"
        )


def shards_of(run: RunConfig) -> int:
    """In how many groups a new plan has a partition's streams, side by side: as many as the in-process runner has
    workers; of another runner, whose workers nobody knows here, a few."""
    if run.runner != IN_PROCESS:
        return _SHARDS_ELSEWHERE
    asked = int(PipelineOptions(list(run.beam_options)).view_as(DirectOptions).direct_num_workers)
    return asked or os.cpu_count() or 1


def _in_this_process(run: RunConfig) -> bool:
    mode = PipelineOptions(list(run.beam_options)).view_as(DirectOptions).direct_running_mode
    return run.runner == IN_PROCESS and str(mode) != "multi_processing"


def _unknown_options(options: Sequence[str]) -> list[str]:
    """What none of Beam's option classes takes; Beam itself drops it in silence."""
    parser = _BeamArgumentParser(allow_abbrev=False)
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)
    return list(parser.parse_known_args(list(options))[1])


def make_pipeline(run: RunConfig) -> beam.Pipeline:
    """An empty one, whose bundles end at once."""
    _sample_often()
    _remember_signatures()
    return beam.Pipeline(runner=run.runner, options=_Options(list(run.beam_options)))


View = TypeVar("View", bound=PipelineOptions)


class _Options(PipelineOptions):
    """Options whose views are made once: each view builds a parser of command lines, and Beam asks for them again and
    again."""

    def view_as(self, cls: type[View]) -> View:
        """As Beam's; all views have their values in one place."""
        views: dict[type[PipelineOptions], Any] = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        view: View = views[cls]
        return view

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_views"}


_signatures: "WeakKeyDictionary[Any, tuple[list[str], list[Any]]]" = WeakKeyDictionary()
_look: Callable[[Any], tuple[list[str], list[Any]]] = core.get_function_args_defaults


def _remember_signatures() -> None:
    """Beam looks again and again at what the methods of its steps take; of one method it is always the same."""
    core.get_function_args_defaults = _remembered


def _remembered(function: Any) -> tuple[list[str], list[Any]]:
    if not inspect.ismethod(function):
        return _look(function)
    if function.__func__ not in _signatures:
        _signatures[function.__func__] = _look(function)
    names, defaults = _signatures[function.__func__]
    return list(names), list(defaults)


def _sample_often() -> None:
    """Each bundle, of which a slice has several, ends by waiting for a thread that samples what it did, and that sleeps
    up to 200 ms at a time. Beam has no option for it; what is changed here is a default that
    `test_runner.py::test_beam_samples_as_this_package_expects` looks at."""
    StateSampler.__init__.__defaults__ = (_SAMPLING_MILLISECONDS,)
