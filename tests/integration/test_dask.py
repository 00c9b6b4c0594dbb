"""A job on a Dask cluster of worker processes writes what one process writes, also where one of them all is killed."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from grpo_tta.adapters.rows import KINDS
from grpo_tta.demo import STREAM_PATTERN, TIME_PATTERN, write_feed
from grpo_tta.pipeline.cli import main
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run.cluster import run_on_cluster

SHARDS = 3
SMALL = ["--slice-records", "15", "--max-batch-size", "1"]
"""One image a forward: bytes do not depend on which streams go through the model together."""
IMAGES = 120
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two worker processes of one thread."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=logging.ERROR,
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feed") / "feed"
    write_feed(folder, images=IMAGES)
    return folder


def flags(feed: Path, out: Path) -> list[str]:
    patterns = ["--stream-pattern", STREAM_PATTERN, "--time-pattern", TIME_PATTERN]
    return ["label", "--source", str(feed), "--out", str(out), *patterns, "--threads", "1", *SMALL]


def on_cluster(cluster: LocalCluster, feed: Path, out: Path) -> list[str]:
    address = f"--dask_client_address={cluster.scheduler_address}"
    return [*flags(feed, out), "--runner", "DaskRunner", "--", address, f"--dask_npartitions={SHARDS}"]


def records(out: Path) -> dict[str, list[str]]:
    """Every line of every record file, whatever files they lie in; what is summed up by slices is left out."""
    return {
        kind: sorted(line for path in (out / kind).glob("*.jsonl") for line in path.read_text().splitlines())
        for kind in KINDS.keys() - {"monitor"}
    }


@pytest.fixture(scope="module")
def expected(feed: Path) -> dict[str, list[str]]:
    out = feed.parent / "one"
    assert main(flags(feed, out)) == 0
    found = records(out)
    assert (len(found["labels"]), len(found["adaptation"]) > 0) == (IMAGES, True)
    return found


def test_the_labels_are_those_of_one_process_byte_for_byte(
    cluster: LocalCluster,
    feed: Path,
    expected: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(on_cluster(cluster, feed, tmp_path / "out")) == 0
    assert f"events {IMAGES}, labels {IMAGES}, dead letters 0" in capsys.readouterr().out
    assert records(tmp_path / "out") == expected
    assert main(on_cluster(cluster, feed, tmp_path / "out")) == 0
    assert f"already finished: {IMAGES} events" in capsys.readouterr().out


def test_a_killed_worker_costs_nothing_but_time(
    cluster: LocalCluster, feed: Path, expected: dict[str, list[str]], tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", []

    def kill() -> None:
        partitions = out / "checkpoint/partitions"
        while not list(partitions.glob("*/commits/*.json")):
            time.sleep(0.01)
        killed.append(next(iter(cluster.workers.values())).process.pid)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert main(on_cluster(cluster, feed, out)) == 0
    killer.join()
    assert killed
    assert records(out) == expected


def test_a_killed_submitter_loses_nothing_and_the_same_command_goes_on(
    cluster: LocalCluster, feed: Path, expected: dict[str, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "grpo_tta.pipeline.cli", *on_cluster(cluster, feed, out)]
    with subprocess.Popen(command, cwd=tmp_path) as submitter:
        while not list(out.glob("checkpoint/partitions/*/commits/*.json")):
            assert submitter.poll() is None
            time.sleep(0.01)
        submitter.kill()
    assert len(records(out)["labels"]) < IMAGES
    assert main(on_cluster(cluster, feed, out)) == 0
    assert records(out) == expected


def test_asked_to_stop_the_workers_commit_and_the_same_command_goes_on(
    cluster: LocalCluster, feed: Path, expected: dict[str, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    values: dict[str, Any] = {
        "source": {"url": str(feed), "stream_pattern": STREAM_PATTERN, "time_pattern": TIME_PATTERN},
        "output": {"url": str(out)},
        "model": {"threads": 1},
        "checkpoint": {"slice_records": 15},
        "max_batch_size": 1,
        "run": {"runner": "DaskRunner", "beam_options": [f"--dask_client_address={cluster.scheduler_address}"]},
    }
    commits = out / "checkpoint/partitions"
    result = run_on_cluster(make_config(values), stop=lambda: bool(list(commits.glob("*/commits/*.json"))))
    assert not result.finished
    assert 0 < result.summary.events < IMAGES
    assert run_on_cluster(make_config(values)).finished
    assert records(out) == expected


def test_what_cannot_work_is_said_before_anything_is_written(cluster: LocalCluster, feed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    values: dict[str, Any] = {"source": {"url": str(feed)}, "output": {"url": str(out)}}
    for run, message in (
        ({"shard": "0/2"}, "hands out the shards itself"),
        ({"beam_options": ["--dask_client_adress=x"]}, "does not know"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            run_on_cluster(make_config({**values, "run": {"runner": "DaskRunner", **run}}))
    options = ["--dask_client_address=tcp://127.0.0.1:1", "--dask_connection_timeout=1"]
    with pytest.raises(JobError, match="cannot be reached"):
        run_on_cluster(make_config({**values, "run": {"runner": "DaskRunner", "beam_options": options}}))
    assert not (out / "job.json").exists()
