import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_checkpoints import make_plan

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.packs import PackError, PackReader, pack_name, pack_sequence, write_pack

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
    first, second = pack_sequence(old), pack_sequence(new)
    assert reader.carried(states, {"busy", "recent"}, first + 8, 8) == {"idle": b"i"}
    assert reader.carried(states, {}, second + 8, 8) == {"idle": b"i", "busy": b"b0", "recent": b"r"}


@pytest.mark.parametrize("begin", ["all in one pack", "spread"])
def test_idle_streams_are_carried_a_few_at_a_time_and_none_is_left_in_an_old_pack(store, begin):
    keep, streams = 4, [f"s{number:02d}" for number in range(18)]
    names = [f"states/000001-{sequence:012d}.pack" for sequence in range(30)]
    first = [streams, [], [], []] if begin == "all in one pack" else [streams[i::4] for i in range(4)]
    states: dict[str, str] = {}
    for name, part in zip(names, first, strict=False):
        write_pack(store, name, {stream: stream.encode() for stream in part}, {})
        states |= dict.fromkeys(part, name)
    most = []
    for sequence in range(4, 30):
        moved = PackReader(store).carried(states, {}, sequence, keep)
        assert all(data == stream.encode() for stream, data in moved.items())
        write_pack(store, names[sequence], moved, {})
        states |= dict.fromkeys(moved, names[sequence])
        assert min(map(pack_sequence, states.values())) > sequence - keep
        most.append(len(moved))
    assert max(most[keep:]) <= 5
