"""What every rival owes its callers: frames counted, the frozen encoder reported, a state that survives its codec."""

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from method_runs import SMALL, assert_same, run
from torch import Tensor

from grpo_tta import METHODS, Batch, Classifier, Method, create_method
from grpo_tta.classifier import digest_tensors

Batches = Callable[..., Batch]
Classifiers = Callable[..., Classifier]

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
