"""What a file's name says: its stream and its time, by regular expressions with the named groups ``stream`` and
``time``; without them by its folders, and by its modification time.
"""

import re
from collections.abc import Sequence

from grpo_tta.adapters.storage.path_times import Told, find
from grpo_tta.adapters.storage.times import date_folders, may_be_date, read_time

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
AUTO = "auto"
"""Instead of a time pattern: a spelling of `adapters.storage.times` that is in the path."""
DEFAULT_STREAM = "default"
_TWO_DIGITS = re.compile(r"[0-5]\d", re.ASCII)


def is_hidden(relative: str) -> bool:
    """Whether the file or a folder of its path is hidden."""
    return relative.startswith(".") or "/." in relative


def is_image(relative: str) -> bool:
    """Whether the name ends as an image's does."""
    return relative.lower().endswith(IMAGE_SUFFIXES)


class NamePattern:
    """Stream and time from a relative path. Raises ValueError for an expression that is broken or lacks its group."""

    def __init__(self, stream_pattern: str | None = None, time_pattern: str | None = None) -> None:
        self._stream = _compiled("stream", stream_pattern)
        self._auto = time_pattern == AUTO
        self._time = None if self._auto else _compiled("time", time_pattern)

    @property
    def tells_time(self) -> bool:
        """Whether a file's time is in its name."""
        return self._auto or self._time is not None

    def stream(self, relative: str, archive: str = "") -> Told[str]:
        """The stream of a file; without a pattern its first folder that is no date, ``default`` where there is none.
        ``archive``: the path that it begins with of the archive that it lies in, which is no folder. Raises
        ValueError."""
        if self._stream is None:
            relative = archive.rpartition("/")[0] + relative[len(archive) :]
            return _folder_stream([folder for folder in relative.split("/")[:-1] if folder])
        return Told(_group(self._stream, "stream", relative))

    def time(self, relative: str, modified: int | None) -> Told[int]:
        """The file's time in microseconds since the epoch; without a pattern ``modified``. A group ``date`` goes before
        the group ``time``. A day alone is a guess: its midnight. Raises ValueError."""
        if self._auto:
            return find(relative)
        if self._time is not None:
            time = _group(self._time, "time", relative)
            dated = "date" in self._time.groupindex
            return read_time(f"{_group(self._time, 'date', relative)} {time}" if dated else time)
        if modified is None:
            raise ValueError("the storage tells no modification time; give a time pattern")
        return Told(modified)


def guesses(stream: Told[str], time: Told[int]) -> str:
    """As `ImageRef.guessed` has them."""
    return " ".join(kind for kind, told in (("stream_guessed", stream), ("time_guessed", time)) if told.guessed)


def _folder_stream(folders: Sequence[str]) -> Told[str]:
    """The first of the folders that is not of a date: a day, a month, a year above months, hours below a day. It is a
    guess where there is none, where it may be a date or its number, and where folders lie below a date that is below
    it."""
    rest = folders
    while found := date_folders(rest):
        rest = rest[found:]
    if len(rest) < len(folders):
        names = [folder for folder in rest if not _TWO_DIGITS.fullmatch(folder)]
        rest = names or rest[: len(rest) == 1]
    if not rest:
        return Told(DEFAULT_STREAM, guessed=True)
    below = next((rest[at:] for at in range(1, len(rest)) if date_folders(rest[at:])), [])
    unclear = any(not _TWO_DIGITS.fullmatch(folder) for folder in below[date_folders(below) :])
    return Told(rest[0], guessed=unclear or may_be_date(rest[0]))


def _compiled(group: str, pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{group}_pattern {pattern!r} is no regular expression: {error}") from error
    if group not in compiled.groupindex:
        raise ValueError(f"{group}_pattern {pattern!r} has no group named {group!r}; write (?P<{group}>...)")
    return compiled


def _group(pattern: re.Pattern[str], group: str, relative: str) -> str:
    match = pattern.search(relative)
    if match is None or not match[group]:
        raise ValueError(f"{group}_pattern {pattern.pattern!r} finds no {group} in {relative!r}")
    return match[group]
