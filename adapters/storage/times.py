"""Times as they are written in the names of files: `parse_time` of a text, `find_time` in a path.

One table of spellings, tried in order; the first that fits and is a time counts. Compact dates come before numbers of
seconds: ``202301011200`` is noon of a day and not the year 8380. Numbers of 10, 16 and 19 digits are dates only from
1980 on, for else they are seconds, microseconds or nanoseconds since the epoch. Without an offset a time is UTC. A
day's 24:00:00 is the next one's midnight, and so is a leap second, 23:59:60 UTC. A year that comes after day and month
begins no date.

    2023-06-15T14:25:30.123Z, 2023-06-15_14-25-30, 2023-06-15 at 2.25.30 PM  RFC 3339, motionEye, UniFi, screenshots
    2023-06-15-14h25m30s123                                                  VLC
    2023:06:15 14:25:30                                                      EXIF
    20230615142530, 20230615142530123, 2023061514253001                      Reolink, Hikvision, D-Link
    20230615_142530123, 20230615-142530, 20230615.142530, 20230615T142530Z   Pixel, Foscam, Blue Iris
    2023_0615_142530, P23061514253001                                        dashcams, HiSilicon
    2023-06-15/001/jpg/14/25/30, 2023/06/15/14-25-30, 20230615/14/25-30      Dahua, motionEye: parts in several folders
    1686839130.123456, 1686839130, 1686839130123                             Frigate, epoch seconds, milliseconds
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_DAY = timedelta(days=1) // timedelta(microseconds=1)
_FIRST_YEAR, _LAST_YEAR = 1980, 2199
FIRST_PLAUSIBLE = (datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
"""Before it no picture was taken that has a time of its own; a camera that has lost its clock begins in 1970."""

_DATE = r"(?P<year>\d{4})(?P<d>[-_.:/])(?P<month>\d{1,2})(?P=d)(?P<day>\d{1,2})"
_SECOND = r"(?P<second>\d{2})(?:[.,_s](?P<fraction>\d{1,9})|s)?"
_HALF = r"(?:[ _\u00a0\u202f]?(?P<half>[AP])M(?![A-Z]))?"
_CLOCK = rf"(?P<hour>\d{{1,2}})(?P<c>[-_.:/h]|%3A)(?P<minute>\d{{2}})(?:(?:(?P=c)|m){_SECOND})?{_HALF}"
_CLOCK_OF_A_FILE = rf"(?P<hour>\d{{2}})(?P<c>[-_.:])(?P<minute>\d{{2}})(?P=c){_SECOND}"
_CLOCK_BELOW_ITS_HOUR = rf"(?P<hour>\d{{2}})/(?P<minute>\d{{2}})[-.:]{_SECOND}"
_DATE_DIGITS = r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})"
_CLOCK_DIGITS = r"(?P<hour>\d{2})(?P<minute>\d{2})(?:(?P<second>\d{2})(?:[.,]?(?P<fraction>\d{1,9}))?)?"
_BETWEEN = r"(?:[T_ ,.+-]{1,3}| at )"
_FOLDERS = r"/(?:[^/]+/)*?"
_ZONE = r"(?: ?(?P<zone>Z|[+-]\d{2}[:-]?\d{2}))?"
_NUMBER = r"(?P<number>\d{13}|\d{16}|\d{19}|\d{9,11}(?:\.\d+)?)"

SPELLINGS = (
    f"{_DATE}{_BETWEEN}{_CLOCK}{_ZONE}",
    f"{_DATE}{_BETWEEN}{_CLOCK_DIGITS}{_ZONE}",
    f"{_DATE_DIGITS}{_BETWEEN}{_CLOCK}{_ZONE}",
    f"{_DATE_DIGITS}(?:{_BETWEEN})?{_CLOCK_DIGITS}{_ZONE}",
    f"(?P<year>\\d{{4}})_(?P<month>\\d{{2}})(?P<day>\\d{{2}})_{_CLOCK_DIGITS}",
    rf"[AP](?P<short_year>\d{{2}})(?P<month>\d{{2}})(?P<day>\d{{2}})_?{_CLOCK_DIGITS}",
    *(
        f"{date}{_FOLDERS}{clock}"
        for date in (_DATE, _DATE_DIGITS)
        for clock in (_CLOCK_OF_A_FILE, _CLOCK_BELOW_ITS_HOUR, _CLOCK, _CLOCK_DIGITS)
    ),
    f"{_DATE_DIGITS}(?P<hour>\\d{{2}})",
    _NUMBER,
    f"{_DATE}[T_ ](?P<hour>\\d{{2}})",
    f"{_DATE_DIGITS}[T_ ](?P<hour>\\d{{2}})",
    f"{_DATE}{_ZONE}",
    f"{_DATE_DIGITS}{_ZONE}",
)
"""What the whole of a text, or a part of a path, may be."""
_AFTER_YEAR = ("month", "day", "hour", "minute", "second")
_FLAGS = re.IGNORECASE | re.ASCII
_WHOLE = [re.compile(spelling, _FLAGS) for spelling in (*SPELLINGS, r"(?P<number>\d{1,7}(?:\.\d+)?)")]
_WITHIN = [re.compile(rf"(?<!\d)(?:{spelling})(?!\d)", _FLAGS) for spelling in SPELLINGS]
_YEAR_LAST = re.compile(r"(?<!\d)\d{1,2}([-_.:])\d{1,2}\1(?=\d{4}\1)", re.ASCII)
"""A day and a month before a year that is followed by more: which of them it goes with cannot be told."""
_MONTH = re.compile(r"(\d{4})[-_.]?(\d{2})", re.ASCII)


def parse_time(text: str) -> int:
    """Microseconds since the epoch. Raises ValueError naming the text."""
    problem = f"time {text!r} is neither RFC 3339, nor a spelling of it that cameras write, nor epoch seconds"
    first: ValueError | None = None
    for spelling in _WHOLE:
        match = spelling.fullmatch(text)
        if match is None:
            continue
        try:
            return _microseconds(match)
        except ValueError as error:
            first = first or ValueError(f"time {text!r}: {error}")
    raise first or ValueError(problem)


def find_time(path: str) -> int:
    """The time that a file's path tells, in microseconds since the epoch. Raises ValueError where it tells none."""
    return _find(path, _WITHIN)


