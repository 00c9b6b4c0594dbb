"""`CommitProtocol`: what makes a slice of a partition count, its commit in the bucket or a Kafka transaction.

`BucketProtocol`, the default: 4. the commit, by exclusive create; 5. the group's offsets, which nobody relies on.

`KafkaProtocol` (``--transactional``): 1. the plan; 2. outputs, into a transaction of the partition's own producer; 3.
the states; 4. the commit, written but not yet valid; 5. the group's offset with the commit's name beside it, into the
transaction; 6. the transaction ends: from here on the slice counts; 7. garbage collection. A restart reads the group's
offset and goes on from the commit it names.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

from grpo_tta.adapters.kafka.errors import CommitUnknown, Fenced, KafkaFailure
from grpo_tta.adapters.kafka.membership import Member
from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.positions import Committed
from grpo_tta.adapters.kafka.transactions import TransactionalSink
from grpo_tta.pipeline.checkpoint.partition import Partition, SliceResult, no_fault
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.sinks import close_transactions, open_transactions
from grpo_tta.schemas import Commit, Plan

_log = logging.getLogger(__name__)


class CommitProtocol(ABC):
    """Where it is decided that a slice counts."""

    @abstractmethod
    def restore(self, partition: Partition, offsets: KafkaOffsets) -> None:
        """Load the newest commit that counts into a partition whose epoch has been claimed."""

    @abstractmethod
    def begin(self, partitions: Iterable[Partition]) -> None:
        """Before the outputs of a slice."""

    @abstractmethod
    def commit(self, partition: Partition, plan: Plan, result: SliceResult, seconds: float, member: Member) -> Commit:
        """From here on the slice counts. Raises `Conflict` or `Fenced` where the partition is another's."""

    @abstractmethod
    def tell(self, partitions: Iterable[Partition], member: Member, since: Mapping[str, int]) -> None:
        """After the commits: tell those who only watch."""

    @abstractmethod
    def forget(self, name: str) -> None:
        """The partition is not owned any more."""


class BucketProtocol(CommitProtocol):
    """The bucket's commit log decides."""

    def __init__(self, fault_point: Callable[[str], None] = no_fault) -> None:
        self._fault_point = fault_point

    def restore(self, partition: Partition, offsets: KafkaOffsets) -> None:
        """The newest commit of the log."""
        partition.restore()

    def begin(self, partitions: Iterable[Partition]) -> None:
        """Nothing to do."""

    def commit(self, partition: Partition, plan: Plan, result: SliceResult, seconds: float, member: Member) -> Commit:
        """Step 4."""
        return partition.commit(plan, result, seconds)

    def tell(self, partitions: Iterable[Partition], member: Member, since: Mapping[str, int]) -> None:
        """Step 5: what fails here leaves a lag that looks too long until the next slice."""
        positions = {
            partition.name: Committed(partition.latest.position) for partition in partitions if partition.latest
        }
        if not positions:
            return
        self._fault_point("before:5")
        try:
            member.commit(positions, {name: since[name] for name in positions})  # 5
        except KafkaFailure as error:
            _log.warning("the group's offsets were not committed, the checkpoint is: %s", error)
        self._fault_point("after:5")

    def forget(self, name: str) -> None:
        """Nothing to do."""


class KafkaProtocol(CommitProtocol):
    """The group's committed offset decides, and names the commit."""

    def __init__(
        self, make_sink: Callable[[str], TransactionalSink], fault_point: Callable[[str], None] = no_fault
    ) -> None:
        self._make_sink = make_sink
        self._fault_point = fault_point
        self._sinks: dict[str, TransactionalSink] = {}

    def restore(self, partition: Partition, offsets: KafkaOffsets) -> None:
        """Fence the owner before, then ask for the offset: no transaction of its can change it any more."""
        sink = self._sinks[partition.name] = self._make_sink(partition.name)
        sink.open()
        open_transactions(partition.name, sink)
        committed = offsets.committed([partition.name]).get(partition.name)
        name = committed.metadata if committed else None
        newest = partition.log.latest()
        if not name and newest is not None and newest.sequence > 0:
            raise ConfigurationError(
                f"the group has no position with a commit for {partition.name}, whose checkpoint holds slice "
                f"{newest.sequence}: the group's offsets have expired or were set by others; give another --checkpoint"
            )
        partition.restore_named(name)

    def begin(self, partitions: Iterable[Partition]) -> None:
        """A transaction for each."""
        for partition in partitions:
            self._sinks[partition.name].begin()

    def commit(self, partition: Partition, plan: Plan, result: SliceResult, seconds: float, member: Member) -> Commit:
        """Steps 4 to 6."""
        sink = self._sinks[partition.name]
        commit, name = partition.write_commit(plan, result, seconds)  # 4
        self._fault_point("before:5")
        sink.send_offsets({partition.name: Committed(commit.position, name)}, member.group_metadata())  # 5
        self._fault_point("after:5")
        self._fault_point("before:6")
        try:
            sink.commit()  # 6
        except CommitUnknown as error:
            raise Fenced(f"{error}; the partition is loaded again") from error
        self._fault_point("after:6")
        partition.counts(commit)
        return commit

    def tell(self, partitions: Iterable[Partition], member: Member, since: Mapping[str, int]) -> None:
        """The transaction has."""

    def forget(self, name: str) -> None:
        """Its producer goes; a transaction left open is aborted by the next owner."""
        self._sinks.pop(name, None)
        close_transactions(name)
