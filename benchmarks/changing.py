"""A stream whose condition changes every 2,400 frames: the guard with each `on_shift`, none, and resets at the changes.

Twelve segments of fluent-emoji, clean and corrupted, under development conditions or, with ``--held-out``, under others
that nothing was tuned on. Default settings, three seeds of stream; the variants see identical frames. A run takes long:
``--seeds`` and ``--variants`` cut it, ``--json`` keeps the rows.
"""

import sys

import numpy as np

from benchmarks.model import loaded, model_flags, shared_reference
from benchmarks.report import Bar, finish, parser
from grpo_tta import (
    Classifier,
    DriftGuard,
    GrpoSettings,
    GuardSettings,
    create_method,
)
from grpo_tta.demo.packaged import pictures
from grpo_tta.evaluation.measures import by_segment
from grpo_tta.evaluation.run import StreamResult, run_stream
from grpo_tta.evaluation.streams import Segment, StreamSpec
from grpo_tta.guard.reference import Reference

Conditions = tuple[tuple[str | None, int], ...]
DEVELOPMENT: Conditions = (
    (None, 0),
    ("fog", 3),
    ("gaussian_noise", 5),
    (None, 0),
    ("contrast", 4),
    ("fog", 3),
    ("jpeg_compression", 4),
    (None, 0),
    ("gaussian_noise", 5),
    ("fog", 3),
    ("contrast", 4),
    (None, 0),
)
HELD_OUT: Conditions = (
    (None, 0),
    ("snow", 3),
    ("shot_noise", 5),
    (None, 0),
    ("motion_blur", 3),
    ("frost", 5),
    ("pixelate", 3),
    (None, 0),
    ("impulse_noise", 5),
    ("zoom_blur", 3),
    ("elastic_transform", 5),
    (None, 0),
)
"""Chosen before this stream was run, and after the final table, which has all kinds, was read."""
GUARDED = {"reset": GuardSettings(on_shift="reset"), "event": GuardSettings(on_shift="event")}
VARIANTS = (*GUARDED, "none", "true")
"""``none`` and ``true`` run without a guard."""
NEAR = 500


def run(classifier: Classifier, spec: StreamSpec, variant: str, reference: Reference | None) -> StreamResult:
    """One variant over one stream; ``reference``: of the guard, or the stream's own."""
    method = create_method("grpo", classifier, GrpoSettings())
    guard = DriftGuard(GUARDED[variant], classifier.class_vectors, reference) if variant in GUARDED else None
    return run_stream(
        method,
        spec.frames(pictures()[0]),
        guard=guard,
        reset_at=spec.changes if variant == "true" else (),
    )


def distances(result: StreamResult, spec: StreamSpec) -> list[int]:
    """For every shift alarm, frames since the last true change; the stream's own beginning is none."""
    changes = np.array(spec.changes)
    return [int(frame - max(changes[changes <= frame], default=-len(spec))) for frame in result.detections]


def main() -> int:
    """Print a row a seed, variant and segment, means, and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--frames", type=int, default=2400, help="a segment (default: 2400)")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    flags.add_argument("--held-out", action="store_true", help="under conditions that nothing was tuned on")
    flags.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    flags.add_argument("--reference", action="store_true", help="the guard has a calibrated drift reference")
    model_flags(flags)
    arguments = flags.parse_args()
    classifier = loaded(arguments)
    reference = shared_reference(arguments, classifier) if arguments.reference else None
    rows: list[dict[str, object]] = []
    table: dict[str, list[list[float]]] = {}
    frozen: dict[int, list[float]] = {}
    far: list[int] = []
    conditions = HELD_OUT if arguments.held_out else DEVELOPMENT
    for seed in arguments.seeds:
        spec = StreamSpec(tuple(Segment(arguments.frames, *condition) for condition in conditions), seed)
        for variant in arguments.variants:
            result = run(classifier, spec, variant, reference)
            segments = by_segment(result.right, result.frozen_right, result.labels, spec.changes)
            gains = [100 * segment.gain for segment in segments]
            frozen[seed] = [100 * segment.accuracy_frozen for segment in segments]
            table.setdefault(variant, []).append(gains)
            since = distances(result, spec)
            far += since
            rows.append(
                {"seed": seed, "variant": variant, "resets": result.resets, "segments": list(map(vars, segments))}
            )
            shown = " ".join(f"{gain:+.1f}" for gain in gains)
            print(f"seed {seed}, {variant}: mean {np.mean(gains):+.2f}, segments {shown}", flush=True)
            print(f"  resets {result.resets}; alarms, frames after their change: {since}", flush=True)
    print("segments: " + ", ".join(segment.name for segment in spec.segments))
    shown = " ".join(f"{accuracy:.1f}" for accuracy in np.mean(list(frozen.values()), axis=0))
    print(f"frozen: mean {np.mean(list(frozen.values())):.2f}, segments {shown}")
    for variant, of_variant in table.items():
        mean = np.mean(of_variant, axis=0)
        shown = " ".join(f"{gain:+.1f}" for gain in mean)
        print(f"{variant}: mean {mean.mean():+.2f}, worst segment of any seed {np.min(of_variant):+.2f}, mean {shown}")
    return finish(arguments, _bars(table, far), rows)


def _bars(table: dict[str, list[list[float]]], far: list[int]) -> list[Bar]:
    bars = []
    for variant in GUARDED:
        if variant in table:
            gains = np.array(table[variant])
            bars.append(Bar(f"mean gain, {variant}", float(gains.mean()), 6, unit=" points"))
            bars.append(Bar(f"  worst segment of any seed, {variant}", float(gains.min()), -1, unit=" points"))
            if "true" in table:
                share = float(gains.mean() / np.array(table["true"]).mean())
                bars.append(Bar(f"  over the gain with resets at the true changes, {variant}", share, 0.8))
    if bars:
        bars.append(Bar("farthest shift alarm from a change", max(map(abs, far), default=0), NEAR, True, " frames"))
    return bars


if __name__ == "__main__":
    sys.exit(main())
