"""Sinks for the records of `LabelImages`; each usable alone.

Of a bounded input all records of a shard are written together. Of one that never ends each bundle is written at its
end, and the runner takes the bundle for done only then.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

import grpo_tta.adapters.coders  # noqa: F401  (registers how rows travel)
from grpo_tta.adapters.events import group_of
from grpo_tta.adapters.rows import KINDS, Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import FORMATS, FileFormat, RecordFiles
from grpo_tta.beam.config import check_shards, config_of, place_of
from grpo_tta.beam.places import claim_place
from grpo_tta.beam.runners import check_windows
from grpo_tta.pipeline.config.kafka import out_settings
from grpo_tta.pipeline.sinks import SendRecords
from grpo_tta.pipeline.sinks import WriteRecords as WriteFile
from grpo_tta.pipeline.windows import to_datetime
from grpo_tta.schemas import WireModel

Written = tuple[str, str]
"""Kind and coordinate of a record that is safe."""
_sending = threading.Lock()
"""A process has one producer, which is not for several threads at once."""


class WriteRecords(beam.PTransform):
    """Records of `LabelImages`, to files ``KIND/part-00000-of-00001.jsonl`` below ``url``, which
    is a folder or bucket. Gives the files' names.

    A file is complete before it appears, and holds the bytes that ``grpo-tta label`` would write of these records.
    Records are all written together, whatever their windows; those of a kind by one step of the pipeline. ``shards``:
    files of a kind, by stream. Raises ValueError for a bad format or number of shards.

    Of an input that never ends each bundle becomes a file of each kind, ``KIND/DAY/HASH.jsonl``, named by what it
    holds; ``shards`` does not count. Gives ``(kind, coordinate)`` of each record, for `CommitOffsets`.
    """

    def __init__(self, url: str, file_format: FileFormat = "jsonl", *, shards: int = 1) -> None:
        super().__init__()
        check_shards(shards)
        if file_format not in FORMATS:
            raise ValueError(f"file_format must be one of {', '.join(FORMATS)}, got {file_format!r}")
        self._url, self._format, self._shards = place_of(url), file_format, shards

    def expand(self, records: Any) -> Any:
        """One group a file."""
        if not records.is_bounded:
            return _by_bundle(records, _FilesOfBundle(self._url, self._format))
        for kind, model in KINDS.items():
            if records.element_type is model:
                claim_place(records.pipeline, self._url, kind)
        stems = {str(number): f"part-{number:05d}-of-{self._shards:05d}" for number in range(self._shards)}
        return (
            _rows(records, self._shards)
            | "ByKind" >> beam.Map(_by_kind).with_output_types(tuple[tuple[str, str], Row])
            | "GroupKinds" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(WriteFile(self._url, self._format, stems))
            | "Name" >> beam.MapTuple(lambda _, file: file[0]).with_output_types(str)
        )


class WriteRecordsToKafka(beam.PTransform):
    """Records of `LabelImages` to ``kafka://HOST:PORT/LABELS_TOPIC`` and the topics beside it, keyed by stream.

    ``kafka``: a job's settings of that name (security, topics, create_topics). A bundle that runs again sends its
    records again, with the same bytes and coordinate. Of an input that never ends it gives ``(kind, coordinate)`` of
    each record that was acknowledged, for `CommitOffsets`. Raises `ConfigurationError`.
    """

    def __init__(self, url: str, kafka: dict[str, Any] | None = None, *, shards: int = 1) -> None:
        super().__init__()
        check_shards(shards)
        config = config_of({"kafka": kafka or {}}, output={"url": url}, checkpoint={"url": "elsewhere"})
        out_settings(config, url)
        self._shards = shards
        self._send = SendRecords(config, url)

    def expand(self, records: Any) -> Any:
        """One producer a process."""
        if not records.is_bounded:
            return _by_bundle(records, _SendBundle(self._send))
        return (
            _rows(records, self._shards)
            | "Group" >> beam.GroupByKey()
            | "Send" >> beam.ParDo(self._send).with_output_types(str)
        )


class _FilesOfBundle:
    """Writes rows to a file of each kind."""

    def __init__(self, url: str, file_format: FileFormat) -> None:
        self._url, self._format = url, file_format

    def __call__(self, rows: list[Row]) -> None:
        kinds = defaultdict(list)
        for row in rows:
            kinds[row.kind].append(row)
        for kind, own in kinds.items():
            RecordFiles(ObjectStore(self._url), kind, self._format).write(_stem(sorted(own)), own)


def _stem(rows: list[Row]) -> str:
    """The day of a file's first row, and a hash of all: a bundle that runs again writes the same file."""
    digest = blake2b(digest_size=12)
    for row in rows:
        digest.update(row.value)
    try:
        day = f"{to_datetime(rows[0].time):%Y-%m-%d}"
    except ValueError:
        day = f"{datetime.now(UTC):%Y-%m-%d}"
    return f"{day}/{digest.hexdigest()}"


class _SendBundle:
    """Sends rows, and waits until all are acknowledged."""

    def __init__(self, send: SendRecords) -> None:
        self._send = send

    def __call__(self, rows: list[Row]) -> None:
        with _sending:
            for _ in self._send.process(("", rows)):
                pass


class _Bundle(beam.DoFn):
    """``(shard, Row)`` -> `Written`, once all rows of the bundle are."""

    def __init__(self, write: Callable[[list[Row]], None]) -> None:
        self._write = write

    def start_bundle(self) -> None:
        self._rows: list[Row] = []
        self._latest: Any = None

    def process(self, element: tuple[str, Row], timestamp: Any = beam.DoFn.TimestampParam) -> None:
        self._rows.append(element[1])
        self._latest = timestamp if self._latest is None else max(self._latest, timestamp)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._rows:
            self._write(self._rows)
        for row in self._rows:
            yield WindowedValue((row.kind, row.coordinate), self._latest, (GlobalWindow(),))


def _by_bundle(records: Any, write: Callable[[list[Row]], None]) -> Any:
    return _rows(records, 1) | "Write" >> beam.ParDo(_Bundle(write)).with_output_types(Written)


def _rows(records: Any, shards: int) -> Any:
    check_windows(records)
    return (
        records
        | "Global" >> beam.WindowInto(GlobalWindows())
        | "Rows" >> beam.Map(_row, shards).with_output_types(tuple[str, Row])
    )


def _row(record: WireModel, shards: int) -> tuple[str, Row]:
    row = Row.of(record)
    return str(group_of(row.stream, shards)), row


def _by_kind(pair: tuple[str, Row]) -> tuple[tuple[str, str], Row]:
    return (pair[0], pair[1].kind), pair[1]
