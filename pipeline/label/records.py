"""From what a step gave to the records that leave the job. Pure functions: nothing here reads a clock or a host."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from torch import Tensor

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.storage.filesystems import redacted, redacted_text
from grpo_tta.adapters.storage.pointers import BytesPointer, listed_version
from grpo_tta.guard import GuardEvent
from grpo_tta.pipeline.windows import Window, to_datetime
from grpo_tta.policy import normalised_entropy
from grpo_tta.schemas import UNKNOWN, AdaptationLog, ClassProbability, DeadLetter, DriftEvent, LabeledImage, ResetCause
from grpo_tta.types import Prediction, Update

MAX_MESSAGE = 2000
MAX_EVENT = 4096
_ENTROPY_DIGITS = 4


@dataclass(frozen=True)
class WindowedRef:
    """An event with the window it falls into: before the step, its run (`Windows.runs`)."""

    ref: ImageRef
    window: Window


class _Frozen(NamedTuple):
    """The frozen encoder's side of a label."""

    probability: float
    place: int
    entropy: float


@dataclass(frozen=True)
class RecordMaker:
    """Builds output records; holds what is the same for all of a job's records. Raises ValueError for a class whose
    name says that there is no label."""

    class_names: tuple[str, ...]
    model_fingerprint: str
    method: str
    top_k: int
    min_probability: float

    def __post_init__(self) -> None:
        if self.min_probability > 0 and UNKNOWN in self.class_names:
            raise ValueError(
                f"a class is called {UNKNOWN!r}, as a label under min_probability is: rename it, or leave that out"
            )

    def labels(
        self,
        events: list[WindowedRef],
        prediction: Prediction,
        update_counts: list[int],
        *,
        late: bool = False,
        ill: bool = False,
        shed: bool = False,
    ) -> list[LabeledImage]:
        """One record an event, row i of ``prediction`` belonging to event i."""
        best, indices = prediction.probabilities.topk(min(self.top_k, len(self.class_names)), dim=1)
        probabilities, classes = best.clamp(0, 1).tolist(), indices.tolist()
        unsure, frozen = _entropies(prediction.probabilities), _frozen(prediction.frozen, len(events))
        rows = zip(events, probabilities, classes, unsure, frozen, update_counts, strict=True)
        return [self._label(*row, late=late, ill=ill, shed=shed) for row in rows]

    def _label(
        self,
        event: WindowedRef,
        probabilities: list[float],
        classes: list[int],
        entropy: float,
        frozen: _Frozen | None,
        update_count: int,
        *,
        late: bool,
        ill: bool,
        shed: bool,
    ) -> LabeledImage:
        ref = event.ref
        return LabeledImage(
            coordinate=ref.coordinate,
            id=ref.id,
            stream=ref.stream,
            event_time=to_datetime(ref.event_time),
            window_start=to_datetime(event.window[0]),
            window_end=to_datetime(event.window[1]),
            label=self.class_names[classes[0]] if probabilities[0] >= self.min_probability else UNKNOWN,
            probability=probabilities[0],
            top_k=[
                ClassProbability(label=self.class_names[c], probability=p)
                for p, c in zip(probabilities, classes, strict=True)
            ],
            frozen_label=self.class_names[frozen.place] if frozen else None,
            frozen_probability=frozen.probability if frozen else None,
            entropy=entropy,
            frozen_entropy=frozen.entropy if frozen else None,
            ill=ill,
            model_fingerprint=self.model_fingerprint,
            method=self.method,
            update_count=update_count,
            late=late,
            shed=shed,
            time_capped=ref.time_capped,
            attributes=dict(ref.attributes) or None,
        )

    def _place(self, event: WindowedRef) -> dict[str, Any]:
        return {
            "stream": event.ref.stream,
            "coordinate": event.ref.coordinate,
            "event_time": to_datetime(event.ref.event_time),
            "model_fingerprint": self.model_fingerprint,
            "method": self.method,
        }

    def _window(self, event: WindowedRef) -> dict[str, Any]:
        return {"window_start": to_datetime(event.window[0]), "window_end": to_datetime(event.window[1])}

    def update(
        self, event: WindowedRef, update: Update, *, frame: int, update_count: int, warming_up: bool
    ) -> AdaptationLog:
        """The log record of one update; ``event`` is the last one before it."""
        return AdaptationLog(
            **self._place(event),
            **self._window(event),
            frame=frame,
            frames_since_reset=update.frame,
            update_count=update_count,
            images=update.images,
            loss=update.loss,
            reward=update.reward,
            alignment=update.alignment,
            dispersion=update.dispersion,
            advantage=update.advantage,
            entropy=update.entropy,
            disagreement=update.disagreement,
            gradient_norm=update.gradient_norm,
            forward_equivalents=update.forward_equivalents,
            warming_up=warming_up,
        )

    def reset(
        self,
        event: WindowedRef,
        cause: str,
        *,
        frame: int,
        frames_since_reset: int,
        update_count: int,
        warming_up: bool,
    ) -> AdaptationLog:
        """The log record of a reset."""
        return AdaptationLog(
            **self._place(event),
            **self._window(event),
            frame=frame,
            frames_since_reset=frames_since_reset,
            update_count=update_count,
            warming_up=warming_up,
            reset=True,
            cause=cast(ResetCause, cause),
        )

    def drift(self, event: WindowedRef, found: GuardEvent, *, frame: int) -> DriftEvent:
        """What the guard noticed, as a record."""
        return DriftEvent(
            **self._place(event),
            frame=frame,
            signal=found.signal,
            detector=found.detector,
            statistic=found.statistic,
            threshold=found.threshold,
            size=found.size,
            reset=found.reset,
            message=found.message,
        )

    def foreign_state(self, event: WindowedRef, message: str, *, frame: int) -> DriftEvent:
        """A state of another model, method or codec version was replaced by a fresh one."""
        return DriftEvent(**self._place(event), frame=frame, signal="state", reset=True, message=message)


