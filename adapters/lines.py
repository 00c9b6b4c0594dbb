"""Lines of text files: manifests, truth, classes.

A line ends at ``\\n`` or ``\\r\\n`` and nowhere else: a form feed, NEL or U+2028 is part of its line. A byte order mark
at a line's beginning (files that were joined have one in the middle) and blank lines are passed over; lines are counted
from 1, blank ones included.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

BOM = b"\xef\xbb\xbf"
_SKIPPED_AT_ONCE = 2**20


class Line(NamedTuple):
    """A line that is not blank; bytes ``start <= i < stop`` of its file, the line's end included."""

    number: int
    start: int
    stop: int
    text: bytes
    """Without the line's end and the byte order mark."""
    too_long: bool = False
    """Over the bound: ``text`` is its beginning."""


def content(line: bytes) -> bytes:
    """A line without its end and without a byte order mark."""
    return line.removesuffix(b"\n").removesuffix(b"\r").removeprefix(BOM)


def read_lines(file: BinaryIO, max_line: int) -> Iterator[Line]:
    """The lines of a file; one at a time is in memory, at most ``max_line`` bytes of it."""
    number = stop = 0
    while line := file.readline(max_line + 1):
        number, start, stop = number + 1, stop, stop + len(line)
        too_long = len(line) > max_line
        if too_long:
            stop += _skip(file, line)
        text = content(line)
        if too_long or text.strip():
            yield Line(number, start, stop, text, too_long)


def _skip(file: BinaryIO, line: bytes) -> int:
    """Read on to the end of a line of which only the beginning was read; how many bytes that was."""
    skipped = 0
    while not line.endswith(b"\n"):
        line = file.readline(_SKIPPED_AT_ONCE)
        if not line:
            break
        skipped += len(line)
    return skipped


def text_lines(path: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line. Raises ``OSError``, and ``ValueError`` naming the line that is not UTF-8."""
    data = Path(path).read_bytes()
    for line in read_lines(BytesIO(data), len(data)):
        yield line.number, _decoded(line.text, line.number)


def whole_text(path: str) -> str:
    """All of a text file. Raises ``OSError``, and ``ValueError`` naming the first line that is not UTF-8."""
    data = Path(path).read_bytes().removeprefix(BOM)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        return _decoded(data.split(b"\n")[number - 1], number)


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        wide = number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff")
        what = "it is UTF-16" if wide else str(error)
        raise ValueError(f"line {number} is not UTF-8, save the file so: {what}") from error
