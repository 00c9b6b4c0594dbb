"""Rows of several seeds as lines of a table: seeds are joined, intervals resample classes over all of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from grpo_tta.bench.rows import Outcome, Row, RowFile, key_of
from grpo_tta.evaluation.measures import class_interval

HEAD = (
    *("stream", "condition", "method", "resets by", "n", "frozen", "accuracy", "gain", "interval", "over grpo"),
    *("worst part", "ece", "brier", "cost", "images/s", "MB", "state KB"),
    *("resets", "delay", "missed", "false/10k"),
)
Group = tuple[str, str, str, str]


def condition_of(row: Row) -> str:
    """``fog:3``, ``clean``, or all of a stream's conditions."""
    return f"{row['corruption']}:{row['severity']}" if row["severity"] else str(row["corruption"])


def place_of(row: Row) -> str:
    """The set of a suite's row, else the stream."""
    return str(row.get("dataset", row["stream"]))


def own_cost(row: Row) -> float:
    """Forward-equivalents an image without those that only feed the guard and the pairing."""
    return float(row["forward_equivalents"] - row["reporting_equivalents"])


def grouped(rows: Iterable[Row]) -> dict[Group, list[Row]]:
    """Rows that differ in nothing but the seed, in the order they came."""
    groups: dict[Group, list[Row]] = {}
    for row in rows:
        groups.setdefault((place_of(row), condition_of(row), row["method"], row["resets_by"]), []).append(row)
    return groups


def table(rows: Sequence[Row], kept: RowFile) -> list[list[str]]:
    """A line for each group, the head first."""
    return [list(HEAD), *(_line(group, of_group, kept) for group, of_group in grouped(rows).items())]


def _line(group: Group, rows: Sequence[Row], kept: RowFile) -> list[str]:
    delays = [delay for row in rows for delay in row["detection_delays"]]
    missed = sum(row["missed_changes"] for row in rows)
    changes = missed + len(delays)
    low, high = _interval(rows, kept)
    over = [row["gain_over_grpo"] for row in rows if "gain_over_grpo" in row]
    watched = rows[0]["resets_by"] == "guard"
    return [
        *group,
        str(sum(row["n"] for row in rows)),
        f"{100 * _mean(rows, 'accuracy_frozen'):.1f}",
        f"{100 * _mean(rows, 'accuracy'):.1f}",
        f"{100 * _mean(rows, 'gain'):+.1f}",
        f"{100 * low:+.1f} to {100 * high:+.1f}",
        f"{100 * np.mean(over):+.1f}" if over else "",
        f"{100 * min(row['worst_segment'] for row in rows):+.1f}",
        f"{_mean(rows, 'ece'):.3f}",
        f"{_mean(rows, 'brier'):.3f}",
        f"{np.mean([own_cost(row) for row in rows]):.1f}",
        f"{_mean(rows, 'images_per_second'):.0f}",
        *(f"{max(row.get(name, 0) for row in rows):.0f}" for name in ("memory_mb", "state_kb")),
        str(sum(row["resets"] for row in rows)),
        f"{np.median(delays):.0f}" if delays else "",
        f"{missed}/{changes}" if changes and watched else "",
        f"{_mean(rows, 'false_alarms_per_10k'):.1f}" if watched else "",
    ]


def _mean(rows: Sequence[Row], column: str) -> float:
    return float(np.average([row[column] for row in rows], weights=[row["n"] for row in rows]))


def _interval(rows: Sequence[Row], kept: RowFile) -> tuple[float, float]:
    """Of the gain over all seeds; where frames are gone, the widest that single seeds say."""
    outcomes = [outcome for row in rows if (outcome := kept.outcome(key_of(row))) is not None]
    if len(outcomes) < len(rows):
        return min(row["interval"][0] for row in rows), max(row["interval"][1] for row in rows)
    return class_interval(
        np.concatenate([outcome.right.astype(np.float64) - outcome.frozen_right for outcome in outcomes]),
        np.concatenate([outcome.labels for outcome in outcomes]),
    )


def means(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each method under the first rule for resets: its mean accuracy and gain over the cells that every method has,
    each cell counting once, and its mean cost."""
    rows = [row for row in rows if row["resets_by"] == rows[0]["resets_by"]]
    by_method: dict[str, dict[tuple[Any, ...], Row]] = {}
    for row in rows:
        cell = (place_of(row), condition_of(row), row["seed"])
        by_method.setdefault(row["method"], {})[cell] = row
    shared = set.intersection(*(set(cells) for cells in by_method.values()))
    return [
        {
            "method": method,
            "cells": len(shared),
            "accuracy": float(np.mean([cells[cell]["accuracy"] for cell in shared])),
            "accuracy_frozen": float(np.mean([cells[cell]["accuracy_frozen"] for cell in shared])),
            "gain": float(np.mean([cells[cell]["gain"] for cell in shared])),
            "cost": float(np.mean([own_cost(cells[cell]) for cell in shared])),
        }
        for method, cells in by_method.items()
        if shared
    ]


def means_table(rows: Sequence[Row]) -> list[list[str]]:
    """`means` as lines, the best first."""
    ordered = sorted(means(rows), key=lambda entry: -entry["gain"])
    return [
        ["method", "cells", "frozen", "accuracy", "gain", "cost"],
        *(
            [
                entry["method"],
                str(entry["cells"]),
                f"{100 * entry['accuracy_frozen']:.1f}",
                f"{100 * entry['accuracy']:.1f}",
                f"{100 * entry['gain']:+.2f}",
                f"{entry['cost']:.2f}",
            ]
            for entry in ordered
        ),
    ]


def trailing(outcome: Outcome, window: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Accuracy of the last ``window`` frames at every frame, of the method and of the frozen encoder, in per cent."""
    return _trailing(outcome.right, window), _trailing(outcome.frozen_right, window)


def _trailing(right: np.ndarray[Any, Any], window: int) -> np.ndarray[Any, Any]:
    total = np.concatenate([[0], np.cumsum(right)])
    ends = np.arange(1, len(right) + 1)
    starts = np.maximum(0, ends - window)
    means: np.ndarray[Any, Any] = 100 * (total[ends] - total[starts]) / (ends - starts)
    return means
