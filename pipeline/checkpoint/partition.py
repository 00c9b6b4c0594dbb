"""`Partition`: one partition of a source as its owner sees it, and what it has committed.

The order of writing of its part of a slice: 1. the plan, by exclusive create; 2. outputs, complete before they appear;
3. one packed file with the changed states; 4. the commit, by exclusive create: from here on it counts; 5. where the
source keeps positions of its own, they are told, for lag monitors only; 6. garbage collection. Steps 1, 4 and 6 are
methods here, 2 and 3 are the graph's (`pipeline.graph`). Each is bracketed by a ``fault_point``: ``before:1`` to
``after:5``, ``before:collect`` and ``after:collect``, for transactions have a step more; between a commit and
forgetting what it has done is ``before:forget``. Every ``2 keep``-th slice collects, the others pass by.

An open plan, one without its commit, is run again exactly as it was. Where other settings or another owner take over it
is replaced by one of a higher epoch: same range and clock, so that its outputs lie on the old one's.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from grpo_tta.pipeline.checkpoint.log import CheckpointLog, DamagedCheckpoint
from grpo_tta.pipeline.config.job import parse_duration
from grpo_tta.pipeline.config.sections import CheckpointConfig
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.schemas import Commit, Counters, PackRef, Plan, SliceRange

_log = logging.getLogger(__name__)
FIRST_EPOCH = 1


@dataclass(frozen=True)
class Fingerprints:
    """What a plan's labels depend on."""

    config: str
    model: str
    source: str
    threads: int
    environment: str = ""
    """Device, processor and package versions: another one may change labels in near ties, so it is noted, not
    refused."""


@dataclass(frozen=True)
class SliceResult:
    """What steps 2 and 3 gave for one partition."""

    pack: str
    streams: tuple[str, ...]
    """Whose states the pack holds."""
    stepped: tuple[str, ...]
    """Those of them that had events."""
    counters: Counters
    newest: Mapping[str, int] = field(default_factory=dict)
    """Event times of their newest images, in microseconds."""
    digest: str = ""
    """Of the pack's index."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Output files by name, with the digests of their bytes."""


def no_fault(point: str) -> None:
    """Tests replace it by something that kills the process."""


