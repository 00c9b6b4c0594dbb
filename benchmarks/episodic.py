"""Batched episodic GRPO-TTA against the same image by image: ``norm``, 8 views, 16 images at once, the demo model.

Labels must be the same outside ties: a label counts as differing when the two best probabilities of the single run lie
more than 1e-4 apart. Both sides see the same frames (fluent-emoji under fog, severity 3); rounds alternate and the
figure is the median of their ratios.
"""

import statistics
import sys
import time

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import Bar, finish, parser
from grpo_tta import Batch, GrpoSettings, Method, ModelSettings, create_method, keep_freed_memory, load_classifier
from grpo_tta.demo.packaged import pictures
from grpo_tta.demo.scenes import scenes
from grpo_tta.evaluation.corruptions import corrupt

TIE = 1e-4


def timed(method: Method, batch: Batch, size: int) -> tuple[float, Tensor]:
    """Seconds, and probabilities ``[B, C]``, of ``batch`` in parts of ``size``."""
    state, found = method.initial_state(), []
    started = time.perf_counter()
    for start in range(0, len(batch), size):
        prediction, state, _ = method.step(batch[start : start + size], state)
        found.append(prediction.probabilities)
    return time.perf_counter() - started, torch.cat(found)


def main() -> int:
    """Print the rounds and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--images", type=int, default=160, help="default: 160")
    flags.add_argument("--rounds", type=int, default=5, help="default: 5")
    arguments = flags.parse_args()
    keep_freed_memory()
    method = create_method("grpo", load_classifier(ModelSettings()), GrpoSettings.episodic(images_at_once=16))
    generator = np.random.default_rng(0)
    drawn = pictures()[0]
    rows = generator.integers(len(drawn), size=arguments.images)
    seeds = generator.integers(2**62, size=(2, arguments.images))
    frames = corrupt(scenes(drawn, rows, seeds[0]), "fog", 3, seeds[1])
    batch = Batch(torch.from_numpy(frames), torch.from_numpy(seeds[0]))
    timed(method, batch[:32], 16)
    ratios: list[float] = []
    differing = 0
    for number in range(arguments.rounds):
        single, one = timed(method, batch, 1)
        batched, many = timed(method, batch, 16)
        ratios.append(single / batched)
        best = one.topk(2).values
        differs = (one.argmax(1) != many.argmax(1)) & (best[:, 0] - best[:, 1] > TIE)
        differing = max(differing, int(differs.sum()))
        rates = f"{arguments.images / batched:.1f} images/s, one by one {arguments.images / single:.1f} images/s"
        print(f"round {number + 1}: {rates}, ratio {ratios[-1]:.2f}", flush=True)
    bars = [
        Bar("batched against one by one", statistics.median(ratios), 3, unit="x"),
        Bar("labels that differ outside ties", differing, 0, at_most=True),
    ]
    return finish(arguments, bars, ratios)


if __name__ == "__main__":
    sys.exit(main())
