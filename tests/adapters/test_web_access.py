"""Web servers that answer oddly, slowly or from where they must not, and folders that are swapped under the reader."""

import contextlib
import os
import socket
import threading
import time

import pytest

from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.storage.fetch import (
    Fetcher,
    ForbiddenByPolicy,
    PermanentFetchError,
    TransientFetchError,
    Unreadable,
)
from grpo_tta.adapters.storage.policy import UriPolicy
from grpo_tta.adapters.storage.web import quoted

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nweb"


def ref(uri):
    return ImageRef("c@1#L1", "i", "s", 0, uri=uri)


class Server:
    """Answers every connection with the same bytes, one after another with ``pause`` seconds between."""

    def __init__(self):
        self.answer, self.pause, self.asked = OK, None, []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._speak, args=(connection,), daemon=True).start()

    def _speak(self, connection):
        with connection, contextlib.suppress(OSError):
            self.asked.append(connection.recv(65536).split(b"\r\n")[0])
            if self.pause is None:
                connection.sendall(self.answer)
            else:
                for i in range(len(self.answer)):
                    connection.sendall(self.answer[i : i + 1])
                    time.sleep(self.pause)

    def close(self):
        self._socket.close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    made = Server()
    yield made
    made.close()


def fetcher(*allowed, **options):
    schemes = {prefix.partition(":")[0] for prefix in allowed} - {"network"}
    return Fetcher(UriPolicy(schemes, allowed), attempts=2, sleep=lambda _: None, **options)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("a b.jpg", "a%20b.jpg"),
        ("größe/é.jpg", "gr%C3%B6%C3%9Fe/%C3%A9.jpg"),
        ("a%20b.jpg", "a%20b.jpg"),
        ("100%.jpg", "100%25.jpg"),
        ("a.jpg?name=a b&c=%2f?é", "a.jpg?name=a%20b&c=%2f?%C3%A9"),
        ("a+b,(c)[1]~'.jpg", "a+b,(c)%5B1%5D~'.jpg"),
    ],
)
def test_what_may_not_be_in_a_request_is_quoted(path, asked, server):
    address = f"http://127.0.0.1:{server.port}"
    assert fetcher(address).fetch(ref(f"{address}/{path}")) == b"web"
    assert server.asked == [f"GET /{asked} HTTP/1.1".encode()]
    assert quoted(f"{address}/{asked}") == f"{address}/{asked}"


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"220 mail.example.org ESMTP\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_nonsense_will_not_pass(answer, server):
    server.answer = answer
    address = f"http://127.0.0.1:{server.port}"
    with pytest.raises(Unreadable, match="no answer of a web server"):
        fetcher(address).fetch(ref(f"{address}/a.jpg"))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nweb",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 503 Busy\r\n\r\n",
    ],
)
def test_a_connection_that_ends_may_be_there_again(answer, server):
    server.answer = answer
    address = f"http://127.0.0.1:{server.port}"
    with pytest.raises(TransientFetchError, match="2 attempts failed"):
        fetcher(address).fetch(ref(f"{address}/a.jpg"))
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_an_answer_that_drips_is_not_listened_to_for_ever(start, server):
    server.answer, server.pause = start + b"x" * 10_000, 0.02
    address = f"http://127.0.0.1:{server.port}"
    began = time.monotonic()
    with pytest.raises(TransientFetchError, match="not there in time"):
        fetcher(address, max_seconds=1.0).fetch(ref(f"{address}/a.jpg"))
    assert time.monotonic() - began < 3


def resolving(monkeypatch, *answers):
    """Names resolve to these addresses, one an enquiry; gives the enquiries."""
    real, enquiries, left = socket.getaddrinfo, [], list(answers)

    def resolve(host, port, *arguments, **options):
        if host != "images.example.org":
            return real(host, port, *arguments, **options)
        enquiries.append(host)
        return real(left.pop(0) if len(left) > 1 else left[0], port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return enquiries


def test_a_name_that_leads_to_this_machine_is_refused(server, monkeypatch):
    enquiries = resolving(monkeypatch, "127.0.0.1")
    address = f"http://images.example.org:{server.port}"
    with pytest.raises(
        ForbiddenByPolicy, match=r"is 127.0.0.1, an address of this machine.*network:127.0.0.1"
    ) as raised:
        fetcher(address).fetch(ref(f"{address}/a.jpg"))
    assert raised.value.stage == "policy"
    assert server.asked == []
    assert len(enquiries) == 1
    assert fetcher(address, "network:127.0.0.0/8").fetch(ref(f"{address}/a.jpg")) == b"web"


def test_a_name_is_resolved_once_and_that_address_is_connected_to(server, monkeypatch):
    enquiries = resolving(monkeypatch, "127.0.0.1", "127.0.0.2")
    address = f"http://images.example.org:{server.port}"
    assert fetcher(address, "network:127.0.0.1/32").fetch(ref(f"{address}/a.jpg")) == b"web"
    assert len(enquiries) == 1
    with pytest.raises(ForbiddenByPolicy, match=r"is 127.0.0.2"):
        fetcher(address, "network:127.0.0.1/32").fetch(ref(f"{address}/a.jpg"))


def test_a_redirect_to_elsewhere_is_not_followed(server):
    server.answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/secret\r\nContent-Length: 0\r\n\r\n"
    address = f"http://127.0.0.1:{server.port}"
    with pytest.raises(Unreadable, match="302"):
        fetcher(address).fetch(ref(f"{address}/a.jpg"))
    assert len(server.asked) == 1


def test_a_folder_swapped_for_a_link_leads_nowhere(tmp_path):
    inside, outside = tmp_path / "feed", tmp_path / "secret"
    (inside / "cam" / "day").mkdir(parents=True)
    (outside / "day").mkdir(parents=True)
    (inside / "cam" / "day" / "a.jpg").write_bytes(b"picture")
    (outside / "day" / "a.jpg").write_bytes(b"secret")
    (inside / "link").symlink_to(outside)
    aside = inside / "aside"
    reader = Fetcher(UriPolicy.for_source(str(inside)), attempts=1)
    over = threading.Event()

    def swap():
        while not over.is_set():
            os.rename(inside / "cam", aside)
            os.rename(inside / "link", inside / "cam")
            os.rename(inside / "cam", inside / "link")
            os.rename(aside, inside / "cam")

    swapper = threading.Thread(target=swap)
    swapper.start()
    found = {"read": 0, "refused": 0}
    until = time.monotonic() + 2
    try:
        while time.monotonic() < until:
            try:
                assert reader.fetch(ref(f"{inside}/cam/day/a.jpg")) == b"picture"
                found["read"] += 1
            except (PermanentFetchError, TransientFetchError):  # the latter where a link became a folder meanwhile
                found["refused"] += 1
    finally:
        over.set()
        swapper.join()
    assert min(found.values()) > 10, found


def test_a_folder_swapped_after_the_check(tmp_path, monkeypatch):
    inside, outside = tmp_path / "feed", tmp_path / "secret"
    (inside / "cam").mkdir(parents=True)
    outside.mkdir()
    for folder in (inside / "cam", outside):
        (folder / "a.jpg").write_bytes(folder.name.encode())
    reader = Fetcher(UriPolicy.for_source(str(inside)), attempts=1)
    check = reader.policy.check

    def check_and_swap(uri):
        checked = check(uri)
        (inside / "cam").rename(inside / "was")
        (inside / "cam").symlink_to(outside)
        return checked

    monkeypatch.setattr(reader.policy, "check", check_and_swap)
    with pytest.raises(PermanentFetchError):
        reader.fetch(ref(f"{inside}/cam/a.jpg"))
