"""The drift guard: what it compares, when the input has shifted, when adaptation has collapsed."""

from grpo_tta.guard.drift import SIGNALS, Decision, DriftGuard, GuardEvent, Standing
from grpo_tta.guard.reference import Reference, ReferenceBuilder
from grpo_tta.guard.signal import Seen, Signal
from grpo_tta.settings import GuardSettings

__all__ = [
    "SIGNALS",
    "Decision",
    "DriftGuard",
    "GuardEvent",
    "GuardSettings",
    "Reference",
    "ReferenceBuilder",
    "Seen",
    "Signal",
    "Standing",
]
