"""Training-free consensus of an image's views: ZERO's vote and VTE's mean feature.

Item by item, [peer] is the public code of either:

- 64 views, the plain one and random resized crops with flips [peer]; a crop has an area of 0.08 to 1 [peer] but is made
  by a bilinear tensor operation and seeded by the image [ours]; no AugMix [peer:ZERO]
- ZERO: the 30 % of lowest entropy vote for their best class; a tie goes to the tied class that the next confident view
  votes for, whose vote then counts [peer]; where none of them does, the most confident voter decides [ours]; the
  probability is the share of votes [ours: the peer's are counts]
- VTE: the mean of the unit features of the 10 % of lowest entropy against the class vectors, not made unit again [peer]
- the prompts are the classifier's, for every method the same; VTE's template ensemble is a matter of class vectors
  [ours]

An image costs as many forward-equivalents as it has views. Nothing is spent on reporting: the plain view is one of
them.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta import policy
from grpo_tta.classifier import Classifier
from grpo_tta.methods.episodic import Episodes, EpisodicMethod
from grpo_tta.methods.look import Look, look_by
from grpo_tta.settings import ViewSettings, VteSettings, ZeroSettings
from grpo_tta.types import Batch


class _ViewConsensus(EpisodicMethod):
    def __init__(self, classifier: Classifier, settings: ViewSettings) -> None:
        super().__init__(classifier, settings.images_at_once, float(settings.views))
        self.settings = settings

    @abstractmethod
    def _agree(self, look: Look) -> Tensor:
        """Probabilities ``[B, C]``."""

    def _adapt(self, batch: Batch) -> Episodes:
        look = look_by(self.settings, self.classifier, batch.canvases, batch.seeds)
        return Episodes(self._agree(look).cpu(), look.probabilities[:, 0].cpu(), look.features[:, 0].cpu())


class Zero(_ViewConsensus):
    """ZERO's vote. State: ``frames`` and ``updates`` (always 0)."""

    name: ClassVar[str] = "zero"

    def __init__(self, classifier: Classifier, settings: ZeroSettings | None = None) -> None:
        super().__init__(classifier, settings or ZeroSettings())

    def _agree(self, look: Look) -> Tensor:
        order = policy.entropy(look.probabilities).argsort(dim=1, stable=True)
        votes = look.probabilities.argmax(-1).gather(1, order)
        return vote(votes, self.settings.confident_views, self.classifier.classes)


class Vte(_ViewConsensus):
    """VTE's mean feature. State: ``frames`` and ``updates`` (always 0)."""

    name: ClassVar[str] = "vte"

    def __init__(self, classifier: Classifier, settings: VteSettings | None = None) -> None:
        super().__init__(classifier, settings or VteSettings())

    def _agree(self, look: Look) -> Tensor:
        return self.classifier.probabilities(look.trained(look.features).mean(1))


def vote(votes: Tensor, voters: int, classes: int) -> Tensor:
    """Shares of votes ``[B, C]`` of the first ``voters`` of ``votes`` ``[B, V]``, most confident first.

    Where classes tie, one vote more decides: that of the first later view for one of them, or else of the first voter
    for one of them.
    """
    counts = F.one_hot(votes[:, :voters], classes).sum(1)
    tied = counts == counts.max(1, keepdim=True).values
    candidates = torch.cat([votes[:, voters:], votes[:, :voters]], dim=1)
    first = tied.gather(1, candidates).float().argmax(1, keepdim=True)
    extra = F.one_hot(candidates.gather(1, first)[:, 0], classes) * (tied.sum(1, keepdim=True) > 1)
    counts = (counts + extra).float()
    return counts / counts.sum(1, keepdim=True)
