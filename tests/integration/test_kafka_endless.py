"""Open ranges on runners, against a real broker: FnApiRunner and Prism.

FnApiRunner calls an open range again and again, for ever, and runs what is fused behind it; nothing behind a grouping,
and it does not pause. So its test ends by an exception of the last step. Prism runs all of it, and is cancelled.
"""

import json
import threading
from datetime import timedelta

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState
from apache_beam.transforms.window import FixedWindows
from kafka_records import TIME, event, produce, wait_for

from grpo_tta.adapters.kafka.consumers import CONSUMERS
from grpo_tta.adapters.kafka.ranges import KafkaRange
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.source import ReadImagesFromKafka, ReadLimits

LIMITS = ReadLimits(records=7, seconds=1.0)


@pytest.fixture
def settings(broker):
    yield KafkaSettings((broker.bootstrap,), request_timeout=10.0)
    CONSUMERS.close_idle(all_of_them=True)


def taken(number, seconds):
    """An event, its image taken so long after `TIME`."""
    return json.dumps(json.loads(event(number)) | {"event_time": (TIME + timedelta(seconds=seconds)).isoformat()})


class Append(beam.DoFn):
    """One line a value, by workers that are threads of this process; fails when ``last`` was written."""

    def __init__(self, path, last=None):
        self.path, self.last = str(path), last

    def process(self, found):
        with open(self.path, "a") as file:
            file.write(json.dumps(found) + "\n")
        if found == self.last:
            raise RuntimeError("the last one was read")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_in_process_runner_reads_an_open_range_on_and_on(settings, topic, tmp_path):
    name = topic()
    produce(settings, name, [event(number) for number in range(20)])
    produce(settings, name, [event(20)], transactional_id=f"{name}-a")  # and a marker at 21
    later = threading.Timer(3.0, produce, [settings, name, [event(number) for number in range(22, 30)]])
    later.start()
    with pytest.raises(RuntimeError, match="the last one was read"), beam.Pipeline(runner="FnApiRunner") as pipeline:  # noqa: PT012
        read = (
            pipeline
            | beam.Create([KafkaRange(name, 0, 3)])
            | ReadImagesFromKafka(settings, endless=True, limits=LIMITS)
        )
        _ = read.refs | beam.MapTuple(lambda _, ref: ref.position) | beam.ParDo(Append(tmp_path / "read", last=29))
    later.join()
    assert lines(tmp_path / "read") == [*range(3, 21), *range(22, 30)]


# Beam's worker threads may see Prism's sockets close when it ends.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_prism_reads_an_open_range_closes_its_windows_and_is_cancelled(settings, topic, prism, tmp_path):
    """The window of the first images closes while nothing comes.

    One partition: Prism 2.77 takes the watermark of the range that was called last, not the least of all.
    """
    name = topic()
    produce(settings, name, [taken(number, 57 + 0.1 * number).encode() for number in range(20)])
    each, windows = tmp_path / "each", tmp_path / "windows"
    options = PipelineOptions(["--streaming", f"--job_endpoint={prism}", "--environment_type=LOOPBACK"])
    pipeline = beam.Pipeline(runner="PortableRunner", options=options)
    read = (
        pipeline
        | beam.Create([KafkaRange(name, 0, 3)])
        | ReadImagesFromKafka(settings, endless=True, limits=LIMITS, lateness=1.0)
    )
    offsets = read.refs | beam.MapTuple(lambda partition, ref: (partition, ref.position)).with_output_types(
        tuple[str, int]
    )
    _ = offsets | "Each" >> beam.ParDo(Append(each))
    grouped = offsets | beam.WindowInto(FixedWindows(60)) | beam.GroupByKey()
    _ = grouped | beam.MapTuple(lambda key, values: sorted(values)) | "Windows" >> beam.ParDo(Append(windows))
    result = pipeline.run()
    try:
        wait_for(lambda: lines(windows), 60)
        assert len(lines(each)) == 17
        produce(settings, name, [taken(number, 90).encode() for number in range(20, 30)])
        wait_for(lambda: len(lines(each)) == 27, 60)
        assert not PipelineState.is_terminal(result.state)
    finally:
        result.cancel()
        with pytest.raises(RuntimeError, match="CANCELLED"):
            result.wait_until_finish()
    assert [offset for _, offset in lines(each)] == list(range(3, 30))
    assert lines(windows) == [list(range(3, 20))]
