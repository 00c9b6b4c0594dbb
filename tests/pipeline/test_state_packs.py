import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_checkpoints import make_plan

from adapters.storage.objects import ObjectStore
from pipeline.state_packs import PackError, PackReader, pack_name, pack_sequence, write_pack

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


def test_idle_streams_move_out_of_old_packs(store):
    old, new = "states/000001-000000000002.pack", "states/000001-000000000005.pack"
    write_pack(store, old, {"idle": b"i", "busy": b"b0"}, {})
    write_pack(store, new, {"recent": b"r"}, {})
    states = {"idle": old, "busy": old, "recent": new}
    reader = PackReader(store)
    assert reader.carried(states, {"busy": b"b1"}, oldest=3) == {"idle": b"i"}
    assert reader.carried(states, {"busy": b"b1"}, oldest=2) == {}
    assert reader.carried(states, {}, oldest=6) == {"idle": b"i", "busy": b"b0", "recent": b"r"}
