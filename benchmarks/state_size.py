"""Bytes a stream's state takes on ViT-B/16 with ``norm``: fast weights, Adam's moments, accumulators, the guard's part.

The tower has random weights, which changes no size. The state is encoded as it goes into a checkpoint.
"""

import sys

import torch
from safetensors.torch import save
from torch import Tensor

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


def full_guard_state(guard: DriftGuard) -> State:
    """At its largest: one frame before the stream's own reference replaces the probes it is made of."""
    settings, state = guard.settings, guard.initial_state()
    frames = settings.reference_probes * settings.probe_frames - 1
    features = torch.nn.functional.normalize(
        torch.randn(frames, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    )
    flat = torch.full((frames, CLASSES), 1 / CLASSES)
    return guard.step(Report(flat, flat, features), state)[1]


def main() -> int:
    """Print the two bars and the parts."""
    arguments = parser(__doc__).parse_args()
    base = load_classifier(ModelSettings("ViT-B-16", "random", "cpu"), class_names=["a", "b"])
    names = [f"class {number}" for number in range(CLASSES)]
    vectors = torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    classifier = Classifier(base.visual, names, vectors, base.preprocess, logit_scale=100.0)
    method = create_method("grpo", classifier)
    guard = DriftGuard(GuardSettings(), classifier.class_vectors)
    state = StreamState(
        method=method.initial_state(),
        guard=full_guard_state(guard),
        counters={"frames": 10**9, "updates": 10**8, "late": 10**6, "resets_shift": 10**4},
        position={"event_time": 2**60, "coordinate": "x" * 256, "window_start": 2**60, "window_end": 2**60},
        fingerprint=classifier.fingerprint,
        method_name=method.name,
        settings_fingerprint="0" * 16,
    )
    parts = {
        f"{part}/{name}": value.numel() * value.element_size()
        for part, owned in (("method", state.method), ("guard", state.guard))
        for name, value in owned.items()
        if isinstance(value, Tensor)
    }
    for name, size in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"{size:>8} bytes  {name}")
    weights = len(save({"theta": torch.as_tensor(state.method["theta"])}))
    bars = [
        Bar(f"encoded state, {CLASSES} classes", len(encode_state(state)) / 1e3, 700, at_most=True, unit=" KB"),
        Bar("fast weights alone", weights / 1e3, 170, at_most=True, unit=" KB"),
    ]
    return finish(arguments, bars, parts)


if __name__ == "__main__":
    sys.exit(main())
