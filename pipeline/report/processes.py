"""`in_processes`: what takes long is shared out, where a program may have processes of its own."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from grpo_tta.pipeline.errors import JobError

Work = TypeVar("Work")
Made = TypeVar("Made")


def usable_processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(most: int, make: Callable[[Work], Made], works: Sequence[Work]) -> Iterator[Made]:
    """``make`` of each, in their order, by at most so many processes; by this one where one is enough.

    The main module of a program that asks for several must be one that may be imported. Raises what ``make`` does, and
    `JobError` for a process that dies.
    """
    if most < 2 or len(works) < 2:
        yield from map(make, works)
        return
    with ProcessPoolExecutor(min(most, len(works)), multiprocessing.get_context("spawn")) as processes:
        try:
            yield from processes.map(make, works)
        except BrokenProcessPool as error:
            raise JobError("a process that read a part of the outputs has died, for want of memory?") from error