@dataclass
class Partition:
    """``epoch``: the one its owner has claimed, or ``None`` where nobody else can own it: it then stays that of the
    newest commit, or the highest that was claimed, and other settings that take over claim the next.

    ``forget_after``: microseconds of event time after a stream's newest image, up to the newest of all.
    """

    name: str
    log: CheckpointLog
    fingerprints: Fingerprints
    keep: int = 8
    reset_on_mismatch: bool = False
    forget_after: int | None = None
    epoch: int | None = None
    fault_point: Callable[[str], None] = no_fault
    shards: int = 1
    """Of a new plan."""
    start: int = 0
    """Where reading begins without a commit."""
    gaps: bool = False
    """A plan may begin behind the commit that it goes on from: the source has lost what lay between."""
    latest: Commit | None = field(default=None, init=False)
    claimed: int = field(default=FIRST_EPOCH, init=False)
    """Without an epoch of its own: the highest that anybody had claimed when this was restored; nothing under it is
    committed any more."""
    rerun: bool = field(default=False, init=False)
    """Its positions may have been labelled before, under an open plan: only then is anything left to delete."""
    forgotten: tuple[str, ...] = field(default=(), init=False)
    """Streams that the last slice's commit has dropped."""

    @classmethod
    def of(
        cls, config: CheckpointConfig, name: str, log: CheckpointLog, fingerprints: Fingerprints, **rest: Any
    ) -> "Partition":
        """As a job's configuration has it; ``rest`` as for the constructor."""
        return cls(
            name,
            log,
            fingerprints,
            keep=config.keep,
            reset_on_mismatch=config.on_state_mismatch == "reset",
            forget_after=parse_duration(config.forget_after),
            **rest,
        )

    def restore(self) -> None:
        """Load the newest commit; raises where it was made under other conditions."""
        self._restore(self.log.latest())

    @property
    def position(self) -> int | None:
        """The next one to read; ``None`` before the first commit."""
        return None if self.latest is None else self.latest.position

    def open_plan(self) -> Plan | None:
        """The plan that must be run before any other, in the form in which this owner runs it."""
        found = self.log.open_plan(self.latest)
        self.rerun = found is not None
        if found is None:
            return None
        if self.latest is None and self.epoch is None and found.source_fingerprint != self.fingerprints.source:
            self.claimed = self.log.claim("another source, before anything was committed")
            return None
        self._check(found)
        self._check_start(found)
        wanted = self._taken_over(found)
        if wanted != found:
            self._write(wanted)
        return wanted

    def restore_named(self, name: str | None) -> None:
        """Load the commit of this name; none without one."""
        self._restore(self.log.commit_named(name) if name else None)

    def _restore(self, commit: Commit | None) -> None:
        self.latest = commit
        if self.epoch is None:
            self.claimed = max(FIRST_EPOCH, self.log.claimed())
        if commit is not None:
            self._check(commit)
            counted = commit.counters
            if commit.partition != self.name or counted.events != counted.labels + counted.dead_letters:
                raise self._damaged(f"commit {commit.sequence}", "another partition, or events without an outcome")
            self.log.forget_resets(commit.resets)  # where its owner was killed before it could

    def new_plan(self, start: int, stop: int, clock: datetime, *, shed: bool = False) -> Plan:
        """Step 1: the plan of positions ``start <= p < stop``, written. ``shed``: they are not learnt from."""
        before = self.latest
        plan = Plan(
            epoch=self.epoch or max(self.claimed, before.epoch if before else FIRST_EPOCH),
            sequence=before.sequence + 1 if before else 0,
            span=SliceRange(partition=self.name, start=start, stop=stop),
            clock=clock,
            config_fingerprint=self.fingerprints.config,
            model_fingerprint=self.fingerprints.model,
            threads=self.fingerprints.threads,
            shards=self.shards,
            environment=self.fingerprints.environment,
            source_fingerprint=self.fingerprints.source,
            shed=shed,
            resets=self.log.pending_resets(),
        )
        self._write(plan)
        return plan

    def _write(self, plan: Plan) -> None:
        self.fault_point("before:1")
        self.log.write_plan(plan)  # 1
        self.fault_point("after:1")

    def commit(self, plan: Plan, result: SliceResult, seconds: float) -> Commit:
        """Step 4: from here on the slice counts. Raises `JobError` unless it accounts for every event."""
        commit, _ = self.write_commit(plan, result, seconds)
        self.counts(commit)
        return commit

    def counts(self, commit: Commit) -> None:
        """The slice counts now: go on from ``commit``."""
        self.latest, self.rerun = commit, False
        self.fault_point("before:forget")
        self.log.forget_resets(commit.resets)

    def write_commit(self, plan: Plan, result: SliceResult, seconds: float) -> tuple[Commit, str]:
        """The commit, written and named where another record is to say that it counts."""
        commit = self._commit(plan, result, seconds)
        self.fault_point("before:4")
        name = self.log.write_commit(commit)  # 4
        self.fault_point("after:4")
        return commit, name

    def collect_garbage(self) -> None:
        """The last step: delete what the newest commit does not need."""
        if self.latest is not None:
            self.fault_point("before:collect")
            if (self.latest.sequence + 1) % (2 * self.keep) == 0:
                self.log.collect_garbage(self.latest, self.keep)  # 6
            self.fault_point("after:collect")

    def _commit(self, plan: Plan, result: SliceResult, seconds: float) -> Commit:
        counted = result.counters.labels + result.counters.dead_letters
        if counted != result.counters.events:
            raise JobError(
                f"slice {plan.sequence} of {self.name} read {result.counters.events} events and accounts for "
                f"{counted}: not committed"
            )
        before = self.latest
        counters = result.counters.model_copy(update={"seconds": seconds})
        states = {**(before.states if before else {}), **dict.fromkeys(result.streams, result.pack)}
        newest = {**(before.newest if before else {}), **result.newest}
        forgotten = self._outlived(newest, result.stepped)
        self.forgotten = tuple(forgotten)
        if forgotten:
            _log.info("partition %s: %d streams are forgotten, like %s", self.name, len(forgotten), forgotten[0])
            gone = set(forgotten)
            states = {stream: pack for stream, pack in states.items() if stream not in gone}
            newest = {stream: time for stream, time in newest.items() if stream in states}
            counters = counters.model_copy(update={"forgotten": len(forgotten)})
        packs = {
            **(before.packs if before else {}),
            result.pack: PackRef(states=len(result.streams), digest=result.digest),
        }
        live = set(states.values())
        return Commit(
            epoch=plan.epoch,
            sequence=plan.sequence,
            partition=self.name,
            position=plan.span.stop,
            states=states,
            newest=newest,
            packs={name: pack for name, pack in packs.items() if name in live},
            files=dict(result.files),
            resets=[name for stream in result.stepped for name in plan.resets.get(stream, ())],
            counters=before.counters.plus(counters) if before else counters,
            config_fingerprint=plan.config_fingerprint,
            model_fingerprint=plan.model_fingerprint,
            source_fingerprint=plan.source_fingerprint,
        )

    def _outlived(self, newest: Mapping[str, int], stepped: tuple[str, ...]) -> list[str]:
        """Streams without an image for ``forget_after``, nor in this slice."""
        if self.forget_after is None or not newest:
            return []
        oldest = max(newest.values()) - self.forget_after
        outlived = [stream for stream, time in newest.items() if time < oldest]
        return sorted(set(outlived).difference(stepped))

    def _taken_over(self, plan: Plan) -> Plan:
        """``plan``, or the one that replaces it where it was made under other conditions or by another owner."""
        ours = {
            "config_fingerprint": self.fingerprints.config,
            "model_fingerprint": self.fingerprints.model,
            "threads": self.fingerprints.threads,
        }
        same = all(getattr(plan, name) == value for name, value in ours.items())
        if self.epoch is not None:
            epoch = self.epoch
        elif same:
            epoch = max(plan.epoch, self.claimed)  # one who claimed may have died before it planned
        else:
            epoch = self.log.claim("other settings, or another model")
        return plan if same and epoch == plan.epoch else plan.model_copy(update={**ours, "epoch": epoch})

    def _check_start(self, plan: Plan) -> None:
        """A plan goes on where the commit before it ended."""
        begin = self.start if self.latest is None else self.latest.position
        span = plan.span
        fits = span.start == begin or (self.gaps and span.start > begin)
        if span.partition != self.name or not fits or span.stop <= span.start:
            raise self._damaged(f"plan {plan.sequence} of {span.start} to {span.stop}", f"goes on from {begin}")

    def _damaged(self, what: str, why: str) -> DamagedCheckpoint:
        return DamagedCheckpoint(
            f"partition {self.name}: {what} does not fit ({why}): the checkpoint is damaged, or of another job"
        )

    def _check(self, record: Plan | Commit) -> None:
        """A checkpoint made under other conditions would continue with labels that a replay cannot repeat."""
        if record.source_fingerprint != self.fingerprints.source:
            kind = type(record).__name__.lower()
            raise JobError(
                f"the checkpoint belongs to another listing of the source ({kind} {record.sequence} of epoch "
                f"{record.epoch}): give the job another --out"
            )
        theirs = getattr(record, "environment", self.fingerprints.environment)
        if theirs != self.fingerprints.environment:
            _log.warning(
                "slice %d was planned in another environment (%s, now %s): near ties may be labelled otherwise",
                record.sequence,
                theirs,
                self.fingerprints.environment,
            )
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
                    "--out and --checkpoint, or go on with --on-state-mismatch reset, which starts streams afresh "
                    "where the model, the method or the guard differs"
                )
