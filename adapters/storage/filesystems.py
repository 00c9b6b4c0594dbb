"""The thin edge to fsspec: which file system a URL names, opened when first used, with errors that say what is missing.

Local files are not fsspec's business here: a path or ``file:`` URL becomes a plain absolute path (`local_path`).
Listings are never cached, so that what another process wrote is seen.
"""

import io
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*):")
WILD = re.compile(r"[*?\[]")
_SAME = {"local": "file", "s3a": "s3", "gcs": "gs", "az": "abfs", "abfss": "abfs"}
_EXTRAS = {"s3": "s3", "gs": "gcs", "abfs": "azure"}
_VERSION_KEYS = ("generation", "ETag", "etag")
_TIME_KEYS = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


_HEAD = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{0,31}):[\\/]*")
_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.\-]{0,31}(?::[\\/]{2,}|%(?:25)*3A(?:%(?:25)*(?:2F|5C)){2,})[^\s\"'<>]+", re.IGNORECASE
)
_MAY_BE_URL = re.compile(r"[\\/]{2}|%(?:25)*3A", re.IGNORECASE)
_PARAMETER = re.compile(r"[\w.\-]{1,64}")
_NO_SCHEME = re.compile(r"//(?=[^/]*@)")
_POINTER = re.compile(r"#(?:bytes=\d+-\d+|pts=\d+)\Z", re.ASCII)
_IN_PATH = re.compile(r"(;|&|%3b|%26|%3f|%23)([\w.\-]{1,64})(?:=|%3d)[^/?#;&]*", re.IGNORECASE)
_PARTS = re.compile(r"[^&#?]+")
_TAIL = re.compile(r"[?#;&].+", re.DOTALL)
HIDDEN = "(hidden)"
"""Stands where a secret was."""


class MissingBackend(ValueError):
    """A URL names a file system that is unknown or not installed."""


def scheme_of(url: str) -> str:
    """The URL's scheme in its one spelling (``s3a`` is ``s3``); ``file`` for a bare path."""
    match = _SCHEME.match(url)
    if match is None:
        return "file"
    scheme = match[1].lower()
    return _SAME.get(scheme, scheme)


def local_path(url: str) -> str | None:
    """The absolute path of a bare path or ``file:`` URL (percent-decoded once), None for any other scheme.

    Raises ValueError for a ``file:`` URL that names another host or a relative path.
    """
    if scheme_of(url) != "file":
        return None
    match = _SCHEME.match(url)
    if match is None:
        return os.path.abspath(url)
    rest = unquote(url[match.end() :], errors="surrogateescape")
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise ValueError(f"{url!r} names the host {host!r}; a file: URL is file:///absolute/path")
        rest = slash + path
    if not rest.startswith("/"):
        raise ValueError(f"{url!r} has no absolute path; a file: URL is file:///absolute/path")
    return "/" + rest.lstrip("/")


def carries_credentials(scheme: str, authority: str) -> bool:
    """Whether the part between ``://`` and the path holds a user or a password; Azure's ``container@account`` does
    not. ``scheme``: in its one spelling."""
    name, at, _ = authority.rpartition("@")
    return bool(at) and (scheme != "abfs" or ":" in name or not name)


def redacted(uri: str) -> str:
    """The uri as it may be written down: without user and password, and without the values of its query, its
    fragment and of parameters in its path (``;name=value``).

    What only looks like a uri is treated alike, and a chain (``::``) link by link. A path is left as it is, but for
    what looks like a uri in it; so is the fragment of a `pointers` into a file.
    """
    if scheme_of(uri) == "file" and "::" not in uri:
        return _without_user(uri) if _HEAD.match(uri) or uri.startswith("//") else redacted_text(uri)
    uri, pointer = _pointer_apart("::".join(map(_without_user, uri.split("::"))))
    address, mark, rest = uri, "", ""
    found = re.search(r"[?#]", uri)
    if found is not None and (found[0] == "?" or "=" in uri[found.start() :] or scheme_of(uri) in ("http", "https")):
        address, mark, rest = uri[: found.start()], found[0], uri[found.end() :]
    address = _IN_PATH.sub(rf"\1\2={HIDDEN}", address)
    return address + mark + _PARTS.sub(lambda part: _parameter(part[0]), rest) + pointer


def _pointer_apart(uri: str) -> tuple[str, str]:
    found = _POINTER.search(uri)
    return (uri, "") if found is None else (uri[: found.start()], found[0])


def _parameter(text: str) -> str:
    name, _, _ = text.partition("=")
    return f"{name}={HIDDEN}" if name != text and _PARAMETER.fullmatch(name) else HIDDEN


