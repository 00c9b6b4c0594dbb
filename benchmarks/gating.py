"""Online GRPO-TTA that learns from every frame against the gated mode, on a stream that is shifted a fifth of the time.

Ten segments of 2,400 frames of fluent-emoji: clean but for fog 3 as the fourth and noise 5 as the eighth. Both variants
see identical frames under a guard with default settings. These are development conditions. A run takes long:
``--frames`` cuts it, ``--json`` keeps the rows.
"""

import sys

import numpy as np

from benchmarks.model import loaded, model_flags
from benchmarks.report import Bar, finish, parser
from grpo_tta import (
    Classifier,
    DriftGuard,
    GrpoSettings,
    GuardSettings,
    create_method,
)
from grpo_tta.demo.packaged import pictures
from grpo_tta.evaluation.measures import by_segment, detection
from grpo_tta.evaluation.run import StreamResult, run_stream
from grpo_tta.evaluation.streams import Segment, StreamSpec

GATE_FRAMES = 832
CONDITIONS: tuple[tuple[str | None, int], ...] = (
    *3 * ((None, 0),),
    ("fog", 3),
    *3 * ((None, 0),),
    ("gaussian_noise", 5),
    *2 * ((None, 0),),
)


def run(classifier: Classifier, spec: StreamSpec, gate_frames: int | None) -> StreamResult:
    """One variant over one stream."""
    return run_stream(
        create_method("grpo", classifier, GrpoSettings(gate_frames=gate_frames)),
        spec.frames(pictures()[0]),
        guard=DriftGuard(GuardSettings(), classifier.class_vectors),
        frozen=create_method("zero-shot", classifier),
    )


def main() -> int:
    """Print a row a seed and variant, and the bars over all seeds."""
    flags = parser(__doc__)
    flags.add_argument("--frames", type=int, default=2400, help="a segment (default: 2400)")
    flags.add_argument("--gate-frames", type=int, default=GATE_FRAMES, help=f"default: {GATE_FRAMES}")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    model_flags(flags)
    arguments = flags.parse_args()
    classifier = loaded(arguments)
    rows: list[dict[str, object]] = []
    means: dict[str, list[float]] = {"ungated": [], "gated": []}
    costs: list[float] = []
    for seed in arguments.seeds:
        spec = StreamSpec(tuple(Segment(arguments.frames, *condition) for condition in CONDITIONS), seed)
        for variant, gate in (("ungated", None), ("gated", arguments.gate_frames)):
            result = run(classifier, spec, gate)
            segments = by_segment(result.right, result.frozen_right, result.labels, spec.changes)
            gains = [100 * segment.gain for segment in segments]
            found = detection(_changes(spec), result.detections, len(spec), arguments.frames)
            means[variant].append(float(np.mean(gains)))
            costs += [result.forward_equivalents] if gate else []
            rows.append(
                {
                    "seed": seed,
                    "variant": variant,
                    "gains": gains,
                    "forward_equivalents": result.forward_equivalents,
                    "resets": result.resets,
                    "delays": list(found.delays),
                }
            )
            shown = " ".join(f"{gain:+.1f}" for gain in gains)
            print(f"seed {seed}, {variant}: mean {np.mean(gains):+.2f}, segments {shown}", flush=True)
            print(
                f"  {result.forward_equivalents:.2f} forward-equivalents an image; resets {result.resets}", flush=True
            )
            print(f"  changes found after {list(found.delays)} frames, {found.false_alarms} false alarms", flush=True)
    ratio = float(np.mean(means["gated"]) / np.mean(means["ungated"]))
    bars = [
        Bar("gain of the gated mode over that of the ungated", ratio, 0.93),
        Bar("forward-equivalents an image, gated", float(np.mean(costs)), 2, at_most=True),
    ]
    return finish(arguments, bars, rows)


def _changes(spec: StreamSpec) -> list[int]:
    """The first frames of segments whose condition is another than that of the segment before."""
    names = [segment.name for segment in spec.segments]
    return [at for at, before, name in zip(spec.changes, names, names[1:], strict=False) if before != name]


if __name__ == "__main__":
    sys.exit(main())
