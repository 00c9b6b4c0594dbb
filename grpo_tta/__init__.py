"""GRPO-TTA: test-time adaptation of CLIP-style image classifiers, usable alone.

A stream of uint8 canvases ``[B, 3, H, W]`` with one seed an image is labelled like this::

    classifier = load_classifier(ModelSettings())
    method = create_method("grpo", classifier, GrpoSettings())
    state = method.initial_state()
    prediction, state, report = method.step(Batch(canvases, seeds), state)
"""

from grpo_tta._version import __version__
from grpo_tta.classifier import Classifier, ModelError, PreprocessCfg
from grpo_tta.device import keep_freed_memory
from grpo_tta.guard import Decision, DriftGuard, GuardEvent, GuardSettings, Standing
from grpo_tta.guard.reference import Reference, ReferenceBuilder
from grpo_tta.methods import METHODS, create_method
from grpo_tta.models import ModelSettings, load_classifier
from grpo_tta.settings import GrpoSettings
from grpo_tta.state import StreamState, decode_state, encode_state
from grpo_tta.types import Batch, Method, Prediction, Report, State, Update

__all__ = [
    "METHODS",
    "Batch",
    "Classifier",
    "Decision",
    "DriftGuard",
    "GrpoSettings",
    "GuardEvent",
    "GuardSettings",
    "Method",
    "ModelError",
    "ModelSettings",
    "Prediction",
    "PreprocessCfg",
    "Reference",
    "ReferenceBuilder",
    "Report",
    "Standing",
    "State",
    "StreamState",
    "Update",
    "__version__",
    "create_method",
    "decode_state",
    "encode_state",
    "keep_freed_memory",
    "load_classifier",
]
