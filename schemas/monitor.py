"""`MonitorRecord`: what a stream's labels of one slice and one stretch of event time add up to, in whole numbers.

Records of one stretch are parts: `merge` adds them up, in any order, to the same bytes, so that neither slices nor
kills show in the sum. `join` adds up a stream's stretches to a longer one. No threshold is applied here: the accuracy
estimate (`grpo_tta.estimate`) applies one when it reads.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Annotated, Any

from pydantic import Field, PlainSerializer

from grpo_tta.schemas.base import SchemaVersion, Time, WireModel
from grpo_tta.schemas.outputs import DriftSignal, ResetCause

PROBABILITY_BINS = 20
ENTROPY_BINS = 100
SAMPLES = 4
"""Images kept by coordinate, those that are least sure."""
MILLION = 1_000_000

Count = Annotated[int, Field(ge=0, le=2**53)]
"""As large as every reader of JSON takes exactly."""


def _sorted(counts: dict[Any, int]) -> dict[Any, int]:
    return {name: count for name, count in sorted(counts.items()) if count}


_Sorted = PlainSerializer(_sorted, return_type=dict)
"""When a record is written, and not whenever one is read."""
Counts = Annotated[dict[str, Count], _Sorted]
"""By name, written sorted and without those that are 0: equal counts have equal bytes."""
ProbabilityHistogram = Annotated[dict[Annotated[int, Field(ge=0, lt=PROBABILITY_BINS)], Count], _Sorted]
EntropyHistogram = Annotated[dict[Annotated[int, Field(ge=0, lt=ENTROPY_BINS)], Count], _Sorted]
"""By bin, from 0; most slices fill few of them."""


class Sample(WireModel):
    """One image of many."""

    coordinate: str
    label: str
    """The best class, however unsure."""
    millionths: Annotated[int, Field(ge=0, le=MILLION)]
    """Its probability."""


class Shift(WireModel):
    """The guard saw the input shift."""

    event_time: Time
    coordinate: str
    thousandths: Count | None = None
    """Its size, in thousandths of a standard deviation of a frame."""
    reset: bool


class MonitorRecord(WireModel):
    """Sums over the labels of a stream whose event times lie in one stretch, and over what else was told of them.

    ``stream`` and ``bucket_start`` are absent for dead letters of records that are no events, which know neither.
    """

    schema_version: SchemaVersion = "1"
    stream: str | None = None
    bucket_start: Time | None = None
    bucket_seconds: Annotated[int, Field(ge=1, le=10**9)]
    coordinate: str
    """The smallest of its events': tells this part from others of the same stretch, and is the same in a replay."""
    model_fingerprint: str
    method: str
    settings_fingerprint: str
    """Of the method's settings."""
    n: Count = 0
    """Images labelled."""
    late: Count = 0
    """Of these, labelled and not learnt from."""
    unknown: Count = 0
    """Of these, under the configured minimum probability."""
    ill: Count = 0
    """Of these, labelled by the frozen encoder because the guard was ill."""
    frozen_n: Count = 0
    """Of these, with a label of the frozen encoder's beside the served one."""
    agree: Count = 0
    """Of those, where both are the same class."""
    updates: Count = 0
    resets: Counts = Field(default_factory=dict)
    """By `ResetCause`."""
    drift: Counts = Field(default_factory=dict)
    """Drift events by `DriftSignal`."""
    dead_letters: Counts = Field(default_factory=dict)
    """By ``stage/error_class``."""
    probability: ProbabilityHistogram = Field(default_factory=dict)
    """Of the served best class, in twentieths."""
    entropy: EntropyHistogram = Field(default_factory=dict)
    """Of the served probabilities, over ln C, in hundredths."""
    least_entropy: EntropyHistogram = Field(default_factory=dict)
    """The smaller one of the served and the frozen probabilities' entropies, of images that have both."""
    labels: Counts = Field(default_factory=dict)
    """Best classes, however unsure. All of them: a list that is cut does not add up."""
    frozen_probability: ProbabilityHistogram = Field(default_factory=dict)
    frozen_entropy: EntropyHistogram = Field(default_factory=dict)
    frozen_labels: Counts = Field(default_factory=dict)
    shifts: list[Shift] = Field(default_factory=list)
    """In order of time."""
    least_sure: Annotated[list[Sample], Field(max_length=SAMPLES)] = Field(default_factory=list)
    """Least sure first."""

    @property
    def key(self) -> tuple[str, str, int, str, str, str]:
        """Parts with equal keys add up; keys order records by stream and time."""
        start = "" if self.bucket_start is None else self.bucket_start.isoformat()
        return (
            self.stream or "",
            start,
            self.bucket_seconds,
            self.model_fingerprint,
            self.method,
            self.settings_fingerprint,
        )


