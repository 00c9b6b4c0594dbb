"""A stream's stretches joined to windows that say something, and the figures of each. Pure.

A window has at least `FEWEST_IMAGES` images where the stream has them, never crosses a shift, a reset or a change of
model, and there are at most `MOST_WINDOWS`: a page draws sums, not images.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from grpo_tta.estimate import (
    AccuracyCalibration,
    Estimates,
    Unknown,
    effective_classes,
    estimate,
)
from grpo_tta.pipeline.report.read import end_of, start_of
from grpo_tta.schemas import DriftEvent
from grpo_tta.schemas.monitor import PROBABILITY_BINS, MonitorRecord, join

FEWEST_IMAGES = 200
MOST_WINDOWS = 300
_Z = 1.6448536
_NO_MONITOR = Unknown("uncalibrated", "there is no monitor/ among the outputs, which holds what an estimate is made of")


@dataclass(frozen=True)
class StreamWindow:
    """One window: its sums and what is estimated of it."""

    record: MonitorRecord
    estimates: Estimates

    @property
    def start(self) -> datetime:
        """Of its first stretch."""
        return start_of(self.record)

    @property
    def end(self) -> datetime:
        """Of its last stretch."""
        return end_of(self.record)


Estimator = Callable[[MonitorRecord], Estimates]


def estimator(calibration: AccuracyCalibration | None, *, from_labels: bool) -> Estimator:
    """What makes estimates of windows; from labels alone it makes none."""
    if from_labels:
        return lambda record: Estimates(_NO_MONITOR, _NO_MONITOR, _NO_MONITOR)
    return lambda record: estimate(record, calibration)


def windows_of(
    records: Sequence[MonitorRecord], drift: Sequence[DriftEvent], estimates: Estimator
) -> list[StreamWindow]:
    """In order of time; a stretch without an image is in none."""
    shown = [record for record in records if record.n]
    wanted = max(FEWEST_IMAGES, math.ceil(sum(record.n for record in shown) / MOST_WINDOWS))
    cuts = [event.event_time for event in drift if event.signal == "shift" or event.reset]
    runs = _runs(shown, cuts)
    most = max(1, MOST_WINDOWS // max(len(runs), 1))
    groups = [group for run in runs for group in _groups(run, wanted, most)]
    joined = [group[0] if len(group) == 1 else join(group) for group in groups]
    return [StreamWindow(record, estimates(record)) for record in joined]


def _runs(records: Sequence[MonitorRecord], cuts: Sequence[datetime]) -> list[list[MonitorRecord]]:
    """Stretches of one model between two cuts; the stretch in which a cut lies begins a run."""
    runs: list[list[MonitorRecord]] = []
    for before, record in pairwise([None, *records]):
        assert record is not None
        cut = before is None or before.key[3:] != record.key[3:]
        if before is not None:
            cut = cut or any(start_of(before) < at and start_of(record) <= at < end_of(record) for at in cuts)
        if cut:
            runs.append([])
        runs[-1].append(record)
    return runs


def _groups(run: Sequence[MonitorRecord], wanted: int, most: int) -> list[list[MonitorRecord]]:
    """Neighbours joined until they have ``wanted`` images; what is left over at the end joins the last."""
    wanted = max(wanted, math.ceil(sum(record.n for record in run) / most))
    groups: list[list[MonitorRecord]] = [[]]
    for record in run:
        if sum(one.n for one in groups[-1]) >= wanted:
            groups.append([])
        groups[-1].append(record)
    if len(groups) > 1 and 2 * sum(one.n for one in groups[-1]) < wanted:
        left = groups.pop()
        groups[-1] += left
    return groups


def mean_probability(histogram: Mapping[int, int]) -> float | None:
    """Of a histogram of twentieths, every image counted as the middle of its bin; None for none."""
    total = sum(histogram.values())
    return sum((at + 0.5) / PROBABILITY_BINS * n for at, n in histogram.items()) / total if total else None


def agreement(record: MonitorRecord) -> float | None:
    """Share of labels that are the frozen encoder's too; None where there is none."""
    return record.agree / record.frozen_n if record.frozen_n else None


def classes_in_effect(record: MonitorRecord) -> float:
    """So many equally frequent classes are as varied as the labels."""
    return effective_classes(record.labels)


@dataclass(frozen=True)
class Change:
    """A label's share before and after, and the difference with its 90 % interval: shares."""

    label: str
    before: float
    after: float
    change: float
    low: float
    high: float


def changes(before: Mapping[str, int], after: Mapping[str, int], most: int = 10) -> list[Change]:
    """Labels whose share changed by more than chance, the largest change first.

    The interval is Agresti and Caffo's of a difference of two shares, which adds an image of either kind to each side.
    """
    n, m = sum(before.values()), sum(after.values())
    if not n or not m:
        return []
    found = []
    for label in sorted(before.keys() | after.keys()):
        one, other = before.get(label, 0), after.get(label, 0)
        p, q = (one + 1) / (n + 2), (other + 1) / (m + 2)
        half = _Z * math.sqrt(p * (1 - p) / (n + 2) + q * (1 - q) / (m + 2))
        if abs(q - p) > half:
            found.append(Change(label, one / n, other / m, other / m - one / n, q - p - half, q - p + half))
    return sorted(found, key=lambda change: (-abs(change.change), change.label))[:most]


def label_mix(
    windows: Sequence[StreamWindow], most_labels: int = 10, most_columns: int = 60
) -> tuple[list[str], list[tuple[datetime, timedelta, list[float]]]]:
    """The most frequent labels and ``the rest``, and for some neighbouring windows together the share of each."""
    total: dict[str, int] = {}
    for window in windows:
        for label, n in window.record.labels.items():
            total[label] = total.get(label, 0) + n
    names = sorted(total, key=lambda label: (-total[label], label))[:most_labels]
    step = math.ceil(len(windows) / most_columns) if windows else 1
    columns = []
    for at in range(0, len(windows), step):
        group = windows[at : at + step]
        counts = [sum(one.record.labels.get(name, 0) for one in group) for name in names]
        n = sum(sum(one.record.labels.values()) for one in group)
        shares = [count / n for count in counts] if n else [0.0] * len(names)
        columns.append((group[0].start, group[-1].end - group[0].start, [*shares, max(0.0, 1 - sum(shares))]))
    return ([*names, "the rest"] if len(total) > len(names) else names), columns
