"""What reads somebody else's bytes, each as a function of bytes: lines of a manifest, Kafka records and batches, paths,
pictures, archives, configurations and lists of classes. Each raises where a job would have ended, or an event would
have had no outcome or two.

`benchmarks.fuzz` makes such bytes; `kept` are those that it came to, which a fast test runs again.
"""

import io
import itertools
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from kafka.errors import UnsupportedCodecError
from kafka.record.util import calc_crc32c

from benchmarks.faulty_pictures import LIMITS, SPEC, pictures
from benchmarks.fuzz_events import Checker, Maker, RawNames, new_batch, read_batches
from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.images import ImageError, decode
from grpo_tta.adapters.kafka.source import _decoded
from grpo_tta.adapters.storage.source import list_source
from grpo_tta.pipeline.config.classes import read_labels
from grpo_tta.pipeline.config.job import make_config, read_config_file
from grpo_tta.pipeline.errors import ConfigurationError

KEPT = Path(__file__).parent / "rows" / "fuzz.tar.xz"
BETWEEN = b"\xfe\xff"
"""Parts of a record: key, value, then a header's name and value and so on. An empty key or value is none."""
MAGIC, BODY = 16, 61
_MOST_RECORDS = 200
_TIMES = (None, "auto", r"(?P<time>[0-9_.-]{4,})", r"^(?P<time>.+)\.")
_GOOD = b'{"schema_version":"1","id":"%s","stream":"s","event_time":"2026-01-01T00:00:00Z","uri":"/d/a.jpg"}'


class Place(NamedTuple):
    """A folder for the files of an input, and what checks the records of it."""

    folder: Path
    check: Checker

    def write(self, name: str, data: bytes) -> str:
        """A file of it."""
        path = self.folder / name
        path.write_bytes(data)
        return str(path)


def line(data: bytes, place: Place) -> None:
    """One line of three: there is one outcome, and those beside it are read."""
    text = data.replace(b"\n", b" ")
    if not text.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r"):
        text = b"{}"
    path = place.write("m.jsonl", b"\n".join((_GOOD % b"before", text, _GOOD % b"after")))
    before, _, after = found = list(list_source(path))
    assert isinstance(before, ImageRef)
    assert isinstance(after, ImageRef)
    assert (before.id, after.id) == ("before", "after")
    _all_checked(found, place)


def record(data: bytes, place: Place) -> None:
    """Key, value and headers of a record that a broker holds beside two others."""
    parts = data.split(BETWEEN)
    headers = list(zip(parts[2::2], parts[3::2], strict=False))
    builder = new_batch()
    for offset, (key, value, names) in enumerate(
        ((b"cam", _GOOD % b"before", []), (parts[0], b"".join(parts[1:2]), headers), (b"cam", _GOOD % b"after", []))
    ):
        named = RawNames((name.decode("utf-8", "surrogateescape"), held) for name, held in names)
        builder.append(offset, 1, key or None, value or None, named)
    found = list(read_batches(bytes(builder.build())).record_iterator)
    assert [one.offset for one in found] == [0, 1, 2]
    _all_checked([_decoded(one) for one in found], place)


def batch(data: bytes, place: Place) -> None:
    """A batch from its format on, sealed or not: each offset is given at most once, in order, and nothing raises."""
    sealed, body = data[:1] < b"\x80", bytearray(data[1:].ljust(BODY - MAGIC, b"\0"))
    whole = bytearray((0).to_bytes(8, "big") + (len(body) + 4).to_bytes(4, "big") + bytes(4)) + body
    whole[MAGIC] = 2
    if sealed:
        whole[17:21] = calc_crc32c(memoryview(whole)[21:]).to_bytes(4, "big")
    try:
        found = list(itertools.islice(read_batches(bytes(whole)).record_iterator, _MOST_RECORDS))
    except UnsupportedCodecError:
        return
    offsets = [one.offset for one in found]
    assert offsets == sorted(set(offsets)), offsets
    _all_checked([_decoded(one) for one in found], place)


