"""Memory that a method needs beside the model: a figure of tensors, the same on every machine, not of a process."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grpo_tta.evaluation.streams import Frames
from grpo_tta.types import Batch, Method


def peak_bytes(method: Method, frames: Iterable[Frames], device: torch.device) -> int:
    """The most bytes of tensors alive at one time while ``method`` steps through ``frames``.

    Counted are those made by a step: activations, views, gradients and the new state. The model's weights, the
    canvases, and what kernels take for themselves are not. On ``cuda`` it is the caching allocator's own peak over
    what was allocated before, kernels' workspaces included.
    """
    batches = [Batch(torch.from_numpy(part.canvases), torch.from_numpy(part.seeds)) for part in frames]
    state = method.initial_state()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        for batch in batches:
            _, state, _ = method.step(batch, state)
        return torch.cuda.max_memory_allocated(device) - before
    with _Alive() as alive:
        for batch in batches:
            _, state, _ = method.step(batch, state)
    return alive.peak


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums the bytes of all storages that operations make, until each is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in given:
                self._take(value.untyped_storage())
        return made

    def _take(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, storage._cdata)

    def _freed(self, number: int) -> None:
        self.now -= self._known.pop(number)
