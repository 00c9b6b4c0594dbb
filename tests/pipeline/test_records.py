from datetime import UTC, datetime

import pytest
import torch
from pipeline_fakes import NAMES, make_ref, windowed

from grpo_tta.adapters.events import BadRecord
from grpo_tta.adapters.images import CorruptImage
from grpo_tta.guard import GuardEvent
from grpo_tta.pipeline.label.records import MAX_EVENT, MAX_MESSAGE, RecordMaker, bad_record, dead_letter
from grpo_tta.pipeline.windows import to_datetime
from grpo_tta.schemas import AdaptationLog
from grpo_tta.types import Prediction, Update

MAKE = RecordMaker(NAMES, "model", "counting", top_k=3, min_probability=0.5)


def prediction(rows, frozen=None):
    return Prediction(torch.tensor(rows), None if frozen is None else torch.tensor(frozen))


@pytest.mark.parametrize(
    ("microseconds", "expected"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        (-1, "1969-12-31T23:59:59.999999+00:00"),
        (1_767_225_600_000_001, "2026-01-01T00:00:00.000001+00:00"),
        (10**18, "9999-12-31T23:59:59.999999+00:00"),
        (-(10**18), "0001-01-01T00:00:00+00:00"),
        (2**70, "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_times_are_exact_and_clamped_to_the_years_there_are(microseconds, expected):
    assert to_datetime(microseconds) == datetime.fromisoformat(expected)
    assert to_datetime(microseconds).tzinfo is UTC


def test_a_label_carries_what_the_event_said():
    ref = make_ref(3, attributes=(("a", "1"),), time_capped=True)
    (label,) = MAKE.labels(windowed([ref]), prediction([[0.1, 0.6, 0.2, 0.1]], [[0.7, 0.1, 0.1, 0.1]]), [5], late=False)
    assert (label.coordinate, label.id, label.stream) == (ref.coordinate, ref.id, "cam")
    assert label.event_time == to_datetime(3_000_000)
    assert (label.window_start, label.window_end) == (to_datetime(0), to_datetime(60_000_000))
    assert (label.label, label.frozen_label) == ("bee", "ant")
    assert [candidate.label for candidate in label.top_k[:2]] == ["bee", "cat"]
    assert len(label.top_k) == 3
    assert label.probability == label.top_k[0].probability == float(torch.tensor(0.6))
    assert label.frozen_probability == float(torch.tensor(0.7))
    assert (label.model_fingerprint, label.method, label.update_count) == ("model", "counting", 5)
    assert (label.late, label.time_capped, label.attributes) == (False, True, {"a": "1"})


def test_under_the_minimum_probability_the_label_is_unknown():
    rows = prediction([[0.4, 0.3, 0.2, 0.1], [0.5, 0.3, 0.1, 0.1]])
    first, second = MAKE.labels(windowed([make_ref(0), make_ref(1)]), rows, [0, 0], late=True)
    assert (first.label, first.top_k[0].label, first.late) == ("unknown", "ant", True)
    assert second.label == "ant"
    assert first.frozen_label is None
    assert first.frozen_probability is None


def test_rounding_above_one_is_still_a_probability():
    (label,) = MAKE.labels(windowed([make_ref(0)]), prediction([[1.0000001, 0.0, 0.0, 0.0]]), [0], late=False)
    assert label.probability == 1.0


def test_top_k_is_at_most_the_classes():
    make = RecordMaker(NAMES, "model", "counting", top_k=100, min_probability=0.0)
    (label,) = make.labels(windowed([make_ref(0)]), prediction([[0.4, 0.3, 0.2, 0.1]]), [0], late=False)
    assert [candidate.label for candidate in label.top_k] == list(NAMES)


def test_a_class_may_be_called_unknown_only_where_no_label_is():
    RecordMaker((*NAMES, "unknown"), "model", "counting", top_k=3, min_probability=0.0)
    with pytest.raises(ValueError, match="a class is called 'unknown', as a label under min_probability is"):
        RecordMaker((*NAMES, "unknown"), "model", "counting", top_k=3, min_probability=0.1)


def test_an_update_and_a_reset_name_frame_and_cause():
    (event,) = windowed([make_ref(8)])
    figures = Update(4, 1, 4, 0.5, 1.0, 0.75, 0.25, 0.125, 0.5, 0.25, 2.0, 4.0)
    update = MAKE.update(event, figures, frame=104, update_count=26, warming_up=True)
    assert (update.frame, update.frames_since_reset, update.update_count, update.images) == (104, 4, 26, 4)
    assert (update.loss, update.reward, update.alignment, update.dispersion) == (0.5, 1.0, 0.75, 0.25)
    assert (update.advantage, update.entropy, update.disagreement) == (0.125, 0.5, 0.25)
    assert (update.gradient_norm, update.forward_equivalents) == (2.0, 4.0)
    assert update.warming_up
    assert (update.reset, update.cause, update.coordinate) == (False, None, event.ref.coordinate)
    reset = MAKE.reset(event, "shift", frame=104, frames_since_reset=4, update_count=26, warming_up=False)
    assert (reset.reset, reset.cause, reset.frame, reset.frames_since_reset) == (True, "shift", 104, 4)
    assert reset.loss is None


def test_a_figure_that_is_not_finite_survives_its_file():
    (event,) = windowed([make_ref(8)])
    nan = float("nan")
    update = MAKE.update(event, Update(4, 1, 4, *[nan] * 9), frame=4, update_count=1, warming_up=False)
    again = AdaptationLog.model_validate_json(update.model_dump_json(exclude_none=True))
    assert again.loss is None
    drift = MAKE.drift(event, GuardEvent("nonfinite", nan, nan, 4, True, "said"), frame=4)
    assert '"statistic":null' in drift.model_dump_json(exclude_none=True)


def test_a_drift_event_says_what_the_guard_said():
    (event,) = windowed([make_ref(8)])
    drift = MAKE.drift(event, GuardEvent("shift", 16.5, 15.0, 32, False, "another input", 0.4), frame=40)
    assert (drift.signal, drift.statistic, drift.threshold, drift.reset) == ("shift", 16.5, 15.0, False)
    assert drift.size == 0.4
    assert MAKE.drift(event, GuardEvent("collapse", 0.2, 0.15, 32, True, "said"), frame=40).size is None
    assert (drift.frame, drift.message, drift.coordinate) == (40, "another input", event.ref.coordinate)
    foreign = MAKE.foreign_state(event, "of another model", frame=0)
    assert (foreign.signal, foreign.reset, foreign.message) == ("state", True, "of another model")


def test_a_dead_letter_holds_the_event_but_not_its_data():
    ref = make_ref(1, uri=None, data=b"12345", content_type="image/png", attributes=(("k", "v"),))
    letter = dead_letter(ref, "decode_image", CorruptImage("cut off"))
    assert (letter.coordinate, letter.stage) == (ref.coordinate, "decode_image")
    assert (letter.error_class, letter.error_message) == ("CorruptImage", "cut off")
    assert (letter.id, letter.stream, letter.event_time) == (ref.id, "cam", to_datetime(1_000_000))
    assert letter.truncated
    assert letter.event["data_bytes"] == 5
    assert letter.event["content_type"] == "image/png"
    assert "uri" not in letter.event
    assert letter.event["attributes"] == {"k": "v"}


def test_a_dead_letter_of_a_reference_is_whole():
    letter = dead_letter(make_ref(1), "fetch", OSError("x" * 5000))
    assert not letter.truncated
    assert letter.event["uri"] == "/feed/cam/0001.png"
    assert len(letter.error_message) == MAX_MESSAGE


def test_a_bad_record_is_cut_to_its_bound():
    letter = bad_record(BadRecord("feed.jsonl@1#L7", "decode_event", "ValueError", "no id", "x" * 9000))
    assert (letter.coordinate, letter.stage, letter.error_class) == ("feed.jsonl@1#L7", "decode_event", "ValueError")
    assert len(letter.event) == MAX_EVENT
    assert letter.truncated
    short = bad_record(BadRecord("c", "decode_event", "ValueError", "no id", "{}"))
    assert (short.event, short.truncated, short.stream) == ("{}", False, None)


def test_a_dead_letter_tells_no_password():
    uri = "https://user:HUNTER2@host/a.jpg?X-Amz-Signature=HUNTER3"
    letter = dead_letter(make_ref(1, uri=uri), "fetch", OSError(f"{uri} is no image"))
    assert letter.event["uri"] == "https://(hidden)@host/a.jpg?X-Amz-Signature=(hidden)"
    assert letter.error_message == f"{letter.event['uri']} is no image"


def test_a_dead_letter_is_bounded_whatever_the_event_holds():
    ref = make_ref(1, uri="/feed/" + "u" * 4000, attributes=tuple((f"{n:03d}", "v" * 200) for n in range(64)))
    letter = dead_letter(ref, "fetch", OSError("gone"))
    assert letter.truncated
    assert letter.event.startswith('{"id": "cam/0001.png", "stream": "cam", ')
    assert len(letter.event) == MAX_EVENT


def test_a_dead_letter_of_inline_data_in_a_manifest_says_that_it_is_not_whole():
    letter = dead_letter(make_ref(1, uri="/feed/m.jsonl#bytes=0-100"), "decode_image", CorruptImage("cut off"))
    assert letter.truncated
    assert letter.event["uri"] == "/feed/m.jsonl#bytes=0-100"
