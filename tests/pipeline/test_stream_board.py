"""Streams of a live job: their windows, states, and the series that metrics give them."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from grpo_tta.estimate import AccuracyCalibration, Estimate, Side, Width
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.streams import DRIFTED_SECONDS, FULL, SILENT_SECONDS, StreamBoard
from grpo_tta.schemas import MonitorRecord
from grpo_tta.schemas.monitor import Shift

START = datetime(2026, 1, 1, tzinfo=UTC)
WIDTH = Width({"clean": 0.05}, 0.0)
SIDE = Side(0.3, 0.6, 0.0, WIDTH)
CALIBRATION = AccuracyCalibration("m", "grpo", "s", 500, 200, 50.0, SIDE, SIDE, WIDTH)
MANY = {str(number): 4 for number in range(50)}


def record(stream: str, right: int = 120, n: int = 200, hour: int = 0, **fields: object) -> MonitorRecord:
    values = {
        "stream": stream, "bucket_start": START + timedelta(hours=hour), "bucket_seconds": 3600, "coordinate": "c",
        "model_fingerprint": "m", "method": "grpo", "settings_fingerprint": "s", "n": n, "frozen_n": n, "agree": n // 2,
        "entropy": {5: right, 80: n - right}, "frozen_entropy": {5: n}, "labels": MANY, "frozen_labels": MANY, **fields,
    }  # fmt: skip
    return MonitorRecord.model_validate(values)


def shift(hour: int = 0) -> Shift:
    return Shift(event_time=START + timedelta(hours=hour), coordinate="c", thousandths=700, reset=False)


def test_the_state_of_a_stream_is_the_worst_that_holds() -> None:
    now = [0.0]
    board = StreamBoard(CALIBRATION, lambda: now[0])
    board.add([
        record("good"), record("few", 12, 20), record("bad", 40), record("moved", shifts=[shift()]),
        record("broken", ill=3), MonitorRecord.model_validate({**record("x").model_dump(), "stream": None}),
    ])  # fmt: skip
    found = board.seen()
    assert {name: one.state for name, one in found.items()} == {
        "broken": "ill", "bad": "degraded", "moved": "drifted", "few": "unknown", "good": "normal",
    }  # fmt: skip
    assert list(found) == ["broken", "bad", "moved", "few", "good"]
    assert (found["moved"].size, found["good"].size) == (0.7, 0.0)
    now[0] = SILENT_SECONDS + 1
    assert [board.seen()[name].state for name in ("good", "moved")] == ["silent", "drifted"]
    now[0] = DRIFTED_SECONDS + 1
    assert board.seen()["moved"].state == "silent"


def test_windows_are_joined_until_they_are_full_and_never_across_a_shift() -> None:
    board = StreamBoard(CALIBRATION, lambda: 0.0)
    for hour in range(3):
        board.add([record("a", hour=hour)])
    assert board.seen()["a"].images == 600 >= FULL
    board.add([record("a", 10, 50, hour=4)])
    assert board.seen()["a"].images == 650  # too short alone
    board.add([record("a", 0, 120, hour=5, shifts=[shift(5)])])
    assert board.seen()["a"].images == 120
    found = board.seen()["a"].estimates.adapted
    assert isinstance(found, Estimate)
    assert found.value == 0
    board.add([record("a", hour=6, model_fingerprint="new")])
    assert board.seen()["a"].images == 200


@pytest.fixture
def watched():
    metrics.watch_streams(CALIBRATION, 2)
    yield
    metrics.watch_streams(None, 0)
    metrics.show_streams()


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def test_what_a_committed_slice_adds_up_to_is_shown_and_that_of_a_dropped_one_is_not(watched: None) -> None:
    agreeing = value("tta_agreeing_samples_total") or 0.0
    metrics.observe_monitor([record("dropped")])
    metrics.begin_slice()
    letters = {"fetch/NotFound": 2}
    metrics.observe_monitor([record("a", 40), record("b", 100), record("c", 120, dead_letters=letters)])
    assert value("tta_streams", state="normal") == 0
    before = value("tta_dead_letters_by_cause_total", stage="fetch", error_class="NotFound") or 0.0
    metrics.commit_slice()
    assert value("tta_agreeing_samples_total") == agreeing + 300
    assert value("tta_dead_letters_by_cause_total", stage="fetch", error_class="NotFound") == before + 2
    assert [value("tta_streams", state=state) for state in ("degraded", "normal", "ill")] == [1, 2, 0]
    assert value("tta_estimated_accuracy_ratio", model="adapted", bound="value") == pytest.approx(260 / 600)
    shown = {
        name: value("tta_stream_estimated_accuracy_ratio", stream=name, model="adapted", bound="value")
        for name in "abc"
    }
    assert shown == {"a": pytest.approx(0.2), "b": pytest.approx(0.5), "c": None}
    assert value("tta_stream_state", stream="a", state="degraded") == 1
    assert value("tta_streams_not_shown") == 1


def test_series_are_there_before_anything_has_happened() -> None:
    for name, labels in (
        ("tta_resets_total", {"cause": "collapse"}), ("tta_drift_detections_total", {"signal": "shift"}),
        ("tta_updates_skipped_total", {"reason": "ill"}), ("tta_streams", {"state": "silent"}),
    ):  # fmt: skip
        assert value(name, **labels) is not None
    metrics.watch_streams(None, 0)
    metrics.show_streams()
    assert math.isnan(value("tta_estimated_accuracy_ratio", model="frozen", bound="high") or 0.0)
