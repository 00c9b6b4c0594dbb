"""`UriPolicy`: the one rule for what an event may make the job read.

A URI passes when, normalised and resolved, it lies under one of the allowed prefixes. Prefixes are compared segment
by segment: ``s3://bucket`` allows neither ``s3://bucket-evil`` nor ``s3://other/bucket``. Refused whatever the
prefixes are: chained URLs (``::``), credentials in the URL, backslashes, control characters, relative URIs and
percent-encoded dots or slashes that would climb, also those that only some servers read as such. Local paths are
resolved through symbolic links; ``http(s)`` must be allowed by a prefix.

Below an allowed web host no address of this machine or of a private network is connected to, whatever its name resolves
to, unless the prefix itself names that address or ``localhost``, or ``network:10.0.0.0/8`` is allowed too.
"""

import ipaddress
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

from grpo_tta.adapters.storage.filesystems import (
    WILD,
    carries_credentials,
    is_glob,
    is_manifest,
    local_path,
    redacted,
    redacted_text,
    scheme_of,
)

MAX_URI = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*:")
_MAX_ENCODINGS = 4
_WEB = ("http", "https")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_NETWORK = "network:"
_OVERLONG = re.compile(r"%(c[01]|e0%[89]|f0%8|f8%8[0-7]|fc%8[0-3]|u[0-9a-f]{4})", re.IGNORECASE)
"""How percent-encodings begin that are no UTF-8, being longer than they need to be, and that some servers take."""
_SLASHES = dict.fromkeys(map(ord, "\u2044\u2215\u29f8\u2571\u29f5\u2216\u29f9\u2572"), "/")
"""What is drawn as a slash or a backslash, and what some servers make one of."""
_ENDS = re.compile("[;?#]")
"""Of a path's part, to some servers, once it is decoded."""
_IPV6 = re.compile(r"(?<=://)\[[0-9A-Fa-f:.]+\](?=[:/]|\Z)")
_NUMERIC_HOST = re.compile(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*", re.IGNORECASE | re.ASCII)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
"""All that the internet has of IPv6; outside of it lie what stands for other addresses and what is of one site."""
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ForbiddenUri(ValueError):
    """The policy does not let this URI be read."""


class _Place(NamedTuple):
    """A normalised URI: ``authority`` is empty for local paths and memory."""

    scheme: str
    authority: str
    path: str
    query: str = ""

    def text(self) -> str:
        if self.scheme == "file":
            return self.path
        path = self.path if self.scheme == "memory" or not self.path else "/" + self.path
        return f"{self.scheme}://{self.authority}{path}{self.query}"

    def holds(self, other: "_Place") -> bool:
        if self.scheme != other.scheme or self.authority not in ("", other.authority):
            return False
        folder = self.path.rstrip("/")
        return not folder or other.path == folder or other.path.startswith(folder + "/")


class UriPolicy:
    """Allowed schemes and prefixes.

    ``prefixes``: absolute folders, objects or URLs (``/data/feed``, ``s3://bucket/images``, ``https://host/path``);
    each allows itself and what lies below it; ``network:ADDRESS/BITS`` allows web hosts to be there. ``schemes``
    bounds what a prefix can open; every prefix must be of one of them. Raises ValueError naming a prefix that is
    malformed or of another scheme.
    """

    def __init__(self, schemes: Iterable[str], prefixes: Iterable[str]) -> None:
        self.schemes = tuple(sorted({scheme_of(f"{scheme}:") for scheme in schemes}))
        prefixes = tuple(prefixes)
        self.prefixes = tuple(prefix for prefix in prefixes if not prefix.startswith(_NETWORK))
        self._networks = tuple(_network(prefix) for prefix in prefixes if prefix.startswith(_NETWORK))
        self._places = tuple(self._prefix(prefix) for prefix in self.prefixes)

    @classmethod
    def for_source(cls, source: str, allow_uris: Iterable[str] = ()) -> "UriPolicy":
        """The default policy of a source (folder, glob, file or manifest): its own folder, and ``allow_uris``."""
        prefixes = (source_folder(source), *allow_uris)
        return cls([scheme_of(prefix) for prefix in prefixes], prefixes)

    def _prefix(self, prefix: str) -> _Place:
        try:
            place = _normalise(prefix, prefix=True)
        except ForbiddenUri as error:
            raise ValueError(f"allowed prefix {_show(prefix)}: {error}") from error
        if place.scheme not in self.schemes:
            raise ValueError(
                f"allowed prefix {_show(prefix)} is of scheme {place.scheme!r}, allowed are {self.schemes}"
            )
        return place

    def check(self, uri: str) -> str:
        """The URI normalised: an absolute path for a local file, else ``scheme://...``; raises `ForbiddenUri`."""
        place = _normalise(uri)
        if not any(prefix.holds(place) for prefix in self._places):
            allowed = ", ".join(_show(prefix) for prefix in self.prefixes) or "none"
            resolved = place.text()
            also = (
                ""
                if resolved == uri or (place.scheme == "file" and redacted(uri) != uri)
                else f" (resolved: {_show(resolved)})"
            )
            raise ForbiddenUri(
                f"uri {_show(uri)}{also} is under no allowed prefix; allowed: {allowed}; more by 'allow_uris'"
            )
        return place.text()

    def may_connect(self, host: str, address: str) -> bool:
        """Whether ``address``, numeric, is one that the web host of a checked uri may have."""
        given = ipaddress.ip_address(address.partition("%")[0])
        inner = _inner(given)
        if inner.is_global and not inner.is_multicast and (inner.version == 4 or inner in _UNICAST):
            return True
        if any(inner in network or given in network for network in self._networks):
            return True
        named = any(_host_of(place.authority) == host.strip("[]").lower() for place in self._places)
        return named and (_is_address(host) or (host.lower() == "localhost" and inner.is_loopback))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text[len(_NETWORK) :], strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is no network: {error}; an example is network:10.0.0.0/8") from error


def _inner(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)


def _host_of(authority: str) -> str:
    """Without port and brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def source_folder(source: str) -> str:
    """The folder a source lies in: itself for a folder, the longest part without wildcards for a glob, the parent of
    a manifest.

    A single file is its own folder, so that nothing beside it is allowed.
    """
    path = local_path(source)
    head, separator, tail = ("", "", path) if path is not None else source.rstrip("/").partition("://")
    if is_glob(source):
        tail = tail[: WILD.search(tail).start()].rpartition("/")[0]  # type: ignore[union-attr]
    elif is_manifest(source):
        tail = tail.rpartition("/")[0]
    return f"{head}{separator}{tail}" or "/"


def _show(uri: str) -> str:
    uri = redacted(uri)
    return repr(uri if len(uri) <= 200 else uri[:199] + "…")


def _normalise(uri: str, *, prefix: bool = False) -> _Place:
    if not uri or not uri.strip():
        raise ForbiddenUri("the uri is empty")
    if len(uri) > MAX_URI:
        raise ForbiddenUri(f"the uri has {len(uri)} characters, the limit is {MAX_URI}: {_show(uri)}")
    if "::" in _IPV6.sub("", uri):
        raise ForbiddenUri(f"uri {_show(uri)} is chained ('::'); give the address of the file itself")
    if _CONTROL.search(uri) or "\\" in uri:
        raise ForbiddenUri(f"uri {_show(uri)} holds a backslash or control character")
    scheme = scheme_of(uri)
    return _local(uri) if scheme == "file" else _remote(uri, scheme, prefix=prefix)


def _local(uri: str) -> _Place:
    if not uri.startswith("/") and not _SCHEME.match(uri):
        raise ForbiddenUri(f"uri {_show(uri)} is relative; give an absolute path or a URL")
    try:
        path = local_path(uri)
    except ValueError as error:
        raise ForbiddenUri(redacted_text(str(error))) from error
    if path is None or _CONTROL.search(path) or "\\" in path:
        raise ForbiddenUri(f"uri {_show(uri)} hides a backslash or control character")
    return _Place("file", "", os.path.realpath("/" + path.lstrip("/")))


def _remote(uri: str, scheme: str, *, prefix: bool) -> _Place:
    head, separator, rest = uri.partition("://")
    if not separator or ":" in head:
        raise ForbiddenUri(f"uri {_show(uri)} is malformed; expected {scheme}://...")
    query = ""
    if scheme in _WEB:
        rest = rest.partition("#")[0]
        rest, mark, text = rest.partition("?")
        query = mark + text
    if scheme == "memory":
        return _Place(scheme, "", _climb(uri, rest.lstrip("/")))
    authority, _, path = rest.partition("/")
    if not authority and not prefix:
        raise ForbiddenUri(f"uri {_show(uri)} names no bucket or host")
    return _Place(scheme, _authority(uri, scheme, authority), _climb(uri, path, web=scheme in _WEB), query)


def _authority(uri: str, scheme: str, authority: str) -> str:
    """Hosts in lower case without default port; buckets as they are, since two spellings are two buckets."""
    if not authority.isascii() or "%" in authority:
        raise ForbiddenUri(f"uri {_show(uri)}: write the host in plain ASCII")
    container, at, host = authority.rpartition("@")
    if carries_credentials(scheme, authority):
        raise ForbiddenUri(f"uri {_show(uri)} carries credentials; give them by the environment")
    if scheme in _WEB:
        name = _host_of(authority).rstrip(".")
        if _NUMERIC_HOST.fullmatch(name) and not _is_address(name):
            raise ForbiddenUri(f"uri {_show(uri)}: write the host's address as four decimal numbers")
        return authority.lower().removesuffix(_DEFAULT_PORTS[scheme]).rstrip(".")
    return f"{container}{at}{host.lower()}" if at else authority


def _climb(uri: str, path: str, *, web: bool = False) -> str:
    """Resolve ``.`` and ``..``; refuse what would climb only after decoding, since a server may decode it.

    ``web``: also what servers take for dots that are none, as ``..;`` and other characters' look-alikes.
    """
    if re.search(r"(^|/)\.{1,2}(/|$)", path):
        resolved = posixpath.normpath("/" + path).lstrip("/")
        path = resolved + "/" if path.endswith("/") and resolved else resolved
    decoded = path
    for _ in range(_MAX_ENCODINGS):
        if web and (_OVERLONG.search(decoded) or _looks_climbing(decoded)):
            raise ForbiddenUri(f"uri {_show(uri)} hides dots, slashes or a backslash from all but some servers")
        decoded, encoded = unquote(decoded), decoded
        if decoded == encoded:
            return path
        if ".." in decoded.split("/") or "\\" in decoded or _CONTROL.search(decoded):
            raise ForbiddenUri(f"uri {_show(uri)} hides dots, a backslash or control characters in percent-encoding")
    raise ForbiddenUri(f"uri {_show(uri)} is percent-encoded {_MAX_ENCODINGS} times over")


def _looks_climbing(path: str) -> bool:
    plain = unicodedata.normalize("NFKC", path).translate(_SLASHES)
    return "\\" in plain or any(_ENDS.split(part, maxsplit=1)[0].strip() == ".." for part in plain.split("/"))
