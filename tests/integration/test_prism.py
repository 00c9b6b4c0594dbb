"""`LabelImages` on Prism, a runner that streams: bounded as FnApiRunner, and over a topic without an end."""

import base64
import json
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from kafka_records import consume, wait_for

from demo.broker import create_topic
from demo.broker.admin import admin_client
from demo.broker.process import ChildProcess
from demo.broker.quorum import free_ports
from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.rows import KINDS
from grpo_tta.adapters.storage.source import list_source
from grpo_tta.beam import LabelImages, WriteRecords
from grpo_tta.beam.states import Snapshots
from grpo_tta.demo import STREAM_PATTERN, TIME_PATTERN, write_feed
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.state import read_header

VALUES = {"source": {"stream_pattern": STREAM_PATTERN, "time_pattern": TIME_PATTERN}, "model": {"threads": 1}}
JOB = """
model: {threads: 1}
checkpoint: {slice_seconds: 1s}
event_time: {allowed_lateness: 2s}
kafka: {group: prism, discovery: 1s}
"""
# Beam's worker threads may see Prism's sockets close when it ends.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prism") / "feed"
    write_feed(folder, images=120)
    return folder


@pytest.fixture(scope="module")
def pictures(feed: Path) -> list[ImageRef]:
    """Twenty of each of six cameras."""
    found = list_source(str(feed), stream_pattern=STREAM_PATTERN, time_pattern=TIME_PATTERN)
    return sorted((ref for ref in found if isinstance(ref, ImageRef)), key=lambda ref: ref.event_time)


def test_labels_of_a_bounded_job_are_those_of_the_in_process_runner(feed: Path, prism: str, tmp_path: Path) -> None:
    """All records, byte for byte; and those of the command, whose slices run there."""
    on_prism = ["--runner=PortableRunner", f"--job_endpoint={prism}", "--environment_type=LOOPBACK"]
    for name, options in (("here", ["--runner=FnApiRunner"]), ("prism", on_prism)):
        with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
            results = pipeline | LabelImages.from_source(str(feed), VALUES).with_exception_handling()
            for kind in KINDS:
                _ = getattr(results, kind) | f"Write {kind}" >> WriteRecords(str(tmp_path / name))
    source = {**VALUES["source"], "url": str(feed)}
    run = {"runner": "PortableRunner", "beam_options": on_prism[1:]}
    run_label_job(make_config({**VALUES, "source": source, "run": run, "output": {"url": str(tmp_path / "job")}}))
    here, there, job = (
        {kind: b"".join(sorted(read_all(tmp_path / name / kind))) for kind in KINDS}
        for name in ("here", "prism", "job")
    )
    assert here == there == job
    assert here["labels"].count(b"\n") == 120


def read_all(folder: Path) -> list[bytes]:
    return [line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines(keepends=True)]


class Camera:
    """Produces images as they would be taken now, and knows what it produced."""

    def __init__(self, settings: KafkaSettings, topic: str, pictures: list[ImageRef]) -> None:
        self.producer = settings.producer(metadata_max_age_ms=500)  # of partitions that are added
        self._topic = topic
        self._pictures = iter(pictures)
        self.sent: list[tuple[str, str]] = []
        """Coordinate and stream."""

    def take(self, count: int, *, stream: str | None = None, partition: int | None = None, age: float = 0.0) -> None:
        for ref in [next(self._pictures) for _ in range(count)]:
            assert ref.uri is not None
            fields = {
                "schema_version": "1",
                "id": f"{len(self.sent)}",
                "stream": stream or ref.stream,
                "event_time": datetime.fromtimestamp(time.time() - age, UTC).isoformat(),
                "data": base64.b64encode(Path(ref.uri).read_bytes()).decode(),
            }
            self.send(json.dumps(fields).encode(), stream or ref.stream, partition)

    def send(self, value: bytes, stream: str, partition: int | None = None) -> None:
        done = self.producer.send(self._topic, value, key=stream.encode(), partition=partition).get(10)
        self.sent.append((f"{done.topic}-{done.partition}-{done.offset:019d}", stream))


