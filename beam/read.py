"""Sources for `LabelImages`: what is listed, and what lies in a topic or comes to it."""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.coders import Coder, StrUtf8Coder, TupleCoder, VarIntCoder
from apache_beam.io.watch import PollFn, PollResult, Watch
from apache_beam.utils.timestamp import Timestamp

import grpo_tta.adapters.coders  # noqa: F401  (registers how events travel)
from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.kafka.address import KafkaAddress
from grpo_tta.adapters.kafka.errors import KafkaFailure
from grpo_tta.adapters.kafka.positions import Start
from grpo_tta.adapters.kafka.ranges import KafkaRange
from grpo_tta.adapters.kafka.source import SPANS
from grpo_tta.adapters.kafka.source import ReadImagesFromKafka as ReadRanges
from grpo_tta.adapters.kafka.wire import parse_partition
from grpo_tta.adapters.storage.names import NamePattern
from grpo_tta.adapters.storage.source import list_source
from grpo_tta.beam.config import config_of, source_of
from grpo_tta.beam.runners import check_streams
from grpo_tta.pipeline.config.job import JobConfig, parse_duration
from grpo_tta.pipeline.config.kafka import make_offsets, settings_of, source_topics

_log = logging.getLogger(__name__)
Read = ImageRef | BadRecord
Known = tuple[tuple[str, int], ...]
"""Partitions and where they begin."""


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
        self._list = _List(source_of(url), stream_pattern, time_pattern, parse_duration(every) if every else None)

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


class KafkaImages(NamedTuple):
    """What an endless `ReadImagesFromKafka` gives."""

    images: beam.PCollection[Read]
    """For `LabelImages`, with their event times as timestamps."""
    spans: beam.PCollection
    """For `CommitOffsets`: what was read of each partition, call by call."""


class ReadImagesFromKafka(beam.PTransform):
    """The image events of topics, from ``kafka.start`` on; applied to a pipeline.

    ``url`` is ``kafka://HOST:PORT[,HOST:PORT]/TOPIC[,TOPIC]``; ``kafka`` are a job's settings of that name (start,
    group, discovery, security, out_of_range). Needs a runner that has splittable DoFns. Raises `ConfigurationError`.

    What lies in the topics when the pipeline runs, unless ``endless``: then also what comes, without an end, of
    partitions too that are added, and the result is a `KafkaImages`. It begins where ``kafka.group`` has committed, and
    at ``kafka.start`` where it has not. The watermark of each partition stays ``lateness``
    seconds behind its newest image: give it ``event_time.allowed_lateness``. No position is committed here:
    `CommitOffsets` does, behind the sink. A runner that does not stream splittable DoFns is refused.
    """

    def __init__(
        self, url: str, kafka: dict[str, Any] | None = None, *, endless: bool = False, lateness: float = 30.0
    ) -> None:
        super().__init__()
        config = self._config = config_of({"kafka": kafka or {}}, source={"url": url})
        KafkaAddress.parse(url)
        self._endless = endless
        self._read = ReadRanges(
            settings_of(config, url), out_of_range=config.kafka.out_of_range, endless=endless, lateness=lateness
        )

    def expand(self, pbegin: Any) -> Any:
        """Nothing is connected here."""
        begun = pbegin | "Topics" >> beam.Create([None], reshuffle=False)
        if not self._endless:
            ranges = begun | "Ranges" >> beam.ParDo(_Ranges(self._config)).with_output_types(KafkaRange)
            return (ranges | self._read).refs | "Event" >> beam.Map(_event).with_output_types(Read)
        check_streams(pbegin.pipeline)
        poll = _Partitions(self._config)
        found = (
            begun
            | "Known" >> beam.ParDo(_Known(self._config)).with_output_types(Known)
            | "Partitions"
            >> Watch(
                poll,
                parse_duration(self._config.kafka.discovery) / 1e6,
                output_key_fn=_name,
                output_key_coder=StrUtf8Coder(),
            )
        )
        read = found | "Open" >> beam.Map(_open_range).with_output_types(KafkaRange) | self._read
        images = read.refs | "Event" >> beam.Map(_event).with_output_types(Read)
        return KafkaImages(images, read[SPANS])


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


class _Known(beam.DoFn):
    """The partitions that are there when the pipeline begins, each with where it begins: what the group has committed
    comes before ``kafka.start``."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config

    def process(self, element: None) -> Iterator[Known]:
        with make_offsets(self._config) as offsets:
            names = offsets.partitions(source_topics(self._config))
            begin = {name: at.offset for name, at in offsets.committed(names).items()}
            new = [name for name in names if name not in begin]
            yield tuple({**begin, **offsets.start(Start.parse(self._config.kafka.start), new)}.items())


class _Partitions(PollFn):
    """All partitions of now, those that were added since from their first offset. A broker that is away has none."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config

    def __call__(self, element: Known) -> PollResult:
        now, known = Timestamp.now(), dict(element)
        try:
            with make_offsets(self._config) as offsets:
                names = offsets.partitions(source_topics(self._config))
                first = offsets.beginning([name for name in names if name not in known])
        except KafkaFailure as error:
            if not error.retriable:
                raise
            _log.warning("partitions are not looked for: %s", error)
            names, first = list(known), {}
        begin = {**first, **known}
        return PollResult.incomplete([(name, begin[name]) for name in names], timestamp=now).with_watermark(now)

    def default_output_coder(self) -> Coder:
        return TupleCoder((StrUtf8Coder(), VarIntCoder()))


def _name(found: tuple[str, int]) -> str:
    return found[0]


def _open_range(found: tuple[Known, tuple[str, int]]) -> KafkaRange:
    name, start = found[1]
    return KafkaRange(*parse_partition(name), start)


def _event(pair: tuple[str, Read]) -> Read:
    return pair[1]
