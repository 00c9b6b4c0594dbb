"""Times as they are written in the names of files: `parse_time` of a text, `find_time` in a path.

A time is taken only where all of its spelling is in this table; a date whose clock is not understood is refused, and so
is what could be two times. Without an offset a time is UTC.

    2023-06-15T14:25:30.123Z, 2023-06-15_14-25-30, 2023-06-15 at 2.25.30 PM  RFC 3339, motionEye, UniFi, screenshots
    2023-06-15 um 14.25.30, 2023-06-15 à 14.25.30, 2023-06-15 a las 14.25.30 the same in other languages
    2023-06-15-14h25m30s123                                                  VLC
    2023:06:15 14:25:30                                                      EXIF
    20230615142530, 20230615142530123, 2023061514253001, 202306151425        Reolink, Hikvision, D-Link
    20230615_142530123, 20230615-142530, 20230615.142530, 20230615T142530Z   Pixel, Foscam, Blue Iris
    2023_0615_142530, P23061514253001                                        dashcams, HiSilicon
    2023-06-15/001/jpg/14/25/30, 2023/06/15/14-25-30, 20230615/14/25-30      Dahua, motionEye: parts in several folders
    20230615/cam-2/142530                                                    digits alone, below a date of digits alone
    1686839130.123456, 1686839130, 1686839130123                             Frigate, epoch seconds, milliseconds
    2023-06-15_14, 2023061514                                                an hour
    2023-06-15, 20230615                                                     a day: its midnight, which is a guess

Behind a clock: ``Z``, ``UTC``, ``+02``, ``+0200``, ``+02:00`` and ``GMT+2`` are offsets, ``-08:00`` is one, and
``-0800`` behind ``T`` and a separated clock. Other numbers behind ``-`` or ``_`` are serials (three digits behind
``_`` a fraction); what may be either is refused, and so are names of zones, as CEST. AM and PM have dots or none. A
day's 24:00:00 is the next one's midnight, and so is a leap second, 23:59:60 UTC.

A day counts only where nothing in its name or below it looks like a clock: digits that follow it at once, a folder or
file called by 2, 4 or 6 digits alone, a clock elsewhere. Six digits below a date that begin with 00 are the first
minutes of a day or the first 10,000 frames, and refused. A year that comes after day and month begins no date. Dates
come before numbers of seconds: ``202301011200`` is noon of a day and not the year 8380.
"""

import re
from datetime import timedelta

from grpo_tta.adapters.storage.moments import FIRST_YEAR, is_year, microseconds, of_number, offset_of
from grpo_tta.adapters.storage.path_times import FLAGS, HALF, JOIN, SECOND, Found, dates_in, find

FIRST_PLAUSIBLE = microseconds({"year": str(FIRST_YEAR), "month": "1", "day": "1"})
"""Before it no picture was taken that has a time of its own; a camera that has lost its clock begins in 1970."""

_DATES = (
    r"(?P<year>\d{4})(?P<d>[-_.:/])(?P<month>\d{1,2})(?P=d)(?P<day>\d{1,2})",
    r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})",
)
_CLOCKS = (
    rf"(?:{JOIN}|/)(?P<hour>\d{{1,2}})(?P<c>[-_.:/h]|%3A)(?P<minute>\d{{2}})(?:(?:(?P=c)|m){SECOND})?{HALF}",
    rf"{JOIN}?(?P<hour>\d{{2}})(?P<minute>\d{{2}})(?:(?P<second>\d{{2}})(?:[.,]?(?P<f1>\d{{1,9}}))?)?{HALF}",
)
_ZONE = r"(?:[ _]?(?P<zone>Z|UTC|GMT|(?P<sign>[+-])(?P<zh>\d{2})[:_-]?(?P<zm>\d{2})?))?"
_SPELLINGS = [
    *(f"{date}{clock}{_ZONE}" for date in _DATES for clock in _CLOCKS),
    rf"(?P<year>\d{{4}})_(?P<month>\d{{2}})(?P<day>\d{{2}}){_CLOCKS[1]}",
    rf"[AP](?P<short_year>\d{{2}})(?P<month>\d{{2}})(?P<day>\d{{2}}){_CLOCKS[1]}",
    f"{_DATES[1]}T?(?P<hour>\\d{{2}})",
    r"(?P<number>\d{13}|\d{16}|\d{19}|(?:\d{1,7}|\d{9,11})(?:\.\d+)?)",
    rf"{_DATES[0]}[T_ ](?P<hour>\d{{2}})",
    rf"{_DATES[1]}[_ ](?P<hour>\d{{2}})",
    *_DATES,
]
_WHOLE = [re.compile(spelling, FLAGS) for spelling in _SPELLINGS]
_MONTH = re.compile(r"(\d{4})[-_.]?(\d{2})", re.ASCII)


def parse_time(text: str) -> int:
    """Of all of a text that somebody has said is a time: microseconds since the epoch. A number behind it that has a
    sign is an offset. Raises ValueError naming the text."""
    return read_time(text).time


def read_time(text: str) -> Found:
    """The same, and whether the text tells only a day."""
    problem = f"time {text!r} is neither RFC 3339, nor a spelling of it that cameras write, nor epoch seconds"
    first: ValueError | None = None
    for spelling in _WHOLE:
        match = spelling.fullmatch(text)
        if match is None:
            continue
        try:
            return _of_match(match)
        except ValueError as error:
            first = first or ValueError(f"time {text!r}: {error}")
    raise first or ValueError(problem)


def _of_match(match: re.Match[str]) -> Found:
    part = match.groupdict()
    if part.get("number") is not None:
        return Found(of_number(part["number"]))
    if match[0].isdigit() and len(match[0]) in (10, 16, 19) and not is_year(part["year"]):
        raise ValueError(f"the year is {part['year']}")
    offset = timedelta(0)
    if part.get("sign"):
        offset = offset_of(part["zh"], part["zm"]) * (-1 if part["sign"] == "-" else 1)
    fraction = part.get("f1") or part.get("f2") or part.get("f3")
    return Found(microseconds({**part, "fraction": fraction}, offset), guessed="hour" not in part)


def find_time(path: str) -> int:
    """The time that a file's path tells, in microseconds since the epoch. Raises ValueError where it tells none, or
    what may be two."""
    return find(path).time


def is_date(folder: str) -> bool:
    """Whether a folder's name is a day, a month, or a moment of a day, and nothing else."""
    month = _MONTH.fullmatch(folder)
    if month is not None:
        return is_year(month[1]) and 1 <= int(month[2]) <= 12
    try:
        time = parse_time(folder)
    except ValueError:
        return False
    return not folder.replace(".", "").isdigit() or (len(folder) in (8, 12, 14) and time >= FIRST_PLAUSIBLE)


def holds_date(name: str) -> bool:
    """Whether a date, with a time or without, is anywhere in a name."""
    return is_date(name) or (
        not name.isdigit() and any(microseconds(date.parts) >= FIRST_PLAUSIBLE for date in dates_in(name))
    )


def is_year_folder(folder: str) -> bool:
    """Whether a folder's name is a year and nothing else."""
    return len(folder) == 4 and folder.isascii() and folder.isdecimal() and is_year(folder)
