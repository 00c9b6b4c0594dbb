"""Sources for `LabelImages`: what is listed, what lies in a topic, and the states that an earlier run left."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam

import grpo_tta.adapters.coders  # noqa: F401  (registers how events travel)
from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.kafka.address import KafkaAddress
from grpo_tta.adapters.kafka.positions import Start
from grpo_tta.adapters.kafka.ranges import KafkaRange
from grpo_tta.adapters.kafka.source import ReadImagesFromKafka as ReadRanges
from grpo_tta.adapters.kafka.wire import parse_partition
from grpo_tta.adapters.storage.names import NamePattern
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.source import list_source
from grpo_tta.beam.config import config_of
from grpo_tta.beam.write import STATES_FILE
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackReader
from grpo_tta.pipeline.config.job import JobConfig, parse_duration
from grpo_tta.pipeline.config.kafka import make_offsets, settings_of, source_topics
from grpo_tta.pipeline.watch.status import partition_logs

Read = ImageRef | BadRecord


class ReadImages(beam.PTransform):
    """The images of a folder, glob, bucket or manifest, as references that `LabelImages` takes; applied to a pipeline.
    Members of tar archives are among them and, ``every`` so often (``1s``), frames of videos.

    A manifest is a ``*.jsonl`` file of `ImageEvent`. Without patterns a file's stream is its first folder, its time
    that of its last modification. The source is listed when the pipeline runs, by one worker. Raises ValueError for a
    bad pattern or duration::

        >>> with beam.Pipeline(runner="FnApiRunner") as pipeline:
        ...     _ = pipeline | ReadImages("cameras") | beam.Map(lambda image: print(image.id, image.stream))
        door/b.jpg door
    """

    def __init__(
        self, url: str, stream_pattern: str | None = None, time_pattern: str | None = None, every: str | None = None
    ) -> None:
        super().__init__()
        NamePattern(stream_pattern, time_pattern)
        self._list = _List(url, stream_pattern, time_pattern, parse_duration(every) if every else None)

    def expand(self, pbegin: Any) -> Any:
        """One listing."""
        begun = pbegin | "Source" >> beam.Create([None], reshuffle=False)
        return begun | "List" >> beam.ParDo(self._list).with_output_types(Read)


class _List(beam.DoFn):
    def __init__(self, url: str, stream_pattern: str | None, time_pattern: str | None, every: int | None) -> None:
        self._url = url
        self._how: dict[str, Any] = {"stream_pattern": stream_pattern, "time_pattern": time_pattern, "every": every}

    def process(self, element: None) -> Iterator[Read]:
        yield from list_source(self._url, **self._how)


class ReadImagesFromKafka(beam.PTransform):
    """The image events that lie in topics when the pipeline runs, from ``kafka.start`` on; applied to a pipeline.

    ``url`` is ``kafka://HOST:PORT[,HOST:PORT]/TOPIC[,TOPIC]``; ``kafka`` are a job's settings of that name (start,
    group, security, out_of_range). Positions are not committed anywhere. Needs a runner that has splittable DoFns. A
    topic that is to be labelled for ever is ``grpo-tta label``'s. Raises `ConfigurationError`.
    """

    def __init__(self, url: str, kafka: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._config = config_of({"kafka": kafka or {}}, source={"url": url})
        KafkaAddress.parse(url)

    def expand(self, pbegin: Any) -> Any:
        """Nothing is connected here."""
        config = self._config
        read = ReadRanges(settings_of(config, config.source.url), out_of_range=config.kafka.out_of_range)
        ranges = (
            pbegin
            | "Topics" >> beam.Create([None], reshuffle=False)
            | "Ranges" >> beam.ParDo(_Ranges(config)).with_output_types(KafkaRange)
        )
        return (ranges | read).refs | "Event" >> beam.Map(lambda pair: pair[1]).with_output_types(Read)


class _Ranges(beam.DoFn):
    """Each partition from where it begins to its end of now."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config

    def process(self, element: None) -> Iterator[KafkaRange]:
        with make_offsets(self._config) as offsets:
            names = offsets.partitions(source_topics(self._config))
            starts = offsets.start(Start.parse(self._config.kafka.start), names)
            ends = offsets.end(names)
        for name in names:
            if starts[name] < ends[name]:
                yield KafkaRange(*parse_partition(name), starts[name], ends[name])


class ReadStates(beam.PTransform):
    """``(stream, bytes)`` to start `LabelImages` from: of what `WriteStates` wrote to ``url``, or of the newest commit
    of the ``grpo-tta`` job whose checkpoint it is; applied to a pipeline. Fails, when it runs, where neither is there.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def expand(self, pbegin: Any) -> Any:
        """Nothing is read here."""
        begun = pbegin | "Place" >> beam.Create([self._url], reshuffle=False)
        return begun | "Read" >> beam.ParDo(_ReadStates()).with_output_types(tuple[str, bytes])


class _ReadStates(beam.DoFn):
    def process(self, element: str) -> Iterator[tuple[str, bytes]]:
        store = ObjectStore(element)
        if store.exists(STATES_FILE):
            reader = PackReader(store)
            yield from ((stream, reader.read(STATES_FILE, stream)) for stream in reader.streams(STATES_FILE))
            return
        for log_store in partition_logs(element).values():
            commit = CheckpointLog(log_store).latest()
            reader = PackReader(log_store, None, commit)
            for stream, pack in (commit.states if commit else {}).items():
                yield stream, reader.read(pack, stream)
