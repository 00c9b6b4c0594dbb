"""What the tests of live jobs share: pictures in a topic, jobs that can be killed, and what a job has left behind."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import kafka
import numpy as np
import yaml
from kafka_records import consume
from PIL import Image

from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.wire import coordinate_of
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackReader
from grpo_tta.pipeline.config.job import merged
from grpo_tta.pipeline.watch.status import partition_logs
from grpo_tta.schemas import Commit
from grpo_tta.state import decode_state

SERVER = Path(__file__).with_name("live_job_server.py")
TIME = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS: dict[str, Any] = {
    "model": {"threads": 1},
    "method": {"settings": {"update_every": 4}},
    "guard": {"settings": {"probe_frames": 4, "backstop_frames": 12}},
    "max_batch_size": 4,
    "checkpoint": {"slice_records": 5, "slice_seconds": "250ms", "keep": 2},
    "kafka": {"session": "2s", "discovery": "1s", "give_up_after": "60s"},
    "event_time": {"allowed_lateness": "30s"},
    "run": {"readers": 1},
}
"""Updates every four frames, and a reset of a stream that still warms up every twelve."""


def picture(number: int) -> bytes:
    """A small JPEG of blobs, always the same."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((64, 64), Image.Resampling.BILINEAR).save(out, "JPEG")
    return out.getvalue()


def image_event(number: int, stream: str, seconds: float | None = None, **fields: Any) -> dict[str, Any]:
    """Event ``number`` of a feed with one image a second; ``fields`` win, those that are None are left out."""
    given = {
        "schema_version": "1",
        "id": f"{stream}/{number}",
        "stream": stream,
        "event_time": (TIME + timedelta(seconds=number if seconds is None else seconds)).isoformat(),
    }
    if "uri" not in fields:
        given["data"] = base64.b64encode(picture(number % 50)).decode()
    return {name: value for name, value in {**given, **fields}.items() if value is not None}


def send(broker: Any, topic: str, records: list[tuple[int, Any]], **options: Any) -> list[str]:
    """Produce ``(partition, event or bytes or None)``; the coordinates, in the order of sending."""
    options = {"linger_ms": 5, "reconnect_backoff_max_ms": 500, "max_request_size": 2**23, **options}
    producer = kafka.KafkaProducer(bootstrap_servers=broker.bootstrap, **options)
    futures = []
    for partition, value in records:
        data = json.dumps(value).encode() if isinstance(value, dict) else value
        key = value["stream"].encode() if isinstance(value, dict) and "stream" in value else b"?"
        futures.append((partition, producer.send(topic, data, key=key, partition=partition)))
    found = [coordinate_of(topic, partition, future.get(timeout=60).offset) for partition, future in futures]
    producer.close()
    return found


def feed(count: int, partitions: int = 2, streams: int = 2, start: int = 0) -> list[tuple[int, dict[str, Any]]]:
    """``count`` events for each partition, of as many ``streams`` each."""
    return [
        (partition, image_event(number, f"cam-{partition}{number % streams}"))
        for number in range(start, start + count)
        for partition in range(partitions)
    ]


