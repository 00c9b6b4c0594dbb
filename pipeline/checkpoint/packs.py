"""One packed file of stream states a slice: magic, JSON header, the encoded states one after another.

The header names each stream's offset, length and checksum, and holds the slice's record. The name comes from the
plan, so a plan that runs again writes the same bytes under the same name.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.schemas import Plan

_MAGIC = b"GTTAPK01"
_LENGTH = struct.Struct("<Q")


class PackError(OSError):
    """A packed file is not what was written."""


def pack_name(plan: Plan) -> str:
    """Of the packed file of this plan's slice."""
    return f"states/{plan.epoch:06d}-{plan.sequence:012d}.pack"


def pack_sequence(name: str) -> int:
    """The sequence in a pack's name."""
    return int(name.rsplit("-", 1)[1].removesuffix(".pack"))


def write_pack(store: ObjectStore, name: str, states: Mapping[str, bytes], record: Mapping[str, Any]) -> None:
    """Write ``states`` (stream -> encoded state) and the slice's ``record``."""
    places: dict[str, tuple[int, int, int]] = {}
    offset = 0
    for stream in sorted(states):
        places[stream] = (offset, len(states[stream]), zlib.crc32(states[stream]))
        offset += len(states[stream])
    header = json.dumps({"states": places, "record": record}, sort_keys=True, separators=(",", ":")).encode()
    blobs = (states[stream] for stream in sorted(states))
    store.write(name, b"".join([_MAGIC, _LENGTH.pack(len(header)), header, *blobs]))


class PackReader:
    """Reads states and records; keeps the headers of the packs it has seen."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._headers: dict[str, tuple[int, dict[str, Any]]] = {}

    def _header(self, name: str) -> tuple[int, dict[str, Any]]:
        if name not in self._headers:
            start = len(_MAGIC) + _LENGTH.size
            head = self._store.read_range(name, 0, start)
            if len(head) < start or head[: len(_MAGIC)] != _MAGIC:
                raise PackError(f"{name} is not a file of stream states")
            (length,) = _LENGTH.unpack(head[len(_MAGIC) :])
            try:
                header = json.loads(self._store.read_range(name, start, start + length))
            except ValueError as error:
                raise PackError(f"the header of {name} is damaged: {error}") from error
            self._headers[name] = (start + length, header)
        return self._headers[name]

    def record(self, name: str) -> dict[str, Any]:
        """The slice's record."""
        return dict(self._header(name)[1]["record"])

    def streams(self, name: str) -> list[str]:
        """The streams whose states the file holds."""
        return list(self._header(name)[1]["states"])

    def read(self, name: str, stream: str) -> bytes:
        """One stream's encoded state; raises `PackError` where it is not there or damaged."""
        base, header = self._header(name)
        place = header["states"].get(stream)
        if place is None:
            raise PackError(f"{name} holds no state of stream {stream!r}")
        offset, length, checksum = place
        data = self._store.read_range(name, base + offset, base + offset + length)
        if zlib.crc32(data) != checksum:
            raise PackError(f"the state of stream {stream!r} in {name} is damaged")
        return data

    def carried(self, states: Mapping[str, str], changed: Iterable[str], sequence: int, keep: int) -> dict[str, bytes]:
        """States of unchanged streams that move into the pack of slice ``sequence``, so that an idle stream does not
        keep a file alive that is older than ``keep`` slices.

        All that lie in such a file, and in any case the oldest of one stream in ``keep``: moved a few at a time, idle
        streams never make one slice slow.
        """
        changed = set(changed)
        idle = sorted((pack_sequence(name), stream, name) for stream, name in states.items() if stream not in changed)
        due = sum(written <= sequence - keep for written, _, _ in idle)
        return {stream: self.read(name, stream) for _, stream, name in idle[: max(due, -(-len(idle) // keep))]}
