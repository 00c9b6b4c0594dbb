"""From the records of a slice's stream to its `MonitorRecord`s. A pure function of records that leave the job anyway:
whoever has those can make it again.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from grpo_tta.pipeline.config.job import parse_duration
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.windows import SECOND
from grpo_tta.schemas import AdaptationLog, DeadLetter, DriftEvent, LabeledImage, MonitorRecord
from grpo_tta.schemas.monitor import ENTROPY_BINS, MILLION, PROBABILITY_BINS, SAMPLES, Sample, Shift

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = datetime.min.replace(tzinfo=UTC)
_Told = LabeledImage | AdaptationLog | DriftEvent | DeadLetter
_Key = tuple[str | None, datetime | None]


@dataclass
class _Stretch:
    """The records of one stream and stretch."""

    labels: list[LabeledImage]
    adaptation: list[AdaptationLog]
    drift: list[DriftEvent]
    dead_letters: list[DeadLetter]


@dataclass(frozen=True)
class MonitorMaker:
    """``seconds``: of a stretch of event time; stretches begin at multiples of it since the epoch."""

    seconds: int
    model_fingerprint: str
    method: str
    settings_fingerprint: str

    def records(
        self,
        labels: Iterable[LabeledImage] = (),
        adaptation: Iterable[AdaptationLog] = (),
        drift: Iterable[DriftEvent] = (),
        dead_letters: Iterable[DeadLetter] = (),
    ) -> list[MonitorRecord]:
        """One for each stream and stretch that has a record."""
        found: dict[_Key, _Stretch] = {}
        for label in labels:
            self._of(label, found).labels.append(label)
        for row in adaptation:
            self._of(row, found).adaptation.append(row)
        for event in drift:
            self._of(event, found).drift.append(event)
        for letter in dead_letters:
            self._of(letter, found).dead_letters.append(letter)
        return [self._record(stream, start, rows) for (stream, start), rows in found.items()]

    def _of(self, record: _Told, found: dict[_Key, _Stretch]) -> _Stretch:
        start = None if record.event_time is None else self._start(record.event_time)
        return found.setdefault((record.stream, start), _Stretch([], [], [], []))

    def _start(self, time: datetime) -> datetime:
        length = timedelta(seconds=self.seconds)
        try:
            return _EPOCH + (time - _EPOCH) // length * length
        except OverflowError:  # the first stretch of all began before there were years
            return _FIRST

    def _record(self, stream: str | None, start: datetime | None, rows: _Stretch) -> MonitorRecord:
        labels, frozen = rows.labels, [label for label in rows.labels if label.frozen_label is not None]
        everything: list[_Told] = [*labels, *rows.adaptation, *rows.drift, *rows.dead_letters]
        return MonitorRecord(
            stream=stream,
            bucket_start=start,
            bucket_seconds=self.seconds,
            coordinate=min(record.coordinate for record in everything),
            model_fingerprint=self.model_fingerprint,
            method=self.method,
            settings_fingerprint=self.settings_fingerprint,
            n=len(labels),
            late=sum(label.late for label in labels),
            unknown=sum(label.label != _best(label) for label in labels),
            ill=sum(label.ill for label in labels),
            frozen_n=len(frozen),
            agree=sum(label.frozen_label == _best(label) for label in frozen),
            updates=sum(not row.reset for row in rows.adaptation),
            resets=Counter(row.cause for row in rows.adaptation if row.cause is not None),
            drift=Counter(event.signal for event in rows.drift),
            dead_letters=Counter(f"{letter.stage}/{letter.error_class}" for letter in rows.dead_letters),
            probability=_histogram((label.probability for label in labels), PROBABILITY_BINS),
            entropy=_histogram((label.entropy for label in labels), ENTROPY_BINS),
            least_entropy=_histogram(map(_least_entropy, frozen), ENTROPY_BINS),
            labels=Counter(map(_best, labels)),
            frozen_probability=_histogram((label.frozen_probability for label in frozen), PROBABILITY_BINS),
            frozen_entropy=_histogram((label.frozen_entropy for label in frozen), ENTROPY_BINS),
            frozen_labels=Counter(str(label.frozen_label) for label in frozen),
            shifts=[_shift(event) for event in rows.drift if event.signal == "shift"],
            least_sure=_samples(heapq.nsmallest(SAMPLES, labels, key=lambda one: (_millionths(one), one.coordinate))),
        )


def monitor_of(job: ResolvedJob, model_fingerprint: str) -> MonitorMaker:
    """As a job is configured."""
    seconds = parse_duration(job.config.output.monitor) // SECOND
    return MonitorMaker(seconds, model_fingerprint, *job.config.method.kind())


def _best(label: LabeledImage) -> str:
    """The class, however unsure."""
    return label.top_k[0].label


def _millionths(label: LabeledImage) -> int:
    return round(label.probability * MILLION)


def _least_entropy(label: LabeledImage) -> float | None:
    if label.entropy is None or label.frozen_entropy is None:
        return None
    return min(label.entropy, label.frozen_entropy)


def _histogram(shares: Iterable[float | None], bins: int) -> Counter[int]:
    return Counter(min(int(share * bins), bins - 1) for share in shares if share is not None)


def _shift(event: DriftEvent) -> Shift:
    size = None if event.size is None else round(1000 * event.size)
    return Shift(event_time=event.event_time, coordinate=event.coordinate, thousandths=size, reset=event.reset)


def _samples(labels: Sequence[LabeledImage]) -> list[Sample]:
    return [Sample(coordinate=label.coordinate, label=_best(label), millionths=_millionths(label)) for label in labels]
