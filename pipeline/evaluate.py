"""Compare a job's labels with a truth file: accuracy adapted and frozen, calibration error, paired intervals.

Intervals resample *classes*, not frames: frames of one class are pictures of the same few things. [ours]
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.storage.sink import read_records
from pipeline.errors import JobError
from schemas import DeadLetter, LabeledImage

_DRAWS = 1000
_BINS = 15


def read_truth(path: str) -> dict[str, dict[str, str]]:
    """``id`` -> its line; raises `JobError` naming the line that is none."""
    truth: dict[str, dict[str, str]] = {}
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise JobError(f"truth file {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            truth[entry["id"]] = {key: str(value) for key, value in entry.items()}
            _ = entry["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise JobError(f'truth file {path}, line {number}: expected {{"id":, "label":}}: {error!r}') from error
    return truth


def evaluate(labels_url: str, truth_path: str, by: Sequence[str] = ()) -> dict[str, Any]:
    """Rows for the whole and for each group of ``by`` (``stream``, ``segment``); raises `JobError`."""
    unknown = sorted(set(by) - {"stream", "segment"})
    if unknown:
        raise JobError(f"cannot group by {', '.join(unknown)}: known are stream, segment")
    truth = read_truth(truth_path)
    labels = list(read_records(labels_url, "labels", LabeledImage))
    if not labels:
        raise JobError(f"{labels_url} holds no labels")
    known = [record for record in labels if record.id in truth]
    groups: dict[tuple[str, ...], list[LabeledImage]] = defaultdict(list)
    for record in known:
        groups[tuple(record.stream if key == "stream" else truth[record.id].get(key, "") for key in by)].append(record)
    return {
        "all": row(known, truth),
        "groups": [{**dict(zip(by, key, strict=True)), **row(groups[key], truth)} for key in sorted(groups) if by],
        "labels_without_truth": len(labels) - len(known),
        "truth_without_label": len(truth.keys() - {record.id for record in known}),
        "dead_letters": sum(1 for _ in read_records(labels_url, "dead_letters", DeadLetter)),
    }


def row(records: Iterable[LabeledImage], truth: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Measures of a group of labels; the frozen ones are absent where a label has no frozen side."""
    records = list(records)
    if not records:
        return {"n": 0}
    wanted = [truth[record.id]["label"] for record in records]
    right = np.array([record.label == want for record, want in zip(records, wanted, strict=True)])
    confidence = np.array([record.probability for record in records])
    result: dict[str, Any] = {"n": len(records), "accuracy": float(right.mean()), "ece": _ece(confidence, right)}
    if all(record.frozen_label is not None for record in records):
        frozen = np.array([record.frozen_label == want for record, want in zip(records, wanted, strict=True)])
        result["accuracy_frozen"] = float(frozen.mean())
        result["gain"] = float(right.mean() - frozen.mean())
        result["interval"] = _interval(right.astype(float) - frozen, wanted)
    return result


def _ece(confidence: np.ndarray, right: np.ndarray) -> float:
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))


def _interval(difference: np.ndarray, classes: list[str]) -> list[float]:
    """95 % interval of the mean difference, classes drawn with replacement."""
    _, index = np.unique(classes, return_inverse=True)
    sums, counts = np.bincount(index, difference), np.bincount(index)
    draws = np.random.default_rng(0).integers(0, len(counts), (_DRAWS, len(counts)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    return [float(value) for value in np.percentile(means, [2.5, 97.5])]
