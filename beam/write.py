"""Sinks for the records of `LabelImages`, and for its states; each usable alone."""

from collections.abc import Iterable, Iterator
from typing import Any
from zlib import crc32

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

import grpo_tta.adapters.coders  # noqa: F401  (registers how rows travel)
from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import FORMATS, FileFormat
from grpo_tta.beam.config import config_of
from grpo_tta.pipeline.checkpoint.packs import write_pack
from grpo_tta.pipeline.config.kafka import out_settings
from grpo_tta.pipeline.sinks import SendRecords
from grpo_tta.pipeline.sinks import WriteRecords as WriteFile
from grpo_tta.schemas import WireModel

STATES_FILE = "states.pack"


class WriteRecords(beam.PTransform):
    """Records of `LabelImages`, to files ``KIND/part-00000-of-00001.jsonl`` below ``url``, which
    is a folder or bucket. Gives the files' names.

    A file is complete before it appears, and holds the bytes that ``grpo-tta label`` would write of these records.
    Records are all written together, whatever their windows. ``shards``: files of a kind, by stream. Raises ValueError
    for a bad format or number of shards.
    """

    def __init__(self, url: str, file_format: FileFormat = "jsonl", *, shards: int = 1) -> None:
        super().__init__()
        if file_format not in FORMATS or shards < 1:
            raise ValueError(
                f"file_format must be one of {', '.join(FORMATS)} and shards >= 1, got {file_format!r}, {shards}"
            )
        self._shards = shards
        stems = {str(number): f"part-{number:05d}-of-{shards:05d}" for number in range(shards)}
        self._write = WriteFile(url, file_format, stems)

    def expand(self, records: Any) -> Any:
        """One group a file."""
        return (
            _rows(records, self._shards)
            | "ByKind" >> beam.Map(_by_kind).with_output_types(tuple[tuple[str, str], Row])
            | "GroupKinds" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(self._write)
            | "Name" >> beam.Map(lambda written: written[1]).with_output_types(str)
        )


class WriteRecordsToKafka(beam.PTransform):
    """Records of `LabelImages` to ``kafka://HOST:PORT/LABELS_TOPIC`` and the topics beside it, keyed by stream.

    ``kafka``: a job's settings of that name (security, topics, create_topics). A bundle that runs again sends its
    records again, with the same bytes and coordinate. Raises `ConfigurationError`.
    """

    def __init__(self, url: str, kafka: dict[str, Any] | None = None, *, shards: int = 1) -> None:
        super().__init__()
        config = config_of({"kafka": kafka or {}}, output={"url": url}, checkpoint={"url": "elsewhere"})
        out_settings(config, url)
        self._shards = shards
        self._send = SendRecords(config, url)

    def expand(self, records: Any) -> Any:
        """One producer a process."""
        return (
            _rows(records, self._shards)
            | "Group" >> beam.GroupByKey()
            | "Send" >> beam.ParDo(self._send).with_output_types(str)
        )


class WriteStates(beam.PTransform):
    """``states`` of `LabelImages` to one file below ``url``, complete before it appears; `ReadStates` reads it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def expand(self, states: Any) -> Any:
        """One group."""
        return (
            states
            | "Global" >> beam.WindowInto(GlobalWindows())
            | "Together" >> beam.Map(lambda state: (self._url, state)).with_output_types(tuple[str, tuple[str, bytes]])
            | "Group" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(_WriteStates()).with_output_types(str)
        )


class _WriteStates(beam.DoFn):
    def process(self, element: tuple[str, Iterable[tuple[str, bytes]]]) -> Iterator[str]:
        url, states = element
        write_pack(ObjectStore(url), STATES_FILE, dict(states), {})
        yield STATES_FILE


def _rows(records: Any, shards: int) -> Any:
    return (
        records
        | "Global" >> beam.WindowInto(GlobalWindows())
        | "Rows" >> beam.Map(_row, shards).with_output_types(tuple[str, Row])
    )


def _row(record: WireModel, shards: int) -> tuple[str, Row]:
    row = Row.of(record)
    return str(crc32(row.stream.encode("utf-8", "surrogatepass")) % shards), row


def _by_kind(pair: tuple[str, Row]) -> tuple[tuple[str, str], Row]:
    return (pair[0], pair[1].kind), pair[1]
