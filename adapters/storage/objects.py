"""`ObjectStore`: small named objects under one root, complete before they appear, with an exclusive create.

`create` is the ground the job's commits stand on: of any number of racing writers exactly one gets True, and no
reader ever sees part of an object. Locally that is a hard link to a finished, synced file; in memory a lock; on S3,
Google and Azure a conditional put, which `supports_exclusive_create` proves by asking the server. Other back ends can
only look and then write: `supports_exclusive_create` is False and one process at most may use them. ``False`` from
`create` means that an object of that name exists; after a retried request it may be the caller's own.

Names are relative, ``/`` between segments, no segment empty or beginning with a dot.
"""

import errno
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, BinaryIO, cast
from uuid import uuid4

from grpo_tta.adapters.backoff import pause
from grpo_tta.adapters.storage.filesystems import local_path, open_filesystem, open_stream, redacted, scheme_of

_NAME = re.compile(r"^[^./\x00-\x1f\\][^/\x00-\x1f\\]*(/[^./\x00-\x1f\\][^/\x00-\x1f\\]*)*$")
_CONDITIONAL = ("s3", "gs", "abfs")
_CONFLICTS = 4
"""How often a conditional put is tried while another of the same name is under way (S3 answers 409)."""
_ONE_PUT = 64 * 2**20
"""Bytes: what is larger is sent to a bucket in parts."""
_MEMORY_LOCK = threading.Lock()
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class StoreError(OSError):
    """The store cannot do what it is for; the message names the root and the way out."""


