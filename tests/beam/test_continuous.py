"""`LabelImages` over an input that never ends: order, lateness, repeats, states that move, offsets behind the sink."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.metrics import monitoring_infos
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability import portable_runner
from apache_beam.testing import test_stream
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.adapters.storage.source import list_source
from grpo_tta.beam import (
    CommitOffsets,
    ConfigurationError,
    JobStalled,
    LabelImages,
    ReadImagesFromKafka,
    WriteRecords,
    WriteStates,
    wait_until_finish,
)
from grpo_tta.beam.commit import Progress
from grpo_tta.beam.config import config_of
from grpo_tta.beam.runners import _counters
from grpo_tta.beam.states import Snapshots
from grpo_tta.demo import STREAM_PATTERN, TIME_PATTERN, write_feed
from grpo_tta.pipeline.label import load
from grpo_tta.schemas import DeadLetter, LabeledImage
from grpo_tta.state import read_header

pytestmark = pytest.mark.jobs

SECOND = 1_000_000
FOREVER = 10_000_000_000


@pytest.fixture(scope="module")
def refs(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRef]:
    """Images of two cameras, a second apart, from a full minute on."""
    folder = tmp_path_factory.mktemp("continuous") / "feed"
    write_feed(folder, images=240)
    found = list_source(str(folder), stream_pattern=STREAM_PATTERN, time_pattern=TIME_PATTERN)
    images: dict[str, list[Any]] = {"cam-01": [], "cam-02": []}
    for ref in sorted(found, key=lambda ref: ref.coordinate):
        if isinstance(ref, ImageRef) and ref.stream in images:
            number = len(images[ref.stream])
            images[ref.stream].append(ref._replace(event_time=(60 + number) * SECOND))
    return images["cam-01"] + images["cam-02"]


def of(refs: list[ImageRef], stream: str, seconds: range | list[int]) -> list[ImageRef]:
    """Images of a camera by the second in which they were taken."""
    mine = [ref for ref in refs if ref.stream == stream]
    return [mine[second] for second in seconds]


class Script(test_stream.TestStream):
    """Times are seconds after the minute in which the images begin."""

    def come(self, *images: ImageRef) -> "Script":
        self.add_elements([TimestampedValue(ref, Timestamp(micros=ref.event_time)) for ref in images])
        return self

    def watermark(self, second: float) -> "Script":
        self.advance_watermark_to(Timestamp(60 + second))
        return self


_got: list[Any] = []
"""What the pipeline gave, in its order: that runner's workers are threads of this process."""


def _keep(found: Any) -> None:
    _got.append(found)


@pytest.fixture(scope="module", autouse=True)
def _one_model() -> Iterator[None]:
    """That runner sets a DoFn up for each bundle, which loads the model where nothing else holds it."""
    with pytest.MonkeyPatch.context() as patch:
        classifier = load.load_job_classifier(config_of({}))
        patch.setattr(load, "load_job_classifier", lambda config: classifier)
        yield


class Ran:
    """What a script's pipeline gave, in its order."""

    def __init__(
        self, script: test_stream.TestStream, folder: Path, states: Path, out: Path | None = None, **sections: Any
    ) -> None:
        _got.clear()
        values = {
            "source": {"allow_uris": [str(folder)]},
            "model": {"threads": 1},
            "checkpoint": {"slice_seconds": "5s", **sections.pop("checkpoint", {})},
            "event_time": {"allowed_lateness": "3s"},
            **sections,
        }
        options = PipelineOptions(["--streaming"])
        labelling = LabelImages(values, states=str(states)).with_exception_handling()
        with (
            load.labeler_of(labelling._job),
            beam.Pipeline(runner="BundleBasedDirectRunner", options=options) as pipeline,
        ):
            results = pipeline | script | labelling
            _ = results.labels | "Keep labels" >> beam.Map(_keep)
            _ = results.dead_letters | "Keep letters" >> beam.Map(_keep)
            _ = results.states | WriteStates(str(states))
            if out is not None:
                _ = results.labels | WriteRecords(str(out)) | "Keep written" >> beam.Map(_keep)
        self.written = [found for found in _got if isinstance(found, tuple)]
        self.labels = [found for found in _got if isinstance(found, LabeledImage)]
        self.letters = [found for found in _got if isinstance(found, DeadLetter)]

    def seconds(self, *, late: bool, stream: str = "cam-01") -> list[int]:
        return [round(x.event_time.timestamp()) - 60 for x in self.labels if x.stream == stream and x.late == late]


def frames(states: Path, stream: str = "cam-01") -> int:
    """How many images a stream has learnt from."""
    state = Snapshots(str(states)).get(stream)
    assert state is not None
    return read_header(state).counters["frames"]


