"""What methods share that tune or remember: labels by a stream's fast weights, an update's log entry, checks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grpo_tta import policy
from grpo_tta.classifier import Classifier
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, Method, Prediction, State, Update


class TunesFastWeights(Method):
    """Fast weights ``theta`` ``[P]`` of a state: labels by them, and the way back."""

    classifier: Classifier
    fast_weights: FastWeights

    @torch.no_grad()
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch`` with the parameters of ``state``; one forward, nothing is learnt."""
        theta = tensor_of(state, "theta").to(self.classifier.device)
        pixels = self.classifier.normalise(batch.canvases)
        features = self.classifier.features(pixels, self.fast_weights.overrides(theta))
        return Prediction(self.classifier.probabilities(features).cpu())

    def pull(self, state: State, strength: float) -> State:
        """``theta`` moves towards the start by ``strength``; the rest stays. [ours] Raises ``ValueError`` outside [0,
        1]."""
        check_strength(strength)
        return {**state, "theta": torch.lerp(tensor_of(state, "theta"), self.fast_weights.start.cpu(), strength)}


STATISTICS = ("entropy", "disagreement")
"""What is logged of the labels of every method; see `grpo_tta.types.Update`."""


def statistics(probabilities: Tensor, frozen: Tensor) -> Tensor:
    """``[B, 2]``, in the order of ``STATISTICS``, of probabilities ``[B, C]``."""
    disagreement = (probabilities.argmax(-1) != frozen.argmax(-1)).float()
    return torch.stack([policy.normalised_entropy(probabilities), disagreement], 1)


def update_of(means: Mapping[str, float], **others: Any) -> Update:
    """An update's log entry; what ``means`` does not name of rewards and advantages is ``None``."""
    absent = dict.fromkeys(("reward", "alignment", "dispersion", "advantage"))
    values: dict[str, Any] = {**absent, **means, **others}
    return Update(**values)


def check_not_empty(batch: Batch) -> None:
    """Raises ``ValueError`` for a batch without an image."""
    if not len(batch):
        raise ValueError("a batch must hold at least one image, got 0")


def check_strength(strength: float) -> None:
    """Raises ``ValueError`` outside [0, 1]."""
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1], got {strength}")


def tensor_of(state: State, name: str) -> Tensor:
    """A tensor of a state; raises ``TypeError`` where it is a number."""
    value = state[name]
    if not isinstance(value, Tensor):
        raise TypeError(f"state {name!r} must be a tensor, got {type(value).__name__}")
    return value
