"""Everything that can be set, without torch: configurations take these dataclasses as they are."""

from grpo_tta.settings.grpo import GrpoSettings, Tune
from grpo_tta.settings.guard import GuardSettings
from grpo_tta.settings.model import ModelSettings
from grpo_tta.settings.rivals import (
    BatclipSettings,
    DeyoSettings,
    DotaSettings,
    PriorCorrectionSettings,
    RlcfSettings,
    SarSettings,
    TdaSettings,
    TentSettings,
    TptNormSettings,
    ViewSettings,
    VteSettings,
    WhitenedSettings,
    ZeroSettings,
    ZeroShotSettings,
)

__all__ = [
    "BatclipSettings",
    "DeyoSettings",
    "DotaSettings",
    "GrpoSettings",
    "GuardSettings",
    "ModelSettings",
    "PriorCorrectionSettings",
    "RlcfSettings",
    "SarSettings",
    "TdaSettings",
    "TentSettings",
    "TptNormSettings",
    "Tune",
    "ViewSettings",
    "VteSettings",
    "WhitenedSettings",
    "ZeroSettings",
    "ZeroShotSettings",
]
