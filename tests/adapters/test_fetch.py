import errno
import http.server
import os
import pickle
import threading
import urllib.error
from typing import ClassVar

import fsspec
import pytest

from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.storage import fetch as module
from grpo_tta.adapters.storage.fetch import (
    Changed,
    Fetcher,
    Forbidden,
    ForbiddenByPolicy,
    NotFound,
    PermanentFetchError,
    TooManyBytes,
    TransientFetchError,
    Unreadable,
    permanent_error,
)
from grpo_tta.adapters.storage.policy import UriPolicy
from grpo_tta.adapters.storage.source import list_source


def ref(uri=None, **fields):
    return ImageRef("c@1#L1", "i", "s", 0, uri=None if uri is None else str(uri), **fields)


@pytest.fixture
def fetcher(tmp_path):
    return Fetcher(UriPolicy.for_source(str(tmp_path)), max_bytes=100, sleep=no_sleep)


def no_sleep(_):
    raise AssertionError("nothing here is worth a second attempt")


def test_local_files(fetcher, tmp_path):
    (tmp_path / "a b ü.jpg").write_bytes(b"12345")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "full.jpg").write_bytes(b"x" * 100)
    assert fetcher.fetch(ref(tmp_path / "a b ü.jpg", size=5)) == b"12345"
    assert fetcher.fetch(ref(f"file://{tmp_path}/a%20b%20%C3%BC.jpg")) == b"12345"
    assert fetcher.fetch(ref(tmp_path / "empty.jpg", size=0)) == b""
    assert fetcher.fetch(ref(tmp_path / "full.jpg")) == b"x" * 100


def test_a_file_without_a_listed_version_is_read_as_it_is(fetcher, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"123456")
    assert fetcher.fetch(ref(tmp_path / "a.jpg", size=3)) == b"123456"
    assert fetcher.fetch(ref(tmp_path / "a.jpg", size=50)) == b"123456"


