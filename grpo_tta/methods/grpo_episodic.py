"""GRPO-TTA episodic: each image is adapted from the frozen encoder and forgotten, many images in one forward.

[peer: RLCF and TPT reset before each image, one at a time; adapting a batch at once is ours] Confident views are
chosen without gradient and only those are forwarded again to be trained on, which gives the same update as keeping
the graph of all views. An image costs ``V + 3 S T + 1`` forward-equivalents: V frozen views, S trained ones in each
of T steps, and the prediction by the adapted encoder on the plain view.
"""

from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta.classifier import Classifier
from grpo_tta.methods.episodic import Episodes, EpisodicMethod, Tuned, tune_each
from grpo_tta.methods.grpo_group import SUMS, Group, GroupMaker, figures
from grpo_tta.methods.look import Look
from grpo_tta.per_image import PerImageTower
from grpo_tta.settings import GrpoSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch


class EpisodicGrpo(EpisodicMethod):
    """GRPO-TTA episodic. State: ``frames`` and ``updates`` (one a batch); an image's label depends on the image
    alone."""

    name: ClassVar[str] = "grpo-episodic"
    logged: ClassVar[tuple[str, ...]] = SUMS

    def __init__(
        self, classifier: Classifier, settings: GrpoSettings | None = None, reward_model: Classifier | None = None
    ) -> None:
        settings = settings or GrpoSettings.episodic()
        if settings.mode != "episodic":
            raise ValueError(f"mode must be 'episodic' here, got {settings.mode!r}: use OnlineGrpo")
        self._maker = GroupMaker(classifier, settings, reward_model)
        cost = float(self._maker.forwards + 3 * settings.confident_views * settings.inner_steps + 1)
        super().__init__(classifier, settings.images_at_once, cost)
        self.settings = settings
        self.fast_weights = FastWeights(classifier.visual, settings)
        self.tower = PerImageTower(classifier, self.fast_weights)

    def _adapt(self, batch: Batch) -> Episodes:
        look = self._maker.look(batch.canvases, batch.seeds, keep_plain=False)
        log_old = look.trained(look.log_probabilities)
        group = self._maker.group(look, batch.seeds, log_old, None)
        tuned = self._tune(look, group, log_old)
        with torch.no_grad():
            features = self.tower.features(look.views[:, :1], tuned.theta)[:, 0]
            probabilities = self.classifier.probabilities(features)
        frozen = look.probabilities[:, 0]
        return Episodes(
            probabilities.cpu(),
            frozen.cpu(),
            look.features[:, 0].cpu(),
            figures(tuned.losses, group, probabilities, frozen).cpu(),
            tuned.norms.cpu(),
        )

    def _tune(self, look: Look, group: Group, log_old: Tensor) -> Tuned:
        settings = self.settings

        def loss(features: Tensor) -> Tensor:
            log_policy = torch.log_softmax(self.classifier.logits(features), dim=-1)
            return self._maker.loss(log_policy, log_old, log_old, group)

        return tune_each(
            self.tower,
            look.trained(look.views),
            self.fast_weights.start,
            loss,
            steps=settings.inner_steps,
            rate=settings.step_size,
        )
