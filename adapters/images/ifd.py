"""The first directory of a TIFF file or EXIF block: tags with their values as they lie in the file."""

import struct
from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MAX_ENTRIES = 65_535
_LETTERS = {1: "B", 3: "H", 4: "I", 6: "B", 8: "H", 9: "I", 13: "I", 16: "Q"}
"""Of whole numbers; where none may be negative, signed ones are read like others."""


class Value(NamedTuple):
    """Of a tag: ``place`` is where its bytes begin in the file."""

    kind: int
    length: int
    """How many of that kind."""
    place: int


@dataclass(frozen=True)
class Directory:
    """``order``: ``<`` or ``>``. Values that do not lie in the file are not there."""

    data: bytes
    order: str
    values: dict[int, Value]
    span: tuple[int, int] = (0, 0)
    """Where its entries lie."""

    def span_of(self, tag: int) -> tuple[int, int]:
        """Where the bytes of a tag lie that is there."""
        value = self.values[tag]
        return value.place, value.place + value.length * _SIZES[value.kind]

    def raw(self, tag: int) -> bytes:
        """The bytes of a tag that is there."""
        start, stop = self.span_of(tag)
        return self.data[start:stop]

    def numbers(self, tag: int, most: int = 64) -> tuple[int, ...]:
        """The first ``most`` whole numbers of a tag; none where it is not there or holds something else."""
        value = self.values.get(tag)
        if value is None or value.kind not in _LETTERS:
            return ()
        return struct.unpack_from(
            f"{self.order}{min(value.length, most)}{_LETTERS[value.kind]}", self.data, value.place
        )

    def number(self, tag: int, within: Container[int] | None = None) -> int | None:
        """The first number of a tag, if it is ``within``."""
        found = self.numbers(tag, 1)
        return found[0] if found and (within is None or found[0] in within) else None


def read_directory(data: bytes, *, cut_off: bool = False) -> Directory:
    """Raises ValueError or struct.error for what is no TIFF, or has no directory where it says. ``cut_off``: as many of
    its entries as there are will do."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ValueError("no byte order")
    magic = struct.unpack_from(order + "H", data, 2)[0]
    if magic not in (42, 43):
        raise ValueError(f"no TIFF: its second word is {magic}")
    big = magic == 43
    at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    entries = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
    at += 8 if big else 2
    step, inline = (20, 8) if big else (12, 4)
    if cut_off:
        entries = min(entries, (len(data) - at) // step, _MAX_ENTRIES)
    if entries > _MAX_ENTRIES or at + entries * step > len(data):
        raise ValueError(f"a directory of {entries} entries does not lie in the file")
    values: dict[int, Value] = {}
    for place in range(at, at + entries * step, step):
        tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, place)
        size = count * _SIZES.get(kind, 0)
        value_at = place + step - inline
        if size > inline:
            value_at = struct.unpack_from(order + ("Q" if big else "I"), data, value_at)[0]
        if kind in _SIZES and value_at + size <= len(data):
            values.setdefault(tag, Value(kind, count, value_at))
    return Directory(data, order, values, (at, at + entries * step))
