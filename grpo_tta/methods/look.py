"""A batch as the frozen encoder sees it, in one view an image or many: where every method of views begins."""

from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_tta import policy
from grpo_tta.classifier import Classifier
from grpo_tta.settings import ViewSettings
from grpo_tta.views import make_views


@dataclass(frozen=True)
class Look:
    """A batch as the frozen encoder sees it: V views an image, S of them chosen to be trained on."""

    canvases: Tensor
    """Uint8 ``[B, 3, H, W]``."""
    views: Tensor
    """Pixels ``[B, V, 3, H, W]``; view 0 is the plain one."""
    features: Tensor
    """``[B, V, D]``."""
    log_probabilities: Tensor
    """``[B, V, C]``."""
    probabilities: Tensor
    """``[B, V, C]``."""
    confident: Tensor
    """Indices ``[B, S]`` of the views of lowest entropy."""
    chosen: Tensor
    """Indices ``[B, S]`` of the trained views."""

    def trained(self, values: Tensor) -> Tensor:
        """The trained views' rows ``[B, S, ...]`` of ``[B, V, ...]``."""
        if values.shape[1] == 1:
            return values
        index = self.chosen.reshape(self.chosen.shape + (1,) * (values.ndim - 2))
        return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


@torch.no_grad()
def look_at(
    classifier: Classifier,
    canvases: Tensor,
    seeds: Tensor,
    *,
    views: int,
    confident_views: int,
    view_min_area: float,
    seed: int,
    keep_plain: bool = False,
) -> Look:
    """One frozen forward over all views of canvases ``[B, 3, H, W]``.

    The trained views are the confident ones, those of lowest entropy [peer:TPT]; with ``keep_plain`` the plain view is
    one of them, in the first place, whatever its entropy.
    """
    pixels = classifier.normalise(canvases)
    images = make_views(pixels, seeds, views, min_area=view_min_area, seed=seed)
    features = classifier.features(images.flatten(0, 1)).view(*images.shape[:2], -1)
    log_probabilities = torch.log_softmax(classifier.logits(features), dim=-1)
    probabilities = log_probabilities.exp()
    confident = policy.confident_views(probabilities, confident_views)
    chosen = _with_plain(probabilities, confident_views) if keep_plain else confident
    return Look(canvases, images, features, log_probabilities, probabilities, confident, chosen)


def look_by(settings: ViewSettings, classifier: Classifier, canvases: Tensor, seeds: Tensor) -> Look:
    """`look_at` with a peer's settings."""
    return look_at(
        classifier,
        canvases,
        seeds,
        views=settings.views,
        confident_views=settings.confident_views,
        view_min_area=settings.view_min_area,
        seed=settings.seed,
    )


def _with_plain(probabilities: Tensor, confident_views: int) -> Tensor:
    plain = torch.zeros(len(probabilities), 1, dtype=torch.int64, device=probabilities.device)
    others = confident_views - 1
    if not others:
        return plain
    return torch.cat([plain, 1 + policy.confident_views(probabilities[:, 1:], others)], dim=1)
