"""Whether a live job is healthy and ready, and the little server behind ``--metrics-port`` that says so."""

import json
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from grpo_tta.estimate import AccuracyCalibration, packaged_for
from grpo_tta.pipeline.config.sections import RunConfig
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.progress import LiveProgress, Watcher

_log = logging.getLogger(__name__)
MAX_CONNECTIONS = 32
"""To the metrics port at a time."""
SILENCE_SECONDS = 10.0
"""After which a connection that says nothing is ended."""


class LiveStatus(Watcher):
    """What a live job has done lately. ``stale_seconds``: without a step for so long it is not ready, unless images
    were labelled meanwhile: ``labelled`` counts those of the running slice too."""

    def __init__(self, stale_seconds: float, labelled: Callable[[], int] = lambda: 0) -> None:
        self._stale = stale_seconds
        self._labelled = labelled
        self._lock = threading.Lock()
        self._moved = time.monotonic()
        self._counted = 0
        self._owned = 0
        self._error: str | None = None

    def owns(self, partitions: int) -> None:
        """So many, from now on."""
        with self._lock:
            if self._owned == 0:
                self._moved = time.monotonic()
            self._owned = partitions
        metrics.OWNED.set(partitions)

    def turned(self) -> None:
        """The driver has come round, and nothing failed."""
        with self._lock:
            self._moved, self._error = time.monotonic(), None

    def failed(self, error: Exception) -> None:
        """A slice was dropped."""
        metrics.FAILURES.inc()
        with self._lock:
            self._error = f"{type(error).__name__}: {error}"

    def committed(self, progress: LiveProgress) -> None:
        """Count a slice."""
        metrics.commit_slice()
        metrics.SLICES.inc()
        metrics.SLICE_SECONDS.observe(progress.seconds)
        metrics.FORGOTTEN.inc(len(progress.forgotten))
        metrics.drop_streams(progress.forgotten)
        for result in progress.results:
            counters = result.counters
            metrics.SAMPLES.inc(counters.labels)
            metrics.DEAD_LETTERS.inc(counters.dead_letters)
            metrics.LATE.inc(counters.late)
            metrics.SHED.inc(counters.shed)
            metrics.UPDATES.inc(counters.updates)
            for metric, counts in (
                (metrics.RESETS, counters.resets),
                (metrics.DETECTIONS, counters.drift_events),
                (metrics.UPDATES_SKIPPED, counters.updates_skipped),
                (metrics.NOTICES, counters.notices),
            ):
                for label, count in counts.items():
                    metric.labels(label).inc(count)
        metrics.LAG.clear()
        for partition, lag in progress.lag.items():
            metrics.LAG.labels(partition).set(lag)

    def problem(self) -> str | None:
        """Why the job is not ready, or ``None``."""
        counted = self._labelled()
        with self._lock:
            if counted != self._counted:
                self._counted, self._moved = counted, time.monotonic()
            if self._error is not None:
                return f"the last slice failed: {self._error}"
            if self._owned == 0:
                return "no partition is owned"
            idle = time.monotonic() - self._moved
            return f"nothing has moved for {idle:.0f} s" if idle > self._stale else None


@contextmanager
def metrics_served(run: RunConfig, status: LiveStatus | None, kind: tuple[str, str, str]) -> Iterator[None]:
    """Inside, where ``run.metrics_port`` asks for it and there is a ``status``. ``kind``: the job's model, method and
    its settings. Raises `ConfigurationError` for a port that cannot be had."""
    if run.metrics_port is None or status is None:
        yield
        return
    try:
        known = AccuracyCalibration.load(run.accuracy) if run.accuracy else packaged_for([kind])
        metrics.watch_streams(known, run.metrics_streams)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"run.accuracy: {error}") from error
    try:
        server = MetricsServer(run.metrics_host, run.metrics_port, status.problem)
    except OSError as error:
        raise ConfigurationError(f"run.metrics_port: {run.metrics_port}: {error}") from error
    with server:
        yield


class MetricsServer:
    """``/metrics``, ``/healthz`` (the process answers) and ``/readyz`` (it owns, moves and can write)."""

    def __init__(self, host: str, port: int, problem: Callable[[], str | None]) -> None:
        handler = type("Handler", (_Handler,), {"problem": staticmethod(problem)})
        self._server = _Server((host, port), handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def __enter__(self) -> "MetricsServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Of more connections than a bound the oldest is ended, so that who says nothing keeps nobody else out;
    prometheus_client's own server has neither bound nor time-out."""

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, *arguments: Any) -> None:
        self._open: deque[socket.socket] = deque()
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own."""
        with self._lock:
            self._open.append(request)
            if len(self._open) > MAX_CONNECTIONS:
                with suppress(OSError):
                    self._open.popleft().shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Its thread is done with it."""
        with self._lock, suppress(ValueError):
            self._open.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked is gone."""
        _log.debug("metrics for %s", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE_SECONDS
    problem: Callable[[], str | None]

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._answer(200, metrics.scraped(), CONTENT_TYPE_LATEST)
        elif self.path == "/healthz":
            self._answer(200, b"ok\n", "text/plain")
        elif self.path == "/readyz":
            problem = self.problem()
            body = json.dumps({"ready": problem is None, "problem": problem}) + "\n"
            self._answer(200 if problem is None else 503, body.encode(), "application/json")
        else:
            self._answer(404, b"there are /metrics, /healthz and /readyz\n", "text/plain")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        _log.debug(format, *args)
