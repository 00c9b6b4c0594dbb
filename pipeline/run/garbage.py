"""Memory of slices. Every slice's graph is full of reference cycles that hold batches and states; left to the
collector's own pace some hundred megabytes of them pile up. So the heap is collected after every slice, which takes
milliseconds once model and libraries are left out of it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled_heap() -> Iterator[None]:
    """What is there at the beginning, model and libraries, is left out of collections inside. Inside another one it is
    left out already."""
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def collect_slice() -> None:
    """Let go of a slice's graph, when nothing refers to it any more."""
    gc.collect()
