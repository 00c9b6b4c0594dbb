"""A small CLIP model, pictures in a style it was not trained on, and a feed of drifting cameras; no network needed.

The model knows a closed vocabulary of drawn things (``assets/MODEL_CARD.md``); the scripts in ``demo/`` of the source
tree rebuild it.
"""

from grpo_tta.demo.feed import STREAM_PATTERN, TIME_PATTERN, FeedSummary, read_summary, write_feed
from grpo_tta.demo.packaged import (
    PICTURE_SETS,
    accuracy_path,
    assets_path,
    class_prompts,
    load_model,
    pictures,
    reference_path,
)
from grpo_tta.demo.scenes import FRAME_SIZE, render_scene, scenes
from grpo_tta.demo.tower import Hybrid

__all__ = [
    "FRAME_SIZE",
    "PICTURE_SETS",
    "STREAM_PATTERN",
    "TIME_PATTERN",
    "FeedSummary",
    "Hybrid",
    "assets_path",
    "class_prompts",
    "load_model",
    "pictures",
    "read_summary",
    "accuracy_path",
    "reference_path",
    "render_scene",
    "scenes",
    "write_feed",
]
