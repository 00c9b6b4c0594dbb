"""Buckets, on an S3-compatible server of the tests' own (moto's, on loopback)."""

import importlib.util
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from s3_racer import race

from grpo_tta.adapters.storage.fetch import Fetcher
from grpo_tta.adapters.storage.listing import Listing
from grpo_tta.adapters.storage.objects import ObjectStore, StoreError
from grpo_tta.adapters.storage.policy import UriPolicy
from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.adapters.storage.source import list_source
from grpo_tta.demo import STREAM_PATTERN, TIME_PATTERN, write_feed
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.cli import main
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.run.bounded import run_label_job
from grpo_tta.schemas import LabeledImage

IMAGES = 18
FLAGS = ["--method", "zero-shot", "--threads", "1", "--slice-records", "5"]
PATTERNS = ["--stream-pattern", STREAM_PATTERN, "--time-pattern", TIME_PATTERN]


class Server:
    """A process of its own. It knows no key and at first looks at none."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = open(log, "w")  # noqa: SIM115
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/", timeout=5):
                return True
        except OSError:
            return False

    def check_keys(self, *, after: str) -> None:
        """So many requests are let through before keys are looked at; ``inf``: they never are."""
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.url}/moto-api/reset-auth", after.encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=30):
            pass

    def close(self) -> None:
        self._process.kill()
        self._process.wait(30)
        self._log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Where moto or s3fs is not installed CI fails and everybody else skips by name."""
    for package in ("moto", "s3fs"):
        if importlib.util.find_spec(package) is None:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI must run these tests: {package} is not installed")
            pytest.skip(f"no S3-compatible server: {package} is not installed")
    running = Server(tmp_path_factory.mktemp("s3") / "server.txt")
    yield running
    running.close()


