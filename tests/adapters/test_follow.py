"""What a follower takes up, when, and what it leaves; the clock is a number."""

import os
from datetime import datetime

import pytest

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.storage.follow import Follower
from grpo_tta.adapters.storage.listing import Listing
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.source import SourceError

SECOND = 1_000_000
START = 1_767_225_600
"""2026-01-01T00:00:00Z."""


class World:
    """A folder whose files are named by the second of their modification time, and a clock."""

    def __init__(self, folder):
        self.folder, self.now = folder / "feed", START
        self.store = ObjectStore(str(folder / "checkpoint"))
        self.folder.mkdir()

    def put(self, name, second, data=b"x"):
        path = self.folder / f"{name}.png"
        path.write_bytes(data)
        os.utime(path, (START + second, START + second))

    def follower(self, **options):
        options = {"settle": 5 * SECOND, "look_back": 60 * SECOND, "origin": "here", **options}
        return Follower(self.store, str(self.folder), **options)

    def poll(self, follower, second):
        """The names that were taken up, in order."""
        before = len(follower)
        follower.poll((START + second) * SECOND)
        return [name(record) for record in self.records(before)]

    def records(self, start=0):
        listing = Listing.open(self.store)
        return list(listing.read(start, len(listing))) if listing else []


def name(record):
    path = record.coordinate.rpartition("@")[0].rpartition("/")[2].removesuffix(".png")
    return path if isinstance(record, ImageRef) else f"{path} {record.error_class}"


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_each_file_is_taken_up_once_in_segments_that_run_on(world):
    follower = world.follower()
    assert world.poll(follower, 0) == []
    assert world.store.names() == []
    world.put("b", 2)
    world.put("a", 1)
    assert world.poll(follower, 10) == ["a", "b"]
    assert world.poll(follower, 11) == []
    world.put("c", 3)
    assert world.poll(follower, 20) == ["c"]
    assert [record.position for record in world.records()] == [0, 1, 2]
    assert world.store.names("listing/segment") == [
        "listing/segment-000000000000.json",
        "listing/segment-000000000002.json",
    ]


def test_a_file_that_may_still_be_written_waits(world):
    follower = world.follower()
    world.put("old", 0)
    world.put("young", 6)
    assert world.poll(follower, 10) == ["old"]
    world.put("young", 10, b"longer")
    assert world.poll(follower, 12) == []
    assert world.poll(follower, 15) == ["young"]
    assert world.records()[-1].size == 6


def test_a_time_in_the_future_waits_until_it_was_seen_unchanged_and_makes_nobody_late(world):
    follower = world.follower()
    world.put("fast", 100_000)
    assert world.poll(follower, 10) == []
    assert world.poll(follower, 14) == []
    assert world.poll(follower, 15) == ["fast"]
    world.put("usual", 12)
    assert world.poll(follower, 20) == ["usual"]
    assert world.poll(world.follower(), 30) == []


def test_files_may_appear_in_any_order_within_the_look_back(world):
    follower = world.follower()
    world.put("b", 100)
    assert world.poll(follower, 200) == ["b"]
    world.put("a", 41)
    assert world.poll(follower, 210) == ["a"]
    assert world.poll(follower, 220) == []


def test_an_overwritten_file_is_another_event(world):
    follower = world.follower()
    world.put("a", 0)
    assert world.poll(follower, 10) == ["a"]
    world.put("a", 20)
    assert world.poll(follower, 30) == ["a"]
    first, second = world.records()
    assert first.coordinate == f"{world.folder}/a.png@{START * 10**9}-1"
    assert second.coordinate == f"{world.folder}/a.png@{(START + 20) * 10**9}-1"
    assert first.id == second.id == "a.png"


def test_a_picture_put_twice_into_a_bucket_is_two_events_though_its_hash_is_one(memory_url, monkeypatch):
    import grpo_tta.adapters.storage.source as source

    times = iter([datetime.fromisoformat("2026-01-01T00:00:00Z"), datetime.fromisoformat("2026-01-01T00:00:07Z")])
    info = {"name": "bucket/a.png", "type": "file", "size": 1, "ETag": '"d41d8"'}
    monkeypatch.setattr(source, "_infos", lambda *_: [("bucket/a.png", {**info, "LastModified": next(times)})])
    store = ObjectStore(memory_url)
    follower = Follower(store, "memory://bucket")
    for second in (10, 20):
        follower.poll((START + second) * SECOND)
    assert [record.coordinate for record in follower.listing.read(0, 2)] == [
        f"memory://bucket/a.png@d41d8-{START * SECOND}",
        f"memory://bucket/a.png@d41d8-{(START + 7) * SECOND}",
    ]


