"""In which state a stream is by its records, and what is said of it and advised."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pipeline_report import CALIBRATION, HOUR, START, STEADY, moved, stretch

from grpo_tta.pipeline.report.read import Cause, StreamOutputs
from grpo_tta.pipeline.report.states import Judgement, judge
from grpo_tta.pipeline.report.stretches import Names, Packed, time_of
from grpo_tta.pipeline.report.windows import estimator, windows_of
from grpo_tta.pipeline.watch.streams import Seen, StreamBoard, floor_of
from grpo_tta.schemas import MonitorRecord

JUDGED = {
    "normal": (STEADY, 4),
    "drifted": ([*STEADY, moved(3.5)], 4),
    "degraded": ([*STEADY, stretch(4, sure=0.2), moved(4)], 5),
    "ill": ([*STEADY, stretch(4, ill=200), moved(2)], 5),
    "silent": ([*STEADY, moved(2)], 30),
    "unknown": ([stretch(0, n=40)], 1),
}


def judged(records: list[MonitorRecord], now: datetime | None = None) -> tuple[Judgement, Seen]:
    """The same records' stream in the report and on the board of a live job, which may have seen no image since."""
    packed, clock = Packed(Names()), [0.0]
    for record in records:
        packed.add("", record)
    rows, _, _, shifts, _ = packed.unpack(None)
    board = StreamBoard(CALIBRATION, lambda: clock[0])
    for record in records:
        board.add([record])
    newest = max((time_of(int(end)) for end in rows.end[rows.totals["n"] > 0]), default=time_of(int(rows.end[-1])))
    clock[0] = 0.0 if now is None else (now - newest).total_seconds()
    stream = StreamOutputs("cam", rows, [], [Cause("fetch/NotFound", 3)], {}, shifts)
    windows = windows_of(rows, [], estimator(CALIBRATION, from_labels=False))
    floor = floor_of(None, CALIBRATION)
    return judge(stream, windows.newest, now or newest, floor, calibrated=True, out="out"), board.seen()["cam"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 60), st.integers(0, 300), st.sampled_from([0.0, 0.3, 0.6, 1.0]), st.booleans(),
            st.sampled_from(["m", "other"]), st.integers(0, 5),
        ), min_size=1, max_size=60,
    ),
    st.integers(0, 50),
)  # fmt: skip
@example(
    [
        (0, 0, 0.0, False, "m", 0),
        (0, 0, 0.0, False, "other", 0),
        (1, 0, 0.0, False, "m", 1),
        (0, 1, 0.0, False, "m", 1),
    ],
    0,
)
def test_the_report_and_a_live_job_say_the_same_of_the_same_records(parts: list[Any], idle: int) -> None:
    records = [
        (moved(hour + 0.5) if kind == 0 else stretch(hour, n, sure, ill=n * (kind == 1), resets={"manual": kind == 2}))
        .model_copy(update={"model_fingerprint": model, "frozen_n": n * frozen, "frozen_labels": {"a": n * frozen}})
        for hour, n, sure, frozen, model, kind in parts
    ]  # fmt: skip
    last = max((one.bucket_start for one in records if one.n and one.bucket_start), default=START) + HOUR
    found, seen = judged(records, last + HOUR * idle if any(one.n for one in records) else None)
    assert found.state == seen.state


@pytest.mark.parametrize(
    ("records", "hours", "state"),
    [
        ([*STEADY, moved(1)], 26, "silent"),  # a shift 25 hours ago, then nothing
        ([stretch(hour) for hour in (*range(20), *range(188, 200))], 203, "silent"),  # once away for a week
        ([stretch(hour, 2000) for hour in range(60)] + [stretch(60, 500, 0.2)], 61, "degraded"),
    ],
)
def test_a_state_is_of_the_newest_images_and_of_usual_pauses(
    records: list[MonitorRecord], hours: int, state: str
) -> None:
    found, seen = judged(records, START + HOUR * hours)
    assert (found.state, seen.state) == (state, state)


@pytest.mark.parametrize("state", JUDGED)
def test_a_stream_is_in_the_worst_state_that_holds_and_says_why(state: str) -> None:
    records, hour = JUDGED[state]
    found, seen = judged(records, START + HOUR * hour)
    assert found.state == seen.state == state
    assert all(text.endswith(".") for text in found.reasons)
    assert len([text for text in found.reasons if "frozen encoder's" in text]) <= 1
    assert "3 dead letters" in found.reasons[-1]
    assert found.next


@pytest.mark.parametrize("shifts", [[], [moved(4)]])
def test_pictures_to_look_at_are_those_that_the_page_has(shifts: list[MonitorRecord]) -> None:
    found, _ = judged([*STEADY, stretch(4, sure=0.2), *shifts], START + HOUR * 5)
    assert found.state == "degraded"
    assert ("before and after" in found.next[0].text) == bool(shifts)
    assert ("least sure" in found.next[0].text) == (not shifts)
