"""How well a method does: corruptions, streams, accuracy and its uncertainty."""

from grpo_tta.evaluation.corruptions import CORRUPTIONS, corrupt
from grpo_tta.evaluation.measures import (
    PairedAccuracy,
    by_segment,
    class_interval,
    expected_calibration_error,
    paired_accuracy,
)
from grpo_tta.evaluation.run import StreamResult, run_stream
from grpo_tta.evaluation.streams import Frames, Segment, StreamSpec

__all__ = [
    "CORRUPTIONS",
    "Frames",
    "PairedAccuracy",
    "Segment",
    "StreamResult",
    "StreamSpec",
    "by_segment",
    "class_interval",
    "corrupt",
    "expected_calibration_error",
    "paired_accuracy",
    "run_stream",
]
