"""A stream's sums as columns: a row a stretch of event time, and rows added up to longer ones.

Many streams are held at once, so a record is kept as some numbers in buffers (`Packed`), and becomes a row of columns
(`Stretches`) when its stream is asked for. Parts of one stretch become one row.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grpo_tta.estimate import BROKEN
from grpo_tta.pipeline.watch.streams import cuts_of
from grpo_tta.schemas.monitor import ENTROPY_BINS, MILLION, PROBABILITY_BINS, MonitorRecord, Shift

Ints = NDArray[np.int64]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
TOTALS = ("n", "late", "ill", "frozen_n", "agree")
_SUMMED = (*TOTALS, "broken", "cuts")
HISTOGRAMS = {
    "probability": PROBABILITY_BINS,
    "frozen_probability": PROBABILITY_BINS,
    "entropy": ENTROPY_BINS,
    "least_entropy": ENTROPY_BINS,
    "frozen_entropy": ENTROPY_BINS,
}
LABELS = ("labels", "frozen_labels")
_COUNTED = (*HISTOGRAMS, *LABELS)
_LEAST = 4 + len(_SUMMED)
"""Column of a record's lowest probability, in millionths."""
_NONE = MILLION + 1
LEAST_SURE = 8
"""Images of a stream that are told by the files which hold them: no more records hold so many of the least sure."""
_LOOSE = 10_000
"""Counts of a stream that are held loose before they are packed."""


class _Numbers(dict[Any, int]):
    """Numbers for things, in the order in which they are first seen."""

    def __missing__(self, thing: Any) -> int:
        self[thing] = number = len(self)
        return number


class Renumbered(NamedTuple):
    """What the numbers of some `Names` are in others."""

    labels: Ints
    stems: Ints
    kinds: Ints


@dataclass(frozen=True)
class Names:
    """What all streams have in common, by number: labels, stems of files, and kinds of record (model, method, and its
    settings)."""

    labels: _Numbers = field(default_factory=_Numbers)
    stems: _Numbers = field(default_factory=_Numbers)
    kinds: _Numbers = field(default_factory=_Numbers)

    def numbers_of(self, other: "Names") -> Renumbered:
        """Of each thing that ``other`` has a number for, the one here."""
        pairs = ((self.labels, other.labels), (self.stems, other.stems), (self.kinds, other.kinds))
        return Renumbered(*(np.array([own[thing] for thing in theirs], np.int64) for own, theirs in pairs))


@dataclass(frozen=True)
class Stretches:
    """Sums over a stream's stretches, ``[R]`` in order of time, moments in microseconds since the epoch."""

    start: Ints
    end: Ints
    """Exclusive."""
    kind: Ints
    """Place in ``kinds``."""
    totals: Mapping[str, Ints]
    """Those of `TOTALS`; ``broken``: resets of an adaptation that had gone wrong; ``cuts``: all resets and shifts."""
    histograms: Mapping[str, Ints]
    """``[R, bins]``."""
    labels: Mapping[str, Ints]
    """``[R, L]``, of the served and of the frozen encoder."""
    names: Sequence[str]
    """The ``L`` labels."""
    kinds: Sequence[tuple[str, str, str]]

    def __len__(self) -> int:
        return len(self.start)

    def part(self, rows: Any) -> "Stretches":
        """Some of them."""
        return self._with(self.start[rows], self.end[rows], self.kind[rows], lambda column: column[rows])

    def joined(self, firsts: Sequence[int]) -> "Stretches":
        """Neighbours of one kind added up: a row for each of ``firsts``, the rows that begin one; 0 is the first."""
        if not firsts:
            return self.part([])
        at = np.array(firsts)
        ends = np.maximum.reduceat(self.end, at)
        return self._with(self.start[at], ends, self.kind[at], lambda column: np.add.reduceat(column, at, axis=0))

    def _with(self, start: Ints, end: Ints, kind: Ints, change: Callable[[Ints], Ints]) -> "Stretches":
        totals, histograms, labels = (
            {name: change(column) for name, column in columns.items()}
            for columns in (self.totals, self.histograms, self.labels)
        )
        return Stretches(start, end, kind, totals, histograms, labels, self.names, self.kinds)


