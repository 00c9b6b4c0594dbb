"""Processes that share a listing by `--shard` write together what one process writes, whichever of them is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_tta.adapters.rows import KINDS
from grpo_tta.demo import STREAM_PATTERN, TIME_PATTERN, write_feed
from grpo_tta.pipeline.watch.status import read_status

OWN = {"versions", "configuration", "seconds", "images_per_second", "forward_equivalents_per_image"}


def start(feed: Path, out: Path, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "grpo_tta.pipeline.cli", "label", "--source", str(feed), "--out", str(out)]
    patterns = ["--stream-pattern", STREAM_PATTERN, "--time-pattern", TIME_PATTERN]
    return subprocess.Popen(
        [*command, *patterns, "--threads", "1", "--slice-records", "10", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    _, said = process.communicate(timeout=240)
    return process.returncode, said


def images(out: Path) -> list[tuple[str, str]]:
    """Every record's kind and event, labels with their class."""
    found = []
    for kind in KINDS.keys() - {"monitor"}:
        for path in sorted((out / kind).glob("*.jsonl")):
            for line in path.read_text().splitlines():
                record = json.loads(line)
                found.append((kind, f"{record['coordinate']} {record.get('label')} {record.get('update_count')}"))
    return sorted(found)


def watched(out: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """By stream and time, how many labels there are and updates were, whatever the slices."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for path in (out / "monitor").glob("*.jsonl"):
        for record in map(json.loads, path.read_text().splitlines()):
            key = record["stream"], record["bucket_start"]
            before = found.get(key, (0, 0))
            found[key] = before[0] + record["n"], before[1] + record["updates"]
    return found


def summary(out: Path) -> dict[str, object]:
    return json.loads((out / "summary.json").read_text())


@pytest.mark.timeout(900)
def test_a_killed_shard_disturbs_no_other_and_all_together_are_one_job(tmp_path: Path) -> None:
    feed, one, cut = tmp_path / "feed", tmp_path / "one", tmp_path / "cut"
    write_feed(feed, images=60)
    shards = [start(feed, cut, "--shard", f"{index}/2") for index in range(2)]
    commits = cut / "checkpoint/partitions/shard-0-of-2/commits"
    while not list(commits.glob("*.json")) and shards[0].poll() is None:
        time.sleep(0.02)
    shards[0].send_signal(signal.SIGKILL)
    assert ended(shards[0])[0] == -signal.SIGKILL
    assert ended(shards[1])[0] == 0
    assert not summary(cut)["finished"]
    code, said = ended(start(feed, cut, "--shard", "0/3"))
    assert (code, b"is of a job of 2 shards" in said) == (2, True)
    assert ended(start(feed, cut, "--shard", "0/2"))[0] == 0
    assert ended(start(feed, one))[0] == 0
    assert images(cut) == images(one)
    assert watched(cut) == watched(one)
    assert sum(n for n, _ in watched(one).values()) == 60
    whole, parts = summary(one), summary(cut)
    assert parts["finished"]
    assert {key: parts[key] for key in parts.keys() - OWN} == {key: whole[key] for key in whole.keys() - OWN}
    status = read_status(str(cut / "checkpoint"))
    assert [(part.partition, part.lag) for part in status.partitions] == [("shard-0-of-2", 0), ("shard-1-of-2", 0)]
    assert len(status.streams) == 6
