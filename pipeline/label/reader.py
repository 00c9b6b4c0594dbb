"""`ReadAhead`: images fetched and decoded in threads while the model works on those before."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from grpo_tta.adapters.events import ImageRef
from grpo_tta.pipeline.label.records import WindowedRef

Canvas = np.ndarray
"""uint8 ``[3, H, W]``, RGB, the model's input size."""
Read = Callable[[ImageRef], Canvas]
"""Fetch and decode; raises `PermanentFetchError` or `ImageError` for a dead letter, anything else fails the slice."""


class ReadAhead:
    """Images that are begun before they are taken. How many that are is the caller's to bound."""

    def __init__(self, pool: ThreadPoolExecutor, read: Read) -> None:
        self._pool = pool
        self._read = read
        self._begun: dict[int, tuple[WindowedRef, Future[Canvas]]] = {}

    def begin(self, events: Iterable[WindowedRef]) -> None:
        """Read those of ``events`` that were not begun yet, in this order."""
        for event in events:
            if id(event) not in self._begun:
                self._begun[id(event)] = event, self._pool.submit(self._read, event.ref)

    def take(self, event: WindowedRef) -> Canvas:
        """The image of ``event``, the very object that was begun; raises what reading it raised."""
        return self._begun.pop(id(event))[1].result()

    def close(self) -> None:
        """What was not taken is given up."""
        for _, future in self._begun.values():
            future.cancel()
        self._begun.clear()
