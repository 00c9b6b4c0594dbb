"""TDA and the prior correction against dictionaries and loops."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from grpo_tta import Batch, Classifier
from grpo_tta.methods.look import look_by
from grpo_tta.methods.prior_correction import PriorCorrection, PriorCorrectionSettings
from grpo_tta.methods.tda import Tda, TdaSettings

Batches = Callable[..., Batch]
Classifiers = Callable[..., Classifier]
Cache = dict[int, list[tuple[float, Tensor, Tensor]]]


def keep(cache: Cache, kind: int, entry: tuple[float, Tensor, Tensor], shots: int) -> None:
    held = cache.setdefault(kind, [])
    if len(held) < shots:
        held.append(entry)
    elif entry[0] < held[-1][0]:
        held[-1] = entry
    held.sort(key=lambda item: item[0])


def says(cache: Cache, feature: Tensor, sharpness: float) -> Tensor:
    total = torch.zeros(24)
    for held in cache.values():
        for _, key, value in held:
            total += math.exp(-sharpness * (1 - float(key @ feature))) * value
    return total


@pytest.mark.parametrize("views", [1, 20])
def test_tda_is_two_caches_of_the_frozen_encoder(classifiers: Classifiers, batches: Batches, views: int) -> None:
    classifier = classifiers(logit_scale=12.0)
    settings = TdaSettings(views=views, view_min_area=0.3, positive_shots=2, entropy_from=0.45, entropy_to=0.55)
    method, batch = Tda(classifier, settings), batches(40)
    prediction, state, _ = method.step(batch, method.initial_state())
    look = look_by(settings, classifier, batch.canvases, batch.seeds)
    positive: Cache = {}
    negative: Cache = {}
    replaced = 0
    for row in range(40):
        order = torch.special.entr(look.probabilities[row]).sum(-1).argsort()[: max(1, views // 10)]
        feature = look.features[row, order].mean(0)
        logits = 12.0 * (look.features[row, order] @ classifier.class_vectors.T).mean(0)
        mean = look.probabilities[row, order].mean(0)
        entropy = float(torch.special.entr(mean).sum())
        best = int(logits.argmax())
        replaced += len(positive.get(best, [])) == 2
        keep(positive, best, (entropy, feature, torch.eye(24)[best]), 2)
        if 0.45 < entropy / math.log2(24) < 0.55:
            keep(negative, best, (entropy, feature, ((mean > 0.03) & (mean < 1.0)).float()), 2)
        logits = logits + 2.0 * says(positive, feature, 5.0) - 0.117 * says(negative, feature, 1.0)
        torch.testing.assert_close(prediction.probabilities[row], logits.softmax(-1), atol=1e-4, rtol=0)
    assert replaced
    assert negative
    assert len(state["positive_keys"]) == sum(map(len, positive.values()))
    assert len(state["negative_masks"]) == sum(map(len, negative.values()))
    held = sorted((kind, entropy) for kind, entries in positive.items() for entropy, *_ in entries)
    found = sorted(zip(state["positive_classes"].tolist(), state["positive_entropies"].tolist(), strict=True))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(held))


def test_tdas_caches_are_bounded_and_predict_fills_none(vit: Classifier, batches: Batches) -> None:
    method = Tda(vit, TdaSettings(positive_shots=1, negative_shots=1, entropy_from=0.0, entropy_to=1.0))
    _, state, _ = method.step(batches(120), method.initial_state())
    for name in ("positive", "negative"):
        classes = state[f"{name}_classes"]
        assert len(classes) == len(classes.unique()) <= 24
    assert state["negative_masks"].dtype == torch.uint8
    before = {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
    method.predict(batches(4, start=500), state)
    assert all(torch.equal(state[name], value) for name, value in before.items() if isinstance(value, Tensor))
    fresh = method.predict(batches(4), method.initial_state())
    assert fresh.frozen is not None
    torch.testing.assert_close(fresh.probabilities, fresh.frozen)


def test_tdas_bounds_must_be_in_order() -> None:
    with pytest.raises(ValueError, match=r"entropy_from must be < entropy_to, 0.5, got 0.5"):
        TdaSettings(entropy_from=0.5)
    with pytest.raises(ValueError, match=r"mask_from must be < mask_to, 0.01, got 0.03"):
        TdaSettings(mask_to=0.01)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_prior_correction_divides_by_the_marginal_of_the_frames_before(
    vit: Classifier, batches: Batches, strength: float
) -> None:
    method = PriorCorrection(vit, PriorCorrectionSettings(strength=strength, marginal_frames_per_class=0.5))
    batch = batches(20)
    prediction, state, report = method.step(batch, method.initial_state())
    marginal, kept = torch.full((24,), 1 / 24), math.exp(-1 / 12)
    assert prediction.frozen is not None
    for row, frozen in enumerate(prediction.frozen):
        corrected = frozen / (24 * marginal).clamp_min(0.05) ** strength
        torch.testing.assert_close(prediction.probabilities[row], corrected / corrected.sum())
        marginal = kept * marginal + (1 - kept) * frozen
    torch.testing.assert_close(state["marginal"], marginal)
    assert torch.equal(report.probabilities, prediction.frozen)
    expected = method.predict(batch[:1], state).probabilities[0]
    corrected = prediction.frozen[0] / (24 * marginal).clamp_min(0.05) ** strength
    torch.testing.assert_close(expected, corrected / corrected.sum())


def test_a_pulled_marginal_is_uniform_again(vit: Classifier, batches: Batches) -> None:
    method = PriorCorrection(vit, PriorCorrectionSettings(marginal_frames_per_class=0.5))
    _, state, _ = method.step(batches(20), method.initial_state())
    assert torch.equal(method.pull(state, 0.0)["marginal"], state["marginal"])
    torch.testing.assert_close(method.pull(state, 1.0)["marginal"], torch.full((24,), 1 / 24))
    with pytest.raises(ValueError, match=r"strength must be in \[0, 1\], got 2"):
        method.pull(state, 2)
    nothing = PriorCorrection(vit, PriorCorrectionSettings(strength=0.0))
    prediction, _, _ = nothing.step(batches(6), {**nothing.initial_state(), "marginal": state["marginal"]})
    torch.testing.assert_close(prediction.probabilities, prediction.frozen)
