"""Open ranges without a broker: the tracker's algebra, the watermark, and the DoFn over a log in memory that grows."""

import apache_beam as beam
import pytest
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp
from hypothesis import given
from hypothesis import strategies as st
from kafka import errors as kafka_errors
from kafka_fakes import FakeConsumer, Record

from grpo_tta.adapters.events import BadRecord
from grpo_tta.adapters.kafka.consumers import ConsumerCache
from grpo_tta.adapters.kafka.errors import OffsetOutOfRange, ReadStalled
from grpo_tta.adapters.kafka.positions import SkippedRange
from grpo_tta.adapters.kafka.ranges import INITIAL, OPEN, Claim, EventClock, KafkaRange, OpenRange, Ranges
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.source import SKIPPED, ReadImagesFromKafka, ReadLimits, _ReadRange

SETTINGS = KafkaSettings(("h:1",))
ELEMENT = KafkaRange("images", 0, 5)
SECOND = 1_000_000


def tracker(start=5, end=5):
    return Ranges().create_tracker(OpenRange(start, end))


def test_a_range_without_a_stop_is_open_and_its_backlog_ends_with_the_log():
    ranges = Ranges()
    restriction = ranges.initial_restriction(ELEMENT)
    assert (restriction.start, restriction.stop) == (5, OPEN)
    assert ranges.restriction_size(ELEMENT, restriction) == 0
    assert not ranges.create_tracker(restriction).is_bounded()
    assert ranges.truncate(ELEMENT, restriction) is None
    closed = ranges.initial_restriction(ELEMENT._replace(stop=9))
    assert closed == OffsetRange(5, 9)
    assert ranges.create_tracker(closed).is_bounded()
    assert ranges.truncate(ELEMENT, closed) == closed


def test_progress_goes_by_the_end_that_the_claims_tell():
    found = tracker()
    assert found.current_progress().fraction_completed == 0.0
    assert found.try_claim(Claim(5, 15))
    assert found.current_progress().fraction_completed == 0.1
    assert found.try_claim(Claim(9, 25))
    assert found.current_progress().fraction_completed == 0.25
    assert found.try_claim(Claim(14, 0))  # an end that is older than the claim itself
    assert found.current_progress().fraction_completed == 1.0


@pytest.mark.parametrize("fraction", [1e-18, 0.25, 0.5, 1.0])
def test_the_runner_gets_no_part_of_an_open_range(fraction):
    found = tracker()
    assert found.try_claim(Claim(7, 100))
    assert found.try_split(fraction) is None
    assert found.try_claim(Claim(8, 100))
    assert not found.is_bounded()


def test_a_checkpoint_closes_what_was_claimed_and_keeps_the_rest_open_with_its_backlog():
    found = tracker()
    assert found.try_claim(Claim(7, 100))
    kept, rest = found.try_split(0)
    assert (kept, type(rest), rest.start, rest.stop, rest.end) == (OffsetRange(5, 8), OpenRange, 8, OPEN, 100)
    assert Ranges().restriction_size(ELEMENT, rest) == 92
    assert found.is_bounded()
    assert found.current_progress().fraction_completed == pytest.approx(2 / 3)
    found.check_done()
    assert found.try_split(0) is None
    assert not found.try_claim(Claim(8, 100))
    found.check_done()


def test_a_checkpoint_before_any_claim_hands_back_everything():
    found = tracker()
    assert found.try_split(0) == (OffsetRange(5, 5), OpenRange(5, 5))
    found.check_done()


def test_a_reader_that_leaves_without_a_checkpoint_is_found_out():
    found = tracker()
    with pytest.raises(ValueError, match="not done"):
        found.check_done()
    assert found.try_claim(Claim(7, 8))
    with pytest.raises(ValueError, match="not done"):
        found.check_done()


@given(
    st.integers(0, 2**62),
    st.lists(st.one_of(st.integers(1, 2**40), st.sampled_from([0.0, 0.0, 0.3, 1.0])), max_size=60),
)
def test_whatever_is_claimed_and_split_no_offset_is_lost_or_repeated(start, steps):
    """Integers are claims that far ahead, floats are splits; a reader goes on with the rest after a refused claim."""
    found, position, covered = tracker(start, start), start, [start]
    rest = None
    for step in [*steps, 0.0]:
        if isinstance(step, float):
            split = found.try_split(step)
            assert (split is None) == (step != 0 or rest is not None)
            rest = split[1] if split else rest
        elif found.try_claim(Claim(position + step - 1, 0)):
            assert rest is None
            position += step
        else:  # the runner has taken a checkpoint meanwhile: this offset is the next call's
            found.check_done()
            assert found.current_restriction() == OffsetRange(covered[-1], position)
            assert (rest.start, rest.stop) == (position, OPEN)
            covered.append(position)
            found, rest = Ranges().create_tracker(rest), None
    found.check_done()
    assert found.current_restriction() == OffsetRange(covered[-1], position)
    assert (rest.start, rest.stop) == (position, OPEN)