def path(data: bytes, place: Place) -> None:
    """Folders and a file's name, with one of four ways to find a time."""
    pattern = _TIMES[data[0] % len(_TIMES)] if data else None
    parts = [part.replace(b"\0", b"")[:80].lstrip(b".") for part in data[1:].split(b"/")[:8]]
    *folders, name = [part for part in parts if part] or [b"x"]
    root = place.folder / "names"
    shutil.rmtree(root, ignore_errors=True)
    folder = Path(str(root), *(part.decode("utf-8", "surrogateescape") for part in folders))
    folder.mkdir(parents=True)
    (folder / (name.decode("utf-8", "surrogateescape") + ".jpg")).touch()
    found = list(list_source(str(root), time_pattern=pattern))
    assert len(found) == 1
    _all_checked(found, place)


def picture(data: bytes, place: Place) -> None:
    """Pixels of the asked size, or an `ImageError`."""
    try:
        canvas = decode(data, SPEC, LIMITS)
    except ImageError:
        return
    assert canvas.shape == (3, SPEC.height, SPEC.width)


def archive(data: bytes, place: Place) -> None:
    """A tar archive: its events have a coordinate each."""
    found = list(itertools.islice(list_source(place.write("a.tar", data), allow_empty=True), _MOST_RECORDS))
    assert len({one.coordinate for one in found}) == len(found)
    _all_checked(found, place)


def configuration(data: bytes, place: Place) -> None:
    """It is taken or refused."""
    try:
        make_config(read_config_file(place.write("c.yaml", data)))
    except ConfigurationError as error:
        str(error).encode()


def classes(data: bytes, place: Place) -> None:
    """A list of classes, of each ending: taken or refused."""
    try:
        read_labels(place.write("labels" + (".txt", ".json", ".yaml")[data[0] % 3 if data else 0], data[1:]))
    except ConfigurationError as error:
        str(error).encode()


TARGETS: tuple[Callable[[bytes, Place], None], ...] = (
    line, record, batch, path, picture, archive, configuration, classes,
)  # fmt: skip
"""By the first byte of an input."""


def run(data: bytes, place: Place) -> str:
    """An input, whose target's name is returned. Raises what a job would have raised."""
    target = TARGETS[data[0] % len(TARGETS)] if data else line
    target(data[1:], place)
    return target.__name__


def kept() -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the kept corpus."""
    with tarfile.open(KEPT) as packed:
        for member in packed:
            file = packed.extractfile(member)
            assert file is not None
            yield member.name, file.read()


def seeds(count: int) -> Iterator[bytes]:
    """Inputs to begin with, of each target."""
    maker = Maker(1)

    def of(target: Callable[[bytes, Place], None], data: bytes) -> bytes:
        return bytes([TARGETS.index(target)]) + data

    for _ in range(count):
        yield of(line, maker.json())
        one = maker.record()
        yield of(record, BETWEEN.join([one["key"] or b"", one["value"] or b"", *_flat(one["headers"])]))
        yield of(path, b"\1" + maker.name())
    builder = new_batch()
    for offset in range(3):
        builder.append(offset, 1, b"cam", _GOOD % b"%d" % offset, [("id", b"x")])
    yield of(batch, b"\0" + bytes(builder.build())[MAGIC:])
    for data, _ in pictures().values():
        yield of(picture, data)
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        yield of(archive, _archive(form))
    yield of(configuration, b"source: {url: photos, time_pattern: auto}\noutput:\n  url: out\nrun: {threads: 1}\n")
    yield of(classes, b"\0cat\ndog\n")
    yield of(classes, b'\1{"cat": ["a cat"], "dog": "a dog"}')
    yield of(classes, b"\2cat: [a cat, one cat]\ndog: a dog\n")


def _archive(form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as packed:
        for name, data in (
            ("cam/é/" + "x" * 90 + ".jpg", b"\xff\xd8"),
            ("cam/a.png", b"\x89PNG"),
            ("cam/a.json", b"{}"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _flat(headers: list[tuple[bytes, bytes | None]]) -> Iterator[bytes]:
    for name, value in headers:
        yield from (name, value or b"")


def _all_checked(records: list[ImageRef | BadRecord], place: Place) -> None:
    for one in records:
        place.check(one)
