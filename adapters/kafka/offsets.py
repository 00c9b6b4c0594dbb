"""`KafkaOffsets`: what a topic holds, where a group stands and where to begin, in numbers.

With ``read_committed`` the end of a partition is its last stable offset, and a group's committed offset waits for a
transaction that is about to change it: the new owner of a partition must not start from the one before.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import kafka

from grpo_tta.adapters.kafka.errors import KafkaFailure, TopicMissing
from grpo_tta.adapters.kafka.positions import Committed, OutOfRangePolicy, SkippedRange, Start, in_range
from grpo_tta.adapters.kafka.settings import KafkaSettings, translated
from grpo_tta.adapters.kafka.wire import parse_partition, partition_name


class KafkaOffsets:
    """Questions to a cluster; one consumer that reads nothing, opened at the first. Not for several threads.

    Partitions are named ``topic-partition``. Every method raises a `KafkaFailure`, within the settings' time-outs.
    """

    def __init__(self, settings: KafkaSettings, *, group: str | None = None, read_committed: bool = True) -> None:
        self._settings = settings
        self._group = group
        self._isolation = "read_committed" if read_committed else "read_uncommitted"
        self._consumer: Any = None

    def __enter__(self) -> "KafkaOffsets":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; a later question connects again."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            consumer.close(autocommit=False, timeout_ms=2000)

    def partitions(self, topics: Iterable[str]) -> list[str]:
        """All partitions of the topics, in order of topic and number. Raises `TopicMissing`."""
        found = []
        for topic in topics:
            with translated(self._settings, f"list the partitions of topic {topic!r}"):
                numbers = self._topic(topic)
            if not numbers:
                raise TopicMissing(f"topic {topic!r} does not exist on {', '.join(self._settings.servers)}: create it")
            found += [partition_name(topic, number) for number in sorted(numbers)]
        return found

    def _topic(self, topic: str) -> set[int] | None:
        """A fresh answer: the client's own is as old as its metadata."""
        with self._settings.admin() as admin:
            (described,) = admin.describe_topics([topic])
        if described["error_code"]:
            return None
        return {partition["partition_index"] for partition in described["partitions"]}

    def beginning(self, partitions: Iterable[str]) -> dict[str, int]:
        """The first offset that is still there."""
        return self._ask("read the first offsets", partitions, lambda client, asked: client.beginning_offsets(asked))

    def end(self, partitions: Iterable[str]) -> dict[str, int]:
        """The offset after the last (stable) record."""
        return self._ask("read the last offsets", partitions, lambda client, asked: client.end_offsets(asked))

    def at_time(self, partitions: Iterable[str], moment: datetime) -> dict[str, int]:
        """The first record whose timestamp is at or after a time; the end where there is none."""
        names = list(partitions)
        stamp = max(round(moment.timestamp() * 1000), 0)
        found = self._ask(
            "look up offsets by time",
            names,
            lambda client, asked: client.offsets_for_times(dict.fromkeys(asked, stamp)),
        )
        ends = self.end([name for name in names if found[name] is None])
        return {name: ends[name] if found[name] is None else found[name].offset for name in names}

    def committed(self, partitions: Iterable[str]) -> dict[str, Committed]:
        """What the group has committed; partitions without are left out."""
        if self._group is None:
            raise ValueError("a group is needed to read its committed offsets")
        found = {}
        with self._connected("read committed offsets") as client:
            for name in partitions:
                answer = client.committed(_topic_partition(name), metadata=True, timeout_ms=self._timeout_ms)
                if answer is not None and answer.offset >= 0:
                    found[name] = Committed(answer.offset, answer.metadata or "")
        return found

    def start(self, start: Start, partitions: Iterable[str]) -> dict[str, int]:
        """The position each partition begins at."""
        names = list(partitions)
        if start.kind == "explicit":
            return start.explicit(names)
        if start.kind == "latest":
            return self.end(names)
        if start.kind == "timestamp" and start.time is not None:
            return self.at_time(names, start.time)
        committed = self.committed(names) if start.kind == "committed" else {}
        earliest = self.beginning([name for name in names if name not in committed])
        return {name: committed[name].offset if name in committed else earliest[name] for name in names}

    def check(
        self, positions: Mapping[str, int], policy: OutOfRangePolicy
    ) -> tuple[dict[str, int], list[SkippedRange]]:
        """The positions to read from, every one inside its log, and what had to be skipped for that.

        Raises `OffsetOutOfRange` where the policy is ``fail``.
        """
        beginning, end = self.beginning(positions), self.end(positions)
        checked = dict(positions)
        skipped = []
        for name, wanted in positions.items():
            jump = in_range(name, wanted, beginning[name], end[name], policy)
            if jump is not None:
                checked[name] = jump.resumed
                skipped.append(jump)
        return checked, skipped

    def lag(self, positions: Mapping[str, int]) -> dict[str, int]:
        """Offsets between each position and the end, at least 0; gaps count as if they were records."""
        return {name: max(end - positions[name], 0) for name, end in self.end(positions).items()}

    @property
    def _timeout_ms(self) -> int:
        return round(self._settings.request_timeout * 1000)

    @contextmanager
    def _connected(self, doing: str) -> Iterator[Any]:
        """The client, for one question; dropped when the question fails, so that the next one connects anew."""
        client = self._client()
        try:
            with translated(self._settings, doing):
                yield client
        except KafkaFailure:
            self.close()
            raise

    def _client(self) -> Any:
        if self._consumer is None:
            self._consumer = self._settings.consumer(group_id=self._group, isolation_level=self._isolation)
        return self._consumer

    def _ask(self, doing: str, partitions: Iterable[str], question: Any) -> dict[str, Any]:
        names = {_topic_partition(name): name for name in partitions}
        if not names:
            return {}
        with self._connected(doing) as client:
            answers = question(client, list(names))
        missing = [name for asked, name in names.items() if asked not in answers]
        if missing:
            raise KafkaFailure(f"could not {doing}: no answer for {', '.join(missing)}")
        return {name: answers[asked] for asked, name in names.items()}


def _topic_partition(name: str) -> Any:
    return kafka.TopicPartition(*parse_partition(name))
