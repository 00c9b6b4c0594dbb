"""`Row`: a record on its way out, encoded once: what files and topics sort and key it by, and its JSON.

Only what must look into a record again (Parquet, a dead letter that is cut to its topic's bound) parses it.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from grpo_tta.schemas import AdaptationLog, DeadLetter, DriftEvent, LabeledImage, MonitorRecord, WireModel

KINDS: dict[str, type[WireModel]] = {
    "labels": LabeledImage,
    "adaptation": AdaptationLog,
    "drift": DriftEvent,
    "dead_letters": DeadLetter,
    "monitor": MonitorRecord,
}
"""Of records that leave a job, by the folder that files of the kind lie in; in the order in which they are sent."""
KIND_OF = {model: kind for kind, model in KINDS.items()}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_TIME = -(2**63)


class Row(NamedTuple):
    """Rows of one kind compare as their records are to be ordered: by stream, event time, coordinate, frame, an update
    before the reset it led to, and then by their text."""

    kind: str
    stream: str
    """Empty where the record knows none."""
    time: int
    """Of the event, or of a stretch's beginning, in microseconds since the epoch; the smallest where the record knows
    none."""
    coordinate: str
    frame: int
    reset: bool
    value: bytes
    """JSON, without a line's end."""

    @classmethod
    def of(cls, record: WireModel) -> "Row":
        """Raises ``TypeError`` for a record that is of none of ``KINDS``."""
        kind = KIND_OF.get(type(record))
        if kind is None:
            raise TypeError(f"{type(record).__name__} is none of {', '.join(KINDS)}")
        time = getattr(record, "bucket_start" if kind == "monitor" else "event_time", None)
        return cls(
            kind,
            getattr(record, "stream", None) or "",
            _NO_TIME if time is None else (time - _EPOCH) // timedelta(microseconds=1),
            getattr(record, "coordinate", ""),
            getattr(record, "frame", 0),
            getattr(record, "reset", False),
            record.model_dump_json(exclude_none=True).encode(),
        )

    def record(self) -> WireModel:
        """The record itself."""
        return KINDS[self.kind].model_validate_json(self.value)