class Wall:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_the_watermark_follows_the_newest_image_and_no_fast_clock():
    wall = Wall()
    clock = EventClock(INITIAL, 30.0, wall)
    assert clock.current_watermark() == MIN_TIMESTAMP
    clock.saw(500 * SECOND)
    assert clock.current_watermark() == Timestamp(470)
    clock.saw(490 * SECOND)
    assert clock.current_watermark() == Timestamp(470)
    clock.saw(9999 * SECOND)
    assert clock.current_watermark() == Timestamp(970)


def test_an_idle_partition_lets_time_pass_also_from_one_call_to_the_next():
    wall = Wall()
    clock = EventClock(INITIAL, 30.0, wall)
    clock.saw(500 * SECOND)
    wall.now += 7
    clock.saw(400 * SECOND)  # busy: only images move it
    assert clock.current_watermark() == Timestamp(470)
    wall.now += 2
    clock.caught_up()
    assert clock.current_watermark() == Timestamp(472)
    wall.now += 3
    later = EventClock(clock.get_estimator_state(), 30.0, wall)
    later.caught_up()
    assert later.current_watermark() == Timestamp(475)
    wall.now -= 100  # the wall clock was put back
    later.caught_up()
    assert later.current_watermark() == Timestamp(475)
    later.saw(502 * SECOND)
    assert later.current_watermark() == Timestamp(475)


def test_a_partition_that_never_had_an_image_counts_as_live():
    clock = EventClock(INITIAL, 30.0, Wall())
    clock.caught_up()
    assert clock.current_watermark() == Timestamp(970)


def image(offset, seconds=None):
    """A record that is an image, taken ``seconds`` (default: its offset) after the beginning of 2026."""
    taken = 1_767_225_600_000 + 1000 * (offset if seconds is None else seconds)
    return Record(offset=offset, timestamp=taken, value=b"jpeg", headers=(("content_type", b"image/jpeg"),))


def reader_of(log, *, policy="fail", **limits):
    return _ReadRange(SETTINGS, ReadLimits(**limits), policy, True, ConsumerCache(open_=lambda *_: log), 0.0)


class Calls:
    """What a runner does with an element: call, keep the rest with its watermark, call again."""

    def __init__(self, dofn, element=ELEMENT):
        self.dofn, self.element = dofn, element
        self.restriction = Ranges().initial_restriction(element)
        self.state = dofn.initial_estimator_state(element, self.restriction)
        self.delay = None

    def __call__(self, interrupt_after=None):
        """The outputs of one call; the runner takes a checkpoint after ``interrupt_after`` of them."""
        tracker = ThreadsafeRestrictionTracker(Ranges().create_tracker(self.restriction))
        clock = ThreadsafeWatermarkEstimator(self.dofn.create_watermark_estimator(self.state))
        outputs = []
        rest = None
        for output in self.dofn.process(self.element, RestrictionTrackerView(tracker), clock):
            outputs.append(output)
            if len(outputs) == interrupt_after:
                _, rest = tracker.try_split(0)
        tracker.check_done()
        deferred = tracker.deferred_status()
        assert (rest is None) != (deferred is None)
        self.restriction, self.delay = deferred or (rest, None)
        self.state = clock.get_estimator_state()
        self.watermark = clock.current_watermark()
        self.spans = [output.value.value[1] for output in outputs if isinstance(output, beam.pvalue.TaggedOutput)]
        return [output.value[1].position for output in outputs if not isinstance(output, beam.pvalue.TaggedOutput)]


def test_an_open_range_waits_at_the_end_of_the_log_and_goes_on_when_it_grows():
    log = FakeConsumer(range(9), end=9, record=image)
    call = Calls(reader_of(log))
    assert call() == [5, 6, 7, 8]
    assert call.spans == [(5, 5, 9, 4)]
    assert (call.restriction.start, call.restriction.size()) == (9, 0)
    assert 0 < float(call.delay) <= 0.5
    before = call.watermark
    assert before >= Timestamp(1_767_225_608)
    assert call() == []
    assert call.spans == []
    assert call.watermark > before
    log.log, log.end = [*range(9), 9, 12], 14  # with gaps
    assert call() == [9, 12]
    assert call.spans == [(5, 9, 14, 2)]
    assert call.restriction.start == 14


@pytest.mark.parametrize("limits", [{"records": 2}, {"bytes": 8}, {"seconds": 1e-9}])
def test_a_call_ends_at_its_limit_and_tells_the_backlog(limits):
    call = Calls(reader_of(FakeConsumer(range(60), end=60, record=image), **limits))
    read = call()
    assert read == ([5] if "seconds" in limits else [5, 6])
    assert (call.restriction.start, call.restriction.size()) == (read[-1] + 1, 60 - read[-1] - 1)
    assert float(call.delay) <= 0
    assert call.watermark == Timestamp(1_767_225_600 + read[-1])
    assert [offset for _ in range(54) for offset in call()] == [*range(read[-1] + 1, 60)]


def test_a_checkpoint_of_the_runner_ends_the_call_and_the_rest_is_read_by_the_next():
    call = Calls(reader_of(FakeConsumer(range(9), end=9, record=image)))
    assert call(interrupt_after=2) == [5, 6]
    assert call.spans == [(5, 5, 7, 2)]
    assert call.restriction.start == 7
    assert call() == [7, 8]


