"""`CommitOffsets`: a consumer group's offsets, committed behind the sink.

An offset is committed when the label or dead letter of every record before it is safe. What there was to label says
the source: each of its calls gives the *span* of offsets that it has claimed, and how many records lay in it, for logs
have gaps. A span is done when so many of its coordinates have come back; spans are committed in their order, beginning
with the one that begins where the source began, in whatever order they come here.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from grpo_tta.adapters.kafka.errors import KafkaFailure
from grpo_tta.adapters.kafka.membership import commit_offsets
from grpo_tta.adapters.kafka.positions import Committed
from grpo_tta.adapters.kafka.settings import KafkaSettings, translated
from grpo_tta.adapters.kafka.wire import parse_coordinate, partition_name
from grpo_tta.beam.config import config_of
from grpo_tta.beam.runners import keep_bundles_whole
from grpo_tta.beam.write import Written
from grpo_tta.pipeline.config.kafka import settings_of

_log = logging.getLogger(__name__)
EVENTS = ("labels", "dead_letters")
"""Of an event there is one or the other."""
Span = tuple[int, int, int, int]
"""Where the range began, the span's first offset, the one after its last, its records."""
News = tuple[list[Span], list[int]]
"""Of a partition: spans that were read, offsets that are safe."""


class CommitOffsets(beam.PTransform):
    """Applied to the ``spans`` of an endless `ReadImagesFromKafka`: commits offsets of ``kafka.group``.

    ``written``: what the sinks of the labels and of the dead letters gave; without one of them, or where a sink leaves
    a record out, nothing more is committed. ``url`` and ``kafka`` are those of the source. Gives ``(partition,
    offset)`` of each commit. The same command started again begins at the committed offsets: then no event is lost,
    and what was under way is labelled a second time.

    The group must have no members of another kind, such as a ``grpo-tta label`` job of the same name: Kafka refuses
    the commit, and the pipeline fails. Raises `ConfigurationError`, and ValueError without ``written``.
    """

    def __init__(self, url: str, kafka: dict[str, Any] | None = None, *, written: Iterable[beam.PCollection]) -> None:
        super().__init__()
        config = config_of({"kafka": kafka or {}}, source={"url": url})
        self._commit = _Commit(settings_of(config, url), config.kafka.group)
        self._written = list(written)
        if not self._written:
            raise ValueError("written must not be empty: offsets are committed when labels are safe")

    def expand(self, spans: Any) -> Any:
        """One key a partition."""
        keep_bundles_whole(spans.pipeline)
        safe = (
            self._written
            | "Written" >> beam.Flatten()
            | "WrittenGlobal" >> beam.WindowInto(GlobalWindows())
            | "Safe" >> beam.ParDo(_Safe()).with_output_types(tuple[str, Any])
        )
        read = spans | "Read" >> beam.MapTuple(_news).with_output_types(tuple[str, Any])
        return (
            (read, safe)
            | "News" >> beam.Flatten()
            | "Commit" >> beam.ParDo(self._commit).with_output_types(tuple[str, int])
        )


def _news(partition: str, span: Span) -> tuple[str, News]:
    return partition, ([span], [])


class _Safe(beam.DoFn):
    """``(kind, coordinate)`` -> ``(partition, news)``, once a bundle."""

    def start_bundle(self) -> None:
        self._offsets: dict[str, list[int]] = {}
        self._latest: Any = None

    def process(self, element: Written, timestamp: Any = beam.DoFn.TimestampParam) -> None:
        kind, coordinate = element
        if kind in EVENTS:
            topic, partition, offset = parse_coordinate(coordinate)
            self._offsets.setdefault(partition_name(topic, partition), []).append(offset)
            self._latest = timestamp if self._latest is None else max(self._latest, timestamp)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for partition, offsets in self._offsets.items():
            yield WindowedValue((partition, ([], offsets)), self._latest, (GlobalWindow(),))


class Progress:
    """How far a partition is done."""

    def __init__(self, encoded: bytes | None = None) -> None:
        known = json.loads(encoded) if encoded is not None else {"next": None, "spans": [], "safe": []}
        self.next: int | None = known["next"]
        self._spans: list[list[int]] = known["spans"]
        self._safe = set(known["safe"])

    def encode(self) -> bytes:
        """What `Progress` takes."""
        return json.dumps({"next": self.next, "spans": self._spans, "safe": sorted(self._safe)}).encode()

    def note(self, news: News) -> int | None:
        """The offset that may now be committed, where it is another one than before."""
        before = self.next
        self._spans += [list(span) for span in news[0]]
        self._safe.update(offset for offset in news[1] if self.next is None or offset >= self.next)
        self._spans.sort(key=lambda span: span[1])
        while self._spans:
            origin, start, stop, records = self._spans[0]
            if start != (origin if self.next is None else self.next):
                break
            if sum(start <= offset < stop for offset in self._safe) < records:
                break
            self.next = stop
            self._safe = {offset for offset in self._safe if offset >= stop}
            del self._spans[0]
        return None if self.next == before else self.next


_PROGRESS = beam.DoFn.StateParam(ReadModifyWriteStateSpec("progress", BytesCoder()))


class _Commit(beam.DoFn):
    """``(partition, news)`` -> ``(partition, offset)`` of each commit."""

    def __init__(self, settings: KafkaSettings, group: str) -> None:
        self._settings = settings
        self._group = group

    def setup(self) -> None:
        self._consumer: Any = None

    def teardown(self) -> None:
        self._close()

    def process(self, element: tuple[str, News], progress: Any = _PROGRESS) -> Iterator[tuple[str, int]]:
        partition, news = element
        now = Progress(progress.read())
        offset = now.note(news)
        if offset is not None and self._commit(partition, offset):
            Metrics.counter(type(self), "commits").inc()
            yield partition, offset
        progress.write(now.encode())

    def _commit(self, partition: str, offset: int) -> bool:
        """Whether it could be; what may pass is left to the next commit, which says more."""
        doing = f"commit offsets of group {self._group!r}"
        try:
            with translated(self._settings, doing):
                if self._consumer is None:
                    self._consumer = self._settings.consumer(group_id=self._group)
                timeout = round(self._settings.request_timeout * 1000)
                self._consumer.commit(commit_offsets({partition: Committed(offset, "")}), timeout_ms=timeout)
        except KafkaFailure as error:
            self._close()
            if not error.retriable:
                raise
            _log.warning("partition %s: offset %d is not committed: %s", partition, offset, error)
            return False
        return True

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=2000)
