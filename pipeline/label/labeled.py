"""What some of one stream's events became."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from grpo_tta.pipeline.watch.notices import tell
from grpo_tta.schemas import AdaptationLog, Counters, DeadLetter, DriftEvent, LabeledImage, SkipReason
from grpo_tta.state import StreamState


class BatchTiming(NamedTuple):
    """One batch through the model, of one stream or of many."""

    images: int
    bytes: int
    """Of its canvases."""
    seconds: float


@dataclass
class Labeled:
    """``labels`` and ``dead_letters`` together are the events."""

    state: StreamState
    labels: list[LabeledImage] = field(default_factory=list)
    adaptation: list[AdaptationLog] = field(default_factory=list)
    drift: list[DriftEvent] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    forward_equivalents: float = 0.0
    late: int = 0
    shed: int = 0
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    """Updates that were due and not made, by reason."""
    notices: Counter[str] = field(default_factory=Counter)
    """Images that were repaired, by kind."""
    batches: list[BatchTiming] = field(default_factory=list)
    """Those that began with an image of this stream."""

    def repaired(self, kind: str, coordinate: str) -> None:
        """Count an image that was repaired, and tell of the first."""
        tell(kind, coordinate, "lacks only its end mark, and is decoded")
        self.notices[kind] += 1

    def counters(self) -> Counters:
        """Their totals."""
        return Counters(
            events=len(self.labels) + len(self.dead_letters),
            labels=len(self.labels),
            dead_letters=len(self.dead_letters),
            updates=sum(not row.reset for row in self.adaptation),
            late=self.late,
            shed=self.shed,
            updates_skipped=dict(self.skipped),
            notices=dict(self.notices),
            drift_events=Counter(event.signal for event in self.drift),
            resets=Counter(row.cause for row in self.adaptation if row.cause is not None),
            forward_equivalents=self.forward_equivalents,
        )
