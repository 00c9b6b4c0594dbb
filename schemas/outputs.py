"""What goes out: labels, adaptation log, drift events, dead letters. Every record carries the source coordinate or the
stream and frame it speaks of, so that a replay writes the same bytes under the same keys."""

from typing import Annotated, Any, Literal

from pydantic import Field

from grpo_tta.schemas.base import Record, SchemaVersion, Time, WireModel

Probability = Annotated[float, Field(ge=0, le=1)]
ResetCause = Literal["collapse", "shift", "nonfinite", "scheduled", "manual"]
DriftSignal = Literal["shift", "collapse", "nonfinite", "scheduled", "manual", "ill", "state"]
UNKNOWN = "unknown"
"""The label of an image whose best probability is under ``--min-probability``."""


class ClassProbability(WireModel):
    """One candidate of the top-k list."""

    label: str
    probability: Probability


class LabeledImage(Record):
    """The label of one event."""

    schema_version: SchemaVersion = "1"
    coordinate: str
    """Where the event came from: ``path@version`` for storage, ``topic-partition-offset`` for Kafka. Unique."""
    id: str
    stream: str
    event_time: Time
    window_start: Time
    window_end: Time
    label: str
    """The best class, or ``unknown`` under the configured minimum probability."""
    probability: Probability
    top_k: list[ClassProbability]
    """Best first."""
    frozen_label: str | None = None
    """What the frozen encoder says, where it was computed."""
    frozen_probability: Probability | None = None
    entropy: Probability | None = None
    """Of all class probabilities, over ln C: how unsure the label is."""
    frozen_entropy: Probability | None = None
    ill: bool = False
    """The guard was ill: this is the frozen encoder's label."""
    model_fingerprint: str
    method: str
    update_count: Annotated[int, Field(ge=0)]
    """Parameter updates behind this label since the stream began; resets do not set it back."""
    late: bool = False
    """Older than the stream's newest image by more than the allowed lateness: labelled, not learnt from."""
    shed: bool = False
    """The partition was further behind than ``kafka.shed_above``: labelled, not learnt from."""
    time_capped: bool = False
    """The event's time lay too far in the future and was capped for ordering."""
    attributes: dict[str, str] | None = None
    """The event's own, passed through."""


class AdaptationLog(Record):
    """One parameter update, or one reset (``reset`` true, figures absent)."""

    schema_version: SchemaVersion = "1"
    stream: str
    coordinate: str
    """Of the last event before the update or reset."""
    event_time: Time
    window_start: Time
    window_end: Time
    frame: Annotated[int, Field(ge=0)]
    """Frames of the stream stepped so far."""
    frames_since_reset: Annotated[int, Field(ge=0)]
    update_count: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=0)] = 0
    loss: float | None = None
    reward: float | None = None
    alignment: float | None = None
    dispersion: float | None = None
    advantage: float | None = None
    entropy: float | None = None
    disagreement: float | None = None
    gradient_norm: float | None = None
    forward_equivalents: float | None = None
    warming_up: bool = False
    """The guard was still making the stream's reference, and blind to shifts."""
    reset: bool = False
    cause: ResetCause | None = None
    model_fingerprint: str
    method: str


class DriftEvent(Record):
    """Something the guard noticed, whether or not it led to a reset."""

    schema_version: SchemaVersion = "1"
    stream: str
    coordinate: str
    event_time: Time
    frame: Annotated[int, Field(ge=0)]
    signal: DriftSignal
    detector: str | None = None
    """Which statistic stood over its threshold: ``shift``, ``collapse`` or ``regret``; absent where none did."""
    statistic: float | None = None
    threshold: float | None = None
    size: float | None = None
    """Of a shift: how far the frozen encoder's features moved, in standard deviations of a frame; comparable over
    streams. ``statistic`` says how sure that is."""
    reset: bool
    message: str
    model_fingerprint: str
    method: str


class DeadLetter(Record):
    """An event that could not be labelled, and why."""

    schema_version: SchemaVersion = "1"
    coordinate: str
    stage: Literal["source", "decode_event", "policy", "fetch", "decode_image", "step", "sink"]
    error_class: str
    error_message: str
    id: str | None = None
    stream: str | None = None
    event_time: Time | None = None
    event: dict[str, Any] | str | None = None
    """The event as it came, cut to a bound; inline data is left out."""
    truncated: bool = False
