"""A batch as the frozen encoder sees it, in one view an image or many: where every method of views begins."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from grpo_tta import policy
from grpo_tta.checks import check_fields
from grpo_tta.classifier import Classifier
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


@dataclass(frozen=True)
class ViewSettings:
    """Views as the peers make them; raises ``ValueError`` naming the field, the rule and the value."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    views: int = 64
    """The plain one and ``views - 1`` random resized crops with flips. [peer:TPT, RLCF, ZERO, VTE]"""
    confident_share: float = 0.1
    """Share of the views, those of lowest entropy, that count; their number is rounded down. [peer:TPT, RLCF, VTE]"""
    view_min_area: float = 0.08
    """Smallest area of a crop, as a share of the image; the largest is 1. [peer: torchvision's default]"""
    images_at_once: int = 4
    """Images whose views are forwarded together; bounds memory, does not change a label. [ours]"""
    seed: int = 0
    """Mixed into every image's own seed."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            at_least={"views": 1, "images_at_once": 1},
            positive=("confident_share", "view_min_area"),
            shares=("confident_share", "view_min_area"),
        )

    @property
    def confident_views(self) -> int:
        """How many of an image's views count: at least one, rounded down. [peer:TPT]"""
        return max(1, int(self.confident_share * self.views))


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