class ObjectStore:
    """Objects under ``url``: a local folder (made when first written to), ``memory://...`` or any fsspec bucket URL.

    Nothing is opened at construction. Instances may be pickled and shared between threads.
    """

    def __init__(self, url: str) -> None:
        if not url:
            raise ValueError("the store's url must not be empty")
        if "::" in url:
            raise ValueError(f"the store's url must not be chained ('::'), got {redacted(url)!r}")
        self.url = url
        self._scheme = scheme_of(url)
        if self._scheme in ("http", "https"):
            raise ValueError(f"{redacted(url)!r} cannot be written to; use a folder or a bucket")
        self._folder = local_path(url)
        if self._folder is None and self._scheme != "memory" and not url.partition("://")[2].strip("/"):
            raise ValueError(f"{redacted(url)!r} names no bucket")

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    def _local(self, name: str) -> str:
        return os.path.join(self._folder or "", _checked(name))

    def _remote(self, name: str) -> tuple[Any, str]:
        """Asked for anew each time: fsspec keeps the instances, and knows of forks."""
        filesystem, root = open_filesystem(self.url)
        return filesystem, f"{root}/{_checked(name)}".lstrip("/")

    @contextmanager
    def _naming(self, *, writing: bool = False) -> Iterator[None]:
        """Errors of a back end that do not say which bucket they are about become `StoreError`; a missing object
        stays FileNotFoundError, which when ``writing`` means a missing bucket."""
        try:
            yield
        except FileNotFoundError as error:
            if not writing:
                raise
            raise StoreError(f"{self.url} cannot be written, there is no such bucket: {error}") from error
        except PermissionError as error:
            raise StoreError(f"{self.url} may not be used, check its credentials and rights: {error}") from error
        except OSError:
            raise
        except Exception as error:
            raise StoreError(f"{self.url} cannot be used: {type(error).__name__}: {error}") from error

    @cached_property
    def supports_exclusive_create(self) -> bool:
        """Whether `create` is atomic between processes (memory: between threads). Asks the server, once, on buckets."""
        if self._folder is not None or self._scheme == "memory":
            return True
        return self._scheme in _CONDITIONAL and self._probe()

    def _probe(self) -> bool:
        name = f"probe-{uuid4().hex}"
        with self._naming(writing=True):
            try:
                return self._conditional_put(name, b"1") and not self._conditional_put(name, b"2")
            finally:
                self.delete(name)

    def check_access(self) -> None:
        """Raise where the store can plainly not be used: no such bucket, no credentials, no right to write a folder.

        Writes nothing, so a bucket that can be read and not written passes.
        """
        if self._folder is None:
            filesystem, root = open_filesystem(self.url)
            if self._scheme != "memory":
                with self._naming(writing=True):
                    filesystem.info(root.partition("/")[0])
            return
        there = self._folder
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there):
            raise StoreError(f"{self._folder} cannot be a folder: {there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise StoreError(f"{self._folder} cannot be written: no right to write in {there}")

    def read(self, name: str) -> bytes:
        """The object's bytes. Raises FileNotFoundError."""
        if self._folder is not None:
            with open(self._local(name), "rb") as file:
                return file.read()
        filesystem, path = self._remote(name)
        with self._naming():
            return bytes(filesystem.cat_file(path))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes ``start <= i < stop`` of the object. Raises FileNotFoundError."""
        if stop <= start:
            return b""
        if self._folder is not None:
            with open(self._local(name), "rb") as file:
                file.seek(start)
                return file.read(stop - start)
        filesystem, path = self._remote(name)
        with self._naming():
            return bytes(filesystem.cat_file(path, start=start, end=stop))

    def open_read(self, name: str) -> BinaryIO:
        """The object as a seekable stream, for what is read once from front to back."""
        if self._folder is not None:
            return open(self._local(name), "rb")
        return open_stream(*self._remote(name))

    def write(self, name: str, data: bytes | Iterable[bytes], *, private: bool = False) -> None:
        """Put the object, replacing one of the same name. Of ``data`` in pieces one is in memory at a time, but for
        buckets, which get up to 64 MiB in one request. ``private``: on a local disk for the owner's eyes alone."""
        pieces = (data,) if isinstance(data, bytes) else data
        if self._folder is not None:
            _write_local(self._local(name), pieces, exclusive=False, private=private)
            return
        filesystem, path = self._remote(name)
        with self._naming(writing=True):
            _write_remote(filesystem, path, (b"".join(pieces),) if self._scheme == "memory" else pieces)

    def create(self, name: str, data: bytes, *, private: bool = False) -> bool:
        """Put the object unless one of that name exists; whether it was put. ``private`` as for `write`."""
        if self._folder is not None:
            return _write_local(self._local(name), (data,), exclusive=True, private=private)
        if self._scheme == "memory":
            with _MEMORY_LOCK:
                return self._look_and_put(name, data)
        with self._naming(writing=True):
            if self.supports_exclusive_create:
                return self._conditional_put(name, data)
            return self._look_and_put(name, data)

    def _look_and_put(self, name: str, data: bytes) -> bool:
        filesystem, path = self._remote(name)
        if filesystem.exists(path):
            return False
        filesystem.pipe_file(path, data)
        return True

    def _conditional_put(self, name: str, data: bytes) -> bool:
        filesystem, path = self._remote(name)
        for failures in range(1, _CONFLICTS + 1):
            try:
                filesystem.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                status = _http_status(error)
                if status == 412:
                    return False
                if status != 409 or failures == _CONFLICTS:
                    raise
                time.sleep(pause(failures, 0.1, 1.6, 4))
            else:
                return True
        raise AssertionError("the last conflict is raised")

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        if self._folder is not None:
            return os.path.isfile(self._local(name))
        filesystem, path = self._remote(name)
        return bool(filesystem.isfile(path))

    def modified(self, name: str) -> datetime:
        """When the object was written last. Raises FileNotFoundError."""
        if self._folder is not None:
            return datetime.fromtimestamp(os.path.getmtime(self._local(name)), UTC)
        filesystem, path = self._remote(name)
        time: datetime = filesystem.modified(path)
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    def size(self, name: str) -> int:
        """Its bytes. Raises FileNotFoundError."""
        if self._folder is not None:
            return os.path.getsize(self._local(name))
        filesystem, path = self._remote(name)
        return int(filesystem.size(path))

    def delete(self, name: str) -> None:
        """Remove the object; that it is not there is no error."""
        with suppress(FileNotFoundError):
            if self._folder is not None:
                os.unlink(self._local(name))
            else:
                filesystem, path = self._remote(name)
                filesystem.rm_file(path)

    def names(self, prefix: str = "") -> list[str]:
        """All names that begin with ``prefix``, sorted. Unfinished writes are not among them."""
        folder = prefix.rpartition("/")[0]
        if self._folder is not None:
            start = self._local(folder) if folder else self._folder
            found = [os.path.relpath(path, self._folder) for path in _walk(start)]
        else:
            found = self._find(folder)
        return sorted(name for name in found if name.startswith(prefix) and _NAME.fullmatch(name))

    def _find(self, folder: str) -> list[str]:
        filesystem, root = open_filesystem(self.url)
        start = f"{root}/{_checked(folder)}".lstrip("/") if folder else root
        try:
            with self._naming():
                paths = filesystem.find(start)
        except FileNotFoundError:
            return []
        skip = len(root) + 1 if root else 0
        return [path.lstrip("/")[skip:] for path in paths]

    def sweep(self, older_than_seconds: float = 3600) -> int:
        """Remove what writers killed in the middle left behind in a local folder; how many files that was."""
        if self._folder is None:
            return 0
        limit, swept = time.time() - older_than_seconds, 0
        for path in _walk(self._folder, unfinished=True):
            with suppress(FileNotFoundError):
                if os.stat(path).st_mtime < limit:
                    os.unlink(path)
                    swept += 1
        return swept


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"object name {name!r} must be relative, without controls, empty or dotted segments")
    return name


