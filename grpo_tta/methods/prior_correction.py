"""Prior correction: the frozen encoder's probabilities divided by their own running mean over the stream.

Item by item:

- corrected(c) = p(c) / (C qbar(c))^strength, normalised; ``strength`` 1 divides [ours; the plain form of logit
  adjustment. ROID corrects by a batch's prior too, but multiplies: it trusts the stream's shares, this one distrusts
  the encoder's]
- ``qbar``: running mean of the frozen probabilities, uniform at the start, memory 30 frames a class; ``C qbar`` is held
  above 0.05 [ours; the whole marginal, where GRPO-TTA's dispersion reward takes that of the runners-up]
- frame by frame: a frame is corrected by the marginal of the frames before it, whatever the batch [ours]

What is reported to the guard is the encoder's own prediction, before the correction: nothing is tuned, so there is
nothing to collapse. An image costs one forward-equivalent. There are no updates.
"""

from typing import ClassVar

import torch

from grpo_tta import rewards
from grpo_tta.classifier import Classifier
from grpo_tta.methods.online import check_strength, tensor_of
from grpo_tta.methods.packed import Frames, FrozenMethod, Given, all_finite
from grpo_tta.owners import Columns, stretches
from grpo_tta.settings import PriorCorrectionSettings
from grpo_tta.types import Batch, Prediction, State


class PriorCorrection(FrozenMethod):
    """Prior correction. State: ``frames``, ``updates`` (always 0), ``marginal`` ``[C]``.

    A frame that is not finite is left out of the marginal, and its report says ``finite=False``.
    """

    name: ClassVar[str] = "prior-correction"

    def __init__(self, classifier: Classifier, settings: PriorCorrectionSettings | None = None) -> None:
        super().__init__(classifier, None)
        self.settings = settings or PriorCorrectionSettings()
        self._horizon = self.settings.marginal_frames_per_class * classifier.classes

    def initial_state(self) -> State:
        """A uniform marginal."""
        classes = self.classifier.classes
        return {"frames": 0, "updates": 0, "marginal": torch.full((classes,), 1.0 / classes)}

    @torch.no_grad()
    def _take(self, frames: Frames, columns: Columns) -> tuple[Columns, Given]:
        """Correct frame by frame, and move the marginals."""
        features = frames.features
        frozen, marginal = self.classifier.probabilities(features).cpu(), columns["marginal"].cpu().clone()
        before, counts = torch.empty_like(frozen), frames.counts.tolist()
        for streams, _, rows in stretches(counts, [0] * len(counts), 1):  # the next frame of each stream
            before[rows] = marginal[streams]
            moved = rewards.update_marginal(marginal[streams], frozen[rows], 1, self._horizon)
            finite = torch.isfinite(frozen[rows]).all(1, keepdim=True)
            marginal[streams] = torch.where(finite, moved, marginal[streams])
        corrected = self._corrected(frozen, before)
        after = {"frames": columns["frames"] + frames.counts, "marginal": marginal.to(features.device)}
        corrected, frozen = corrected.to(features.device), frozen.to(features.device)
        given = Given(corrected, frozen, frozen, features, all_finite(corrected, frames), cost=1.0)
        return {**columns, **after}, given

    @torch.no_grad()
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch`` by the marginal of ``state``."""
        pixels = self.classifier.normalise(batch.canvases)
        frozen = self.classifier.probabilities(self.classifier.features(pixels)).cpu()
        return Prediction(self._corrected(frozen, tensor_of(state, "marginal")), frozen)

    def pull(self, state: State, strength: float) -> State:
        """The marginal moves towards uniform by ``strength``. Raises ``ValueError`` outside [0, 1]."""
        check_strength(strength)
        marginal = tensor_of(state, "marginal")
        return {**state, "marginal": torch.lerp(marginal, torch.full_like(marginal, 1.0 / len(marginal)), strength)}

    def _corrected(self, probabilities: torch.Tensor, marginal: torch.Tensor) -> torch.Tensor:
        """``[B, C]`` from ``[B, C]`` and a marginal ``[C]`` or one a row."""
        weighted = probabilities * rewards.marginal_ratio(marginal).pow(-self.settings.strength)
        return weighted / weighted.sum(-1, keepdim=True)
