"""Compare a job's labels with a truth file: accuracy adapted and frozen, calibration error, paired intervals."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.evaluation.measures import expected_calibration_error, paired_accuracy
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.schemas import DeadLetter, LabeledImage


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
    """Rows for the whole and for each group of ``by`` (``stream``, ``segment``); raises `JobError`.

    Raises `ConfigurationError` for a group there is not.
    """
    unknown = sorted(set(by) - {"stream", "segment"})
    if unknown:
        raise ConfigurationError(f"--by: cannot group by {', '.join(unknown)}: known are stream, segment")
    truth = read_truth(truth_path)
    labels = list(read_records(labels_url, "labels", LabeledImage))
    if not labels:
        raise JobError(f"{labels_url} holds no labels")
    known = [record for record in labels if record.id in truth]
    if not known:
        raise JobError(
            f"no label has a truth: the labels' ids are as {labels[0].id!r}, those of {truth_path} as "
            f"{next(iter(truth), None)!r}; an id is the path below the --source of the job"
        )
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
    result = {
        "n": len(records),
        "accuracy": float(right.mean()),
        "ece": expected_calibration_error(confidence, right),
    }
    if any(record.frozen_label is None for record in records):
        return result
    frozen = np.array([record.frozen_label == want for record, want in zip(records, wanted, strict=True)])
    return {**result, **asdict(paired_accuracy(right, frozen, wanted))}
