"""``python -m demo.build``: fetch, render, train, pack and measure, in that order, from nothing but open packages.

Needs npm and the environment of ``requirements/demo.txt``; run it in the root of the source tree.
"""

import os
import subprocess
import sys

STEPS = (
    ("demo.fetch",),
    ("demo.render",),
    ("demo.train", "teacher"),
    ("demo.train", "text"),
    ("demo.train", "student"),
    ("demo.train", "scale"),
    ("demo.pack",),
    ("demo.reference",),
    ("demo.accuracy",),
    ("demo.measure",),
)
# glibc gives large temporaries back at every free unless told to keep them: half of a training run on a CPU.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}


def main() -> None:
    """Run every step in a process of its own; the first failure stops the build."""
    for step in STEPS:
        print(f"== {' '.join(step)}", flush=True)
        subprocess.run([sys.executable, "-m", *step], check=True, env=KEEP_MEMORY | os.environ)


if __name__ == "__main__":
    main()
