"""The reader of one range and the cache of consumers, against a log in memory."""

import pytest
from apache_beam.io.restriction_trackers import OffsetRange
from kafka import errors as kafka_errors
from kafka_fakes import FakeConsumer

from grpo_tta.adapters.kafka.consumers import ConsumerCache
from grpo_tta.adapters.kafka.errors import KafkaFailure, KafkaForbidden, OffsetOutOfRange, ReadStalled
from grpo_tta.adapters.kafka.positions import SkippedRange
from grpo_tta.adapters.kafka.ranges import RangeTracker
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.source import ReadImagesFromKafka, ReadLimits, _Reader

SETTINGS = KafkaSettings(("h:1",))


def read(start, stop, *consumers, policy="fail", stall=5.0):
    """What a reader gives: offsets of records, ``-offset`` for gaps, skipped ranges; one consumer an attempt."""
    waiting = list(consumers)
    cache = ConsumerCache(open_=lambda *_: waiting.pop(0))
    reader = _Reader(SETTINGS, "images-0", ReadLimits(stall_seconds=stall), policy, True, cache)
    return [
        item if isinstance(item, SkippedRange) else item[0] if item[1] is not None else -item[0]
        for item in reader.read(start, stop)
    ]


@pytest.mark.parametrize(
    ("log", "start", "stop", "expected"),
    [
        (range(10), 0, 10, list(range(10))),
        (range(10), 3, 7, [3, 4, 5, 6]),
        ([0, 1, 4, 5], 0, 8, [0, 1, 4, 5, -7]),
        ([4, 5], 0, 5, [4]),
        ([9], 0, 5, [-4]),
        ([], 0, 5, [-4]),
        ([0, 1, 2, 8], 0, 6, [0, 1, 2, -5]),
    ],
)
def test_every_range_is_given_to_its_last_offset(log, start, stop, expected):
    assert read(start, stop, FakeConsumer(log, end=20)) == expected


def test_a_range_may_begin_in_a_gap():
    consumer = FakeConsumer([0, 7], end=20)
    assert read(2, 9, consumer) == [7, -8]
    assert consumer.sought == [2]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("earliest", [SkippedRange("images-0", 2, 5, 5, 20), -4, 5, 6]),
        ("latest", [SkippedRange("images-0", 2, 7, 5, 20), -6]),
    ],
)
def test_what_retention_deleted(policy, expected):
    log = FakeConsumer(range(5, 20), beginning=5, end=20)
    assert read(2, 7, log, log, policy=policy) == expected


def test_a_range_wholly_deleted_is_skipped_to_its_end_not_beyond():
    log = FakeConsumer(range(50, 60), beginning=50, end=60)
    assert read(2, 7, log, policy="earliest") == [SkippedRange("images-0", 2, 7, 50, 60), -6]


def test_a_range_beyond_a_log_that_was_cut_is_skipped_and_never_read_backwards():
    assert read(8, 10, FakeConsumer(range(3), end=3), policy="earliest") == [SkippedRange("images-0", 8, 10, 0, 3), -9]


def test_what_retention_deleted_fails_the_read_by_default():
    with pytest.raises(OffsetOutOfRange, match="images-0: position 2 is not there, the log holds 5 to 20"):
        read(2, 7, FakeConsumer(range(5, 20), beginning=5, end=20))


def test_an_error_that_passes_is_tried_again_from_where_it_happened():
    first = FakeConsumer(range(10), end=10, polls=[None, kafka_errors.NotLeaderForPartitionError()])
    second = FakeConsumer(range(10), end=10)
    assert read(0, 10, first, second) == list(range(10))
    assert first.closed
    assert second.sought == [3]


def test_an_error_that_does_not_pass_is_not_tried_again():
    broken = FakeConsumer(range(10), end=10, polls=[kafka_errors.TopicAuthorizationFailedError()])
    with pytest.raises(KafkaForbidden):
        read(0, 10, broken)
    assert broken.closed


def test_errors_that_go_on_fail_within_the_bound():
    broken = [FakeConsumer(polls=[kafka_errors.NotLeaderForPartitionError()]) for _ in range(9)]
    with pytest.raises(KafkaFailure, match="NotLeaderForPartition"):
        read(0, 10, *broken, stall=1.0)


def test_records_that_do_not_come_fail_within_the_bound():
    with pytest.raises(ReadStalled, match="images-0: offset 3 of a range up to 10 did not come in 0 s"):
        read(0, 10, FakeConsumer(range(3), end=3), stall=0.2)


def test_a_consumer_is_kept_by_a_reader_that_has_enough():
    made = []

    def make(*_):
        made.append(FakeConsumer(range(10), end=10))
        return made[-1]

    cache = ConsumerCache(open_=make)
    reader = _Reader(SETTINGS, "images-0", ReadLimits(), "fail", True, cache)
    items = reader.read(0, 10)
    assert next(items)[0] == 0
    items.close()
    assert len(cache) == 1
    assert [item[0] for item in reader.read(5, 7)] == [5, 6]
    assert len(made) == 1
    assert made[0].sought == [0, 5]


def test_two_readers_of_one_partition_never_share_a_consumer():
    made = []

    def make(*_):
        made.append(FakeConsumer())
        return made[-1]

    cache = ConsumerCache(open_=make)
    with (
        cache.lend(SETTINGS, "a-0", read_committed=True) as one,
        cache.lend(SETTINGS, "a-0", read_committed=True) as two,
    ):
        assert one is not two
    assert len(cache) == 1
    assert [consumer.closed for consumer in made].count(True) == 1
    with cache.lend(SETTINGS, "a-0", read_committed=False) as third:
        assert third not in (one, two)
    cache.close_idle(all_of_them=True)
    assert all(consumer.closed for consumer in made)


def test_only_the_reader_splits_its_range():
    tracker = RangeTracker(OffsetRange(0, 100))
    assert tracker.try_claim(9)
    assert tracker.try_split(0.5) is None
    kept, rest = tracker.try_split(0)
    assert (kept, rest) == (OffsetRange(0, 10), OffsetRange(10, 100))
    tracker.check_done()


def test_bad_settings_of_the_source():
    with pytest.raises(ValueError, match="must be fail, earliest or latest, got 'none'"):
        ReadImagesFromKafka(SETTINGS, out_of_range="none")
    with pytest.raises(ValueError, match="records must be > 0, got 0"):
        ReadLimits(records=0)
