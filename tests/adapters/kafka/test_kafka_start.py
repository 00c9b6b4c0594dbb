from datetime import UTC, datetime

import pytest

from grpo_tta.adapters.kafka.errors import OffsetOutOfRange
from grpo_tta.adapters.kafka.positions import SkippedRange, Start, check_policy, in_range


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("committed", Start("committed")),
        ("earliest", Start("earliest")),
        ("latest", Start("latest")),
        ("timestamp:2026-01-01T01:00:00+01:00", Start("timestamp", datetime(2026, 1, 1, tzinfo=UTC))),
        ("a-b-0=12,a-b-1=0", Start("explicit", offsets={"a-b-0": 12, "a-b-1": 0})),
    ],
)
def test_where_to_start(text, expected):
    assert Start.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "start must be committed, earliest"),
        ("Latest", "start must be committed, earliest"),
        ("timestamp:", "expected timestamp:RFC3339"),
        ("timestamp:2026-01-01T00:00:00", "expected timestamp:RFC3339 with an offset"),
        ("timestamp:0001-01-01T00:00:00+14:00", "expected timestamp:RFC3339"),
        ("a-0=1,", "expected TOPIC-PARTITION=OFFSET, got ''"),
        ("a-0=-1", "expected TOPIC-PARTITION=OFFSET, got 'a-0=-1'"),
        ("a=1", "expected TOPIC-PARTITION, got 'a'"),
        ("a-0=1,a-0=2", "names partition a-0 twice"),
    ],
)
def test_what_is_no_start(text, message):
    with pytest.raises(ValueError, match=message):
        Start.parse(text)


def test_explicit_offsets_must_name_every_partition():
    start = Start.parse("a-0=1,a-1=2,b-0=3")
    assert start.explicit(["a-1", "a-0"]) == {"a-1": 2, "a-0": 1}
    with pytest.raises(ValueError, match=r"no offset for a-2, c-0: give one for every partition"):
        start.explicit(["a-0", "a-2", "c-0"])


@pytest.mark.parametrize(
    ("wanted", "policy", "resumed"),
    [
        (10, "fail", None),
        (20, "fail", None),
        (15, "latest", None),
        (9, "earliest", 10),
        (9, "latest", 20),
        (21, "earliest", 10),
        (21, "latest", 20),
    ],
)
def test_positions_and_the_policy(wanted, policy, resumed):
    jump = in_range("a-0", wanted, 10, 20, policy)
    assert jump == (None if resumed is None else SkippedRange("a-0", wanted, resumed, 10, 20))


@pytest.mark.parametrize("wanted", [9, 21])
def test_the_policy_fail_names_partition_position_and_range(wanted):
    with pytest.raises(
        OffsetOutOfRange, match=f"partition a-0: position {wanted} is not there, the log holds 10 to 20"
    ):
        in_range("a-0", wanted, 10, 20, "fail")


def test_what_was_skipped_is_said():
    assert "3 positions are lost" in SkippedRange("a-0", 7, 10, 10, 20).message()
    assert "made anew" in SkippedRange("a-0", 50, 0, 0, 20).message()


def test_an_unknown_policy():
    with pytest.raises(ValueError, match="must be fail, earliest or latest, got 'none'"):
        check_policy("none")
