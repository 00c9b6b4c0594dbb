"""Times as they are written in the names of files: `parse_time` of a text; `path_times.find` finds one in a path.

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
``-0800`` behind ``T`` and a separated clock. Other numbers behind a clock with seconds are serials (three digits behind
``_`` a fraction), but four that may be an offset. AM and PM have dots or none. A day's 24:00:00 is the next one's
midnight, and so is a leap second, 23:59:60 UTC.

All else that is left of the name and of the folders below must be known to be no part of the time, whatever stands
between (`adapters.storage.unread`), or the time is refused. Six digits below a date that begin with 00 are the first
minutes of a day or the first 10,000 frames, and refused. A year that comes after day and month begins no date. Dates
come before numbers of seconds: ``202301011200`` is noon of a day and not the year 8380.
"""

import re
import unicodedata
from collections.abc import Sequence
from datetime import timedelta

from grpo_tta.adapters.storage.moments import FIRST_YEAR, is_year, microseconds, of_number, offset_of
from grpo_tta.adapters.storage.path_times import FLAGS, HALF, JOIN, SECOND, Told
from grpo_tta.checks import is_whole

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
_MONTH = re.compile(r"(?P<year>\d{4})[-_.]?(?P<number>\d{2})", re.ASCII)
_WEEK = re.compile(r"(?P<year>\d{4})-?W[0-5]\d(?:-?[1-7])?|(?P<last>\d{4})-(?:[0-2]\d\d|3[0-5]\d|36[0-6])", re.ASCII)
_DAY_FIRST = re.compile(
    r"(?<!\d)(?P<one>\d{1,2})([-_. ])(?P<two>\d{1,2})\2(?P<year>(?:19[89]|20\d|21\d)\d)(?!\d)", re.ASCII
)
_MONTH_NAME = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_NAMED = re.compile(
    rf"(?P<year>\d{{4}})[-_. ]?{_MONTH_NAME}(?:[-_. ]?\d{{1,2}})?"
    rf"|(?:\d{{1,2}}[-_. ]?{_MONTH_NAME}|{_MONTH_NAME}(?:[-_. ]?\d{{1,2}})?)[-_., ]{{0,2}}(?P<last>\d{{4}})",
    FLAGS,
)
_DAY = re.compile(r"0?[1-9]|[12]\d|3[01]", re.ASCII)
_BELOW_YEAR = re.compile(rf"(?:\d{{1,2}}[-_. ]*)?{_MONTH_NAME}|(?:K?W|week[-_. ]?)[0-5]\d|Q[1-4]", FLAGS)
_YEAR_OR_MONTH = re.compile(
    r"(?<!\d)(?:19[89]|2[01]\d)\d(?:(?:0[1-9]|1[0-2])\d*)?(?!\d)"
    rf"|(?<![^\W\d_]){_MONTH_NAME}(?![^\W\d_])|[年月日]"
    r"|\A\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\Z|\A(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])20\d\d\Z",
    re.IGNORECASE,
)
_DATE_KEYS = (
    "year", "month", "day", "hour", "minute", "week", "quarter", "date", "dt", "ds", "y", "m", "d", "h", "yyyy", "yy",
    "mm", "dd", "hh", "event_date", "ingest_date", "partition_date",
)  # fmt: skip
"""Of partitions as Hive writes them."""


def parse_time(text: str) -> int:
    """Of all of a text that somebody has said is a time: microseconds since the epoch. A number behind it that has a
    sign is an offset. Raises ValueError naming the text."""
    return read_time(text).value


def read_time(text: str) -> Told[int]:
    """The same, and whether the text tells only a day."""
    problem = f"time {text!r} is neither RFC 3339, nor a spelling of it that cameras write, nor epoch seconds"
    first: ValueError | None = None
    plain = unicodedata.normalize("NFKC", text)
    for spelling in _WHOLE:
        match = spelling.fullmatch(plain)
        if match is None:
            continue
        try:
            return _of_match(match)
        except ValueError as error:
            first = first or ValueError(f"time {text!r}: {error}")
    raise first or ValueError(problem)


def _of_match(match: re.Match[str]) -> Told[int]:
    part = match.groupdict()
    if part.get("number") is not None:
        return Told(of_number(part["number"]))
    if match[0].isdigit() and len(match[0]) in (10, 16, 19) and not is_year(part["year"]):
        raise ValueError(f"the year is {part['year']}")
    offset = timedelta(0)
    if part.get("sign"):
        offset = offset_of(part["zh"], part["zm"]) * (-1 if part["sign"] == "-" else 1)
    fraction = part.get("f1") or part.get("f2") or part.get("f3")
    return Told(microseconds({**part, "fraction": fraction}, offset), guessed="hour" not in part)


def is_date(folder: str) -> bool:
    """Whether a folder's name is a day, a week, a month, or a moment of a day, and nothing else; also one whose day or
    month come first (which of them is which does not matter here), and a partition as ``day=29`` or ``dt=2026-11-29``.
    Six digits are none: they may be a camera's number."""
    key, sign, value = folder.partition("=")
    if sign:
        return key.lower() in _DATE_KEYS and (is_whole(value) or is_date(value))
    part = _DAY_FIRST.fullmatch(folder)
    if part is not None and is_year(part["year"]):
        return _is_day_and_month(part["one"], part["two"])
    part = _NAMED.fullmatch(folder) or _WEEK.fullmatch(folder) or _MONTH.fullmatch(folder)
    if part is not None and is_year(part["year"] if part["year"] is not None else part["last"]):
        month = part.groupdict().get("number")
        return month is None or 1 <= int(month) <= 12
    try:
        time = parse_time(folder)
    except ValueError:
        return False
    return not folder.replace(".", "").isdigit() or (len(folder) in (8, 12, 14) and time >= FIRST_PLAUSIBLE)


def _is_day_and_month(one: str, two: str) -> bool:
    return 1 <= int(one) <= 31 and 1 <= int(two) <= 31 and min(int(one), int(two)) <= 12


def date_folders(folders: Sequence[str]) -> int:
    """How many of the first folders are one date: a day, a year and what is below it, day and month above a year."""
    if not folders:
        return 0
    if is_date(folders[0]):
        return 2 if _MONTH.fullmatch(folders[0]) and len(folders) > 1 and _DAY.fullmatch(folders[1]) else 1
    short = [bool(_DAY.fullmatch(folder)) for folder in folders[:2]]
    if len(folders) > 2 and all(short) and is_year_folder(folders[2]):
        return 3 if _is_day_and_month(*folders[:2]) else 0
    if not is_year_folder(folders[0]) or len(folders) == 1:
        return 0
    below = 1
    while below < min(len(folders), 3) and (_DAY.fullmatch(folders[below]) or _BELOW_YEAR.fullmatch(folders[below])):
        below += 1
    return below


def holds_date(name: str) -> bool:
    """Whether a date, with a time or without, is in a name, or what may be one: a year, a month's name, ``261129``."""
    return is_date(name) or _YEAR_OR_MONTH.search(unicodedata.normalize("NFKC", name)) is not None


def may_be_date(name: str) -> bool:
    """Whether it may be a date or a part of one by as little as that it begins with a number, has no letter, is a week
    or is spelt as a partition."""
    first = next((sign for sign in name if sign.isalnum()), "0")
    return first.isnumeric() or "=" in name or bool(_BELOW_YEAR.fullmatch(name)) or holds_date(name)


def is_year_folder(folder: str) -> bool:
    """Whether a folder's name is a year and nothing else."""
    return len(folder) == 4 and folder.isascii() and folder.isdecimal() and is_year(folder)
