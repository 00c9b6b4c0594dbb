"""Memory of slices. Every slice's graph is full of reference cycles that hold batches and states; left to the
collector's own pace some hundred megabytes of them pile up. So the heap is collected after every slice, which takes
milliseconds once model and libraries are left out of it."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_first = threading.Lock()
"""Held while somebody's is in force; ``gc.get_freeze_count()`` takes a twentieth of a second."""


@contextmanager
def settled_heap() -> Iterator[None]:
    """What is there at the beginning, model and libraries, is left out of collections inside. Inside another one it is
    left out already."""
    if not _first.acquire(blocking=False):
        yield
        return
    try:
        gc.collect()
        gc.freeze()
        yield
    finally:
        gc.unfreeze()
        _first.release()


def collect_slice() -> None:
    """Let go of a slice's graph, when nothing refers to it any more."""
    gc.collect()
