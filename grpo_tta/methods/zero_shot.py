"""The frozen classifier as a method: nothing is learnt, everything is reported, so that a guard can watch it."""

from typing import ClassVar

import torch

from grpo_tta.classifier import Classifier
from grpo_tta.methods.packed import Frames, FrozenMethod, Given, all_finite
from grpo_tta.owners import Columns
from grpo_tta.settings import ZeroShotSettings
from grpo_tta.types import Batch, Prediction, State


class ZeroShot(FrozenMethod):
    """One forward an image. State: ``frames`` and ``updates`` (always 0)."""

    name: ClassVar[str] = "zero-shot"

    def __init__(self, classifier: Classifier, settings: ZeroShotSettings | None = None) -> None:
        super().__init__(classifier, None)
        self.settings = settings or ZeroShotSettings()

    def initial_state(self) -> State:
        """Counters at zero."""
        return {"frames": 0, "updates": 0}

    @torch.no_grad()
    def _take(self, frames: Frames, columns: Columns) -> tuple[Columns, Given]:
        """Only ``frames`` moves."""
        features = frames.features
        probabilities = self.classifier.probabilities(features)
        finite = all_finite(probabilities, frames)
        columns = {**columns, "frames": columns["frames"] + frames.counts}
        return columns, Given(probabilities, probabilities, probabilities, features, finite, cost=1.0)

    @torch.no_grad()
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch``."""
        pixels = self.classifier.normalise(batch.canvases)
        probabilities = self.classifier.probabilities(self.classifier.features(pixels)).cpu()
        return Prediction(probabilities, probabilities)
