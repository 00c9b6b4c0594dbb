import multiprocessing
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from grpo_tta.adapters.storage import objects
from grpo_tta.adapters.storage.objects import ObjectStore, StoreError


class StoreContract:
    """What every back end keeps; a subclass gives ``store``."""

    def test_what_is_written_is_read(self, store):
        store.write("a/b.bin", b"one")
        assert store.read("a/b.bin") == b"one"
        store.write("a/b.bin", b"two")
        assert store.read("a/b.bin") == b"two"
        store.write("empty", b"")
        assert store.read("empty") == b""

    @pytest.mark.parametrize("size", [1, 70 * 2**20])
    def test_pieces_come_together_and_where_one_is_missing_nothing_changes(self, store, size):
        def failing():
            yield bytes(size)
            raise RuntimeError("no more")

        store.write("a", iter([b"1", b"22", b""]))
        with pytest.raises((RuntimeError, OSError), match="no more"):
            store.write("a", failing())
        assert store.read("a") == b"122"
        assert store.names() == ["a"]

    def test_ranges(self, store):
        store.write("x", b"0123456789")
        assert store.read_range("x", 2, 5) == b"234"
        assert store.read_range("x", 8, 50) == b"89"
        assert store.read_range("x", 3, 3) == b""

    def test_streams_do_not_share_a_position(self, store):
        store.write("x", b"one\ntwo\n")
        with store.open_read("x") as first, store.open_read("x") as second:
            assert first.readline() == b"one\n"
            assert second.read() == b"one\ntwo\n"
            assert first.readline() == b"two\n"

    def test_what_is_not_there(self, store):
        assert not store.exists("a/b")
        assert store.names() == []
        assert store.names("a/") == []
        store.delete("a/b")
        for read in (store.read, lambda name: store.read_range(name, 0, 1), store.open_read):
            with pytest.raises(FileNotFoundError):
                read("a/b")

    def test_create_is_exclusive(self, store):
        assert store.create("c/1", b"first")
        assert not store.create("c/1", b"second")
        assert store.read("c/1") == b"first"
        store.delete("c/1")
        assert store.create("c/1", b"third")
        assert store.supports_exclusive_create

    def test_names_are_sorted_and_filtered(self, store):
        for name in ("b/2", "b/10", "a", "b/sub/x y ü#%20.json", "bb/1"):
            store.write(name, b"")
        assert store.names() == ["a", "b/10", "b/2", "b/sub/x y ü#%20.json", "bb/1"]
        assert store.names("b/") == ["b/10", "b/2", "b/sub/x y ü#%20.json"]
        assert store.names("b/1") == ["b/10"]
        assert store.names("b") == ["b/10", "b/2", "b/sub/x y ü#%20.json", "bb/1"]
        assert store.read("b/sub/x y ü#%20.json") == b""
        assert store.exists("b/2")
        assert not store.exists("b")
        store.delete("b/2")
        assert store.names("b/") == ["b/10", "b/sub/x y ü#%20.json"]

    @pytest.mark.parametrize(
        "name", ["", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a/.b", "a\0", "a\\b", "a\n"]
    )
    def test_bad_names_are_refused(self, store, name):
        for call in (store.read, store.delete, store.exists, lambda name: store.write(name, b"")):
            with pytest.raises(ValueError, match="object name"):
                call(name)

    def test_racing_threads_have_one_winner(self, store):
        for round_ in range(20):
            barrier = threading.Barrier(8)

            def race(i, name=f"race/{round_}", barrier=barrier):
                barrier.wait()
                return store.create(name, f"{i}".encode() * 1000)

            with ThreadPoolExecutor(8) as pool:
                won = list(pool.map(race, range(8)))
            assert sum(won) == 1
            assert store.read(f"race/{round_}") == f"{won.index(True)}".encode() * 1000

    def test_it_can_be_pickled(self, store):
        store.write("x", b"1")
        assert pickle.loads(pickle.dumps(store)).read("x") == b"1"


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self, memory_url):
        return ObjectStore(memory_url)


