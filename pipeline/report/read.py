"""What a job's outputs hold of each stream: sums by stretches of event time, drift events, dead letters.

The sums are the records of ``monitor/``, or are made of ``labels/`` where there is no ``monitor/``; those have no
entropies, so that no accuracy is estimated of them. Records of all streams lie mixed in files, one a slice; they are
held packed, and a stream's are unpacked when it is asked for, so that many streams take little memory.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import read_file, read_records
from grpo_tta.pipeline.report.stretches import LabelFile, Packed, Stretches, time_of
from grpo_tta.pipeline.report.sums import MONITOR, Sums, read_sums, stem_of
from grpo_tta.schemas import DeadLetter, DriftEvent, LabeledImage
from grpo_tta.schemas.monitor import (
    MILLION,
    PROBABILITY_BINS,
    MonitorRecord,
    Sample,
    Shift,
    least_sure,
)

LABELS = "labels"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = datetime.min.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STRETCHES = 300
_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)


@dataclass
class Cause:
    """Dead letters of one stage and error class: how many, and one of them."""

    name: str
    count: int
    example: DeadLetter | None = None


@dataclass
class StreamOutputs:
    """Of one stream, in order of time. ``files``: the label files that hold its images, by their stems."""

    name: str
    stretches: Stretches
    drift: list[DriftEvent]
    dead: list[Cause]
    files: dict[str, LabelFile]
    shifts: list[Shift]
    """As ``monitor/`` tells them."""
    least_sure: list[str] = field(default_factory=list)
    """Stems of the label files that hold the least sure images."""

    @property
    def images(self) -> int:
        """Labelled."""
        return int(self.stretches.totals["n"].sum())

    @property
    def last(self) -> datetime | None:
        """The end of the last stretch with an image."""
        ends = self.stretches.end[self.stretches.totals["n"] > 0]
        return time_of(int(ends.max())) if len(ends) else None


@dataclass
class Outputs:
    """A job's outputs, opened by `read_outputs`."""

    url: str
    from_labels: bool
    since: datetime | None
    newest: datetime | None
    """The end of the last stretch with an image, of all streams."""
    now: datetime
    """In event time: ``newest``, and for a job that has not ended the time since it last wrote."""
    kinds: Sequence[tuple[str, str, str]]
    """Model, method and its settings, of all records."""
    unplaced: list[Cause]
    """Dead letters that know no stream."""
    _packed: dict[str, Packed] = field(default_factory=dict)
    _drift: dict[str, list[DriftEvent]] = field(default_factory=dict)
    _examples: dict[tuple[str, str], DeadLetter] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of all streams, sorted."""
        return sorted(self._packed)

    def parts(self, streams: int) -> list["Outputs"]:
        """The same of so many streams each; dead letters that know none are in all of them."""
        names = self.names
        examples: dict[str, dict[tuple[str, str], DeadLetter]] = defaultdict(dict)
        for key, letter in self._examples.items():
            examples[key[0]][key] = letter
        return [
            replace(
                self,
                _packed={name: self._packed[name] for name in run},
                _drift={name: self._drift[name] for name in run if name in self._drift},
                _examples={key: letter for name in run for key, letter in examples[name].items()},
            )
            for run in (names[at : at + streams] for at in range(0, len(names), streams))
        ]

    def stream(self, name: str) -> StreamOutputs:
        """One stream's outputs since ``since``."""
        found = self._packed[name].unpack(self.since)
        drift = [one for one in self._drift.get(name, ()) if self.since is None or one.event_time >= self.since]
        dead = self._causes(name, found.dead)
        return StreamOutputs(name, found.stretches, drift, dead, found.files, found.shifts, found.least_sure)

    def _causes(self, stream: str, counts: Counter[str]) -> list[Cause]:
        return [Cause(name, count, self._examples.get((stream, name))) for name, count in counts.most_common()]


