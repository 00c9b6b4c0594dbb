"""GRPO-TTA: test-time adaptation of CLIP-style image classifiers, usable alone.

A stream of images with one seed each is labelled like this::

    classifier = load_classifier(ModelSettings())
    method = create_method("grpo", classifier, GrpoSettings())
    state = method.initial_state()
    prediction, state, report = method.step(Batch(canvases(images, classifier), seeds), state)
    labels = prediction.labels(classifier.class_names)

Names are imported when they are first asked for: commands that label nothing need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from grpo_tta._version import __version__

if TYPE_CHECKING:
    from grpo_tta.checks import ModelError
    from grpo_tta.classifier import Classifier, PreprocessCfg
    from grpo_tta.device import keep_freed_memory
    from grpo_tta.guard import Decision, DriftGuard, GuardEvent, Reference, ReferenceBuilder, Standing
    from grpo_tta.images import canvases
    from grpo_tta.methods import METHODS, create_method
    from grpo_tta.models import load_classifier
    from grpo_tta.settings import GrpoSettings, GuardSettings, ModelSettings
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
    "canvases",
    "create_method",
    "decode_state",
    "encode_state",
    "keep_freed_memory",
    "load_classifier",
]

_PLACES = {
    "checks": ("ModelError",),
    "classifier": ("Classifier", "PreprocessCfg"),
    "device": ("keep_freed_memory",),
    "guard": ("Decision", "DriftGuard", "GuardEvent", "Reference", "ReferenceBuilder", "Standing"),
    "images": ("canvases",),
    "methods": ("METHODS", "create_method"),
    "models": ("load_classifier",),
    "settings": ("GrpoSettings", "GuardSettings", "ModelSettings"),
    "state": ("StreamState", "decode_state", "encode_state"),
    "types": ("Batch", "Method", "Prediction", "Report", "State", "Update"),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return import_module(f"grpo_tta.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'grpo_tta' has no attribute {name!r}")
    value = getattr(import_module(f"grpo_tta.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