class JobServer:
    """See `live_job_server`."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "jobs.txt"
        self._errors = open(folder / "server.txt", "w")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SERVER.parents[2])},
        )  # fmt: skip
        unused = {"source": {"url": "kafka://127.0.0.1:1/unused"}, "output": {"url": "kafka://127.0.0.1:1/labels"}}
        self._ask(config={**SETTINGS, **unused, "checkpoint": {"url": "unused"}})

    def _ask(self, **request: Any) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the job server ended: {Path(self._errors.name).read_text()}"
        return json.loads(line)

    def start(self, **job: Any) -> int:
        """The child's process id; `wait` for it."""
        return self._ask(start={"log": str(self.log), **job})["pid"]

    def wait(self, pid: int, seconds: float = 60.0) -> int | None:
        """Its exit code, None if it still runs after ``seconds``."""
        return self._ask(wait=pid, seconds=seconds)["code"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
        self._errors.close()


class LiveJob:
    """A job over ``topic`` with topics, a checkpoint and a log of its own."""

    def __init__(self, server: JobServer, broker: Any, folder: Path, topic: str, **sections: Any) -> None:
        self.server, self.topic, self.name = server, topic, f"labels-{uuid4().hex[:8]}"
        self.bootstrap = broker.bootstrap
        self.settings = KafkaSettings(tuple(broker.bootstrap.split(",")), request_timeout=10.0)
        self.checkpoint = str(folder / f"{self.name}-checkpoint")
        self.log = folder / f"{self.name}.log"
        base = {
            "source": {"url": f"kafka://{broker.bootstrap}/{topic}"},
            "output": {"url": f"kafka://{broker.bootstrap}/{self.name}"},
            "checkpoint": {"url": self.checkpoint},
            "kafka": {"group": self.name},
        }
        self.config = merged(merged(SETTINGS, base), sections)
        self.running: list[int] = []

    def config_file(self) -> Path:
        """The job's configuration for a command line."""
        path = self.log.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(self.config))
        return path

    def start(self, sections: dict[str, Any] | None = None, **how: Any) -> int:
        if "cli" not in how:
            how["config"] = merged(self.config, sections or {})
        pid = self.server.start(log=str(self.log), **how)
        self.running.append(pid)
        return pid

    def wait(self, pid: int, seconds: float = 60.0) -> int | None:
        code = self.server.wait(pid, seconds)
        if code is not None:
            self.running.remove(pid)
        return code

    def run(self, sections: dict[str, Any] | None = None, seconds: float = 60.0, **how: Any) -> int | None:
        return self.wait(self.start(sections, **how), seconds)

    def finish(self, seconds: float = 60.0) -> None:
        """Run to the end of what is there now."""
        code = self.run({"kafka": {"until": "latest"}}, seconds)
        assert code == 0, self.said()

    def kill(self, pid: int) -> int | None:
        """SIGKILL; the exit code, which is another where the process had ended by itself."""
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)

    def end(self) -> None:
        for pid in list(self.running):
            self.kill(pid)

    def stop(self, pid: int) -> None:
        """As Ctrl-C does, for jobs that were started by the command line."""
        os.kill(pid, signal.SIGTERM)
        assert self.wait(pid) == 130, self.said()

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    # ---- what it has left behind ----

    def records(self, kind: str = "", isolation: str = "read_uncommitted") -> list[dict[str, Any]]:
        """The JSON of a topic: of the labels, or of ``.drift`` and so on."""
        return [json.loads(record.value) for record in consume(self.settings, self.name + kind, isolation)]

    def values(self, kind: str, isolation: str = "read_uncommitted") -> list[bytes]:
        """Of a topic's records, as they were sent, sorted."""
        return sorted(record.value for record in consume(self.settings, self.name + kind, isolation))

    def outcomes(self, isolation: str = "read_uncommitted") -> dict[str, list[bytes]]:
        """Coordinate -> the values of all its labels and dead letters."""
        found = defaultdict(list)
        for kind in ("", ".dead_letters"):
            for record in consume(self.settings, self.name + kind, isolation):
                found[dict(record.headers)["coordinate"].decode()].append(record.value)
        return dict(found)

    def commits(self) -> dict[str, Commit]:
        """By partition, the newest commit that counts."""
        logs = {name: CheckpointLog(store) for name, store in partition_logs(self.checkpoint).items()}
        if not self.config["kafka"].get("transactional"):
            found = {name: log.latest() for name, log in logs.items()}
            return {name: commit for name, commit in found.items() if commit is not None}
        group = self.config["kafka"]["group"]
        # An open transaction of a killed process must not make us wait.
        with KafkaOffsets(self.settings, group=group, read_committed=False) as offsets:
            committed = offsets.committed(list(logs))
        return {name: logs[name].commit_named(found.metadata) for name, found in committed.items()}

    def positions(self) -> dict[str, int]:
        """By partition, of those that have a commit."""
        if not list(Path(self.checkpoint, "partitions").glob("*/*/*.json")):
            return {}
        return {name: commit.position for name, commit in self.commits().items()}

    def states(self) -> dict[tuple[str, str], bytes]:
        """The encoded state of every partition's streams."""
        stores = partition_logs(self.checkpoint)
        return {
            (name, stream): PackReader(stores[name]).read(pack, stream)
            for name, commit in self.commits().items()
            for stream, pack in commit.states.items()
        }

    def counted(self) -> dict[str, int]:
        """Events, labels and dead letters of all partitions, by their commits."""
        names = ("events", "labels", "dead_letters")
        commits = self.commits().values()
        return {name: sum(getattr(one.counters, name) for one in commits) for name in names}


