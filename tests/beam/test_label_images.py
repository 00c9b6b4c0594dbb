"""`LabelImages` in a pipeline of one's own gives what a job gives, and its parts can be used alone."""

import doctest
import json
import os
import re
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.error_handling import ErrorHandler
from apache_beam.transforms.window import SlidingWindows
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

import grpo_tta.beam
from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.rows import KINDS
from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.beam import (
    ConfigurationError,
    LabelImages,
    ReadImages,
    ReadStates,
    WriteRecords,
    WriteStates,
    label,
    read,
)
from grpo_tta.beam.events import to_ref
from grpo_tta.beam.states import newest_states
from grpo_tta.demo import STREAM_PATTERN, TIME_PATTERN, write_feed
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.schemas import ImageEvent, LabeledImage
from grpo_tta.state import StreamState, encode_state

pytestmark = pytest.mark.jobs

ROOT = Path(__file__).parents[2]
VALUES: dict[str, Any] = {
    "source": {"stream_pattern": STREAM_PATTERN, "time_pattern": TIME_PATTERN},
    "model": {"threads": 1},
}
EVENT = {"id": "a", "stream": "door", "event_time": "2026-01-01T06:00:00Z", "uri": "/photos/a.jpg"}


def pipeline() -> beam.Pipeline:
    return beam.Pipeline(runner="FnApiRunner")


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cameras, and a file that is no image."""
    folder = tmp_path_factory.mktemp("beam") / "feed"
    write_feed(folder, images=36)
    broken = next(folder.glob("cam-01/*.jpg"))
    broken.write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def job(feed: Path) -> Path:
    """What the command writes of the feed."""
    out = feed.parent / "job"
    source = {**VALUES["source"], "url": str(feed)}
    run_label_job(make_config({**VALUES, "source": source, "output": {"url": str(out)}}))
    return out


def lines(folder: Path) -> dict[str, bytes]:
    return {kind: b"".join(path.read_bytes() for path in sorted((folder / kind).glob("*"))) for kind in KINDS}


def write_all(results: label.LabelResults, out: Path) -> None:
    kinds = [results.labels, results.drift, results.adaptation, results.dead_letters, results.monitor]
    _ = kinds | "All" >> beam.Flatten() | WriteRecords(str(out))


def test_the_records_and_states_are_those_of_the_command(feed: Path, job: Path, tmp_path: Path) -> None:
    with pipeline() as p:
        results = p | LabelImages.from_source(str(feed), VALUES, shards=1).with_exception_handling()
        write_all(results, tmp_path / "out")
        _ = results.states | WriteStates(str(tmp_path / "out"))
        of_job = p | "Job" >> ReadStates(str(job / "checkpoint"))
        both = {"job": of_job, "ours": results.states} | beam.CoGroupByKey()
        same = both | beam.MapTuple(lambda stream, found: (stream, list(found["job"]) == list(found["ours"])))
        assert_that(same, equal_to([(f"cam-{i:02d}", True) for i in range(1, 7)]))
    counted = {metric.key.metric.name: metric.committed for metric in p.result.metrics().query()["counters"]}
    assert lines(tmp_path / "out") == lines(job)
    assert lines(job)["dead_letters"].count(b"\n") == 1
    assert counted["num_inferences"] == 35


def test_a_run_goes_on_from_the_states_of_the_run_before(feed: Path, job: Path, tmp_path: Path) -> None:
    """Of two runs over the halves of each stream's frames, the second gives what one run gives of them."""
    refs = sorted(read.list_source(str(feed), **VALUES["source"]), key=lambda ref: ref.event_time)
    config = {**VALUES, "source": {**VALUES["source"], "url": str(feed)}}
    for half, images in (("first", refs[:18]), ("second", refs[18:])):
        with pipeline() as p:
            given = p | ReadStates(str(tmp_path / "first")) if half == "second" else None
            results = (
                p
                | "Images" >> beam.Create(images)
                | LabelImages(config, states=given, shards=3).with_exception_handling()
            )
            write_all(results, tmp_path / half)
            _ = results.states | WriteStates(str(tmp_path / half))
    key = re.compile(rb'"coordinate":"([^"]+)".*"update_count":(\d+)')
    halves = sorted(key.findall(lines(tmp_path / "first")["labels"] + lines(tmp_path / "second")["labels"]))
    assert halves == sorted(key.findall(lines(job)["labels"]))


