"""Which images of a batch make the model raise, so that they alone become dead letters. Nothing is stepped here for
good: a batch is tried in parts, from the state that it would have been stepped from."""

from collections.abc import Callable, Iterator, Sequence

import torch

_WANT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
Try = Callable[[Sequence[int]], object]
"""Runs these images of the batch, by their places; raises what the model raises."""


def at_fault(count: int, run: Try, run_grey: Callable[[int], object], error: Exception) -> dict[int, Exception]:
    """Places of the images that cannot be run, each with what it raised, of a batch of ``count`` that raised ``error``.

    An image is at fault that raises the same alone, twice, where a plain grey one in its place (``run_grey``) does not.
    Raises ``error`` where none is, for the caller's caller to try again: the fault passes, lies in the batch as a
    whole, or is the model's own; and at once for want of memory, which no image is to blame for.
    """
    if wants_memory(error):
        raise error
    found = {
        place: raised
        for place, raised in _search(range(count), run, error)
        if _raised([place], lambda places: run_grey(places[0])) is None
    }
    if not found:
        raise error
    return found


def wants_memory(error: BaseException) -> bool:
    """Torch says it by plain ``RuntimeError`` as well, on CPU and in its libraries."""
    said = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in said for word in _WANT_OF_MEMORY)


def _search(places: Sequence[int], run: Try, error: Exception) -> Iterator[tuple[int, Exception]]:
    if len(places) == 1:
        again = _raised(places, run)
        if type(again) is type(error):
            yield places[0], error
        return
    middle = len(places) // 2
    for half in (places[:middle], places[middle:]):
        raised = _raised(half, run)
        if raised is not None:
            yield from _search(half, run, raised)


def _raised(places: Sequence[int], run: Try) -> Exception | None:
    try:
        run(places)
    except Exception as error:
        if wants_memory(error):
            raise
        return error
    return None
