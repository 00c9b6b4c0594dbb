"""What the rows of a table over sets, corruptions and seeds say: for each method the gain over the frozen encoder, in
all and by part, the first method against its best rival, and bars. Nothing is measured here.

Every cell counts once. Intervals draw classes for all cells at once (`joint_interval`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Bar
from grpo_tta.bench.models import DEMO_SET
from grpo_tta.bench.rows import Outcome, Row, RowFile, key_of
from grpo_tta.bench.run import BASE
from grpo_tta.bench.tables import own_cost
from grpo_tta.evaluation.cells import ResetRule
from grpo_tta.evaluation.corruptions import CORRUPTIONS, DEVELOPMENT
from grpo_tta.evaluation.measures import joint_interval
from grpo_tta.pipeline.cli.columns import print_columns
from grpo_tta.pipeline.errors import JobError

SETTING = ("settings", "batch_size", "model", "guard")
STREAMS = ("null", "steady")
NATURAL = ("null", "few-classes-6", "few-classes-20", "few-classes-40")
"""Clean frames, all classes and some: what is shifted is the hand that drew them. Each seed draws other classes."""
FIFTHS = ("first fifth", "second", "third", "fourth", "last")
HARM, BEHIND = -0.01, -0.005
"""No cell may lose more than this against the frozen encoder; no family, and not the first fifth, against the best
rival."""
WHITENED = "whitened"
"""What grpo learns from: no rival, but a row of every table."""
RESETS: ResetRule = "none"
"""The guard is measured on streams of its own: here every condition lasts, and no reset helps or harms a method."""

Run = tuple[str, str, int, int]
"""Set, corruption, severity, seed."""
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A difference of shares, with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.mean:+.2f} ({100 * self.low:+.1f} {100 * self.high:+.1f})"


@dataclass(frozen=True)
class Results:
    """Methods over the runs that all of them have; arrays are ``[runs, classes]``."""

    runs: list[Run]
    rows: dict[str, list[Row]]
    counts: NDArray[np.int64]
    right: dict[str, Floats]
    frozen: dict[str, Floats]
    along: Sequence["Results"] = ()
    """Of each fifth of the frames, in their order; nothing of runs that are too short."""

    @cached_property
    def shifted(self) -> Bools:
        """The runs with a corruption, ``[runs]``."""
        return np.array([run[1] != "clean" for run in self.runs], dtype=bool)

    @cached_property
    def cells(self) -> dict[str, Bools]:
        """The runs of each shifted cell: its seeds."""
        names = np.array([f"{name}, {kind}:{severity}" for name, kind, severity, _ in self.runs])
        return {str(name): names == name for name in dict.fromkeys(names[self.shifted])}

    def mean(self, label: str, column: str, where: Bools) -> float:
        """Of a column of the rows."""
        return float(np.mean([row[column] for row, own in zip(self.rows[label], where, strict=True) if own]))

    def cost(self, label: str) -> float:
        """Forward-equivalents an image of its own."""
        return float(np.mean([own_cost(row) for row in self.rows[label]]))

    def gain(self, label: str, where: Bools) -> Estimate:
        """Over the frozen encoder."""
        return self._estimate(self.right[label] - self.frozen[label], where)

    def ahead(self, label: str, rival: str, where: Bools) -> Estimate:
        """Of ``rival``, frame by frame."""
        return self._estimate(self.right[label] - self.right[rival], where)

    def _estimate(self, sums: Floats, where: Bools) -> Estimate:
        sums, counts = sums[where], self.counts[where]
        return Estimate(float((sums.sum(1) / counts.sum(1)).mean()), *joint_interval(sums, counts))

    def below(self, label: str) -> dict[str, Estimate]:
        """The shifted cells, seeds together, whose gain may be under ``HARM``."""
        gains = {name: self.gain(label, where) for name, where in self.cells.items()}
        return {name: gain for name, gain in gains.items() if gain.low < HARM}


def family(corruption: str) -> str:
    """The four extra kinds are a family of their own."""
    if corruption not in CORRUPTIONS:
        return corruption
    kind = CORRUPTIONS[corruption]
    return "extra" if kind.extra else kind.family


def load(rows: RowFile) -> list[Results]:
    """Methods that were measured over as many frames and seeds a cell as grpo, then the others, by both; those with as
    many frames but fewer seeds stand beside grpo again.

    Of each method only rows of its last setting count. Raises `JobError` where there is no row of grpo, rows lack their
    frames, or methods have no run in common.
    """
    kept = _kept(rows, STREAMS)
    if all(label != BASE for label, _ in kept):
        raise JobError(f"the rows hold none of {BASE} on streams {' and '.join(STREAMS)} with resets by {RESETS}")
    sizes = {measured: (measured[1], _seeds(own)) for measured, own in kept.items()}
    bases = sorted((measured for measured in kept if measured[0] == BASE), key=lambda one: -len(kept[one]))
    tables = []
    for frames, seeds in dict.fromkeys([*(sizes[base] for base in bases), *sizes.values()]):
        labels = [label for label, own in kept if sizes[label, own] == (frames, seeds)]
        if BASE not in labels and (BASE, frames) in kept:
            labels = [BASE, *labels]
        tables.append(_joined({label: kept[label, frames] for label in labels}, rows))
    return tables


def _seeds(runs: Mapping[Run, Row]) -> int:
    """The most that a cell has."""
    return max(Counter(run[:3] for run in runs).values())


def natural(rows: RowFile) -> Results | None:
    """Clean frames by how many classes are asked for, that as the kind of shift: methods that were measured on all of
    ``NATURAL``; ``None`` where grpo was not."""
    kept: dict[str, dict[Run, Row]] = {}
    for stream in NATURAL:
        for (label, _), runs in _kept(rows, [stream]).items():
            kept.setdefault(label, {}).update({(run[0], stream, 0, run[3]): row for run, row in runs.items()})
    whole = {label: runs for label, runs in kept.items() if {run[1] for run in runs} >= set(NATURAL)}
    if BASE not in whole:
        return None
    return _joined(whole, rows, apart=True)


def _kept(rows: RowFile, streams: Sequence[str]) -> dict[tuple[str, int], dict[Run, Row]]:
    """The rows on these streams by method and number of frames, of each its last setting."""
    some = [row for row in rows if row["resets_by"] == RESETS and row["stream"] in streams]
    last = {(row["method"], row["frames"]): [row[name] for name in SETTING] for row in some}
    kept: dict[tuple[str, int], dict[Run, Row]] = {measured: {} for measured in last}
    for row in some:
        measured = row["method"], row["frames"]
        if [row[name] for name in SETTING] == last[measured]:
            kept[measured][_run(row)] = row
    return kept


def _run(row: Row) -> Run:
    return row["data"].removeprefix("demo:").partition(":")[0], row["corruption"], row["severity"], row["seed"]


def _joined(kept: Mapping[str, Mapping[Run, Row]], rows: RowFile, *, apart: bool = False) -> Results:
    """Of the runs that all have. ``apart``: classes of one number are others in each run of few classes."""
    runs = sorted(set.intersection(*(set(own) for own in kept.values())))
    if not runs:
        raise JobError(f"no cell was measured with all of {', '.join(kept)}")
    outcomes = {label: [_outcome(rows, own[run]) for run in runs] for label, own in kept.items()}
    first, *_ = outcomes.values()
    for label, own in outcomes.items():
        if any(not np.array_equal(one.labels, two.labels) for one, two in zip(first, own, strict=True)):
            raise JobError(f"{label} was measured on other frames than {next(iter(outcomes))}")
    if apart:
        outcomes = {label: _apart(runs, own) for label, own in outcomes.items()}
    rows_of = {label: [own[run] for run in runs] for label, own in kept.items()}
    parts = range(len(FIFTHS) if all(len(outcome.labels) >= len(FIFTHS) for outcome in first) else 0)
    fifths = [{label: [_fifth(one, part) for one in own] for label, own in outcomes.items()} for part in parts]
    whole, *along = (_summed(runs, rows_of, some) for some in (outcomes, *fifths))
    return replace(whole, along=along)


def _apart(runs: Sequence[Run], outcomes: Sequence[Outcome]) -> list[Outcome]:
    made, shift = [], 1 + max(int(outcome.labels.max()) for outcome in outcomes)
    for number, (run, outcome) in enumerate(zip(runs, outcomes, strict=True), start=1):
        made.append(replace(outcome, labels=outcome.labels + (0 if run[1] == "null" else number * shift)))
    return made


def _fifth(outcome: Outcome, number: int) -> Outcome:
    size = len(outcome.labels)
    part = slice(number * size // len(FIFTHS), (number + 1) * size // len(FIFTHS))
    return replace(
        outcome, labels=outcome.labels[part], right=outcome.right[part], frozen_right=outcome.frozen_right[part]
    )


def _summed(runs: list[Run], rows: dict[str, list[Row]], outcomes: Mapping[str, Sequence[Outcome]]) -> Results:
    first, *_ = outcomes.values()
    classes = 1 + max(int(outcome.labels.max()) for outcome in first)

    def sums(own: Sequence[Outcome], column: str) -> Floats:
        return np.stack([np.bincount(o.labels, getattr(o, column), minlength=classes) for o in own])

    return Results(
        runs=runs,
        rows=rows,
        counts=np.stack([np.bincount(outcome.labels, minlength=classes) for outcome in first]),
        right={label: sums(own, "right") for label, own in outcomes.items()},
        frozen={label: sums(own, "frozen_right") for label, own in outcomes.items()},
    )


def _outcome(rows: RowFile, row: Row) -> Outcome:
    outcome = rows.outcome(key_of(row))
    if outcome is None:
        raise JobError(f"rows of {row['method']} lack their frames: keep the folder .frames beside the file")
    return outcome


def parts_of(results: Results) -> dict[str, dict[str, Bools]]:
    """Tables of parts of the shifted runs, and one of clean ones; what has no run is left out."""
    shifted = results.shifted
    sets, severities = np.array([run[0] for run in results.runs]), np.array([run[2] for run in results.runs])
    families = np.array([family(run[1]) for run in results.runs])
    seen = np.array([run[0] == DEMO_SET and run[1] in DEVELOPMENT for run in results.runs])
    names, kinds = np.unique(sets).tolist(), dict.fromkeys(family(kind) for kind in CORRUPTIONS)
    made = {
        "by family": {kind: families == kind for kind in kinds},
        "by set": {name: shifted & (sets == name) for name in names},
        "by severity": {f"severity {number}": shifted & (severities == number) for number in range(1, 6)},
        "on development and held-out data": {"development": shifted & seen, "held out": shifted & ~seen},
        "on clean frames": {name: ~shifted & (sets == name) for name in names},
    }
    some = {title: {name: where for name, where in parts.items() if where.any()} for title, parts in made.items()}
    return {title: parts for title, parts in some.items() if parts}


def best_rival(results: Results) -> str | None:
    """The method with the highest mean over the shifted runs, of those that cost no more than grpo and are not it."""
    most = results.cost(BASE) + 1e-6
    own = (BASE, WHITENED)
    rivals = [label for label in results.rows if not label.startswith(own) and results.cost(label) <= most]
    where = results.shifted
    return max(rivals, key=lambda label: results.mean(label, "accuracy", where), default=None)


def report(rows: RowFile) -> tuple[list[Bar], dict[str, Any]]:
    """Print the tables; the bars, and all figures as JSON takes them."""
    main, *others = load(rows)
    frames = main.rows[BASE][0]["frames"]
    tables = [main, *(other for other in others if BASE in other.rows and other.rows[BASE][0]["frames"] == frames)]
    if not main.shifted.any():
        raise JobError("the rows hold no shifted cell")
    details: dict[str, Any] = {"methods": _overview(main), "gain": {}}
    for title, parts in parts_of(main).items():
        details["gain"][title] = _by_part(main, title, {name: (main, where) for name, where in parts.items()})
    fifths = {name: (part, part.shifted) for name, part in zip(FIFTHS, main.along, strict=False)}
    details["gain"]["along the runs"] = _by_part(main, "along the runs", fifths)
    for label in main.rows:
        details["methods"][label]["below"] = {name: vars(gain) for name, gain in main.below(label).items()}
    print(f"\nshifted cells where {BASE} may lose more than {-100 * HARM:g} point")
    for name, gain in main.below(BASE).items():
        print(f"  {name}: {gain}")
    for other in others:
        details.setdefault("others", []).append(_overview(other))
        if BASE in other.rows:
            parts = parts_of(other).get("by family", {})
            _by_part(other, "by family", {name: (other, where) for name, where in parts.items()})
    clean = natural(rows)
    bars = [] if clean is None else _natural_bars(clean, details)
    nearest = min((table for table in tables if best_rival(table)), key=_lead, default=main)
    return _bars(main, details) + _rival_bars(nearest, details) + bars, details


def _overview(results: Results) -> dict[str, dict[str, Any]]:
    """A line a method over all shifted runs, the best first."""
    where = results.shifted
    frames, seeds = next(iter(results.rows.values()))[0]["frames"], {run[3] for run in results.runs}
    print(f"\nshifted: {len(results.cells)} cells of {frames} frames with {len(seeds)} seeds, {int(where.sum())} runs")
    lines = [["method", "frozen", "accuracy", "gain (interval)", "cost", "ece", "frozen ece", "cells under -1"]]
    found: dict[str, dict[str, Any]] = {}
    for label in sorted(results.rows, key=lambda label: -results.gain(label, where).mean):
        gain, below = results.gain(label, where), results.below(label)
        columns = ("accuracy_frozen", "accuracy", "ece", "ece_frozen")
        means = {column: results.mean(label, column, where) for column in columns}
        found[label] = {**means, "gain": vars(gain), "cost": results.cost(label), "runs": len(results.runs)}
        accuracies = [f"{100 * means[column]:.1f}" for column in columns[:2]]
        errors = [f"{means[column]:.3f}" for column in columns[2:]]
        lines.append([label, *accuracies, str(gain), f"{results.cost(label):.2f}", *errors, str(len(below))])
    print_columns(lines)
    return found


def _by_part(results: Results, title: str, parts: Mapping[str, tuple[Results, Bools]]) -> dict[str, dict[str, Any]]:
    """Gains of every method in each part: results, and which of their runs. The last line is grpo ahead of its best
    rival over all of ``results``."""
    rival = best_rival(results)
    gains = {m: {name: part.gain(m, where) for name, (part, where) in parts.items()} for m in results.rows}
    print(f"\ngain {title}")
    print_columns([["method", *parts], *([label, *map(str, own.values())] for label, own in gains.items())])
    if rival is not None:
        ahead = {name: part.ahead(BASE, rival, where) for name, (part, where) in parts.items()}
        print(f"{BASE} ahead of {rival}: " + ", ".join(f"{name} {estimate}" for name, estimate in ahead.items()))
        gains[f"{BASE} ahead of {rival}"] = ahead
    return {label: {name: vars(estimate) for name, estimate in own.items()} for label, own in gains.items()}


def _bars(results: Results, details: dict[str, Any]) -> list[Bar]:
    where = results.shifted
    gain = results.gain(BASE, where)
    worse = results.mean(BASE, "ece", where) - results.mean(BASE, "ece_frozen", where)
    bars = [
        Bar("mean gain over the shifted cells", 100 * gain.mean, 8, unit=" points"),
        Bar("  lower end of its interval", 100 * gain.low, 0, unit=" points"),
        Bar("  own forward-equivalents an image", results.cost(BASE), 4, at_most=True),
        Bar("shifted cells that may lose more than 1 point", len(results.below(BASE)), 0, at_most=True),
        Bar("calibration error, more than the frozen encoder's", 100 * worse, 0, at_most=True, unit=" points"),
    ]
    for name, own in parts_of(results)["by family"].items():
        more = results.mean(BASE, "ece", own) - results.mean(BASE, "ece_frozen", own)
        bars.append(Bar(f"  {name}", 100 * more, 0, at_most=True, unit=" points"))
    for name, own in parts_of(results).get("on clean frames", {}).items():
        low = results.gain(BASE, own).low
        bars.append(Bar(f"clean, {name}: lower end of the gain's interval", 100 * low, 100 * BEHIND, unit=" points"))
    return bars


def _natural_bars(results: Results, details: dict[str, Any]) -> list[Bar]:
    """Every stream of ``NATURAL`` counts alike: each has as many runs."""
    streams = np.array([run[1] for run in results.runs])
    parts = {"all": np.ones(len(streams), dtype=bool), **{stream: streams == stream for stream in NATURAL}}
    table = {name: (results, where) for name, where in parts.items()}
    details["natural"] = _by_part(results, "on clean frames, by classes asked for", table)
    gain, rival = results.gain(BASE, parts["all"]), best_rival(results)
    bars = [Bar("clean frames of new hands: mean gain", 100 * gain.mean, 3, unit=" points")]
    if rival is not None:
        low = results.ahead(BASE, rival, parts["all"]).low
        bars.append(Bar(f"  ahead of {rival}: lower end of the interval", 100 * low, 0, unit=" points"))
    return bars


def _lead(results: Results) -> float:
    """Of grpo over the best rival of a table."""
    return results.ahead(BASE, str(best_rival(results)), results.shifted).mean


def _rival_bars(results: Results, details: dict[str, Any]) -> list[Bar]:
    """Beside the best rival, of the table whose best rival is nearest to grpo."""
    rival = best_rival(results)
    if rival is None:
        return []
    ahead = results.ahead(BASE, rival, results.shifted)
    details["rival"] = {"method": rival, "ahead": vars(ahead)}
    bars = [
        Bar(f"ahead of {rival}, the best at no more cost", 100 * ahead.mean, 1.5, unit=" points"),
        Bar("  lower end of its interval", 100 * ahead.low, 0, unit=" points"),
    ]
    for name, own in parts_of(results)["by family"].items():
        low = results.ahead(BASE, rival, own).low
        bars.append(Bar(f"  {name}: lower end of the interval", 100 * low, 100 * BEHIND, unit=" points"))
    if results.along:
        first = results.along[0].ahead(BASE, rival, results.along[0].shifted)
        bars.append(Bar("  first fifth of the frames", 100 * first.mean, 0, unit=" points"))
        bars.append(Bar("    lower end of its interval", 100 * first.low, 100 * BEHIND, unit=" points"))
    return bars
