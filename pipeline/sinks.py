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
from grpo_tta.adapters.rows import KINDS, Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import FORMATS, RecordFiles
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.config.kafka import out_settings

_producers: dict[tuple[str, str], KafkaSink] = {}
"""Of each job and place."""
_transactions: dict[str, TransactionalSink] = {}
_lock = threading.Lock()


def leftovers(stem: str, written: Iterable[str]) -> list[str]:
    """Names of output files that an attempt at this slice could have written, but for those in ``written``."""
    possible = {f"{folder}/{stem}.{ending}" for folder in KINDS for ending in FORMATS}
    return sorted(possible.difference(written))


class WriteRecords(beam.DoFn):
    """``((partition, kind), rows)`` -> one complete file below ``url``; gives partition, name and digest."""

    def __init__(self, url: str, file_format: Any, stems: Mapping[str, str]) -> None:
        self._url = url
        self._format = file_format
        self._stems = dict(stems)

    def process(self, element: tuple[tuple[str, str], Iterable[Row]]) -> Iterator[tuple[str, tuple[str, str]]]:
        """One kind of one partition's records."""
        (partition, kind), rows = element
        written = RecordFiles(ObjectStore(self._url), kind, self._format).write(self._stems[partition], rows)
        if written is not None:
            yield partition, (written.name, written.digest)


class SendRecords(beam.DoFn):
    """``(partition, rows)`` -> the topics of ``url``, every record acknowledged; yields the partition.

    With ``transactional`` into the transaction that the driver has begun for the partition.
    """

    def __init__(self, config: JobConfig, url: str) -> None:
        self._config = config
        self._url = url

    def process(self, element: tuple[str, Iterable[Row]]) -> Iterator[str]:
        """All of a partition's records, kind by kind in the order in which files have them."""
        partition, rows = element
        kinds = list(KINDS)
        ordered = sorted(rows, key=lambda row: (kinds.index(row.kind), row))
        if self._config.kafka.transactional:
            _transactions[partition].send_all(ordered)
        else:
            producer(self._config, self._url).send_all(ordered)
        yield partition


def producer(config: JobConfig, url: str) -> KafkaSink:
    """The job's own in this process, made at the first use."""
    with _lock:
        key = config.model_dump_json(), url
        if key not in _producers:
            settings, topics, plan = out_settings(config, url)
            _producers[key] = KafkaSink(settings, topics, plan=plan)
        return _producers[key]


def close_producers(config: JobConfig) -> None:
    """Let go of those of a job, in bounded time."""
    job = config.model_dump_json()
    with _lock:
        for key in [key for key in _producers if key[0] == job]:
            _producers.pop(key).close()


def open_transactions(partition: str, sink: TransactionalSink) -> None:
    """From now on ``sink`` takes this partition's records."""
    _transactions[partition] = sink


def close_transactions(partition: str) -> None:
    """Nothing takes them any more."""
    sink = _transactions.pop(partition, None)
    if sink is not None:
        sink.close()
