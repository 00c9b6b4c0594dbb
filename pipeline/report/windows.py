"""A stream's stretches joined to windows that say something, and the figures of each. Pure.

A window has at least `FEWEST_IMAGES` images where the stream has them, never crosses a shift, a reset or a change of
model, and there are at most `MOST_WINDOWS`: a page draws sums, not images.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grpo_tta.estimate import (
    AccuracyCalibration,
    Estimates,
    Figures,
    Unknown,
    bin_weights,
    classes_in_effect,
    estimates_of,
    foreign_to,
)
from grpo_tta.pipeline.report.stretches import Ints, Stretches, microseconds, time_of
from grpo_tta.pipeline.watch.streams import rows_of_newest
from grpo_tta.schemas import DriftEvent
from grpo_tta.schemas.monitor import PROBABILITY_BINS

FEWEST_IMAGES = 200
MOST_WINDOWS = 300
_Z = 1.6448536
_NO_MONITOR = Unknown("uncalibrated", "there is no monitor/ among the outputs, which holds what an estimate is made of")


@dataclass(frozen=True)
class StreamWindow:
    """One window: what its sums say and what is estimated of it."""

    start: datetime
    end: datetime
    """Of its last stretch."""
    n: int
    ill: int
    confidence: float | None
    """Mean probability; None for no image."""
    frozen_confidence: float | None
    agreement: float | None
    """Share of labels that are the frozen encoder's too; None where there is none."""
    classes: float
    """So many equally frequent classes are as varied as the labels."""
    estimates: Estimates
    answers: int = 0
    """Of people, that are in the estimate."""


class Windows(NamedTuple):
    """Of one stream, in order of time, and their labels by class: ``[W, L]``, and the ``L`` names. ``newest``: what the
    stream's state is made of; None without an image."""

    newest: StreamWindow | None
    shown: list[StreamWindow]
    labels: Ints
    names: Sequence[str]


Estimator = Callable[[Stretches], list[Estimates]]


def estimator(calibration: AccuracyCalibration | None, *, from_labels: bool) -> Estimator:
    """What makes estimates of rows; from labels alone it makes none."""
    if from_labels:
        return lambda rows: [Estimates(_NO_MONITOR, _NO_MONITOR, _NO_MONITOR)] * len(rows)
    return lambda rows: _estimates(rows, calibration)


def _estimates(rows: Stretches, calibration: AccuracyCalibration | None) -> list[Estimates]:
    """As `grpo_tta.estimate.estimate` makes them, of all rows at once."""
    foreign = [foreign_to(calibration, kind) for kind in rows.kinds]
    if calibration is None or all(foreign):
        return [Estimates(unknown, unknown, unknown) for unknown in (foreign[kind] for kind in rows.kind) if unknown]
    totals, frozen = rows.totals, calibration.frozen
    columns = (
        *_under(rows.histograms[calibration.score], calibration.adapted.threshold),
        _classes(rows.labels["labels"]),
        *_under(rows.histograms["frozen_entropy"], 0.0 if frozen is None else frozen.threshold),
        _classes(rows.labels["frozen_labels"]),
        (totals["agree"] / np.maximum(totals["n"], 1)).tolist(),
        (totals["frozen_n"] >= totals["n"]).tolist(),
        totals["ill"].tolist(),
        totals["broken"].tolist(),
    )
    made = []
    for kind, *figures in zip(rows.kind.tolist(), *columns, strict=True):
        unknown = foreign[kind]
        made.append(
            estimates_of(Figures(*figures), calibration) if unknown is None else Estimates(unknown, unknown, unknown)
        )
    return made


def _under(histograms: Ints, threshold: float) -> tuple[list[int], list[float]]:
    """Images, and their share under a threshold; row by row."""
    totals = histograms.sum(1)
    return totals.tolist(), (histograms @ np.array(bin_weights(threshold)) / np.maximum(totals, 1)).tolist()


def _classes(labels: Ints) -> list[float]:
    """In effect, row by row."""
    sums = zip(labels.sum(1).tolist(), (labels * labels).sum(1).tolist(), strict=True)
    return [classes_in_effect(total, squares) for total, squares in sums]


