"""The settings every wire model shares: unknown fields refused, values frozen, one schema version."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, PlainSerializer, model_validator

from grpo_tta.checks import described
from grpo_tta.schemas.rfc3339 import given_time

SchemaVersion = Literal["1"]


class WireModel(BaseModel):
    """A record that crosses a process boundary. Serialise with ``model_dump_json(exclude_none=True)``."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null", json_schema_extra=described)


def encodable(value: Any) -> Any:
    """The value with every text in it made encodable as UTF-8: half a surrogate pair, which a file's name and an
    escape in JSON may hold, becomes its escape ``\\udcff``. The only place where texts of records are repaired."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors="backslashreplace").decode()
        return value
    if isinstance(value, dict):
        return {encodable(name): encodable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(one) for one in value]
    return value


class Record(WireModel):
    """A record that leaves a job. Whatever texts it is made of, it can be encoded, and its model reads it back."""

    @model_validator(mode="before")
    @classmethod
    def _encodable(cls, values: Any) -> Any:
        return encodable(values)


def format_time(value: datetime) -> str:
    """RFC 3339 in UTC: four digits of the year and microseconds always written, so that text order is time order."""
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


Time = Annotated[AwareDatetime, BeforeValidator(given_time), PlainSerializer(format_time, return_type=str)]
"""A point in time: RFC 3339 with an offset on the way in, UTC with microseconds on the way out."""
