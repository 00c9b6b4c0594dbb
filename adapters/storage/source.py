"""What there is to label: `list_source` walks a folder, glob, bucket or file, or reads a manifest, and yields events.

An event is every file whose name ends, in any case, in jpg, jpeg, png, gif, bmp, webp, tif or tiff; what it holds is
decided when it is decoded. A file that ends in tar is an archive of events (`adapters.storage.tar`); frames of videos
are events where it is said how far apart (`adapters.video.listing`). Other files, hidden files and folders (a name
beginning with a dot) and linked folders are not events: they are passed over, and counted (`adapters.storage.passed`).
A file or folder that cannot be looked at, such as a link that goes round in circles, is a `BadRecord`, and the rest is
read. A ``*.jsonl`` file given as the source is a manifest (`adapters.storage.manifest`).

For files: ``id`` is the path relative to the source's root (the folder; for a glob, its longest part without
wildcards), ``stream`` and ``event_time`` come from that path by pattern. A file whose stream or time cannot be told
is a `BadRecord`. Nothing is sorted here, and what is in memory is bounded: locally by a folder's depth, in a bucket
by the largest folder directly under the root.
"""

import os
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, TypeVar

import fsspec.utils

from grpo_tta.adapters.events import Arrival, BadRecord, ImageRef
from grpo_tta.adapters.storage.entries import Entry
from grpo_tta.adapters.storage.filesystems import (
    is_glob,
    is_manifest,
    local_path,
    local_version,
    modified_of,
    open_filesystem,
    redacted,
    redacted_text,
    scheme_of,
    version_of,
)
from grpo_tta.adapters.storage.manifest import read_manifest
from grpo_tta.adapters.storage.names import IMAGE_SUFFIXES, NamePattern, guesses, is_hidden, is_image
from grpo_tta.adapters.storage.passed import HIDDEN, LINKED, UNREADABLE, PassedOver
from grpo_tta.adapters.storage.policy import UriPolicy, source_folder
from grpo_tta.adapters.storage.tar import SUFFIX as TAR
from grpo_tta.adapters.storage.tar import tar_events
from grpo_tta.adapters.video.container import SUFFIXES as VIDEOS
from grpo_tta.adapters.video.container import library
from grpo_tta.adapters.video.listing import video_events

T = TypeVar("T")
_GONE, _UNREADABLE = "gone", "unreadable"


class SourceError(Exception):
    """The source as a whole cannot be used: it is missing, empty, or may not be read."""


def check_there(url: str) -> None:
    """Raise `SourceError` where a local file or folder does not exist. Of what is no plain path nothing is said."""
    path = None if is_glob(url) else local_path(url)
    if path is not None and not os.path.exists(path):
        raise _missing(url)


def _missing(url: str) -> SourceError:
    return SourceError(f"source {redacted(url)!r} does not exist")


def list_source(
    url: str,
    *,
    stream_pattern: str | None = None,
    time_pattern: str | None = None,
    every: int | None = None,
    allow_empty: bool = False,
    passed: PassedOver | None = None,
) -> Iterator[ImageRef | BadRecord]:
    """All events of a source, unsorted; positions are not set yet.

    ``stream_pattern`` and ``time_pattern``: regular expressions searched in the relative path, with a group named
    ``stream`` or ``time`` (see `adapters.storage.names`). Without them the stream is the first folder that is no date
    (``default`` where there is none) and the time is the modification time. Neither is used for a manifest. ``every``:
    of videos, so many microseconds apart, frames are events; without it they are passed over. ``passed`` counts what is
    passed over.

    Raises ValueError at once for a bad pattern or URL; `SourceError`, while iterating, for a source that is missing,
    unreadable or (unless ``allow_empty``) without a single event or bad record.
    """
    names = NamePattern(stream_pattern, time_pattern)
    check_source(url)
    if every is not None:
        library()
    records = read_manifest(url) if is_manifest(url) else _files(url, names, every, passed or PassedOver())
    return _guarded(url, records, allow_empty=allow_empty)


def list_arrivals(
    url: str,
    *,
    stream_pattern: str | None = None,
    time_pattern: str | None = None,
    passed: PassedOver | None = None,
) -> Iterator[Arrival]:
    """All files of a source that is followed, unsorted; there may be none, also under a bucket's prefix that does not
    exist yet.

    As `list_source`, but for two things. Where a storage's version is a hash of the content the coordinate also holds
    the modification time: the same picture put twice is two events. And links to nothing, and what cannot be looked at,
    are passed over: that may change yet. Raises `SourceError` also for a storage without modification times.
    """
    names = NamePattern(stream_pattern, time_pattern)
    check_source(url)
    return _guarded(url, _arrivals(url, names, passed or PassedOver()), allow_empty=True)


