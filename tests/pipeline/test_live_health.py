"""Metrics, health and readiness of a live job."""

import json
import time
import urllib.error
import urllib.request

import pytest

from adapters.kafka.errors import KafkaUnreachable
from pipeline import health, metrics
from pipeline.health import LiveStatus, MetricsServer
from pipeline.live import LiveProgress
from pipeline.partition import SliceResult
from schemas import Counters


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


def sample(name, **labels):
    return metrics.REGISTRY.get_sample_value(name, labels or None) or 0.0


def test_what_a_commit_counts_is_counted(status, port):
    names = ("tta_samples_total", "tta_dead_letters_total", "tta_updates_total", "tta_slices_total")
    before = {name: sample(name) for name in names}
    resets = sample("tta_resets_total", cause="manual")
    counters = Counters(events=10, labels=8, dead_letters=2, updates=3, resets={"manual": 1})
    result = SliceResult("pack", (), (), counters)
    status.committed(LiveProgress(8, 0.5, {"t-0": 10}, {"t-0": 7}, (result,)))
    assert [sample(name) - before[name] for name in names] == [8, 2, 3, 1]
    assert sample("tta_resets_total", cause="manual") - resets == 1
    assert sample("tta_lag_records", partition="t-0") == 7
    status.committed(LiveProgress(0, 0.5, {"t-1": 1}, {"t-1": 0}))
    text = get(port, "/metrics")[1]
    assert 'tta_lag_records{partition="t-1"} 0.0' in text
    assert 'partition="t-0"' not in text  # it is another's now
    assert 'tta_resets_total{cause="manual"}' in text


def test_other_paths_say_what_there_is(port):
    assert get(port, "/") == (404, "there are /metrics, /healthz and /readyz\n")
