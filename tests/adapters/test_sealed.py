"""A sealed file is read back as it was, or not at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_tta.adapters.storage.sealed import FORMAT, NOTHING, SealError, digest_of, seal, seal_json, unseal

NAME = "commits/000001-000000000007.json"


@settings(max_examples=60)
@given(st.binary(max_size=80), st.sampled_from([NOTHING, "ab" * 16]), st.data())
def test_any_damage_is_found_and_names_the_file(body, after, data):
    whole = seal(NAME, body, after)
    sealed = unseal(NAME, whole, "/checkpoint")
    assert (sealed.body, sealed.after, sealed.digest) == (body, after, digest_of(whole))
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = {
        "flipped": whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :],
        "cut": whole[:at],
        "longer": whole + data.draw(st.binary(min_size=1, max_size=9)),
        "of another name": seal(NAME.replace("7", "8"), body, after),
        "on top of another": whole.replace(after.encode(), b"cd" * 16),
    }
    for how, bytes_of in damaged.items():
        with pytest.raises(SealError, match=NAME) as raised:
            unseal(NAME, bytes_of, "/checkpoint")
        assert "/checkpoint" in str(raised.value), how


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"schema_version":"1","epoch":1,"sequence":0}', "written by a version before"),
        (b"GTTAPK01" + bytes(40), "written by a version before"),
        (seal_json(NAME, {}).replace(FORMAT.encode(), b"grpo-tta/9"), "its format is 'grpo-tta/9'"),
        (b"", "is not what was written"),
        (b'{"after":"\xf0\x9f\x92\xa9"', "is not what was written"),
    ],
)
def test_another_version_is_refused_with_the_way_out(data, says):
    with pytest.raises(SealError, match=says) as raised:
        unseal(NAME, data, "/checkpoint")
    assert "--checkpoint" in str(raised.value)
