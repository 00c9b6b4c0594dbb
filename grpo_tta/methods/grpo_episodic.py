"""GRPO-TTA episodic: each image is adapted from the frozen encoder and forgotten, many images in one forward.

[peer: RLCF and TPT reset before each image, one at a time; adapting a batch at once is ours] Confident views are
chosen without gradient and only those are forwarded again to be trained on, which gives the same update as keeping
the graph of all views. An image costs ``V + 3 S T + 1`` forward-equivalents: V frozen views, S trained ones in each
of T steps, and the prediction by the adapted encoder on the plain view.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from grpo_tta.classifier import Classifier
from grpo_tta.methods.grpo_group import SUMS, Group, GroupMaker, Look, sums_over_images
from grpo_tta.objective import policy_loss
from grpo_tta.optimiser import adam
from grpo_tta.per_image import PerImageTower
from grpo_tta.settings import GrpoSettings
from grpo_tta.tuning import FastWeights
from grpo_tta.types import Batch, Method, Prediction, Report, State, Update


@dataclass(frozen=True)
class _Adapted:
    """A chunk of images after their own steps, on CPU."""

    probabilities: Tensor
    frozen_probabilities: Tensor
    frozen_features: Tensor
    sums: Tensor
    gradient_norm: float
    """Sum over the images of their first gradients' norms."""


class EpisodicGrpo(Method):
    """GRPO-TTA episodic. State: ``frames`` and ``updates`` (one a batch); an image's label depends on the image
    alone."""

    name: ClassVar[str] = "grpo-episodic"

    def __init__(
        self, classifier: Classifier, settings: GrpoSettings | None = None, reward_model: Classifier | None = None
    ) -> None:
        settings = settings or GrpoSettings.episodic()
        if settings.mode != "episodic":
            raise ValueError(f"mode must be 'episodic' here, got {settings.mode!r}: use OnlineGrpo")
        self.classifier = classifier
        self.settings = settings
        self.fast_weights = FastWeights(classifier.visual, settings)
        self.tower = PerImageTower(classifier, self.fast_weights)
        self._maker = GroupMaker(classifier, settings, reward_model)
        self._cost = float(self._maker.forwards + 3 * settings.confident_views * settings.inner_steps + 1)

    def initial_state(self) -> State:
        """Counters at zero."""
        return {"frames": 0, "updates": 0}

    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        """Label ``batch``; only the counters move. Raises ``ValueError`` for an empty batch."""
        if not len(batch):
            raise ValueError("a batch must hold at least one image, got 0")
        at_once = self.settings.images_at_once
        chunks = [self._adapt(batch[start : start + at_once]) for start in range(0, len(batch), at_once)]
        probabilities = torch.cat([chunk.probabilities for chunk in chunks])
        sums = torch.stack([chunk.sums for chunk in chunks]).sum(0)
        new_state: State = {
            "frames": int(state["frames"]) + len(batch),
            "updates": int(state["updates"]) + 1,
        }
        update = Update(
            frame=int(new_state["frames"]),
            update=int(new_state["updates"]),
            images=len(batch),
            gradient_norm=sum(chunk.gradient_norm for chunk in chunks) / len(batch),
            forward_equivalents=self._cost,
            **dict(zip(SUMS, (sums / len(batch)).tolist(), strict=True)),
        )
        report = Report(
            probabilities=probabilities,
            frozen_probabilities=torch.cat([chunk.frozen_probabilities for chunk in chunks]),
            frozen_features=torch.cat([chunk.frozen_features for chunk in chunks]),
            updates=(update,),
            forward_equivalents=self._cost * len(batch),
            finite=bool(torch.isfinite(probabilities).all()) and bool(torch.isfinite(sums).all()),
        )
        return Prediction(probabilities, report.frozen_probabilities), new_state, report

    def predict(self, batch: Batch, state: State) -> Prediction:
        """The labels of ``step``: an episode starts and ends with its image."""
        return self.step(batch, state)[0]

    def _adapt(self, batch: Batch) -> _Adapted:
        look = self._maker.look(batch.canvases, batch.seeds, keep_plain=False)
        log_old = look.trained(look.log_probabilities)
        group = self._maker.group(look, batch.seeds, log_old, None)
        theta, losses, norms = self._steps(look, group, log_old)
        with torch.no_grad():
            features = self.tower.features(look.views[:, :1], theta)[:, 0]
            probabilities = self.classifier.probabilities(features)
        frozen = look.probabilities[:, 0]
        return _Adapted(
            probabilities.cpu(),
            frozen.cpu(),
            look.features[:, 0].cpu(),
            sums_over_images(losses, group, probabilities, frozen).cpu(),
            float(norms.sum()),
        )

    def _steps(self, look: Look, group: Group, log_old: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adapted ``theta`` ``[B, P]``, and the losses and gradient norms ``[B]`` of the first step."""
        settings = self.settings
        trained = look.trained(look.views)
        theta = self.fast_weights.start.expand(len(trained), -1)
        first = second = torch.zeros_like(theta)
        seen: list[tuple[Tensor, Tensor]] = []
        for number in range(1, settings.inner_steps + 1):
            theta = theta.detach().requires_grad_()
            features = self.tower.features(trained, theta)
            log_policy = torch.log_softmax(self.classifier.logits(features), dim=-1)
            losses = policy_loss(
                log_policy, log_old, log_old, group.classes, group.advantages, clip=settings.clip, kl=settings.kl
            ).mean(1)
            (gradient,) = torch.autograd.grad(losses.sum(), theta)
            seen.append((losses.detach(), gradient.norm(dim=1)))
            with torch.no_grad():
                theta, first, second = adam(theta, gradient, first, second, step=number, rate=settings.step_size)
        return theta.detach(), *seen[0]
