"""The frozen classifier as a method: nothing is learnt, everything is reported, so that a guard can watch it."""

from typing import ClassVar

import torch

from grpo_tta.classifier import Classifier
from grpo_tta.settings import ZeroShotSettings
from grpo_tta.types import Batch, Method, Prediction, Report, State


class ZeroShot(Method):
    """One forward an image. State: ``frames`` and ``updates`` (always 0)."""

    name: ClassVar[str] = "zero-shot"

    def __init__(self, classifier: Classifier, settings: ZeroShotSettings | None = None) -> None:
        self.classifier = classifier
        self.settings = settings or ZeroShotSettings()

    def initial_state(self) -> State:
        """Counters at zero."""
        return {"frames": 0, "updates": 0}

    @torch.no_grad()
    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        """Label ``batch``; only ``frames`` moves."""
        features = self.classifier.features(self.classifier.normalise(batch.canvases))
        probabilities = self.classifier.probabilities(features).cpu()
        report = Report(
            probabilities=probabilities,
            frozen_probabilities=probabilities,
            frozen_features=features.cpu(),
            forward_equivalents=float(len(batch)),
            finite=bool(torch.isfinite(probabilities).all()),
        )
        new_state: State = {**state, "frames": int(state["frames"]) + len(batch)}
        return Prediction(probabilities, probabilities), new_state, report

    @torch.no_grad()
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch``."""
        pixels = self.classifier.normalise(batch.canvases)
        probabilities = self.classifier.probabilities(self.classifier.features(pixels)).cpu()
        return Prediction(probabilities, probabilities)
