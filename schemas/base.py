"""The settings every wire model shares: unknown fields refused, values frozen, one schema version."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, PlainSerializer

SchemaVersion = Literal["1"]


class WireModel(BaseModel):
    """A record that crosses a process boundary. Serialise with ``model_dump_json(exclude_none=True)``."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


def format_time(value: datetime) -> str:
    """RFC 3339 in UTC, microseconds always written, so that text order is time order."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# `astimezone` can leave the years datetime knows; a Beam or Kafka record must not be able to crash a formatter later.
def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"time {value.isoformat()} is out of range in UTC") from error


Time = Annotated[AwareDatetime, AfterValidator(_to_utc), PlainSerializer(format_time, return_type=str)]
"""A point in time: RFC 3339 with an offset on the way in, UTC with microseconds on the way out."""
