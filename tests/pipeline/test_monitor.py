"""What records add up to: the sum does not depend on how they were cut into slices, nor on the order of the parts."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_tta.pipeline.label.monitor import MonitorMaker
from grpo_tta.schemas import AdaptationLog, ClassProbability, DeadLetter, DriftEvent, LabeledImage, MonitorRecord
from grpo_tta.schemas.monitor import SAMPLES, join, merge, merged

START = datetime(2026, 1, 1, tzinfo=UTC)
MAKER = MonitorMaker(3600, "m", "grpo", "s")
BY = {"model_fingerprint": "m", "method": "grpo"}
CLASSES = ("ant", "bee", "cat")


def label(number: int, minutes: float = 0.0, stream: str = "cam", **fields: object) -> LabeledImage:
    best, sure = CLASSES[number % 3], 0.3 + 0.6 * (number * 7 % 10) / 10
    time = START + timedelta(minutes=minutes)
    return LabeledImage.model_validate(
        {
            "coordinate": f"t-0-{number}", "id": str(number), "stream": stream, "event_time": time,
            "window_start": time, "window_end": time, "label": best, "probability": sure,
            "top_k": [ClassProbability(label=best, probability=sure)], "frozen_label": "ant",
            "frozen_probability": 0.5, "entropy": number % 101 / 100, "frozen_entropy": 0.25, "update_count": 0,
            **BY, **fields,
        }
    )  # fmt: skip


def log(number: int, minutes: float, **fields: object) -> AdaptationLog:
    time = START + timedelta(minutes=minutes)
    return AdaptationLog.model_validate(
        {
            "stream": "cam", "coordinate": f"t-0-{number}", "event_time": time, "window_start": time,
            "window_end": time, "frame": number, "frames_since_reset": number, "update_count": 1, **BY, **fields,
        }
    )  # fmt: skip


def drift(number: int, minutes: float, signal: str, size: float | None = None) -> DriftEvent:
    return DriftEvent.model_validate(
        {
            "stream": "cam", "coordinate": f"t-0-{number}", "event_time": START + timedelta(minutes=minutes),
            "frame": number, "signal": signal, "size": size, "reset": False, "message": "", **BY,
        }
    )  # fmt: skip


def letter(number: int, stream: str | None = "cam", error: str = "NotFound") -> DeadLetter:
    time = None if stream is None else START
    return DeadLetter(
        coordinate=f"t-0-{number}", stage="fetch", error_class=error, error_message="", stream=stream, event_time=time
    )


def dump(records: list[MonitorRecord]) -> list[str]:
    return [record.model_dump_json(exclude_none=True) for record in records]


def test_a_record_counts_what_was_said_in_its_stretch():
    labels = [
        label(0, late=True), label(1, label="unknown"), label(2, ill=True), label(100, entropy=1.0),
        label(4, frozen_label=None, frozen_probability=None, frozen_entropy=None), label(5, 61),
    ]  # fmt: skip
    rows = [log(2, 1), log(3, 2, reset=True, cause="collapse")]
    first, second = MAKER.records(labels, rows, [drift(2, 1, "shift", 1.25), drift(2, 1, "ill")], [letter(9)])
    assert (first.bucket_start, first.bucket_seconds, first.coordinate) == (START, 3600, "t-0-0")
    assert (first.n, first.late, first.unknown, first.ill, first.frozen_n, first.agree) == (5, 1, 1, 1, 4, 1)
    assert (first.updates, first.resets, first.drift) == (1, {"collapse": 1}, {"ill": 1, "shift": 1})
    assert first.dead_letters == {"fetch/NotFound": 1}
    assert (first.labels, first.frozen_labels) == ({"ant": 1, "bee": 3, "cat": 1}, {"ant": 4})
    assert (first.entropy, first.frozen_entropy) == ({0: 1, 1: 1, 2: 1, 4: 1, 99: 1}, {25: 4})
    assert first.least_entropy == {0: 1, 1: 1, 2: 1, 25: 1}
    assert (sum(first.probability.values()), first.frozen_probability) == (5, {10: 4})
    assert [(shift.coordinate, shift.thousandths) for shift in first.shifts] == [("t-0-2", 1250)]
    assert [sample.coordinate for sample in first.least_sure] == ["t-0-0", "t-0-100", "t-0-2", "t-0-1"]
    assert first.least_sure[0].millionths == 300_000
    assert (second.bucket_start, second.n) == (START + timedelta(hours=1), 1)
    assert MonitorRecord.model_validate_json(first.model_dump_json(exclude_none=True)) == first


def test_what_is_no_event_has_neither_stream_nor_time():
    (record,) = MAKER.records(dead_letters=[letter(3, None), letter(2, None, "Other")])
    assert (record.stream, record.bucket_start, record.coordinate) == (None, None, "t-0-2")
    assert record.dead_letters == {"fetch/NotFound": 1, "fetch/Other": 1}
    with pytest.raises(ValueError, match="have a time"):
        join([record])


def test_the_first_stretch_of_all_and_those_before_the_epoch_have_a_start():
    for time in (datetime.min.replace(tzinfo=UTC), datetime(1969, 12, 31, 23, 59, tzinfo=UTC)):
        (record,) = MonitorMaker(7 * 3600, "m", "grpo", "s").records([label(0, event_time=time)])
        assert record.bucket_start is not None
        assert record.bucket_start <= time


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.randoms(use_true_random=False), st.booleans())
def test_however_records_were_cut_and_in_whatever_order_parts_come_the_sum_has_the_same_bytes(
    count: int, chance: random.Random, twice: bool
) -> None:
    labels = [label(number, chance.uniform(0, 130), chance.choice(("a", "b"))) for number in range(count)]
    letters = [letter(100 + number, chance.choice(("a", None))) for number in range(3)]
    whole = MAKER.records(labels, dead_letters=letters)
    parts: list[MonitorRecord] = []
    for some in range(3):
        mine = [one for number, one in enumerate(labels) if number % 3 == some]
        parts += MAKER.records(mine, dead_letters=letters[some : some + 1])
    chance.shuffle(parts)
    if twice:  # sums of sums
        half = len(parts) // 2
        parts = [*merged(parts[:half]), *merged(parts[half:])]
    assert dump(merged(parts)) == dump(merged(whole))
    assert max(len(record.least_sure) for record in merged(parts)) <= SAMPLES
    joined = [
        join([one for one in whole if one.stream == stream and one.bucket_start]) for stream in {"a"} & streams(whole)
    ]
    assert [one.n for one in joined] == [sum(one.n for one in whole if one.stream == "a")] * len(joined)


def streams(records: list[MonitorRecord]) -> set[str | None]:
    return {record.stream for record in records}


def test_stretches_that_do_not_belong_together_are_not_added():
    one, other = MAKER.records([label(0), label(1, 70)])
    with pytest.raises(ValueError, match="have one key"):
        merge([one, other])
    both = join([other, one])
    assert (both.bucket_start, both.bucket_seconds, both.n) == (START, 7200, 2)
    with pytest.raises(ValueError, match="of one stream and method"):
        join([one, *MAKER.records([label(0, stream="b")])])
    with pytest.raises(ValueError, match="of one stream and method"):
        join([])
