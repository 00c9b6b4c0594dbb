"""`find`: the time that a path tells, by the table of `adapters.storage.times`.

Every date in the path is looked at with what follows it. It is a moment, where a clock is joined to it in a spelling of
the table; a day, where no clock follows; or refused, where digits of one seem to follow. The file's own moment counts
before one that is spread over folders, then a folder's, then numbers of seconds, then a day.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from grpo_tta.adapters.storage.moments import DAY, LAST_YEAR, is_year, microseconds, of_number, offset_behind

FLAGS = re.IGNORECASE | re.ASCII
_WORDS = r"at|um|à|a las|a la|às|alle|om|kl\.?|klo|o|в"
JOIN = rf"(?:[T_ ,.+-]{{1,3}}|[ \u00a0](?:{_WORDS})[ \u00a0])"
HALF = r"(?:[ _\u00a0\u202f]?(?P<half>[AP])\.?[ \u00a0]?M(?![A-Z])\.?)?"
_NO_DATE = r"(?!\d{4}[-_.:/]\d{1,2}[-_.:/]\d|(?:19|20)\d{6}(?!\d))"
SECOND = (
    rf"(?P<second>\d{{2}})(?!\d)(?:(?P<point>[.,]){_NO_DATE}(?P<f1>\d+)|_{_NO_DATE}(?P<f2>\d{{3}})(?!\d)"
    r"|s(?:(?P<f3>\d{3})(?!\d))?)?"
)
_SEPARATED = re.compile(
    rf"(?P<join>{JOIN})(?P<hour>\d{{1,2}})(?P<c>[-_.:h]|%3A)(?P<minute>\d{{2}})(?!\d)(?:(?:(?P=c)|m){SECOND})?{HALF}",
    FLAGS,
)
_FRACTION = r"(?P<f1>\d{2,3}|\d{6}|\d{9})(?!\d)"
_DIGITS = re.compile(
    rf"(?:(?P<join>{JOIN})(?!(?:19|20)\d{{6}}(?!\d)))?(?P<hour>\d{{2}})(?P<minute>\d{{2}})"
    rf"(?:(?P<second>\d{{2}})(?:{_FRACTION}|[.,]{_NO_DATE}(?P<f2>\d+))?)?(?!\d){HALF}",
    FLAGS,
)
_FOLDERS = r"/(?:[^/]+/)*?"
_BELOW = tuple(
    re.compile(_FOLDERS + clock, FLAGS)
    for clock in (
        rf"(?P<hour>\d{{1,2}})(?P<c>[-_.:h])(?P<minute>\d{{2}})(?:(?P=c)|m){SECOND}{HALF}",
        r"(?P<hour>\d{2})/(?P<minute>\d{2})(?P<c>[-.:/])(?P<second>\d{2})(?!\d)(?:\.(?P<f1>\d{1,9})(?!\d))?",
        r"(?P<hour>(?!00)\d{2})(?P<minute>\d{2})(?P<second>\d{2})(?P<f1>\d{2,3})?(?![A-Za-z0-9])",
    )
)
"""Below the folder of a date; the last only below a date of digits alone."""
_HOUR = re.compile(r"[T_ ](\d{2})(?![A-Za-z0-9]|[-_.:]\d)", FLAGS)
_HOUR_OF_DIGITS = re.compile(r"T?(\d{2})(?![A-Za-z0-9]|[-_.:]\d)", FLAGS)
_DIGIT_FOLLOWS = re.compile(r"[T_ ,.+-]{0,3}\d", FLAGS)
_CLOCK_LIKE = re.compile(
    r"(?<![\d.])\d{1,2}(?:[-_.:h]|%3A)\d{2}(?:[-_.:m]|%3A)\d{2}(?!\d)|(?<!\d)\d{1,2}[:h]\d{2}(?!\d)"
    r"|(?<![A-Za-z0-9])\d{6}(?![A-Za-z0-9])|\d[ _\u00a0\u202f]?[ap]\.?[ \u00a0]?m(?![a-z])",
    FLAGS,
)
_NUMBERED = re.compile(r"/(?:\d{2}|\d{4}|\d{1,2}[-_.]\d{2})(?=/|\.[A-Za-z0-9]+$|$)", re.ASCII)
"""A folder or file that is called by 2 or 4 digits and nothing else, or as hour and minute."""
_DATE = re.compile(
    r"(?<!\d)(?=(?P<year>\d{4})(?:(?P<d>[-_.:/])(?P<month>\d{1,2})(?P=d)(?P<day>\d{1,2})(?!\d)"
    r"|(?P<mm>\d{2})(?P<dd>\d{2})|_(?P<m3>\d{2})(?P<d3>\d{2})(?=_\d{6})))"
    r"|(?<![A-Za-z0-9])(?=[AP](?P<short_year>\d{2})(?P<m4>\d{2})(?P<d4>\d{2})_?\d{6})",
    FLAGS,
)
_YEAR_LAST = re.compile(r"(?<!\d)\d{1,2}([-_.:])\d{1,2}\1(?=\d{4}(?:\1|[/_ T]))", re.ASCII)
"""A day and a month before a year: which of them it goes with cannot be told."""
_FOLDERS_BEFORE = re.compile(r"(?<![^/])(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|[12]\d|3[01])/(?=\d{4}/)", re.ASCII)
"""Folders that may be day and month of the year below them."""
_NUMBER = re.compile(r"(?<!\d)(?:\d{13}|\d{16}|\d{19}|\d{10}(?:\.\d+)?)(?![A-Za-z0-9])", re.ASCII)
_FIRST_NUMBER, _LAST_NUMBER = 10**9 * 10**6, 4_102_444_800 * 10**6
"""Of numbers of seconds in a path, in microseconds: 2001 and 2100. Beyond them they are other numbers."""
_RUN = re.compile(r"\d*")
_ORDINAL = re.compile(r"(?:19[89]|20\d)\d(?:[012]\d\d|3[0-6]\d)(?:[01]\d|2[0-3])[0-5]\d[0-5]\d", re.ASCII)


T = TypeVar("T")


class Told(NamedTuple, Generic[T]):
    """What a name tells; ``guessed`` where it does not quite: of a time only the day, whose midnight is taken."""

    value: T
    guessed: bool = False


class _Date(NamedTuple):
    """One date of a path: what it is by itself, and where it ends."""

    start: int
    end: int
    parts: dict[str, str | None]
    digits: bool
    folders: bool
    """Its parts are folders."""


class _Reading(NamedTuple):
    """What a date and all that follows it are: of ``kind`` moment, hour, day or refused."""

    kind: str
    date: _Date
    end: int
    time: int = 0
    why: str = ""


def find(path: str) -> Told[int]:
    """The time that a file's path tells, in microseconds since the epoch. Raises ValueError where it tells none, or
    what may be two."""
    path = unicodedata.normalize("NFC", path)
    dates = list(dates_in(path))
    readings = [_read(path, date) for date in dates]
    file = path.rfind("/") + 1
    found = _moment(path, readings, file)
    if found is not None:
        return Told(found)
    number = _number(path, readings, file)
    if number is not None:
        return Told(number)
    refused = [reading.why for reading in readings if reading.kind == "refused"]
    late = _YEAR_LAST.search(path) or _FOLDERS_BEFORE.search(path)
    if refused or late or not readings:
        why = f": {refused[-1]}" if refused else ""
        raise ValueError(f"no time that a camera writes is in {path!r}{why}: say where it is by a time pattern")
    hours = [reading for reading in readings if reading.kind == "hour"]
    last = (hours or readings)[-1]
    return Told(last.time, guessed=last.kind == "day")


def dates_in(path: str) -> Iterator[_Date]:
    """All that are dates of a calendar, in a year that a picture may be of."""
    late = {match.end() for match in _YEAR_LAST.finditer(path)}
    for match in _DATE.finditer(path):
        part = match.groupdict()
        month = part["month"] or part["mm"] or part["m3"] or part["m4"]
        day = part["day"] or part["dd"] or part["d3"] or part["d4"]
        name = next(name for name in ("day", "dd", "d3", "d4") if part[name])
        parts = {"year": part["year"], "short_year": part["short_year"], "month": month, "day": day}
        date = _Date(match.start(), match.end(name), parts, part["d"] is None, part["d"] == "/")
        if match.start() not in late and _is_date(path, date):
            yield date


def _is_date(path: str, date: _Date) -> bool:
    run = _RUN.match(path, date.start)
    digits = len(run[0]) if run else 0
    year = int(date.parts["year"] or f"20{date.parts['short_year']}")
    if year > LAST_YEAR or (digits in (10, 13, 16, 19) and not is_year(str(year))):
        return False
    try:
        return microseconds(date.parts) >= 0
    except ValueError:
        return False


def _read(path: str, date: _Date) -> _Reading:
    try:
        return _joined(path, date) or _without_clock(path, date)
    except ValueError as error:
        return _Reading("refused", date, date.end, why=str(error))


def _joined(path: str, date: _Date) -> _Reading | None:
    """The moment, where a clock follows in a spelling of the table. Raises ValueError for one that is none."""
    match = _SEPARATED.match(path, date.end) or _DIGITS.match(path, date.end)
    if match is not None:
        part, join = match.groupdict(), match["join"] or ""
        compact = "c" not in match.re.groupindex
        iso = join.strip().upper() == "T"
        if not _known(part, join, iso=iso, compact=compact):
            return None
        return _moment_of(path, date, part, match.end(), iso=iso, compact=compact)
    matches = (clock.match(path, date.end) for clock in (_BELOW if date.digits else _BELOW[:-1]))
    match = next((one for one in matches if one), None)
    if match is None:
        return None
    part = match.groupdict()
    if len(part["hour"] or "") == 1 and not part["half"]:
        return None
    if date.folders and part.get("c") == "/" and _after_day_and_month(path, date):
        raise ValueError("the year may belong to the day and month before it")
    return _moment_of(path, date, part, match.end(), iso=False, compact="c" not in part)


def _known(part: dict[str, str | None], join: str, *, iso: bool, compact: bool) -> bool:
    """Whether hour and minute alone are a clock, as they are joined."""
    if part["second"] or part["half"]:
        return True
    if "+" in join:
        return False
    if compact:
        return iso or not join
    return len(part["hour"] or "") == 2 or part["c"] in (":", "h", "H")


def _moment_of(path: str, date: _Date, clock: dict[str, str | None], end: int, *, iso: bool, compact: bool) -> _Reading:
    fraction = clock.get("f1") or clock.get("f2") or clock.get("f3")
    if clock.get("c") == "." and clock.get("f1") and len(fraction or "") not in (3, 6, 9):
        raise ValueError(f"{path[date.end : end]!r} is no clock")
    if not clock["second"] and not clock.get("half") and not compact:
        follows = path[end : end + 2]
        if len(follows) == 2 and follows[0] == clock.get("c") and follows[1].isdigit():
            raise ValueError(f"{path[date.end : end + 2]!r} is no clock")
    offset = offset_behind(path[end:], iso=iso, compact=compact)
    return _Reading("moment", date, end, microseconds({**date.parts, **clock, "fraction": fraction}, offset))


def _after_day_and_month(path: str, date: _Date) -> bool:
    return any(match.end() == date.start for match in _FOLDERS_BEFORE.finditer(path))


def _without_clock(path: str, date: _Date) -> _Reading:
    """The hour or the day. Raises ValueError where digits of a clock seem to follow, or stand before it."""
    hour = (_HOUR_OF_DIGITS if date.digits else _HOUR).match(path, date.end)
    if hour is not None:
        return _Reading("hour", date, hour.end(), microseconds({**date.parts, "hour": hour[1]}))
    rest = path[date.end :]
    before = path[path.rfind("/", 0, date.start) + 1 : date.start]
    clock = _DIGIT_FOLLOWS.match(rest) or _CLOCK_LIKE.search(rest) or _NUMBERED.search(rest)
    clock = clock or _CLOCK_LIKE.search(before)
    if clock is not None:
        raise ValueError(f"{clock[0]!r} beside the date may be a clock, and is none of those known")
    return _Reading("day", date, date.end, microseconds(date.parts))


def _moment(path: str, readings: list[_Reading], file: int) -> int | None:
    """The file's own, else that of folders and file, else that of the folders. Raises ValueError where they differ."""
    moments = [reading for reading in readings if reading.kind == "moment"]
    own = [reading for reading in moments if reading.date.start >= file]
    if own:
        return own[0].time
    if any(reading.kind == "refused" and reading.date.start >= file for reading in readings):
        return None
    spread = [reading for reading in moments if reading.end > file]
    if spread:
        return spread[-1].time
    if len({reading.time for reading in moments}) > 1:
        raise ValueError(f"several times are in the folders of {path!r}: say which by a time pattern")
    if moments and _CLOCK_LIKE.search(path, file):
        raise ValueError(f"the file's own clock is not understood in {path!r}: say where it is by a time pattern")
    return moments[0].time if moments else None


def _number(path: str, readings: list[_Reading], file: int) -> int | None:
    """Seconds since the epoch: in the file's name, of the day that a date tells, else anywhere without a date."""
    for match in reversed(list(_NUMBER.finditer(path))):
        if _ORDINAL.fullmatch(match[0]) or any(match.start() == reading.date.start for reading in readings):
            continue
        try:
            time = of_number(match[0])
        except ValueError:
            continue
        days = [reading.date for reading in readings if reading.kind != "hour"]
        near = all(abs(time - microseconds(date.parts)) <= 2 * DAY for date in days)
        if _FIRST_NUMBER <= time < _LAST_NUMBER and near and (match.start() >= file or not readings):
            return time
    return None