def test_what_comes_after_the_look_back_is_reported_once(world, caplog):
    follower = world.follower()
    world.put("first", 0)
    assert world.poll(follower, 10) == ["first"]
    world.put("new", 1000)
    assert world.poll(follower, 1010) == ["new"]
    world.put("old", 940)
    world.put("in-time", 941)
    assert world.poll(follower, 1020) == ["old ArrivedTooLate", "in-time"]
    assert "1 files came later than source.look_back allows" in caplog.text
    late = world.records()[2]
    assert isinstance(late, BadRecord)
    assert (late.stage, late.event) == ("source", f"{world.folder}/old.png")
    assert world.poll(follower, 1030) == []
    assert world.poll(world.follower(), 1040) == []


def test_what_moves_out_of_the_look_back_is_not_taken_for_late(world):
    follower = world.follower(look_back=0)
    for second in range(0, 300, 30):
        world.put(f"at-{second:03d}", second)
        assert world.poll(follower, second + 10) == [f"at-{second:03d}"]


def test_a_restart_knows_what_was_taken_up(world):
    for round_ in range(4):
        world.put(f"a-{round_}", 25 * round_)
        world.put(f"b-{round_}", 25 * round_ + 1)
        assert world.poll(world.follower(), 25 * round_ + 10) == [f"a-{round_}", f"b-{round_}"]
    assert world.poll(world.follower(), 300) == []


def test_what_came_while_nobody_looked_is_taken_up(world):
    world.put("a", 0)
    assert world.poll(world.follower(), 10) == ["a"]
    world.put("b", 5000)
    world.put("c", 100_000)
    assert world.poll(world.follower(), 200_000) == ["b", "c"]


def test_killed_before_the_segments_index_nothing_is_taken_up(world, monkeypatch):
    world.put("a", 0)

    def killed(self, name, data, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "create", killed)
        with pytest.raises(KeyboardInterrupt):
            world.poll(world.follower(), 10)
    assert len(world.store.names("listing/")) == 1
    assert world.poll(world.follower(), 20) == ["a"]
    assert len(world.store.names("listing/")) == 2


def test_of_two_followers_one_takes_up_and_the_other_learns_it(world):
    first, second = world.follower(), world.follower()
    world.put("a", 0)
    assert world.poll(first, 10) == ["a"]
    world.put("b", 1)
    second.poll((START + 20) * SECOND)
    assert (len(first), len(second), len(world.records())) == (1, 1, 1)
    assert world.poll(second, 30) == ["b"]
    first.poll((START + 40) * SECOND)
    assert [name(record) for record in world.records()] == ["a", "b"]


def test_segments_that_nobody_needs_are_deleted(world):
    follower = world.follower()
    for second in range(0, 200, 20):
        world.put(f"at-{second}", second)
        world.poll(follower, second + 10)
    follower.collect(5)
    kept = world.store.names("listing/segment")
    assert kept[0] == "listing/segment-000000000005.json"
    follower.collect(10)
    assert [name[-8:-5] for name in world.store.names("listing/segment")] == ["007", "008", "009"]
    assert len(world.store.names("listing/")) == 6
    assert [name(record) for record in world.records(7)] == ["at-140", "at-160", "at-180"]
    with pytest.raises(ValueError, match="position 2 is not in the listing any more"):
        world.records(2)
    assert world.poll(world.follower(), 300) == []


def test_a_source_that_cannot_be_listed_is_looked_at_again(world):
    follower = world.follower()
    world.put("a", 0)
    moved = world.folder.rename(world.folder.with_name("away"))
    with pytest.raises(SourceError, match="does not exist"):
        follower.poll((START + 10) * SECOND)
    moved.rename(world.folder)
    assert world.poll(follower, 20) == ["a"]


def test_a_link_to_nothing_waits_for_what_it_points_at(world):
    follower = world.follower()
    (world.folder / "link.png").symlink_to(world.folder / "target")
    assert world.poll(follower, 10) == []
    world.put("target", 3)
    (world.folder / "target.png").rename(world.folder / "target")
    assert world.poll(follower, 20) == ["link"]


def test_files_that_are_no_events_are_bad_records_once(world):
    follower = world.follower(stream_pattern="cam-(?P<stream>.)")
    world.put("cam-1", 0)
    world.put("other", 1)
    assert world.poll(follower, 10) == ["other ValueError", "cam-1"]
    assert world.poll(follower, 20) == []
    assert world.poll(world.follower(stream_pattern="cam-(?P<stream>.)"), 30) == []


def test_a_prefix_of_a_bucket_may_be_empty_and_a_bucket_must_exist(memory_url):
    ObjectStore(memory_url).write("other/a.txt", b"x")
    follower = Follower(ObjectStore(f"{memory_url}/checkpoint"), f"{memory_url}/feed")
    follower.poll(START * SECOND)
    assert len(follower) == 0
    with pytest.raises(SourceError, match="does not exist"):
        Follower(ObjectStore(f"{memory_url}/checkpoint"), "memory://no-such-bucket/feed").poll(START * SECOND)


def test_a_listing_of_another_source_is_refused(world):
    world.put("a", 0)
    world.poll(world.follower(), 10)
    with pytest.raises(ValueError, match="is of the source and patterns here, not there: give this job another --out"):
        world.follower(origin="there")
