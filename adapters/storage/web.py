"""Reading one address of a web server: no redirect, one deadline, and the address that was judged is the one connected
to.

A name is resolved once, here; addresses of this machine and of private networks are left out unless the policy allows
them, so that a name whose answer changes leads nowhere else. Through a proxy it is the proxy that resolves.
"""

import http.client
import re
import socket
import ssl
import threading
import time
import urllib.request
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

from grpo_tta.adapters.storage.policy import ForbiddenUri, UriPolicy

_TIMEOUT = 60.0
_PIECE = 2**20
_SAFE = "/:@!$&'()*+,;=-._~"
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class NotHttp(Exception):
    """The answer is nonsense, or the address, and will be the next time."""


def read_web(uri: str, stop: int, policy: UriPolicy, until: float) -> bytes:
    """At most ``stop`` bytes. ``until``: of the monotonic clock.

    Raises `ForbiddenUri` for an address that may not be connected to, `NotHttp`, TimeoutError, and what urllib raises.
    """
    with _Watch(until) as watch:
        opener = urllib.request.build_opener(_NoRedirect, _Http(policy, watch), _Https(policy, watch))
        try:
            with opener.open(quoted(uri), timeout=min(_TIMEOUT, watch.left())) as response:
                data = _body(response, stop)
            watch.left()  # an answer without a length ends where the connection does, also where we end it
            return data
        except ForbiddenUri:
            raise
        except Exception as error:
            watch.left()
            if _nonsense(error):
                raise NotHttp(f"{type(error).__name__}: {error}") from error
            raise


def _nonsense(error: Exception) -> bool:
    """Not where the connection ended too soon, which passes; kinds of nonsense raise that too, from a number that is
    none."""
    if isinstance(error, http.client.IncompleteRead):
        return isinstance(error.__context__, ValueError) and not str(error.__context__).endswith("b''")
    passing = isinstance(error, http.client.RemoteDisconnected)
    return isinstance(error, http.client.HTTPException | UnicodeError) and not passing


def quoted(uri: str) -> str:
    """Spaces, accents and whatever else may not be in a request as percent-encoded UTF-8; what is encoded stays."""
    head, _, rest = uri.partition("://")
    address, mark, query = rest.partition("?")
    host, slash, path = address.partition("/")
    parts = (quote(_BARE_PERCENT.sub("%25", text), safe=f"{_SAFE}%{more}") for text, more in ((path, ""), (query, "?")))
    return f"{head}://{host}{slash}{next(parts)}{mark}{next(parts)}"


class _Watch:
    """Ends the connection when the time is over: each of many small reads would be within its own time-out."""

    def __init__(self, until: float) -> None:
        self.sock: socket.socket | None = None
        self._until = until
        self._timer = threading.Timer(max(until - time.monotonic(), 0), self._end)
        self._timer.daemon = True

    def __enter__(self) -> "_Watch":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def left(self) -> float:
        """Seconds; raises TimeoutError for none."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer was not there in time")
        return left

    def _end(self) -> None:
        if self.sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


def _body(response: Any, stop: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size < stop and (part := response.read1(min(stop - size, _PIECE))):
        parts.append(part)
        size += len(part)
    if size < stop and response.length:  # a read with a limit says nothing of it
        raise ConnectionError(f"the answer ended after {size} bytes, {response.length} before its end")
    return b"".join(parts)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """No redirect is followed: the policy has judged this address, not another."""


class _Http(urllib.request.HTTPHandler):
    def __init__(self, policy: UriPolicy, watch: _Watch) -> None:
        super().__init__()
        self._way = (policy, watch)

    def http_open(self, req: urllib.request.Request) -> Any:
        """Directly, or by the proxy of the environment."""
        kind = http.client.HTTPConnection if _by_proxy(req) else partial(_Connection, way=self._way)
        return self.do_open(kind, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, policy: UriPolicy, watch: _Watch) -> None:
        super().__init__()
        self._way = (policy, watch)

    def https_open(self, req: urllib.request.Request) -> Any:
        """Directly, or by the proxy of the environment."""
        kind = http.client.HTTPSConnection if _by_proxy(req) else partial(_TlsConnection, way=self._way)
        return self.do_open(kind, req)


def _by_proxy(request: urllib.request.Request) -> bool:
    return request.host != urlsplit(request.full_url).netloc


class _Connection(http.client.HTTPConnection):
    """To an address that was judged."""

    def __init__(self, *arguments: Any, way: tuple[UriPolicy, _Watch], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._policy, self._watch = way

    def connect(self) -> None:
        """To the first address that answers, of those that are allowed."""
        failure: OSError | None = None
        for family, address in _allowed(self.host, self.port, self._policy):
            self.sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                self.sock.settimeout(min(_TIMEOUT, self._watch.left()))
                self._watch.sock = self.sock
                self.sock.connect(address)
                return
            except OSError as error:
                self.close()
                failure = error
        raise failure or OSError(f"{self.host} has no address")


class _TlsConnection(_Connection):
    default_port = 443

    def connect(self) -> None:
        """As for plain HTTP; the certificate must be that of the name."""
        super().connect()
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self._watch.sock = self.sock
        self.sock.do_handshake()


def _allowed(host: str, port: int, policy: UriPolicy) -> list[tuple[int, Any]]:
    """Families and addresses of a name. Raises `ForbiddenUri` where it has none but forbidden ones."""
    found: list[tuple[int, Any]] = [(one[0], one[4]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    allowed = [(family, address) for family, address in found if policy.may_connect(host, str(address[0]))]
    if found and not allowed:
        raise ForbiddenUri(
            f"host {host!r} is {found[0][1][0]}, an address of this machine or of a private network; allow it by "
            f"'network:{found[0][1][0]}' in 'allow_uris'"
        )
    return allowed
