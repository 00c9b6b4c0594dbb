"""BATCLIP's visual losses: minimise entropy, match class means to their texts, push class means apart.

Item by item, [peer] is BATCLIP's own code:

- loss: mean entropy, minus the mean over the classes predicted in the batch of (mean embedding of that class) .
  (unit text vector), minus the sum over ordered pairs of such classes of one minus the cosine of their means [peer];
  the embeddings are those before they are made unit [peer]
- AdamW 5e-4, weight decay 0.01, one step a batch of 64 [peer: its ImageNet-C configuration]; a window of 64 frames is
  the batch, however it arrives [ours]
- tuned: normalisation layers of the visual encoder only; the peer tunes those of the text encoder too, which this
  project keeps frozen [ours]
- labels come from the forward that is learnt from, before the update [peer]
- no mixed precision, BatchNorm keeps its running statistics [ours, as in Tent]; never reset of itself, where the peer's
  tables reset at each corruption

An image costs three forward-equivalents (four if its window comes in parts), and one more for the frozen forward that
is only reported.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta import policy
from grpo_tta.classifier import Classifier
from grpo_tta.methods.windowed import Learnt, Stream, Window, WindowedMethod
from grpo_tta.optimiser import adam
from grpo_tta.settings import BatclipSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import State


class Batclip(WindowedMethod):
    """BATCLIP. State, beside that of a windowed method: ``adam_m``, ``adam_v`` ``[P]``."""

    name: ClassVar[str] = "batclip"

    def __init__(self, classifier: Classifier, settings: BatclipSettings | None = None) -> None:
        settings = settings or BatclipSettings()
        super().__init__(classifier, FastWeights(classifier.visual, "norm"), settings.update_every)
        self.settings = settings

    def initial_state(self) -> State:
        """The frozen encoder's own parameters, an empty window, zero moments."""
        zeros = torch.zeros(self.fast_weights.size)
        return {**super().initial_state(), "adam_m": zeros, "adam_v": zeros.clone()}

    def _learn(self, stream: Stream, window: Window) -> Learnt:
        logits = self.classifier.logits(F.normalize(window.embeddings, dim=-1))
        matching, separation = class_mean_terms(window.embeddings, logits.argmax(-1), self.classifier.class_vectors)
        loss = policy.entropy_of_logits(logits).mean() - matching - separation
        (gradient,) = torch.autograd.grad(loss, window.theta)
        finite = bool(torch.isfinite(gradient).all() & torch.isfinite(loss.detach()))
        if finite:
            theta, first, second = adam(
                stream["theta"],
                gradient,
                stream["adam_m"],
                stream["adam_v"],
                step=stream.updates + 1,
                rate=self.settings.learning_rate,
                decay=self.settings.weight_decay,
            )
            stream = stream.but(theta=theta, adam_m=first, adam_v=second)
        return Learnt(stream, float(loss.detach()), float(gradient.norm()), finite)


def class_mean_terms(embeddings: Tensor, labels: Tensor, class_vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Matching of class means to their texts (a mean over the classes in ``labels`` ``[N]``) and separation of the
    means (a sum over ordered pairs), of ``embeddings`` ``[N, D]``. [peer]"""
    classes = labels.bincount().nonzero().flatten()
    index = torch.searchsorted(classes, labels)
    sums = torch.zeros(len(classes), embeddings.shape[1], device=embeddings.device).index_add(0, index, embeddings)
    means = sums / index.bincount(minlength=len(classes))[:, None]
    matching = (means * class_vectors[classes]).sum(1).mean()
    directions = F.normalize(means, dim=-1)
    distances = 1 - directions @ directions.T
    return matching, distances.sum() - distances.diagonal().sum()
