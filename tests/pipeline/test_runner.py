"""What this package asks of Beam beyond its documented interface; a release that changes it is to fail here."""

import inspect

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker.statesampler import StateSampler

from grpo_tta.pipeline.config.sections import RunConfig
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
