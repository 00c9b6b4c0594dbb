"""Labels against truth, by hand-made files."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import RecordFiles
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run.evaluate import evaluate, read_truth
from grpo_tta.schemas import LabeledImage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def label(name: str, stream: str, said: str, frozen: str | None) -> LabeledImage:
    return LabeledImage(
        coordinate=f"{name}@1",
        id=name,
        stream=stream,
        event_time=NOON,
        window_start=NOON,
        window_end=NOON,
        label=said,
        probability=0.75,
        top_k=[],
        frozen_label=frozen,
        frozen_probability=None if frozen is None else 0.5,
        model_fingerprint="m",
        method="grpo-online",
        update_count=0,
    )


def write(folder: Path, labels: list[LabeledImage], truth: list[dict[str, str]]) -> tuple[str, str]:
    RecordFiles(ObjectStore(str(folder)), "labels").write("storage-0", map(Row.of, labels))
    path = folder / "truth.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in truth))
    return str(folder), str(path)


LABELS = [
    label("a", "one", "cat", "cat"),
    label("b", "one", "cat", "dog"),
    label("c", "two", "dog", "dog"),
    label("d", "two", "dog", "cat"),
]
TRUTH = [
    {"id": "a", "label": "cat", "segment": "1"},
    {"id": "b", "label": "cat", "segment": "2"},
    {"id": "c", "label": "cat", "segment": "1"},
    {"id": "d", "label": "dog", "segment": "2"},
]


def test_accuracies_and_gain_in_all_and_by_group(tmp_path: Path) -> None:
    result = evaluate(*write(tmp_path, LABELS, TRUTH), by=["stream"])
    assert (result["all"]["n"], result["all"]["accuracy"], result["all"]["accuracy_frozen"]) == (4, 0.75, 0.25)
    assert result["all"]["gain"] == 0.5
    assert [(row["stream"], row["n"], row["gain"]) for row in result["groups"]] == [("one", 2, 0.5), ("two", 2, 0.5)]
    segments = evaluate(str(tmp_path), str(tmp_path / "truth.jsonl"), by=["segment"])["groups"]
    assert [(row["segment"], row["accuracy"]) for row in segments] == [("1", 0.5), ("2", 1.0)]


def test_labels_without_a_frozen_side_have_no_gain(tmp_path: Path) -> None:
    result = evaluate(*write(tmp_path, [label("a", "one", "cat", None)], TRUTH))
    assert result["all"] == {"n": 1, "accuracy": 1.0, "ece": 0.25}


def test_what_has_no_partner_is_counted(tmp_path: Path) -> None:
    result = evaluate(
        *write(tmp_path, [*LABELS, label("x", "one", "cat", "cat")], [*TRUTH, {"id": "y", "label": "cat"}])
    )
    assert (result["labels_without_truth"], result["truth_without_label"], result["all"]["n"]) == (1, 1, 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"id": "a", "label": "x"}\n\n{"id": "a", "label": "y"}\n', "line 3: id 'a' is in line 1 already"),
        (b'{"id": "a", "label": "\xff"}\n', "line 1 is not UTF-8"),
        (b'{"id": "a", "label": "x"}\n' + b"[" * 100_000, "line 2: expected"),
        (b'{"id": 7, "label": "x"}\n', "line 1: expected"),
        (b'{"id": "a", "label": " "}\n', "line 1: expected .*label must not be blank"),
        (b'{"id": "a", "label": "x", "segment": [1]}\n', "line 1: expected .*segment must be a text"),
        (b'{"id": "a", "label": "x", "label": "y"}\n', "line 1: expected .*key 'label' is in it twice"),
    ],
)
def test_truth_that_says_two_things_is_refused(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "t.jsonl").write_bytes(text)
    with pytest.raises(ConfigurationError, match=f"t.jsonl, {said}"):
        read_truth(str(tmp_path / "t.jsonl"))


def test_truth_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('\ufeff{"id": "a\u2028b", "label": "cafe\u0301"}\r\n\n{"id": "c", "label": "d"}', encoding="utf-8")
    assert {name: line["label"] for name, line in read_truth(str(path)).items()} == {"a\u2028b": "caf\xe9", "c": "d"}
    path.write_text('{"id": "a", "label": "x", "segment": null, "other": [1]}')
    assert read_truth(str(path)) == {"a": {"id": "a", "label": "x", "segment": ""}}
    path.write_text("\n")
    with pytest.raises(ConfigurationError, match=r"t\.jsonl: it holds no line"):
        read_truth(str(path))


def test_truth_that_is_none_names_its_line(tmp_path: Path) -> None:
    out, truth = write(tmp_path, LABELS, [*TRUTH, {"id": "z"}])
    with pytest.raises(ConfigurationError, match="line 5"):
        evaluate(out, truth)


@pytest.mark.parametrize("by", [["camera"], ["stream", "hour"]])
def test_an_unknown_group_is_named(tmp_path: Path, by: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot group by {by[-1]}"):
        evaluate(*write(tmp_path, LABELS, TRUTH), by=by)


def test_a_copy_of_a_label_file_does_not_count_twice(tmp_path: Path) -> None:
    url, truth = write(tmp_path, LABELS, TRUTH)
    alone = evaluate(url, truth)
    copy, whole = tmp_path / "labels" / "copy.jsonl", (tmp_path / "labels" / "storage-0.jsonl").read_text()
    copy.write_text(whole)
    assert evaluate(url, truth) == alone
    copy.write_text(whole.replace('"probability":0.75', '"probability":0.5'))
    with pytest.raises(JobError, match="holds two labels of a@1: files of another job are in labels/"):
        evaluate(url, truth)


def test_a_folder_without_labels_says_so(tmp_path: Path) -> None:
    (tmp_path / "truth.jsonl").write_text('{"id": "a", "label": "x"}')
    with pytest.raises(JobError, match="holds no labels"):
        evaluate(str(tmp_path), str(tmp_path / "truth.jsonl"))