def test_events_rows_and_mappings_are_the_same_event() -> None:
    row = {**EVENT, "event_time": Timestamp.from_rfc3339(EVENT["event_time"]), "attributes": {"b": "2", "a": "1"}}
    made = to_ref(beam.Row(**row))
    assert made == to_ref(ImageEvent.model_validate({"schema_version": "1", **EVENT, "attributes": row["attributes"]}))
    assert isinstance(made, ImageRef)
    assert (made.coordinate, made.attributes) == ("a", (("a", "1"), ("b", "2")))
    inline = {**EVENT, "uri": None, "data": b"\xff\xd8raw", "coordinate": "mine-17"}
    assert to_ref(inline)[:6] == ("mine-17", "a", "door", made.event_time, None, b"\xff\xd8raw")
    bad = to_ref({**EVENT, "event_time": "yesterday"})
    assert isinstance(bad, BadRecord)
    assert (bad.coordinate, bad.stage) == ("a", "decode_event")
    assert isinstance(to_ref({**EVENT, "uri": "m.jsonl#bytes=0-9"}), BadRecord)
    for held in (bytearray(b"\xff\xd8raw"), memoryview(b"\xff\xd8raw")):
        assert to_ref({**inline, "data": held}) == to_ref(inline)
    numbered = to_ref({**EVENT, "coordinate": 0})
    assert numbered == made._replace(coordinate="0", attributes=())


def test_of_several_states_of_a_stream_the_one_of_the_newest_image_counts() -> None:
    of = {at: encode_state(StreamState({}, {}, {}, {"event_time": at}, "m", "m", "s")) for at in (5, 7, 6)}
    assert newest_states(("a", state) for state in of.values()) == {"a": of[7]}


@pytest.mark.parametrize(
    ("element", "named", "why"),
    [
        *((one, "(no id)", f"an event is .*, got {type(one).__name__}") for one in (None, 7, "a", b"a", ["a"], ("a",))),
        ({}, "(no id)", "id: Field required"),
        ({**EVENT, "id": ""}, "(no id)", "id: "),
        ({**EVENT, "event_time": MAX_TIMESTAMP}, "a", "event_time: .* years 1 to 9999"),
        ({**EVENT, "event_time": MIN_TIMESTAMP, "coordinate": "c"}, "c", "event_time: .* years 1 to 9999"),
        ({**EVENT, "coordinate": np.zeros(2)}, "a", "coordinate: .* got ndarray"),
        ({**EVENT, "coordinate": b"c"}, "a", "coordinate: .* got bytes"),
        ({**EVENT, "coordinate": object()}, "a", "coordinate: .* got object"),
        ({**EVENT, "coordinate": True}, "a", "coordinate: .* got bool"),
        ({**EVENT, "uri": None, "data": np.zeros(2, np.uint8)}, "a", "data: "),
        ({**EVENT, None: 1, ("b", 2): 3}, "a", "Keys should be strings"),
    ],
)
def test_whatever_an_element_is_it_is_an_event_or_a_dead_letter(element: Any, named: str, why: str) -> None:
    bad = to_ref(element)
    assert isinstance(bad, BadRecord)
    assert (bad.coordinate, bad.stage) == (named, "decode_event")
    assert re.search(why, bad.error_message)


@pytest.mark.parametrize("handled", [False, True])
def test_what_cannot_be_labelled_fails_the_pipeline_unless_it_is_handled(handled: bool, tmp_path: Path) -> None:
    events = [{**EVENT, "id": "x", "event_time": "never"}]
    step = LabelImages({"model": {"threads": 1}})
    if not handled:
        with pytest.raises(Exception, match="x: decode_event: ValidationError"), pipeline() as p:
            _ = p | beam.Create(events) | step
        return
    with pipeline() as p, ErrorHandler(WriteRecords(str(tmp_path))) as errors:
        results = p | beam.Create(events) | step.with_error_handler(errors)
        assert_that(results.dead_letters | beam.Map(lambda letter: letter.coordinate), equal_to(["x"]))
    assert b'"coordinate":"x"' in lines(tmp_path)["dead_letters"]
    with pytest.raises(Exception, match="1 of 1 events could not"), pipeline() as p:
        _ = p | beam.Create(events) | LabelImages({}).with_exception_handling(threshold=0.5)