def read_outputs(url: str, since: datetime | timedelta | None = None, readers: int = 1) -> Outputs:
    """Everything but the labels themselves. ``since``: what ended before is left out; a duration counts back from the
    newest image. ``readers``: as for `read_sums`. Raises ValueError naming a file and line that is no such record."""
    store = ObjectStore(url)
    from_labels = not store.names(f"{MONITOR}/")
    sums = _sums_of_labels(store) if from_labels else read_sums(store, readers)
    newest = sums.newest
    last = None if newest is None else time_of(newest)
    begin = last - min(since, last - _FIRST) if isinstance(since, timedelta) and last is not None else since
    begin = begin if isinstance(begin, datetime) else None
    now = time_of((newest or 0) + _idle(store, LABELS if from_labels else MONITOR) // _MICROSECOND)
    made = Outputs(url, from_labels, begin, last, now, list(sums.names.kinds), [], sums.streams)
    for event in read_records(url, "drift", DriftEvent):
        made._drift.setdefault(event.stream, []).append(event)
    for events in made._drift.values():
        events.sort(key=lambda event: (event.event_time, event.frame))
    for letter in read_records(url, "dead_letters", DeadLetter):
        made._examples.setdefault((letter.stream or "", f"{letter.stage}/{letter.error_class}"), letter)
    made.unplaced = made._causes("", sums.unplaced)
    return made


def finished(store: ObjectStore) -> bool:
    """Whether the job has written that it has come to its end; a live one has none."""
    try:
        return b'"finished": true' in store.read("summary.json")
    except FileNotFoundError:
        return False


def _idle(store: ObjectStore, folder: str) -> timedelta:
    """How long the job has written nothing; nothing of one that has ended. Of each writer the newest file is asked."""
    names = store.names(f"{folder}/")
    if not names or finished(store):
        return timedelta(0)
    day = names[-1].rpartition("/")[0]
    newest = {name.rpartition("-")[0]: name for name in names if name.rpartition("/")[0] == day}
    return max(datetime.now(UTC) - max(map(store.modified, newest.values())), timedelta(0))


def _sums_of_labels(store: ObjectStore) -> Sums:
    sums = Sums()
    for stem, record in _of_labels(store):
        sums.add(stem, record)
    return sums


def _of_labels(store: ObjectStore) -> Iterator[tuple[str, MonitorRecord]]:
    """The same sums, of what labels and dead letters hold."""
    seconds, model, method = _survey(store)
    for name in store.names(f"{LABELS}/"):
        parts: dict[tuple[str, datetime], list[LabeledImage]] = defaultdict(list)
        for label in read_file(store, name, LabeledImage):
            parts[label.stream, _bucket(label.event_time, seconds)].append(label)
        for (stream, start), labels in parts.items():
            yield stem_of(name), _summed(stream, start, seconds, labels)
    for event in read_records(store.url, "drift", DriftEvent):
        size = None if event.size is None else round(1000 * event.size)
        shift = Shift(event_time=event.event_time, coordinate=event.coordinate, thousandths=size, reset=event.reset)
        yield (
            "",
            MonitorRecord(
                stream=event.stream,
                bucket_start=_bucket(event.event_time, seconds),
                bucket_seconds=seconds,
                coordinate=event.coordinate,
                model_fingerprint=event.model_fingerprint,
                method=event.method,
                settings_fingerprint="",
                resets={event.signal: 1} if event.reset else {},
                shifts=[shift] if event.signal == "shift" else [],
            ),
        )
    for letter in read_records(store.url, "dead_letters", DeadLetter):
        placed = letter.stream is not None and letter.event_time is not None
        yield (
            "",
            MonitorRecord(
                stream=letter.stream if placed else None,
                bucket_start=_bucket(letter.event_time, seconds) if placed and letter.event_time else None,
                bucket_seconds=seconds,
                coordinate=letter.coordinate,
                model_fingerprint=model,
                method=method,
                settings_fingerprint="",
                dead_letters={f"{letter.stage}/{letter.error_class}": 1},
            ),
        )


def _survey(store: ObjectStore) -> tuple[int, str, str]:
    """Seconds of a stretch, so that some hundreds cover all labels; model and method of the last label."""
    first = last = None
    model = method = ""
    for name in store.names(f"{LABELS}/"):
        for label in read_file(store, name, LabeledImage):
            first = label.event_time if first is None else min(first, label.event_time)
            last = label.event_time if last is None else max(last, label.event_time)
            model, method = label.model_fingerprint, label.method
    span = (last - first).total_seconds() if first is not None and last is not None else 0.0
    return next((step for step in _STEPS if step * _STRETCHES >= span), _STEPS[-1]), model, method


def _bucket(time: datetime, seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=(time - _EPOCH) // timedelta(seconds=seconds) * seconds)


def _histogram(values: Iterable[float]) -> dict[int, int]:
    return Counter(min(int(value * PROBABILITY_BINS), PROBABILITY_BINS - 1) for value in values)


def _summed(stream: str, start: datetime, seconds: int, labels: list[LabeledImage]) -> MonitorRecord:
    frozen = [label for label in labels if label.frozen_label is not None]
    samples = [
        Sample(coordinate=label.coordinate, label=best_of(label), millionths=round(label.probability * MILLION))
        for label in labels
    ]
    return MonitorRecord(
        stream=stream,
        bucket_start=start,
        bucket_seconds=seconds,
        coordinate=min(label.coordinate for label in labels),
        model_fingerprint=labels[0].model_fingerprint,
        method=labels[0].method,
        settings_fingerprint="",
        n=len(labels),
        late=sum(label.late for label in labels),
        unknown=sum(label.label != best_of(label) for label in labels),
        frozen_n=len(frozen),
        agree=sum(best_of(label) == label.frozen_label for label in frozen),
        probability=_histogram(label.probability for label in labels),
        labels=dict(Counter(map(best_of, labels))),
        frozen_probability=_histogram(label.frozen_probability or 0.0 for label in frozen),
        frozen_labels=dict(Counter(label.frozen_label or "" for label in frozen)),
        least_sure=least_sure(samples),
    )


def best_of(label: LabeledImage) -> str:
    """The best class, however unsure."""
    return label.top_k[0].label if label.top_k else label.label
