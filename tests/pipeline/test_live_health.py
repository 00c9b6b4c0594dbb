"""Metrics, health and readiness of a live job."""

import json
import os
import socket
import time
import urllib.error
import urllib.request
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from grpo_tta import Standing
from grpo_tta.adapters.kafka.errors import KafkaUnreachable
from grpo_tta.guard import SIGNALS
from grpo_tta.pipeline.checkpoint.partition import SliceResult
from grpo_tta.pipeline.watch import health, metrics
from grpo_tta.pipeline.watch.health import LiveStatus, MetricsServer
from grpo_tta.pipeline.watch.progress import LiveProgress
from grpo_tta.schemas import Counters


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def status():
    return LiveStatus(stale_seconds=30.0)


@pytest.fixture
def port(status):
    with MetricsServer("127.0.0.1", 0, status.problem) as server:
        yield server.port


def test_it_is_ready_while_it_owns_moves_and_can_write(status, port, monkeypatch):
    def problem():
        code, body = get(port, "/readyz")
        answer = json.loads(body)
        assert (code, answer["ready"]) == ((200, True) if answer["problem"] is None else (503, False))
        return answer["problem"]

    assert problem() == "no partition is owned"
    status.owns(2)
    assert problem() is None
    status.failed(KafkaUnreachable("the broker is away"))
    assert problem() == "the last slice failed: KafkaUnreachable: the broker is away"
    status.turned()
    assert problem() is None
    now = time.monotonic()
    monkeypatch.setattr(health.time, "monotonic", lambda: now + 60)
    assert problem() == "nothing has moved for 60 s"
    assert get(port, "/healthz") == (200, "ok\n")


def test_a_long_slice_moves_while_it_labels(monkeypatch):
    labelled = [5]
    status = LiveStatus(30.0, lambda: labelled[0])
    status.owns(1)
    assert status.problem() is None
    now = time.monotonic()
    monkeypatch.setattr(health.time, "monotonic", lambda: now + 60)
    labelled[0] = 6
    assert status.problem() is None
    monkeypatch.setattr(health.time, "monotonic", lambda: now + 120)
    assert status.problem() == "nothing has moved for 60 s"


def sample(name, **labels):
    return metrics.REGISTRY.get_sample_value(name, labels or None) or 0.0


def test_what_a_commit_counts_is_counted(status, port):
    names = ("tta_samples_total", "tta_dead_letters_total", "tta_updates_total", "tta_slices_total")
    before = {name: sample(name) for name in names}
    resets = sample("tta_resets_total", cause="manual")
    skipped, noticed = (
        sample("tta_updates_skipped_total", reason="ill"),
        sample("tta_drift_detections_total", signal="shift"),
    )
    counters = Counters(
        events=10, labels=8, dead_letters=2, updates=3, resets={"manual": 1},
        updates_skipped={"ill": 2}, drift_events={"shift": 4, "ill": 1},
    )  # fmt: skip
    result = SliceResult("pack", (), (), counters)
    status.committed(LiveProgress(8, 0.5, {"t-0": 10}, {"t-0": 7}, (result,)))
    assert [sample(name) - before[name] for name in names] == [8, 2, 3, 1]
    assert sample("tta_resets_total", cause="manual") - resets == 1
    assert sample("tta_updates_skipped_total", reason="ill") - skipped == 2
    assert sample("tta_drift_detections_total", signal="shift") - noticed == 4
    assert sample("tta_lag_records", partition="t-0") == 7
    status.committed(LiveProgress(0, 0.5, {"t-1": 1}, {"t-1": 0}))
    text = get(port, "/metrics")[1]
    assert 'tta_lag_records{partition="t-1"} 0.0' in text
    assert 'partition="t-0"' not in text  # it is another's now
    assert 'tta_resets_total{cause="manual"}' in text


def test_series_that_can_be_named_are_there_before_the_first_slice():
    spec = spec_from_file_location("fresh_metrics", metrics.__file__)
    fresh = module_from_spec(spec)
    spec.loader.exec_module(fresh)
    lines = fresh.generate_latest(fresh.REGISTRY).decode().splitlines()
    for signal in SIGNALS:
        assert f'tta_drift_statistic{{signal="{signal.name}"}} NaN' in lines
        assert f'tta_drift_threshold{{signal="{signal.name}"}} NaN' in lines
    assert 'tta_drift_detections_total{signal="shift"} 0.0' in lines


def test_where_the_guards_of_the_last_slice_s_streams_stand():
    thresholds = {"shift": 15.0, "collapse": 0.15, "regret": 0.25}
    metrics.begin_slice()
    metrics.observe_guard(Standing({}, None, 7, True), thresholds)  # of a slice that fails
    metrics.begin_slice()
    entropies = sample("tta_marginal_entropy_ratio_sum")
    metrics.observe_guard(Standing({}, None, 40, True), thresholds)
    metrics.observe_guard(Standing({"shift": 3.0, "regret": -0.1}, 0.5, 900, False), thresholds)
    metrics.observe_guard(Standing({"shift": 9.0, "collapse": 0.02, "regret": 0.1}, 0.75, 80, False), thresholds)
    metrics.end_slice()
    found = {signal: sample("tta_drift_statistic", signal=signal) for signal in thresholds}
    assert found == {"shift": 9.0, "collapse": 0.02, "regret": 0.1}
    assert {signal: sample("tta_drift_threshold", signal=signal) for signal in thresholds} == thresholds
    assert sample("tta_samples_since_reset") == 40
    assert sample("tta_detector_warming_up") == pytest.approx(1 / 3)
    assert sample("tta_marginal_entropy_ratio_sum") - entropies == pytest.approx(1.25)
    metrics.begin_slice()
    metrics.end_slice()  # without a stream
    assert sample("tta_samples_since_reset") == 40


def test_a_partition_that_went_has_no_lag():
    metrics.LAG.labels("t-9").set(3)
    metrics.forget_lag("t-9")
    metrics.forget_lag("t-9")
    assert metrics.REGISTRY.get_sample_value("tta_lag_records", {"partition": "t-9"}) is None


def test_other_paths_say_what_there_is(port):
    assert get(port, "/") == (404, "there are /metrics, /healthz and /readyz\n")


def test_the_operating_guide_lists_every_metric():
    guide = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    families = list(metrics.REGISTRY.collect())
    names = [one.name + ("_total" if one.type == "counter" else "") for one in families]
    assert len(names) > 15
    assert [name for name in names if f"`{name}`" not in guide and f"`{name}{{" not in guide] == []


def test_silent_connections_keep_nobody_out_and_are_ended(port, monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    silent = []
    try:
        for i in range(200):
            silent.append(socket.create_connection(("127.0.0.1", port)))
            if i % 2:
                silent[-1].sendall(b"GET /met")
        assert get(port, "/healthz") == (200, "ok\n")
        assert get(port, "/metrics")[0] == 200
        until = time.monotonic() + 10
        ours = health.MAX_CONNECTIONS + 20
        while len(os.listdir("/proc/self/fd")) - before - len(silent) > ours and time.monotonic() < until:
            time.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) - before - len(silent) <= ours
        silent[0].settimeout(5)
        assert silent[0].recv(1) == b""
    finally:
        for one in silent:
            one.close()


def test_a_connection_that_says_nothing_is_ended(port, monkeypatch):
    monkeypatch.setattr(health._Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as silent:
        silent.sendall(b"GET /met")
        assert silent.recv(1) == b""
