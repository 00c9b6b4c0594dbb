"""What online GRPO-TTA gains over the frozen encoder on the development streams, at 4 forward-equivalents an image.

fluent-emoji under gaussian noise (severity 5), fog (3) and contrast (4), 3,600 frames each, and clean and class-ordered
streams that it must not harm; default settings with the default guard, as ``grpo-tta label`` runs them; three seeds of
stream. These are the development conditions: settings were chosen on other seeds of them, so this is no claim about
conditions never looked at. Intervals resample classes over the seeds together.
"""

import sys

import numpy as np
from numpy.typing import NDArray

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
from grpo_tta.evaluation.measures import class_interval, expected_calibration_error, paired_accuracy
from grpo_tta.evaluation.run import StreamResult, run_stream
from grpo_tta.evaluation.streams import Order, Segment, StreamSpec

SHIFTED: tuple[tuple[str, int], ...] = (("gaussian_noise", 5), ("fog", 3), ("contrast", 4))
STREAMS: dict[str, tuple[str | None, int, Order]] = {
    **{kind: (kind, severity, "random") for kind, severity in SHIFTED},
    "clean": (None, 0, "random"),
    "clean, class-ordered": (None, 0, "by_class"),
    "fog, class-ordered": ("fog", 3, "by_class"),
}


def run(classifier: Classifier, stream: str, seed: int, frames: int) -> StreamResult:
    """One stream of one seed with default settings."""
    kind, severity, order = STREAMS[stream]
    method = create_method("grpo", classifier, GrpoSettings())
    guard = DriftGuard(GuardSettings(), classifier.class_vectors)
    spec = StreamSpec((Segment(frames, kind, severity),), seed, order)
    return run_stream(method, spec.frames(pictures()[0]), guard=guard)


def joined(results: list[StreamResult]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Differences to the frozen encoder, frame by frame, and the classes, of several runs."""
    difference = np.concatenate([r.right.astype(np.float64) - r.frozen_right for r in results])
    return difference, np.concatenate([r.labels for r in results])


def main() -> int:
    """Print a row a stream and seed, a row a stream, and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--frames", type=int, default=3600, help="default: 3600")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    flags.add_argument("--streams", nargs="+", choices=list(STREAMS), default=list(STREAMS))
    model_flags(flags)
    arguments = flags.parse_args()
    classifier = loaded(arguments)
    rows: list[dict[str, object]] = []
    results: dict[str, list[StreamResult]] = {}
    for stream in arguments.streams:
        for seed in arguments.seeds:
            result = run(classifier, stream, seed, arguments.frames)
            results.setdefault(stream, []).append(result)
            row = paired_accuracy(result.right, result.frozen_right, result.labels)
            errors = {
                "ece_frozen": expected_calibration_error(result.frozen_confidence, result.frozen_right),
                "ece": expected_calibration_error(result.confidence, result.right),
            }
            rows.append({"stream": stream, "seed": seed, "resets": result.resets, **vars(row), **errors})
            print(
                f"{stream}, seed {seed}: frozen {100 * row.accuracy_frozen:.1f}, GRPO-TTA {100 * row.accuracy:.1f}, "
                f"gain {100 * row.gain:+.2f}, calibration error {errors['ece_frozen']:.3f} -> {errors['ece']:.3f}, "
                f"resets {result.resets}",
                flush=True,
            )
    for stream, of_stream in results.items():
        difference, classes = joined(of_stream)
        low, high = class_interval(difference, classes)
        print(f"{stream}: gain {100 * difference.mean():+.2f}, interval {100 * low:+.2f} to {100 * high:+.2f}")
    return finish(arguments, _bars(results), rows)


def _bars(results: dict[str, list[StreamResult]]) -> list[Bar]:
    shifted = [result for kind, _ in SHIFTED for result in results.get(kind, [])]
    cost = max(result.forward_equivalents for of_stream in results.values() for result in of_stream)
    bars = [Bar("forward-equivalents an image", cost, 4, at_most=True)]
    if shifted:
        difference, classes = joined(shifted)
        bars.append(Bar("mean gain on the shifted streams", 100 * float(difference.mean()), 3, unit=" points"))
        bars.append(Bar("  lower end of its interval", 100 * class_interval(difference, classes)[0], 0, unit=" points"))
    for stream in ("clean", "clean, class-ordered", "fog, class-ordered"):
        if stream in results:
            low = class_interval(*joined(results[stream]))[0]
            bars.append(Bar(f"{stream}: lower end of the interval", 100 * low, -0.5, unit=" points"))
    return bars


if __name__ == "__main__":
    sys.exit(main())
