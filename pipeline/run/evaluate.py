"""Compare a job's labels with a truth file: accuracy adapted and frozen with paired intervals, calibration, classes,
what is taken for what, and which images are labelled wrongly."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic_core import from_json

from grpo_tta.adapters.json_event import check_keys
from grpo_tta.adapters.lines import text_lines
from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.checks import class_name
from grpo_tta.evaluation.measures import expected_calibration_error, paired_accuracy, reliability
from grpo_tta.pipeline.config.values import home
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.report.data import thousandths
from grpo_tta.pipeline.report.report import Truth
from grpo_tta.pipeline.report.windows import StreamWindow
from grpo_tta.pipeline.watch.status import check_written
from grpo_tta.schemas import DeadLetter, LabeledImage


def read_truth(path: str) -> dict[str, dict[str, str]]:
    """``id`` -> its line; raises `ConfigurationError` naming the line that is none, or has an id for a second time, or
    a file without any, and `JobError` where there is no file."""
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
    if not truth:
        raise ConfigurationError(f'truth file {path}: it holds no line {{"id":, "label":}}')
    return truth


def _entry(text: str, number: int) -> dict[str, str]:
    """A line of a truth file; raises ``ValueError``."""
    try:
        entry = from_json(text)
        check_keys(text)
        if not isinstance(entry, dict) or not all(isinstance(entry[key], str) for key in ("id", "label")):
            raise TypeError("id and label must be texts")
        label, segment = class_name(entry["label"]), entry.get("segment")
        if not label or not isinstance(segment, str | None):
            raise TypeError("label must not be blank, segment must be a text")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'line {number}: expected {{"id":, "label":}}: {error!r}') from error
    return {"id": entry["id"], "label": label, "segment": segment or ""}


def evaluate(labels_url: str, truth_path: str, by: Sequence[str] = ()) -> dict[str, Any]:
    """Rows for the whole and for each group of ``by`` (``stream``, ``segment``), all shares in [0, 1].

    ``reliability``: bins of the label's probability; ``classes``: the worst recall first; ``confusions``: pairs of what
    was shown and what was said, the most frequent first; ``errors``: one entry an image with a wrong label. Raises
    `JobError`, also for a file that is not what the job wrote, and `ConfigurationError` for a group there is not.
    """
    check_written(labels_url)
    known, truth, labels = _with_truth(labels_url, truth_path, by)
    groups: dict[tuple[str, ...], list[LabeledImage]] = defaultdict(list)
    for record in known:
        groups[tuple(record.stream if key == "stream" else truth[record.id][key] for key in by)].append(record)
    right = np.array([record.label == truth[record.id]["label"] for record in known])
    bins = reliability(np.array([record.probability for record in known]), right)
    return {
        "all": row(known, truth),
        "groups": [{**dict(zip(by, key, strict=True)), **row(groups[key], truth)} for key in sorted(groups) if by],
        "reliability": [asdict(one) for one in bins],
        "classes": _classes(known, truth),
        "confusions": _confusions(known, truth),
        "errors": _errors(known, truth),
        "labels_without_truth": labels - len(known),
        "truth_without_label": len(truth.keys() - {record.id for record in known}),
        "dead_letters": sum(1 for _ in read_records(labels_url, "dead_letters", DeadLetter)),
    }


def _with_truth(
    labels_url: str, truth_path: str, by: Sequence[str] = ()
) -> tuple[list[LabeledImage], dict[str, dict[str, str]], int]:
    """Labels that have a truth, the truth, and how many labels there are; one that is there twice is one."""
    unknown = sorted(set(by) - {"stream", "segment"})
    if unknown:
        raise ConfigurationError(f"--by: cannot group by {', '.join(unknown)}: known are stream, segment")
    truth = read_truth(truth_path)
    found: dict[str, LabeledImage] = {}
    for record in read_records(labels_url, "labels", LabeledImage):
        if found.setdefault(record.coordinate, record) != record:
            raise JobError(f"{labels_url} holds two labels of {record.coordinate}: files of another job are in labels/")
    labels = list(found.values())
    if not labels:
        raise JobError(f"{labels_url} holds no labels")
    known = [record for record in labels if record.id in truth]
    if not known:
        raise JobError(
            f"no label has a truth: the labels' ids are as {labels[0].id!r}, those of {truth_path} as "
            f"{next(iter(truth), None)!r}; an id is the path below the --source of the job"
        )
    return known, truth, len(labels)


def _classes(records: Sequence[LabeledImage], truth: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """Recall and precision of every class that was shown or said; None where there is nothing to divide by."""
    shown, said, right, frozen_right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for record in records:
        want = truth[record.id]["label"]
        shown[want] += 1
        said[record.label] += 1
        right[want] += record.label == want
        frozen_right[want] += record.frozen_label == want
    frozen = all(record.frozen_label is not None for record in records)
    rows = [
        {
            "label": label,
            "n": shown[label],
            "said": said[label],
            "recall": right[label] / shown[label] if shown[label] else None,
            "precision": right[label] / said[label] if said[label] else None,
            "recall_frozen": frozen_right[label] / shown[label] if shown[label] and frozen else None,
        }
        for label in sorted(shown.keys() | said.keys())
    ]
    return sorted(rows, key=lambda one: (one["recall"] is None, one["recall"], -int(one["n"])))


def _confusions(records: Sequence[LabeledImage], truth: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    pairs = Counter((truth[record.id]["label"], record.label) for record in records)
    wrong = [(pair, n) for pair, n in pairs.items() if pair[0] != pair[1]]
    return [
        {"label": label, "said": said, "n": n} for (label, said), n in sorted(wrong, key=lambda one: (-one[1], one[0]))
    ]


def _errors(records: Sequence[LabeledImage], truth: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """The surest first: those are the ones that a threshold on the probability does not catch."""
    wrong = [record for record in records if record.label != truth[record.id]["label"]]
    return [
        {
            "id": record.id,
            "stream": record.stream,
            "coordinate": record.coordinate,
            "label": truth[record.id]["label"],
            "said": record.label,
            "probability": record.probability,
            "frozen_label": record.frozen_label,
        }
        for record in sorted(wrong, key=lambda record: (-record.probability, record.coordinate))
    ]


def truth_series(labels_url: str, truth_path: str) -> Truth:
    """What the report draws of a truth file beside a stream's timeline: the accuracy in each of its windows."""
    known, truth, _ = _with_truth(labels_url, truth_path)
    streams: dict[str, list[LabeledImage]] = defaultdict(list)
    for record in sorted(known, key=lambda record: record.event_time):
        streams[record.stream].append(record)

    def of(stream: str, windows: Sequence[StreamWindow]) -> dict[str, Any] | None:
        records = streams.get(stream)
        if not records:
            return None
        times = [record.event_time for record in records]
        spans = [slice(bisect_left(times, window.start), bisect_left(times, window.end)) for window in windows]
        rows = [row(records[span], truth) for span in spans]
        frozen = [thousandths(one.get("accuracy_frozen")) for one in rows]
        return {
            "adapted": [thousandths(one.get("accuracy")) for one in rows],
            "frozen": frozen if any(value is not None for value in frozen) else None,
        }

    return of


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
