"""Every record that crosses a process boundary, as pydantic models; ``schemas/json/`` holds their JSON Schemas."""

from schemas.base import WireModel, format_time
from schemas.checkpoint import Commit, Counters, Plan, SkipReason, SliceRange, Summary
from schemas.events import ImageEvent
from schemas.outputs import (
    UNKNOWN,
    AdaptationLog,
    ClassProbability,
    DeadLetter,
    DriftEvent,
    DriftSignal,
    LabeledImage,
    ResetCause,
)

__all__ = [
    "UNKNOWN",
    "AdaptationLog",
    "ClassProbability",
    "Commit",
    "Counters",
    "DeadLetter",
    "DriftEvent",
    "DriftSignal",
    "ImageEvent",
    "LabeledImage",
    "Plan",
    "ResetCause",
    "SkipReason",
    "SliceRange",
    "Summary",
    "WireModel",
    "format_time",
]
