"""Tar archives of images, as webdataset lays them out: `tar_events` reads the headers.

Members one after another whose names are alike up to the first dot are a group. In a group with an image ``KEY.jpg``
(or another suffix of an image) that is the event, and ``KEY.seg.png`` belongs to it; in others each image is one. A
``.json`` of the same name as the image may say ``stream``, ``event_time`` and ``attributes``
(`schemas.ImageSidecar`), of each image of that name; two such files are a `BadRecord`. Nothing is unpacked: a name is a
text, of which ``.``, ``..`` and what makes it absolute are left out.

The coordinate of a member is ``path@version#bytes=START-STOP``, so that one is read without the others
(`adapters.storage.fetch`). Compressed archives
have no such places and are no sources. What is no regular file is a `BadRecord` if its name is an image's; where the
archive is damaged or cut off one `BadRecord` says from which byte on.
"""

import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, NamedTuple

from pydantic import ValidationError

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.json_event import check_keys, problems
from grpo_tta.adapters.lines import BOM
from grpo_tta.adapters.storage.entries import Entry
from grpo_tta.adapters.storage.names import NamePattern, guesses, is_hidden, is_image
from grpo_tta.adapters.storage.passed import PassedOver
from grpo_tta.adapters.storage.path_times import Told
from grpo_tta.adapters.storage.pointers import BytesPointer
from grpo_tta.schemas import ImageSidecar

SUFFIX = ".tar"
MAX_HEADER = 2**20
"""Bytes that are read to learn of one member."""
MAX_SIDECAR = 64 * 1024
_MAX_GROUP = 2**20
"""Characters of a group's names, each member counted for 100 more."""
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, RecursionError)
"""What the library raises for headers that are none."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DamagedTar(Exception):
    """From ``start`` on there is no archive."""

    def __init__(self, start: int, message: str) -> None:
        super().__init__(f"{message}, from byte {start} on; what lies behind is not read")
        self.start = start


class _Member(NamedTuple):
    name: str
    start: int
    stop: int
    modified: int
    """Microseconds since the epoch."""
    regular: bool


@dataclass
class _Group:
    key: str
    images: list[_Member] = field(default_factory=list)
    others: dict[str, list[_Member]] = field(default_factory=lambda: defaultdict(list))
    """By their names, suffixes in small letters."""
    size: int = 0
    last: str = ""
    """The newest member's name without its suffix."""

    def takes(self, name: str) -> bool:
        """Whether a member belongs to it. One that has too many ends, but not between an image and its sidecar."""
        most = 2 * _MAX_GROUP if self.last == _stem(name) else _MAX_GROUP
        return _key(name) == self.key and self.size < most

    def add(self, member: _Member) -> None:
        """A member that it takes."""
        if is_image(member.name):
            self.images.append(member)
        else:
            stem = _stem(member.name)
            self.others[stem + member.name[len(stem) :].lower()].append(member)
        self.size += len(member.name) + 100
        self.last = _stem(member.name)


def tar_events(file: BinaryIO, entry: Entry, names: NamePattern, passed: PassedOver) -> Iterator[ImageRef | BadRecord]:
    """The events of an archive, in its order; of its members' names patterns see ``ARCHIVE/MEMBER``, and where there
    is none the stream is the first folder of that, the archive itself left out."""
    group = _Group("")
    try:
        for member in _members(file):
            if not group.takes(member.name):
                yield from _events(file, entry, names, passed, group)
                group = _Group(_key(member.name))
            group.add(member)
    except DamagedTar as damage:
        yield from _events(file, entry, names, passed, group)
        place = BytesPointer(entry.path, damage.start, damage.start).fragment
        yield entry.bad("DamagedTar", str(damage), fragment=place)
        return
    yield from _events(file, entry, names, passed, group)