def check_bucket_truth(job: LiveJob, coordinates: list[str]) -> dict[str, list[bytes]]:
    """Every event has become a label or a dead letter, those that appear again with the same bytes."""
    outcomes = job.outcomes()
    assert sorted(outcomes) == sorted(coordinates)
    assert [where for where, values in outcomes.items() if len(set(values)) > 1] == []
    return outcomes


def wait_until(condition: Any, job: LiveJob, seconds: float = 90.0) -> None:
    """Or fail with what the job said."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to pass; the job said:\n{job.said()[-3000:]}"
        time.sleep(0.05)


class Load:
    """Produces a feed of ``partitions`` at ``rate`` events a second, in a thread, until it is left."""

    def __init__(self, broker: Any, topic: str, partitions: int, rate: float) -> None:
        self._producer = kafka.KafkaProducer(
            bootstrap_servers=broker.bootstrap, linger_ms=5, reconnect_backoff_max_ms=500, delivery_timeout_ms=120_000
        )
        self._topic, self._partitions, self._rate = topic, partitions, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    def _run(self) -> None:
        futures = []
        while not self._stop.wait(1 / self._rate):
            partition, number = self.sent % self._partitions, self.sent // self._partitions
            event = image_event(number, f"cam-{partition}{number % 2}")
            data = json.dumps(event).encode()
            futures.append(self._producer.send(self._topic, data, partition=partition))
            self.sent += 1
        for future in futures:
            future.get(timeout=120)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(150)
        assert not self._thread.is_alive()
        self._producer.close()


def all_of(job: LiveJob) -> list[str]:
    """The coordinates of everything in the job's topic."""
    with KafkaOffsets(job.settings) as offsets:
        ends = offsets.end(offsets.partitions([job.topic]))
    return [f"{name}-{offset:019d}" for name, end in ends.items() for offset in range(end)]


def wait_for_the_end(job: LiveJob, seconds: float = 60.0) -> None:
    """Until the job has committed everything in its topic."""
    with KafkaOffsets(job.settings) as offsets:
        ends = {name: end for name, end in offsets.end(offsets.partitions([job.topic])).items() if end}
    wait_until(lambda: job.positions() == ends, job, seconds)


def check_states_hold_every_frame(job: LiveJob) -> None:
    """No stream has lost or seen twice a frame that counts."""
    frames = sum(decode_state(state).counters["frames"] for state in job.states().values())
    assert frames == job.counted()["labels"] == job.counted()["events"]


def check_commits_follow_each_other(job: LiveJob) -> None:
    """In the log, of which nothing was collected: every slice once, in epochs that only grow, from where the one before
    ended."""
    for name, store in partition_logs(job.checkpoint).items():
        log = CheckpointLog(store)
        commits = [log.commit_named(found) for found in store.names("commits/")]
        assert [commit.sequence for commit in commits] == list(range(len(commits))), name
        assert commits == sorted(commits, key=lambda commit: (commit.epoch, commit.position)), name
