"""What this package asks of Beam beyond its documented interface; a release that changes it is to fail here."""

import inspect
import socket

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DebugOptions, DirectOptions, PipelineOptions
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.transforms import core

from demo.broker.quorum import free_ports
from grpo_tta.pipeline.config.sections import RunConfig
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.run.runner import check_runner, make_pipeline


def test_beam_samples_as_this_package_expects() -> None:
    make_pipeline(RunConfig())
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(StateSampler.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    assert defaults == {"sampling_period_ms": 10}
    assert StateSampler("test", None).sampling_period_ms == 10


def test_arguments_are_those_that_beam_finds() -> None:
    def function(one: int, two: int = 2) -> None: ...

    class Step(beam.DoFn):
        def process(self, element: int, window: object = beam.DoFn.WindowParam) -> None: ...

    make_pipeline(RunConfig())
    for _ in range(2):
        assert core.get_function_arguments(Step(), "process") == (["element", "window"], [beam.DoFn.WindowParam])
        assert core.get_function_args_defaults(function) == (["one", "two"], [2])
        assert core.get_function_args_defaults(Step.process)[0] == ["self", "element", "window"]


def test_beams_option_classes_add_their_flags_as_this_package_expects() -> None:
    kinds = PipelineOptions.__subclasses__()
    assert len(kinds) > 10
    assert all(callable(kind._add_argparse_args) for kind in kinds)


def test_options_are_those_of_the_command_line_and_of_whoever_changes_them() -> None:
    made = make_pipeline(RunConfig(beam_options=("--direct_num_workers=3",)))
    options = made.options
    assert options.view_as(DirectOptions).direct_num_workers == 3
    assert options.view_as(DirectOptions) is options.view_as(DirectOptions)
    options.view_as(DebugOptions).experiments = ["one"]
    assert PipelineOptions.view_as(options, DebugOptions).experiments == ["one"]
    assert options.get_all_options()["experiments"] == ["one"]
    other = make_pipeline(RunConfig()).options
    assert (other.view_as(DirectOptions).direct_num_workers, other.view_as(DebugOptions).experiments) == (
        1,
        ["beam_fn_api"],
    )


def test_a_runner_that_is_not_there_is_said_before_anything_is_read() -> None:
    (port,) = free_ports(1)
    away = RunConfig(runner="PortableRunner", beam_options=(f"--job_endpoint=localhost:{port}",))
    with pytest.raises(ConfigurationError, match=rf"localhost:{port}: no job server answers .*'prism -job_port {port}"):
        check_runner(away)
    with socket.create_server(("localhost", port)):
        check_runner(away)
    nowhere = RunConfig(runner="PrismRunner", beam_options=("--prism_location=/nowhere/prism",))
    with pytest.raises(ConfigurationError, match="--prism_location=/nowhere/prism: there is no such file"):
        check_runner(nowhere)
    for name in ("DirectRunner", "SparkRunner"):
        with pytest.raises(ValueError, match=f"{name} is not supported: "):
            RunConfig(runner=name)


def test_a_runner_that_there_is_not_is_answered_with_those_that_are_accepted() -> None:
    with pytest.raises(ConfigurationError) as raised:
        check_runner(RunConfig(runner="Nonsense"))
    said, _, names = str(raised.value).partition(": name ")
    assert said == "run.runner: there is no 'Nonsense'"
    for name in names.split(", "):
        if name != "DataflowRunner":  # whose options cannot be without its client libraries
            check_runner(RunConfig(runner=name))
