"""What this package asks of Beam beyond its documented interface; a release that changes it is to fail here."""

import inspect

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DebugOptions, DirectOptions, PipelineOptions
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.transforms import core
from apache_beam.transforms.userstate import is_stateful_dofn

from grpo_tta.pipeline.config.sections import RunConfig
from grpo_tta.pipeline.run import runner
from grpo_tta.pipeline.run.runner import make_pipeline


def test_beam_samples_as_this_package_expects() -> None:
    make_pipeline(RunConfig())
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(StateSampler.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    assert defaults == {"sampling_period_ms": 10}
    assert StateSampler("test", None).sampling_period_ms == 10


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


def test_what_a_step_takes_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Step(beam.DoFn):
        def process(self, element, other=1, *, kept=2):  # type: ignore[no-untyped-def]
            yield element

    make_pipeline(RunConfig())
    plain = runner._look(Step().process)
    assert core.get_function_arguments(Step(), "process") == plain == (["element", "other"], [1])
    assert not is_stateful_dofn(Step())
    assert runner._signatures[Step.process] == plain
    monkeypatch.delattr(runner, "_look")
    assert not is_stateful_dofn(Step())
