"""Step 2 of a slice: its records to files in a bucket and to topics of a Kafka cluster, all of them or the slice fails.

A file is complete before it appears and named by partition and start position, so a slice that runs again overwrites
its own. Records sent to Kafka again have the same bytes and coordinate; inside a transaction, which the driver begins
and commits, nobody sees them twice.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from grpo_tta.adapters.kafka.sink import KafkaSink
from grpo_tta.adapters.kafka.transactions import TransactionalSink
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import FORMATS, RecordFiles, default_key
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.config.kafka import out_settings
from grpo_tta.schemas import AdaptationLog, DeadLetter, DriftEvent, LabeledImage, WireModel

FOLDERS: dict[str, type[WireModel]] = {
    "labels": LabeledImage,
    "adaptation": AdaptationLog,
    "drift": DriftEvent,
    "dead_letters": DeadLetter,
}
FOLDER_OF = {model: folder for folder, model in FOLDERS.items()}
Encoded = tuple[str, bytes]
"""Folder and JSON of a record."""

_producers: dict[str, KafkaSink] = {}
_transactions: dict[str, TransactionalSink] = {}
_lock = threading.Lock()


def encoded(record: WireModel) -> Encoded:
    """As it travels through a shuffle."""
    return FOLDER_OF[type(record)], record.model_dump_json(exclude_none=True).encode()


def leftovers(stem: str, written: Iterable[str]) -> list[str]:
    """Names of output files that an attempt at this slice could have written, but for those in ``written``."""
    possible = {f"{folder}/{stem}.{ending}" for folder in FOLDERS for ending in FORMATS}
    return sorted(possible.difference(written))


class WriteRecords(beam.DoFn):
    """``((partition, folder), encoded records)`` -> one complete file below ``url``; yields partition and name."""

    def __init__(self, url: str, file_format: Any, stems: Mapping[str, str]) -> None:
        self._url = url
        self._format = file_format
        self._stems = dict(stems)

    def process(self, element: tuple[tuple[str, str], Iterable[bytes]]) -> Iterator[tuple[str, str]]:
        """One kind of one partition's records."""
        (partition, folder), lines = element
        records = [FOLDERS[folder].model_validate_json(line) for line in lines]
        name = RecordFiles(ObjectStore(self._url), folder, self._format).write(self._stems[partition], records)
        if name is not None:
            yield partition, name


class SendRecords(beam.DoFn):
    """``(partition, encoded records)`` -> the topics of ``url``, every record acknowledged; yields the partition.

    With ``transactional`` into the transaction that the driver has begun for the partition.
    """

    def __init__(self, config: JobConfig, url: str) -> None:
        self._config = config
        self._url = url

    def process(self, element: tuple[str, Iterable[Encoded]]) -> Iterator[str]:
        """All of a partition's records, in the order in which files have them."""
        partition, lines = element
        ordered = sorted(lines)
        records = [FOLDERS[folder].model_validate_json(line) for folder, line in ordered]
        rank = list(FOLDERS)
        records.sort(key=lambda record: (rank.index(FOLDER_OF[type(record)]), default_key(record)))
        if self._config.kafka.transactional:
            _transactions[partition].send_all(records)
        else:
            producer(self._config, self._url).send_all(records)
        yield partition


def producer(config: JobConfig, url: str) -> KafkaSink:
    """The process's own, made at the first use."""
    with _lock:
        if url not in _producers:
            settings, topics, plan = out_settings(config, url)
            _producers[url] = KafkaSink(settings, topics, plan=plan)
        return _producers[url]


def open_transactions(partition: str, sink: TransactionalSink) -> None:
    """From now on ``sink`` takes this partition's records."""
    _transactions[partition] = sink


def close_sinks() -> None:
    """Let go of every producer of the process, in bounded time."""
    with _lock:
        for producing in _producers.values():
            producing.close()
        for transacting in _transactions.values():
            transacting.close()
        _producers.clear()
        _transactions.clear()
