"""How many operations the model's step of a slice takes: each is a kernel's launch on a GPU, where there are thousands.

A slice of 400 streams with 5 images each, by the default method: one stream after another, and in rounds of as many
images as a GPU's forward has by default. The profiler counts the operations that call no others, of some streams and
rounds; both sides are scaled to the slice. ``--device cuda`` also times both.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.report import Bar, finish, parser
from grpo_tta import Batch, ModelSettings, create_method, keep_freed_memory, load_classifier

STREAMS, FRAMES, ROUND, ALONE = 400, 5, 256, 20


def operations(run: Callable[[], object]) -> int:
    """Of one call."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    return sum(event.name.startswith("aten::") and not event.cpu_children for event in found.events())


def seconds(run: Callable[[], object]) -> float:
    """The second of two calls, until the device is done."""
    for _ in range(2):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> int:
    """Print the counts and the bar."""
    flags = parser(__doc__)
    flags.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    arguments = flags.parse_args()
    device = arguments.device
    keep_freed_memory()
    torch.set_num_threads(1)
    classifier = load_classifier(ModelSettings(device=device))
    method = create_method("grpo", classifier)
    together = ROUND // FRAMES
    pixels = torch.randint(0, 256, (together * FRAMES, 3, *classifier.preprocess.size), dtype=torch.uint8)
    seeds = torch.arange(len(pixels))
    parts = [slice(start, start + FRAMES) for start in range(0, len(pixels), FRAMES)]
    batches, states = [Batch(pixels[part], seeds[part]) for part in parts], [method.initial_state()] * together

    def alone() -> None:
        for batch, state in zip(batches[:ALONE], states, strict=False):
            method.step(batch, state)

    def in_a_round() -> None:
        method.step_many(batches, states)

    one, many = operations(alone) * STREAMS / ALONE, operations(in_a_round) * STREAMS / together
    print(f"operations of a slice: one stream after another {one:,.0f}, in rounds of {ROUND} images {many:,.0f}")
    if device == "cuda":
        slow, fast = seconds(alone) * STREAMS / ALONE, seconds(in_a_round) * STREAMS / together
        print(f"seconds of a slice: one stream after another {slow:.2f}, in rounds {fast:.2f}")
    bars = [Bar("operations, one stream after another against rounds", one / many, 20, unit="x")]
    return finish(arguments, bars, {"alone": one, "rounds": many})


if __name__ == "__main__":
    sys.exit(main())
