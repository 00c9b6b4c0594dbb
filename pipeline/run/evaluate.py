"""Compare a job's labels with a truth file: accuracy adapted and frozen, calibration error, paired intervals."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic_core import from_json

from grpo_tta.adapters.lines import text_lines
from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.checks import class_name
from grpo_tta.evaluation.measures import expected_calibration_error, paired_accuracy
from grpo_tta.pipeline.config.values import home
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.schemas import DeadLetter, LabeledImage


def read_truth(path: str) -> dict[str, dict[str, str]]:
    """``id`` -> its line; raises `ConfigurationError` naming the line that is none, or has an id for a second time, and
    `JobError` where there is no file."""
    truth: dict[str, dict[str, str]] = {}
    lines: dict[str, int] = {}
    try:
        for number, text in text_lines(home(path)):
            entry = _entry(text, number)
            name = entry["id"]
            if name in lines:
                raise ValueError(f"line {number}: id {name!r} is in line {lines[name]} already")
            lines[name], truth[name] = number, entry
    except OSError as error:
        raise JobError(f"truth file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationError(f"truth file {path}, {error}") from error
    return truth


def _entry(text: str, number: int) -> dict[str, str]:
    """A line of a truth file; raises ``ValueError``."""
    try:
        entry = from_json(text)
        if not isinstance(entry, dict) or not all(isinstance(entry[key], str) for key in ("id", "label")):
            raise TypeError("id and label must be texts")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'line {number}: expected {{"id":, "label":}}: {error!r}') from error
    return {**{key: str(value) for key, value in entry.items()}, "label": class_name(entry["label"])}


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
