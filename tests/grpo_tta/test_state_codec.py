"""The codec of a stream's state: everything comes back as it was, and nothing foreign is let in."""

import json
import math
import struct
from dataclasses import replace

import pytest
import torch

from grpo_tta import StreamState, decode_state, encode_state
from grpo_tta.state import ForeignStateError, StateError, StateVersionError, check_state

STATE = StreamState(
    method={
        "theta": torch.tensor([1.5, -0.0, math.nan, math.inf]),
        "frames": 7,
        "rate": 0.1,
        "empty": torch.zeros(0, 3),
    },
    guard={"rows": torch.ones(2, 2, dtype=torch.float16), "statistic": 0.0, "total": 2**60},
    counters={"frames": 7, "resets_shift": 1},
    position={"event_time": 1_700_000_000_000_000, "coordinate": "ä b/1.jpg@3"},
    fingerprint="model",
    method_name="grpo-online",
    settings_fingerprint="settings",
)


def reheaded(data: bytes, **changes: object) -> bytes:
    """The same bytes with another header."""
    (length,) = struct.unpack_from("<Q", data)
    outer = json.loads(data[8 : 8 + length])
    header = {**json.loads(outer["__metadata__"]["header"]), **changes}
    outer["__metadata__"]["header"] = json.dumps(header)
    text = json.dumps(outer).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def test_every_tensor_comes_back_bit_for_bit_and_every_number_with_its_type() -> None:
    again = decode_state(encode_state(STATE))
    for one, two in ((STATE.method, again.method), (STATE.guard, again.guard)):
        assert one.keys() == two.keys()
        for name, value in one.items():
            other = two[name]
            assert type(other) is type(value)
            if isinstance(value, torch.Tensor):
                assert (other.dtype, other.shape) == (value.dtype, value.shape)
                assert other.numpy().tobytes() == value.numpy().tobytes()
            else:
                assert other == value
    plain = {"method": {}, "guard": {}}
    assert replace(again, **plain) == replace(STATE, **plain)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 5e-324, -0.0])
def test_odd_numbers_keep_their_value(value: float) -> None:
    again = decode_state(encode_state(replace(STATE, guard={"statistic": value})))
    assert struct.pack("<d", again.guard["statistic"]) == struct.pack("<d", value)


def test_equal_states_are_equal_bytes_whatever_the_order_they_were_made_in() -> None:
    turned = replace(
        STATE,
        method=dict(reversed(STATE.method.items())),
        guard=dict(reversed(STATE.guard.items())),
        counters=dict(reversed(STATE.counters.items())),
    )
    assert encode_state(turned) == encode_state(STATE)


def test_columns_that_share_memory_are_stored_each() -> None:
    one = torch.arange(6.0)
    state = replace(STATE, method={"a": one, "b": one, "c": one[2:]}, guard={"d": one[:2]})
    again = decode_state(encode_state(state))
    assert all(torch.equal(again.method[name], value) for name, value in state.method.items())
    assert torch.equal(again.guard["d"], one[:2])


def test_a_view_of_a_larger_tensor_is_stored_alone() -> None:
    large = torch.arange(10_000.0).view(100, 100)
    encoded = encode_state(replace(STATE, method={"part": large[:, 3]}))
    assert len(encoded) < 3_000
    assert torch.equal(decode_state(encoded).method["part"], large[:, 3])


@pytest.mark.parametrize(
    "data", [b"", b"1234567", b"\x00" * 64, b"\x80\x04K\x01.", encode_state(STATE)[:-1], encode_state(STATE)[:40]]
)
def test_what_the_codec_did_not_write_is_refused(data: bytes) -> None:
    with pytest.raises(StateError, match="not a stream state"):
        decode_state(data)


def test_of_large_zeros_only_type_and_shape_are_written() -> None:
    zeros, minus = torch.zeros(40, 250, dtype=torch.bfloat16), torch.full((300,), -0.0)
    encoded = encode_state(replace(STATE, method={"grad": zeros, "minus": minus}))
    assert len(encoded) < 3_000
    again = decode_state(encoded).method
    assert (again["grad"].dtype, again["grad"].shape) == (zeros.dtype, zeros.shape)
    assert not again["grad"].any()
    assert torch.signbit(again["minus"]).all()
    for odd in (None, {"method/grad": ["bool_", [3]]}, {"method/grad": ["float32", ["3"]]}, {"method/grad": 3}):
        with pytest.raises(StateError, match="not a stream state"):
            decode_state(reheaded(encoded, zeros=odd))


def test_another_format_is_refused() -> None:
    with pytest.raises(StateError, match="format 'other'"):
        decode_state(reheaded(encode_state(STATE), format="other"))


def test_another_codec_version_is_told_apart_from_rubbish() -> None:
    with pytest.raises(StateVersionError, match="codec version 99, this build reads 5"):
        decode_state(reheaded(encode_state(STATE), version=99))


@pytest.mark.parametrize(
    ("field", "name"), [("fingerprint", "model"), ("method_name", "method"), ("settings_fingerprint", "settings")]
)
def test_a_state_of_another_job_is_foreign(field: str, name: str) -> None:
    check_state(STATE, "model", "grpo-online", "settings")
    with pytest.raises(ForeignStateError, match=f"of another {name}: it has else"):
        check_state(replace(STATE, **{field: "else"}), "model", "grpo-online", "settings")
