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
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.schemas import Commit, Counters, Plan, SliceRange

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


def no_fault(point: str) -> None:
    """Tests replace it by something that kills the process."""


@dataclass
class Partition:
    """``epoch``: the one its owner has claimed, or ``None`` where nobody else can own it: it then stays that of the
    newest commit, or the highest that was claimed, and other settings that take over claim the next."""

    name: str
    log: CheckpointLog
    fingerprints: Fingerprints
    keep: int = 8
    reset_on_mismatch: bool = False
    epoch: int | None = None
    fault_point: Callable[[str], None] = no_fault
    latest: Commit | None = field(default=None, init=False)
    claimed: int = field(default=FIRST_EPOCH, init=False)
    """Without an epoch of its own: the highest that anybody had claimed when this was restored; nothing under it is
    committed any more."""
    rerun: bool = field(default=False, init=False)
    """The plan that is being run may have been run before: by it alone can there be anything left to delete."""

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
        self._check(found)
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
            self.log.forget_resets(commit.resets)  # where its owner was killed before it could

    def new_plan(self, start: int, stop: int, clock: datetime) -> Plan:
        """Step 1: the plan of positions ``start <= p < stop``, written."""
        before, self.rerun = self.latest, False
        plan = Plan(
            epoch=self.epoch or max(self.claimed, before.epoch if before else FIRST_EPOCH),
            sequence=before.sequence + 1 if before else 0,
            span=SliceRange(partition=self.name, start=start, stop=stop),
            clock=clock,
            config_fingerprint=self.fingerprints.config,
            model_fingerprint=self.fingerprints.model,
            threads=self.fingerprints.threads,
            environment=self.fingerprints.environment,
            source_fingerprint=self.fingerprints.source,
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
        commit, _ = self.write_manifest(plan, result, seconds)
        self.counts(commit)
        return commit

    def counts(self, commit: Commit) -> None:
        """The slice counts now: go on from ``commit``."""
        self.latest = commit
        self.fault_point("before:forget")
        self.log.forget_resets(commit.resets)

    def write_manifest(self, plan: Plan, result: SliceResult, seconds: float) -> tuple[Commit, str]:
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
        packs = {**(before.packs if before else {}), result.pack: len(result.streams)}
        live = set(states.values())
        return Commit(
            epoch=plan.epoch,
            sequence=plan.sequence,
            partition=self.name,
            position=plan.span.stop,
            states=states,
            packs={name: count for name, count in packs.items() if name in live},
            resets=[name for stream in result.stepped for name in plan.resets.get(stream, ())],
            counters=before.counters.plus(counters) if before else counters,
            config_fingerprint=plan.config_fingerprint,
            model_fingerprint=plan.model_fingerprint,
            source_fingerprint=plan.source_fingerprint,
        )

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

    def _check(self, record: Plan | Commit) -> None:
        """A checkpoint made under other conditions would continue with labels that a replay cannot repeat."""
        if record.source_fingerprint != self.fingerprints.source:
            raise JobError("the checkpoint belongs to another listing of the source: give the job another --out")
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
