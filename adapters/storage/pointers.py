"""Addresses of what lies inside a file. Only a source gives them: an event of somebody's own may not.

``FILE#bytes=START-STOP`` is a line of a manifest or a member of a tar archive, ``FILE#pts=N`` a frame of a video.
"""

import re
from typing import NamedTuple

_BYTES = re.compile(r"(.*)#bytes=(\d+)-(\d+)", re.DOTALL)
_FRAME = re.compile(r"(.*)#pts=(\d+)", re.DOTALL)
_FRAGMENT = re.compile(r"#(?:bytes=\d+-\d+|pts=\d+)\Z")


class BytesPointer(NamedTuple):
    """Bytes ``start <= i < stop`` of a file."""

    file: str
    start: int
    stop: int

    @property
    def fragment(self) -> str:
        """What stands behind the file, padded: text order is the order in the file."""
        return f"#bytes={self.start:012d}-{self.stop:012d}"

    @property
    def uri(self) -> str:
        """The pointer as an `ImageRef.uri`."""
        return self.file + self.fragment

    @classmethod
    def parse(cls, uri: str) -> "BytesPointer | None":
        """The pointer a uri stands for, None for any other uri."""
        match = _BYTES.fullmatch(uri)
        return None if match is None else cls(match[1], int(match[2]), int(match[3]))


class FramePointer(NamedTuple):
    """The frame of a video that is shown at ``pts``, in units of the stream's time base."""

    file: str
    pts: int

    @property
    def fragment(self) -> str:
        """As of a `BytesPointer`."""
        return f"#pts={self.pts:015d}"

    @classmethod
    def parse(cls, uri: str) -> "FramePointer | None":
        """The pointer a uri stands for, None for any other uri."""
        match = _FRAME.fullmatch(uri)
        return None if match is None else cls(match[1], int(match[2]))


def is_pointer(uri: str) -> bool:
    """Whether the uri is of something inside a file."""
    return _FRAGMENT.search(uri) is not None


def listed_uri(coordinate: str) -> str:
    """The uri of what a source listed under this coordinate, ``FILE@VERSION`` and what lies inside; of a manifest's
    line it cannot be told."""
    file, _, version = coordinate.rpartition("@")
    inside = _FRAGMENT.search(version)
    return file + (inside[0] if inside else "")


def listed_version(coordinate: str, uri: str) -> str | None:
    """The version of the file that a source has listed; None where the coordinate does not tell it, as a manifest's
    of the files that it names."""
    inside = _FRAGMENT.search(uri)
    fragment = inside[0] if inside else ""
    head = f"{uri.removesuffix(fragment)}@"
    if not (coordinate.startswith(head) and coordinate.endswith(fragment)):
        return None
    return coordinate[len(head) :].removesuffix(fragment)