def merge(parts: Sequence[MonitorRecord]) -> MonitorRecord:
    """The sum of parts of one stretch, the same whatever their order. Raises ValueError for none, or for two keys."""
    if len({part.key for part in parts}) != 1:
        raise ValueError(f"parts of one stretch have one key, got {sorted({part.key for part in parts})}")
    return _sum(parts, parts[0].model_dump(include=set(_SAME)))


def merged(records: Iterable[MonitorRecord]) -> list[MonitorRecord]:
    """One record a stretch, in order of their keys."""
    ordered = sorted(records, key=lambda record: record.key)
    return [merge(list(parts)) for _, parts in groupby(ordered, key=lambda record: record.key)]


def join(records: Sequence[MonitorRecord]) -> MonitorRecord:
    """The sum over one stream's stretches, from the first one's start to the last one's end.

    Raises ValueError for none, for two streams, models, methods or settings, and for a stretch without a time.
    """
    kinds = {(record.stream, *record.key[3:]) for record in records}
    starts = [record.bucket_start for record in records if record.bucket_start is not None]
    if len(kinds) != 1 or len(starts) != len(records):
        raise ValueError(f"stretches that are joined are of one stream and method and have a time, got {sorted(kinds)}")
    start = min(starts)
    ends = [at + timedelta(seconds=record.bucket_seconds) for at, record in zip(starts, records, strict=True)]
    same = records[0].model_dump(include=set(_SAME))
    return _sum(records, same | {"bucket_start": start, "bucket_seconds": int((max(ends) - start).total_seconds())})


_SAME = ("stream", "bucket_start", "bucket_seconds", "model_fingerprint", "method", "settings_fingerprint")
_TOTALS = ("n", "late", "unknown", "ill", "frozen_n", "agree", "updates")
_COUNTED = (
    "resets", "drift", "dead_letters", "labels", "frozen_labels",
    "probability", "entropy", "least_entropy", "frozen_probability", "frozen_entropy",
)  # fmt: skip


def _sum(records: Sequence[MonitorRecord], same: dict[str, Any]) -> MonitorRecord:
    values = same | {name: sum(getattr(record, name) for record in records) for name in _TOTALS}
    for name in _COUNTED:
        counts: dict[Any, int] = {}
        for record in records:
            for key, count in getattr(record, name).items():
                if count:
                    counts[key] = counts.get(key, 0) + count
        values[name] = counts
    values["coordinate"] = min(record.coordinate for record in records)
    shifts = [shift for record in records for shift in record.shifts]
    values["shifts"] = sorted(shifts, key=lambda shift: (shift.event_time, shift.coordinate))
    values["least_sure"] = least_sure(sample for record in records for sample in record.least_sure)
    return MonitorRecord.model_validate(values)


def least_sure(samples: Iterable[Sample]) -> list[Sample]:
    """The `SAMPLES` of lowest probability."""
    return sorted(samples, key=lambda sample: (sample.millionths, sample.coordinate))[:SAMPLES]


__all__ = [
    "ENTROPY_BINS",
    "MILLION",
    "PROBABILITY_BINS",
    "SAMPLES",
    "DriftSignal",
    "MonitorRecord",
    "ResetCause",
    "Sample",
    "Shift",
    "join",
    "least_sure",
    "merge",
    "merged",
]