def check_source(url: str) -> None:
    """Raises ValueError for an address that can be no source."""
    if scheme_of(url) in ("rtsp", "rtsps"):
        raise ValueError(
            f"source {redacted(url)!r}: a camera's own stream cannot be read again after a crash: let a recorder write "
            "its frames to a folder and follow that (--follow), or send them to a Kafka topic; see docs/guide.md"
        )
    if not url or "::" in url:
        raise ValueError(f"the source must be a folder, glob, bucket URL or manifest, got {redacted(url)!r}")
    scheme = scheme_of(url)
    if scheme in ("http", "https"):
        raise ValueError(f"source {redacted(url)!r}: a web server cannot be listed; name its files in a manifest")
    if scheme == "file":
        local_path(url)


def _guarded(url: str, records: Iterator[T], *, allow_empty: bool) -> Iterator[T]:
    empty = not allow_empty
    try:
        for record in records:
            empty = False
            yield record
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise _missing(url) from error
    except PermissionError as error:
        raise SourceError(f"source {redacted(url)!r} may not be read: {redacted_text(str(error), url)}") from error
    except Exception as error:  # every back end has errors of its own
        raise SourceError(
            f"source {redacted(url)!r} cannot be listed: {type(error).__name__}: {redacted_text(str(error), url)}"
        ) from error
    if empty:
        what = "holds no event" if is_manifest(url) else f"holds no image ({', '.join((*IMAGE_SUFFIXES, TAR))})"
        raise SourceError(f"source {redacted(url)!r} {what}; of videos frames are labelled by --every, like --every 1s")


def _files(url: str, names: NamePattern, every: int | None, passed: PassedOver) -> Iterator[ImageRef | BadRecord]:
    policy = UriPolicy.for_source(url)
    videos = () if every is None else VIDEOS
    for entry in _entries(url, passed, (TAR, *videos)):
        if entry.error is not None or entry.version == _GONE or is_image(entry.relative):
            yield _event(entry, names)
            continue
        file = entry.open(policy)
        if isinstance(file, BadRecord):
            yield file
            continue
        with file:
            if every is not None and entry.relative.lower().endswith(VIDEOS):
                yield from video_events(file, entry, names, every)
            else:
                yield from tar_events(file, entry, names, passed)


def _arrivals(url: str, names: NamePattern, passed: PassedOver) -> Iterator[Arrival]:
    entries = _entries(url, passed)
    try:
        first = next(entries, None)
    except FileNotFoundError:
        if scheme_of(url) == "file" or not _bucket_exists(url):
            raise
        return
    for entry in chain([first] if first else [], entries):
        if entry.version == _GONE:
            continue
        if entry.error is not None:
            passed.add(UNREADABLE, entry.relative)
            continue
        if entry.modified is None:
            raise SourceError(f"source {redacted(url)!r} tells no modification times and cannot be followed")
        version = entry.version
        if str(entry.modified) not in version:
            version = f"{version}-{entry.modified}"
        yield Arrival(_event(entry._replace(version=version), names), entry.modified)


def _bucket_exists(url: str) -> bool:
    filesystem, root = open_filesystem(source_folder(url))
    return bool(filesystem.exists(root.partition("/")[0]))


def _entries(url: str, passed: PassedOver, containers: tuple[str, ...] = ()) -> Iterator[Entry]:
    """``containers``: suffixes of files that hold events."""
    wanted = _Wanted(url, containers)
    local = scheme_of(url) == "file"
    for entry in _local_entries(url, wanted, passed) if local else _remote_entries(url, wanted):
        if entry.error is not None or wanted.file(entry.relative):
            yield entry
        elif wanted.matches(entry.relative):
            passed.file(entry.relative)


class _Wanted:
    """Which files are events of a source, and which folders may hold some, by their paths relative to its root."""

    def __init__(self, url: str, containers: tuple[str, ...]) -> None:
        self._containers = containers
        self._segments: list[str] | None = None
        self._match: Callable[[str], object] = lambda _: True
        if is_glob(url):
            whole = local_path(url) or url.rstrip("/")
            pattern = whole[len(source_folder(url)) :].lstrip("/")
            self._segments = pattern.split("/")
            self._match = re.compile(fsspec.utils.glob_translate(pattern)).match

    def file(self, relative: str) -> bool:
        return self.named(relative) and self.matches(relative)

    def named(self, relative: str) -> bool:
        """By its name alone."""
        if is_hidden(relative):
            return False
        return is_image(relative) or relative.lower().endswith(self._containers)

    def matches(self, relative: str) -> bool:
        """Whatever it holds."""
        return self._match(relative) is not None

    def folder(self, relative: str) -> bool:
        depth = relative.count("/")
        if relative.rpartition("/")[2].startswith("."):
            return False
        if self._segments is None or "**" in self._segments[: depth + 1]:
            return True
        return depth < len(self._segments) - 1 and fnmatchcase(relative.rpartition("/")[2], self._segments[depth])


