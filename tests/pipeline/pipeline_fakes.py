"""A method whose arithmetic is exact, streams of events for it, and labelers made of both.

An image is a canvas of one grey level. The frozen encoder says class ``level % 4``; the adapted one moves on by one
class with every update, so that a label tells how many updates are behind it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.images import Repaired
from grpo_tta.guard import DriftGuard, GuardSettings
from grpo_tta.pipeline.label.labeler import Read, StreamLabeler
from grpo_tta.pipeline.label.records import RecordMaker, WindowedRef
from grpo_tta.pipeline.windows import SECOND, Windows
from grpo_tta.types import Batch, Method, Prediction, Report, State, Update

NAMES = ("ant", "bee", "cat", "dog")
VECTORS = torch.eye(4)
SIDE = 4
NO_GUARD = GuardSettings(enabled=False)


def peaked(classes: Tensor) -> Tensor:
    """5/8 for the class, 1/8 for the others, ``[B, 4]``: sums of such are exact in any order."""
    return torch.full((len(classes), 4), 0.125).scatter(1, classes[:, None], 0.625)


@dataclass
class CountingMethod(Method):
    """Sums grey levels in float64, exactly, whatever the batches."""

    name: ClassVar[str] = "counting"
    cadence: int | None = 4
    collapse_after: int = 10**9
    """Updates since the initial state after which every prediction is of class 0."""
    broken_at: int = -1
    """Frames since the initial state at which a prediction is not finite."""
    fail_at: int = -1
    """Grey level of an image that makes the step raise."""
    fail_always: bool = False
    """Every image does."""

    def initial_state(self) -> State:
        return {"frames": 0, "updates": 0, "sum": torch.zeros(1, dtype=torch.float64)}

    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        levels = self._levels(batch)
        start, done = int(state["frames"]), int(state["updates"])
        cadence = self.cadence or 10**9
        numbers = torch.arange(start, start + len(batch))
        frozen, adapted = peaked(levels % 4), self._adapted(levels, done + numbers // cadence - start // cadence)
        broken = numbers == self.broken_at
        adapted[broken] = torch.nan
        ends = [frame for frame in range(start + 1, start + len(batch) + 1) if frame % cadence == 0]
        updates = tuple(
            Update(frame, done + number, cadence, 0.0, 1.0, 1.0, 0.0, 0.5, 0.25, 0.0, 2.0, 4.0)
            for number, frame in enumerate(ends, start=1)
        )
        total = state["sum"]
        assert isinstance(total, Tensor)
        new: State = {
            "frames": start + len(batch),
            "updates": done + len(ends),
            "sum": total + levels.double().sum(),
        }
        report = Report(adapted, frozen, VECTORS[levels % 4], updates, 4.0 * len(batch), not bool(broken.any()))
        return Prediction(adapted, frozen), new, report

    def _levels(self, batch: Batch) -> Tensor:
        levels = batch.canvases[:, 0, 0, 0].to(torch.int64)
        if self.fail_always or (levels == self.fail_at).any():
            raise ArithmeticError("the step failed")
        return levels

    def _adapted(self, levels: Tensor, updates: Tensor) -> Tensor:
        return peaked(torch.where(updates >= self.collapse_after, torch.zeros_like(levels), (levels + updates) % 4))

    def predict(self, batch: Batch, state: State) -> Prediction:
        levels = self._levels(batch)
        return Prediction(self._adapted(levels, torch.full_like(levels, int(state["updates"]))))

    def pull(self, state: State, strength: float) -> State:
        total = state["sum"]
        assert isinstance(total, Tensor)
        return {**state, "sum": total * (1 - strength)}


def make_ref(number: int, stream: str = "cam", second: float | None = None, **fields: Any) -> ImageRef:
    """Event ``number``, one a second."""
    time = round((number if second is None else second) * SECOND)
    name = f"{stream}/{number:04d}.png"
    return ImageRef(f"/feed/{name}@1-1", name, stream, time, uri=f"/feed/{name}")._replace(**fields)


def windowed(refs: Sequence[ImageRef], windows: Windows | None = None) -> list[WindowedRef]:
    cut = windows or Windows("fixed", 60 * SECOND, 0)
    spans = cut.runs([ref.event_time for ref in refs])
    return [WindowedRef(ref, span) for ref, span in zip(refs, spans, strict=True)]


def events(count: int, start: int = 0, stream: str = "cam") -> list[WindowedRef]:
    return windowed([make_ref(number, stream) for number in range(start, start + count)])


def level_of(ref: ImageRef) -> int:
    """Grey level by the number in the id."""
    number = int(ref.id.rsplit("/", 1)[1].split(".")[0])
    return (7 * number + number // 3 + number // 11) % 251


def canvas(level: int) -> np.ndarray:
    return np.full((3, SIDE, SIDE), level, dtype=np.uint8)


def reading(errors: Mapping[str, Exception] | None = None) -> Read:
    """A reader of grey canvases that raises ``errors`` by id."""
    broken = dict(errors or {})

    def read(ref: ImageRef, repaired: Repaired) -> np.ndarray:
        if ref.id in broken:
            raise broken[ref.id]
        return canvas(level_of(ref))

    return read


def make_labeler(
    method: Method | None = None,
    guard: GuardSettings = NO_GUARD,
    read: Read | None = None,
    *,
    vectors: Tensor = VECTORS,
    names: tuple[str, ...] = NAMES,
    windows: Windows | None = None,
    **options: Any,
) -> StreamLabeler:
    method = method or CountingMethod()
    settings: dict[str, Any] = {
        "settings_fingerprint": "settings",
        "allowed_lateness": 30 * SECOND,
        "max_batch_size": 4,
        "readers": 2,
        **options,
    }
    make = RecordMaker(names, "model", method.name, top_k=2, min_probability=0.0)
    drift_guard = DriftGuard(guard, vectors)
    return StreamLabeler(
        method, drift_guard, make, read or reading(), windows or Windows("fixed", 60 * SECOND, 0), **settings
    )


def dump(records: Sequence[Any]) -> list[str]:
    """As text, to compare field by field with not-a-number equal to itself."""
    return [record.model_dump_json() for record in records]


Change = Callable[[ImageRef], ImageRef]


def changed(event: WindowedRef, **fields: Any) -> WindowedRef:
    return replace(event, ref=event.ref._replace(**fields))
