"""`LiveDriver`: labels the Kafka partitions that this process owns, slice by slice, until it is told to stop.

What it owns it learns from its membership. A partition that comes is claimed by a new epoch, and its newest commit,
its open plan and its position are read; one that goes is let go between two steps, and whatever was begun for it is run
again by its next owner. All owned partitions run in one graph; each has its own plan, states and commit, in the order
of writing of `pipeline.checkpoint.partition` (or, with transactions, of `pipeline.checkpoint.protocol`).

A slice that fails for a reason that may pass (a broker away, a bucket that does not answer) is dropped, and all
partitions are taken up anew from their commits, again and again for ``kafka.give_up_after``.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from grpo_tta.adapters.backoff import pause
from grpo_tta.adapters.kafka.consumers import CONSUMERS
from grpo_tta.adapters.kafka.errors import Fenced, KafkaFailure
from grpo_tta.adapters.kafka.membership import Member
from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.positions import SkippedRange, Start
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.known import partition_url
from grpo_tta.pipeline.checkpoint.log import CheckpointLog, Conflict
from grpo_tta.pipeline.checkpoint.outputs import check_outputs
from grpo_tta.pipeline.checkpoint.partition import Fingerprints, Partition, SliceResult, no_fault
from grpo_tta.pipeline.checkpoint.protocol import BucketProtocol, CommitProtocol
from grpo_tta.pipeline.checkpoint.starts import Starts
from grpo_tta.pipeline.config.job import JobConfig, parse_duration
from grpo_tta.pipeline.config.kafka import source_topics
from grpo_tta.pipeline.errors import JobError
from grpo_tta.pipeline.graph import OpenSlice
from grpo_tta.pipeline.run.runner import shards_of
from grpo_tta.pipeline.run.slice import is_permanent, most_records
from grpo_tta.pipeline.sinks import close_producers
from grpo_tta.pipeline.watch import metrics
from grpo_tta.pipeline.watch.progress import LiveProgress, Watcher
from grpo_tta.schemas import Plan

_log = logging.getLogger(__name__)
_POLL = 0.1
"""Seconds between two looks at the ends of the partitions."""
_PAUSES = (0.2, 2.0)
"""Seconds after a failure, and at most."""
_AT_ONCE = 16
"""Partitions that are planned or committed side by side."""
_MARGIN = timedelta(milliseconds=1)

T = TypeVar("T")
RunSlice = Callable[[list[OpenSlice]], list[SliceResult]]


class _Taken(JobError):
    """A partition that was assigned by hand has been assigned to another process too."""


@dataclass
class Owned:
    """A partition this process owns."""

    partition: Partition
    generation: int
    """Of the membership, when it was acquired."""
    store: ObjectStore
    bound: int | None
    """Where ``kafka.until`` ends it."""
    jump: SkippedRange | None = None
    """What the log did not hold when the partition was acquired."""
    fresh: bool = True
    """An open plan of it may be waiting."""
    shedding: bool = False
    """It is too far behind to be learnt from."""

    @property
    def position(self) -> int:
        """The next offset to read."""
        position = self.partition.position
        if position is None:
            position = self.partition.start
        return self.jump.resumed if self.jump is not None and self.jump.wanted == position else position


class LiveDriver:
    """``protocol``: what makes a slice count. ``state_bytes``: of a stream at its largest; it bounds a slice.

    Raises `JobError` when it gives up, and what cannot pass at once.
    """

    def __init__(
        self,
        config: JobConfig,
        fingerprints: Fingerprints,
        make_member: Callable[[], Member],
        offsets: KafkaOffsets,
        run_slice: RunSlice,
        owner: str,
        *,
        protocol: CommitProtocol | None = None,
        state_bytes: int = 0,
        stop: Callable[[], bool] = lambda: False,
        watcher: Watcher | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        fault_point: Callable[[str], None] = no_fault,
    ) -> None:
        self._config = config
        self._fingerprints = fingerprints
        self._make_member = make_member
        self._offsets = offsets
        self._run_slice = run_slice
        self._owner = owner
        self._protocol = protocol or BucketProtocol(fault_point)
        self._state_bytes = state_bytes
        self._stop = stop
        self._watcher = watcher or Watcher()
        self._clock = clock
        self._fault_point = fault_point
        self._folders = [ObjectStore(url) for url in config.folders]
        self._starts = Starts(config.kafka.start, ObjectStore(config.checkpoint_url), source_topics(config), offsets)
        self._slice_seconds = parse_duration(config.checkpoint.slice_seconds) / 1e6
        self._give_up = parse_duration(config.kafka.give_up_after) / 1e6
        self._session = parse_duration(config.kafka.session) / 1e6
        self._owned: dict[str, Owned] = {}
        self._let_go_of: dict[str, set[str]] = {}
        self._not_before: dict[str, float] = {}
        self._begun = -self._slice_seconds
        self._busy = False
        self._failing_since: float | None = None
        self._failures = 0
        self._member: Member | None = None

    def run(self) -> None:
        """Until ``stop()``, or until every owned partition has reached ``kafka.until``."""
        self._starts.note()
        self._join()
        try:
            while not self._stop():
                try:
                    member = self._member or self._join()
                    if self._finished(member):
                        break
                    self._turn(member)
                except (KafkaFailure, JobError, OSError) as error:
                    self._failed(error)
        finally:
            self._leave()
            self._offsets.close()
            close_producers(self._config)
            CONSUMERS.close_idle(all_of_them=True)

    def _turn(self, member: Member) -> None:
        member.events(0.0 if self._busy else _POLL)
        self._update_owned(member)
        self._watcher.owns(len(self._owned))
        ends = self._offsets.end(list(self._owned)) if self._owned else {}
        plans = self._plans(ends)
        self._busy = bool(plans)
        if plans:
            self._slice(plans, member)
        elif self._owned:
            self._recovered()
        self._watcher.turned()

    # ---- what is owned ----

    def _join(self) -> Member:
        self._member = self._make_member()
        try:
            self._member.start()
        except BaseException:
            self._leave()
            raise
        return self._member

    def _leave(self) -> None:
        if self._member is not None:
            member, self._member = self._member, None
            member.close()

    def _update_owned(self, member: Member) -> None:
        """Let go of what the membership took away, take up what it gave."""
        held = member.assignment().partitions
        for name, owned in list(self._owned.items()):
            if held.get(name) != owned.generation:
                self._let_go(name, "it has gone to another process")
        for name, generation in held.items():
            if name not in self._owned and self._not_before.get(name, 0.0) <= time.monotonic():
                self._owned[name] = self._acquire(name, generation)
        for name, streams in self._let_go_of.items():
            if name not in self._owned:  # else it was only taken up anew
                metrics.drop_streams(streams)
        self._let_go_of.clear()

    def _acquire(self, name: str, generation: int) -> Owned:
        store = ObjectStore(partition_url(self._config.checkpoint_url, name))
        log = CheckpointLog(store)
        fingerprints = replace(self._fingerprints, source=f"kafka:{name}")
        partition = Partition.of(
            self._config.checkpoint,
            name,
            log,
            fingerprints,
            epoch=log.claim(self._owner),
            fault_point=self._fault_point,
            shards=shards_of(self._config.run),
            gaps=self._config.kafka.out_of_range != "fail",
        )
        self._protocol.restore(partition, self._offsets)
        check_outputs(partition.latest, log, store, self._folders)
        start = partition.position
        if start is None:
            start = partition.start = self._starts.of(name, store)
        _, skipped = self._offsets.check({name: start}, self._config.kafka.out_of_range)
        for jump in skipped:
            metrics.note_skipped(jump)
        owned = Owned(partition, generation, store, self._bound(name), skipped[0] if skipped else None)
        _log.info("partition %s: owned in epoch %d, from offset %d", name, partition.epoch, owned.position)
        return owned

    def _bound(self, name: str) -> int | None:
        until = self._config.kafka.until
        if until is None:
            return None
        if until == "latest":
            return self._offsets.end([name])[name]
        moment = Start.parse(f"timestamp:{until}").time
        assert moment is not None
        return self._offsets.at_time([name], moment + _MARGIN)[name]

    def _let_go(self, name: str, why: str, begun: Sequence[str] = ()) -> None:
        """``begun``: streams of a slice that another process runs again."""
        latest = self._owned.pop(name).partition.latest
        self._let_go_of[name] = set(latest.states if latest is not None else ()).union(begun)
        self._protocol.forget(name)
        metrics.forget_lag(name)
        _log.info("partition %s: let go, %s", name, why)

    def _finished(self, member: Member) -> bool:
        """Whether the job has an end and all that is owned has reached it."""
        if (
            self._config.kafka.until is None
            or not self._owned
            or set(member.assignment().partitions) != set(self._owned)
        ):
            return False
        return all(owned.position >= (owned.bound or 0) and not owned.fresh for owned in self._owned.values())

    # ---- a slice ----

    def _plans(self, ends: Mapping[str, int]) -> list[tuple[Owned, Plan]]:
        """Open plans at once; new ones when a slice is due or would be full. Step 1."""
        waiting = [owned for owned in self._owned.values() if owned.fresh]
        found = self._each(waiting, lambda owned: owned.partition.open_plan())
        for owned, plan in found:
            owned.fresh = plan is not None
        plans = [(owned, plan) for owned, plan in found if plan is not None]
        planned = {owned.partition.name for owned, _ in plans}
        most = most_records(self._config.checkpoint.slice_records, self._state_bytes, len(self._owned))
        stops = {
            name: min(ends[name] if owned.bound is None else owned.bound, ends[name], owned.position + most)
            for name, owned in self._owned.items()
            if name not in planned
        }
        todo = {name: stop for name, stop in stops.items() if stop > self._owned[name].position}
        full = any(stop - self._owned[name].position >= most for name, stop in todo.items())
        if not plans and not full and time.monotonic() - self._begun < self._slice_seconds:
            return []
        clock = self._clock()

        def new(owned: Owned) -> Plan:
            name = owned.partition.name
            self._judge_lag(owned, ends[name] - owned.position)
            return owned.partition.new_plan(owned.position, todo[name], clock, shed=owned.shedding)

        return plans + self._each([self._owned[name] for name in todo], new)

    def _judge_lag(self, owned: Owned, lag: int) -> None:
        """Begin to shed above the bound, end under half of it."""
        above = self._config.kafka.shed_above
        if above is None:
            return
        before = owned.shedding
        owned.shedding = lag > above or (before and lag >= above / 2)
        if owned.shedding != before:
            said = "only labelled, not learnt from" if owned.shedding else "learnt from again"
            _log.warning("partition %s is %d records behind: its images are %s", owned.partition.name, lag, said)

    def _each(self, parts: Sequence[Owned], do: Callable[[Owned], T]) -> list[tuple[Owned, T]]:
        """What ``do`` gives for each, side by side; a partition that is another's by now is let go instead."""
        done = []
        with ThreadPoolExecutor(max(min(len(parts), _AT_ONCE), 1)) as pool:
            for owned, future in [(owned, pool.submit(do, owned)) for owned in parts]:
                try:
                    done.append((owned, future.result()))
                except (Conflict, Fenced) as error:
                    self._taken(owned.partition.name, error)
        return done

    def _slice(self, plans: list[tuple[Owned, Plan]], member: Member) -> None:
        """Steps 2 to 6."""
        self._begun = started = time.monotonic()
        parts = [
            OpenSlice(plan, owned.partition.latest, owned.store.url, dated=True, rerun=owned.partition.rerun)
            for owned, plan in plans
        ]
        self._protocol.begin([owned.partition for owned, _ in plans])
        results = self._run_slice(parts)  # 2, 3
        held = member.assignment().partitions
        done = {}
        for (owned, plan), result in zip(plans, results, strict=True):
            if held.get(owned.partition.name) == owned.generation:
                done[owned.partition.name] = (plan, result)
            else:
                self._let_go(owned.partition.name, "it has gone to another process", result.streams)
        seconds = time.monotonic() - started

        def commit(owned: Owned) -> SliceResult:
            plan, result = done[owned.partition.name]
            self._protocol.commit(owned.partition, plan, result, seconds, member)  # 4
            owned.fresh = False
            return result

        committed = self._each([self._owned[name] for name in done], commit)
        self._protocol.tell([owned.partition for owned, _ in committed], member, self._owned_since())  # 5
        self._each([owned for owned, _ in committed], lambda owned: owned.partition.collect_garbage())  # 6
        self._recovered()
        self._report(committed, time.monotonic() - started)

    def _taken(self, name: str, error: Exception) -> None:
        """Another process has claimed the partition: leave it alone, for a session at least."""
        if self._config.kafka.partitions is not None:
            raise _Taken(f"partition {name}: {error}; only one process may be given a partition")
        self._not_before[name] = time.monotonic() + self._session
        self._let_go(name, str(error))

    def _owned_since(self) -> dict[str, int]:
        return {name: owned.generation for name, owned in self._owned.items()}

    def _report(self, committed: list[tuple[Owned, SliceResult]], seconds: float) -> None:
        ends = self._offsets.end(list(self._owned))  # anew: what came in meanwhile is the lag
        positions = {name: owned.position for name, owned in self._owned.items()}
        lag = {name: max(ends.get(name, position) - position, 0) for name, position in positions.items()}
        results = tuple(result for _, result in committed)
        images = sum(result.counters.labels for result in results)
        forgotten = tuple(stream for owned, _ in committed for stream in owned.partition.forgotten)
        self._watcher.committed(LiveProgress(images, seconds, positions, lag, results, forgotten))

    # ---- failures ----

    def _recovered(self) -> None:
        self._failures, self._failing_since = 0, None

    def _failed(self, error: Exception) -> None:
        """Take everything up anew after a pause; raises where that is no use. A slice that was dropped on request is
        not taken up."""
        if self._stop():
            return
        if is_permanent(error) or isinstance(error, _Taken):
            raise JobError(str(error)) from error
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since > self._give_up:
            failing = now - self._failing_since
            raise JobError(f"no slice came through in {failing:.0f} s, the last try: {error}") from error
        self._watcher.failed(error)
        self._failures += 1
        seconds = pause(self._failures, _PAUSES[0], _PAUSES[-1])
        _log.warning("%s; all partitions resume from their commits in %.1f s", error, seconds)
        for name in list(self._owned):
            self._let_go(name, "it is loaded again")
        self._watcher.owns(0)
        close_producers(self._config)
        time.sleep(seconds)
        self._leave_if_ended()

    def _leave_if_ended(self) -> None:
        """A membership that has ended does not come back: the next turn joins anew."""
        try:
            if self._member is not None:
                self._member.assignment()
        except KafkaFailure as error:
            _log.warning("the membership ended (%s): joining again", error)
            self._leave()
