import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.storage import listing as module
from grpo_tta.adapters.storage.listing import Listing, write_listing
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sealed import SealError

TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
REFS = st.builds(
    ImageRef,
    coordinate=TEXT,
    id=TEXT,
    stream=TEXT,
    event_time=st.integers(-100, 100),
    uri=st.none() | TEXT,
    content_type=st.none() | TEXT,
    attributes=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
    size=st.integers(-1, 10),
    data=st.none(),
    position=st.just(-1),
    time_capped=st.just(False),
)
RECORDS = REFS | st.builds(BadRecord, TEXT, TEXT, TEXT, TEXT, st.none() | TEXT, st.just(-1))


def synthetic(count):
    for i in range(count):
        shuffled = i * 7919 % count
        name = f"/data/feed/camera-{shuffled % 7}/{shuffled:09d}.jpg"
        yield ImageRef(
            f"{name}@1767225600000000-{shuffled}", name[11:], "camera", shuffled // 3, uri=name, size=shuffled
        )


@pytest.fixture
def store(tmp_path):
    return ObjectStore(str(tmp_path / "checkpoint"))


@settings(max_examples=60)
@given(
    records=st.lists(RECORDS, max_size=40), chunk=st.integers(1, 50), part=st.integers(1, 50), stride=st.integers(1, 9)
)
def test_it_sorts_like_sorted(records, chunk, part, stride):
    store = ObjectStore(f"memory://listing-{id(records)}-{chunk}-{part}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STRIDE", stride)
        patch.setattr(module, "_FAN_IN", 3)
        listing = write_listing(store, records, chunk_rows=chunk, part_rows=part)
        found = list(listing.read(0, len(listing)))
        assert [record.position for record in found] == list(range(len(records)))
        plain = [record._replace(position=-1) for record in found]
        assert sorted(plain, key=repr) == sorted(records, key=repr)
        keys = [(-(2**63) if isinstance(r, BadRecord) else r.event_time, r.coordinate) for r in plain]
        assert keys == sorted(keys)
        for start in range(0, len(records), 5):
            assert list(listing.read(start, min(start + 7, len(records)))) == found[start : start + 7]
    for name in store.names():
        store.delete(name)


def test_order_of_arrival_and_chunks_do_not_change_it(memory_url):
    rows = list(synthetic(3000))
    first = write_listing(ObjectStore(f"{memory_url}/1"), rows, chunk_rows=100, part_rows=1100)
    second = write_listing(ObjectStore(f"{memory_url}/2"), reversed(rows), part_rows=700)
    assert first.fingerprint == second.fingerprint
    assert list(first.read(0, 3000)) == list(second.read(0, 3000))
    other = write_listing(ObjectStore(f"{memory_url}/3"), rows[1:])
    assert other.fingerprint != first.fingerprint


def test_it_is_written_once(store):
    assert Listing.open(store) is None
    first = write_listing(store, synthetic(50), part_rows=20)
    again = write_listing(store, synthetic(80), part_rows=20)
    assert again.fingerprint == first.fingerprint == Listing.open(store).fingerprint
    assert len(again) == 50
    assert len(store.names("listing/")) == 4
    store.write("listing/segment-000000000000 (copy).json", b"what others put there is passed over")
    assert Listing.open(store).fingerprint == first.fingerprint


def test_racing_writers_end_with_one_listing(memory_url):
    store, barrier = ObjectStore(memory_url), threading.Barrier(4)

    def write(i):
        barrier.wait()
        return write_listing(store, synthetic(200 + i), part_rows=50)

    with ThreadPoolExecutor(4) as pool:
        listings = list(pool.map(write, range(4)))
    assert len({listing.fingerprint for listing in listings}) == 1
    assert len(list(listings[0].read(0, len(listings[0])))) == len(listings[0])


def test_what_a_killed_writer_left_is_taken_away(store):
    store.write("listing/000000000000-dead-000000.jsonl", b"half")
    write_listing(store, synthetic(5))
    assert len(store.names("listing/")) == 2


def test_nothing_is_written_when_the_source_fails(store):
    def failing():
        yield from synthetic(10)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_listing(store, failing(), chunk_rows=3)
    assert store.names() == []


def test_reading_touches_only_what_it_needs(store, monkeypatch):
    listing = write_listing(store, synthetic(12_000), part_rows=5000)
    reads = []
    read_range = store.read_range

    def counted(name, start, stop):
        reads.append((name[-12:], stop - start))
        return read_range(name, start, stop)

    monkeypatch.setattr(store, "read_range", counted)
    assert [ref.position for ref in listing.read(7100, 7103)] == [7100, 7101, 7102]
    assert len(reads) == 1
    reads.clear()
    assert len(list(listing.read(4999, 6001))) == 1002
    assert [name for name, _ in reads] == ["000000.jsonl", "000001.jsonl", "000001.jsonl"]


def test_memory_is_bounded_by_the_chunk(store):
    def peak(count):
        tracemalloc.start()
        listing = write_listing(store, synthetic(count), chunk_rows=1000, part_rows=1000)
        total = sum(1 for _ in listing.read(0, len(listing)))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        for name in store.names():
            store.delete(name)
        assert total == count
        return used

    few, many = peak(2000), peak(8000)  # a listing held whole would be four times as much
    assert many < few * 1.5 + 500_000


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 6)])
def test_positions_outside_are_named(store, start, stop):
    listing = write_listing(store, synthetic(5))
    with pytest.raises(ValueError, match="not within a listing of 5 rows"):
        list(listing.read(start, stop))


def test_what_it_refuses(store):
    with pytest.raises(ValueError, match="inline data"):
        write_listing(store, [ImageRef("c", "i", "s", 0, data=b"x")])
    with pytest.raises(ValueError, match="must be >= 1, got 0"):
        write_listing(store, [], chunk_rows=0)
    store.write("listing/segment-000000000000.json", b'{"version": 99}')
    with pytest.raises(SealError, match=r"segment-000000000000\.json is damaged or of another version"):
        Listing.open(store)
