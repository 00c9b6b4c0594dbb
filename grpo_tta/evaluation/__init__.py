"""How well a method does: corruptions, streams, accuracy and its uncertainty."""

from grpo_tta.evaluation.corruptions import CORRUPTIONS, DEVELOPMENT, corrupt
from grpo_tta.evaluation.measures import (
    Detection,
    PairedAccuracy,
    by_segment,
    class_interval,
    detection,
    expected_calibration_error,
    joint_interval,
    paired_accuracy,
    worst_segment,
)
from grpo_tta.evaluation.plans import CLEAN, Condition, KeptFrames, Pictures, Plan, ScenePictures, plan_frames
from grpo_tta.evaluation.run import StreamResult, run_stream
from grpo_tta.evaluation.stream_makers import STREAMS, StreamKind, make_plan
from grpo_tta.evaluation.streams import Frames, Segment, StreamSpec

__all__ = [
    "CLEAN",
    "CORRUPTIONS",
    "DEVELOPMENT",
    "STREAMS",
    "Condition",
    "Detection",
    "Frames",
    "KeptFrames",
    "PairedAccuracy",
    "Pictures",
    "Plan",
    "ScenePictures",
    "Segment",
    "StreamKind",
    "StreamResult",
    "StreamSpec",
    "by_segment",
    "class_interval",
    "corrupt",
    "detection",
    "expected_calibration_error",
    "joint_interval",
    "make_plan",
    "paired_accuracy",
    "plan_frames",
    "run_stream",
    "worst_segment",
]
