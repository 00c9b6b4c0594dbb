"""Runs live jobs in forked children, several at once, so that one can be killed without paying for the imports.

Each line on standard input is a request, answered by a line: ``{"start": JOB}`` with the child's ``pid``, ``{"wait":
PID, "seconds": S}`` with its ``code`` (negative: the signal; null: it still runs). A job has a ``config`` or the
words of a command line ``cli``, a ``log``, an ``environment``, and what is to happen to it: ``kill_at`` a fault point
when it comes by for the ``kill_when``-th time (from 0), ``stop_at`` one where it is frozen once (SIGSTOP), ``slices``
after which it ends, the seconds ``fetch_timeout`` for which it waits for a web server. This process imports, loads the
model and starts no thread of its own.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

import torch

torch.set_num_threads(1)

import apache_beam.runners.portability.fn_api_runner  # noqa: E402, F401

import grpo_tta.adapters.kafka.group_member  # noqa: E402
import grpo_tta.pipeline.cli.label  # noqa: E402, F401
from grpo_tta.adapters.storage import web  # noqa: E402
from grpo_tta.pipeline.cli import main  # noqa: E402
from grpo_tta.pipeline.cli.console import set_up  # noqa: E402
from grpo_tta.pipeline.config.job import make_config  # noqa: E402
from grpo_tta.pipeline.label import load  # noqa: E402
from grpo_tta.pipeline.run import live  # noqa: E402
from grpo_tta.pipeline.run.live_job import run_live_job  # noqa: E402


def run_job(request: dict[str, Any]) -> int:
    """0: it came to its end or was stopped between slices."""
    if "cli" in request:
        return main(request["cli"])
    set_up()
    web._TIMEOUT = request.get("fetch_timeout", web._TIMEOUT)
    at, when, slices = request.get("kill_at"), request.get("kill_when", 0), request.get("slices")
    if at:
        live._AT_ONCE = 1  # one partition after another: it is known which had come how far when the process dies
    freeze = iter([request.get("stop_at")])
    seen = committed = 0

    def point(name: str) -> None:
        nonlocal seen
        if name == request.get("stop_at") and next(freeze, None):
            # To this thread: where another takes the signal, this one runs on for a while, into the next step.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        if name == at:
            seen += 1
            if seen > when:
                os.kill(os.getpid(), signal.SIGKILL)

    def progress(_: object) -> None:
        nonlocal committed
        committed += 1

    run_live_job(
        make_config(request["config"]),
        progress=progress,
        stop=lambda: slices is not None and committed >= slices,
        fault_point=point,
    )
    return 0


def child(request: dict[str, Any]) -> None:
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(request.get("environment", {}))
        code = run_job(request)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)


def answer(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def serve() -> None:
    classifier = load.load_job_classifier(make_config(json.loads(sys.stdin.readline())["config"]))
    load.load_job_classifier = lambda config: classifier  # every job's; a labeler of its own is made in no time
    answer(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer(code=wait(request["wait"], request["seconds"]))
            continue
        pid = os.fork()
        if pid == 0:
            child(request["start"])
        answer(pid=pid)


if __name__ == "__main__":
    serve()
