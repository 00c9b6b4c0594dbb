"""The frozen classifier: probabilities, preprocessing, fast weights over a tower that never changes, and its errors."""

import copy
import threading
from collections.abc import Callable

import pytest
import torch

from grpo_tta import Batch, Classifier, GrpoSettings, ModelError, PreprocessCfg
from grpo_tta.classifier import digest_tensors, pooled
from grpo_tta.tuning import FastWeights

Batches = Callable[..., Batch]
Classifiers = Callable[..., Classifier]


def test_features_are_unit_and_probabilities_sum_to_one(classifier: Classifier, batches: Batches) -> None:
    features = classifier.features(classifier.normalise(batches(5).canvases))
    assert features.shape == (5, 32)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(classifier.probabilities(features).sum(1), torch.ones(5))
    torch.testing.assert_close(classifier.class_vectors.norm(dim=1), torch.ones(24))


def test_normalise_is_open_clips(classifier: Classifier, batches: Batches) -> None:
    canvases = batches(2).canvases
    expected = (canvases.float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(classifier.normalise(canvases).contiguous(), expected, atol=1e-5, rtol=1e-5)


def test_canvases_of_another_size_are_refused(vit: Classifier) -> None:
    with pytest.raises(ValueError, match="canvases are 16x24, this model takes 32x32"):
        vit.normalise(torch.zeros(1, 3, 16, 24, dtype=torch.uint8))


def test_everything_is_frozen(classifier: Classifier) -> None:
    assert not classifier.visual.training
    assert not any(parameter.requires_grad for parameter in classifier.visual.parameters())


def test_conv_towers_are_channels_last_and_patch_embeddings_are_left(vit: Classifier, hybrid: Classifier) -> None:
    assert hybrid.channels_last
    assert not vit.channels_last


def test_overrides_move_the_features_and_leave_the_tower_as_it_was(classifier: Classifier, batches: Batches) -> None:
    before = digest_tensors(classifier.visual.state_dict())
    pixels = classifier.normalise(batches(3).canvases)
    plain = classifier.features(pixels)
    fast = FastWeights(classifier.visual, GrpoSettings())
    assert torch.equal(classifier.features(pixels, fast.overrides(fast.start)), plain)
    moved = classifier.features(pixels, fast.overrides(fast.start + 0.1))
    assert (moved - plain).abs().max() > 1e-3
    assert torch.equal(classifier.features(pixels), plain)
    assert digest_tensors(classifier.visual.state_dict()) == before


def test_threads_with_fast_weights_of_their_own_do_not_disturb_each_other(
    classifier: Classifier, batches: Batches
) -> None:
    pixels = classifier.normalise(batches(2).canvases)
    fast = FastWeights(classifier.visual, GrpoSettings())
    thetas = [fast.start + 0.05 * number for number in range(4)]
    expected = [classifier.features(pixels, fast.overrides(theta)) for theta in thetas]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            got = classifier.features(pixels, fast.overrides(thetas[number]))
            if not torch.allclose(got, expected[number], atol=1e-5):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_siglips_bias_moves_logits_and_no_probability(classifiers: Classifiers, batches: Batches) -> None:
    plain, biased = classifiers(), classifiers(logit_bias=-10.0)
    features = plain.features(plain.normalise(batches(3).canvases))
    torch.testing.assert_close(biased.logits(features), plain.logits(features) - 10)
    torch.testing.assert_close(biased.probabilities(features), plain.probabilities(features))


def test_fingerprint_is_of_weights_vectors_scale_bias_and_preprocessing(classifiers: Classifiers) -> None:
    same = classifiers().fingerprint
    assert classifiers().fingerprint == same
    assert len(same) == 16
    int(same, 16)
    others = [classifiers(logit_scale=31.0), classifiers(logit_bias=1.0), classifiers(classes=23)]
    weights = classifiers()
    other_visual = weights.visual
    with torch.no_grad():
        next(other_visual.parameters())[0] += 1e-3
    others.append(
        Classifier(other_visual, weights.class_names, weights.class_vectors, weights.preprocess, logit_scale=30)
    )
    assert len({same, *(other.fingerprint for other in others)}) == 5


def test_class_vectors_of_another_width_are_refused(vit: Classifier) -> None:
    with pytest.raises(ModelError, match="class_vectors are 16 wide, the visual tower gives 32: make them with"):
        Classifier(vit.visual, ["a", "b"], torch.randn(2, 16), vit.preprocess, logit_scale=1.0)


def test_a_tower_that_gives_no_features_is_refused(vit: Classifier) -> None:
    visual = copy.deepcopy(vit.visual)
    with torch.no_grad():
        next(visual.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="features of a grey image are not finite"):
        Classifier(visual, vit.class_names, vit.class_vectors, vit.preprocess, logit_scale=1.0)


def test_class_vectors_must_be_one_finite_direction_a_class(vit: Classifier) -> None:
    with pytest.raises(ModelError, match=r"class_vectors must be \[2, D\], one row a class, got \[3, 32\]"):
        Classifier(vit.visual, ["a", "b"], torch.randn(3, 32), vit.preprocess, logit_scale=1.0)
    vectors = torch.randn(2, 32)
    for value in (0.0, float("nan")):
        vectors[1] = value
        with pytest.raises(ModelError, match="class_vectors of 'b' is zero or not finite"):
            Classifier(vit.visual, ["a", "b"], vectors, vit.preprocess, logit_scale=1.0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat"], "at least two classes are needed, got 1"),
        (["cat", " "], "class name number 2 is blank"),
        (["cat", "a\x1b[2J"], "class name number 2 holds a control character"),
        (["cat", "a\ud800"], "class name number 2 holds a control character or half of one"),
        (["cat", "dog", "cat "], "class name 'cat' appears twice, as number 1 and number 3"),
    ],
)
def test_bad_class_names_are_named(vit: Classifier, names: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Classifier(vit.visual, names, torch.randn(len(names), 32), vit.preprocess, logit_scale=1.0)


@pytest.mark.parametrize("scale", [0.0, float("inf"), float("nan")])
def test_a_scale_that_is_no_scale_is_refused(vit: Classifier, scale: float) -> None:
    with pytest.raises(ModelError, match="logit scale must be > 0 and finite"):
        Classifier(vit.visual, ["a", "b"], torch.randn(2, 32), vit.preprocess, logit_scale=scale)


def test_preprocessing_takes_a_number_or_a_pair_and_names_what_is_wrong() -> None:
    cfg = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    assert PreprocessCfg.from_open_clip({"size": 64, **cfg}).size == (64, 64)
    assert PreprocessCfg.from_open_clip({"size": (48, 64), **cfg}).size == (48, 64)
    with pytest.raises(ModelError, match="three positive deviations"):
        PreprocessCfg.from_open_clip({"size": 64, "mean": (0, 0, 0), "std": (1, 0, 1)})


def test_towers_that_return_tokens_too_are_pooled() -> None:
    embedding = torch.randn(2, 4)
    assert pooled((embedding, torch.randn(2, 9, 4))) is embedding


def test_bfloat16_autocast_stays_close(classifiers: Classifiers, batches: Batches) -> None:
    plain, mixed = classifiers(), classifiers(use_autocast=True)
    pixels = plain.normalise(batches(3).canvases)
    features = mixed.features(pixels)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, plain.features(pixels), atol=0.05, rtol=0.1)