def _find(path: str, spellings: list[re.Pattern[str]]) -> int:
    late = {match.end() for match in _YEAR_LAST.finditer(path)}
    for spelling in spellings:
        for match in reversed(list(spelling.finditer(path))):
            if match.groupdict().get("year") and match.start("year") in late:
                continue
            try:
                return _microseconds(match)
            except ValueError:
                continue
    raise ValueError(f"no time that a camera writes is in {path!r}: say where it is by a time pattern")


def is_date(folder: str) -> bool:
    """Whether a folder's name is a day, a month, or a moment of a day, and nothing else."""
    month = _MONTH.fullmatch(folder)
    if month is not None:
        return _is_year(month[1]) and 1 <= int(month[2]) <= 12
    try:
        microseconds = parse_time(folder)
    except ValueError:
        return False
    return not folder.replace(".", "").isdigit() or (len(folder) in (8, 12, 14) and microseconds >= FIRST_PLAUSIBLE)


def holds_date(name: str) -> bool:
    """Whether a date, with a time or without, is anywhere in a name."""
    dates = [spelling for spelling in _WITHIN if "year" in spelling.groupindex]
    try:
        return is_date(name) or (not name.isdigit() and _find(name, dates) >= FIRST_PLAUSIBLE)
    except ValueError:
        return False


def is_year(folder: str) -> bool:
    """Whether a folder's name is a year and nothing else."""
    return len(folder) == 4 and folder.isdecimal() and _is_year(folder)


def _is_year(text: str) -> bool:
    return _FIRST_YEAR <= int(text) <= _LAST_YEAR


def _microseconds(match: re.Match[str]) -> int:
    """Raises ValueError for what is spelt like a time and is none."""
    part = match.groupdict()
    if part.get("number") is not None:
        found = _of_number(part["number"])
    else:
        text = match[0]
        if text.isdigit() and len(text) in (10, 16, 19) and not _is_year(part["year"]):
            raise ValueError(f"the year is {part['year']}")
        zone = part.get("zone")
        offset = UTC if zone is None or zone in "Zz" else _zone(zone)
        year = int(part.get("year") or f"20{part['short_year']}")
        month, day, hour, minute, second = (int(part.get(name) or 0) for name in _AFTER_YEAR)
        if part.get("half") and hour <= 12:
            hour = hour % 12 + (12 if part["half"] in "Pp" else 0)
        fraction = int(f"{part.get('fraction') or 0:0<6}"[:6])
        midnight, leap = (hour, minute, second, fraction) == (24, 0, 0, 0), second == 60
        moment = datetime(year, month, day, 0 if midnight else hour, minute, second - leap, tzinfo=offset)
        found = (moment - _EPOCH) // timedelta(microseconds=1) + fraction + midnight * _DAY + leap * 1_000_000
        if leap and found % _DAY != fraction:
            raise ValueError("a minute has 61 seconds only before midnight, UTC")
    if not 0 <= found <= _LAST:
        raise ValueError("it is outside the years 1970 to 9999")
    return found


def _of_number(text: str) -> int:
    """Seconds since the epoch, or by their digits milliseconds, microseconds, nanoseconds."""
    if "." in text or len(text) < 13:
        return int(Decimal(text) * 1_000_000)
    return int(text) * 1_000_000_000 // 10 ** (len(text) - 10) // 1000


def _zone(text: str) -> timezone:
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))
