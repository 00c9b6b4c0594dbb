"""`ReadAhead`: images fetched and decoded in threads while the model works on those before."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.images import Repaired
from grpo_tta.pipeline.label.records import WindowedRef

Canvas = np.ndarray
"""uint8 ``[3, H, W]``, RGB, the model's input size."""
Read = Callable[[ImageRef, Repaired], Canvas]
"""Fetch and decode, telling what was repaired; raises `PermanentFetchError` or `ImageError` for a dead letter, anything
else fails the slice."""


class ReadAhead:
    """Images that are begun before they are taken. How many that are is the caller's to bound."""

    def __init__(self, pool: ThreadPoolExecutor, read: Read) -> None:
        self._pool = pool
        self._read = read
        self._begun: dict[int, tuple[WindowedRef, list[str], Future[Canvas]]] = {}

    def begin(self, events: Iterable[WindowedRef]) -> None:
        """Read those of ``events`` that were not begun yet, in this order."""
        for event in events:
            if id(event) not in self._begun:
                repairs: list[str] = []
                self._begun[id(event)] = event, repairs, self._pool.submit(self._read, event.ref, repairs.append)

    def take(self, event: WindowedRef) -> tuple[Canvas, list[str]]:
        """The image of ``event``, the very object that was begun, and the kinds of its repairs; raises what reading it
        raised."""
        _, repairs, future = self._begun.pop(id(event))
        return future.result(), repairs

    def close(self) -> None:
        """What was not taken is given up."""
        for _, _, future in self._begun.values():
            future.cancel()
        self._begun.clear()
