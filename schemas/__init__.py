"""Every record that crosses a process boundary, as pydantic models; ``schemas/json/`` holds their JSON Schemas."""

from grpo_tta.schemas.base import WireModel, format_time
from grpo_tta.schemas.checkpoint import Commit, Counters, PackRef, Plan, SkipReason, SliceRange, Summary
from grpo_tta.schemas.events import ImageEvent, ImageSidecar
from grpo_tta.schemas.monitor import MonitorRecord
from grpo_tta.schemas.outputs import (
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
    "ImageSidecar",
    "LabeledImage",
    "MonitorRecord",
    "PackRef",
    "Plan",
    "ResetCause",
    "SkipReason",
    "SliceRange",
    "Summary",
    "WireModel",
    "format_time",
]
