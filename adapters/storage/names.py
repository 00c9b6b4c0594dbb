"""What a file's name says: its stream and its time, by regular expressions with the named groups ``stream`` and
``time``.

A time is RFC 3339 or one of its compact spellings as they occur in file names (``2026-01-01T06-00-32.000Z``,
``20260101T060032``, ``2026-01-01_06.00.32``, a date alone), or seconds since the epoch (13 digits are milliseconds, 16
microseconds, 19 nanoseconds; 8 and 14 digits are compact dates). Without an offset it is UTC.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

_ISO = re.compile(
    r"^(\d{4})-?(\d{2})-?(\d{2})"
    r"(?:[T_ -]?(\d{2})[:.-]?(\d{2})(?:[:.-]?(\d{2})(?:[.,](\d{1,9}))?)?)?"
    r" ?(Z|[+-]\d{2}[:-]?\d{2})?$",
    re.IGNORECASE | re.ASCII,
)
_NUMBER = re.compile(r"^\d{1,12}(\.\d+)?$", re.ASCII)
_DIGITS = {13: 1000, 16: 1, 19: -1000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


class NamePattern:
    """Stream and time from a relative path. Raises ValueError for an expression that is broken or lacks its group."""

    def __init__(self, stream_pattern: str | None = None, time_pattern: str | None = None) -> None:
        self._stream = _compiled("stream", stream_pattern)
        self._time = _compiled("time", time_pattern)

    def stream(self, relative: str) -> str:
        """The stream of a file; without a pattern its first folder, ``default`` in the root. Raises ValueError."""
        if self._stream is None:
            folder, slash, _ = relative.partition("/")
            return folder if slash else "default"
        return _group(self._stream, "stream", relative)

    def time(self, relative: str, modified: int | None) -> int:
        """The file's time in microseconds since the epoch; without a pattern ``modified``. Raises ValueError."""
        if self._time is not None:
            return parse_time(_group(self._time, "time", relative))
        if modified is None:
            raise ValueError("the storage tells no modification time; give a time pattern")
        return modified


def _compiled(group: str, pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{group}_pattern {pattern!r} is not a regular expression: {error}") from error
    if group not in compiled.groupindex:
        raise ValueError(f"{group}_pattern {pattern!r} has no group named {group!r}; write (?P<{group}>...)")
    return compiled


def _group(pattern: re.Pattern[str], group: str, relative: str) -> str:
    match = pattern.search(relative)
    if match is None or not match[group]:
        raise ValueError(f"{group}_pattern {pattern.pattern!r} finds no {group} in {relative!r}")
    return match[group]


def parse_time(text: str) -> int:
    """Microseconds since the epoch. Raises ValueError naming the text."""
    microseconds = _parse_number(text) if (text.isdigit() and len(text) not in (8, 14)) or "." in text else None
    if microseconds is None:
        microseconds = _parse_iso(text)
    if not 0 <= microseconds <= _LAST:
        raise ValueError(f"time {text!r} is outside the years 1970 to 9999")
    return microseconds


def _parse_number(text: str) -> int | None:
    if not text.isascii():
        return None
    scale = _DIGITS.get(len(text)) if text.isdigit() else None
    if scale is not None:
        return int(text) * scale if scale > 0 else int(text) // -scale
    return int(Decimal(text) * 1_000_000) if _NUMBER.fullmatch(text) else None


def _parse_iso(text: str) -> int:
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError(f"time {text!r} is neither RFC 3339, nor a compact spelling of it, nor epoch seconds")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    offset = UTC if zone is None or zone in "Zz" else _zone(zone)
    try:
        time = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=offset
        )
    except ValueError as error:
        raise ValueError(f"time {text!r}: {error}") from error
    return (time - _EPOCH) // timedelta(microseconds=1) + int(f"{fraction or 0:0<6}"[:6])


def _zone(text: str) -> timezone:
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))