@pytest.fixture
def s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system as fsspec makes it from the environment."""
    import s3fs

    values = {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield s3fs.S3FileSystem(use_listings_cache=False)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(s3: Any) -> str:
    """The URL of a bucket of its own."""
    name = f"bucket-{uuid4().hex[:12]}"
    s3.mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feed") / "feed"
    write_feed(folder, 0, IMAGES)
    return folder


def test_of_racing_writers_exactly_one_creates_an_object(bucket: str) -> None:
    context = multiprocessing.get_context("spawn")
    names, writers = [f"race/{number:02d}" for number in range(20)], 4
    barrier, queue = context.Barrier(writers), context.Queue()
    racers = [context.Process(target=race, args=(bucket, names, barrier, queue)) for _ in range(writers)]
    for racer in racers:
        racer.start()
    found = [queue.get(timeout=120) for _ in range(writers * len(names))]
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * writers
    store = ObjectStore(bucket)
    for name in names:
        (winner,) = [token for raced, token, created in found if raced == name and created]
        assert store.read(name) == winner * 2000
    assert store.names() == names


def test_a_store_in_a_bucket_does_what_one_in_a_folder_does(bucket: str) -> None:
    store = ObjectStore(f"{bucket}/deep/root")
    assert store.names() == []
    assert (store.create("a/b", b"one"), store.create("a/b", b"two")) == (True, False)
    store.write("a/c", b"0123456789")
    assert (store.read("a/b"), store.read_range("a/c", 3, 6)) == (b"one", b"345")
    assert (store.names(), store.names("a/c"), store.exists("a/b")) == (["a/b", "a/c"], ["a/c"], True)
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")
    with pytest.raises(FileNotFoundError):
        store.read("a/b")


def test_a_large_object_goes_to_a_bucket_in_parts_and_appears_when_all_are_there(bucket: str) -> None:
    store, piece, count = ObjectStore(f"{bucket}/large"), bytes(2**20), 70

    def pieces(last: bytes) -> Iterator[bytes]:
        yield from [piece] * count
        if not last:
            raise RuntimeError("no more")
        yield last

    store.write("object", pieces(b"end"))
    for _ in range(2):
        assert store.read_range("object", count * 2**20 - 1, count * 2**20 + 9) == b"\0end"
        with pytest.raises(Exception, match="no more"):
            store.write("object", pieces(b""))
    assert store.names() == ["object"]


def labels(url: str) -> list[dict[str, Any]]:
    """Without the coordinate, which names the storage."""
    return [record.model_dump(exclude={"coordinate"}) for record in read_records(url, "labels", LabeledImage)]


def test_a_bucket_is_labelled_into_a_bucket_as_a_folder_is_into_a_folder(
    s3: Any, bucket: str, feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.put(f"{feed}/", f"{bucket}/feed/", recursive=True)
    assert main(["label", "--source", f"{bucket}/feed", "--out", f"{bucket}/out", *FLAGS, *PATTERNS]) == 0
    assert main(["label", "--source", str(feed), "--out", str(tmp_path / "out"), *FLAGS, *PATTERNS]) == 0
    assert labels(f"{bucket}/out") == labels(str(tmp_path / "out"))
    assert len(labels(f"{bucket}/out")) == IMAGES
    store = ObjectStore(f"{bucket}/out/checkpoint")
    assert [name.rpartition("-")[2] for name in store.names("commits/")] == [f"{i:012d}.json" for i in range(4)]
    assert [name for name in store.names() if name.startswith("probe-")] == []
    capsys.readouterr()
    assert main(["label", "--source", f"{bucket}/feed", "--out", f"{bucket}/out", *FLAGS, *PATTERNS]) == 0
    assert "already finished: 18 events" in capsys.readouterr().out


def test_a_prefix_is_followed_from_before_it_exists(s3: Any, bucket: str, feed: Path) -> None:
    paths = sorted(path.relative_to(feed) for path in feed.rglob("*.jpg"))
    config = make_config(
        {
            "source": {
                "url": f"{bucket}/feed",
                "stream_pattern": STREAM_PATTERN,
                "time_pattern": TIME_PATTERN,
                "follow": True,
                "poll": "100ms",
                "settle": "0s",
            },
            "output": {"url": f"{bucket}/out"},
            "method": {"name": "zero-shot"},
            "model": {"threads": 1},
        }
    )
    log = CheckpointLog(ObjectStore(config.checkpoint_url))

    def put(*chosen: Path) -> None:
        for path in chosen:
            s3.put_file(str(feed / path), f"{bucket}/feed/{path}")

    def overwrite() -> None:
        time.sleep(1.1)  # the server's clock of versions ticks in seconds
        put(paths[0])

    steps: list[tuple[int, Callable[[], None]]] = [
        (0, lambda: put(*paths[:3])),
        (3, lambda: put(*paths[3:5])),
        (5, overwrite),
    ]

    def stop() -> bool:
        latest = log.latest()
        position = latest.position if latest else 0
        if steps and position >= steps[0][0]:
            steps.pop(0)[1]()
        return position >= 6

    summary = run_label_job(config, stop=stop).summary
    assert (summary.events, summary.labels, summary.finished) == (6, 6, False)
    records = list(read_records(f"{bucket}/out", "labels", LabeledImage))
    assert sorted(record.id for record in records) == sorted(map(str, [*paths[:5], paths[0]]))
    assert len({record.coordinate for record in records}) == 6
    listing = Listing.open(ObjectStore(config.checkpoint_url))
    assert listing is not None
    assert len(listing) == 6


@pytest.mark.parametrize("command", ["label", "check"])
def test_a_bucket_that_is_missing_is_named(
    s3: Any, bucket: str, feed: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, "--source", "s3://no-such-bucket/feed", "--out", f"{bucket}/out", *FLAGS]) == 1
    assert "failed: source 's3://no-such-bucket/feed' does not exist" in capsys.readouterr().err
    assert main([command, "--source", str(feed), "--out", "s3://no-such-bucket/out", *FLAGS]) == 1
    assert "failed: s3://no-such-bucket/out" in (said := capsys.readouterr().err)
    assert "there is no such bucket" in said
    assert s3.ls(bucket) == []


@pytest.mark.parametrize("command", ["label", "check"])
def test_bad_credentials_are_told_from_a_missing_bucket_and_not_shown(
    s3: Any, server: Server, bucket: str, feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    server.check_keys(after="0")
    try:
        assert main([command, "--source", str(feed), "--out", f"{bucket}/out", *FLAGS]) == 1
        out = capsys.readouterr()
        assert main([command, "--source", f"{bucket}/feed", "--out", str(tmp_path / "out"), *FLAGS]) == 1
        source = capsys.readouterr()
    finally:
        server.check_keys(after="inf")
    assert f"failed: {bucket}/out" in out.err
    assert "may not be used, check its credentials and rights" in out.err
    assert f"failed: source '{bucket}/feed' may not be read: " in source.err
    assert "very-secret" not in json.dumps([*out, *source])
    assert not (tmp_path / "out").exists()


def test_no_credentials_at_all_are_an_error_that_names_the_bucket(
    s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(StoreError, match=rf"{bucket}.* cannot be used: NoCredentialsError"):
        ObjectStore(f"{bucket}/out").create("a", b"")


def test_keys_with_an_empty_segment_are_listed_and_read(s3: Any) -> None:
    bucket = f"bucket-{uuid4().hex[:12]}"
    s3.mkdir(bucket)
    keys = ("/cam1/a.jpg", "cams//a.jpg", "cams//cam2/b.jpg", "cams/cam3//c.jpg", "cams/cam4/d.jpg", "top.jpg")
    for key in keys:
        s3.call_s3("put_object", Bucket=bucket, Key=key, Body=key.encode())
    for root, expected in (("", set(keys)), ("/cams", {key for key in keys if key.startswith("cams/")})):
        url = f"s3://{bucket}{root}"
        refs = list(list_source(url))
        fetcher = Fetcher(UriPolicy.for_source(url))
        assert {fetcher.fetch(ref).decode() for ref in refs} == expected
        assert len(refs) == len(expected) == len({ref.coordinate for ref in refs})
    streams = {ref.id: ref.stream for ref in list_source(f"s3://{bucket}")}
    assert streams["/cam1/a.jpg"] == "cam1"
    assert streams["cams//a.jpg"] == "cams"
