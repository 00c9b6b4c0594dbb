"""Episodic: an image's label is the image's alone, in a batch or not, and costs what it says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from grpo_tta import Batch, Classifier, GrpoSettings
from grpo_tta.classifier import digest_tensors
from grpo_tta.methods.grpo_episodic import EpisodicGrpo

Batches = Callable[..., Batch]


def episodic(classifier: Classifier, **changes: Any) -> EpisodicGrpo:
    return EpisodicGrpo(classifier, GrpoSettings.episodic(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"inner_steps": 3},
        {"tune": "lora"},
        {"tune": "full", "learning_rate": 1e-3},
        {"images_at_once": 4, "dispersion": "text"},
        {"group_mode": "gumbel", "kl": 0.1, "advantage": "zscore"},
    ],
)
def test_a_batch_gives_the_labels_of_its_images_alone(
    classifier: Classifier, batches: Batches, changes: dict[str, Any]
) -> None:
    method = episodic(classifier, **changes)
    batch = batches(10)
    together, state, report = method.step(batch, method.initial_state())
    alone = [method.step(batch[index : index + 1], state)[0].probabilities for index in range(10)]
    torch.testing.assert_close(together.probabilities, torch.cat(alone), atol=5e-3, rtol=0)
    assert torch.equal(together.probabilities.argmax(1), torch.cat(alone).argmax(1))
    assert report.finite
    assert (together.probabilities - together.frozen).abs().max() > 1e-4


def test_order_and_neighbours_do_not_matter(vit: Classifier, batches: Batches) -> None:
    method = episodic(vit)
    batch, state = batches(8), method.initial_state()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    plain = method.step(batch, state)[0].probabilities
    mixed = method.step(Batch(batch.canvases[order], batch.seeds[order]), state)[0].probabilities
    torch.testing.assert_close(mixed, plain[order], atol=1e-4, rtol=0)


def test_the_state_is_two_counters_and_the_tower_is_left_alone(classifier: Classifier, batches: Batches) -> None:
    method = episodic(classifier)
    weights = digest_tensors(classifier.visual.state_dict())
    _, state, report = method.step(batches(5), method.initial_state())
    assert state == {"frames": 5, "updates": 1}
    _, state, _ = method.step(batches(3), state)
    assert state == {"frames": 8, "updates": 2}
    assert digest_tensors(classifier.visual.state_dict()) == weights
    assert method.cadence is None
    (update,) = report.updates
    assert (update.frame, update.images) == (5, 5)
    assert 0 <= update.entropy <= 1
    assert update.gradient_norm > 0


def test_the_cost_is_views_training_and_prediction(vit: Classifier, batches: Batches) -> None:
    assert episodic(vit).step(batches(4), {"frames": 0, "updates": 0})[2].forward_equivalents == 4 * (8 + 9 + 1)
    method = episodic(vit, inner_steps=2, views=4, confident_share=0.5)
    assert method.step(batches(1), method.initial_state())[2].forward_equivalents == 4 + 3 * 2 * 2 + 1


def test_predict_gives_the_labels_of_step(vit: Classifier, batches: Batches) -> None:
    method = episodic(vit)
    state = method.initial_state()
    assert torch.equal(method.predict(batches(4), state).probabilities, method.step(batches(4), state)[0].probabilities)


def test_a_consensus_moves_the_plain_view_towards_it(vit: Classifier, batches: Batches) -> None:
    """Rewarded by the confident views' agreement, the adapted encoder says the consensus' class with more weight."""
    method = episodic(vit, dispersion="none", learning_rate=3e-3)
    batch = batches(12)
    prediction, _, _ = method.step(batch, method.initial_state())
    look = method._maker.look(batch.canvases, batch.seeds, keep_plain=False)
    agreed = look.trained(look.probabilities).mean(1).argmax(1, keepdim=True)
    assert prediction.frozen is not None
    gain = prediction.probabilities.gather(1, agreed) - prediction.frozen.gather(1, agreed)
    assert (gain > 0).float().mean() > 0.9


def test_an_empty_batch_is_refused(vit: Classifier, batches: Batches) -> None:
    method = episodic(vit)
    with pytest.raises(ValueError, match="a batch must hold at least one image, got 0"):
        method.step(batches(1)[0:0], method.initial_state())
