"""Beam coders of events and rows, registered where this module is imported: deterministic, never pickled."""

import json
import struct

from apache_beam import coders

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.rows import Row

_HEADER = struct.Struct(">BI")


class _Deterministic(coders.Coder):
    """Without settings: one is as good as another."""

    def is_deterministic(self) -> bool:
        """Equal values encode to equal bytes."""
        return True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class ImageRefCoder(_Deterministic):
    """A JSON array of the fields in order; inline data follows as raw bytes."""

    def encode(self, value: ImageRef) -> bytes:
        """The reference as bytes."""
        data = value.data
        fields = json.dumps((*value[:5], *value[6:]), separators=(",", ":")).encode()
        return _HEADER.pack(data is not None, len(fields)) + fields + (data or b"")

    def decode(self, encoded: bytes) -> ImageRef:
        """The inverse of `encode`."""
        has_data, length = _HEADER.unpack_from(encoded)
        end = _HEADER.size + length
        coordinate, event_id, stream, time, uri, content_type, attributes, *rest = json.loads(
            encoded[_HEADER.size : end]
        )
        data = encoded[end:] if has_data else None
        pairs = tuple([(name, text) for name, text in attributes])
        return ImageRef(coordinate, event_id, stream, time, uri, data, content_type, pairs, *rest)


class BadRecordCoder(_Deterministic):
    """A JSON array of the fields in order."""

    def encode(self, value: BadRecord) -> bytes:
        """The record as bytes."""
        return json.dumps(value, separators=(",", ":")).encode()

    def decode(self, encoded: bytes) -> BadRecord:
        """The inverse of `encode`."""
        return BadRecord(*json.loads(encoded))


class RowCoder(_Deterministic):
    """A JSON array of what a row is sorted by; its value follows as it is."""

    def encode(self, value: Row) -> bytes:
        """The row as bytes."""
        fields = json.dumps(value[:-1], separators=(",", ":")).encode()
        return _HEADER.pack(True, len(fields)) + fields + value.value

    def decode(self, encoded: bytes) -> Row:
        """The inverse of `encode`."""
        _, length = _HEADER.unpack_from(encoded)
        end = _HEADER.size + length
        kind, stream, time, coordinate, frame, reset = json.loads(encoded[_HEADER.size : end])
        return Row(kind, stream, time, coordinate, frame, reset, encoded[end:])


coders.registry.register_coder(ImageRef, ImageRefCoder)
coders.registry.register_coder(Row, RowCoder)
coders.registry.register_coder(BadRecord, BadRecordCoder)
