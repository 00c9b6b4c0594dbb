"""The drift guard: what it compares, when the input has shifted, when adaptation has collapsed."""

from grpo_tta.guard.drift import Decision, DriftGuard, GuardEvent, GuardSettings, Standing
from grpo_tta.guard.reference import Reference, ReferenceBuilder

__all__ = [
    "Decision",
    "DriftGuard",
    "GuardEvent",
    "GuardSettings",
    "Reference",
    "ReferenceBuilder",
    "Standing",
]
