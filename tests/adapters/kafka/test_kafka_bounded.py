"""What a topic's compressed batches and large records may take."""

import tracemalloc
import types

import pytest
from kafka import TopicPartition, errors
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka_fakes import Record

from grpo_tta.adapters.kafka import bounded
from grpo_tta.adapters.kafka.bounded import MAX_POLL, MAX_RECORDS, BoundedConsumer, bound_codecs

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
PACKAGES = {"snappy": "snappy", "lz4": "lz4.frame", "zstd": "zstandard"}


def batch(codec, value):
    if codec in PACKAGES:
        pytest.importorskip(PACKAGES[codec])
    made = DefaultRecordBatchBuilder(2, CODECS[codec], False, -1, -1, -1, 2**30)
    made.append(0, 0, None, value, [])
    data = bytes(made.build())
    assert len(data) < len(value)
    return DefaultRecordBatch(data)


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_that_holds_too_much_is_refused(codec, monkeypatch):
    bound_codecs()
    value = b"\0" * 300_000
    (record,) = batch(codec, value)
    assert record.value == value
    monkeypatch.setattr(bounded, "MAX_BATCH", 299_000)
    with pytest.raises(errors.CorruptRecordError, match="holds more than 299000 bytes"):
        list(batch(codec, value))


def test_no_more_than_the_bound_is_decompressed(monkeypatch):
    bound_codecs()
    monkeypatch.setattr(bounded, "MAX_BATCH", 2**21)
    bomb = batch("gzip", b"\0" * 2**26)
    tracemalloc.start()
    try:
        with pytest.raises(errors.CorruptRecordError):
            list(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**21
    finally:
        tracemalloc.stop()


def test_large_records_come_one_by_one():
    partition, asked, sizes = TopicPartition("images", 0), [], iter([1] * 12 + [MAX_POLL + 1, 1, 1])

    def poll(timeout_ms, max_records):
        asked.append(max_records)
        return {partition: [Record(value=b"x" * next(sizes)), Record(value=None)]}

    consumer = BoundedConsumer(types.SimpleNamespace(poll=poll, seek="seek"))
    assert consumer.seek == "seek"
    for _ in range(15):
        consumer.poll(500)
    assert asked == [1, 2, 4, 8, 16, 32, 64, 128, 256, MAX_RECORDS, MAX_RECORDS, MAX_RECORDS, MAX_RECORDS, 1, 2]
