"""The drift guard: what it compares, when the input has shifted, when adaptation has collapsed."""

from grpo_tta.guard.drift import Decision, DriftGuard, GuardEvent, Standing
from grpo_tta.guard.reference import Reference, ReferenceBuilder
from grpo_tta.settings import GuardSettings

__all__ = [
    "Decision",
    "DriftGuard",
    "GuardEvent",
    "GuardSettings",
    "Reference",
    "ReferenceBuilder",
    "Standing",
]
