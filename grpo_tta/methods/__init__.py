"""The registry of methods: a new one is a file here, its settings in `settings`, and an entry in ``METHODS``.

The registry imports no method, and so no torch, before one is made. A configuration layer finds a method's settings
here by the method's name and declares no field a second time.
"""

from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from grpo_tta import settings

if TYPE_CHECKING:
    from grpo_tta.classifier import Classifier
    from grpo_tta.types import Method

__all__ = ["METHODS", "MethodEntry", "create_method"]


@dataclass(frozen=True)
class MethodEntry:
    """``settings``: the class of the method's settings, all of whose fields have defaults. ``place``: module and class
    of the method below here, made of a classifier, such settings and, where ``takes_reward_model``, another frozen
    classifier or ``None``. ``episodic``: the class where the settings' ``mode`` is that."""

    settings: type[Any]
    place: str
    episodic: str | None = None
    takes_reward_model: bool = False

    def has(self, field: str) -> bool:
        """Whether the method's settings have a field of that name."""
        return field in {own.name for own in fields(self.settings)}

    def kind(self, own: Any) -> "type[Method]":
        """The method's class under these settings."""
        episodic = self.episodic is not None and own.mode == "episodic"
        module, _, name = (self.episodic if episodic and self.episodic else self.place).partition(".")
        return cast("type[Method]", getattr(import_module(f"grpo_tta.methods.{module}"), name))


METHODS: dict[str, MethodEntry] = {
    "grpo": MethodEntry(
        settings.GrpoSettings, "grpo_online.OnlineGrpo", "grpo_episodic.EpisodicGrpo", takes_reward_model=True
    ),
    "zero-shot": MethodEntry(settings.ZeroShotSettings, "zero_shot.ZeroShot"),
    "whitened": MethodEntry(settings.WhitenedSettings, "whitened.Whitened"),
    "zero": MethodEntry(settings.ZeroSettings, "view_consensus.Zero"),
    "vte": MethodEntry(settings.VteSettings, "view_consensus.Vte"),
    "tent": MethodEntry(settings.TentSettings, "tent.Tent"),
    "sar": MethodEntry(settings.SarSettings, "sar.Sar"),
    "deyo": MethodEntry(settings.DeyoSettings, "deyo.Deyo"),
    "tpt-norm": MethodEntry(settings.TptNormSettings, "tpt_norm.TptNorm"),
    "rlcf": MethodEntry(settings.RlcfSettings, "rlcf.Rlcf"),
    "tda": MethodEntry(settings.TdaSettings, "tda.Tda"),
    "dota": MethodEntry(settings.DotaSettings, "dota.Dota"),
    "batclip": MethodEntry(settings.BatclipSettings, "batclip.Batclip"),
    "prior-correction": MethodEntry(settings.PriorCorrectionSettings, "prior_correction.PriorCorrection"),
}


def create_method(
    name: str,
    classifier: "Classifier",
    own: object | None = None,
    *,
    reward_model: "Classifier | None" = None,
) -> "Method":
    """The method called ``name`` (a key of ``METHODS``) over ``classifier``; ``own``: its settings, of its entry's
    class, which default to the method's own: for ``grpo`` the online recipe.

    ``reward_model``: another frozen classifier with the same class names, for ``grpo``'s alignment of that name. Raises
    ``ValueError`` for an unknown name, another method's settings, or a reward model that does not fit.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    entry = METHODS[name]
    own = entry.settings() if own is None else own
    if not isinstance(own, entry.settings):
        raise ValueError(f"settings of method {name!r} must be {entry.settings.__name__}, got {type(own).__name__}")
    make: Any = entry.kind(own)
    if entry.takes_reward_model:
        return cast("Method", make(classifier, own, reward_model))
    if reward_model is not None:
        raise ValueError(f"method {name!r} takes no reward model")
    return cast("Method", make(classifier, own))
