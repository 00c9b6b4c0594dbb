"""From the parts of a time, as they were found in a name, to microseconds: `microseconds`, and what follows a clock,
an offset or a serial, `offset_behind`. Nothing here guesses: what could be two things raises ``ValueError``.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
DAY = timedelta(days=1) // timedelta(microseconds=1)
FIRST_YEAR, LAST_YEAR = 1980, 2199
_AFTER_YEAR = ("month", "day", "hour", "minute", "second")
_FURTHEST = timedelta(hours=14)

_PLUS = re.compile(r"[ _]?(?:UTC|GMT)?[ _]?\+(\d{2})[:_-]?(\d{2})?(?![\d:])|[ _]?(?:UTC|GMT)[ _]?\+(\d)(?![\d:])")
_UTC = re.compile(r"[ ]?[Zz](?![A-Za-z0-9])|[ _]?(?:UTC|GMT)(?![A-Za-z0-9]|[ _]?[-+]? ?\d)")
_MINUS = re.compile(r" ?-(?!\d\d([-_.])\d\d\1\d)(\d{2})(?:([:_.h-]?)(\d{2}))?(?![\d:])")
"""Not the second clock of a stretch."""


def is_year(text: str) -> bool:
    """Whether a picture may be of this year."""
    return FIRST_YEAR <= int(text) <= LAST_YEAR


def microseconds(part: Mapping[str, str | None], offset: timedelta = timedelta(0)) -> int:
    """Since the epoch, of ``year`` or ``short_year``, ``month``, ``day``, ``hour``, ``minute``, ``second``,
    ``fraction`` and ``half``. Raises ValueError for what is spelt like a time and is none."""
    year = int(part.get("year") or f"20{part['short_year']}")
    month, day, hour, minute, second = (int(part.get(name) or 0) for name in _AFTER_YEAR)
    if part.get("half"):
        hour = _of_day(hour, afternoon=(part["half"] or "") in "Pp")
    fraction = int(f"{part.get('fraction') or 0:0<6}"[:6])
    midnight, leap = (hour, minute, second, fraction) == (24, 0, 0, 0), second == 60
    moment = datetime(year, month, day, 0 if midnight else hour, minute, second - leap, tzinfo=timezone(offset))
    found = (moment - EPOCH) // timedelta(microseconds=1) + fraction + midnight * DAY + leap * 1_000_000
    if leap and found % DAY != fraction:
        raise ValueError("a minute has 61 seconds only before midnight, UTC")
    return in_range(found)


def in_range(found: int) -> int:
    """As it is; raises ValueError outside of the years."""
    if not 0 <= found <= LAST:
        raise ValueError("it is outside the years 1970 to 9999")
    return found


def _of_day(hour: int, *, afternoon: bool) -> int:
    if hour > 12 and afternoon:
        return hour
    if not 1 <= hour <= 12:
        raise ValueError(f"there is no {hour} o'clock {'PM' if afternoon else 'AM'}")
    return hour % 12 + (12 if afternoon else 0)


def of_number(text: str) -> int:
    """Seconds since the epoch, or by their digits milliseconds, microseconds, nanoseconds."""
    if "." in text or len(text) < 13:
        return in_range(int(Decimal(text) * 1_000_000))
    return in_range(int(text) * 1_000_000_000 // 10 ** (len(text) - 10) // 1000)


def offset_of(hours: str, minutes: str | None) -> timedelta:
    """Raises ValueError for what is no clock's anywhere: over 14 hours, or not of whole half hours or 45 minutes."""
    offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
    if offset > _FURTHEST or (minutes or "00") not in ("00", "30", "45"):
        raise ValueError(f"there is no offset of {hours}:{minutes or '00'}")
    return offset


def offset_behind(rest: str, *, iso: bool, compact: bool) -> tuple[timedelta, int]:
    """The offset that ``rest``, what follows a clock, begins with, and its length; nothing where none is there.

    With a plus sign, ``Z`` or UTC it is one. What has a minus sign may be a serial number or the end of a stretch:
    behind ``T`` and a separated clock (``iso``, not ``compact``) it is an offset where it can be one. Raises ValueError
    where it could be both.
    """
    plus = _PLUS.match(rest)
    if plus is not None:
        return offset_of(plus[1] or plus[3], plus[2]), plus.end()
    utc = _UTC.match(rest)
    minus = _MINUS.match(rest)
    if utc is not None or minus is None:
        return timedelta(0), utc.end() if utc else 0
    _, hours, separator, minutes = minus.groups()
    try:
        offset = offset_of(hours, minutes)
    except ValueError:
        if separator == ":":
            raise
        return timedelta(0), 0
    if separator == ":" or (iso and not compact and minutes is not None and separator in "-"):
        return -offset, minus.end()
    if offset and (iso or minutes is not None):
        raise ValueError(f"{minus[0]!r} behind the clock may be an offset or a number")
    return timedelta(0), 0
