"""DOTA: the frozen encoder beside a Gaussian of its own features for each class, estimated along the stream.

Item by item, [peer] is DOTA's own code with the values it publishes, which vary by data set:

- class means start at the class vectors, covariances at ``sigma I``, counts at 1 frame a class [peer]
- a frame is labelled first; then means, counts and covariance take it in, at every class by its zero-shot probability,
  the covariance about the means of before [peer]
- precision: inverse of ``(1 - epsilon) covariance + epsilon I`` [peer; from the first frame on, where the peer starts
  with ``I / sigma``]; logits of a feature: ``x L mu - mu L mu / 2`` [peer]
- labels: softmax of the encoder's logits plus ``min(rho mean count, eta)`` times those [peer]; the scale of the
  encoder's logits is the model's own [peer: 100]
- one covariance for all classes, every frame alike in it. The peer keeps one a class and inverts their plain mean,
  where a class that was hardly shown counts as much as the others; C x D x D numbers do not fit a stream's state [ours]
- taken in 16 frames at a time from a window of features kept in the state, however they arrive, because each time
  costs the solution of a D x D system [ours; peer: each image]
- one view an image; the peer takes the tenth of 64 of lowest entropy [ours: one forward]
- never reset of itself [peer]

An image costs one forward-equivalent; streams go one after another. Nothing is spent on reporting. There
are no updates: nothing is tuned.

A state holds (C + D + 15) D + C numbers: 3.1 MB at 1,000 classes of 512, far above the 700 KB that this project asks of
its own methods there, and a quarter of what `grpo_tta.methods.tda` may grow to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta.classifier import Classifier
from grpo_tta.methods.online import check_not_empty, tensor_of
from grpo_tta.settings import DotaSettings
from grpo_tta.types import Batch, Method, Prediction, Report, State


@dataclass(frozen=True)
class _Gaussians:
    """``means`` ``[C, D]``, ``covariance`` ``[D, D]``, ``counts`` ``[C]``, and ``window`` ``[n, D]``: the features that
    none of them has taken in."""

    means: Tensor
    covariance: Tensor
    counts: Tensor
    window: Tensor

    @classmethod
    def load(cls, state: State, device: torch.device) -> "_Gaussians":
        """From a method's state."""
        names = ("means", "covariance", "counts", "window")
        return cls(*(tensor_of(state, name).to(device) for name in names))

    def save(self) -> State:
        """The inverse of ``load``."""
        return {name: value.cpu() for name, value in vars(self).items()}

    def discriminant(self, epsilon: float) -> tuple[Tensor, Tensor]:
        """``L mu`` ``[D, C]`` and ``mu L mu / 2`` ``[C]``. [peer]"""
        identity = torch.eye(len(self.covariance), device=self.covariance.device)
        directions = torch.linalg.solve((1 - epsilon) * self.covariance + epsilon * identity, self.means.T)
        return directions, (self.means.T * directions).sum(0) / 2

    def after_window(self, classifier: Classifier) -> "_Gaussians":
        """With the window taken in, and an empty one."""
        features, shares = self.window, classifier.probabilities(self.window)
        shown, sums = shares.sum(0), shares.T @ features
        counts = self.counts + shown
        across = sums.T @ self.means
        own = self.means.T @ (shown[:, None] * self.means)
        scatter = features.T @ features - across - across.T + own
        return _Gaussians(
            means=(self.counts[:, None] * self.means + sums) / counts[:, None],
            covariance=(self.counts.sum() * self.covariance + scatter) / counts.sum(),
            counts=counts,
            window=features[:0],
        )


class Dota(Method):
    """DOTA. State: ``frames``, ``updates`` (always 0), ``means`` ``[C, D]``, ``covariance`` ``[D, D]``, ``counts``
    ``[C]``, ``window`` ``[n, D]`` with n < ``update_every``.

    A frame that is not finite enters no window, and its report says ``finite=False``. A pull changes nothing.
    """

    name: ClassVar[str] = "dota"

    def __init__(self, classifier: Classifier, settings: DotaSettings | None = None) -> None:
        self.classifier = classifier
        self.settings = settings or DotaSettings()

    def initial_state(self) -> State:
        """The class vectors, a round covariance, one frame a class, an empty window."""
        vectors = self.classifier.class_vectors.cpu()
        classes, width = vectors.shape
        start = _Gaussians(
            vectors.clone(), self.settings.sigma * torch.eye(width), torch.ones(classes), torch.zeros(0, width)
        )
        return {"frames": 0, "updates": 0, **start.save()}

    @property
    def most_rows(self) -> Mapping[str, int]:
        """An unfinished window."""
        return {"window": self.settings.update_every - 1}

    @torch.no_grad()
    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        """Label ``batch``, each frame by the windows that ended before it; raises ``ValueError`` for an empty one."""
        check_not_empty(batch)
        classifier, every = self.classifier, self.settings.update_every
        features = classifier.features(classifier.normalise(batch.canvases))
        frames, gaussians = int(state["frames"]), _Gaussians.load(state, classifier.device)
        labels, start = [], 0
        while start < len(batch):
            part = features[start : start + every - frames % every]
            labels.append(self._labels(part, gaussians))
            finite = torch.isfinite(part).all(1)
            gaussians = replace(gaussians, window=torch.cat([gaussians.window, part[finite]]))
            frames, start = frames + len(part), start + len(part)
            if frames % every == 0:
                gaussians = gaussians.after_window(classifier)
        served, frozen = torch.cat(labels).cpu(), classifier.probabilities(features).cpu()
        report = Report(
            probabilities=served,
            frozen_probabilities=frozen,
            frozen_features=features.cpu(),
            forward_equivalents=float(len(batch)),
            finite=bool(torch.isfinite(served).all()),
        )
        return Prediction(served, frozen), {"frames": frames, "updates": 0, **gaussians.save()}, report

    @torch.no_grad()
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch`` by the Gaussians of ``state``; nothing enters them."""
        features = self.classifier.features(self.classifier.normalise(batch.canvases))
        labels = self._labels(features, _Gaussians.load(state, self.classifier.device))
        return Prediction(labels.cpu(), self.classifier.probabilities(features).cpu())

    def _labels(self, features: Tensor, gaussians: _Gaussians) -> Tensor:
        directions, offsets = gaussians.discriminant(self.settings.epsilon)
        weight = min(self.settings.rho * float(gaussians.counts.mean()), self.settings.eta)
        return torch.softmax(self.classifier.logits(features) + weight * (features @ directions - offsets), dim=-1)
