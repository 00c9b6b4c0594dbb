"""What every rival owes its callers: frames counted, the frozen encoder reported, a state that survives its codec."""

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from method_runs import assert_close, assert_same, run
from torch import Tensor

from grpo_tta import METHODS, Batch, Classifier, Method, StreamState, create_method
from grpo_tta.classifier import digest_tensors
from grpo_tta.state import decode_state, encode_state

Batches = Callable[..., Batch]
Classifiers = Callable[..., Classifier]

SMALL_VIEWS = {"views": 5, "confident_share": 0.5, "view_min_area": 0.3}
SMALL: dict[str, dict[str, Any]] = {
    "zero": SMALL_VIEWS,
    "vte": SMALL_VIEWS,
    "tent": {"update_every": 8},
    "sar": {"update_every": 8, "reliable_entropy": 1.0},
    "deyo": {"update_every": 8, "reliable_entropy": 1.0, "least_drop": 0.0, "patches": 3},
    "tpt-norm": SMALL_VIEWS,
    "rlcf": {**SMALL_VIEWS, "tune": "norm", "inner_steps": 2},
    "tda": {"entropy_from": 0.0, "entropy_to": 1.0},
    "dota": {"update_every": 8},
    "batclip": {"update_every": 8},
    "prior-correction": {"marginal_frames_per_class": 1.0},
}
ONLINE = ("tent", "sar", "deyo", "batclip")
PER_FRAME = ("tda", "dota", "prior-correction")
EPISODIC = ("zero", "vte", "tpt-norm", "rlcf")


def make(name: str, classifier: Classifier, **changes: Any) -> Method:
    return create_method(name, classifier, METHODS[name].settings(**{**SMALL[name], **changes}))


def test_every_rival_is_tried_here() -> None:
    assert {*SMALL} == {*METHODS} - {"grpo", "zero-shot", "whitened"} == {*ONLINE, *PER_FRAME, *EPISODIC}


@pytest.mark.parametrize("name", SMALL)
def test_a_report_pairs_every_label_with_the_frozen_encoder(
    name: str, classifier: Classifier, batches: Batches
) -> None:
    method, batch = make(name, classifier), batches(11)
    _, state, _ = run(method, batches(9, start=100), 9)
    weights = digest_tensors(classifier.visual.state_dict())
    before = {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}
    prediction, after, report = method.step(batch, state)
    assert_same(state, before)
    assert digest_tensors(classifier.visual.state_dict()) == weights
    frozen_features = classifier.features(classifier.normalise(batch.canvases))
    assert report.frozen_features is not None
    assert report.frozen_probabilities is prediction.frozen
    assert report.frozen_probabilities is not None
    torch.testing.assert_close(report.frozen_features, frozen_features, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        report.frozen_probabilities, classifier.probabilities(frozen_features), atol=1e-4, rtol=0
    )
    assert after["frames"] == 20
    assert report.finite
    assert prediction.probabilities.dtype == torch.float32
    torch.testing.assert_close(prediction.probabilities.sum(1), torch.ones(11))
    assert not torch.allclose(prediction.probabilities, prediction.frozen, atol=1e-4)
    assert method.predict(batch, after).probabilities.shape == (11, 24)
    assert method.pull(after, 0.5).keys() == after.keys()
    with pytest.raises(ValueError, match="a batch must hold at least one image, got 0"):
        method.step(batch[0:0], state)


@pytest.mark.parametrize("name", SMALL)
def test_batches_of_1_7_and_64_give_the_same_labels(name: str, classifier: Classifier, batches: Batches) -> None:
    method, batch = make(name, classifier), batches(29)
    labels, state, reports = run(method, batch, 64)
    for size in (1, 7):
        other_labels, other, other_reports = run(method, batch, size)
        torch.testing.assert_close(other_labels, labels, atol=5e-3, rtol=0)
        assert torch.equal(other_labels.argmax(1), labels.argmax(1))
        if name not in EPISODIC:
            for key, value in state.items():
                torch.testing.assert_close(other[key], value, atol=2e-3, rtol=1e-2)
        if name in ONLINE:
            seen = [(u.frame, u.update, u.images) for report in other_reports for u in report.updates]
            assert seen == [(u.frame, u.update, u.images) for report in reports for u in report.updates]
            assert [frame for frame, *_ in seen] == [8, 16, 24]


