"""The Kafka source and offsets against a real broker: limits, gaps, lost offsets, a broker that dies."""

import threading
import time
from uuid import uuid4

import apache_beam as beam
import kafka
import pytest
from apache_beam.testing.util import assert_that, equal_to
from kafka_records import consume, event, produce

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.kafka.consumers import ConsumerCache
from grpo_tta.adapters.kafka.errors import OffsetOutOfRange, ReadStalled, TopicMissing
from grpo_tta.adapters.kafka.membership import StaticMember
from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.positions import Committed, SkippedRange, Start
from grpo_tta.adapters.kafka.ranges import KafkaRange
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.source import SKIPPED, ReadImagesFromKafka, ReadLimits
from grpo_tta.beam import ReadImagesFromKafka as ReadTopic
from grpo_tta.beam.contracts import SourceContract


@pytest.fixture
def settings(broker):
    return KafkaSettings((broker.bootstrap,), request_timeout=10.0)


def read(settings, ranges, expected, skipped=(), **options):
    """Run the source over ``ranges`` and compare ``(partition, offset)`` and what was skipped."""
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        read = pipeline | beam.Create(ranges) | ReadImagesFromKafka(settings, **options)
        places = read.refs | beam.Map(lambda found: (found[0], found[1].position))
        assert_that(places, equal_to(expected), label="refs")
        assert_that(read[SKIPPED], equal_to(list(skipped)), label="skipped")


def test_a_range_is_read_exactly_with_bad_records_in_their_places(settings, topic):
    name = topic(partitions=2)
    produce(settings, name, [event(0), b"no event", event(2), event(3)])
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        read = (
            pipeline
            | beam.Create([KafkaRange(name, 0, 1, 3), KafkaRange(name, 1, 0, 0)])
            | ReadImagesFromKafka(settings)
        )

        def check(found):
            (first, bad), (second, ref) = sorted(found, key=lambda pair: pair[1].position)
            assert first == second == f"{name}-0"
            assert isinstance(bad, BadRecord)
            assert bad.coordinate == f"{name}-0-{1:019d}"
            assert isinstance(ref, ImageRef)
            assert (ref.id, ref.data, ref.position) == ("e2", b"jpeg", 2)

        assert_that(read.refs, check)


def test_limits_hand_the_rest_to_another_call_and_nothing_is_lost_or_doubled(settings, topic):
    name = topic()
    produce(settings, name, [event(number) for number in range(95)])
    limits = ReadLimits(records=10)
    read(settings, [KafkaRange(name, 0, 0, 95)], [(f"{name}-0", number) for number in range(95)], limits=limits)


def test_gaps_of_transactions_are_passed_to_the_end_of_the_range(settings, topic):
    name = topic()
    produce(settings, name, [event(0), event(1)], transactional_id=f"{name}-a")  # 0, 1, marker 2
    produce(settings, name, [event(3), event(4)], transactional_id=f"{name}-b", end="abort_transaction")  # 3, 4, marker
    produce(settings, name, [event(6)], transactional_id=f"{name}-c")  # 6, marker 7
    with KafkaOffsets(settings) as offsets:
        assert offsets.end([f"{name}-0"]) == {f"{name}-0": 8}
    ranges = [KafkaRange(name, 0, 0, 3), KafkaRange(name, 0, 3, 6), KafkaRange(name, 0, 6, 8)]
    read(settings, ranges, [(f"{name}-0", number) for number in (0, 1, 6)])
    read(settings, ranges, [(f"{name}-0", number) for number in (0, 1, 3, 4, 6)], read_committed=False)


def test_gaps_of_compaction(settings, topic):
    config = {
        "cleanup.policy": "compact",
        "segment.ms": "200",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "300",
    }
    name = topic(config=config)
    produce(settings, name, [event(number) for number in range(20)])
    deadline = time.monotonic() + 60
    while len(consume(settings, name)) > 5:  # each makes a new segment, so that the ones before may be cleaned
        assert time.monotonic() < deadline, "the log was not compacted"
        time.sleep(0.5)
        produce(settings, name, [event(99)])
    kept = [record.offset for record in consume(settings, name)]
    with KafkaOffsets(settings) as offsets:
        (end,) = offsets.end([f"{name}-0"]).values()
    assert len(kept) < end
    time.sleep(1)
    kept = [record.offset for record in consume(settings, name)]
    ranges = [KafkaRange(name, 0, 0, 10), KafkaRange(name, 0, 10, end)]
    read(settings, ranges, [(f"{name}-0", offset) for offset in kept])


def test_offsets_that_retention_has_deleted(settings, topic):
    name = topic()
    partition = f"{name}-0"
    produce(settings, name, [event(number) for number in range(20)])
    with settings.admin() as admin:
        admin.delete_records({kafka.TopicPartition(name, 0): 12})
    ranges = [KafkaRange(name, 0, 5, 15)]
    with pytest.raises(OffsetOutOfRange, match=f"{partition}: position 5 is not there, the log holds 12 to 20"):
        read(settings, ranges, [])
    read(
        settings, ranges, [(partition, 12), (partition, 13), (partition, 14)],
        [SkippedRange(partition, 5, 12, 12, 20)], out_of_range="earliest",
    )  # fmt: skip
    read(settings, ranges, [], [SkippedRange(partition, 5, 15, 12, 20)], out_of_range="latest")
    read(settings, [KafkaRange(name, 0, 2, 8)], [], [SkippedRange(partition, 2, 8, 12, 20)], out_of_range="earliest")


