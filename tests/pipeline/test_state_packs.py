import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_checkpoints import make_commit, make_plan

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.cache import StateCache
from grpo_tta.pipeline.checkpoint.packs import PackError, PackReader, pack_name, pack_sequence, write_pack
from grpo_tta.schemas import PackRef

NAME = "states/000001-000000000007.pack"


@pytest.fixture
def store(tmp_path):
    return ObjectStore(str(tmp_path / "checkpoint"))


STREAMS = st.dictionaries(st.text(st.characters(exclude_categories=()), max_size=8), st.binary(max_size=50), max_size=6)


@settings(max_examples=40)
@given(STREAMS)
def test_states_and_record_come_back_whatever_their_order(states):
    store = ObjectStore(f"memory://packs-{id(states)}")
    record = {"counters": {"events": 3}, "files": ["labels/a.jsonl"]}
    write_pack(store, NAME, states, record)
    first = store.read(NAME)
    reader = PackReader(store)
    assert sorted(reader.streams(NAME)) == sorted(states)
    assert {stream: reader.read(NAME, stream) for stream in states} == states
    assert reader.record(NAME) == record
    write_pack(store, NAME, dict(reversed(states.items())), record)
    assert store.read(NAME) == first
    store.delete(NAME)


def test_the_name_comes_from_the_plan():
    assert pack_name(make_plan(7, epoch=3)) == "states/000003-000000000007.pack"
    assert pack_sequence(pack_name(make_plan(7, epoch=3))) == 7


def test_a_stream_that_is_not_there_is_named(store):
    write_pack(store, NAME, {"a": b"1"}, {})
    with pytest.raises(PackError, match=r"states/.* holds no state of stream 'b'"):
        PackReader(store).read(NAME, "b")


def test_a_flipped_bit_in_a_state_is_found(store):
    write_pack(store, NAME, {"a": b"first", "b": b"second"}, {})
    data = bytearray(store.read(NAME))
    data[-1] ^= 4
    store.write(NAME, bytes(data))
    reader = PackReader(store)
    assert reader.read(NAME, "a") == b"first"
    with pytest.raises(PackError, match=r"the state of stream 'b' in .* is damaged"):
        reader.read(NAME, "b")


def test_a_pack_cut_anywhere_is_an_error_that_names_it(store):
    write_pack(store, NAME, {"a": b"first", "b": b"second"}, {"files": []})
    whole = store.read(NAME)
    for size in range(len(whole)):
        store.write(NAME, whole[:size])
        with pytest.raises(PackError, match=NAME):
            PackReader(store).read(NAME, "b")


def test_another_file_is_not_taken_for_a_pack(store):
    store.write(NAME, b"PK\x03\x04" + bytes(100))
    with pytest.raises(PackError, match="is not a file of stream states"):
        PackReader(store).streams(NAME)


def run_slices(store, busy, slices, keep=4):
    """Slices of which each steps the streams of ``busy(sequence)``; the last commit and what each carried along."""
    commit, moved = make_commit(0, states={}), []
    for sequence in range(1, slices):
        changed = {stream: f"{stream} {sequence}".encode() for stream in busy(sequence)}
        carried = PackReader(store).carried(commit, changed, sequence, keep)
        name = f"states/000001-{sequence:012d}.pack"
        write_pack(store, name, {**changed, **carried}, {})
        moved.append(carried)
        states = {**commit.states, **dict.fromkeys([*changed, *carried], name)}
        packs = {**commit.packs, name: PackRef(states=len(changed) + len(carried))}
        live = set(states.values())
        commit = make_commit(sequence, states=states, packs={n: count for n, count in packs.items() if n in live})
    return commit, moved


def test_states_that_stay_idle_together_are_not_written_again(store):
    idle = [f"s{number:02d}" for number in range(18)]
    commit, moved = run_slices(store, lambda sequence: idle if sequence == 1 else ["busy"], 60)
    assert moved == [{}] * len(moved)
    assert {commit.states[stream] for stream in idle} == {"states/000001-000000000001.pack"}


@pytest.mark.parametrize("streams", [20, 40])
def test_packs_hold_at_most_four_times_what_is_needed_and_a_few_move_at_a_time(store, streams):
    chance, keep = random.Random(streams), 4
    seen: dict[str, int] = {}

    def busy(sequence):
        stepped = [f"s{number}" for number in range(streams) if chance.random() < 0.1 * (1 + number % 3) / 3]
        seen.update(dict.fromkeys(stepped, sequence))
        return stepped

    commit, moved = run_slices(store, busy, 120, keep)
    assert 0 < max(map(len, moved)) <= streams / 2 + 4
    for stream, name in commit.states.items():
        assert PackReader(store).read(name, stream) == f"{stream} {seen[stream]}".encode()
    old = {name: pack.states for name, pack in commit.packs.items() if pack_sequence(name) <= 120 - 2 * keep}
    needed = sum(name in old for name in commit.states.values())
    assert sum(old.values()) <= 4 * needed + streams, "one pack may wait for room"


def test_a_large_pack_that_empties_slowly_is_emptied_and_holds_up_no_other(store):
    """Once a hundred streams, of which twenty stay idle; then nine busy ones, and a visitor in each slice."""
    crowd, keep = [f"c{number:03d}" for number in range(100)], 4

    def busy(sequence):
        if sequence == 1:
            return crowd
        return [*crowd[20:29], crowd[29 + sequence % 71], f"v{sequence:03d}"]

    commit, _ = run_slices(store, busy, 200, keep)
    old = {name: pack.states for name, pack in commit.packs.items() if pack_sequence(name) <= 200 - 2 * keep}
    needed = sum(name in old for name in commit.states.values())
    assert sum(old.values()) <= 4 * needed
    assert "states/000001-000000000001.pack" not in old


def test_what_was_written_or_read_is_not_fetched_again(store, monkeypatch):
    write_pack(store, NAME, {"a": b"1", "b": b"2"}, {})
    cache = StateCache(most_bytes=2)
    assert PackReader(store, cache).read(NAME, "a") == b"1"
    PackReader(store, cache).remember(NAME, {"b": b"2"})
    monkeypatch.setattr(type(store), "read_range", None)
    assert [PackReader(store, cache).read(NAME, stream) for stream in ("a", "b")] == [b"1", b"2"]
    cache.put("elsewhere", "c", NAME, b"3")
    with pytest.raises(TypeError):
        PackReader(store, cache).read(NAME, "a")


def test_of_a_stream_the_newest_state_alone_is_held():
    cache = StateCache(most_bytes=4)
    cache.put("u", "a", "pack-1", b"1111")
    cache.put("u", "a", "pack-2", b"22")
    assert (cache.get("u", "a", "pack-1"), cache.get("u", "a", "pack-2")) == (None, b"22")
    cache.put("u", "b", "pack-2", b"33")
    assert cache.get("u", "a", "pack-2") == b"22", "there was room for both"
    cache.put("u", "large", "pack-3", b"55555")
    assert all(cache.get("u", stream, "pack-2") is None for stream in ("a", "b"))
    assert cache.get("u", "large", "pack-3") is None, "what is larger than the cache is not held"
