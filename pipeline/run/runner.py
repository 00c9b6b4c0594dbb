"""Which Beam runners can run the graph, and a pipeline made for one."""

import functools
import importlib.util
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, TypeVar

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    _BeamArgumentParser,
)
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.transforms import core

from grpo_tta.adapters.storage.filesystems import lacking
from grpo_tta.pipeline.config.sections import RunConfig
from grpo_tta.pipeline.config.values import option_name
from grpo_tta.pipeline.errors import ConfigurationError

IN_PROCESS = "FnApiRunner"
DASK = "DaskRunner"
"""Runs shards of a job, not its graph (`pipeline.run.cluster`)."""
_CLASSES = {DASK: "apache_beam.runners.dask.dask_runner.DaskRunner"}
"""Of runners that Beam knows by no short name."""
_ACCEPTED = (IN_PROCESS, "PrismRunner", "PortableRunner", "FlinkRunner", "DataflowRunner", DASK)
_SHARDS_ELSEWHERE = 16
_ANSWER_SECONDS = 5
_SAMPLING_MILLISECONDS = 10


def check_runner(run: RunConfig, *, transactional: bool = False) -> None:
    """Raises `ConfigurationError` for a Beam runner that cannot run this graph, or that cannot be made; of a
    ``transactional`` job also for one whose steps are in other processes: its producers are in this one."""
    if run.runner == DASK and importlib.util.find_spec("distributed") is None:
        raise ConfigurationError(lacking(f"run.runner: {DASK}", "dask"))
    try:
        pipeline = make_pipeline(run)
        shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)  # a pipeline that never runs leaves it behind
    except (ValueError, RuntimeError, ImportError, AttributeError) as error:
        if str(error).startswith("Unexpected pipeline runner"):  # Beam goes on with all that it has itself
            raise ConfigurationError(f"run.runner: there is no {run.runner!r}: name {', '.join(_ACCEPTED)}") from error
        raise ConfigurationError(f"run.runner: {run.runner!r} cannot be made: {error}") from error
    if transactional and not _in_this_process(run):
        raise ConfigurationError(
            "kafka.transactional: a transaction's records are sent by the process that began it, so the steps must run "
            f"in this one: by {IN_PROCESS} (run.runner is {run.runner}), without --direct_running_mode=multi_processing"
        )
    check_reached(run.runner, PipelineOptions(list(run.beam_options)))
    # A job server has options of its own, which only it can judge.
    unknown = [] if isinstance(pipeline.runner, PortableRunner) else _unknown_options(run.beam_options)
    if unknown:
        raise ConfigurationError(
            f"options after -- go to Beam, which does not know {' '.join(map(option_name, unknown))}: "
            "options of grpo-tta itself come before --"
        )


def check_reached(runner: str, options: PipelineOptions) -> None:
    """Raises `ConfigurationError` where a job server that the options name does not answer, or Prism's binary is not
    there."""
    host, _, port = (options.view_as(PortableOptions).job_endpoint or "").rpartition(":")
    if runner in ("PortableRunner", "FlinkRunner") and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]") or "localhost", int(port)), _ANSWER_SECONDS).close()
        except OSError as error:
            raise ConfigurationError(
                f"--job_endpoint={host}:{port}: no job server answers ({error}): start one, as by "
                f"'prism -job_port {port}' or Flink's job server"
            ) from error
    prism = options.view_as(PrismRunnerOptions).prism_location
    if runner == "PrismRunner" and prism and "://" not in prism and not os.path.exists(prism):
        raise ConfigurationError(f"--prism_location={prism}: there is no such file; 'make prism' builds one")


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
    inspect_once()
    return beam.Pipeline(runner=_CLASSES.get(run.runner, run.runner), options=_Options(list(run.beam_options)))


View = TypeVar("View", bound=PipelineOptions)


class _Options(PipelineOptions):
    """Options whose views are made once. Each view builds a parser of command lines, and Beam asks for some hundred and
    seventy of them a slice."""

    def view_as(self, cls: type[View]) -> View:
        """As Beam's; all views have their values in one place."""
        views: dict[type[PipelineOptions], Any] = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        view: View = views[cls]
        return view

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_views"}


def _sample_often() -> None:
    """Each bundle, of which a slice has several, ends by waiting for a thread that samples what it did, and that sleeps
    up to 200 ms at a time. Beam has no option for it; what is changed here is a default that
    `test_runner.py::test_beam_samples_as_this_package_expects` looks at."""
    StateSampler.__init__.__defaults__ = (_SAMPLING_MILLISECONDS,)


_inspect = core.get_function_args_defaults


def inspect_once() -> None:
    """Have Beam look once at the arguments of each method of a class. It asks for those of all methods of all steps
    some hundred times a slice, which was more than a quarter of a small one."""
    core.get_function_args_defaults = _inspected


def _inspected(function: Callable[..., Any]) -> tuple[list[str], list[Any]]:
    """Names and defaults of a function's arguments."""
    names, defaults = _of_method(function.__func__) if isinstance(function, MethodType) else _inspect(function)
    return list(names), list(defaults)


@functools.lru_cache(maxsize=4096)
def _of_method(function: Callable[..., Any]) -> tuple[list[str], list[Any]]:
    names, defaults = _inspect(MethodType(function, object()))
    return names, defaults