@pytest.fixture
def folder(refs: list[ImageRef]) -> Path:
    assert refs[0].uri is not None
    return Path(refs[0].uri).parents[1]


def test_images_are_stepped_in_order_once_and_late_ones_are_not_learnt_from(
    refs: list[ImageRef], folder: Path, tmp_path: Path
) -> None:
    first = of(refs, "cam-01", [3, 1, 0, 4, 2])
    script = Script().watermark(0).come(*first).watermark(5)
    script.come(*of(refs, "cam-01", [9, 5, 8])).watermark(9.5)  # of a batch that is still open
    script.come(*of(refs, "cam-01", [7])).watermark(10)
    script.come(*of(refs, "cam-01", [6]), *of(refs, "cam-01", [4]))  # late; and one that has come before
    ran = Ran(script, folder, tmp_path)
    assert ran.seconds(late=False) == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert sorted(ran.seconds(late=True)) == [4, 6]
    assert frames(tmp_path) == 9


def test_neither_a_watermark_that_stands_still_nor_a_crowd_holds_images_back(
    refs: list[ImageRef], folder: Path, tmp_path: Path
) -> None:
    script = Script().watermark(0)
    script.come(*of(refs, "cam-02", [1, 0, 3, 2, 9]))  # the fifth is a crowd, of which the newest may have older ones
    script.come(*of(refs, "cam-02", [8, 7]), *of(refs, "cam-01", [1, 0])).advance_processing_time(FOREVER)
    script.come(*of(refs, "cam-01", [2]))
    ran = Ran(script, folder, tmp_path, checkpoint={"slice_records": 5})
    assert ran.seconds(late=False) == [0, 1, 2]
    assert ran.seconds(late=False, stream="cam-02") == [0, 1, 2, 3, 7, 8, 9]


def test_a_state_moves_between_runs_and_ways_of_running(refs: list[ImageRef], folder: Path, tmp_path: Path) -> None:
    """Bounded, then continuous with images that were read before, then bounded: as one run over all images."""
    values = {"source": {"allow_uris": [str(folder)]}, "model": {"threads": 1}}

    def bounded(images: list[ImageRef], states: Path, before: Path | None) -> None:
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            labelling = LabelImages(values, states=None if before is None else str(before))
            results = pipeline | beam.Create(images) | labelling.with_exception_handling()
            _ = results.states | WriteStates(str(states))

    bounded(of(refs, "cam-01", range(7)), tmp_path / "a", None)
    script = Script().come(*of(refs, "cam-01", range(4, 14)))
    ran = Ran(script, folder, tmp_path / "a")
    assert ran.seconds(late=True) == [4, 5, 6]
    assert frames(tmp_path / "a") == 14
    again = Ran(Script().come(*of(refs, "cam-01", range(10, 14))), folder, tmp_path / "a")
    assert again.seconds(late=False) == []
    bounded(of(refs, "cam-01", range(14, 20)), tmp_path / "b", tmp_path / "a")
    bounded(of(refs, "cam-01", range(20)), tmp_path / "c", None)
    counted = [read_header(Snapshots(str(tmp_path / name)).get("cam-01") or b"") for name in "bc"]
    assert counted[0].counters == {**counted[1].counters, "late": 7}
    assert counted[0].method == counted[1].method


def test_an_idle_stream_is_forgotten(refs: list[ImageRef], folder: Path, tmp_path: Path) -> None:
    """By its timer, and by the age of the state that it left."""
    images = of(refs, "cam-01", range(5))
    later = [ref._replace(event_time=ref.event_time + 3600 * SECOND) for ref in images[:2]]
    forget = {"forget_after": "10m"}
    script = Script().come(*images).watermark(5).advance_watermark_to(Timestamp(2**33)).come(*later)
    ran = Ran(script, folder, tmp_path / "a", checkpoint=forget)
    assert len(ran.labels) == 7
    assert frames(tmp_path / "a") == 2
    kept = Ran(Script().come(*images).watermark(5).come(*later), folder, tmp_path / "b", checkpoint=forget)
    assert len(kept.labels) == 7
    assert frames(tmp_path / "b") == 7
    Ran(Script().come(images[0]._replace(event_time=9000 * SECOND)), folder, tmp_path / "b", checkpoint=forget)
    assert frames(tmp_path / "b") == 1


def test_what_is_no_event_is_a_dead_letter_at_once(folder: Path, tmp_path: Path) -> None:
    script = test_stream.TestStream().add_elements([{"id": "x", "stream": "s", "event_time": "never", "uri": "/a.jpg"}])
    ran = Ran(script.advance_watermark_to_infinity(), folder, tmp_path)
    assert [letter.coordinate for letter in ran.letters] == ["x"]


