"""One packed file of stream states a slice: magic, JSON header, the encoded states one after another.

The header names each stream's offset, length and checksum, and holds the slice's record. The name comes from the
plan, so a plan that runs again writes the same bytes under the same name.
"""

import json
import struct
import zlib
from collections.abc import Collection, Mapping
from typing import Any

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.cache import StateCache
from grpo_tta.schemas import Commit, Plan

_MAGIC = b"GTTAPK01"
_LENGTH = struct.Struct("<Q")
_NEARLY_EMPTY, _FEW = 4, 4
_UNKNOWN = 10**9
"""States of a pack whose commit did not count them: it is emptied whatever it holds."""


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
    """Reads states and records; keeps the headers of the packs it has seen, and in ``cache`` the states."""

    def __init__(self, store: ObjectStore, cache: StateCache | None = None) -> None:
        self._store = store
        self._cache = cache
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
        held = self._cache.get(self._store.url, stream, name) if self._cache is not None else None
        if held is None:
            held = self._fetched(name, stream)
            self.remember(name, {stream: held})
        return held

    def remember(self, name: str, states: Mapping[str, bytes]) -> None:
        """Hold what a pack has in the cache, if there is one."""
        if self._cache is not None:
            for stream, state in states.items():
                self._cache.put(self._store.url, stream, name, state)

    def _fetched(self, name: str, stream: str) -> bytes:
        base, header = self._header(name)
        place = header["states"].get(stream)
        if place is None:
            raise PackError(f"{name} holds no state of stream {stream!r}")
        offset, length, checksum = place
        data = self._store.read_range(name, base + offset, base + offset + length)
        if zlib.crc32(data) != checksum:
            raise PackError(f"the state of stream {stream!r} in {name} is damaged")
        return data

    def carried(self, commit: Commit, changed: Collection[str], sequence: int, keep: int) -> dict[str, bytes]:
        """States of idle streams that move into the pack of slice ``sequence``, out of packs that are older than
        ``keep`` slices and nearly empty: a quarter or less of what they were written with is still the newest. So what
        lies in packs is at most four times what is needed, and a stream that stays idle is not written again and again.

        Not more states than the slice has ``changed``, and a few.
        """
        left: dict[str, list[str]] = {}
        for stream, name in sorted(commit.states.items()):
            if stream not in changed:
                left.setdefault(name, []).append(stream)
        moved: dict[str, bytes] = {}
        for name, streams in sorted(left.items()):
            old = pack_sequence(name) <= sequence - keep
            if old and _NEARLY_EMPTY * len(streams) <= commit.packs.get(name, _UNKNOWN):
                room = len(changed) + _FEW - len(moved)
                moved.update({stream: self.read(name, stream) for stream in streams[:room]})
        return moved