@pytest.fixture
def camera_of(pictures: list[ImageRef]) -> Iterator[Callable[[KafkaSettings, str], Camera]]:
    """Make cameras; their producers end with the test."""
    made: list[Camera] = []

    def make(settings: KafkaSettings, topic: str) -> Camera:
        made.append(Camera(settings, topic, pictures))
        return made[-1]

    yield make
    for camera in made:
        camera.producer.close(timeout=5)


class Live:
    """``python -m grpo_tta.beam.live`` over a topic of its own."""

    def __init__(self, bootstrap: str, topic: str, folder: Path) -> None:
        self.settings = KafkaSettings((bootstrap,))
        self._topic = topic
        self._out = f"{topic}-labels"
        for name in (self._out, f"{self._out}.dead_letters"):
            create_topic(bootstrap, name, 1)
        self._folder = folder
        (folder / "job.yaml").write_text(JOB)
        self.states = folder / "states"
        self.begun: list[ChildProcess] = []

    def start(self, prism: str, *environment: str, give_up_after: str = "2m") -> ChildProcess:
        server = self.settings.servers[0]
        command = [
            *(sys.executable, "-m", "grpo_tta.beam.live", "--source", f"kafka://{server}/{self._topic}"),
            *("--out", f"kafka://{server}/{self._out}", "--states", str(self.states)),
            *("--config", str(self._folder / "job.yaml"), "--give-up-after", give_up_after, "--"),
            *("--runner=PortableRunner", f"--job_endpoint={prism}", *environment),
        ]
        self.begun.append(ChildProcess(command, self._folder / f"submitter-{len(self.begun)}.log"))
        return self.begun[-1]

    def labelled(self) -> dict[str, list[bool]]:
        """Coordinates, and whether each label of it was late; of a dead letter an empty list."""
        found: dict[str, list[bool]] = {}
        for kind in (self._out, f"{self._out}.dead_letters"):
            for record in consume(self.settings, kind):
                fields = json.loads(record.value)
                found.setdefault(fields["coordinate"], []).extend([fields["late"]] if "late" in fields else [])
        return found

    def wait(self, camera: Camera, process: ChildProcess, *, but: int = 0) -> dict[str, list[bool]]:
        """Until all that was sent is labelled, ``but`` some of the last."""
        wanted = {coordinate for coordinate, _ in camera.sent[: len(camera.sent) - but]}

        def all_there() -> bool:
            assert process.alive, process.said()
            return wanted <= self.labelled().keys()

        wait_for(all_there, 120)
        return self.labelled()


@pytest.fixture
def live_of(broker, tmp_path: Path) -> Iterator[Callable[[str], Live]]:
    """Make such jobs; what still runs of them in the end is killed."""
    made: list[Live] = []

    def make(topic: str) -> Live:
        made.append(Live(broker.bootstrap, topic, tmp_path))
        return made[-1]

    yield make
    for process in [process for live in made for process in live.begun]:
        process.kill()


def test_a_topic_is_labelled_without_an_end_and_no_event_is_lost(broker, topic, prism: str, camera_of, live_of) -> None:
    """Windows, timers and state; a late image; what is no event; a partition that is added; a submitter that is killed
    and started again while images come."""
    name = topic(partitions=2)
    live = live_of(name)
    camera = camera_of(live.settings, name)
    camera.take(24)
    first = live.start(prism, "--environment_type=LOOPBACK")
    live.wait(camera, first)
    camera.take(1, stream=camera.sent[0][1], age=3600)
    camera.send(b"no event", "cam-01")
    with admin_client(broker.bootstrap) as admin:
        admin.create_partitions({name: 3})
    wait_for(lambda: len(camera.producer.partitions_for(name)) == 3)
    camera.take(6, stream="cam-new", partition=2)
    found = live.wait(camera, first)
    late, bad = camera.sent[24][0], camera.sent[25][0]
    assert [coordinate for coordinate, lates in found.items() if any(lates)] == [late]
    assert found[bad] == []
    camera.take(12)
    live.wait(camera, first, but=8)
    first.kill()
    camera.take(12)
    second = live.start(prism, "--environment_type=LOOPBACK")
    live.wait(camera, second)
    with KafkaOffsets(live.settings, group="prism") as offsets:
        names = offsets.partitions([name])
        wait_for(lambda: {p: at.offset for p, at in offsets.committed(names).items()} == offsets.end(names), 20)
    second.kill()
    assert live.labelled().keys() == {coordinate for coordinate, _ in camera.sent}
    streams = Counter(stream for coordinate, stream in camera.sent if coordinate not in (late, bad))
    for stream, images in streams.items():
        state = Snapshots(str(live.states)).get(stream)
        assert state is not None
        learnt = read_header(state).counters["frames"]
        assert images - 12 <= learnt <= images  # the batch under way may have been labelled and not kept


