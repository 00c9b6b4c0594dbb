"""Runs labelling jobs in forked children, so that a job can be killed without paying for the imports each time.

The first line on standard input, as JSON, has a folder ``feed`` to be written and the ``config`` of a job over it;
the answer has the configuration's ``source``. Each further line is a job to run, answered with the child's ``pid``
and, when it has ended, its ``code`` (negative: the signal). This process imports, loads the model and starts no
thread of its own.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

import grpo_tta.pipeline.cli.label  # noqa: E402, F401
from grpo_tta.demo import STREAM_PATTERN, TIME_PATTERN, write_feed  # noqa: E402
from grpo_tta.pipeline.cli import main  # noqa: E402
from grpo_tta.pipeline.config.job import make_config  # noqa: E402
from grpo_tta.pipeline.config.resolved import ResolvedJob  # noqa: E402
from grpo_tta.pipeline.label.load import take_labeler  # noqa: E402
from grpo_tta.pipeline.run import bounded as run  # noqa: E402


def write_small_feed(folder: Path) -> None:
    """Three cameras, one of which soon falls silent, and two files that are no pictures."""
    write_feed(folder, images=72)
    for camera in ("cam-01", "cam-02", "cam-05"):
        shutil.rmtree(folder / camera)
    for path in sorted((folder / "cam-06").iterdir())[4:]:
        path.unlink()
    for camera, number in (("cam-03", 9), ("cam-04", 10)):
        path = sorted((folder / camera).iterdir())[number]
        path.write_bytes(path.read_bytes()[:100])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(name: str, number: int, below: str) -> None:
    """Kill this process when ``os.<name>`` is called for the ``number``-th time with a path below ``below``."""
    original, seen = getattr(os, name), 0

    def patched(path: Any, *rest: Any, **options: Any) -> Any:
        nonlocal seen
        if str(path).startswith(below):
            seen += 1
            if seen == number:
                die()
        return original(path, *rest, **options)

    setattr(os, name, patched)


def run_job(request: dict[str, Any]) -> int:
    """0: finished or stopped between slices."""
    if "cli" in request:
        return main(request["cli"])
    config = make_config(request["config"])
    at, slices = request.get("kill_at"), request.get("slices")
    if "kill_call" in request:
        die_at_call(*request["kill_call"], config.output.url)
    asked = iter([False] * slices + [True]) if slices is not None else None
    run.run_label_job(
        config,
        stop=lambda: next(asked) if asked is not None else False,
        fault_point=lambda point: die() if point == at else None,
    )
    return 0


def child(request: dict[str, Any]) -> None:
    code = 99
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = run_job(request)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def answer(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def serve() -> None:
    first = json.loads(sys.stdin.readline())
    write_small_feed(Path(first["feed"]))
    source = {"url": first["feed"], "stream_pattern": STREAM_PATTERN, "time_pattern": TIME_PATTERN}
    take_labeler(ResolvedJob.of(make_config({**first["config"], "source": source})))  # the children share it
    answer(source=source)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(json.loads(line))
        answer(pid=pid)
        answer(code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    serve()
