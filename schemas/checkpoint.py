"""What a job writes about itself: the plan of a slice, the commit that makes it count, and the summary."""

from typing import Annotated, Any, Literal

from pydantic import Field

from grpo_tta.schemas.base import SchemaVersion, Time, WireModel
from grpo_tta.schemas.outputs import DriftSignal, ResetCause

Position = Annotated[int, Field(ge=0)]
SkipReason = Literal["method", "ill", "nonfinite"]


class SliceRange(WireModel):
    """A closed-open range of one source partition: positions ``start <= p < stop``."""

    partition: str
    start: Position
    stop: Position


class Plan(WireModel):
    """Everything that the decisions of one partition's part of a slice depend on, written before any output."""

    schema_version: SchemaVersion = "1"
    epoch: Position
    sequence: Position
    span: SliceRange
    clock: Time
    """``now`` for every decision inside the slice; a replay uses this one."""
    config_fingerprint: str
    model_fingerprint: str
    threads: Annotated[int, Field(ge=1)]
    shards: Annotated[int, Field(ge=1)] = 1
    """Groups of the partition's streams: those of one go through the model together, so that labels depend on it."""
    environment: str = ""
    """Device, processor and package versions."""
    source_fingerprint: str
    """Of what the positions count: a listing, a topic."""
    shed: bool = False
    """The partition was too far behind: its images are labelled and not learnt from."""
    resets: dict[str, list[str]] = Field(default_factory=dict)
    """Stream -> requests to reset it: done before its first event of the slice."""


class Counters(WireModel):
    """Totals since the partition's beginning."""

    events: Position = 0
    labels: Position = 0
    dead_letters: Position = 0
    updates: Position = 0
    late: Position = 0
    shed: Position = 0
    """Images that were labelled and not learnt from because the partition was too far behind."""
    forgotten: Position = 0
    """Streams whose state was dropped, as often as it was: they had shown no image for ``checkpoint.forget_after``."""
    updates_skipped: dict[SkipReason, int] = Field(default_factory=dict)
    """Updates that were due and not made: by the method's own rule (a gate, a filter), because the guard was ill and
    served the frozen encoder, or because a figure was not finite."""
    notices: dict[str, int] = Field(default_factory=dict)
    """What was capped, guessed or repaired of events that were taken, by kind."""
    drift_events: dict[DriftSignal, int] = Field(default_factory=dict)
    resets: dict[ResetCause, int] = Field(default_factory=dict)
    forward_equivalents: float = 0.0
    seconds: float = 0.0
    """Busy time of committed slices. Never part of a label."""

    def plus(self, other: "Counters") -> "Counters":
        """The sum, field by field."""
        return Counters(
            **{name: _sum(getattr(self, name), getattr(other, name)) for name in type(self).model_fields},
        )


def _sum(one: Any, other: Any) -> Any:
    if not isinstance(one, dict):
        return one + other
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted({*one, *other})}


class PackRef(WireModel):
    """A packed file of states, as a commit names it."""

    states: Position
    """How many it was written with."""
    digest: str = ""
    """Of its index, which holds the checksums of the states: a file of another job is not taken for it."""


class Commit(WireModel):
    """The one record after which a partition's part of a slice counts."""

    schema_version: SchemaVersion = "1"
    epoch: Position
    sequence: Position
    partition: str
    position: Position
    """The next one to read."""
    since: str | None = None
    """The commit of which this one says what has changed, and its digest; without it this one names every stream."""
    states: dict[str, str]
    """Stream -> name of the packed file that holds its newest state."""
    newest: dict[str, int] = Field(default_factory=dict)
    """Stream -> event time of its newest image, in microseconds; not of streams without a readable one."""
    gone: list[str] = Field(default_factory=list)
    """Streams of the commit ``since`` that were forgotten."""
    packs: dict[str, PackRef] = Field(default_factory=dict)
    """The packed files by name."""
    files: dict[str, str] = Field(default_factory=dict)
    """The slice's output files by name, with the digests of their bytes, which a restart compares."""
    resets: list[str] = Field(default_factory=list)
    """Requests of the plan that were done: forgotten next, or by whoever finds this commit."""
    counters: Counters
    config_fingerprint: str
    model_fingerprint: str
    source_fingerprint: str


class Summary(WireModel):
    """``summary.json``: what the job did, since its beginning."""

    schema_version: SchemaVersion = "1"
    finished: bool
    events: Position
    labels: Position
    dead_letters: Position
    updates: Position
    late: Position
    drift_events: Position
    resets: dict[str, int]
    """By cause."""
    passed_over: dict[str, int] = Field(default_factory=dict)
    """Files of the source that are no events by their names, by suffix."""
    notices: dict[str, int] = Field(default_factory=dict)
    """What was capped, guessed or repaired of events that were taken, by kind."""
    streams: Position
    """That the job knows; those that it has forgotten are not among them."""
    forgotten: Position = 0
    seconds: float
    """Busy time of all committed slices; pauses between attempts do not count."""
    images_per_second: float
    forward_equivalents_per_image: float
    model_fingerprint: str
    config_fingerprint: str
    method: str
    versions: dict[str, str]
    """Of the last run, also where it had nothing left to do."""
    configuration: dict[str, Any]
