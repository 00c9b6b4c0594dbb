"""What comes in: one image event, by reference (``uri``) or inline (``data``)."""

import base64
import binascii
from typing import Annotated

from pydantic import (
    AfterValidator,
    ConfigDict,
    EncodedBytes,
    EncoderProtocol,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from grpo_tta.schemas.base import SchemaVersion, Time, WireModel

MAX_ID = 1024
MAX_STREAM = 256
MAX_URI = 4096
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTES_SIZE = 16 * 1024
"""Characters of all names and texts together: attributes travel to the label and into a dead letter."""


_COMPILED: TypeAdapter[bytes] = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64"))
"""Several times faster than ``base64``; takes the URL-safe alphabet and lacking padding too, and refuses spare bits."""


class _StrictBase64(EncoderProtocol):
    """RFC 4648 with padding and nothing else: pydantic's own decoder skips what it does not know."""

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        if len(data) % 4 == 0 and b"-" not in data and b"_" not in data:
            try:
                return _COMPILED.validate_strings(data.decode("ascii"))
            except (ValidationError, UnicodeDecodeError):
                pass  # said below, in our words, or accepted
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise ValueError(f"not base64: {error}") from error

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return base64.b64encode(value)

    @classmethod
    def get_json_format(cls) -> str:
        return "base64"


def _bounded(attributes: dict[str, str]) -> dict[str, str]:
    size = sum(len(name) + len(text) for name, text in attributes.items())
    if size > MAX_ATTRIBUTES_SIZE:
        raise ValueError(f"the names and texts have {size} characters in all, the limit is {MAX_ATTRIBUTES_SIZE}")
    return attributes


Data = Annotated[bytes, EncodedBytes(encoder=_StrictBase64)]


Stream = Annotated[str, Field(min_length=1, max_length=MAX_STREAM)]
Attributes = Annotated[dict[str, str], Field(max_length=MAX_ATTRIBUTES), AfterValidator(_bounded)]


class ImageSidecar(WireModel):
    """What a ``.json`` beside an image in a tar archive may say of it. Other keys are passed over."""

    model_config = ConfigDict(extra="ignore")

    stream: Stream | None = None
    event_time: Time | None = None
    attributes: Attributes | None = None
    """As of an `ImageEvent`."""


class ImageEvent(WireModel):
    """One image of one stream. Exactly one of ``uri`` and ``data`` is given.

    ``id`` is the producer's name for the image (two events may share one; outputs are keyed by the source coordinate
    instead). ``stream`` is what adapts on its own: a camera, a feed.
    """

    schema_version: SchemaVersion
    id: Annotated[str, Field(min_length=1, max_length=MAX_ID)]
    stream: Stream
    event_time: Time
    uri: Annotated[str, Field(min_length=1, max_length=MAX_URI)] | None = None
    data: Data | None = None
    content_type: Annotated[str, Field(max_length=128)] | None = None
    attributes: Attributes | None = None
    """At most 64, of 16,384 characters in all."""

    @model_validator(mode="after")
    def _one_payload(self) -> "ImageEvent":
        if (self.uri is None) == (self.data is None):
            raise ValueError("exactly one of 'uri' and 'data' must be given")
        return self