def test_offsets_are_committed_up_to_the_first_that_is_not_safe() -> None:
    """Spans and coordinates in any order; records lie at two of three offsets."""
    chance = random.Random(5)
    bounds = [(7, 40), (40, 41), (41, 90), (90, 120)]
    records = [offset for offset in range(7, 120) if offset % 3]
    news: list[Any] = [([(7, start, stop, sum(start <= r < stop for r in records))], []) for start, stop in bounds]
    news += [([], records[start : start + 4]) for start in range(0, len(records), 4)]
    for _ in range(50):
        chance.shuffle(news)
        encoded, safe, spans = None, set[int](), set[int]()
        for spans_now, safe_now in news:
            progress = Progress(encoded)
            committed = progress.note((spans_now, safe_now))
            encoded = progress.encode()
            safe.update(safe_now)
            spans.update(offset for _, start, stop, _ in spans_now for offset in range(start, stop))
            if committed is not None:
                assert all(record in safe for record in records if record < committed)
                assert all(offset in spans for offset in range(7, committed))
        assert Progress(encoded).next == 120
        assert Progress(encoded).encode() == b'{"next": 120, "spans": [], "safe": []}'


def test_what_cannot_run_without_an_end_is_said_before_anything_is_read() -> None:
    for runner, why in (("FnApiRunner", "before the source has ended"), ("DirectRunner", "another runner on each")):
        with pytest.raises(ConfigurationError, match=why):
            beam.Pipeline(runner=runner) | ReadImagesFromKafka("kafka://127.0.0.1:1/images", endless=True)
    pipeline = beam.Pipeline(runner="BundleBasedDirectRunner", options=PipelineOptions(["--streaming"]))
    endless = pipeline | test_stream.TestStream()
    with pytest.raises(ValueError, match="must be a place"):
        _ = endless | "A" >> LabelImages({}, states=endless)
    with pytest.raises(ValueError, match="threshold must be 1"):
        _ = endless | "B" >> LabelImages({}).with_exception_handling(threshold=0.5)
    with pytest.raises(ValueError, match="written must not be empty"):
        CommitOffsets("kafka://127.0.0.1:1/images", written=[])
    with pytest.raises(ValueError, match="lateness"):
        ReadImagesFromKafka("kafka://127.0.0.1:1/images", endless=True, lateness=-1)


class Hung:
    """A job whose runner says that it runs, and does nothing."""

    state = "RUNNING"

    def metrics(self) -> Any:
        return self

    def query(self) -> Any:
        return {"counters": []}

    def cancel(self) -> None:
        self.state = "CANCELLED"


def test_a_job_that_does_not_move_is_cancelled() -> None:
    job = Hung()
    with pytest.raises(JobStalled, match=r"no counter .* though its runner says RUNNING"):
        wait_until_finish(job, "1s")
    assert job.state == "CANCELLED"


def test_a_job_server_is_asked_again_for_counters_that_move() -> None:
    """Beam's own result of a portable job remembers what it was told first."""
    asked: list[int] = []

    def metrics(_: Any) -> beam_job_api_pb2.GetJobMetricsResponse:
        asked.append(len(asked) + 1)
        info = monitoring_infos.int64_user_counter("ours", "images", asked[-1], ptransform="step")
        return beam_job_api_pb2.GetJobMetricsResponse(metrics=beam_job_api_pb2.MetricResults(attempted=[info]))

    result = portable_runner.PipelineResult(SimpleNamespace(GetJobMetrics=metrics), "job", iter(()), iter(()))
    first, second = _counters(result), _counters(result)
    assert asked == [1, 2]
    assert first is not None
    assert second is not None
    assert (list(first.values()), list(second.values())) == ([1], [2])


def test_a_bundle_is_a_file_named_by_what_it_holds(refs: list[ImageRef], folder: Path, tmp_path: Path) -> None:
    """So one that runs again writes the same file; and what it gives says what is safe."""
    for _ in range(2):
        script = Script().come(*of(refs, "cam-01", range(5))).watermark(5).come(*of(refs, "cam-01", [5, 6]))
        ran = Ran(script, folder, tmp_path / "states", out=tmp_path / "out")
        assert ran.written == [("labels", ref.coordinate) for ref in of(refs, "cam-01", range(7))]
        shutil.rmtree(tmp_path / "states")
    files = sorted((tmp_path / "out/labels/1970-01-01").iterdir())
    assert sorted(file.read_bytes().count(b"\n") for file in files) == [2, 5]
    assert sorted(
        record.coordinate for record in read_records(str(tmp_path / "out"), "labels", LabeledImage)
    ) == sorted(coordinate for _, coordinate in ran.written)