def _http_status(error: BaseException) -> int | None:
    """The status behind an error that the S3 back end raised without a type of its own for it."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return cast(int | None, response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
        seen = seen.__cause__
    return None


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") and name.endswith(".part")


def _walk(folder: str, *, unfinished: bool = False) -> list[str]:
    found = []
    for parent, _, files in os.walk(folder, onerror=_raise_unless_missing):
        found += [os.path.join(parent, name) for name in files if _is_unfinished(name) == unfinished]
    return found


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _write_remote(filesystem: Any, path: str, pieces: Iterable[bytes]) -> None:
    """Small objects by one put; a large one in parts, of which nothing appears unless all were sent."""
    rest = iter(pieces)
    begun: list[bytes] = []
    size = 0
    for piece in rest:
        begun.append(piece)
        size += len(piece)
        if size > _ONE_PUT:
            break
    else:
        filesystem.pipe_file(path, b"".join(begun))
        return
    file = filesystem.open(path, "wb")
    try:
        for part in (begun, rest):
            for piece in part:
                file.write(piece)
    except BaseException:
        file.closed = True  # else it publishes what it has, here or when it is forgotten
        file.discard()
        raise
    file.close()


def _write_local(path: str, pieces: Iterable[bytes], *, exclusive: bool, private: bool) -> bool:
    """A synced file under another name first, then a rename (replaces) or a hard link (fails if there is one)."""
    folder, name = os.path.split(path)
    if exclusive and os.path.lexists(path):
        return False
    _make_folder(folder)
    temporary = os.path.join(folder, f".{name[:100]}.{uuid4().hex}.part")
    try:
        mode = 0o600 if private else 0o666
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            if not _link(temporary, path):
                return False
        else:
            os.replace(temporary, path)
        _sync_folder(folder)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # as where a disk is full
            raise OSError(error.errno, error.strerror, path) from error
        raise
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    return True


def _link(temporary: str, path: str) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise StoreError(
            f"{os.path.dirname(path)} is on a file system without hard links, which exclusive create needs; "
            "use another folder or a bucket"
        ) from error
    return True


def _make_folder(folder: str) -> None:
    """Make the folder and its parents, each new name synced in its parent."""
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(folder)
    _make_folder(parent)
    try:
        os.mkdir(folder)
    except FileExistsError:
        return
    _sync_folder(parent)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
