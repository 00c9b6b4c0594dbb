"""`ReadAhead`: images fetched and decoded in threads, in order, while the model works on those before."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from grpo_tta.adapters.events import ImageRef

Canvas = np.ndarray
"""uint8 ``[3, H, W]``, RGB, the model's input size."""
Read = Callable[[ImageRef], Canvas]
"""Fetch and decode; raises `PermanentFetchError` or `ImageError` for a dead letter, anything else fails the slice."""


class ReadAhead:
    """The images of ``refs``, one after another, at most ``most`` of them begun beyond the one that is asked for."""

    def __init__(self, pool: ThreadPoolExecutor, read: Read, refs: Iterable[ImageRef], most: int) -> None:
        self._pool = pool
        self._read = read
        self._refs = iter(refs)
        self._most = most
        self._waiting: deque[tuple[ImageRef, Future[Canvas]]] = deque()

    def take(self, ref: ImageRef) -> Canvas:
        """The next image, which must be that of ``ref``; raises what reading it raised."""
        while len(self._waiting) <= self._most and (following := next(self._refs, None)) is not None:
            self._waiting.append((following, self._pool.submit(self._read, following)))
        expected, future = self._waiting.popleft()
        if expected is not ref:
            raise ValueError(f"images are taken in order: {expected.coordinate} is next, asked for {ref.coordinate}")
        return future.result()

    def close(self) -> None:
        """Nothing more is begun."""
        self._refs = iter(())
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
