"""TDA: the frozen encoder beside two caches of its own features: what a class looks like, and what it does not.

Item by item, [peer] is TDA's own code with its ImageNet settings:

- each class keeps the 3 features of lowest entropy that were predicted as it; a new one fills a free place or replaces
  the worst if its entropy is lower [peer]
- a second cache keeps 2 a class the same way, but only of frames whose entropy over log2 C (so the code divides,
  natural over binary) lies between 0.2 and 0.5; what it holds of a frame is which classes had a probability between
  0.03 and 1 [peer]
- logits = the encoder's + 2 sum exp(-5 (1 - cosine)) of the first cache at its entries' classes - 0.117 sum
  exp(-(1 - cosine)) of the second at its masked classes [peer]; both caches take the frame in before it is labelled
  [peer]; the scale of the encoder's logits is the model's own [peer: 100]
- one view an image [peer: cross-domain sets]; with 64, the mean feature and logits of the tenth of lowest entropy
  [peer: ImageNet's variants, there with AugMix]. The peer tunes alpha, beta and thresholds a dataset; here they are
  fixed
- frame by frame, whatever the batch; never reset of itself [peer]

An image costs one forward-equivalent a view; streams go one after another. Nothing is spent on reporting. There
are no updates: nothing is tuned.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta import policy
from grpo_tta.classifier import Classifier
from grpo_tta.methods.look import Look, look_by
from grpo_tta.methods.online import check_not_empty, tensor_of
from grpo_tta.methods.windowed import Part, joined
from grpo_tta.settings import TdaSettings
from grpo_tta.types import Batch, Method, Prediction, Report, State

_KINDS = {
    "positive": ("keys", "classes", "entropies"),
    "negative": ("keys", "classes", "entropies", "masks"),
}
"""What a cache holds of each entry."""


@dataclass(frozen=True)
class _Seen:
    """A batch as both caches see it, ``[B, ...]``: the frame's feature, logits, entropy and probabilities."""

    features: Tensor
    logits: Tensor
    entropies: Tensor
    probabilities: Tensor


class _Cache:
    """Entries of one cache while a step lasts: filled in place, in tensors of its own."""

    def __init__(self, state: State, name: str, shots: int, room: int, device: torch.device) -> None:
        self._name, self._shots = name, shots
        self._tensors = {}
        for kind in _KINDS[name]:
            held = tensor_of(state, f"{name}_{kind}").to(device)
            self.size = len(held)
            self._tensors[kind] = torch.cat([held, held.new_zeros(room, *held.shape[1:])])

    def offer(self, kind: int, entropy: float, **content: Tensor) -> None:
        """Take an entry of class ``kind`` in, in place of its worst if there is no room and it is better."""
        own = (self._tensors["classes"][: self.size] == kind).nonzero().flatten()
        place = self.size
        if len(own) >= self._shots:
            worst = self._tensors["entropies"][own].argmax()
            if entropy >= float(self._tensors["entropies"][own[worst]]):
                return
            place = int(own[worst])
        else:
            self.size += 1
        self._tensors["classes"][place] = kind
        self._tensors["entropies"][place] = entropy
        for name, value in content.items():
            self._tensors[name][place] = value

    def logits(self, feature: Tensor, sharpness: float, classes: int) -> Tensor:
        """``[C]``: what the entries say of a feature ``[D]``, each at its masked classes or else at its own."""
        affinity = torch.exp(-sharpness * (1 - self._tensors["keys"][: self.size] @ feature))
        if "masks" in self._tensors:
            return affinity @ self._tensors["masks"][: self.size].float()
        return affinity.new_zeros(classes).index_add(0, self._tensors["classes"][: self.size], affinity)

    def save(self) -> State:
        """As it goes into the state."""
        return {f"{self._name}_{kind}": held[: self.size].cpu().clone() for kind, held in self._tensors.items()}