def test_images_have_their_own_times_and_bad_records_that_of_their_reading():
    log = FakeConsumer([5, 6], end=7, record=lambda offset: image(5) if offset == 5 else Record(offset=6, value=b"{}"))
    dofn = reader_of(log)
    tracker = RestrictionTrackerView(ThreadsafeRestrictionTracker(Ranges().create_tracker(OpenRange(5, 5))))
    before = Timestamp.now()
    ref, bad, _ = dofn.process(ELEMENT, tracker, dofn.create_watermark_estimator(INITIAL))
    assert ref.timestamp == Timestamp(1_767_225_605)
    assert isinstance(bad.value[1], BadRecord)
    assert bad.timestamp >= before


def test_while_a_transaction_is_open_time_stands_still():
    """The log ends at 9 for those who read what is committed, and goes on to 12."""
    log = FakeConsumer(range(9), end=9, high=12, record=image)
    call = Calls(reader_of(log))
    for _ in range(2):
        call()
        assert (call.restriction.start, call.restriction.size()) == (9, 3)
        assert call.watermark == Timestamp(1_767_225_608)
    log.log, log.end = [*range(9), 9], 12
    assert call() == [9]


def test_records_that_are_there_and_do_not_come_fail_within_the_bound():
    log = FakeConsumer(range(9), end=9, record=image)
    log.end_offsets = lambda partitions: dict.fromkeys(partitions, 12)
    call = Calls(reader_of(log, stall_seconds=0.2))
    with pytest.raises(ReadStalled, match="images-0: offset 9 of a range without an end did not come"):
        call()


def test_an_error_that_passes_is_tried_again_by_an_open_range_too():
    broken = FakeConsumer(polls=[kafka_errors.NotLeaderForPartitionError()])
    waiting = [broken, FakeConsumer(range(9), end=9, record=image)]
    dofn = _ReadRange(SETTINGS, ReadLimits(), "fail", True, ConsumerCache(open_=lambda *_: waiting.pop(0)), 0.0)
    assert Calls(dofn)() == [5, 6, 7, 8]
    assert broken.closed


def test_what_retention_deleted_is_skipped_by_policy():
    dofn = reader_of(FakeConsumer(range(20), beginning=7, end=9, record=image), policy="earliest")
    tracker = RestrictionTrackerView(ThreadsafeRestrictionTracker(Ranges().create_tracker(OpenRange(5, 5))))
    skipped = next(iter(dofn.process(ELEMENT, tracker, dofn.create_watermark_estimator(INITIAL))))
    assert (skipped.tag, skipped.value.value) == (SKIPPED, SkippedRange("images-0", 5, 7, 7, 9))
    with pytest.raises(OffsetOutOfRange, match="position 5 is not there"):
        Calls(reader_of(FakeConsumer(beginning=7, end=9)))()


@pytest.mark.parametrize("policy", ["fail", "earliest", "latest"])
def test_a_log_that_was_made_anew_fails_by_any_policy(policy):
    with pytest.raises(OffsetOutOfRange, match="position 5 is not there"):
        Calls(reader_of(FakeConsumer(range(3), end=3), policy=policy))()


def test_the_transform_is_unbounded_only_where_it_was_asked_to_be():
    pipeline = beam.Pipeline(runner="FnApiRunner")
    elements = pipeline | beam.Create([ELEMENT])
    closed = elements | "closed" >> ReadImagesFromKafka(SETTINGS)
    opened = elements | "open" >> ReadImagesFromKafka(SETTINGS, endless=True)
    assert [closed.refs.is_bounded, closed[SKIPPED].is_bounded] == [True, True]
    assert [opened.refs.is_bounded, opened[SKIPPED].is_bounded] == [False, False]


def test_an_open_range_needs_an_endless_source():
    dofn = _ReadRange(SETTINGS, ReadLimits(), "fail", True)
    with pytest.raises(ValueError, match="range of partition images-0 has no stop: read it with endless=True"):
        Calls(dofn)()
    with pytest.raises(ValueError, match="lateness must be a number of seconds >= 0, got -1"):
        ReadImagesFromKafka(SETTINGS, endless=True, lateness=-1)


def test_closed_ranges_have_no_watermark_and_no_times_of_their_own():
    dofn = _ReadRange(SETTINGS, ReadLimits(records=2), "fail", True, ConsumerCache(open_=lambda *_: log))
    log = FakeConsumer(range(9), end=9, record=image)
    element = ELEMENT._replace(stop=9)
    restriction = Ranges().initial_restriction(element)
    clock = dofn.create_watermark_estimator(dofn.initial_estimator_state(element, restriction))
    tracker = ThreadsafeRestrictionTracker(Ranges().create_tracker(restriction))
    outputs = list(dofn.process(element, RestrictionTrackerView(tracker), clock))
    assert [(partition, ref.position) for partition, ref in outputs] == [("images-0", 5), ("images-0", 6)]
    assert tracker.deferred_status()[0] == OffsetRange(7, 9)
    assert (clock.current_watermark(), clock.get_estimator_state()) == (None, None)
