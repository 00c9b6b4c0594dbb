"""The registry, the frozen classifier as a method, and what every method owes its callers."""

from collections.abc import Callable

import pytest
import torch

from grpo_tta import METHODS, Batch, Classifier, GrpoSettings, Method, create_method

Batches = Callable[..., Batch]


def every_method(classifier: Classifier) -> list[Method]:
    return [create_method("grpo", classifier, GrpoSettings.for_mode(mode)) for mode in ("online", "episodic")] + [
        create_method(name, classifier) for name in ("zero-shot", "whitened")
    ]


def test_methods_by_name(vit: Classifier) -> None:
    rivals = {"zero", "vte", "tent", "sar", "deyo", "tpt-norm", "rlcf", "tda", "dota", "batclip", "prior-correction"}
    assert set(METHODS) == {"grpo", "zero-shot", "whitened", *rivals}
    assert [create_method(name, vit).name for name in METHODS if name in rivals] == [
        name for name in METHODS if name in rivals
    ]
    assert [method.name for method in every_method(vit)] == ["grpo-online", "grpo-episodic", "zero-shot", "whitened"]
    assert [method.cadence for method in every_method(vit)] == [16, None, None, None]
    with pytest.raises(ValueError, match=r"method must be one of grpo, zero-shot, .*, got 'memo'"):
        create_method("memo", vit)
    with pytest.raises(ValueError, match="settings of method 'tent' must be TentSettings, got GrpoSettings"):
        create_method("tent", vit, GrpoSettings())
    with pytest.raises(ValueError, match="method 'tent' takes no reward model"):
        create_method("tent", vit, reward_model=vit)


def test_zero_shot_is_the_classifier(classifier: Classifier, batches: Batches) -> None:
    method = create_method("zero-shot", classifier)
    batch = batches(6)
    prediction, state, report = method.step(batch, method.initial_state())
    expected = classifier.probabilities(classifier.features(classifier.normalise(batch.canvases)))
    torch.testing.assert_close(prediction.probabilities, expected)
    assert torch.equal(method.predict(batch, state).probabilities, prediction.probabilities)
    assert state == {"frames": 6, "updates": 0}
    assert report.forward_equivalents == 6
    assert not report.updates
