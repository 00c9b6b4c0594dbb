"""`open_video`: the container of a file, with all that it could lead to elsewhere shut off."""

import os
from typing import Any, BinaryIO

from grpo_tta.adapters.images.limits import CorruptImage
from grpo_tta.adapters.storage.filesystems import MissingBackend, lacking

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp")
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg"
"""No playlists: they name other files."""
_EBML, _SEGMENT, _HEAD = b"\x1aE\xdf\xa3", b"\x18S\x80g", 4096
_LONG_BOX, _MOST_BOXES = b"\0\0\0\1", 100_000


def library() -> Any:
    """PyAV. Raises `MissingBackend` where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise MissingBackend(lacking("frames of videos", "video")) from error
    return av


def open_video(file: BinaryIO) -> tuple[Any, Any]:
    """The container and its first stream of pictures. Raises `CorruptImage` for what is no video, and OSError as the
    file does."""
    av = library()
    try:
        container = av.open(file, options={"format_whitelist": _FORMATS, "protocol_whitelist": "none"})
    except av.FFmpegError as error:
        raise CorruptImage(f"no video: {error.strerror or error}") from error
    if not container.streams.video:
        container.close()
        raise CorruptImage("no video: it has no stream of pictures")
    stream = container.streams.video[0]
    if not stream.time_base:
        container.close()
        raise CorruptImage("no video: its stream has no time base")
    return container, stream


def is_cut_off(file: BinaryIO) -> bool:
    """Whether the file ends before what a Matroska container, or a fragment of an MP4, says of itself; others do not
    say where they end."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD)
    if head.startswith(_EBML):
        return _segment_end(head) > end
    at = 0
    for _ in range(_MOST_BOXES):
        file.seek(at)
        box = file.read(16)
        size = int.from_bytes(box[8:16] if box[:4] == _LONG_BOX else box[:4], "big")
        if size < 8 or not box[4:8].isalnum():  # the last one, or no box at all
            return False
        at += size
        if at >= end:
            return at > end
    return False


def _segment_end(head: bytes) -> int:
    """Where the first segment of a Matroska file ends; 0 where it does not say."""
    start = len(_EBML)
    size, length = _number(head, start)
    start += length + size
    if head[start : start + 4] != _SEGMENT:
        return 0
    size, length = _number(head, start + 4)
    return 0 if size == 2 ** (7 * length) - 1 else start + 4 + length + size


def _number(data: bytes, at: int) -> tuple[int, int]:
    """One of EBML's, and how many bytes it takes."""
    length = 9 - data[at : at + 1].rjust(1, b"\0")[0].bit_length()
    return int.from_bytes(data[at : at + length], "big") & (2 ** (7 * length) - 1), length


def time_of(packet: Any) -> int | None:
    """When the packet's picture is shown, in the stream's time base; some containers tell only when it is decoded."""
    return packet.pts if packet.pts is not None else packet.dts
