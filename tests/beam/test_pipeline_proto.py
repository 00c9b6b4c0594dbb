"""What the pipelines ask of a runner that cannot be tried here, as their protos and docs/deploy.md have it."""

import re
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.pipeline_context import PipelineContext

from grpo_tta.beam import LabelImages, WriteRecords, WriteStates
from grpo_tta.beam.live import build

PAGE = Path(__file__).parents[2] / "docs/deploy.md"
PAR_DO = common_urns.primitives.PAR_DO.urn


def made(endless: bool) -> Any:
    """A pipeline's proto; nothing is connected."""
    runner = ["--runner=PortableRunner", "--streaming"] if endless else ["--runner=FnApiRunner"]
    pipeline = beam.Pipeline(options=PipelineOptions(runner))
    if endless:
        build(pipeline, "kafka://127.0.0.1:1/images", "kafka://127.0.0.1:1/labels", "states", {})
    else:
        results = pipeline | LabelImages.from_source("photos", {}).with_exception_handling()
        _ = results.labels | WriteRecords("out")
        _ = results.states | WriteStates("out")
    proto, _ = pipeline.to_runner_api(return_context=True)
    return proto


def test_bundles_of_an_endless_input_are_kept_whole() -> None:
    """Prism splits them in the midst of a key, and loses state."""
    for endless in (True, False):
        pipeline = beam.Pipeline(options=PipelineOptions(["--runner=PortableRunner", *["--streaming"] * endless]))
        if endless:
            build(pipeline, "kafka://127.0.0.1:1/images", "kafka://127.0.0.1:1/labels", "states", {})
        experiments = pipeline.options.view_as(DebugOptions).experiments or []
        assert ("prism_disable_sdf_split" in experiments) is endless


def transforms(proto: Any, urn: str) -> list[Any]:
    return [node for node in proto.components.transforms.values() if node.spec.urn == urn]


def test_a_runner_needs_what_the_page_says() -> None:
    (row,) = re.findall(r"\| requirements of the pipeline \| (.*) \| (.*) \|", PAGE.read_text())
    for endless, said in zip((False, True), row, strict=True):
        proto = made(endless)
        needed = sorted(urn.removeprefix("beam:requirement:pardo:").removesuffix(":v1") for urn in proto.requirements)
        assert needed == re.findall(r"`(\w+)`", said)
        pardos = [api.ParDoPayload.FromString(node.spec.payload) for node in transforms(proto, PAR_DO)]
        assert not any(pardo.side_inputs or pardo.requests_finalization for pardo in pardos)
        states = {
            spec.WhichOneof("spec").removesuffix("_spec") for pardo in pardos for spec in pardo.state_specs.values()
        }
        domains = {timer.time_domain for pardo in pardos for timer in pardo.timer_family_specs.values()}
        assert states == ({"bag", "read_modify_write"} if endless else set())
        assert len(domains) == (2 if endless else 0)


def test_what_is_grouped_or_kept_has_a_coder_of_its_own() -> None:
    """Keys are the same on every machine; what a runner keeps for long is never pickled."""
    for endless, wanted in (
        (True, {"TupleCoder[BytesCoder, ImageRefCoder]", "TupleCoder[StrUtf8Coder, FastPrimitivesCoder]"}),
        (
            False,
            {
                "TupleCoder[TupleCoder[StrUtf8Coder, VarIntCoder], ImageRefCoder]",
                "TupleCoder[StrUtf8Coder, RowCoder]",
                "TupleCoder[TupleCoder[StrUtf8Coder, StrUtf8Coder], RowCoder]",
                "TupleCoder[VarIntCoder, TupleCoder[StrUtf8Coder, BytesCoder]]",
            },
        ),
    ):
        proto = made(endless)
        context = PipelineContext(proto.components)
        stateful = [node for node in transforms(proto, PAR_DO) if state_coders(node, context)]
        grouped = [*stateful, *transforms(proto, common_urns.primitives.GROUP_BY_KEY.urn)]
        inputs = [proto.components.pcollections[next(iter(node.inputs.values()))] for node in grouped]
        coders = [context.coders[collection.coder_id] for collection in inputs]
        assert all(coder.key_coder().is_deterministic() for coder in coders)
        assert {str(coder) for coder in coders} == wanted
        kept = {coder for node in stateful for coder in state_coders(node, context)}
        assert kept <= {"BytesCoder", "ImageRefCoder", "TupleCoder[VarIntCoder, VarIntCoder]"}


def state_coders(node: Any, context: Any) -> list[str]:
    """Of a ParDo's state."""
    specs = api.ParDoPayload.FromString(node.spec.payload).state_specs.values()
    found = [(spec.bag_spec.element_coder_id or spec.read_modify_write_spec.coder_id) for spec in specs]
    return [str(context.coders[coder_id]) for coder_id in found]