class Tda(Method):
    """TDA. State, beside ``frames`` and ``updates`` (always 0), for ``positive`` and ``negative``: ``_keys``
    ``[n, D]``, ``_classes`` int64 and ``_entropies`` float32 ``[n]``, and ``negative_masks`` uint8 ``[n, C]``; n is at
    most shots times C.

    A frame that is not finite enters no cache, and its report says ``finite=False``. A pull changes nothing.
    """

    name: ClassVar[str] = "tda"

    def __init__(self, classifier: Classifier, settings: TdaSettings | None = None) -> None:
        self.classifier = classifier
        self.settings = settings or TdaSettings()

    def initial_state(self) -> State:
        """Two empty caches."""
        state: State = {"frames": 0, "updates": 0}
        classes, width = self.classifier.class_vectors.shape
        for name in ("positive", "negative"):
            state[f"{name}_keys"] = torch.zeros(0, width)
            state[f"{name}_classes"] = torch.zeros(0, dtype=torch.int64)
            state[f"{name}_entropies"] = torch.zeros(0)
        return {**state, "negative_masks": torch.zeros(0, classes, dtype=torch.uint8)}

    @property
    def most_rows(self) -> Mapping[str, int]:
        """Full caches."""
        classes, settings = len(self.classifier.class_vectors), self.settings
        shots = {"positive": settings.positive_shots, "negative": settings.negative_shots}
        return {f"{name}_{kind}": classes * shots[name] for name in shots for kind in _KINDS[name]}

    @torch.no_grad()
    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        """Label ``batch`` and fill the caches, frame by frame; raises ``ValueError`` for an empty one."""
        check_not_empty(batch)
        positive, negative = self._caches(state, len(batch))
        parts = []
        for look in self._looks(batch):
            seen = _seen(look)
            rows = []
            for row in range(len(seen.features)):
                self._offer(seen, row, positive, negative)
                rows.append(self._logits(seen, row, positive, negative))
            probabilities = torch.softmax(torch.stack(rows), dim=-1)
            finite = bool(torch.isfinite(probabilities).all())
            cost = float(self.settings.views * len(rows))
            frozen, features = look.probabilities[:, 0], look.features[:, 0]
            parts.append(Part(probabilities.cpu(), frozen.cpu(), features.cpu(), finite, cost))
        report = joined(parts, [])
        new_state: State = {
            "frames": int(state["frames"]) + len(batch),
            "updates": 0,
            **positive.save(),
            **negative.save(),
        }
        return Prediction(report.probabilities, report.frozen_probabilities), new_state, report

    @torch.no_grad()
    def predict(self, batch: Batch, state: State) -> Prediction:
        """Label ``batch`` by the caches of ``state``; nothing enters them."""
        positive, negative = self._caches(state, 0)
        rows: list[Tensor] = []
        frozen: list[Tensor] = []
        for look in self._looks(batch):
            seen = _seen(look)
            rows += [self._logits(seen, row, positive, negative) for row in range(len(seen.features))]
            frozen.append(look.probabilities[:, 0])
        return Prediction(torch.softmax(torch.stack(rows), dim=-1).cpu(), torch.cat(frozen).cpu())

    def _looks(self, batch: Batch) -> Iterator[Look]:
        at_once = self.settings.images_at_once if self.settings.views > 1 else len(batch)
        for start in range(0, len(batch), at_once):
            part = batch[start : start + at_once]
            yield look_by(self.settings, self.classifier, part.canvases, part.seeds)

    def _caches(self, state: State, room: int) -> tuple[_Cache, _Cache]:
        settings, device = self.settings, self.classifier.device
        positive = _Cache(state, "positive", settings.positive_shots, room, device)
        return positive, _Cache(state, "negative", settings.negative_shots, room, device)

    def _offer(self, seen: _Seen, row: int, positive: _Cache, negative: _Cache) -> None:
        settings, probabilities = self.settings, seen.probabilities[row]
        if not bool(torch.isfinite(probabilities).all()):
            return
        key, entropy, best = seen.features[row], float(seen.entropies[row]), int(seen.logits[row].argmax())
        positive.offer(best, entropy, keys=key)
        if settings.entropy_from < entropy / math.log2(len(probabilities)) < settings.entropy_to:
            mask = (probabilities > settings.mask_from) & (probabilities < settings.mask_to)
            negative.offer(best, entropy, keys=key, masks=mask.to(torch.uint8))

    def _logits(self, seen: _Seen, row: int, positive: _Cache, negative: _Cache) -> Tensor:
        settings, feature, logits = self.settings, seen.features[row], seen.logits[row]
        for_it = positive.logits(feature, settings.positive_sharpness, len(logits))
        against_it = negative.logits(feature, settings.negative_sharpness, len(logits))
        return logits + settings.positive_weight * for_it - settings.negative_weight * against_it


def _seen(look: Look) -> _Seen:
    """Means over the confident views: one view is itself. Features are not made unit again. [peer]"""
    probabilities = look.trained(look.probabilities).mean(1)
    return _Seen(
        features=look.trained(look.features).mean(1),
        logits=look.trained(look.log_probabilities).mean(1),
        entropies=policy.entropy(probabilities),
        probabilities=probabilities,
    )
