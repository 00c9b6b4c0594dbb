"""What both modes of GRPO-TTA share: drawing groups and rewarding them, from a frozen look at a batch.

Everything here is without gradient and depends on frozen models, the images and what is known of the stream by their
frozen features, never on what is being trained, but for the one dispersion reward (``probability``) that is about the
current policy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta import policy, rewards
from grpo_tta.classifier import Classifier
from grpo_tta.methods.look import Look, look_at
from grpo_tta.objective import advantages, group_weights, policy_loss
from grpo_tta.settings import GrpoSettings

SUMS = ("loss", "reward", "alignment", "dispersion", "advantage", "entropy", "disagreement")


@dataclass(frozen=True)
class Group:
    """Candidates of every trained view and what they are worth: all ``[B, S, G]``."""

    classes: Tensor
    alignment: Tensor
    dispersion: Tensor
    """Not yet weighted."""
    rewards: Tensor
    weights: Tensor
    """How much each candidate counts; they sum to 1."""
    advantages: Tensor


class GroupMaker:
    """Looks, draws and rewards by ``settings``. Raises ``ValueError`` where the classifier lacks what a reward needs.

    ``forwards``: forwards without gradient that a look and its rewards cost an image.
    """

    def __init__(self, classifier: Classifier, settings: GrpoSettings, reward_model: Classifier | None) -> None:
        if settings.alignment == "ensemble" and classifier.ensemble_vectors is None:
            raise ValueError("alignment 'ensemble' needs ensemble vectors: give load_classifier ensemble_templates")
        if (settings.alignment == "reward_model") != (reward_model is not None):
            raise ValueError(f"alignment 'reward_model' and a reward model go together, got {settings.alignment!r}")
        if reward_model is not None and reward_model.class_names != classifier.class_names:
            raise ValueError("the reward model must have the same class names, in the same order")
        self._classifier = classifier
        self._settings = settings
        self._reward_model = reward_model
        self.forwards = settings.views + (reward_model is not None)

    def look(self, canvases: Tensor, seeds: Tensor, *, keep_plain: bool) -> Look:
        """One frozen forward over all views of canvases ``[B, 3, H, W]``; see `grpo_tta.methods.look`."""
        settings = self._settings
        return look_at(
            self._classifier,
            canvases,
            seeds,
            views=settings.views,
            confident_views=settings.confident_views,
            view_min_area=settings.view_min_area,
            seed=settings.seed,
            keep_plain=keep_plain,
        )

    @torch.no_grad()
    def group(self, look: Look, seeds: Tensor, log_old: Tensor, of_marginal: Tensor | None) -> Group:
        """Candidates drawn from the look's policy, and their rewards ``alignment + weight * dispersion``.

        [paper: candidates from CLIP's similarity distribution; the frozen one, ours] ``log_old`` ``[B, S, C]``: the
        policy when the group is drawn; ``of_marginal`` ``[B, C]``, or one of all: the dispersion reward ``marginal``,
        ``None`` where no stream is remembered.
        """
        settings = self._settings
        frozen = look.trained(look.log_probabilities)
        if settings.group_mode == "topk":
            classes = policy.top_group(frozen, settings.group_size)
        else:
            classes = policy.sampled_group(
                frozen, settings.group_size, settings.temperature, seeds.to(frozen.device), settings.seed
            )
        alignment = rewards.of_group(self._alignment(look), classes)
        dispersion = self._dispersion(classes, log_old, of_marginal)
        total = alignment + settings.dispersion_weight * dispersion
        weights = group_weights(rewards.of_group(log_old, classes), settings.group_weights)
        return Group(classes, alignment, dispersion, total, weights, advantages(total, settings.advantage, weights))

    def loss(self, log_policy: Tensor, log_old: Tensor, reference: Tensor, group: Group) -> Tensor:
        """GRPO's loss of each image on its group, ``[B]``, a mean over views, from log probabilities ``[B, S, C]``:
        the policy's, those when the group was drawn, the frozen policy's. Differentiable in ``log_policy`` alone."""
        return policy_loss(
            log_policy,
            log_old,
            reference,
            group.classes,
            group.advantages,
            clip=self._settings.clip,
            kl=self._settings.kl,
            weights=group.weights,
        ).mean(1)

    def _alignment(self, look: Look) -> Tensor:
        """Alignment reward of every class on the trained views, ``[B, S, C]``."""
        kind, classifier = self._settings.alignment, self._classifier
        if kind in ("frozen", "whitened"):  # the look's probabilities are then those of that similarity
            return look.trained(look.probabilities)
        if kind == "view":
            return look.trained(rewards.clip_score(look.features, classifier.class_vectors))
        if kind == "ensemble":
            assert classifier.ensemble_vectors is not None
            logits = classifier.logit_scale * look.features @ classifier.ensemble_vectors.T
            return look.trained(torch.softmax(logits, dim=-1))
        if kind == "consensus":
            values = rewards.consensus(look.probabilities, look.confident)
        else:
            values = self._other_probabilities(look.canvases)
        return values[:, None].expand(-1, look.chosen.shape[1], -1)

    def _other_probabilities(self, canvases: Tensor) -> Tensor:
        """``[B, C]`` of the reward model on the plain view, resized to what it takes."""
        model = self._reward_model
        assert model is not None
        if tuple(canvases.shape[2:]) != model.preprocess.size:
            resized = F.interpolate(canvases.float(), model.preprocess.size, mode="bicubic", antialias=True)
            canvases = resized.round().clamp(0, 255).to(torch.uint8)
        probabilities = model.probabilities(model.features(model.normalise(canvases)))
        return probabilities.to(self._classifier.device)

    def _dispersion(self, classes: Tensor, log_old: Tensor, of_marginal: Tensor | None) -> Tensor:
        kind = self._settings.dispersion
        if kind == "marginal":
            assert of_marginal is not None
            return rewards.of_group(of_marginal[:, None].expand(len(classes), classes.shape[1], -1), classes)
        if kind == "probability":
            return rewards.probability_dispersion(rewards.of_group(log_old, classes).exp())
        if kind == "text":
            return rewards.text_dispersion(self._classifier.class_vectors, classes)
        return torch.zeros(classes.shape, device=classes.device)


def figures(losses: Tensor, group: Group, probabilities: Tensor, frozen: Tensor) -> Tensor:
    """Of every image ``[B, 7]``, in the order of ``SUMS``, from losses ``[B]`` and both encoders' probabilities
    ``[B, C]``."""
    values = (
        losses,
        group.rewards.mean((1, 2)),
        group.alignment.mean((1, 2)),
        group.dispersion.mean((1, 2)),
        group.advantages.abs().mean((1, 2)),
        policy.normalised_entropy(probabilities),
        (probabilities.argmax(-1) != frozen.argmax(-1)).float(),
    )
    return torch.stack(values, 1)