def test_a_file_that_was_replaced_since_it_was_listed(fetcher, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    (listed,) = list_source(str(tmp_path))
    assert fetcher.fetch(listed) == b"12345"
    path.write_bytes(b"54321")
    os.utime(path, (1_000, 1_000))
    with pytest.raises(Changed, match=r"a.jpg is of version 1000000000000-5, \d+-5 was listed") as raised:
        fetcher.fetch(listed)
    assert raised.value.stage == "fetch"


def test_a_file_that_is_written_to_while_it_is_read(fetcher, tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    (listed,) = list_source(str(tmp_path))
    opened = os.open

    def open_and_write(*arguments, **options):
        descriptor = opened(*arguments, **options)
        path.write_bytes(b"1234567")
        return descriptor

    monkeypatch.setattr(module.os, "open", open_and_write)
    with pytest.raises(Changed, match="it was replaced since"):
        fetcher.fetch(listed)


def test_an_object_of_another_size_than_was_listed(memory_url):
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file(f"{memory_url}/a.jpg", b"12345")
    (listed,) = list_source(memory_url)
    fetcher = Fetcher(UriPolicy.for_source(memory_url), max_bytes=100, sleep=no_sleep)
    assert fetcher.fetch(listed) == b"12345"
    for data in (b"1234", b"123456"):
        filesystem.pipe_file(f"{memory_url}/a.jpg", data)
        with pytest.raises(Changed, match=f"a.jpg: {len(data)} bytes, 5 when it was listed"):
            fetcher.fetch(listed)


def test_buckets(memory_url):
    filesystem = fsspec.filesystem("memory")
    for name, data in (("a b.jpg", b"12345"), ("empty.jpg", b""), ("big.jpg", b"x" * 101)):
        filesystem.pipe_file(f"{memory_url}/{name}", data)
    fetcher = Fetcher(UriPolicy.for_source(memory_url), max_bytes=100, sleep=no_sleep)
    for size in (-1, 5):
        assert fetcher.fetch(ref(f"{memory_url}/a b.jpg", size=size)) == b"12345"
        assert fetcher.fetch(ref(f"{memory_url}/empty.jpg", size=min(size, 0))) == b""
        with pytest.raises(TooManyBytes, match="exceed the limit of 100"):
            fetcher.fetch(ref(f"{memory_url}/big.jpg", size=size))
    with pytest.raises(NotFound, match=r"gone.jpg: FileNotFoundError"):
        fetcher.fetch(ref(f"{memory_url}/gone.jpg"))


def test_inline_data(fetcher):
    assert fetcher.fetch(ref(data=b"12345")) == b"12345"
    with pytest.raises(TooManyBytes, match="c@1#L1: 101 bytes"):
        fetcher.fetch(ref(data=b"x" * 101))


def test_what_is_permanent(fetcher, tmp_path):
    (tmp_path / "big.jpg").write_bytes(b"x" * 101)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    cases = [
        (ref(tmp_path / "gone.jpg"), NotFound, "gone.jpg: FileNotFoundError", "fetch"),
        (ref(tmp_path / "big.jpg"), TooManyBytes, "101 bytes exceed the limit of 100", "fetch"),
        (ref(tmp_path / "small.jpg", size=10**9), TooManyBytes, "1000000000 bytes exceed", "fetch"),
        (ref(tmp_path / "folder.jpg"), PermanentFetchError, "folder.jpg", "fetch"),
        (ref(tmp_path / "pipe.jpg"), Unreadable, "not a regular file", "fetch"),
        (ref(tmp_path / "loop.jpg"), NotFound, "loop.jpg", "fetch"),
        (ref(tmp_path / ("x" * 300 + ".jpg")), NotFound, "too long", "fetch"),
        (ref("/etc/passwd"), ForbiddenByPolicy, "no allowed prefix", "policy"),
        (ref("file:///etc/passwd"), ForbiddenByPolicy, "no allowed prefix", "policy"),
        (ref("/etc/passwd#bytes=0-10"), ForbiddenByPolicy, "no allowed prefix", "policy"),
        (ref("memory::file:///x"), ForbiddenByPolicy, "chained", "policy"),
        (ref(), Unreadable, "neither a uri nor data", "fetch"),
    ]
    for event, error, message, stage in cases:
        with pytest.raises(error, match=message) as raised:
            fetcher.fetch(event)
        assert raised.value.stage == stage


def test_a_file_without_permission(fetcher, tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"1")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.os, "open", refuse)
    with pytest.raises(Forbidden, match="Permission denied"):
        fetcher.fetch(ref(tmp_path / "a.jpg"))


def failing(monkeypatch, errors):
    """Reads raise the errors one after another, then give b"ok"."""
    left = list(errors)

    def read(*_, **__):
        if left:
            raise left.pop(0)
        return b"ok"

    monkeypatch.setattr(module, "read_bytes", read)
    return left


def test_transient_errors_are_retried_with_growing_pauses(tmp_path, monkeypatch):
    pauses = []
    fetcher = Fetcher(UriPolicy.for_source(str(tmp_path)), first_pause=1, max_pause=4, attempts=6, sleep=pauses.append)
    failing(monkeypatch, [TimeoutError(), ConnectionResetError(), OSError(errno.EIO, "io"), RuntimeError("odd")])
    assert fetcher.fetch(ref(tmp_path / "a.jpg")) == b"ok"
    assert len(pauses) == 4
    for pause, full in zip(pauses, (1, 2, 4, 4), strict=True):
        assert full / 2 <= pause <= full
    again = []
    failing(monkeypatch, [TimeoutError()] * 4)
    fetcher = Fetcher(UriPolicy.for_source(str(tmp_path)), first_pause=1, max_pause=4, attempts=6, sleep=again.append)
    fetcher.fetch(ref(tmp_path / "a.jpg"))
    assert again == pauses


def test_after_the_last_attempt_the_slice_fails(tmp_path, monkeypatch):
    pauses = []
    fetcher = Fetcher(UriPolicy.for_source(str(tmp_path)), attempts=3, sleep=pauses.append)
    left = failing(monkeypatch, [TimeoutError("slow")] * 5)
    with pytest.raises(TransientFetchError, match=r"a.jpg: 3 attempts failed, the last with TimeoutError: slow"):
        fetcher.fetch(ref(tmp_path / "a.jpg"))
    assert len(left) == 2
    assert len(pauses) == 2


def test_a_permanent_error_after_a_transient_one_is_a_dead_letter(tmp_path, monkeypatch):
    fetcher = Fetcher(UriPolicy.for_source(str(tmp_path)), sleep=lambda _: None)
    failing(monkeypatch, [TimeoutError(), FileNotFoundError("x")])
    with pytest.raises(NotFound):
        fetcher.fetch(ref(tmp_path / "a.jpg"))


def test_no_error_tells_a_password_or_a_signature(monkeypatch):
    uri = "https://host/a.jpg?X-Amz-Signature=HUNTER3"
    fetcher = Fetcher(UriPolicy(["https"], ["https://host"]), max_bytes=9, attempts=1)
    said = []
    for error in (FileNotFoundError(uri), TimeoutError(f"slow: {uri}")):
        failing(monkeypatch, [error])
        with pytest.raises((PermanentFetchError, TransientFetchError)) as raised:
            fetcher.fetch(ref(uri))
        said.append(str(raised.value))
    for text in ("host/a.jpg?X-Amz-Signature=HUNTER3", "GET /a.jpg?X-Amz-Signature=HUNTER3%2B"):
        failing(monkeypatch, [FileNotFoundError(text)])
        with pytest.raises(PermanentFetchError) as raised:
            fetcher.fetch(ref(uri))
        said.append(str(raised.value))
    for event in (ref(uri, size=10), ref("https://user:HUNTER3@host/a.jpg")):
        with pytest.raises(PermanentFetchError) as raised:
            fetcher.fetch(event)
        said.append(str(raised.value))
    assert "HUNTER3" not in "".join(said)
    assert said[0] == (
        "https://host/a.jpg?X-Amz-Signature=(hidden): FileNotFoundError: https://host/a.jpg?X-Amz-Signature=(hidden)"
    )


class _Boto(Exception):
    def __init__(self, status, code="Some"):
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class _Aiohttp(Exception):
    def __init__(self, status):
        self.status = status


class _Azure(Exception):
    def __init__(self, status, code=None):
        self.status_code = status
        self.error_code = code


class _Gcs(Exception):
    def __init__(self, code):
        self.code = code


def translated(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_Boto(404), NotFound),
        (_Boto(403), Forbidden),
        (_Boto(503), None),
        (_Boto(400), Unreadable),
        (_Boto(400, "ExpiredToken"), None),
        (translated(PermissionError("expired"), _Boto(403, "ExpiredToken")), None),
        (translated(OSError(errno.EBUSY, "slow down"), _Boto(503, "SlowDown")), None),
        (translated(OSError(errno.EINVAL, "bad"), _Boto(400)), Unreadable),
        (translated(FileNotFoundError("x"), _Boto(404)), NotFound),
        (_Aiohttp(404), NotFound),
        (_Aiohttp(429), None),
        (_Aiohttp(302), Unreadable),
        (_Aiohttp(401), None),
        (_Azure(403), Forbidden),
        (_Azure(500), None),
        (_Azure(410), NotFound),
        (_Gcs("404"), NotFound),
        (_Gcs(408), None),
        (_Gcs("weird"), None),
        (OSError("Forbidden: bucket/key\nno access"), Forbidden),
        (OSError("connection dropped"), None),
        (urllib.error.HTTPError("u", 404, "gone", None, None), NotFound),
        (urllib.error.HTTPError("u", 502, "bad gateway", None, None), None),
        (urllib.error.URLError(ConnectionRefusedError()), None),
        (IsADirectoryError(21, "x"), NotFound),
        (OSError(errno.EMFILE, "too many open files"), None),
        (OSError(errno.ESTALE, "stale handle"), None),
        (TimeoutError(), None),
        (Exception("no idea"), None),
    ],
)
def test_what_an_error_means(error, expected):
    assert permanent_error(error) is expected


