"""Positions as they are spoken of: where to begin, what was committed, what a log no longer holds. No client."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, get_args

from grpo_tta.adapters.kafka.errors import OffsetOutOfRange
from grpo_tta.adapters.kafka.wire import parse_partition
from grpo_tta.checks import is_whole
from grpo_tta.schemas.rfc3339 import parse_rfc3339

OutOfRangePolicy = Literal["fail", "earliest", "latest"]


class Committed(NamedTuple):
    """What a group has committed for a partition."""

    offset: int
    metadata: str = ""


class SkippedRange(NamedTuple):
    """Positions that were passed over because the log does not hold them. Never silent: count it and log it."""

    partition: str
    wanted: int
    resumed: int
    """Where reading goes on; smaller than ``wanted`` when the log ends before it."""
    beginning: int
    end: int

    def message(self) -> str:
        """One line for a log."""
        what = (
            f"{self.resumed - self.wanted} positions are lost"
            if self.resumed >= self.wanted
            else "the log was cut or made anew"
        )
        return (
            f"partition {self.partition}: position {self.wanted} is not there (the log holds {self.beginning} to "
            f"{self.end}), reading goes on at {self.resumed}: {what}"
        )


@dataclass(frozen=True)
class Start:
    """Where to begin: ``committed | earliest | latest | timestamp:RFC3339 | TOPIC-PARTITION=OFFSET,...``.

    ``committed`` begins at the earliest record where nothing is committed.
    """

    kind: Literal["committed", "earliest", "latest", "timestamp", "explicit"]
    time: datetime | None = None
    offsets: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Start":
        """Raises ValueError naming what is wrong."""
        if text in ("committed", "earliest", "latest"):
            return cls(text)  # type: ignore[arg-type]
        kind, _, value = text.partition(":")
        if kind == "timestamp":
            try:
                return cls("timestamp", parse_rfc3339(value))
            except ValueError as error:
                raise ValueError(f"start {text!r}: expected timestamp:RFC3339 with an offset: {error}") from error
        if "=" not in text:
            raise ValueError(
                f"start must be committed, earliest, latest, timestamp:RFC3339 or TOPIC-PARTITION=OFFSET,..., "
                f"got {text!r}"
            )
        offsets: dict[str, int] = {}
        for part in text.split(","):
            name, _, offset = part.partition("=")
            if not is_whole(offset):
                raise ValueError(f"start {text!r}: expected TOPIC-PARTITION=OFFSET, got {part!r}")
            parse_partition(name)
            if name in offsets:
                raise ValueError(f"start {text!r} names partition {name} twice")
            offsets[name] = int(offset)
        return cls("explicit", offsets=offsets)

    def explicit(self, partitions: Iterable[str]) -> dict[str, int]:
        """The given offsets of ``partitions``; raises ValueError for one without."""
        wanted = list(partitions)
        missing = [name for name in wanted if name not in self.offsets]
        if missing:
            raise ValueError(f"start names no offset for {', '.join(missing)}: give one for every partition")
        return {name: self.offsets[name] for name in wanted}


def check_policy(policy: str) -> None:
    """Raises ValueError unless it is an `OutOfRangePolicy`."""
    if policy not in get_args(OutOfRangePolicy):
        raise ValueError(f"offset out of range policy must be fail, earliest or latest, got {policy!r}")


def in_range(partition: str, wanted: int, beginning: int, end: int, policy: OutOfRangePolicy) -> SkippedRange | None:
    """None where the log holds ``wanted`` (its end counts); else by policy the jump, or `OffsetOutOfRange`."""
    if beginning <= wanted <= end:
        return None
    if policy == "fail":
        raise OffsetOutOfRange(
            f"partition {partition}: position {wanted} is not there, the log holds {beginning} to {end}; records were "
            "deleted before they were read, or the topic was made anew: choose 'earliest' or 'latest' as the policy "
            "for offsets out of range to go on without them"
        )
    return SkippedRange(partition, wanted, beginning if policy == "earliest" else end, beginning, end)


def parse_numbers(text: str) -> tuple[int, ...]:
    """``0-3,7`` -> 0, 1, 2, 3, 7. Raises ValueError."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not is_whole(first) or (dash and not is_whole(last)):
            raise ValueError(f"partitions must be a list like 0-3,7, got {text!r}")
        span = range(int(first), int(last or first) + 1)
        if not span or len(span) > 100_000:
            raise ValueError(f"partitions {text!r}: {part.strip()} is no range")
        numbers.update(span)
    return tuple(sorted(numbers))
