"""RFC 3339: the one spelling of a time in events, headers, configurations, flags and answers. Nothing is guessed."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

EXAMPLE = "2026-01-31T06:00:00Z"
_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d+))?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)
_SHOWN = 64


def parse_rfc3339(text: str) -> datetime:
    """In UTC; digits behind the microseconds are cut off. A leap second, 23:59:60 UTC, is the next day's midnight.

    Raises ValueError naming the text: for a number, a date alone, a compact spelling, a time without an offset, and
    for what is in UTC outside of the years 1 to 9999.
    """
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise ValueError(f"time {text[:_SHOWN]!r} is not RFC 3339 with an offset, like {EXAMPLE}")
    date, minute, second, fraction, offset = match.groups()
    leap = second == "60"
    plain = f"{date}T{minute}:{'59' if leap else second}.{fraction or '0':0<6.6}{offset.upper()}"
    try:
        time = datetime.fromisoformat(plain).astimezone(UTC)
        if leap and (time.hour, time.minute) != (23, 59):
            raise ValueError("a minute has 61 seconds only before midnight, UTC")
        return time + timedelta(seconds=leap)
    except OverflowError as error:
        raise ValueError(f"time {text[:_SHOWN]!r} is out of range in UTC, which has the years 1 to 9999") from error
    except ValueError as error:
        raise ValueError(f"time {text[:_SHOWN]!r}: {error}; an example is {EXAMPLE}") from error


def given_time(value: Any) -> datetime:
    """A text by `parse_rfc3339`, a ``datetime`` with an offset as it is in UTC; ValueError for anything else."""
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"time {value.isoformat()} has no offset")
        try:
            return value.astimezone(UTC)
        except OverflowError as error:
            raise ValueError(f"time {value.isoformat()} is out of range in UTC") from error
    if not isinstance(value, str):
        raise ValueError(f"expected a text, RFC 3339 with an offset, like {EXAMPLE}, got {str(value)[:_SHOWN]}")
    return parse_rfc3339(value)