@pytest.fixture
def web():
    """A web server: /ok, /redirect, /gone, /busy, /big, /half; yields its address and the paths asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        asked: ClassVar[list[str]] = []

        def do_GET(self):
            self.asked.append(self.path)
            status = {"/redirect": 302, "/gone": 404, "/busy": 503}.get(self.path, 200)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/ok")
            body = b"x" * 1000 if self.path == "/big" else b"web"
            self.send_header("Content-Length", str(len(body) * (2 if self.path == "/half" else 1)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_web_addresses_that_are_allowed_are_read_without_redirects(web, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    address, asked = web
    pauses = []
    fetcher = Fetcher(UriPolicy(["http"], [address]), max_bytes=100, attempts=2, sleep=pauses.append)
    assert fetcher.fetch(ref(f"{address}/ok")) == b"web"
    with pytest.raises(NotFound):
        fetcher.fetch(ref(f"{address}/gone"))
    with pytest.raises(TooManyBytes):
        fetcher.fetch(ref(f"{address}/big"))
    with pytest.raises(Unreadable, match="302"):
        fetcher.fetch(ref(f"{address}/redirect"))
    with pytest.raises(TransientFetchError, match="503"):
        fetcher.fetch(ref(f"{address}/busy"))
    with pytest.raises(TransientFetchError, match="the answer ended after 3 bytes, 3 before its end"):
        fetcher.fetch(ref(f"{address}/half"))
    assert asked == ["/ok", "/gone", "/big", "/redirect", "/busy", "/busy", "/half", "/half"]
    with pytest.raises(ForbiddenByPolicy):
        Fetcher(UriPolicy.for_source(str(tmp_path))).fetch(ref(f"{address}/ok"))
    assert len(asked) == 8


def test_it_can_be_pickled(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"1")
    fetcher = pickle.loads(pickle.dumps(Fetcher(UriPolicy.for_source(str(tmp_path)))))
    assert fetcher.fetch(ref(tmp_path / "a.jpg")) == b"1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 0}, "max_bytes must be >= 1, got 0"),
        ({"attempts": 0}, "attempts must be >= 1, got 0"),
        ({"first_pause": 3, "max_pause": 1}, "got 3 and 1"),
        ({"first_pause": -1}, "got -1 and 10"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Fetcher(UriPolicy.for_source("/data"), **options)
