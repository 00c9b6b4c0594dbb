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
_UTC = re.compile(r"[ ]?[Zz](?![A-Za-z0-9])|[ _]?(?:UTC|GMT)(?![A-Za-z0-9]|[ _]?[-+]?\d)")
_MINUS = re.compile(r" ?-(\d{2})(?:([:_-]?)(\d{2}))?(?![\d:]|[-_.]\d)")
_UNKNOWN = re.compile(
    r"[ _]?(?:[+\u2212\u00b1]\d|(?:UTC|GMT)[ _]?[-+\u2212]?\d)|:\d|[.,]\d"
    r"|[ _-]?(?:CES?T|MES?Z|EES?T|BST|IST|MSK|[ECMP][SD]T|AK[SD]T|HST|JST|KST|HKT|SGT|A[ECW][SD]T|NZ[SD]T|SAST"
    r"|BRT|PKT)(?![A-Za-z])"
)
"""Behind a clock: an offset that is none of those above, a zone's name, which says no offset, or more of the clock."""


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


def offset_behind(rest: str, *, iso: bool, compact: bool) -> timedelta:
    """The offset that ``rest``, what follows a clock, begins with; nothing where none is there.

    With a plus sign, ``Z`` or UTC it is one. What has a minus sign may be a serial number or the end of a stretch:
    behind a clock of digits alone it is a serial; behind ``T`` and a separated clock (``iso``) it is an offset
    where it can be one. Raises ValueError where it could be both, for the name of a zone, and for more of a clock.
    """
    plus = _PLUS.match(rest)
    if plus is not None:
        return offset_of(plus[1] or plus[3], plus[2])
    if _UTC.match(rest):
        return timedelta(0)
    unknown = _UNKNOWN.match(rest)
    if unknown is not None:
        raise ValueError(f"{unknown[0]!r} behind the clock is no offset that can be read")
    minus = _MINUS.match(rest)
    if minus is None:
        return timedelta(0)
    hours, separator, minutes = minus.groups()
    try:
        offset = offset_of(hours, minutes)
    except ValueError:
        if separator == ":":
            raise
        return timedelta(0)
    if separator == ":" or (iso and not compact and minutes is not None and separator != "_"):
        return -offset
    if not offset or (not iso and (compact or minutes is None)):
        return timedelta(0)
    raise ValueError(f"{minus[0]!r} behind the clock may be an offset or a number")
