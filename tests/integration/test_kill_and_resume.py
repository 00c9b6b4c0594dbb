"""A job killed before and after every step of its slices, and at random moments, ends with the files of one that was
not.

The packaged model labels a small feed in four slices. The kills hit the third, where states of idle streams are carried
on and old checkpoints are collected.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import PackReader

SERVER = Path(__file__).with_name("forking_job_server.py")
FOLDERS = ("labels", "adaptation", "drift", "dead_letters", "monitor")
POINTS = [
    "before:1", "after:1", "before:2", "after:2", "before:3", "after:3", "before:4", "after:4",
    "before:collect", "after:collect",
]  # fmt: skip
CALLS = {
    "the plan is not yet in its place": ("link", 1),
    "the first output is not yet in its place": ("replace", 1),
    "the third output is not yet in its place": ("replace", 3),
    "the states are not yet in their place": ("replace", 6),
    "the commit is not yet in its place": ("link", 2),
}
SLICES = 4
SETTINGS: dict[str, Any] = {
    "model": {"threads": 1},
    "method": {"settings": {"update_every": 4}},
    "guard": {"settings": {"probe_frames": 4, "backstop_frames": 12}},
    "max_batch_size": 8,
    "checkpoint": {"slice_records": 10, "keep": 2},
}
"""Streams that are still warming up are reset every 12 frames, the busy ones in the third slice."""


class JobServer:
    """See `forking_job_server`."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SERVER.parents[2])}
        self._log = str(folder / "log.txt")
        self._errors = open(folder / "errors.txt", "w")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self._send({"feed": str(folder / "feed"), "config": SETTINGS | {"output": {"url": "unused"}}})
        self.source = self._receive()["source"]

    def _send(self, request: dict[str, Any]) -> None:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        assert line, f"the job server ended: {self.said()}"
        return json.loads(line)

    def start(self, **request: Any) -> int:
        """The child's process id; `wait` must follow."""
        self._send({"log": self._log, **request})
        return self._receive()["pid"]

    def wait(self) -> int:
        return self._receive()["code"]

    def run(self, **request: Any) -> int:
        self.start(**request)
        return self.wait()

    def said(self) -> str:
        paths = (Path(self._log), Path(self._errors.name))
        return "\n".join(path.read_text() for path in paths if path.exists())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
        self._errors.close()


class World:
    """A feed, the files of an undisturbed run, and copies of a job that stopped before its third slice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = JobServer(folder)
        assert self.run("undisturbed") == 0, self.server.said()
        assert self.run("half", slices=2) == 0, self.server.said()
        self.expected = self.result("undisturbed")

    def values(self, name: str) -> dict[str, Any]:
        return SETTINGS | {"source": self.server.source, "output": {"url": str(self.folder / name)}}

    def run(self, name: str, **request: Any) -> int:
        return self.server.run(config=self.values(name), **request)

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.folder / "half", self.folder / name))

    def store(self, name: str) -> ObjectStore:
        return ObjectStore(str(self.folder / name / "checkpoint"))

    def result(self, name: str) -> dict[str, Any]:
        """All that a job leaves, without clocks and durations."""
        out, store = self.folder / name, self.store(name)
        found: dict[str, Any] = {
            str(path.relative_to(out)): path.read_bytes()
            for folder in FOLDERS
            for path in (out / folder).iterdir()
            if not path.name.endswith(".part")
        }
        commit = CheckpointLog(store).latest()
        reader = PackReader(store)
        found["states"] = {stream: reader.read(pack, stream) for stream, pack in commit.states.items()}
        found["packs"] = {pack: store.read(pack) for pack in store.names("states/")}
        found["names"] = [name for name in store.names() if not name.startswith("listing/")]
        found["commit"] = commit.model_dump(exclude={"counters": {"seconds"}})
        summary = json.loads((out / "summary.json").read_text())
        timed = ("seconds", "images_per_second", "configuration")
        found["summary"] = {key: value for key, value in summary.items() if key not in timed}
        return found

    def check(self, name: str) -> None:
        found = self.result(name)
        assert sorted(found) == sorted(self.expected)
        for key, value in self.expected.items():
            assert found[key] == value, key


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("killed"))
    yield made
    made.server.close()


def test_the_undisturbed_run_has_everything_that_could_go_wrong(world):
    commit = world.expected["commit"]
    assert commit["sequence"] == SLICES - 1
    counters = commit["counters"]
    assert counters["events"] == counters["labels"] + counters["dead_letters"] == 40
    assert counters["dead_letters"] == 2
    assert counters["updates"] >= 8
    assert counters["resets"] == {"scheduled": 2}
    assert len(commit["states"]) == 3
    third = {name.split("/")[0] for name in world.expected if name.endswith("storage-000000000020.jsonl")}
    assert third == set(FOLDERS)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_step_and_resumed_nothing_differs(world, point):
    name = "at-" + point.replace(":", "-")
    world.copy(name)
    assert world.run(name, kill_at=point) == -signal.SIGKILL
    committed = CheckpointLog(world.store(name)).latest().sequence
    assert committed == (2 if point in ("after:4", "before:collect", "after:collect") else 1)
    assert world.run(name) == 0
    world.check(name)


@pytest.mark.parametrize("moment", CALLS)
def test_killed_in_the_middle_of_a_write_and_resumed_nothing_differs(world, moment):
    call, number = CALLS[moment]
    name = f"in-{call}-{number}"
    out = world.copy(name)
    assert world.run(name, kill_call=(call, number)) == -signal.SIGKILL
    assert len(list(out.rglob(".*.part"))) == 1
    assert world.run(name) == 0
    world.check(name)


def test_killed_in_the_middle_of_the_collection_and_resumed_nothing_differs(world):
    name = "in-collection"
    world.copy(name)
    assert world.run(name, kill_call=("unlink", 6)) == -signal.SIGKILL
    assert world.run(name) == 0
    world.check(name)


def test_killed_again_and_again_at_random_moments_nothing_differs(world):
    chance = random.Random(4)
    killed = 0
    for _ in range(6):
        pid = world.server.start(config=world.values("random"))
        time.sleep(chance.uniform(0.05, 0.8))
        os.kill(pid, signal.SIGKILL)
        killed += world.server.wait() == -signal.SIGKILL
    assert killed >= 2
    assert world.run("random") == 0
    world.check("random")


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_asked_to_stop_it_commits_or_drops_the_slice_and_exits_130(world, number, times):
    name = f"signal-{number.value}-{times}"
    configuration = world.folder / f"{name}.yaml"
    configuration.write_text(yaml.safe_dump(world.values(name)))
    commits = world.folder / name / "checkpoint" / "commits"
    pid = world.server.start(cli=["label", "--config", str(configuration)])
    deadline = time.monotonic() + 60
    while not (commits.is_dir() and any(path.suffix == ".json" for path in commits.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    for _ in range(times):
        os.kill(pid, number)
        time.sleep(0.02)
    assert world.server.wait() == 130
    assert 0 <= CheckpointLog(world.store(name)).latest().sequence < SLICES - 1
    assert world.run(name) == 0
    world.check(name)