def test_a_range_that_does_not_come_fails_in_bounded_time(settings, topic):
    name = topic()
    produce(settings, name, [event(0)])
    started = time.monotonic()
    with pytest.raises(ReadStalled, match="offset 1 of a range up to 5 did not come"):
        read(settings, [KafkaRange(name, 0, 0, 5)], [], limits=ReadLimits(stall_seconds=2.0))
    assert time.monotonic() - started < 15


def test_a_broker_that_dies_under_a_read_is_waited_for(settings, topic, broker_to_disturb):
    name = topic()
    produce(settings, name, [event(number) for number in range(50)])
    restarting = threading.Timer(3.0, broker_to_disturb.restart)
    broker_to_disturb.kill()
    restarting.start()
    read(settings, [KafkaRange(name, 0, 0, 50)], [(f"{name}-0", number) for number in range(50)])
    restarting.join()


def test_consumers_are_kept_between_reads_and_closed_when_idle(settings, topic):
    name = topic()
    now = [0.0]
    cache = ConsumerCache(clock=lambda: now[0])
    with cache.lend(settings, f"{name}-0", read_committed=True) as first:
        pass
    with cache.lend(settings, f"{name}-0", read_committed=True) as second:
        assert second is first
    now[0] = 61.0
    cache.close_idle()
    assert len(cache) == 0
    with pytest.raises(Exception, match="closed"):
        first.poll(0)


def test_where_to_start(settings, topic):
    name = topic(partitions=2, config={"retention.ms": "-1"})
    one, two = f"{name}-0", f"{name}-1"
    producer = settings.producer()
    for number in range(4):
        producer.send(name, event(number), partition=0, timestamp_ms=1_700_000_000_000 + 1000 * number).get(timeout=10)
    producer.close()
    group = uuid4().hex
    with KafkaOffsets(settings, group=group) as offsets:
        assert offsets.partitions([name]) == [one, two]
        assert offsets.start(Start.parse("earliest"), [one, two]) == {one: 0, two: 0}
        assert offsets.start(Start.parse("latest"), [one, two]) == {one: 4, two: 0}
        assert offsets.start(Start.parse("timestamp:2023-11-14T22:13:22Z"), [one, two]) == {one: 2, two: 0}
        assert offsets.start(Start.parse("timestamp:2040-01-01T00:00:00Z"), [one, two]) == {one: 4, two: 0}
        assert offsets.start(Start.parse(f"{one}=3,{two}=0"), [one, two]) == {one: 3, two: 0}
        assert offsets.start(Start.parse("committed"), [one, two]) == {one: 0, two: 0}
        member = StaticMember(settings, [name], [0, 1], group=group)
        member.start()
        member.commit({one: Committed(2, "manifest-7")}, member.assignment().partitions)
        member.close()
        assert offsets.committed([one, two]) == {one: Committed(2, "manifest-7")}
        assert offsets.start(Start.parse("committed"), [one, two]) == {one: 2, two: 0}
        assert offsets.lag({one: 1, two: 0}) == {one: 3, two: 0}


def test_positions_outside_the_log(settings, topic):
    name = topic()
    one = f"{name}-0"
    produce(settings, name, [event(number) for number in range(9)])
    with settings.admin() as admin:
        admin.delete_records({kafka.TopicPartition(name, 0): 4})
    with KafkaOffsets(settings) as offsets:
        assert offsets.check({one: 4}, "fail") == ({one: 4}, [])
        assert offsets.check({one: 9}, "fail") == ({one: 9}, [])
        for wanted in (3, 10):
            with pytest.raises(OffsetOutOfRange, match=f"{one}: position {wanted} is not there, the log holds 4 to 9"):
                offsets.check({one: wanted}, "fail")
        assert offsets.check({one: 3}, "earliest") == ({one: 4}, [SkippedRange(one, 3, 4, 4, 9)])
        assert offsets.check({one: 10}, "latest") == ({one: 9}, [SkippedRange(one, 10, 9, 4, 9)])


def test_a_topic_that_is_not_there(settings):
    with KafkaOffsets(settings) as offsets, pytest.raises(TopicMissing, match="'no-such-topic' does not exist"):
        offsets.partitions(["no-such-topic"])


class TestTopic(SourceContract):
    """What a pipeline of one's own reads of a topic, by the contract of all sources."""

    events = 7

    @pytest.fixture(autouse=True)
    def _filled(self, broker, settings, topic):
        name = topic(partitions=2)
        produce(settings, name, [event(number) for number in range(7)])
        self.url = f"kafka://{broker.bootstrap}/{name}"

    def make(self):
        return ReadTopic(self.url, {"start": "earliest"})