POOL = """
import sys
import time

import grpo_tta.beam.live
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

server = BeamFnExternalWorkerPoolServicer.start(port=int(sys.argv[1]))
time.sleep(3600)
"""
"""Workers are threads of the pool's process, which can be killed."""


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[ChildProcess, tuple[str, str]]]:
    """A pool, and the options that name it."""
    (port,) = free_ports(1)
    pool = ChildProcess([sys.executable, "-c", POOL, str(port)], tmp_path / "workers.log")
    wait_for(lambda: answers(port), 120)
    yield pool, ("--environment_type=EXTERNAL", f"--environment_config=127.0.0.1:{port}")
    pool.kill()


@pytest.fixture
def begun(topic, prism: str, camera_of, live_of, workers):
    """Starts a job of these workers over a topic of some images, and waits for the labels of all but some: the pool,
    the camera, the topic and its settings, the submitter."""
    pool, external = workers

    def start(images: int, but: int = 0):
        name = topic()
        live = live_of(name)
        camera = camera_of(live.settings, name)
        camera.take(images)
        submitter = live.start(prism, *external, give_up_after="20s")
        live.wait(camera, submitter, but=but)
        return pool, camera, name, live.settings, submitter

    return start


def test_a_job_whose_workers_are_killed_ends_with_an_error(begun) -> None:
    """While images come; until then labels have the windows of their event times."""
    pool, camera, name, settings, submitter = begun(12, but=8)
    camera.take(24)
    pool.kill()
    wait_for(lambda: not submitter.alive, 90)
    labels = [json.loads(record.value) for record in consume(settings, f"{name}-labels")]
    windows = [(moment(label["event_time"]) // 60 * 60, moment(label["window_start"])) for label in labels]
    assert all(expected == start for expected, start in windows)
    assert 4 <= len(windows) < 36
    assert submitter.kill() == 1  # as it ended by itself
    failed = submitter.said().splitlines()[-1]
    assert re.fullmatch(
        r"failed: Pipeline \S+ failed in state FAILED: .*; .*goes on from the committed offsets", failed
    )


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_a_job_whose_workers_hang_ends_with_an_error(begun) -> None:
    """Prism says for ever that it runs."""
    pool, _, _, _, submitter = begun(4)
    time.sleep(22)  # nothing comes: no standstill
    assert submitter.alive, submitter.said()
    pool.pause()
    wait_for(lambda: not submitter.alive, 60)
    assert "no counter of the job has moved for 20 s, though its runner says RUNNING" in submitter.said()


def test_the_examples_of_the_page_run(
    broker, topic, prism: str, camera_of, live_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic as it is now, by FnApiRunner; one without an end, by Prism."""
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs/beam.md"
    codes = [code for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL) if "kafka://" in code]
    for number, code in enumerate(codes):
        name = topic(partitions=2)
        live = live_of(name)
        camera = camera_of(live.settings, name)
        camera.take(4)
        camera.send(b"no event", "cam-01")
        for here, there in (
            ("localhost:9092/images", f"{broker.bootstrap}/{name}"),
            ("localhost:9092/labels", f"{broker.bootstrap}/{name}-labels"),
            ("localhost:8073", prism),
        ):
            code = code.replace(here, there)
        names: dict[str, Any] = {}
        exec(compile(code, str(page), "exec"), names)
        if number == 0:
            assert live.labelled().keys() == {coordinate for coordinate, _ in camera.sent}
            continue
        result = names["pipeline"].run()
        wait_for(lambda live=live, camera=camera: live.labelled().keys() == {one for one, _ in camera.sent}, 120)
        result.cancel()
