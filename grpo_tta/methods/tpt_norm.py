"""TPT's loss on the visual normalisation layers: one step on the entropy of the confident views' mean prediction.

Item by item, [peer] is TPT's own code:

- 64 views, the plain one and random resized crops with flips, area 0.08 to 1; the tenth of lowest entropy is kept
  [peer]; crops are bilinear tensor operations seeded by the image, without AugMix [ours; the peer mixes for its
  fine-grained sets only]
- loss: entropy of the mean of their probabilities [peer]
- tuned: normalisation layers of the visual encoder, where TPT tunes four prompt tokens [ours: RLCF's table has TPT's
  loss on the image encoder, the rival of the same information that adapts what GRPO-TTA adapts]
- one AdamW step an image, then forgotten [peer]; rate 1e-3, that of norm layers [peers: WATT, CLIPArTT], instead of
  5e-3, that of prompts; weight decay 0.01 [peer: the optimiser's default]
- the label is the adapted encoder's on the plain view [peer]
- views are chosen without gradient and only those kept are forwarded again, many images at once, with the same update
  [ours]

An image costs ``V + 3 S T + 1`` forward-equivalents, 64 + 18 + 1 by default. Nothing is spent on reporting.
"""

from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta import policy
from grpo_tta.classifier import Classifier
from grpo_tta.methods.episodic import Episodes, EpisodicMethod, tune_each
from grpo_tta.methods.look import look_by
from grpo_tta.methods.online import STATISTICS, statistics
from grpo_tta.per_image import PerImageTower
from grpo_tta.settings import TptNormSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch


class TptNorm(EpisodicMethod):
    """TPT's loss on norm layers. State: ``frames`` and ``updates`` (one a batch)."""

    name: ClassVar[str] = "tpt-norm"
    logged: ClassVar[tuple[str, ...]] = ("loss", *STATISTICS)

    def __init__(self, classifier: Classifier, settings: TptNormSettings | None = None) -> None:
        self.settings = settings = settings or TptNormSettings()
        cost = float(settings.views + 3 * settings.confident_views * settings.inner_steps + 1)
        super().__init__(classifier, settings.images_at_once, cost)
        self.fast_weights = FastWeights(classifier.visual, "norm")
        self.tower = PerImageTower(classifier, self.fast_weights)

    def _adapt(self, batch: Batch) -> Episodes:
        settings, classifier = self.settings, self.classifier
        look = look_by(settings, classifier, batch.canvases, batch.seeds)
        tuned = tune_each(
            self.tower,
            look.trained(look.views),
            self.fast_weights.start,
            self._loss,
            steps=settings.inner_steps,
            rate=settings.learning_rate,
            decay=settings.weight_decay,
        )
        with torch.no_grad():
            probabilities = classifier.probabilities(self.tower.features(look.views[:, :1], tuned.theta)[:, 0])
        frozen = look.probabilities[:, 0]
        figures = torch.cat([tuned.losses[:, None], statistics(probabilities, frozen)], 1)
        return Episodes(probabilities.cpu(), frozen.cpu(), look.features[:, 0].cpu(), figures.cpu(), tuned.norms.cpu())

    def _loss(self, features: Tensor) -> Tensor:
        """Of unit features ``[B, S, D]``, ``[B]``."""
        return policy.marginal_entropy(self.classifier.logits(features))