def _event(entry: Entry, names: NamePattern) -> ImageRef | BadRecord:
    if entry.error is not None:
        what = "folder cannot be listed" if entry.path.endswith("/") else "file cannot be looked at"
        return entry.bad(type(entry.error).__name__, f"the {what}: {entry.error.strerror or entry.error}")
    if entry.version == _GONE:
        return entry.bad("FileNotFoundError", "the file is gone, or a link to nothing")
    try:
        stream, time = names.stream(entry.relative), names.time(entry.relative, entry.modified)
        return entry.event(stream.value, time.value, guessed=guesses(stream, time))
    except ValueError as error:
        return entry.refused(error)


def _local_entries(url: str, wanted: _Wanted, passed: PassedOver) -> Iterator[Entry]:
    root = local_path(source_folder(url)) or "/"
    if os.path.isfile(root):
        yield _local_entry(root, os.path.basename(root))
        return
    skip = len(root.rstrip("/")) + 1
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            for item in _children(folder):
                if not item.is_dir(follow_symlinks=False):
                    yield from _local_file(item, item.path[skip:], wanted, passed)
                elif wanted.folder(item.path[skip:]):
                    folders.append(item.path)
                elif item.name.startswith("."):
                    passed.add(HIDDEN, item.path[skip:])
        except OSError as error:
            if folder == root:
                raise
            if not isinstance(error, FileNotFoundError):
                yield Entry(f"{folder}/", f"{folder[skip:]}/", _UNREADABLE, -1, None, error)


def _children(folder: str) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as found:
        yield from found


def _local_file(item: "os.DirEntry[str]", relative: str, wanted: _Wanted, passed: PassedOver) -> Iterator[Entry]:
    """What is no folder: also a link, to a folder, to nothing or to itself."""
    try:
        linked = item.is_symlink() and item.is_dir()
    except OSError:  # it will say so itself
        linked = False
    if linked:
        passed.add(LINKED, relative)
    elif wanted.named(relative):
        yield _local_entry(item.path, relative)
    else:
        yield Entry(item.path, relative, _GONE, -1, None)  # not an event by its name, so nobody asks


def _local_entry(path: str, relative: str) -> Entry:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return Entry(path, relative, _GONE, -1, None)
    except OSError as error:
        return Entry(path, relative, _UNREADABLE, -1, None, error)
    return Entry(path, relative, local_version(status), status.st_size, status.st_mtime_ns // 1000)


def _remote_entries(url: str, wanted: _Wanted) -> Iterator[Entry]:
    folder = source_folder(url)
    filesystem, root = open_filesystem(folder)
    below = folder.partition("://")[2].strip("/")
    skip = len(root) + 1 if root else 0
    for path, info in _infos(filesystem, root, wanted):
        relative = path[skip:]
        uri = f"{scheme_of(folder)}://{'/'.join(part for part in (below, relative) if part)}"
        if isinstance(info, OSError):
            yield Entry(f"{uri}/", f"{relative}/", _UNREADABLE, -1, None, info)
            continue
        size = info.get("size")
        name = relative or path.rpartition("/")[2]
        yield Entry(uri, name, version_of(info), -1 if size is None else int(size), modified_of(info))


def _infos(filesystem: Any, root: str, wanted: _Wanted) -> Iterator[tuple[str, dict[str, Any] | OSError]]:
    """Path and info of every file under the root: one flat listing for each folder directly under it. Keys whose first
    segment below the root is empty (``root//a.jpg``) are in no such folder: they are found from the root, where there
    are some. Instead of its files a folder that may not be read gives the error."""
    nameless = False
    for info in filesystem.ls(root, detail=True):
        path = str(info["name"]).strip("/")
        if info["type"] != "directory":
            if not str(info["name"]).endswith("/"):
                yield path, info
        elif path == root:
            nameless = True
        elif wanted.folder(path.rpartition("/")[2]):
            try:
                yield from _found(filesystem, path)
            except PermissionError as error:
                yield path, error
    if nameless:
        prefix = f"{root}//" if root else "/"
        yield from ((path, info) for path, info in _found(filesystem, root) if path.startswith(prefix))


def _found(filesystem: Any, path: str) -> list[tuple[str, dict[str, Any]]]:
    found = filesystem.find(path, detail=True)
    return [(name.removeprefix("/"), info) for name, info in found.items() if not name.endswith("/")]
