"""What producers and disks make of a topic's records, against a real broker: compressed batches, headers, keys and
values of any kind, a segment with flipped bits. One label or one dead letter each, and the job goes on."""

import json
import struct
import time

import psutil
from kafka import KafkaProducer, TopicPartition
from live_jobs import Load, check_bucket_truth, feed, image_event, send

from grpo_tta.adapters.kafka.bounded import MAX_POLL
from grpo_tta.adapters.kafka.consumers import ConsumerCache
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.wire import coordinate_of

CODECS = ("gzip", "snappy", "lz4", "zstd")
ONE = {"kafka": {"partitions": "0"}, "checkpoint": {"slice_records": 100}}
ATTRIBUTES, REACH, COUNT, RECORDS = 22, 26, 60, 200
"""Of a batch: the last bytes of its attributes, of its last offset and of its count of records; a place in a record."""
DAMAGES = [[(RECORDS, 1), (COUNT, 0x40)], [(ATTRIBUTES, 0x20)], [(ATTRIBUTES, 0x03)], [(REACH, 0x02)]]
"""Places and bits: a record and how many there are; that it is a transaction's marker; that it is compressed; that it
ends two records before."""


def test_every_codec_and_whatever_a_record_carries(broker, topic, live_job):
    """Compressed by the producer, and again by the broker, whose codecs are Java's."""
    names = {codec: topic(config={"compression.type": codec, "max.message.bytes": "4194304"}) for codec in CODECS}
    job = live_job(",".join(names.values()), **ONE)
    sent = []
    for codec, name in names.items():
        for other in ("producer's own", codec):
            sent += send(broker, name, feed(4, 1), compression_type=None if other != codec else codec, batch_size=2**20)
    name, odd = names["zstd"], []
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, max_request_size=2**23)

    def produce(value, **options):
        data = json.dumps(value).encode() if isinstance(value, dict) else value
        offset = producer.send(name, data, partition=0, **options).get(timeout=30).offset
        odd.append(coordinate_of(name, 0, offset))

    produce(image_event(50, "cam"), key=b"\xff\xfe\x00")
    produce(image_event(51, "cam"), headers=[("", b""), ("none", b""), ("not text", b"\xff\xfe")])
    produce(image_event(52, "cam"), headers=[("large", bytes(2**20))])
    produce(image_event(53, "cam"), key=b"k" * 2**20)
    produce(None, key=b"cam")  # a tombstone
    produce(b"", key=b"cam")
    produce(None, key=b"k", headers=[("large", b"\xff" * 2**20)])
    produce(b"\xff" * 100, key=b"\xff\xfe", headers=[("\u00e9", b"\xff")])
    producer.close()
    job.finish()
    check_bucket_truth(job, sent + odd)
    letters = {record["coordinate"]: record for record in job.records(".dead_letters")}
    assert sorted(letters) == sorted(odd[4:])
    assert {letter["stage"] for letter in letters.values()} == {"decode_event"}
    assert all(len(json.dumps(letter)) < 200_000 for letter in letters.values())
    assert job.counted() == {"events": len(sent) + 8, "labels": len(sent) + 4, "dead_letters": 4}


def batches_of(segment):
    """Where each batch of a segment file begins, with its length."""
    at, found = 0, []
    while at < len(segment):
        length = 12 + struct.unpack_from(">i", segment, at + 8)[0]
        found.append((at, length))
        at += length
    return found


def test_damaged_batches_are_dead_letters_and_the_rest_is_labelled(broker_to_disturb, topic, live_job):
    """In every second batch of a stopped broker's file."""
    broker = broker_to_disturb
    name = topic()
    job = live_job(name, **ONE)
    sent = [send(broker, name, feed(4, 1, start=4 * number), linger_ms=1000, batch_size=2**20) for number in range(9)]
    broker.stop()
    (path,) = (broker.folder / "data" / f"{name}-0").glob("*.log")
    segment = bytearray(path.read_bytes())
    batches = batches_of(segment)
    assert len(batches) == 9, "each call of send is a batch"
    for (at, _), damage in zip(batches[1::2], DAMAGES, strict=True):
        for place, bits in damage:
            segment[at + place] ^= bits
    path.write_bytes(segment)
    broker.restart()
    job.finish()
    check_bucket_truth(job, [one for batch in sent for one in batch])
    letters = {record["coordinate"]: record for record in job.records(".dead_letters")}
    assert sorted(letters) == sorted(one for batch in sent[1::2] for one in batch)
    assert {letter["error_class"] for letter in letters.values()} == {"Undecodable"}
    assert "the batch fails its checksum" in json.dumps(letters[sent[1][0]])
    assert job.counted() == {"events": 36, "labels": 20, "dead_letters": 16}


def test_what_a_consumer_holds_is_bounded_under_load(broker, topic):
    """Batches of 60 MB of zeros, 60 KB on the broker, behind small records and among those that come meanwhile: all of
    them are one answer's."""
    name = topic(config={"max.message.bytes": "8388608"})
    settings = KafkaSettings((broker.bootstrap,), request_timeout=10.0)
    process, large, count = psutil.Process(), bytes(60 * 2**20), 8
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, max_request_size=2**27, compression_type="gzip")
    send(broker, name, feed(900, 1))
    for _ in range(count):
        producer.send(name, large, partition=0).get(timeout=30)
    producer.close()
    with Load(broker, name, 1, 200.0) as load, ConsumerCache().lend(settings, f"{name}-0", read_committed=True) as one:
        one.seek(TopicPartition(name, 0), 0)
        before, most, sizes, end = process.memory_info().rss, 0, [], time.monotonic() + 40
        while len(sizes) < 900 + count + 100:
            assert time.monotonic() < end
            records = one.poll(500).get(TopicPartition(name, 0), ())
            most = max(most, process.memory_info().rss)
            sizes += [len(record.value) for record in records]
            assert sum(len(record.value) for record in records) <= MAX_POLL + len(large)
            del records
    assert sizes.count(len(large)) == count
    assert load.sent >= 100
    assert most - before < 6 * len(large), "a batch, its buffer, and what is made of both"
