"""Real photographs through a tower that no setting was chosen with: methods against the frozen encoder.

``python -m demo.photographs`` writes both. CIFAR-10's photographs are shown to an ImageNet classifier that is asked for
all of its 1,000 classes (right: any class of the thing that is shown) or for the ten things alone; clean and under some
corruptions, classes at random, steps of 32, no guard. Which corruptions was written down before the first run. CIFAR-10
is of its authors; nothing of it is shipped.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.final import BATCH, METHODS, methods
from benchmarks.report import finish, parser
from demo.photographs import NAMES, PHOTOGRAPHS, THINGS, TOWER
from grpo_tta import Classifier, ModelSettings, create_method, keep_freed_memory, load_classifier
from grpo_tta.bench.pictures import FilePictures, find_images
from grpo_tta.bench.settings import BenchMethod
from grpo_tta.evaluation.cells import GuardChoice, run_cell
from grpo_tta.evaluation.measures import paired_accuracy
from grpo_tta.evaluation.plans import CLEAN, Condition, KeptFrames
from grpo_tta.evaluation.stream_makers import make_plan
from grpo_tta.guard import GuardSettings
from grpo_tta.images import canvas_spec
from grpo_tta.pipeline.cli.columns import print_columns

CONDITIONS = (
    CLEAN,
    *(Condition(kind, 3) for kind in ("gaussian_noise", "defocus_blur", "fog", "contrast", "snow", "brightness")),
    Condition("pixelate", 5),
    Condition("jpeg_compression", 5),
)
VECTORS = {1000: "class_vectors", 10: "ten"}
_KEPT_BYTES = 256 * 2**20

Bools = NDArray[np.bool_]


def things_of(classes: int) -> NDArray[np.int64]:
    """For each class that the tower is asked for the thing it is of, -1 for none; ``[classes]``."""
    of = np.full(classes, -1)
    for thing, some in enumerate(THINGS.values()):
        of[[thing] if classes == len(THINGS) else list(some)] = thing
    return of


def photographs(classifier: Classifier, folder: Path) -> FilePictures:
    """All of them, each labelled with one class of its thing; raises `ConfigurationError` where there is no folder."""
    ten = len(classifier.class_names) == len(THINGS)
    name = {thing: thing if ten else NAMES[classes[0]] for thing, classes in THINGS.items()}
    images = [replace(image, label=name[image.label]) for image in find_images(folder, None)]
    return FilePictures(images, classifier.class_names, canvas_spec(classifier))


def measure(
    classifier: Classifier,
    condition: Condition,
    some: Sequence[BenchMethod],
    frames: int,
    seed: int,
    folder: Path = PHOTOGRAPHS,
) -> tuple[NDArray[np.int64], Bools, dict[str, Bools]]:
    """Of each frame the thing shown, whether the frozen encoder was right, and whether each method was."""
    pictures, of = photographs(classifier, folder), things_of(len(classifier.class_names))
    plan = make_plan("null" if condition == CLEAN else "steady", pictures.labels, frames, [condition], seed)
    kept = KeptFrames(plan, pictures, BATCH, _KEPT_BYTES)
    guard = GuardChoice(GuardSettings(enabled=False))
    right: dict[str, Bools] = {}
    for method in some:
        made = create_method(method.name, classifier, method.of_seed(seed))
        result = run_cell(made, classifier, plan, kept, rule="none", guard=guard, seed=seed)
        shown = of[result.labels]
        right[method.label] = of[result.predicted] == shown
        frozen = of[result.frozen_predicted] == shown
        gain = 100 * (right[method.label].mean() - frozen.mean())
        print(f"{condition.name}, seed {seed}, {method.label}: {gain:+.1f}", file=sys.stderr, flush=True)
    return shown, frozen, right


def main() -> int:
    """Print a row a condition."""
    flags = parser(__doc__)
    flags.add_argument("--classes", type=int, choices=VECTORS, default=1000, help="asked for (default: 1000)")
    flags.add_argument("--frames", type=int, default=1000, help="of a stream (default: 1000)")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    flags.add_argument("--methods", default=",".join(METHODS), help=f"default: {','.join(METHODS)}")
    arguments = flags.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    vectors = TOWER / f"{VECTORS[arguments.classes]}.safetensors"
    classifier = load_classifier(ModelSettings(name=f"local-dir:{TOWER}"), class_vectors=vectors)
    some = methods(arguments.methods.split(","))
    rows: list[list[str]] = []
    details = {}
    everything: dict[str, list[tuple[NDArray[np.int64], Bools, Bools]]] = {method.label: [] for method in some}
    for condition in CONDITIONS:
        runs = [measure(classifier, condition, some, arguments.frames, seed) for seed in arguments.seeds]
        for label, kept in everything.items():
            kept += [(shown, frozen, right[label]) for shown, frozen, right in runs]
        frozen = np.mean([frozen.mean() for _, frozen, _ in runs])
        gains = {m.label: np.mean([r[m.label].mean() - f.mean() for _, f, r in runs]) for m in some}
        details[condition.name] = {"frozen": float(frozen), **{label: float(gain) for label, gain in gains.items()}}
        rows.append([condition.name, f"{100 * frozen:.1f}", *(f"{100 * gain:+.1f}" for gain in gains.values())])
    means = []
    for kept in everything.values():
        shown, frozen, right = (np.concatenate(column) for column in zip(*kept, strict=True))
        paired = paired_accuracy(right, frozen, shown)
        low, high = paired.interval
        means.append(f"{100 * paired.gain:+.1f} ({100 * low:+.1f} {100 * high:+.1f})")
    print_columns([["condition", "frozen", *everything], *rows, ["all", "", *means]])
    return finish(arguments, [], details)


if __name__ == "__main__":
    sys.exit(main())