def _frozen(probabilities: Tensor | None, count: int) -> Sequence[_Frozen | None]:
    if probabilities is None:
        return [None] * count
    best, index = probabilities.max(dim=1)
    columns = (best.clamp(0, 1).tolist(), index.tolist(), _entropies(probabilities))
    return [_Frozen(*row) for row in zip(*columns, strict=True)]


def _entropies(probabilities: Tensor) -> list[float]:
    return [round(value, _ENTROPY_DIGITS) for value in normalised_entropy(probabilities).clamp(0, 1).tolist()]


def _cut(text: str, bound: int) -> str:
    return text if len(text) <= bound else text[: bound - 1] + "…"


def dead_letter(ref: ImageRef, stage: str, error: Exception) -> DeadLetter:
    """An event that cannot be labelled, with its coordinate and the error; inline data and a uri's secrets are left
    out. An event longer than the bound is shown as the beginning of its JSON."""
    fields = {
        "id": ref.id,
        "stream": ref.stream,
        "event_time": to_datetime(ref.event_time).isoformat(),
        "uri": redacted(ref.uri) if ref.uri is not None else None,
        "data_bytes": len(ref.data) if ref.data is not None else None,
        "content_type": ref.content_type,
        "attributes": dict(ref.attributes) or None,
    }
    event = {key: value for key, value in fields.items() if value is not None}
    text = json.dumps(event, ensure_ascii=False)
    too_long = len(text) > MAX_EVENT
    inline = ref.data is not None or (ref.uri is not None and _in_manifest(ref.coordinate, ref.uri))
    return DeadLetter(
        coordinate=ref.coordinate,
        stage=cast(Any, stage),
        error_class=type(error).__name__,
        error_message=_cut(redacted_text(str(error)), MAX_MESSAGE),
        id=ref.id,
        stream=ref.stream,
        event_time=to_datetime(ref.event_time),
        event=_cut(text, MAX_EVENT) if too_long else event,
        truncated=too_long or inline,
    )


def _in_manifest(coordinate: str, uri: str) -> bool:
    return BytesPointer.parse(uri) is not None and listed_version(coordinate, uri) is None


def bad_record(bad: BadRecord) -> DeadLetter:
    """A record of the source that is not an event."""
    event = bad.event
    return DeadLetter(
        coordinate=bad.coordinate,
        stage=cast(Any, bad.stage),
        error_class=bad.error_class,
        error_message=_cut(bad.error_message, MAX_MESSAGE),
        event=None if event is None else _cut(event, MAX_EVENT),
        truncated=bad.truncated or (event is not None and len(event) > MAX_EVENT),
    )
