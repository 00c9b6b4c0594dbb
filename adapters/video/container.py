"""`open_video`: the container of a file, with all that it could lead to elsewhere shut off."""

from typing import Any, BinaryIO

from grpo_tta.adapters.images.limits import CorruptImage
from grpo_tta.adapters.storage.filesystems import MissingBackend, lacking

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp")
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg"
"""No playlists: they name other files."""


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


def time_of(packet: Any) -> int | None:
    """When the packet's picture is shown, in the stream's time base; some containers tell only when it is decoded."""
    return packet.pts if packet.pts is not None else packet.dts