class _Headers:
    """The archive as its library sees it: of one header it reads so much and no more."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = MAX_HEADER
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        self.left -= size
        if not 0 <= size <= size + self.left:
            raise tarfile.HeaderError(f"a header of more than {MAX_HEADER} bytes")
        return self._file.read(size)


def _members(file: BinaryIO) -> Iterator[_Member]:
    """All but folders. Raises `DamagedTar`, and OSError as the storage does."""
    total = file.seek(0, 2)
    file.seek(0)
    headers = _Headers(file)
    try:
        archive = tarfile.TarFile(fileobj=headers, errors="surrogateescape")  # type: ignore[arg-type]
    except _DAMAGE as error:
        raise DamagedTar(0, f"no tar archive: {error}") from error
    archive.offset = start = 0
    while (info := _next(archive, headers, start)) is not None:
        if info.size < 0 or archive.offset <= start:
            raise DamagedTar(start, "a header leads nowhere")
        stop = info.offset_data + info.size
        if stop > total:
            raise DamagedTar(start, f"cut off within the member {info.name!r}")
        if not info.isdir():
            name = "/".join(part for part in info.name.split("/") if part not in ("", ".", ".."))
            yield _Member(name, info.offset_data, stop, _time(info.mtime), info.isreg() and not info.issparse())
        start = archive.offset
    archive.close()
    _check_end(file, start, total)


def _check_end(file: BinaryIO, start: int, total: int) -> None:
    """Behind the last member are zeros up to the end, no more than anybody's blocks take; one block of them may also be
    a header that was wiped, or the end of the first of two archives that were joined."""
    file.seek(start)
    rest = file.read(min(total - start, MAX_HEADER))
    zeros = len(rest) - len(rest.lstrip(b"\0"))
    if start + zeros < total:
        raise DamagedTar(start, f"there is something behind its end mark, at byte {start + zeros}")


def _next(archive: tarfile.TarFile, headers: _Headers, start: int) -> tarfile.TarInfo | None:
    headers.seek(start)
    headers.left = MAX_HEADER
    try:
        return tarfile.TarInfo.fromtarfile(archive)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
        raise DamagedTar(start, "the archive ends without its end mark") from error
    except _DAMAGE as error:
        raise DamagedTar(start, f"no header of a member: {error}") from error


def _time(seconds: float) -> int:
    try:
        return round(seconds * 1_000_000)
    except (OverflowError, ValueError):  # a pax header may say nan or inf
        return 0


def _key(name: str) -> str:
    """Up to the first dot of the file's name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _stem(name: str) -> str:
    """Up to the last dot."""
    return name.rpartition(".")[0]


def _events(
    file: BinaryIO, entry: Entry, names: NamePattern, passed: PassedOver, group: _Group
) -> Iterator[ImageRef | BadRecord]:
    plain = [member for member in group.images if "." not in member.name[len(group.key) + 1 :]]
    taken = set()
    for member in group.images:
        if is_hidden(member.name) or (plain and member not in plain):
            passed.file(member.name)
            continue
        sidecar = _stem(member.name) + ".json"
        taken.add(sidecar)
        yield _event(file, entry, names, member, group.others.get(sidecar, ()))
    for name, others in group.others.items():
        for _ in others if name not in taken else ():
            passed.file(name)


def _event(
    file: BinaryIO, entry: Entry, names: NamePattern, member: _Member, sidecars: Sequence[_Member]
) -> ImageRef | BadRecord:
    fragment = BytesPointer(entry.path, member.start, member.stop).fragment
    name = f"{entry.relative}/{member.name}"
    if not member.regular:
        return entry.bad("NotAFile", "the member is a link, sparse or a device", fragment=fragment, id=name)
    try:
        said = _sidecar(file, sidecars)
        stream = Told(said.stream) if said.stream else names.stream(name, archive=entry.relative)
        if said.event_time is not None:
            time = Told((said.event_time - _EPOCH) // timedelta(microseconds=1))
        else:
            time = names.time(name, member.modified)
        return entry.event(
            stream.value,
            time.value,
            guessed=guesses(stream, time),
            id=name,
            fragment=fragment,
            size=member.stop - member.start,
            attributes=tuple(sorted((said.attributes or {}).items())),
        )
    except ValidationError as error:
        return entry.bad("ValidationError", problems(error), fragment=fragment, stage="decode_event", id=name)
    except ValueError as error:
        return entry.refused(error, fragment=fragment, id=name)


def _sidecar(file: BinaryIO, members: Sequence[_Member]) -> Any:
    if not members:
        return ImageSidecar()
    member = members[0]
    if len(members) > 1:
        raise ValueError(f"{member.name!r} is in the archive twice: which of them is meant cannot be told")
    if not member.regular or member.stop - member.start > MAX_SIDECAR:
        raise ValueError(f"{member.name!r} is no file of at most {MAX_SIDECAR} bytes")
    file.seek(member.start)
    text = file.read(member.stop - member.start).removeprefix(BOM)
    said = ImageSidecar.model_validate_json(text)
    check_keys(text)
    return said
