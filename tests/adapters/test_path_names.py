import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_tta.adapters.storage.names import NamePattern, parse_time

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EXPECTED = (datetime(2026, 1, 1, 6, 0, 32, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("2026-01-01T06:00:32Z", 0),
        ("2026-01-01T06:00:32+00:00", 0),
        ("2026-01-01T08:00:32+02:00", 0),
        ("2026-01-01T08-00-32+0200", 0),
        ("2026-01-01T02:30:32-03:30", 0),
        ("2026-01-01T06-00-32.000Z", 0),
        ("2026-01-01T06-00-32.250Z", 250_000),
        ("2026-01-01T06:00:32.123456789Z", 123_456),
        ("2026-01-01t06:00:32z", 0),
        ("2026-01-01 06:00:32", 0),
        ("2026-01-01_06.00.32", 0),
        ("20260101T060032", 0),
        ("20260101T060032Z", 0),
        ("20260101-060032", 0),
        ("20260101060032", 0),
        ("20260101T0600", -32_000_000),
        ("2026-01-01", -(6 * 3600 + 32) * 1_000_000),
        ("20260101", -(6 * 3600 + 32) * 1_000_000),
        ("1767247232", 0),
        ("1767247232.5", 500_000),
        ("1767247232000", 0),
        ("1767247232000001", 1),
        ("1767247232000001999", 1),
    ],
)
def test_spellings_of_a_time(text, offset):
    assert parse_time(text) == EXPECTED + offset


@pytest.mark.parametrize(
    "text",
    ["", "noon", "2026-13-01T00:00:00Z", "2026-02-30", "2026-01-01T25:00:00Z", "2026-01-01T00:00:00+99:00", "12-30",
     "1e9", "-5", "nan", "1.2.3", "1969-12-31T23:59:59Z", "99999999999999999999", "١٧٦٧٢٤٧٢٣٢", "2026-01-01\n"],
)  # fmt: skip
def test_what_is_no_time_is_named(text):
    with pytest.raises(ValueError, match=r"time|offset"):
        parse_time(text)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))
def test_rfc_3339_and_its_compact_spelling_agree(time):
    expected = (time.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    text = time.isoformat(timespec="microseconds") + "Z"
    assert parse_time(text) == parse_time(text.replace(":", "-")) == expected


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert parse_time(text) >= 0


def test_streams():
    default = NamePattern()
    assert default.stream("cam 1/2026/a.jpg") == "cam 1"
    assert default.stream("a.jpg") == "default"
    pattern = NamePattern(stream_pattern=r"^(?P<stream>[^/]+/[^/]+)/")
    assert pattern.stream("site/cam/a.jpg") == "site/cam"
    with pytest.raises(ValueError, match=r"finds no stream in 'a.jpg'"):
        pattern.stream("a.jpg")


def test_times():
    assert NamePattern().time("a.jpg", 5) == 5
    with pytest.raises(ValueError, match="give a time pattern"):
        NamePattern().time("a.jpg", None)
    pattern = NamePattern(time_pattern=r"_(?P<time>[^/]+)\.jpg$")
    assert pattern.time("cam/x_1767247232.jpg", 5) == EXPECTED
    with pytest.raises(ValueError, match="finds no time"):
        pattern.time("cam/x.jpg", 5)


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "not a regular expression"), ("(?P<other>.*)", r"write \(\?P<stream>\.\.\.\)")]
)
def test_bad_patterns_are_named(pattern, message):
    with pytest.raises(ValueError, match=message):
        NamePattern(stream_pattern=pattern)