class TestLocal(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return ObjectStore(str(tmp_path / "new" / "store"))


class TestLocalByUrl(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return ObjectStore(f"file://{tmp_path}/my%20store")


def _race(url, name, start, results):
    store = ObjectStore(url)
    token = f"{os.getpid()}".encode()
    start.wait()
    results.put((token, store.create(name, token * 2000)))


def test_racing_processes_have_one_winner(tmp_path):
    context = multiprocessing.get_context("fork")
    store = ObjectStore(str(tmp_path))
    for round_ in range(5):
        start, results = context.Event(), context.Queue()
        racers = [context.Process(target=_race, args=(store.url, f"r/{round_}", start, results)) for _ in range(6)]
        for racer in racers:
            racer.start()
        start.set()
        found = [results.get(timeout=30) for _ in racers]
        for racer in racers:
            racer.join(30)
        winners = [token for token, won in found if won]
        assert len(winners) == 1
        assert store.read(f"r/{round_}") == winners[0] * 2000


def _write_for_ever(url):
    store = ObjectStore(url)
    store.write("started", b"")
    i = 0
    while True:
        i += 1
        store.write("object", bytes([i % 256]) * 3_000_000)


def test_a_killed_writer_leaves_no_half_object(tmp_path):
    context = multiprocessing.get_context("fork")
    store = ObjectStore(str(tmp_path))
    store.write("object", b"\0" * 3_000_000)
    for _ in range(5):
        writer = context.Process(target=_write_for_ever, args=(store.url,))
        writer.start()
        deadline = time.monotonic() + 30
        while not store.exists("started"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.03)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(30)
        data = store.read("object")
        assert len(data) == 3_000_000
        assert data == data[:1] * 3_000_000
        store.delete("started")
    assert store.names() == ["object"]
    leftovers = len(os.listdir(tmp_path)) - 1
    assert store.sweep(older_than_seconds=3600) == 0
    assert store.sweep(older_than_seconds=-1) == leftovers
    assert os.listdir(tmp_path) == ["object"]


def test_a_failed_write_leaves_the_old_object(tmp_path, monkeypatch):
    store = ObjectStore(str(tmp_path))
    store.write("x", b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(objects.os, "fsync", full)
    for put in (store.write, store.create):
        with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/[xy]'"):
            put("x" if put == store.write else "y", b"new")
    monkeypatch.undo()
    assert store.read("x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_file_system_without_links_is_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(objects.os, "link", refuse)
    with pytest.raises(StoreError, match=r"without hard links.*another folder"):
        ObjectStore(str(tmp_path)).create("x", b"")


def test_an_unreadable_folder_is_not_an_empty_store(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        ObjectStore(str(tmp_path)).names()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must not be empty"),
        ("simplecache::s3://b", "chained"),
        ("https://host/x", "cannot be written"),
        ("s3://", "names no bucket"),
        ("file://host/x", "names the host"),
    ],
)
def test_bad_urls_are_refused_at_construction(url, message):
    with pytest.raises(ValueError, match=message):
        ObjectStore(url)


class _Bucket:
    """A stand-in for a remote fsspec file system with (or without) working conditional puts."""

    def __init__(self, *, conditional=True, conflicts=0):
        self.objects = {}
        self.conditional = conditional
        self.conflicts = conflicts

    def pipe_file(self, path, data, mode="overwrite"):
        if mode == "create" and self.conflicts:
            self.conflicts -= 1
            error = OSError(5, "ConditionalRequestConflict")
            error.__cause__ = _BotoError(409)
            raise error
        if mode == "create" and self.conditional and path in self.objects:
            error = OSError(22, "PreconditionFailed")
            error.__cause__ = _BotoError(412)
            raise error
        self.objects[path] = data

    def exists(self, path):
        return path in self.objects

    def rm_file(self, path):
        self.objects.pop(path, None)


class _BotoError(Exception):
    def __init__(self, status):
        self.response = {"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("conditional", "scheme", "expected"), [(True, "s3", True), (False, "s3", False), (True, "sftp", False)]
)
def test_a_bucket_is_asked_whether_it_keeps_conditions(monkeypatch, conditional, scheme, expected):
    bucket = _Bucket(conditional=conditional)
    monkeypatch.setattr(objects, "open_filesystem", lambda _: (bucket, "box/root"))
    store = ObjectStore(f"{scheme}://box/root")
    assert store.supports_exclusive_create is expected
    assert bucket.objects == {}
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert bucket.objects == {"box/root/a": b"1"}


def test_a_conflict_under_way_is_asked_again(monkeypatch):
    bucket = _Bucket()
    monkeypatch.setattr(objects, "open_filesystem", lambda _: (bucket, "box"))
    pauses = []
    monkeypatch.setattr(objects.time, "sleep", pauses.append)
    store = ObjectStore("s3://box")
    assert store.supports_exclusive_create
    bucket.conflicts = 2
    assert store.create("a", b"1")
    assert pauses == [0.1, 0.4]
    bucket.conflicts = 10
    with pytest.raises(OSError, match="ConditionalRequestConflict"):
        store.create("b", b"1")
