"""A record as a row: nothing of it is lost, rows are ordered as records are to be, and it travels as it is."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from apache_beam import coders
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_tta.adapters.coders import RowCoder
from grpo_tta.adapters.rows import KINDS, Row
from grpo_tta.schemas import AdaptationLog, DeadLetter, Plan

TIME = datetime(2026, 1, 1, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
ROWS = st.builds(
    Row, st.sampled_from(list(KINDS)), TEXT, st.integers(-(2**63), 2**63), TEXT, st.integers(0, 10), st.booleans(),
    st.binary(max_size=30),
)  # fmt: skip


def log(stream: str, second: float, coordinate: str, frame: int, *, reset: bool = False) -> AdaptationLog:
    return AdaptationLog(
        stream=stream, coordinate=coordinate, event_time=TIME + timedelta(seconds=second), window_start=TIME,
        window_end=TIME, frame=frame, frames_since_reset=frame, update_count=1, warming_up=False, reset=reset,
        cause="shift" if reset else None, model_fingerprint="m", method="grpo",
    )  # fmt: skip


def letter(coordinate: str, event_time: datetime | None = None) -> DeadLetter:
    return DeadLetter(
        coordinate=coordinate, stage="fetch", error_class="E", error_message="m", event_time=event_time
    )  # fmt: skip


def test_a_record_comes_back() -> None:
    for record in (log("a", 1.5, "c-1", 16), letter("x"), letter("x", TIME)):
        assert Row.of(record).record() == record
    with pytest.raises(TypeError, match="Plan is none of labels, adaptation, drift, dead_letters"):
        Row.of(Plan.model_construct())


def test_rows_are_ordered_by_stream_time_coordinate_frame_and_an_update_before_its_reset() -> None:
    wanted = [
        log("a", 0.000001, "c-2", 32), log("a", 1, "c-1", 16), log("a", 1, "c-2", 16), log("a", 1, "c-2", 32),
        log("a", 1, "c-2", 32, reset=True), log("b", 0, "c-0", 1),
    ]  # fmt: skip
    rows = [Row.of(record) for record in wanted]
    mixed = list(rows)
    random.Random(2).shuffle(mixed)
    assert sorted(mixed) == rows
    letters = [letter("0", TIME), letter("b"), letter("a")]
    assert [row.coordinate for row in sorted(map(Row.of, letters))] == ["a", "b", "0"]


@settings(max_examples=60)
@given(ROWS)
def test_a_row_travels_as_it_is_and_has_one_encoding(row: Row) -> None:
    coder = coders.registry.get_coder(Row)
    assert isinstance(coder, RowCoder)
    assert coder.is_deterministic()
    assert coder.decode(coder.encode(row)) == row
    assert coder.encode(coder.decode(coder.encode(row))) == coder.encode(row)