def windows_of(stretches: Stretches, drift: Sequence[DriftEvent], estimates: Estimator) -> Windows:
    """In order of time; a stretch without an image is in none."""
    shown = stretches.part(stretches.totals["n"] > 0)
    images = shown.totals["n"].tolist()
    wanted = max(FEWEST_IMAGES, math.ceil(sum(images) / MOST_WINDOWS))
    runs = _runs(shown, [microseconds(event.event_time) for event in drift if event.signal == "shift" or event.reset])
    most = max(1, MOST_WINDOWS // max(len(runs), 1))
    rows = shown.joined([first for run in runs for first in _groups(run, images, wanted, most)])
    newest = _figures(_newest(stretches), estimates) if images else [None]
    return Windows(newest[0], _figures(rows, estimates), rows.labels["labels"], rows.names)


def _newest(rows: Stretches) -> Stretches:
    """The newest window, by the rule of a live job."""
    columns = (rows.kind, rows.totals["n"], rows.totals["cuts"])
    count = rows_of_newest(zip(*(column[::-1].tolist() for column in columns), strict=True))
    return rows.part(slice(len(rows) - count, None)).joined([0])


def _figures(rows: Stretches, estimates: Estimator) -> list[StreamWindow]:
    totals = rows.totals
    columns = (
        map(time_of, rows.start.tolist()),
        map(time_of, rows.end.tolist()),
        totals["n"].tolist(),
        totals["ill"].tolist(),
        mean_probability(rows.histograms["probability"]),
        mean_probability(rows.histograms["frozen_probability"]),
        _shares(totals["agree"], totals["frozen_n"]),
        _classes(rows.labels["labels"]),
        estimates(rows),
    )
    return [StreamWindow(*row) for row in zip(*columns, strict=True)]


def _runs(rows: Stretches, cuts: Sequence[int]) -> list[range]:
    """Rows of one model between two cuts; the row in which a cut lies, or the next one, begins a run."""
    if not len(rows):
        return []
    new = rows.kind[1:] != rows.kind[:-1]
    for at in cuts:
        new |= (rows.start[:-1] < at) & ((rows.start[1:] <= at) | (rows.end[:-1] <= at)) & (at < rows.end[1:])
    firsts = [0, *(np.flatnonzero(new) + 1).tolist(), len(rows)]
    return [range(first, stop) for first, stop in pairwise(firsts)]


def _groups(run: range, images: Sequence[int], wanted: int, most: int) -> list[int]:
    """The first rows of neighbours that are joined until they have ``wanted`` images; what is left over at the end
    joins the last."""
    wanted = max(wanted, math.ceil(sum(images[run.start : run.stop]) / most))
    firsts, held = [run.start], 0
    for row in run:
        if held >= wanted:
            firsts.append(row)
            held = 0
        held += images[row]
    if len(firsts) > 1 and 2 * held < wanted:
        firsts.pop()
    return firsts


def mean_probability(histograms: Ints) -> list[float | None]:
    """Row by row of histograms of twentieths, every image counted as the middle of its bin; None for none."""
    return _shares(histograms @ (np.arange(PROBABILITY_BINS) + 0.5) / PROBABILITY_BINS, histograms.sum(1))


def _shares(parts: NDArray[np.float64] | Ints, totals: Ints) -> list[float | None]:
    pairs = zip(parts.tolist(), totals.tolist(), strict=True)
    return [part / total if total else None for part, total in pairs]


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
    A label is named where one so wide that all labels' hold together in 90 % of cases (Bonferroni) leaves out 0.
    """
    n, m = sum(before.values()), sum(after.values())
    if not n or not m:
        return []
    found, labels = [], sorted(label for label in before.keys() | after.keys() if before.get(label) or after.get(label))
    z_of_all = NormalDist().inv_cdf(1 - 0.05 / len(labels))
    for label in labels:
        one, other = before.get(label, 0), after.get(label, 0)
        p, q = (one + 1) / (n + 2), (other + 1) / (m + 2)
        deviation = math.sqrt(p * (1 - p) / (n + 2) + q * (1 - q) / (m + 2))
        half = _Z * deviation
        if abs(q - p) > z_of_all * deviation:
            found.append(Change(label, one / n, other / m, other / m - one / n, q - p - half, q - p + half))
    return sorted(found, key=lambda change: (-abs(change.change), change.label))[:most]


def label_mix(
    windows: Windows, most_labels: int = 10, most_columns: int = 60
) -> tuple[list[str], list[tuple[datetime, timedelta, list[float]]]]:
    """The most frequent labels and ``the rest``, and for some neighbouring windows together the share of each."""
    shown, totals = windows.shown, windows.labels.sum(0).tolist()
    known = [at for at, total in enumerate(totals) if total]
    first = sorted(known, key=lambda at: (-totals[at], windows.names[at]))[:most_labels]
    columns = []
    step = math.ceil(len(shown) / most_columns) or 1
    for at in range(0, len(shown), step):
        counts = windows.labels[at : at + step].sum(0)
        shares = (counts[first] / max(int(counts.sum()), 1)).tolist()
        last = shown[min(at + step, len(shown)) - 1]
        columns.append((shown[at].start, last.end - shown[at].start, [*shares, max(0.0, 1 - sum(shares))]))
    names = [windows.names[at] for at in first]
    return ([*names, "the rest"] if len(known) > len(names) else names), columns
