"""`GroupMember`: ownership by a Kafka consumer group.

It joins with a consumer that reads nothing: all its partitions are paused, it is polled in a thread of its own, and
only that thread touches it. Membership is no fence: a process that was stopped and wakes up finds out at its next
poll. A commit in between is refused by the broker or, if it has joined anew by then, because the partition is held
since another generation than the one the commit was made for.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, NamedTuple

import kafka
from kafka import errors as kafka_errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState

from grpo_tta.adapters.kafka.errors import Fenced, KafkaFailure, KafkaUnreachable
from grpo_tta.adapters.kafka.membership import Assignment, Member, MembershipEvent, Ownership, commit_offsets
from grpo_tta.adapters.kafka.positions import Committed
from grpo_tta.adapters.kafka.settings import KafkaSettings, as_failure, translated
from grpo_tta.adapters.kafka.wire import partition_name

_log = logging.getLogger(__name__)
_UNKNOWN_TOPIC_WAIT = 0.2
_FENCED = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
    kafka_errors.FencedInstanceIdError,
)


class _Job(NamedTuple):
    call: Callable[[Any], Any]
    answer: "Future[Any]"


class GroupMember(Member):
    """A member of the consumer group ``group``, subscribed to ``topics``. Times in seconds.

    ``session``: after this long without a sign of life the others take over. ``discovery``: how soon added partitions
    are noticed. The assignment is cooperative: what stays with its owner in a rebalance is not interrupted.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Iterable[str],
        group: str,
        *,
        session: float = 10.0,
        heartbeat: float = 1.0,
        poll_interval: float = 0.1,
        max_poll_interval: float = 30.0,
        discovery: float = 30.0,
    ) -> None:
        if not group:
            raise ValueError("group must not be empty")
        if not 0 < heartbeat * 3 <= session:
            raise ValueError(f"session must be >= 3 heartbeats, got {session} and {heartbeat}")
        self._settings = settings
        self._topics = list(topics)
        self._group = group
        self._assignor = CooperativeStickyAssignor()
        self._poll_ms = round(poll_interval * 1000)
        self._longest_join = session + max_poll_interval
        self._joining_since: float | None = None
        self._options = {
            "group_id": group,
            "session_timeout_ms": round(session * 1000),
            "heartbeat_interval_ms": round(heartbeat * 1000),
            "max_poll_interval_ms": round(max_poll_interval * 1000),
            "metadata_max_age_ms": round(discovery * 1000),
            "partition_assignment_strategy": (self._assignor,),
            "auto_offset_reset": "latest",  # nothing is ever read, so this decides nothing
        }
        self._ownership = Ownership()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._ended: KafkaFailure | None = None
        self._stop = threading.Event()
        self._close_seconds = 5.0
        self._consumer: Any = None
        self._thread = threading.Thread(target=self._run, name=f"kafka-member-{group}", daemon=True)

    def start(self) -> None:
        """Connect and begin to join."""
        self._consumer = self._settings.consumer(**self._options)
        self._consumer.subscribe(self._topics, listener=_Listener(self._consumer, self._assignor, self._ownership))
        self._thread.start()

    def assignment(self) -> Assignment:
        """See `Member`."""
        self._check_running()
        return self._ownership.assignment()

    def events(self, seconds: float = 0.0) -> list[MembershipEvent]:
        """See `Member`."""
        found = self._ownership.events(seconds)
        if not found:
            self._check_running()
        return found

    def commit(self, positions: Mapping[str, Committed], acquired: Mapping[str, int]) -> None:
        """See `Member`."""
        self._ownership.check(positions, acquired)
        offsets = commit_offsets(positions)
        timeout_ms = round(self._settings.request_timeout * 1000)

        def call(consumer: Any) -> None:
            # Once more, on the thread that changes it: between here and the commit nothing can change any more.
            self._ownership.check(positions, acquired)
            consumer.commit(offsets, timeout_ms=timeout_ms)

        self._on_thread(call, "commit positions")

    def group_metadata(self) -> Any:
        """See `Member`."""
        return self._on_thread(lambda consumer: consumer.group_metadata(), "read the group's generation")

    def close(self, seconds: float = 10.0) -> None:
        """See `Member`."""
        self._close_seconds = max(seconds - 1.0, 0.5)
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                _log.warning("group %s: leaving took more than %.0f s, the session will expire", self._group, seconds)
        self._ownership.change("lost", tuple(self._ownership.assignment().partitions))

    def _on_thread(self, call: Callable[[Any], Any], doing: str) -> Any:
        self._check_running()
        job = _Job(call, Future())
        self._jobs.put(job)
        seconds = self._settings.request_timeout + 5.0
        try:
            with translated(self._settings, doing):
                return job.answer.result(timeout=seconds)
        except FutureTimeout as error:
            job.answer.cancel()
            raise KafkaUnreachable(f"could not {doing} in {seconds:.0f} s; {self._settings.advice()}") from error
        except KafkaFailure as error:
            if isinstance(error.__cause__, _FENCED):
                raise Fenced(
                    f"group {self._group} has gone on without us ({type(error.__cause__).__name__})"
                ) from error
            raise

    def _check_running(self) -> None:
        if self._ended is not None:
            raise self._ended
        if self._stop.is_set() or self._thread.ident is None:
            raise KafkaFailure(f"group {self._group}: not a member: not started, or closed")

    def _run(self) -> None:
        try:
            self._ask_for_topics()
            while not self._stop.is_set():
                self._do_jobs()
                self._poll()
                self._check_join()
        except Exception as error:
            _log.error("group %s: the membership ended: %s", self._group, type(error).__name__)
            self._ended = as_failure(error, self._settings, f"stay in group {self._group!r}")
        finally:
            self._ownership.change("lost", tuple(self._ownership.assignment().partitions))
            self._leave()
            self._refuse_jobs()

    def _ask_for_topics(self) -> None:
        """Until the brokers tell of all topics, or have not for ``request_timeout``; the first poll joins.

        kafka-python joins before it has asked for them. A leader that knows no partitions gives out none, and where the
        answer comes while it does, it takes that for what it gave out and never asks the group to join again. Asked for
        after the subscription they are what the assignment is compared with, so that no second join follows the first.
        """
        deadline = time.monotonic() + self._settings.request_timeout
        while not self._stop.is_set() and time.monotonic() < deadline:
            try:
                if set(self._topics) <= set(self._consumer.topics()):
                    return
            except kafka_errors.KafkaError as error:
                if not error.retriable:
                    raise
            self._stop.wait(_UNKNOWN_TOPIC_WAIT)

    def _poll(self) -> None:
        """One round of the group protocol; errors that pass are left to the next."""
        try:
            self._consumer.poll(timeout_ms=self._poll_ms)
        except kafka_errors.KafkaError as error:
            if not error.retriable and not isinstance(error, _FENCED):
                raise
            _log.warning("group %s: %s", self._group, type(error).__name__)
            self._stop.wait(0.2)

    def _check_join(self) -> None:
        """Raise `KafkaUnreachable` where a join has not come to its end in the time that the brokers give all members
        to come: kafka-python can lose track of one (what asked for it has passed while it was under way), and nobody
        waits for its end then. A broker that is away makes no such state."""
        if self._consumer.group_metadata().state != MemberState.REBALANCING:
            self._joining_since = None
            return
        now = time.monotonic()
        self._joining_since = self._joining_since or now
        if now - self._joining_since > self._longest_join:
            raise KafkaUnreachable(f"group {self._group}: joining did not end in {self._longest_join:.0f} s")

    def _do_jobs(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if not job.answer.set_running_or_notify_cancel():
                continue
            try:
                job.answer.set_result(job.call(self._consumer))
            except Exception as error:
                job.answer.set_exception(error)

    def _refuse_jobs(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(self._ended or KafkaFailure(f"group {self._group}: the member was closed"))

    def _leave(self) -> None:
        try:
            self._consumer.close(autocommit=False, timeout_ms=round(self._close_seconds * 1000))
        except Exception as error:
            _log.warning("group %s: leaving failed (%s), the session will expire", self._group, type(error).__name__)


class _Listener(kafka.ConsumerRebalanceListener):
    """Called on the client's own thread: notes what happened and returns."""

    def __init__(self, consumer: Any, assignor: Any, ownership: Ownership) -> None:
        self._consumer = consumer
        self._assignor = assignor
        self._ownership = ownership

    def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        self._consumer.pause(*assigned)
        self._ownership.change("assigned", _names(assigned))

    def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        self._ownership.change("revoked", _names(revoked))

    def on_partitions_lost(self, lost: Collection[Any]) -> None:
        # The assignor would claim them when it joins anew, its leader would leave them to the claimant, and as that has
        # nothing to give up nobody would ask for the round in which they get an owner.
        self._assignor.member_assignment = None
        self._ownership.change("lost", _names(lost))


def _names(partitions: Collection[Any]) -> list[str]:
    return [partition_name(one.topic, one.partition) for one in partitions]