@pytest.mark.parametrize("name", SMALL)
def test_a_state_survives_its_codec_and_the_stream_goes_on_as_if_nothing_had_been(
    name: str, vit: Classifier, batches: Batches
) -> None:
    method = make(name, vit)
    _, state, _ = run(method, batches(13), 13)
    kept = StreamState(state, {}, {}, {}, vit.fingerprint, method.name, "settings")
    decoded = decode_state(encode_state(kept)).method
    assert_same(decoded, state)
    rest = batches(10, start=13)
    (expected, state, _), (labels, again, _) = (run(method, rest, 10, held) for held in (state, decoded))
    assert torch.equal(labels, expected)
    assert_same(again, state)
    assert all(value.device.type == "cpu" for value in state.values() if isinstance(value, Tensor))
    assert all(not value.requires_grad for value in state.values() if isinstance(value, Tensor))


@pytest.mark.parametrize("name", [*ONLINE, *PER_FRAME])
def test_two_streams_never_see_each_other_and_a_reset_is_exact(name: str, vit: Classifier, batches: Batches) -> None:
    method = make(name, vit)
    streams = {"a": batches(24), "b": batches(24, start=500)}
    alone = {key: run(method, batch, 6) for key, batch in streams.items()}
    states = {key: method.initial_state() for key in streams}
    labels: dict[str, list[Tensor]] = {key: [] for key in streams}
    for start in range(0, 24, 6):
        now = [batch[start : start + 6] for batch in streams.values()]
        for key, step in zip(streams, method.step_many(now, list(states.values())), strict=True):
            states[key] = step[1]
            labels[key].append(step[0].probabilities)
    for key, (expected, state, _) in alone.items():
        torch.testing.assert_close(torch.cat(labels[key]), expected, atol=1e-4, rtol=1e-3)
        assert_close(states[key], state)
    assert_same(method.initial_state(), make(name, vit).initial_state())


@pytest.mark.parametrize("name", ONLINE)
def test_values_that_are_not_finite_are_reported_and_not_learnt(name: str, vit: Classifier, batches: Batches) -> None:
    method = make(name, vit)
    _, state, _ = run(method, batches(12), 4)
    theta = state["theta"]
    assert isinstance(theta, Tensor)
    _, after, report = method.step(batches(4, start=12), {**state, "theta": theta * float("nan")})
    assert not report.finite
    assert after["frames"] == 16
    for key in ("grad", "sums", "adam_m", "adam_v", "velocity"):
        if key in state and after["updates"] == state["updates"]:
            assert torch.equal(after[key], state[key]), key
        elif key in state:
            assert torch.isfinite(after[key]).all(), key


@pytest.mark.parametrize("name", PER_FRAME)
def test_frames_that_are_not_finite_enter_no_memory(name: str, classifiers: Classifiers, batches: Batches) -> None:
    classifier = classifiers()
    method = make(name, classifier)
    _, state, _ = run(method, batches(5), 5)
    features = classifier.features
    classifier.features = lambda pixels, *rest: features(pixels, *rest) * float("nan")  # type: ignore[method-assign]
    _, after, report = method.step(batches(2, start=5), state)
    assert not report.finite
    assert_same({**after, "frames": 5}, state)


@pytest.mark.parametrize(
    ("name", "changes", "own", "reporting"),
    [
        ("zero", {}, 5, 0),
        ("vte", {}, 5, 0),
        ("tent", {}, 3, 1),
        ("sar", {"reliable_entropy": 1e-9}, 3, 1),
        ("sar", {"reliable_entropy": 1.0}, 6, 1),
        ("deyo", {"reliable_entropy": 1e-9}, 3, 1),
        ("deyo", {"reliable_entropy": 1.0}, 4, 1),
        ("tpt-norm", {}, 5 + 3 * 2 + 1, 0),
        ("rlcf", {}, 5 + 3 * 2 * 2 + 1, 0),
        ("tda", {}, 1, 0),
        ("tda", {"views": 4}, 4, 0),
        ("dota", {}, 1, 0),
        ("batclip", {}, 3, 1),
        ("prior-correction", {}, 1, 0),
    ],
)
def test_the_cost_tells_the_method_from_its_report(
    name: str, changes: dict[str, Any], own: int, reporting: int, vit: Classifier, batches: Batches
) -> None:
    method = make(name, vit, **changes)
    _, _, report = method.step(batches(16), method.initial_state())
    assert report.forward_equivalents == 16 * (own + reporting)
    assert report.reporting_equivalents == 16 * reporting
    assert all(update.forward_equivalents == own + reporting for update in report.updates)


@pytest.mark.parametrize("name", SMALL)
def test_settings_are_frozen_and_name_what_is_wrong(name: str) -> None:
    kind = METHODS[name].settings
    settings = kind()
    for field in fields(kind):
        with pytest.raises(AttributeError):
            setattr(settings, field.name, 1)
        value = getattr(settings, field.name)
        if field.name == "seed":
            continue
        wrong = "?" if isinstance(value, str) else -1
        with pytest.raises(ValueError, match=rf"^{field.name} must be .*, got {re.escape(repr(wrong))}$"):
            kind(**{field.name: wrong})
