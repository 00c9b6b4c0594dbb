"""`Fetcher`: the bytes of an event, within the policy and a size limit, transient errors retried.

Permanent (`PermanentFetchError`, a dead letter): not there, forbidden by the policy or the storage, larger than the
limit, not a file, no longer the file that was listed. Everything else is transient, time-outs, throttling, 5xx,
expired credentials and errors nobody knows: retried with growing pauses, then `TransientFetchError`, which fails the
slice, so that no label depends on the network's mood. Local files are read with plain system calls. Safe to call from
many threads. No error's message holds a password or a signature of a uri.
"""

import errno
import os
import stat
import tarfile
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

from grpo_tta.adapters.backoff import pause
from grpo_tta.adapters.events import ImageRef, seed_of
from grpo_tta.adapters.images.limits import ImageError
from grpo_tta.adapters.storage.filesystems import (
    local_version,
    open_filesystem,
    open_stream,
    redacted,
    redacted_text,
    scheme_of,
    version_of,
)
from grpo_tta.adapters.storage.manifest import read_line
from grpo_tta.adapters.storage.pointers import BytesPointer, listed_version
from grpo_tta.adapters.storage.policy import ForbiddenUri, UriPolicy
from grpo_tta.adapters.storage.web import NotHttp, read_web

T = TypeVar("T")
DEFAULT_MAX_BYTES = 32 * 2**20
_SEARCH: int = getattr(os, "O_PATH", os.O_RDONLY)
"""Opens folders that may be passed through and not be read."""
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_PASSING_STATUS = frozenset({401, 408, 409, 425, 429})
_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "RequestExpired", "TokenRefreshRequired"}
)


class PermanentFetchError(Exception):
    """This event's bytes cannot be had, however often one asks."""

    stage = "fetch"
    """The stage of the dead letter."""


class NotFound(PermanentFetchError):
    """There is no such file or object."""


class Forbidden(PermanentFetchError):
    """The storage does not let the job read it."""


class ForbiddenByPolicy(PermanentFetchError):
    """The URI policy does not let the job read it."""

    stage = "policy"


class TooManyBytes(PermanentFetchError):
    """It is larger than the limit."""


class Unreadable(PermanentFetchError):
    """It is no regular file, the storage refuses the request for good, or the manifest changed."""


class Changed(PermanentFetchError):
    """It is not what was listed: its coordinate names another version."""


class TransientFetchError(Exception):
    """The last of several attempts failed for a reason that may pass; the slice fails and can be run again."""


