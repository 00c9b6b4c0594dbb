"""One packed file of stream states a slice: a sealed index, then the encoded states one after another.

The index names each stream's offset, length and checksum, and holds the slice's record. The name comes from the plan,
so a plan that runs again writes the same bytes under the same name. A commit names a pack with its index's digest.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sealed import HEAD_BYTES, SealError, body_length, digest_of, seal, unseal
from grpo_tta.pipeline.checkpoint.cache import StateCache
from grpo_tta.schemas import Commit, Plan

_NEARLY_EMPTY = 4
_LEAST_CARRIED = 64 * 2**10


class PackError(SealError):
    """A packed file is not what was written."""


class StoredState(NamedTuple):
    """A state that lies in another pack, to be read when it is written."""

    length: int
    checksum: int
    read: Callable[[], bytes]


def pack_name(plan: Plan) -> str:
    """Of the packed file of this plan's slice."""
    return pack_of(plan.epoch, plan.sequence)


def pack_of(epoch: int, sequence: int) -> str:
    """The name of an attempt's packed file."""
    return f"states/{epoch:06d}-{sequence:012d}.pack"


def pack_sequence(name: str) -> int:
    """The sequence in a pack's name."""
    return int(name.rsplit("-", 1)[1].removesuffix(".pack"))


def write_pack(
    store: ObjectStore, name: str, states: Mapping[str, bytes | StoredState], record: Mapping[str, Any]
) -> str:
    """Write ``states`` (stream -> encoded state) and the slice's ``record``, state by state; the index's digest."""
    places: dict[str, tuple[int, int, int]] = {}
    offset = 0
    for stream, state in sorted(states.items()):
        length, checksum = (len(state), zlib.crc32(state)) if isinstance(state, bytes) else state[:2]
        places[stream] = (offset, length, checksum)
        offset += length
    body = json.dumps({"states": places, "record": record}, sort_keys=True, separators=(",", ":")).encode()
    index = seal(name, body)

    def pieces() -> Iterator[bytes]:
        yield index
        for _, state in sorted(states.items()):
            yield state if isinstance(state, bytes) else state.read()

    store.write(name, pieces())
    return digest_of(index)


class PackReader:
    """Reads states and records; keeps the indexes of the packs it has seen, and in ``cache`` the states. Packs that
    ``commit`` names must be the ones it means."""

    def __init__(self, store: ObjectStore, cache: StateCache | None = None, commit: Commit | None = None) -> None:
        self._store = store
        self._cache = cache
        self._packs = commit.packs if commit is not None else {}
        self._indexes: dict[str, tuple[int, str, dict[str, Any]]] = {}

    def _index(self, name: str) -> tuple[int, str, dict[str, Any]]:
        """Where the states begin, the digest, and what the index says."""
        if name not in self._indexes:
            head = self._store.read_range(name, 0, HEAD_BYTES)
            end = HEAD_BYTES + body_length(head)
            try:
                sealed = unseal(name, head + self._store.read_range(name, HEAD_BYTES, end), self._store.url)
            except SealError as error:
                raise PackError(f"{name} is not a file of stream states: {error}") from error
            wanted = self._packs[name].digest if name in self._packs else ""
            if wanted not in ("", sealed.digest):
                raise PackError(f"{name} is not the file of states that the commit names ({self._store.url})")
            self._indexes[name] = (end, sealed.digest, sealed.json())
        return self._indexes[name]

    def record(self, name: str) -> dict[str, Any]:
        """The slice's record."""
        return dict(self._index(name)[2]["record"])

    def digest(self, name: str) -> str:
        """Of the index."""
        return self._index(name)[1]

    def streams(self, name: str) -> list[str]:
        """The streams whose states the file holds."""
        return list(self._index(name)[2]["states"])

    def read(self, name: str, stream: str) -> bytes:
        """One stream's encoded state; raises `PackError` where it is not there or damaged."""
        held = self._held(name, stream)
        if held is None:
            held = self.stored(name, stream).read()
            self.remember(name, {stream: held})
        return held

    def _held(self, name: str, stream: str) -> bytes | None:
        return self._cache.get(self._store.url, stream, name) if self._cache is not None else None

    def remember(self, name: str, states: Mapping[str, bytes]) -> None:
        """Hold what a pack has in the cache, if there is one."""
        if self._cache is not None:
            for stream, state in states.items():
                self._cache.put(self._store.url, stream, name, state)

    def stored(self, name: str, stream: str) -> StoredState:
        """Where one stream's state lies; reading it raises `PackError` where it is damaged."""
        base, _, index = self._index(name)
        place = index["states"].get(stream)
        if place is None:
            raise PackError(f"{name} holds no state of stream {stream!r}")
        offset, length, checksum = place

        def read() -> bytes:
            data = self._store.read_range(name, base + offset, base + offset + length)
            if zlib.crc32(data) != checksum:
                raise PackError(f"the state of stream {stream!r} in {name} is damaged ({self._store.url})")
            return data

        return StoredState(length, checksum, read)

    def carried(self, commit: Commit, changed: Mapping[str, Any], sequence: int, keep: int) -> dict[str, StoredState]:
        """States of idle streams that move into the pack of slice ``sequence``, out of packs that are older than
        ``keep`` slices and nearly empty: a quarter or less of what they were written with is still the newest. So what
        lies in packs is about four times what is needed at most, and a stream that stays idle is not written again and
        again.

        Not more bytes than a third of what the slice has ``changed``, which in the long run is enough: a pack is nearly
        empty when three times as much was written as is left in it. At least 64 KiB, or one state.
        """
        left: dict[str, list[str]] = {}
        for stream, name in commit.states.items():
            if stream not in changed:
                left.setdefault(name, []).append(stream)
        room = max(sum(map(len, changed.values())) // (_NEARLY_EMPTY - 1), _LEAST_CARRIED)
        moved: dict[str, StoredState] = {}
        for name, streams in sorted(left.items()):
            old = pack_sequence(name) <= sequence - keep
            if not old or _NEARLY_EMPTY * len(streams) > commit.packs[name].states:
                continue
            for stream in sorted(streams):
                state = self.stored(name, stream)
                if moved and state.length > room:
                    return moved
                moved[stream] = state
                room -= state.length
        return moved
