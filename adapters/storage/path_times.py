"""`find`: the time that a path tells, by the table of `adapters.storage.times`.

Every date in the path is looked at with all that follows it, to the end or to the next date. It is a moment, where a
clock is joined to it in a spelling of the table; an hour; a day, where nothing follows; or refused, where what is left
may be a part of its time (`adapters.storage.unread`). The file's own moment counts before one that is spread over
folders, then a folder's, then numbers of seconds, then a day.
"""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from itertools import zip_longest
from typing import Generic, NamedTuple, TypeVar

from grpo_tta.adapters.storage.moments import DAY, microseconds, of_number, offset_behind
from grpo_tta.adapters.storage.unread import unread_number, unread_word

FLAGS = re.IGNORECASE | re.ASCII
_WORDS = r"at|um|à|a las|a la|às|alle|om|kl\.?|klo|o|в"
JOIN = rf"(?:[T_ ,.+-]{{1,3}}| (?:{_WORDS}) )"
HALF = r"(?:[ _]?(?P<half>[AP])\.? ?M(?![A-Z])(?:\.(?![A-Z]))?)?"
SECOND = r"(?P<second>\d{2})(?!\d)(?:[.,](?P<f1>\d+)|_(?P<f2>\d{3})(?![A-Za-z0-9])|s(?:(?P<f3>\d{3})(?!\d))?)?"
_SEPARATED = re.compile(
    rf"(?P<join>{JOIN})(?P<hour>\d{{1,2}})(?P<c>[-_.:h]|%3A)(?P<minute>\d{{2}})(?!\d)(?:(?:(?P=c)|m){SECOND})?{HALF}",
    FLAGS,
)
_FRACTION = r"(?P<f1>\d{2,3}|\d{6}|\d{9})(?!\d)"
_DIGITS = re.compile(
    rf"(?:(?P<join>{JOIN})(?!(?:19|20)\d{{6}}(?!\d)))?(?P<hour>\d{{2}})(?P<minute>\d{{2}})"
    rf"(?:(?P<second>\d{{2}})(?:{_FRACTION}|[.,](?P<f2>\d+))?)?(?!\d){HALF}",
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
_HOUR = re.compile(r"[T_ ](?P<hour>\d{2})(?![A-Za-z0-9])", FLAGS)
_HOUR_OF_DIGITS = re.compile(r"T?(?P<hour>\d{2})(?![A-Za-z0-9])", FLAGS)
_YEAR, _MONTH_DAY = r"(?P<year>1\d{3}|2[01]\d{2})", r"(?P<month>\d{2})(?P<day>\d{2})"
_DATES = tuple(
    re.compile(rf"(?<!\d)(?={spelling})", FLAGS)
    for spelling in (
        rf"{_YEAR}(?P<d>[-_.:/])(?P<month>\d{{1,2}})(?P=d)(?P<day>\d{{1,2}})(?!\d)",
        rf"(?!1(?!9[89])\d{{9}}(?:\d{{3}}){{0,3}}(?!\d)){_YEAR}{_MONTH_DAY}",
        rf"{_YEAR}_{_MONTH_DAY}_\d{{6}}",
        rf"(?<![A-Z])[AP](?P<short_year>\d{{2}}){_MONTH_DAY}_?\d{{6}}",
    )
)
"""Of the second not those that are numbers of seconds, before 1980 as dates."""
_YEAR_LAST = re.compile(r"(?<!\d)\d{1,2}([-_.:])\d{1,2}\1(?=\d{4}(?:\1|[/_ T]))", re.ASCII)
"""A day and a month before a year: which of them it goes with cannot be told."""
_FOLDERS_BEFORE = re.compile(r"(?<![^/])(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|[12]\d|3[01])/(?=\d{4}/)", re.ASCII)
"""Folders that may be day and month of the year below them."""
_NUMBER = re.compile(
    r"(?<!\d)(?<!\d{4}[-_.:]\d\d[-_.:])(?:\d{13}|\d{16}|\d{19}|\d{10}(?:\.\d+)?)(?![A-Za-z0-9])", re.ASCII
)
_FIRST_NUMBER, _LAST_NUMBER = 10**9 * 10**6, 4_102_444_800 * 10**6
"""Of numbers of seconds in a path, in microseconds: 2001 and 2100. Beyond them they are other numbers."""
_SUFFIX = re.compile(r"\.(?:ts|m2ts|mp4|m4v|3gp)$", FLAGS)
"""Of videos, such as may else be a number or a word of a time."""
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
    text = _SUFFIX.sub("", unicodedata.normalize("NFKC", path))
    dates = list(_dates_in(text))
    readings: list[_Reading] = []
    for date, after in zip_longest(dates, dates[1:]):
        clock = readings[-1].end if readings and readings[-1].kind == "moment" else 0
        start = max(text.rfind("/", 0, date.start) + 1, clock)
        readings.append(_read(text[: after.start if after else None], date, start))
    file = text.rfind("/") + 1
    found = _moment(text, readings, file)
    if found is None:
        found = _number(text, readings, file)
    if found is not None:
        return Told(found)
    refused = [reading.why for reading in readings if reading.kind == "refused"]
    late = _YEAR_LAST.search(text) or _FOLDERS_BEFORE.search(text)
    if refused or late or not readings:
        why = f": {refused[-1]}" if refused else ""
        raise ValueError(f"no time that a camera writes is in {path!r}{why}: say where it is by a time pattern")
    hours = [reading for reading in readings if reading.kind == "hour"]
    last = (hours or readings)[-1]
    return Told(last.time, guessed=last.kind == "day")


def _dates_in(path: str) -> Iterator[_Date]:
    """All that are dates of a calendar, in a year that a picture may be of."""
    late = {match.end() for match in _YEAR_LAST.finditer(path)}
    found = (match for spelling in _DATES for match in spelling.finditer(path) if match.start() not in late)
    for match in sorted(found, key=re.Match.start):
        parts = match.groupdict()
        with suppress(ValueError):
            microseconds(parts)
            yield _Date(match.start(), match.end("day"), parts, "d" not in parts, parts.get("d") == "/")


def _read(path: str, date: _Date, start: int) -> _Reading:
    """Of a path that ends before its next date; its name, or what is left of it behind a clock, begins at ``start``."""
    try:
        return _joined(path, date) or _without_clock(path, date, path[start : date.start])
    except ValueError as error:
        return _Reading("refused", date, date.end, why=str(error))


def _joined(path: str, date: _Date) -> _Reading | None:
    """The moment, where a clock follows in a spelling of the table. Raises ValueError for one that is none."""
    below = _BELOW if date.digits else _BELOW[:-1]
    matches = (clock.match(path, date.end) for clock in (_SEPARATED, _DIGITS, *below))
    match = next((one for one in matches if one), None)
    if match is None:
        return None
    part, join, compact = match.groupdict(), match.groupdict().get("join"), "c" not in match.re.groupindex
    iso = (join or "").strip().upper() == "T"
    if path[date.end] == "/":
        if len(part["hour"] or "") == 1 and not part["half"]:
            return None
        if date.folders and part.get("c") == "/" and any(m.end() == date.start for m in _FOLDERS_BEFORE.finditer(path)):
            raise ValueError("the year may belong to the day and month before it")
    elif not _known(part, join or "", iso=iso, compact=compact):
        return None
    fraction = part.get("f1") or part.get("f2") or part.get("f3")
    if part.get("c") == "." and part.get("f1") and len(fraction or "") not in (3, 6, 9):
        raise ValueError(f"{path[date.end : match.end()]!r} is no clock")
    offset, length = offset_behind(path[match.end() :], iso=iso, compact=compact)
    time = microseconds({**date.parts, **part, "fraction": fraction}, offset)
    if join is None:
        skipped = path[date.end : match.start("hour")].replace(f"/{part['hour']}/", "/")
        _check(skipped, skipped)
    rest = path[match.end() + length :]
    whole = part["second"] and "/" not in path[match.start("hour") : match.end()]
    _check(rest.partition("/")[2] if whole else rest, rest)
    return _Reading("moment", date, match.end(), time)


def _known(part: dict[str, str | None], join: str, *, iso: bool, compact: bool) -> bool:
    """Whether hour and minute alone are a clock, as they are joined."""
    alone = (iso or not join) if compact else (len(part["hour"] or "") == 2 or part["c"] in (":", "h", "H"))
    return bool(part["second"] or part["half"]) or (alone and "+" not in join)


def _check(numbers: str, words: str) -> None:
    """Raises ValueError where what was not read may be a part of the time."""
    unread = unread_number(numbers) or unread_word(words)
    if unread:
        raise ValueError(f"{unread!r} beside the date may be of the clock, and is none of what is known")


def _without_clock(path: str, date: _Date, before: str) -> _Reading:
    """The hour or the day. Raises ValueError where digits of a clock seem to follow, or stand before it."""
    hour = (_HOUR_OF_DIGITS if date.digits else _HOUR).match(path, date.end)
    end = hour.end() if hour else date.end
    _check(f"{before}x{path[end:]}", path[end:] if hour else "")
    time = microseconds({**date.parts, "hour": hour["hour"] if hour else None})
    return _Reading("hour" if hour else "day", date, end, time)


def _moment(path: str, readings: list[_Reading], file: int) -> int | None:
    """The file's own, else that of folders and file, else that of the folders; none where a date below it is refused.
    Raises ValueError where they differ."""
    moments = [reading for reading in readings if reading.kind == "moment"]
    own = [reading for reading in moments if reading.date.start >= file]
    spread = [reading for reading in moments if reading.end > file]
    found = next(iter(own or spread[-1:] or moments), None)
    if found is None or any(one.kind == "refused" and one.date.start > found.date.start for one in readings):
        return None
    days = {microseconds(one.date.parts) for one in readings if one.date.start >= found.date.start}
    if found.end <= file and (len(days) > 1 or len({one.time for one in moments}) > 1):
        raise ValueError(f"several times are in the folders of {path!r}: say which by a time pattern")
    return found.time


def _number(path: str, readings: list[_Reading], file: int) -> int | None:
    """Seconds since the epoch: in the file's name, of the day that a date tells, else anywhere without a date. Of two
    in a name that may begin and end a stretch the first. Raises ValueError where they are further apart."""
    own: list[int] = []
    above: int | None = None
    for match in _NUMBER.finditer(path):
        if _ORDINAL.fullmatch(match[0]) or any(match.start() == reading.date.start for reading in readings):
            continue
        try:
            time = of_number(match[0])
        except ValueError:
            continue
        days = [reading.date for reading in readings if reading.kind != "hour"]
        near = all(abs(time - microseconds(date.parts)) <= 2 * DAY for date in days)
        if _FIRST_NUMBER <= time < _LAST_NUMBER and near:
            if match.start() >= file:
                own.append(time)
            elif not readings:
                above = time
    if own and max(own) - min(own) > DAY:
        raise ValueError(f"several numbers of seconds are in {path!r}: say which by a time pattern")
    return own[0] if own else above