def test_what_cannot_work_is_said_when_the_pipeline_is_made() -> None:
    with pytest.raises(ConfigurationError, match="method"):
        LabelImages({"method": {"name": "none"}})
    with pytest.raises(ConfigurationError, match="'photos' is relative"):
        LabelImages({"source": {"allow_uris": ["photos"]}})
    with pytest.raises(ValueError, match="shards must be >= 1"):
        LabelImages({}, shards=0)
    for url in ("kafka://localhost:1/a", "nope://a", "", None):
        for step in (WriteRecords, WriteStates, ReadStates, ReadImages):
            with pytest.raises(ConfigurationError, match=r"no place for files|no source"):
                step(url)
    for number in (0, True, "4", 0.5):
        with pytest.raises(ValueError, match="shards must be >= 1"):
            WriteRecords("out", shards=number)
    with pytest.raises(ConfigurationError, match=r"a configuration is .*, got NoneType"):
        LabelImages(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"LabelImages.config. is applied to a PCollection"):
        _ = pipeline() | LabelImages({})
    with pytest.raises(ConfigurationError, match=r"LabelImages.config. is applied to a PCollection"):
        _ = pipeline() | beam.Create([EVENT]) | LabelImages.from_source("photos", {})
    with pytest.raises(ValueError, match="file_format"):
        WriteRecords("out", "csv")  # type: ignore[arg-type]
    twice = pipeline() | beam.Create([EVENT]) | beam.WindowInto(SlidingWindows(60, 30))
    for step in (LabelImages({}), WriteRecords("out")):
        with pytest.raises(ConfigurationError, match="several of the SlidingWindows"):
            _ = twice | step
    records = pipeline() | beam.Create([]).with_output_types(LabeledImage)
    _ = records | WriteRecords("out"), records | "Elsewhere" >> WriteRecords("out2")
    with pytest.raises(ConfigurationError, match="two steps of the pipeline write labels to 'out/'"):
        _ = records | "Again" >> WriteRecords("out/")
    states = records | beam.Map(lambda record: (record.stream, b""))
    _ = states | WriteStates("out")
    with pytest.raises(ConfigurationError, match="two steps of the pipeline write states to 'out'"):
        _ = states | "Once more" >> WriteStates("out")
    with pytest.raises(ConfigurationError, match="one topic"):
        grpo_tta.beam.WriteRecordsToKafka("kafka://localhost:1/a,b")


@pytest.mark.parametrize(
    ("runner", "why"),
    [
        (
            "apache_beam.runners.dask.dask_runner.DaskRunner",
            "DaskRunner is not supported for LabelImages: it gives all",
        ),
        ("SparkRunner", "SparkRunner is not supported for LabelImages: it was never tried"),
    ],
)
def test_a_runner_that_cannot_label_a_bounded_input_is_refused_when_the_pipeline_is_made(runner: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{why}.*FnApiRunner or PrismRunner; .* --runner DaskRunner"):
        _ = beam.Pipeline(runner=runner) | LabelImages.from_source("photos", {})


def test_beams_default_runner_labels_a_bounded_input(feed: Path, tmp_path: Path) -> None:
    """It is Prism where Beam finds that, else FnApiRunner."""
    with beam.Pipeline(options=PipelineOptions([f"--prism_location={tmp_path}/none"])) as p:
        frozen = {**VALUES, "method": {"name": "zero-shot"}}
        results = p | LabelImages.from_source(str(feed), frozen).with_exception_handling()
        assert_that(results.labels | beam.combiners.Count.Globally(), equal_to([35]))


def test_hints_are_for_the_step_with_the_model() -> None:
    p = pipeline()
    step = LabelImages({"model": {"device": "cuda"}}).with_resource_hints(min_ram="4GB")
    _ = p | beam.Create([EVENT]) | step
    hinted = {}

    class Look(beam.pipeline.PipelineVisitor):
        def visit_transform(self, node: Any) -> None:
            if node.transform is not None and node.transform.get_resource_hints():
                hinted[node.full_label] = sorted(node.transform.get_resource_hints())

    p.visit(Look())
    ((where, hints),) = hinted.items()
    assert where.startswith("LabelImages/LabelStreams/")
    assert [urn.split(":")[-2] for urn in hints] == ["max_active_bundles_per_worker", "min_ram_bytes"]


def test_the_examples_of_docstrings_and_page_run(feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = next(feed.glob("cam-02/*.jpg")).read_bytes()
    for place in ("photos/a.jpg", "cameras/door/b.jpg"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(picture)
    manifest = {"schema_version": "1", **EVENT, "uri": "photos/a.jpg"}
    (tmp_path / "events.jsonl").write_text(json.dumps(manifest) + "\n")
    monkeypatch.chdir(tmp_path)
    names = {"beam": beam, "os": os, **vars(grpo_tta.beam)}
    runner = doctest.DocTestRunner()
    examples = doctest.DocTestFinder(recurse=False)
    for item in (LabelImages, ReadImages):
        for example in examples.find(item, item.__name__, globs=dict(names)):
            runner.run(example)
    page = ROOT / "docs/beam.md"
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        if "kafka://" not in code:  # those are run by test_prism.py
            exec(compile(code, str(page), "exec"), {})
    assert runner.summarize().failed == 0
    assert [record.id for record in read_records("out", "labels", LabeledImage)] == ["a"]
