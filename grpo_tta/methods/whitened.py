"""The frozen encoder in the metric of the stream's own features: one forward an image, nothing trained.

What online GRPO-TTA takes for its teacher, as a method of its own: the similarity of `grpo_tta.whitening`, with logits
adjusted by the running mean of the runners-up as far as the stream is to be trusted (`grpo_tta.diversity`). [ours] It
is the choice where four forwards are too many, and what every method that trains is to be compared with.

What is reported to the guard is the encoder's own prediction, before all that: nothing is tuned, so there is nothing to
collapse. There are no updates.
"""

from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta import rewards
from grpo_tta.classifier import Classifier
from grpo_tta.methods.known import Known, memory
from grpo_tta.methods.online import check_not_empty, tensor_of
from grpo_tta.settings import WhitenedSettings
from grpo_tta.types import Batch, Method, Prediction, Report, State

_WINDOW = 16


class Whitened(Method):
    """The whitened encoder. State: ``frames``, ``updates`` (always 0), ``marginal`` ``[C]``, the columns of `Known`.

    A frame that is not finite is left out of all statistics, and its report says ``finite=False``.
    """

    name: ClassVar[str] = "whitened"

    def __init__(self, classifier: Classifier, settings: WhitenedSettings | None = None) -> None:
        self.classifier = classifier
        self.settings = settings or WhitenedSettings()
        self._horizon = memory(self.settings.marginal_frames_per_class, classifier.classes, _WINDOW)

    def initial_state(self) -> State:
        """Nothing known: labels are the frozen encoder's."""
        classes = self.classifier.classes
        known = Known.nothing(self.classifier, _WINDOW, adapted=False)
        return {"frames": 0, "updates": 0, "marginal": torch.full((classes,), 1.0 / classes), **known.columns()}

    @torch.no_grad()
    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        """Label ``batch``, each frame by the windows that ended before it; raises ``ValueError`` for an empty one."""
        check_not_empty(batch)
        classifier, device = self.classifier, self.classifier.device
        features = classifier.features(classifier.normalise(batch.canvases))
        frames, marginal = int(state["frames"]), tensor_of(state, "marginal").to(device)
        known, labels, start = Known.load(state, device), [], 0
        while start < len(batch):
            row = frames % _WINDOW
            part = features[start : start + _WINDOW - row]
            labels.append(self._labels(part, known, marginal))
            known = known.with_frames(row, part)
            frames, start = frames + len(part), start + len(part)
            if frames % _WINDOW == 0:
                known, marginal = self._after_window(known, marginal, frames // _WINDOW)
        served, frozen = torch.cat(labels).cpu(), classifier.probabilities(features).cpu()
        report = Report(
            probabilities=frozen,
            frozen_probabilities=frozen,
            frozen_features=features.cpu(),
            forward_equivalents=float(len(batch)),
            finite=bool(torch.isfinite(served).all()),
        )
        after: State = {"frames": frames, "updates": 0, "marginal": marginal.cpu(), **known.columns()}
        return Prediction(served, frozen), after, report

    @torch.no_grad()
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch`` by what ``state`` knows."""
        classifier, device = self.classifier, self.classifier.device
        features = classifier.features(classifier.normalise(batch.canvases))
        marginal = tensor_of(state, "marginal").to(device)
        labels = self._labels(features, Known.load(state, device), marginal)
        return Prediction(labels.cpu(), classifier.probabilities(features).cpu())

    def _labels(self, features: Tensor, known: Known, marginal: Tensor) -> Tensor:
        adjustment = self.settings.logit_adjustment * known.trust * rewards.marginal_dispersion(marginal)
        return torch.softmax(known.teacher(features, self.classifier) + adjustment, dim=-1)

    def _after_window(self, known: Known, marginal: Tensor, number: int) -> tuple[Known, Tensor]:
        known, window = known.after_window(self.classifier, number, self._horizon)
        return known, window.marginal_after(marginal, window.teacher, self._horizon)