class Fetcher:
    """Reads events' bytes. ``attempts`` in all, pausing ``first_pause`` seconds, then twice as long, up to
    ``max_pause``; none begins, and no web server is listened to, after ``max_seconds``.

    ``sleep`` is injectable. Raises ValueError for a limit out of range.
    """

    def __init__(
        self,
        policy: UriPolicy,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        attempts: int = 5,
        first_pause: float = 0.2,
        max_pause: float = 10.0,
        max_seconds: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be >= 1, got {max_bytes}")
        if attempts < 1:
            raise ValueError(f"attempts must be >= 1, got {attempts}")
        if not 0 <= first_pause <= max_pause:
            raise ValueError(f"pauses must satisfy 0 <= first_pause <= max_pause, got {first_pause} and {max_pause}")
        if not max_seconds > 0:
            raise ValueError(f"max_seconds must be > 0, got {max_seconds}")
        self.policy = policy
        self.max_bytes = max_bytes
        self._attempts = attempts
        self._first_pause = first_pause
        self._max_pause = max_pause
        self._max_seconds = max_seconds
        self._sleep = sleep

    def fetch(self, ref: ImageRef) -> bytes:
        """The bytes of an event. Raises `PermanentFetchError` or `TransientFetchError`."""
        if ref.data is not None:
            self._check_size(ref, len(ref.data))
            return ref.data
        self._check_size(ref, ref.size)
        return self.attempt(ref, self._read)

    def attempt(self, ref: ImageRef, read: Callable[[ImageRef, float], T]) -> T:
        """What ``read`` makes of the event and the time, by the monotonic clock, that it has. Raises what it says of an
        image (``ImageError``), else `PermanentFetchError` or `TransientFetchError`."""
        until = time.monotonic() + self._max_seconds
        for attempt in range(1, self._attempts + 1):
            try:
                return read(ref, until)
            except (PermanentFetchError, ImageError):
                raise
            except Exception as error:
                permanent = permanent_error(error)
                if permanent is not None:
                    raise permanent(f"{_name(ref)}: {_message(error, ref)}") from error
                if attempt == self._attempts or time.monotonic() >= until:
                    raise TransientFetchError(
                        f"{_name(ref)}: {attempt} attempts failed, the last with {_message(error, ref)}"
                    ) from error
            self._sleep(self._pause(ref, attempt))
        raise AssertionError("attempts >= 1")

    def allowed(self, uri: str) -> str:
        """The uri of a file as the policy has it; raises `ForbiddenByPolicy`."""
        try:
            return self.policy.check(uri)
        except ForbiddenUri as error:
            raise ForbiddenByPolicy(str(error)) from error

    def _pause(self, ref: ImageRef, attempt: int) -> float:
        """Between half of the full pause and all of it, by the event: many workers do not come back at one moment."""
        full = pause(attempt, self._first_pause, self._max_pause)
        return full * (0.5 + seed_of(f"{attempt} {ref.coordinate}") / 2**64)

    def _check_size(self, ref: ImageRef, size: int) -> None:
        if size > self.max_bytes:
            raise TooManyBytes(f"{_name(ref)}: {size} bytes exceed the limit of {self.max_bytes}")

    def _read(self, ref: ImageRef, until: float) -> bytes:
        if ref.uri is None:
            raise Unreadable(f"event {ref.coordinate} has neither a uri nor data")
        pointer = BytesPointer.parse(ref.uri)
        uri = self.allowed(pointer.file if pointer else ref.uri)
        listed = listed_version(ref.coordinate, ref.uri)
        if pointer is not None:
            return self._inline(ref, uri, pointer) if listed is None else self._member(ref, uri, pointer, listed)
        data = read_bytes(
            uri, 0, self.max_bytes + 1, size=ref.size, version=listed, web=lambda uri, stop: self._web(uri, stop, until)
        )
        self._check_size(ref, len(data))
        if listed is not None and 0 <= ref.size != len(data):
            raise Changed(f"{_name(ref)}: {len(data)} bytes, {ref.size} when it was listed: it was replaced since")
        return data

    def _web(self, uri: str, stop: int, until: float) -> bytes:
        try:
            return read_web(uri, stop, self.policy, until)
        except ForbiddenUri as error:
            raise ForbiddenByPolicy(str(error)) from error
        except NotHttp as error:
            raise Unreadable(f"{redacted(uri)}: no answer of a web server: {redacted_text(str(error))}") from error

    def _member(self, ref: ImageRef, archive: str, pointer: BytesPointer, version: str) -> bytes:
        """With its header, which stands right before it: other stores than a local disk do not tell of what version the
        bytes are."""
        start, size = pointer.start - tarfile.BLOCKSIZE, pointer.stop - pointer.start
        data = read_bytes(archive, start, pointer.stop, size=pointer.stop, version=version)
        header, data = data[: tarfile.BLOCKSIZE], data[tarfile.BLOCKSIZE :]
        try:
            found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
        except tarfile.HeaderError as error:
            raise Changed(f"{_name(ref)}: no member begins there: the archive was replaced since") from error
        if not found == len(data) == size:
            raise Changed(f"{_name(ref)}: {found} bytes, {size} when it was listed: the archive was replaced since")
        return data

    def _inline(self, ref: ImageRef, manifest: str, pointer: BytesPointer) -> bytes:
        line = read_bytes(manifest, pointer.start, pointer.stop)
        try:
            data = read_line(line, ref.id)
        except ValueError as error:
            raise Unreadable(f"{_name(ref)}: {error}") from error
        self._check_size(ref, len(data))
        return data


def read_bytes(
    uri: str,
    start: int,
    stop: int,
    *,
    size: int = -1,
    version: str | None = None,
    web: Callable[[str, int], bytes] | None = None,
) -> bytes:
    """Bytes ``start <= i < stop`` of a normalised uri, fewer where the file ends before. ``size``: -1 if unknown;
    ``web``: reads the first bytes of a web address.

    Raises `Changed` for a local file that is not of ``version``, where one is given.
    """
    if scheme_of(uri) == "file":
        return _read_local(uri, start, stop, version)
    if web is not None and scheme_of(uri) in ("http", "https"):
        return web(uri, stop)[start:]
    filesystem, path = open_filesystem(uri)
    if size < 0:
        size = int(filesystem.info(path).get("size") or 0)
    if size <= start:  # a range of an empty object is an error in most stores
        return b""
    return bytes(filesystem.cat_file(path, start=start, end=stop))


def open_file(uri: str) -> BinaryIO:
    """A file of a normalised uri, seekable. Raises `Unreadable` for what is no regular file, and what the storage
    raises."""
    if scheme_of(uri) != "file":
        return open_stream(*open_filesystem(uri))
    descriptor = _open_resolved(uri)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unreadable(f"{uri} is not a regular file")
    return open(descriptor, "rb")


def version_at(uri: str, file: BinaryIO) -> str:
    """Of a file that is open, at its normalised uri."""
    if scheme_of(uri) == "file":
        return local_version(os.fstat(file.fileno()))
    filesystem, path = open_filesystem(uri)
    return version_of(filesystem.info(path))


def _read_local(path: str, start: int, stop: int, version: str | None) -> bytes:
    """A pipe must not block.

    The version is compared after reading: what was written to meanwhile is not what was listed either.
    """
    descriptor = _open_resolved(path)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(f"{path} is not a regular file")
        if start:
            file.seek(start)
        parts: list[bytes] = []
        left, wanted = stop - start, max(status.st_size - start, 0) + 1
        while left > 0 and (part := file.read(min(left, wanted))):
            parts.append(part)
            left, wanted = left - len(part), 2**20
        found = local_version(os.fstat(descriptor))
    if version is not None and version != found:
        raise Changed(f"{path} is of version {found}, {version} was listed: it was replaced since")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _open_resolved(path: str) -> int:
    """Open a path that was resolved, folder by folder: a link in the place of one was put there after the check."""
    *folders, name = path.strip("/").split("/")
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    folder = os.open("/", _SEARCH | flags)
    try:
        for one in folders:
            inner = os.open(one, _SEARCH | os.O_DIRECTORY | flags, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(name, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=folder)
    finally:
        os.close(folder)


def permanent_error(error: BaseException) -> type[PermanentFetchError] | None:
    """What a failed read means for its event: a class of dead letter, or None where it may pass.

    Looks at the error and what it was raised from: HTTP statuses as botocore, aiohttp, gcsfs, azure and urllib carry
    them, then errno.
    """
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__
    for one in chain:
        if _error_code(one) in _EXPIRED:
            return None
        status = _http_status(one)
        if status is not None:
            return _of_status(status)
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return NotFound
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and str(error).startswith("Forbidden: ")):
        return Forbidden
    if isinstance(error, OSError) and error.errno in _GONE:
        return NotFound
    return Forbidden if isinstance(error, OSError) and error.errno in _FORBIDDEN else None


def _of_status(status: int) -> type[PermanentFetchError] | None:
    if status in (404, 410):
        return NotFound
    if status == 403:
        return Forbidden
    if 300 <= status < 500 and status not in _PASSING_STATUS:
        return Unreadable
    return None


def _error_code(error: BaseException) -> object:
    response = getattr(error, "response", None)
    found = response.get("Error", {}).get("Code") if isinstance(response, dict) else getattr(error, "error_code", None)
    return found if isinstance(found, str) else None


def _http_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        candidates = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
    else:
        candidates = [getattr(error, name, None) for name in ("status", "status_code", "code")]
        candidates.append(getattr(response, "status_code", None))
    for value in candidates:
        if isinstance(value, int | str) and str(value).isdigit() and 100 <= int(value) <= 599:
            return int(value)
    return None


def _name(ref: ImageRef) -> str:
    return redacted(ref.uri) if ref.uri else ref.coordinate


def _message(error: BaseException, ref: ImageRef) -> str:
    said = redacted_text(str(error), ref.uri or "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
