"""Bytes a stream's state takes on ViT-B/16 with ``norm``, and the demo model's: fast weights, Adam's moments, sums, the
guard's part.

Encoded as it goes into a checkpoint, in the midst of a window and right after an update, when the sums of gradients are
zeros and not written. ViT-B/16 has random weights, and all else is filled with ones, which changes no size.
"""

import sys
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.report import Bar, finish, parser
from grpo_tta import (
    Classifier,
    DriftGuard,
    GuardSettings,
    ModelSettings,
    Report,
    State,
    StreamState,
    create_method,
    encode_state,
    load_classifier,
)

CLASSES, DIMENSIONS = 1000, 512


def full_guard_state(guard: DriftGuard, classes: int, dimensions: int) -> State:
    """At its largest: one frame before the stream's own reference replaces the probes it is made of."""
    settings, state = guard.settings, guard.initial_state()
    frames = settings.reference_probes * settings.probe_frames - 1
    features = F.normalize(torch.randn(frames, dimensions, generator=torch.Generator().manual_seed(0)))
    flat = torch.full((frames, classes), 1 / classes)
    return guard.step(Report(flat, flat, features), state)[1]


def full_state(classifier: Classifier) -> StreamState:
    """Of a stream whose tensors are none of them zeros."""
    method = create_method("grpo", classifier)
    guard = DriftGuard(GuardSettings(), classifier.class_vectors)
    initial = method.initial_state()
    return StreamState(
        method={name: torch.ones_like(v) if isinstance(v, Tensor) else v for name, v in initial.items()},
        guard=full_guard_state(guard, *classifier.class_vectors.shape),
        counters={"frames": 10**9, "updates": 10**8, "late": 10**6, "resets_shift": 10**4},
        position={"event_time": 2**60, "coordinate": "x" * 256, "window_start": 2**60, "window_end": 2**60},
        fingerprint=classifier.fingerprint,
        method_name=method.name,
        settings_fingerprint="0" * 16,
    )


def after_update(state: StreamState) -> StreamState:
    """The same right after an update."""
    return replace(state, method={**state.method, "grad": torch.zeros_like(torch.as_tensor(state.method["grad"]))})


def main() -> int:
    """Print the bars and the parts."""
    arguments = parser(__doc__).parse_args()
    base = load_classifier(ModelSettings("ViT-B-16", "random", "cpu"), class_names=["a", "b"])
    names = [f"class {number}" for number in range(CLASSES)]
    vectors = torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    vit = Classifier(base.visual, names, vectors, base.preprocess, logit_scale=100.0)
    bars, details = [], {}
    for name, classifier, goal in (
        (f"ViT-B/16, {CLASSES} classes", vit, 350),
        ("the demo model", load_classifier(), 150),
    ):
        state = full_state(classifier)
        parts = {
            f"{part}/{column}": value.nbytes
            for part, owned in (("method", state.method), ("guard", state.guard))
            for column, value in owned.items()
            if isinstance(value, Tensor)
        }
        print(name)
        for column, size in sorted(parts.items(), key=lambda item: -item[1]):
            print(f"{size:>8} bytes  {column}")
        bars += [
            Bar(f"{name}, within a window", len(encode_state(state)) / 1e3, goal, at_most=True, unit=" KB"),
            Bar(
                f"{name}, after an update", len(encode_state(after_update(state))) / 1e3, goal, at_most=True, unit=" KB"
            ),
        ]
        details[name] = parts
    return finish(arguments, bars, details)


if __name__ == "__main__":
    sys.exit(main())