def _without_user(uri: str) -> str:
    """A password may hold any character, though it should not: where what follows the host's colon is no port, all
    up to the last ``@`` is hidden."""
    head = _HEAD.match(uri) or _NO_SCHEME.match(uri)
    if head is None:
        return uri
    rest = uri[head.end() :]
    authority = re.split(r"[\\/?#]", rest, maxsplit=1)[0]
    name, colon, port = authority.rpartition(":")
    is_port = not port or (port.isascii() and port.isdigit())
    if "@" not in authority and colon and not is_port and not name.startswith("["):
        at = rest.rfind("@")
        return f"{head[0]}{HIDDEN}@{rest[at + 1 :]}" if at >= 0 else f"{head[0]}{name}:{HIDDEN}{rest[len(authority) :]}"
    if not carries_credentials(scheme_of(uri), authority):
        return uri
    return f"{head[0]}{HIDDEN}@{authority.rpartition('@')[2]}{rest[len(authority) :]}"


def shows_user(uri: str) -> bool:
    """Whether a uri, of whatever spelling, holds a user or a password."""
    return ("@" in uri or "%40" in uri) and _without_user(uri) != uri


def redacted_text(text: str, of: str = "") -> str:
    """A text with every URL in it `redacted`; one that is percent-encoded as a whole comes out decoded. ``of``: a uri
    that it is about, whose query is hidden also behind a path alone, as storages name their files."""
    shown = _URL.sub(lambda found: redacted(_plain(found[0])), text) if _MAY_BE_URL.search(text) else text
    tail = _TAIL.search(of)
    if tail is not None and scheme_of(of) != "file" and redacted(of) != of:
        for spelt in (tail[0], unquote(tail[0])):
            shown = shown.replace(spelt, spelt[0] + HIDDEN)
    return shown


def _plain(url: str) -> str:
    while "://" not in url and (decoded := unquote(url)) != url:
        url = decoded
    return url


def is_glob(url: str) -> bool:
    """Whether the URL holds wildcards; a local path that exists as it is spelt is no glob."""
    path = local_path(url)
    return WILD.search(url if path is None else path) is not None and not (path is not None and os.path.lexists(path))


def is_manifest(url: str) -> bool:
    """Whether the URL names a JSON Lines file."""
    return url.lower().endswith(".jsonl") and not is_glob(url)


def lacking(what: str, extra: str) -> str:
    """What is said where an extra of this package is not installed."""
    return (
        f"{what}: the extra {extra!r} is not installed: type 'make extras EXTRAS={extra}' in the folder of grpo-tta, "
        f"or there pip install '.[{extra}]' into an environment of your own"
    )


def open_filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path it takes (instances are shared by fsspec).

    Raises `MissingBackend`.
    """
    import fsspec  # a fifth of a second, which what reads local files need not wait for

    scheme = scheme_of(url)
    options = {} if scheme == "memory" else {"use_listings_cache": False}
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        needed = lacking(f"{scheme}://", extra) if extra else f"{scheme}:// needs a package of fsspec's ({error})"
        raise MissingBackend(needed) from error
    except ValueError as error:
        if scheme in fsspec.available_protocols():
            raise
        raise MissingBackend(
            f"unknown scheme {scheme!r}; use a path or one of file, s3, gs, az, memory, or another fsspec protocol"
        ) from error
    return filesystem, path.strip("/")


def open_stream(filesystem: Any, path: str) -> BinaryIO:
    """A file for reading from front to back, seekable."""
    if filesystem.protocol == "memory":  # it hands every reader the same file object, position included
        return io.BytesIO(filesystem.cat_file(path))
    return cast(BinaryIO, filesystem.open(path, "rb"))


def version_of(info: Mapping[str, Any]) -> str:
    """A file's version from its fsspec info: generation, etag, or modification time and size."""
    for key in _VERSION_KEYS:
        if info.get(key):
            return str(info[key]).strip('"')
    modified = modified_of(info)
    return f"{'unknown' if modified is None else modified}-{info.get('size')}"


def local_version(status: os.stat_result) -> str:
    """A local file's version: modification time in nanoseconds, and size."""
    return f"{status.st_mtime_ns}-{status.st_size}"


def modified_of(info: Mapping[str, Any]) -> int | None:
    """A file's modification time in microseconds since the epoch from its fsspec info, None where there is none."""
    for key in _TIME_KEYS:
        value = info.get(key)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime):
            value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, int | float):
            return round(value * 1_000_000)
    return None
