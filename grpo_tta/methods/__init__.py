"""The registry of methods. A new one is a file here and an entry in ``METHODS``.

An entry says how a method is set and made. Its settings are a frozen dataclass declared beside the method; a
configuration layer finds it here by the method's name and declares no field a second time.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from grpo_tta.classifier import Classifier
from grpo_tta.methods.batclip import Batclip, BatclipSettings
from grpo_tta.methods.deyo import Deyo, DeyoSettings
from grpo_tta.methods.dota import Dota, DotaSettings
from grpo_tta.methods.grpo_episodic import EpisodicGrpo
from grpo_tta.methods.grpo_online import OnlineGrpo
from grpo_tta.methods.prior_correction import PriorCorrection, PriorCorrectionSettings
from grpo_tta.methods.rlcf import Rlcf, RlcfSettings
from grpo_tta.methods.sar import Sar, SarSettings
from grpo_tta.methods.tda import Tda, TdaSettings
from grpo_tta.methods.tent import Tent, TentSettings
from grpo_tta.methods.tpt_norm import TptNorm, TptNormSettings
from grpo_tta.methods.view_consensus import Vte, VteSettings, Zero, ZeroSettings
from grpo_tta.methods.whitened import Whitened, WhitenedSettings
from grpo_tta.methods.zero_shot import ZeroShot, ZeroShotSettings
from grpo_tta.settings import GrpoSettings
from grpo_tta.types import Method

__all__ = ["METHODS", "EpisodicGrpo", "MethodEntry", "OnlineGrpo", "ZeroShot", "create_method"]


@dataclass(frozen=True)
class MethodEntry:
    """``settings``: the class of the method's settings, all of whose fields have defaults. ``make`` takes the
    classifier and such settings, and where ``takes_reward_model`` another frozen classifier or ``None``."""

    settings: type[Any]
    make: Callable[..., Method]
    takes_reward_model: bool = False

    def has(self, field: str) -> bool:
        """Whether the method's settings have a field of that name."""
        return field in {own.name for own in fields(self.settings)}


def _grpo(classifier: Classifier, settings: GrpoSettings, reward_model: Classifier | None) -> Method:
    kind = OnlineGrpo if settings.mode == "online" else EpisodicGrpo
    return kind(classifier, settings, reward_model)


METHODS: dict[str, MethodEntry] = {
    "grpo": MethodEntry(GrpoSettings, _grpo, takes_reward_model=True),
    "zero-shot": MethodEntry(ZeroShotSettings, ZeroShot),
    "whitened": MethodEntry(WhitenedSettings, Whitened),
    "zero": MethodEntry(ZeroSettings, Zero),
    "vte": MethodEntry(VteSettings, Vte),
    "tent": MethodEntry(TentSettings, Tent),
    "sar": MethodEntry(SarSettings, Sar),
    "deyo": MethodEntry(DeyoSettings, Deyo),
    "tpt-norm": MethodEntry(TptNormSettings, TptNorm),
    "rlcf": MethodEntry(RlcfSettings, Rlcf),
    "tda": MethodEntry(TdaSettings, Tda),
    "dota": MethodEntry(DotaSettings, Dota),
    "batclip": MethodEntry(BatclipSettings, Batclip),
    "prior-correction": MethodEntry(PriorCorrectionSettings, PriorCorrection),
}


def create_method(
    name: str, classifier: Classifier, settings: object | None = None, *, reward_model: Classifier | None = None
) -> Method:
    """The method called ``name`` (a key of ``METHODS``) over ``classifier``; ``settings`` are of its entry's class and
    default to the method's own: for ``grpo`` the online recipe.

    ``reward_model``: another frozen classifier with the same class names, for ``grpo``'s alignment of that name. Raises
    ``ValueError`` for an unknown name, another method's settings, or a reward model that does not fit.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    entry = METHODS[name]
    settings = entry.settings() if settings is None else settings
    if not isinstance(settings, entry.settings):
        raise ValueError(
            f"settings of method {name!r} must be {entry.settings.__name__}, got {type(settings).__name__}"
        )
    if entry.takes_reward_model:
        return entry.make(classifier, settings, reward_model)
    if reward_model is not None:
        raise ValueError(f"method {name!r} takes no reward model")
    return entry.make(classifier, settings)
