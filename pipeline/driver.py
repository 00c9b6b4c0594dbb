"""The loop that runs a bounded source slice by slice. The order of writing, numbered as in the code below:

1. the plan, by exclusive create; 2. outputs, complete before they appear, under names derived from the plan; 3. one
packed file with the changed states; 4. the commit, by exclusive create: from here on the slice counts; 5. garbage
collection.

A crash before 1: nothing happened. Between 1 and 4: the plan runs again and overwrites its own files with the same
bytes. After 4: garbage that the next collection takes. Steps 2 and 3 belong to ``run_slice``. Each step is bracketed
by a ``fault_point``: ``before:1``, ``after:1``, ``before:2`` to ``after:5``; ``after:4`` is also the one before 5.

Where other settings may take over (``reset_on_mismatch``), an open plan of the old ones is replaced by one of the next
epoch: same range and clock, so that its outputs lie on the old one's, and the settings that made them on record.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.checkpoint_log import CheckpointLog
from pipeline.errors import ConfigurationError, JobError
from schemas import Commit, Counters, Plan, SliceRange

PARTITION = "storage"
EPOCH = 1


@dataclass(frozen=True)
class SliceResult:
    """What steps 2 and 3 of a slice gave."""

    pack: str
    streams: tuple[str, ...]
    """Whose states the pack holds."""
    counters: Counters


@dataclass(frozen=True)
class Fingerprints:
    """What a plan's labels depend on."""

    config: str
    model: str
    source: str
    threads: int


@dataclass(frozen=True)
class Progress:
    """How far the job is."""

    done: int
    total: int
    counters: Counters
    images_per_second: float
    """Of the last slice."""


RunSlice = Callable[[Plan, Commit | None], SliceResult]


def _no_fault(point: str) -> None:
    """Tests replace it by something that kills the process."""


@dataclass(frozen=True)
class SliceDriver:
    """Runs ``total`` positions of one partition in slices of ``slice_records``."""

    log: CheckpointLog
    run_slice: RunSlice
    fingerprints: Fingerprints
    total: int
    slice_records: int
    keep: int = 8
    reset_on_mismatch: bool = False
    progress: Callable[[Progress], None] = lambda progress: None
    stop: Callable[[], bool] = lambda: False
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    fault_point: Callable[[str], None] = _no_fault

    def run(self) -> Commit | None:
        """Run to the end of the source or until ``stop()``; the newest commit."""
        latest = self.log.latest()
        if latest is not None:
            self._check(latest)
        while (latest.positions[PARTITION] if latest else 0) < self.total and not self.stop():
            latest = self._slice(latest)
        return latest

    def _slice(self, latest: Commit | None) -> Commit:
        started = time.monotonic()
        plan = self.log.open_plan(latest)
        if plan is not None:
            self._check(plan)
        wanted = self._plan(latest) if plan is None else self._taken_over(plan)
        if wanted != plan:
            plan = wanted
            self.fault_point("before:1")
            self.log.write_plan(plan)  # 1
            self.fault_point("after:1")
        result = self.run_slice(plan, latest)  # 2, 3
        (span,) = plan.ranges
        counted = result.counters.labels + result.counters.dead_letters
        if counted != span.stop - span.start or counted != result.counters.events:
            raise JobError(
                f"slice {plan.sequence} read {span.stop - span.start} events and accounts for {counted}: not committed"
            )
        counters = result.counters.model_copy(update={"seconds": time.monotonic() - started})
        commit = Commit(
            epoch=plan.epoch,
            sequence=plan.sequence,
            positions={PARTITION: span.stop},
            states={**(latest.states if latest else {}), **dict.fromkeys(result.streams, result.pack)},
            counters=latest.counters.plus(counters) if latest else counters,
            config_fingerprint=plan.config_fingerprint,
            model_fingerprint=plan.model_fingerprint,
            source_fingerprint=plan.source_fingerprint,
        )
        self.fault_point("before:4")
        self.log.write_commit(commit)  # 4
        self.fault_point("after:4")
        self.log.collect_garbage(commit, self.keep)  # 5
        self.fault_point("after:5")
        self.progress(Progress(span.stop, self.total, commit.counters, counted / max(counters.seconds, 1e-9)))
        return commit

    def _plan(self, latest: Commit | None) -> Plan:
        start = latest.positions[PARTITION] if latest else 0
        return Plan(
            epoch=latest.epoch if latest else EPOCH,
            sequence=latest.sequence + 1 if latest else 0,
            ranges=[SliceRange(partition=PARTITION, start=start, stop=min(start + self.slice_records, self.total))],
            clock=self.clock(),
            config_fingerprint=self.fingerprints.config,
            model_fingerprint=self.fingerprints.model,
            threads=self.fingerprints.threads,
            source_fingerprint=self.fingerprints.source,
        )

    def _taken_over(self, plan: Plan) -> Plan:
        """``plan``, or the one that replaces it where it was made under other conditions."""
        ours = {
            "config_fingerprint": self.fingerprints.config,
            "model_fingerprint": self.fingerprints.model,
            "threads": self.fingerprints.threads,
        }
        if all(getattr(plan, name) == value for name, value in ours.items()):
            return plan
        return plan.model_copy(update={**ours, "epoch": plan.epoch + 1})

    def _check(self, record: Plan | Commit) -> None:
        """A checkpoint made under other conditions would continue with labels that a replay cannot repeat."""
        if record.source_fingerprint != self.fingerprints.source:
            raise JobError("the checkpoint belongs to another listing of the source: give the job another --checkpoint")
        if self.reset_on_mismatch:
            return
        for name, theirs, ours in (
            ("settings", record.config_fingerprint, self.fingerprints.config),
            ("model", record.model_fingerprint, self.fingerprints.model),
            ("threads", getattr(record, "threads", self.fingerprints.threads), self.fingerprints.threads),
        ):
            if theirs != ours:
                raise ConfigurationError(
                    f"the checkpoint was made with other {name} ({theirs}, now {ours}): run with those, give another "
                    "--checkpoint, or start the streams afresh with --on-state-mismatch reset"
                )