class LabelFile(NamedTuple):
    """What a label file holds of one stream: the stretch of event time (first start, last end), and how many images."""

    start: datetime
    end: datetime
    images: int


class _Counts(NamedTuple):
    """Of some records, one histogram after another: filled bins, labels by number, and the counts of either."""

    bins: Any
    labels: Any
    counts: Any


class Unpacked(NamedTuple):
    """Of one stream: the stretches, the files that hold its images by their stems, dead letters by cause, shifts in
    order of time, and the stems of the files that hold the `LEAST_SURE` least sure images."""

    stretches: Stretches
    files: dict[str, LabelFile]
    dead: Counter[str]
    shifts: list[Shift]
    least_sure: list[str]


class Packed:
    """The records of one stream, each with the stem of its file; of its samples the lowest probability is kept."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._rows = array("q")
        self._loose = _Counts([], [], [])
        self._packed: list[_Counts] = []
        self._dead: list[tuple[int, Mapping[str, int]]] = []
        self._shifts: list[tuple[int, Shift]] = []

    def add(self, stem: str, record: MonitorRecord) -> int:
        """One that has a time; its end."""
        assert record.bucket_start is not None
        names, start = self._names, microseconds(record.bucket_start)
        end = start + record.bucket_seconds * 1_000_000
        counted = [getattr(record, name) for name in _COUNTED]
        if record.dead_letters:
            self._dead.append((end, record.dead_letters))
        self._shifts += [(end, shift) for shift in record.shifts]
        self._rows.extend(
            (
                start,
                end,
                names.kinds[record.model_fingerprint, record.method, record.settings_fingerprint],
                names.stems[stem],
                *[getattr(record, name) for name in TOTALS],
                sum(record.resets.get(cause, 0) for cause in BROKEN),
                cuts_of(record),
                record.least_sure[0].millionths if record.least_sure else _NONE,
                *map(len, counted),
            )
        )
        loose = self._loose
        for name, counts in zip(_COUNTED, counted, strict=True):
            if name in LABELS:
                loose.labels.extend(map(names.labels.__getitem__, counts))
            else:
                loose.bins.extend(counts)
            loose.counts.extend(counts.values())
        if len(loose.counts) > _LOOSE:
            self._pack()
        return end

    def _pack(self) -> None:
        self._packed.append(_Counts(*map(_smallest, self._loose)))
        self._loose = _Counts([], [], [])

    def absorb(self, other: "Packed", numbers: Renumbered) -> None:
        """The records of ``other``, whose names have these ``numbers`` here, behind its own."""
        self._pack()
        other._pack()
        rows = other._matrix()
        rows[:, 2], rows[:, 3] = numbers.kinds[rows[:, 2]], numbers.stems[rows[:, 3]]
        self._rows.frombytes(rows.tobytes())
        for block in other._packed:
            labels = numbers.labels[np.array(block.labels, np.int64)]
            self._packed.append(block._replace(labels=_smallest(labels.tolist())))
        self._dead += other._dead
        self._shifts += other._shifts

    def _matrix(self) -> Ints:
        return np.array(self._rows, np.int64).reshape(-1, _LEAST + 1 + len(_COUNTED))

    def unpack(self, since: datetime | None) -> "Unpacked":
        """Of what ends after ``since``."""
        after = -(2**63) if since is None else microseconds(since)
        rows = self._matrix()
        dead: Counter[str] = Counter()
        for end, letters in self._dead:
            if end > after:
                dead.update(letters)
        shifts = sorted((one for end, one in self._shifts if end > after), key=lambda one: one.event_time)
        shown = rows[:, 1] > after
        return Unpacked(
            self._stretches(rows, shown), self._files(rows[shown]), dead, shifts, self._least_sure(rows[shown])
        )

    def _least_sure(self, rows: Ints) -> list[str]:
        rows = rows[rows[:, _LEAST] < _NONE]
        stems = list(self._names.stems)
        return [stems[number] for number in rows[np.argsort(rows[:, _LEAST], kind="stable")][:LEAST_SURE, 3].tolist()]

    def _files(self, rows: Ints) -> dict[str, LabelFile]:
        rows = rows[rows[:, 4] > 0]
        rows = rows[np.argsort(rows[:, 3], kind="stable")]
        numbers, firsts = np.unique(rows[:, 3], return_index=True)
        if not len(firsts):
            return {}
        stems = list(self._names.stems)
        columns = (
            map(time_of, np.minimum.reduceat(rows[:, 0], firsts).tolist()),
            map(time_of, np.maximum.reduceat(rows[:, 1], firsts).tolist()),
            np.add.reduceat(rows[:, 4], firsts).tolist(),
        )
        return {stems[number]: LabelFile(*row) for number, *row in zip(numbers.tolist(), *columns, strict=True)}

    def _stretches(self, rows: Ints, shown: NDArray[np.bool_]) -> Stretches:
        kinds = list(self._names.kinds)
        rank = np.argsort(sorted(range(len(kinds)), key=kinds.__getitem__))
        order = np.lexsort((rank[rows[:, 2]], rows[:, 1], rows[:, 0], ~shown))[: shown.sum()]
        heads = rows[order, :3]
        new = np.ones(len(order), bool)
        new[1:] = (heads[1:] != heads[:-1]).any(1)
        firsts = np.flatnonzero(new)
        place = np.full(len(rows), -1)
        place[order] = np.cumsum(new) - 1
        totals = np.add.reduceat(rows[order, 4:_LEAST], firsts, axis=0) if len(firsts) else rows[:0, 4:]
        histograms, labels, names = self._tables(rows[:, -len(_COUNTED) :], place, len(firsts))
        start, end, kind = heads[firsts].T
        by_name = {name: totals[:, at] for at, name in enumerate(_SUMMED)}
        return Stretches(start, end, kind, by_name, histograms, labels, names, kinds)

    def _tables(self, lengths: Ints, place: Ints, count: int) -> tuple[dict[str, Ints], dict[str, Ints], list[str]]:
        """Counts by row and bin, or label. ``place``: the row of each record, -1 for none."""
        blocks = [*self._packed, self._loose]
        bins, labels, counts = (
            np.concatenate([np.array(one, np.int64) for one in part]) for part in zip(*blocks, strict=True)
        )
        owner = np.repeat(np.arange(lengths.size), lengths.ravel())
        row, what = place[owner // len(_COUNTED)], owner % len(_COUNTED)
        of_labels = what >= len(HISTOGRAMS)
        keys = np.empty(len(counts), np.int64)
        keys[~of_labels] = bins
        known, keys[of_labels] = np.unique(labels, return_inverse=True)
        sizes = {**HISTOGRAMS, **dict.fromkeys(LABELS, len(known))}
        tables = {}
        for number, name in enumerate(_COUNTED):
            own, size = (what == number) & (row >= 0), sizes[name]
            flat = np.bincount(row[own] * size + keys[own], counts[own], count * size)
            tables[name] = flat.astype(np.int64).reshape(count, size)
        all_labels = list(self._names.labels)
        names = [all_labels[number] for number in known.tolist()]
        return {name: tables[name] for name in HISTOGRAMS}, {name: tables[name] for name in LABELS}, names


def _smallest(numbers: Any) -> Any:
    """In as few bytes as hold them; none is negative. Trying is quicker than looking for the largest."""
    with suppress(ValueError):
        return array("B", bytes(numbers))
    with suppress(OverflowError):
        return array("I", numbers)
    return array("q", numbers)


def microseconds(time: datetime) -> int:
    """Since the epoch."""
    return (time - _EPOCH) // _MICROSECOND


def time_of(moment: int) -> datetime:
    """Of microseconds since the epoch, at most the last that there is."""
    return _EPOCH + min(moment, _LAST) * _MICROSECOND
