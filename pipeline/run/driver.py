"""The loop that runs a listed source, one partition, slice by slice: of known length, or growing while it is followed.

The order of writing is `pipeline.checkpoint.partition`'s. A process killed at any moment loses at most the running
slice: the next one runs its open plan again and overwrites its files with the same bytes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from grpo_tta.pipeline.checkpoint.partition import Partition, SliceResult
from grpo_tta.pipeline.errors import JobError
from grpo_tta.schemas import Commit, Counters, Plan

PARTITION = "storage"


@dataclass(frozen=True)
class Progress:
    """How far the job is."""

    done: int
    total: int
    counters: Counters
    images_per_second: float
    """Of the last slice."""
    result: SliceResult | None = None
    """Of the last slice."""
    forgotten: tuple[str, ...] = ()
    """Streams that the last slice's commit has dropped."""


RunSlice = Callable[[Plan, Commit | None], SliceResult]
Grow = Callable[[int], int]
"""Given the position that is reached, which is the end so far: wait for more and return the new end; the old one where
there will be no more, or the job is asked to stop."""


@dataclass(frozen=True)
class SliceDriver:
    """Runs ``total`` positions of ``partition``, and those that ``grow`` adds, in slices of ``slice_records``."""

    partition: Partition
    run_slice: RunSlice
    total: int
    slice_records: int
    grow: Grow = lambda position: position
    progress: Callable[[Progress], None] = lambda progress: None
    stop: Callable[[], bool] = lambda: False
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def run(self) -> Commit | None:
        """Run to the end of the source or until ``stop()``; the newest commit."""
        self.partition.restore()
        self._check_counts()
        total, fresh = self.total, True
        while not self.stop():
            position = self.partition.position or 0
            if position >= total:
                total = self.grow(position)
                if total <= position:
                    break
            self._slice(total, fresh=fresh)
            fresh = False
        return self.partition.latest

    def _check_counts(self) -> None:
        """Each position of a listing is one event at most."""
        latest = self.partition.latest
        if latest is not None and not latest.counters.events <= latest.position <= self.total:
            raise JobError(
                f"the checkpoint is at position {latest.position} of a listing of {self.total} and counts "
                f"{latest.counters.events} events: parts of it are gone or damaged; give the job another --out and "
                "--checkpoint"
            )

    def _slice(self, total: int, *, fresh: bool) -> None:
        """``fresh``: a plan of a process before may be open."""
        started = time.monotonic()
        partition = self.partition
        plan = partition.open_plan() if fresh else None
        if plan is None:
            start = partition.position or 0
            plan = partition.new_plan(start, min(start + self.slice_records, total), self.clock())
        result = self.run_slice(plan, partition.latest)  # 2, 3
        wanted, events = plan.span.stop - plan.span.start, result.counters.events
        if events != wanted:
            raise JobError(f"slice {plan.sequence} holds {wanted} events and {events} were read: not committed")
        seconds = time.monotonic() - started
        commit = partition.commit(plan, result, seconds)  # 4
        partition.collect_garbage()  # 6
        rate = events / max(seconds, 1e-9)
        self.progress(Progress(commit.position, total, commit.counters, rate, result, partition.forgotten))
