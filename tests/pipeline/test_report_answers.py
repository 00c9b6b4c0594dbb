"""Answers of people: how they are asked for and read, and what they make of an estimate."""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_report import CALIBRATION, HOUR, SIDE, START, STEADY, moved, report

from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import RecordFiles
from grpo_tta.estimate import Estimate, Unknown
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.report.answers import Answer, questions, read_answers, stratified, to_lines, together


def test_answers_that_refute_the_newest_estimate_take_its_place_and_make_the_state(tmp_path: Path) -> None:
    both = {"frozen_n": 200, "agree": 150, "frozen_entropy": {20: 120, 80: 80}, "frozen_labels": {"a": 100, "b": 100}}
    records = [one.model_copy(update=both if one.n else {}) for one in (*STEADY[:2], moved(2), *STEADY[2:])]
    RecordFiles(ObjectStore(str(tmp_path)), "monitor").write("storage-0", [Row.of(one) for one in records])

    def row(hour: int, right: bool) -> dict[str, Any]:
        time = (START + HOUR * hour).isoformat()
        answers = tuple(Answer(f"c{at}", "i", "cam", "a", at % 5, 0.2, time, time, right) for at in range(50))
        calibration = replace(CALIBRATION, gain=SIDE.width)
        data = report(tmp_path, tmp_path / "page.html", calibration=calibration, answers=answers)
        assert len(data["details"]["cam"]["answers"]) == 1
        return data["streams"][0]  # type: ignore[no-any-return]

    refuted, before_the_shift = row(3, False), row(1, False)
    assert refuted["state"] == "degraded"
    assert refuted["estimate"]["high"] < 0.1
    assert "unknown" in refuted["gain"]
    assert "The accuracy includes 50 answers." in refuted["reasons"]
    assert not any(step["command"] for step in refuted["next"])
    assert before_the_shift["state"] == "drifted"
    assert before_the_shift["estimate"]["value"] == pytest.approx(0.6)
    assert "value" in before_the_shift["gain"]
    assert not any("answers" in reason for reason in before_the_shift["reasons"])
    assert any("--ask" in (step["command"] or "") for step in before_the_shift["next"])
    assert row(3, True)["estimate"]["value"] > 0.9


def test_answers_are_read_line_by_line_and_strictly(tmp_path: Path) -> None:
    path, time = tmp_path / "answers.jsonl", START.isoformat()
    good = Answer("c\u2028", "i\x85", "cam", "a", 1, 0.2, time, time, True)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(asdict(good), ensure_ascii=False).encode() + b"\r\n\r\n")
    assert read_answers(str(path)) == [good]
    whole = to_lines([good]).strip()
    bad = [
        "[" * 100_000, "{}", "[]", whole[:-1] + ', "right": true}', whole[:-1] + ', "more": 1}',
        *(json.dumps({**asdict(good), **other}) for other in (
            {"coordinate": ["x"]}, {"stratum": 1.5}, {"stratum": True}, {"stratum": 5}, {"stream": 5}, {"right": 1},
            {"weight": 0}, {"weight": 2}, {"window_end": "now"}, {"window_end": "0001-01-01T00:00:00Z"},
        )),
    ]  # fmt: skip
    for line in bad:
        path.write_text(f"{whole}\n{line}\n")
        with pytest.raises(ConfigurationError, match="line 2: it is no answer"):
            read_answers(str(path))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.floats(0, 1), st.floats(0.01, 0.2))
def test_answers_and_estimate_together_are_between_the_two_and_surer_or_the_answers_count_alone(
    rights: list[bool], value: float, half: float
) -> None:
    moment = START.isoformat()
    given_ = [Answer(f"c{at}", "i", "cam", "a", at % 5, 0.2, moment, moment, right) for at, right in enumerate(rights)]
    alone = stratified(given_)
    assert 0 <= alone.low <= alone.value <= alone.high <= 1
    without = Estimate(value, max(value - half, 0.0), min(value + half, 1.0))
    both, agree = together(alone, without)
    assert together(alone, Unknown("ill", "")) == (alone, True)
    if alone.high < without.low or without.high < alone.low:
        assert (both, agree) == (alone, False)
    else:
        assert min(alone.value, value) - 1e-9 <= both.value <= max(alone.value, value) + 1e-9
        longer = max(alone.high - alone.value, alone.value - alone.low)  # the other arm may be cut at 0 or 1
        assert both.high - both.low <= 2 * longer + 1e-9


def test_questions_come_evenly_from_sure_and_unsure_images_and_are_the_same_again() -> None:
    labels: list[Any] = [
        SimpleNamespace(
            coordinate=f"c{at}", id="i", stream="cam", probability=at / 500, event_time=START,
            label="unknown" if at < 300 else "ant", top_k=[SimpleNamespace(label="ant")],
        ) for at in range(500)
    ]  # fmt: skip
    asked = questions(labels, 50)
    assert asked == questions(labels[::-1], 50)
    assert Counter(question.stratum for question, _ in asked) == dict.fromkeys(range(5), 10)
    assert all(int(label.probability * 5) == question.stratum for question, label in asked)
    assert {question.label for question, _ in asked} == {"ant"}
