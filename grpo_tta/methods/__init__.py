"""The registry of methods: a new one is a file here, its settings in `settings`, and an entry in ``METHODS``.

The registry imports no method, and so no torch, before one is made. A configuration layer finds a method's settings
here by the method's name and declares no field a second time.
"""

from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from grpo_tta import settings as declared

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

    def kind(self, settings: Any) -> "type[Method]":
        """The method's class under these settings."""
        place = self.place
        if self.episodic is not None and settings.mode == "episodic":
            place = self.episodic
        module, _, name = place.partition(".")
        return cast("type[Method]", getattr(import_module(f"grpo_tta.methods.{module}"), name))


METHODS: dict[str, MethodEntry] = {
    "grpo": MethodEntry(
        declared.GrpoSettings, "grpo_online.OnlineGrpo", "grpo_episodic.EpisodicGrpo", takes_reward_model=True
    ),
    "zero-shot": MethodEntry(declared.ZeroShotSettings, "zero_shot.ZeroShot"),
    "whitened": MethodEntry(declared.WhitenedSettings, "whitened.Whitened"),
    "zero": MethodEntry(declared.ZeroSettings, "view_consensus.Zero"),
    "vte": MethodEntry(declared.VteSettings, "view_consensus.Vte"),
    "tent": MethodEntry(declared.TentSettings, "tent.Tent"),
    "sar": MethodEntry(declared.SarSettings, "sar.Sar"),
    "deyo": MethodEntry(declared.DeyoSettings, "deyo.Deyo"),
    "tpt-norm": MethodEntry(declared.TptNormSettings, "tpt_norm.TptNorm"),
    "rlcf": MethodEntry(declared.RlcfSettings, "rlcf.Rlcf"),
    "tda": MethodEntry(declared.TdaSettings, "tda.Tda"),
    "dota": MethodEntry(declared.DotaSettings, "dota.Dota"),
    "batclip": MethodEntry(declared.BatclipSettings, "batclip.Batclip"),
    "prior-correction": MethodEntry(declared.PriorCorrectionSettings, "prior_correction.PriorCorrection"),
}


def create_method(
    name: str,
    classifier: "Classifier",
    settings: object | None = None,
    *,
    reward_model: "Classifier | None" = None,
) -> "Method":
    """The method called ``name`` (a key of ``METHODS``) over ``classifier``; ``settings`` are of its entry's
    class and default to the method's own: for ``grpo`` the online recipe.

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
    make: Any = entry.kind(settings)
    if entry.takes_reward_model:
        return cast("Method", make(classifier, settings, reward_model))
    if reward_model is not None:
        raise ValueError(f"method {name!r} takes no reward model")
    return cast("Method", make(classifier, settings))
