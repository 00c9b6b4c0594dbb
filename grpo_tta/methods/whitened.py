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
from grpo_tta.methods.packed import Frames, FrozenMethod, Given, all_finite
from grpo_tta.owners import Columns, chosen, of_owner, put, stack, unstack
from grpo_tta.settings import WhitenedSettings
from grpo_tta.types import Batch, Prediction, State

_WINDOW = 16


class Whitened(FrozenMethod):
    """The whitened encoder. State: ``frames``, ``updates`` (always 0), ``marginal`` ``[C]``, the columns of `Known`.

    A frame that is not finite is left out of all statistics, and its report says ``finite=False``.
    """

    name: ClassVar[str] = "whitened"

    def __init__(self, classifier: Classifier, settings: WhitenedSettings | None = None) -> None:
        super().__init__(classifier, _WINDOW)
        self.settings = settings or WhitenedSettings()
        self._horizon = memory(self.settings.marginal_frames_per_class, classifier.classes, _WINDOW)

    def initial_state(self) -> State:
        """Nothing known: labels are the frozen encoder's."""
        classes = self.classifier.classes
        (known,) = unstack(Known.nothing(self.classifier, _WINDOW, adapted=False).columns())
        return {"frames": 0, "updates": 0, "marginal": torch.full((classes,), 1.0 / classes), **known}

    @torch.no_grad()
    def _take(self, frames: Frames, columns: Columns) -> tuple[Columns, Given]:
        """Each frame by the windows that ended before it."""
        classifier, owner, features = self.classifier, frames.owner, frames.features
        served = self._labels(features, owner, columns)
        frozen, known = classifier.probabilities(features), Known.of(columns)
        finite = all_finite(served, frames)
        known = known.with_frames(owner, frames.place, features)
        columns = {**columns, **known.columns(), "frames": columns["frames"] + frames.counts}
        due = self._due(columns)
        if due:
            columns = put(columns, due, self._after_window(chosen(columns, due)))
        return columns, Given(served, frozen, frozen, features, finite, cost=1.0)

    @torch.no_grad()
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch`` by what ``state`` knows."""
        classifier, device = self.classifier, self.classifier.device
        features = classifier.features(classifier.normalise(batch.canvases))
        owner = torch.zeros(len(batch), dtype=torch.int64, device=device)
        labels = self._labels(features, owner, stack([state], device))
        return Prediction(labels.cpu(), classifier.probabilities(features).cpu())

    def _labels(self, features: Tensor, owner: Tensor, columns: Columns) -> Tensor:
        known = Known.of(columns)
        weight = self.settings.logit_adjustment * known.trust[:, None]
        adjustment = of_owner(weight * rewards.marginal_dispersion(columns["marginal"]), owner)
        return torch.softmax(known.teacher(features[:, None], owner, self.classifier)[:, 0] + adjustment, dim=-1)

    def _after_window(self, columns: Columns) -> Columns:
        number = columns["frames"] // _WINDOW
        known, window = Known.of(columns).after_window(self.classifier, number, self._horizon)
        marginal = window.marginal_after(columns["marginal"], window.teacher, self._horizon)
        return {**columns, **known.columns(), "marginal": marginal}
