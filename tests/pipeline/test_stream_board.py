"""Streams of a live job: their windows, states, and the series that metrics give them."""

import math
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from grpo_tta.estimate import PACKAGED, AccuracyCalibration, Estimate, Side, Width
from grpo_tta.pipeline.config.sections import RunConfig
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.health import LiveStatus, MetricsServer, metrics_served
from grpo_tta.pipeline.watch.notices import KINDS
from grpo_tta.pipeline.watch.progress import LiveProgress
from grpo_tta.pipeline.watch.streams import DRIFTED, FULL, QUIET_AT_LEAST, StreamBoard
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
    now[0] = QUIET_AT_LEAST.total_seconds() + 1
    assert [board.seen()[name].state for name in ("good", "moved")] == ["silent", "drifted"]
    now[0] = DRIFTED.total_seconds()
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


@dataclass
class Scraped:
    """What Prometheus sees of the streams. ``now``: the process's clock."""

    now: list[float]
    port: int

    def __call__(self, name: str, **labels: str) -> float | None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [one for family in families for one in family.samples if (one.name, one.labels) == (name, labels)]
        return samples[0].value if samples else None


@pytest.fixture
def watched() -> Iterator[Scraped]:
    now = [0.0]
    metrics.watch_streams(CALIBRATION, 2, lambda: now[0])
    metrics.begin_slice()
    with MetricsServer("127.0.0.1", 0, lambda: None) as server:
        yield Scraped(now, server.port)
    metrics.watch_streams(None, 0)
    metrics.scraped()


def test_what_a_committed_slice_adds_up_to_is_shown_and_that_of_a_dropped_one_is_not(watched: Scraped) -> None:
    agreeing = watched("tta_agreeing_samples_total") or 0.0
    metrics.observe_monitor([record("dropped")])
    metrics.begin_slice()
    letters = {"fetch/NotFound": 2}
    metrics.observe_monitor([record("a", 40), record("b", 100), record("c", 120, dead_letters=letters)])
    assert watched("tta_streams", state="normal") == 0
    before = watched("tta_dead_letters_by_cause_total", stage="fetch", error_class="NotFound") or 0.0
    metrics.commit_slice()
    assert watched("tta_agreeing_samples_total") == agreeing + 300
    assert watched("tta_dead_letters_by_cause_total", stage="fetch", error_class="NotFound") == before + 2
    assert [watched("tta_streams", state=state) for state in ("degraded", "normal", "ill")] == [1, 2, 0]
    assert watched("tta_estimated_accuracy_ratio", model="adapted", bound="value") == pytest.approx(260 / 600)
    shown = {
        name: watched("tta_stream_estimated_accuracy_ratio", stream=name, model="adapted", bound="value")
        for name in "abc"
    }
    assert shown == {"a": pytest.approx(0.2), "b": pytest.approx(0.5), "c": None}
    assert watched("tta_stream_state", stream="a", state="degraded") == 1
    assert watched("tta_streams_not_shown") == 1


def test_sizes_of_shifts_are_shown_of_the_worst_streams_and_summed_of_the_rest(watched: Scraped) -> None:
    assert watched("tta_streams_not_shown_drift_size") == 0
    metrics.observe_monitor([*(record(name, shifts=[shift()]) for name in "abcd"), record("normal")])
    metrics.commit_slice()
    assert [watched("tta_stream_drift_size", stream=name) for name in "abcd"] == [0.7, 0.7, None, None]
    assert watched("tta_streams_not_shown_drift_size") == pytest.approx(1.4)
    assert watched("tta_streams_not_shown") == 3


def test_a_stream_falls_silent_while_no_slice_comes(watched: Scraped) -> None:
    metrics.observe_monitor([record("a")])
    metrics.commit_slice()
    assert [watched("tta_streams", state=state) for state in ("normal", "silent")] == [1, 0]
    watched.now[0] = QUIET_AT_LEAST.total_seconds() + 1
    assert [watched("tta_streams", state=state) for state in ("normal", "silent")] == [0, 1]
    assert watched("tta_stream_state", stream="a", state="silent") == 1


@pytest.mark.parametrize("settings", ["", "others"])
def test_a_job_estimates_by_the_packaged_calibration_where_it_is_its_own(settings: str) -> None:
    known = AccuracyCalibration.load(PACKAGED)
    kind = known.model_fingerprint, known.method, settings or known.settings_fingerprint
    names = ("model_fingerprint", "method", "settings_fingerprint")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with metrics_served(RunConfig(metrics_port=port), LiveStatus(30.0), kind):
        metrics.begin_slice()
        metrics.observe_monitor([record("a", least_entropy={5: 200}, **dict(zip(names, kind, strict=True)))])
        metrics.commit_slice()
        found = Scraped([], port)("tta_estimated_accuracy_ratio", model="adapted", bound="value")
    metrics.watch_streams(None, 0)
    assert math.isnan(found or 0.0) == bool(settings)


def test_a_forgotten_stream_is_shown_no_more(watched: Scraped) -> None:
    metrics.observe_monitor([record("a"), record("b")])
    LiveStatus(30.0).committed(LiveProgress(0, 0.1, {}, {}, forgotten=("a", "never seen")))
    assert watched("tta_streams", state="normal") == 1
    assert watched("tta_stream_state", stream="b", state="normal") == 1
    assert watched("tta_stream_state", stream="a", state="normal") is None


def test_what_is_told_while_no_slice_runs_is_not_kept(watched: Scraped) -> None:
    metrics.end_slice()  # as in a worker, where none ever begins
    metrics.observe_monitor([record("a")])
    metrics.commit_slice()
    assert watched("tta_streams", state="normal") == 0


def test_series_are_there_before_anything_has_happened(watched: Scraped) -> None:
    for name, labels in (
        ("tta_resets_total", {"cause": "collapse"}), ("tta_drift_detections_total", {"signal": "shift"}),
        ("tta_updates_skipped_total", {"reason": "ill"}), ("tta_streams", {"state": "silent"}),
        *[("tta_notices_total", {"kind": kind}) for kind in KINDS],
    ):  # fmt: skip
        assert watched(name, **labels) is not None
    assert math.isnan(watched("tta_estimated_accuracy_ratio", model="frozen", bound="high") or 0.0)
