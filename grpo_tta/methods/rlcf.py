"""RLCF on the image encoder, rewarded by a model of the same architecture: REINFORCE with CLIPScore, image by image.

Item by item, [peer] is RLCF's own code and script:

- 64 views, the plain one and random resized crops with flips, area 0.08 to 1; the tenth of lowest entropy is chosen
  once [peer]; crops are bilinear tensor operations seeded by the image, without AugMix [ours; the peer mixes for its
  fine-grained sets only]
- reward: ``2.5 max(0, cosine)`` of the view and the class, by a frozen model, minus its mean over the view's
  candidates, not divided [peer]; the model is the frozen encoder itself: no stronger one is brought in, which is the
  comparison of equal information [peer:TTA-VLM]. Its features are those of the first look and cost nothing more
- candidates: the K = 3 most probable classes under the current policy, drawn again at each of three steps [peer]
- loss: mean over views and candidates of reward times cross-entropy of the candidate [peer]
- AdamW 1e-5, weight decay 5e-4 on the whole visual encoder [peer]; ``tune`` norm: normalisation layers only [peer has
  the option], at 1e-3 [peers: WATT, CLIPArTT]
- the label is the adapted encoder's on the plain view, then everything is forgotten; no momentum over images [peer]
- no mixed precision; many images at once for ``norm``, one by one for ``full`` [ours]

An image costs ``V + 3 S T + 1`` forward-equivalents, 64 + 54 + 1 by default. Nothing is spent on reporting.
"""

from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta import policy, rewards
from grpo_tta.classifier import Classifier
from grpo_tta.methods.episodic import Episodes, EpisodicMethod, tune_each
from grpo_tta.methods.look import Look, look_by
from grpo_tta.methods.online import STATISTICS, statistics
from grpo_tta.objective import advantages
from grpo_tta.per_image import PerImageTower
from grpo_tta.settings import RlcfSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch


class Rlcf(EpisodicMethod):
    """RLCF of equal information. State: ``frames`` and ``updates`` (one a batch)."""

    name: ClassVar[str] = "rlcf"
    logged: ClassVar[tuple[str, ...]] = ("loss", "reward", "alignment", "advantage", *STATISTICS)

    def __init__(self, classifier: Classifier, settings: RlcfSettings | None = None) -> None:
        self.settings = settings = settings or RlcfSettings()
        cost = float(settings.views + 3 * settings.confident_views * settings.inner_steps + 1)
        # Every image has a copy of what is tuned: of a whole encoder there is room for one.
        at_once = 1 if settings.tune == "full" else settings.images_at_once
        super().__init__(classifier, at_once, cost)
        self.fast_weights = FastWeights(classifier.visual, settings.tune)
        self.tower = PerImageTower(classifier, self.fast_weights)

    def _adapt(self, batch: Batch) -> Episodes:
        settings, classifier = self.settings, self.classifier
        look = look_by(settings, classifier, batch.canvases, batch.seeds)
        scores = rewards.clip_score(look.trained(look.features), classifier.class_vectors)

        def loss(features: Tensor) -> Tensor:
            return reinforce(classifier.logits(features), scores, settings.group_size)

        tuned = tune_each(
            self.tower,
            look.trained(look.views),
            self.fast_weights.start,
            loss,
            steps=settings.inner_steps,
            rate=settings.step_size,
            decay=settings.weight_decay,
        )
        with torch.no_grad():
            probabilities = classifier.probabilities(self.tower.features(look.views[:, :1], tuned.theta)[:, 0])
        figures = self._figures(look, scores, tuned.losses, probabilities)
        frozen = look.probabilities[:, 0]
        return Episodes(probabilities.cpu(), frozen.cpu(), look.features[:, 0].cpu(), figures.cpu(), tuned.norms.cpu())

    def _figures(self, look: Look, scores: Tensor, losses: Tensor, probabilities: Tensor) -> Tensor:
        """What is logged is the first step's: its candidates are the frozen policy's."""
        group = policy.top_group(look.trained(look.log_probabilities), self.settings.group_size)
        reward = rewards.of_group(scores, group)
        mean, size = reward.mean((1, 2)), advantages(reward, "centred").abs().mean((1, 2))
        own = torch.stack([losses, mean, mean, size], 1)
        return torch.cat([own, statistics(probabilities, look.probabilities[:, 0])], 1)


def reinforce(logits: Tensor, scores: Tensor, group_size: int) -> Tensor:
    """``[B]``: mean over views and candidates of (score minus the view's mean score) times the candidate's
    cross-entropy; logits and scores ``[B, S, C]``. Differentiable in the logits. [peer]"""
    log_policy = torch.log_softmax(logits, dim=-1)
    group = policy.top_group(log_policy.detach(), group_size)
    weights = advantages(rewards.of_group(scores, group), "centred")
    return -(weights * log_policy.gather(-1, group)).mean((1, 2))
