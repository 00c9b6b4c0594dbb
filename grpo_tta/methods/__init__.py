"""The registry of methods. A new one is a file here and an entry in ``METHODS``."""

from collections.abc import Callable

from grpo_tta.classifier import Classifier
from grpo_tta.methods.grpo_episodic import EpisodicGrpo
from grpo_tta.methods.grpo_online import OnlineGrpo
from grpo_tta.methods.zero_shot import ZeroShot
from grpo_tta.settings import GrpoSettings
from grpo_tta.types import Method

__all__ = ["METHODS", "EpisodicGrpo", "OnlineGrpo", "ZeroShot", "create_method"]

Factory = Callable[[Classifier, GrpoSettings, Classifier | None], Method]


def _grpo(classifier: Classifier, settings: GrpoSettings, reward_model: Classifier | None) -> Method:
    kind = OnlineGrpo if settings.mode == "online" else EpisodicGrpo
    return kind(classifier, settings, reward_model)


def _zero_shot(classifier: Classifier, settings: GrpoSettings, reward_model: Classifier | None) -> Method:
    return ZeroShot(classifier)


METHODS: dict[str, Factory] = {"grpo": _grpo, "zero-shot": _zero_shot}


def create_method(
    name: str,
    classifier: Classifier,
    settings: GrpoSettings | None = None,
    *,
    reward_model: Classifier | None = None,
) -> Method:
    """The method called ``name`` (a key of ``METHODS``) over ``classifier``; ``settings`` default to the online
    recipe.

    ``reward_model``: another frozen classifier with the same class names, for the alignment of that name. Raises
    ``ValueError`` for an unknown name or a reward model that does not fit.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name](classifier, settings or GrpoSettings(), reward_model)
