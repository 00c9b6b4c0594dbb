import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_tta.adapters.storage.names import NamePattern
from grpo_tta.adapters.storage.path_times import find
from grpo_tta.adapters.storage.times import holds_date, is_date, parse_time
from grpo_tta.adapters.video.container import SUFFIXES

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
        ("2026:01:01 06:00:32", 0),
        ("20260101.060032", 0),
        ("202601010600", -32_000_000),
        ("2026010106", -32_000_000),
        ("20260101_060032123", 123_000),
        ("2026/01/01/06/00/32", 0),
    ],
)
def test_spellings_of_a_time(text, offset):
    assert parse_time(text) == EXPECTED + offset


NOON = (datetime(2023, 6, 15, 14, 25, 30, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("path", "offset"),
    [
        ("RLC-810A_01_20230615142530.jpg", 0),
        ("192.168.1.64_01_20230615142530123_MOTION_DETECTION.jpg", 123_000),
        ("cam/2023-06-15/001/jpg/14/25/30[M][0@0][0].jpg", 0),
        ("AMC/2023-06-15/pic_001/14.25.30[M][0@0][0].jpg", 0),
        ("PXL_20230615_142530123.MP.jpg", 123_000),
        ("cam/2023-06-15/14-25-30.jpg", 0),
        ("01-20230615142530-00.jpg", 0),
        ("front_door-1686839130.123456-abc123.jpg", 123_456),
        ("Screenshot 2023-06-15 at 14.25.30.png", 0),
        ("2023:06:15 14:25:30.jpg", 0),
        ("Cam1.20230615.142530.jpg", 0),
        ("2023061514253012.jpg", 120_000),
        ("2023/06/15/14/25/30.jpg", 0),
        ("20230615/cam-2/142530.jpg", 0),
        ("20230615/20230615_142530_tp00001.jpg", 0),
        ("1686839130123.jpg", 123_000),
        ("1686839130.5-1686839190.5.mp4", 500_000),
        ("1686800000/1686839130_1686839140.mp4", 0),
        ("202306151425.jpg", -30_000_000),
        ("cam_2023-06-15_14.jpg", -1_530_000_000),
        ("IMG-20230615-WA0001.jpg", -51_930_000_000),
        ("Screenshot 2023-06-15 at 2.25.30 PM.png", 0),
        ("Screenshot 2023-06-15 at 2.25.30\u202fPM.png", 0),
        ("2023-06-15_12-25-30_AM.jpg", -50_400_000_000),
        ("2023-06-15_12-25-30_PM.jpg", -7_200_000_000),
        ("vlcsnap-2023-06-15-14h25m30s123.png", 123_000),
        ("20230615_14h25.jpg", -30_000_000),
        ("2023-06-15T14%3A25%3A30Z.jpg", 0),
        ("2023-06-15/001/dav/14/14.25.30-14.25.40[M].jpg", 0),
        ("cam/2023/06/15/14/25-30.jpg", 0),
        ("2023_0615_142530_001A.JPG", 0),
        ("20230615/images/P23061514253012.jpg", 120_000),
        ("A230615_142530_142541.jpg", 0),
        ("2023-06-15T24:00:00Z.jpg", 34_470_000_000),
        ("2023-06-15T24-00.jpg", 34_470_000_000),
        ("20230615_240000.jpg", 34_470_000_000),
        ("2023-06-15T23:59:60Z.jpg", 34_470_000_000),
        ("2023-06-15T23:59:60.5Z.jpg", 34_470_500_000),
        ("2023-06-16T01:59:60+02:00.jpg", 34_470_000_000),
        ("cam-1-2_2023-06-15_14-25-30.jpg", 0),
        ("1/2/2023/06/15/14-25-30.jpg", 0),
    ],
)
def test_times_as_cameras_write_them(path, offset):
    assert find(path).value == NOON + offset
    assert NamePattern(time_pattern="auto").time(path, None).value == NOON + offset


H, M, S = 3_600_000_000, 60_000_000, 1_000_000


@pytest.mark.parametrize(
    ("path", "offset"),
    [
        ("cam1_2023-06-15_14-25-30_2023-06-15_14-26-00.jpg", 0),
        ("2023-06-15T142530Z_20230615T142540Z.jpg", 0),
        ("2023-06-15_14-25-30-14-26-00.jpg", 0),
        ("20230615142530-0001.jpg", 0),
        ("20230615142530-1234.jpg", 0),
        ("2023-06-15_14-25-30-0075.jpg", 0),
        ("2023-06-15_14-25-30_9.jpg", 0),
        ("2023-06-15_14-25-30_10.jpg", 0),
        ("2023-06-15_14-25-30_123.jpg", 123_000),
        ("20230615_142530_20200101.jpg", 0),
        ("2023-06-15T14-25-30+02.jpg", -2 * H),
        ("2023-06-15T14_25_30+02_00.jpg", -2 * H),
        ("2023-06-15_14-25-30_+0200.jpg", -2 * H),
        ("2023-06-15_14-25-30 +0530.jpg", -5 * H - 30 * M),
        ("20230615T142530+0200.jpg", -2 * H),
        ("20230615_142530GMT+2.jpg", -2 * H),
        ("2023-06-15_14-25-30_UTC.jpg", 0),
        ("2023-06-15T14:25:30-0800.jpg", 8 * H),
        ("2023-06-15T14:25:30.12345678+02:00.jpg", -2 * H + 123_456),
        ("Bildschirmfoto 2023-06-15 um 14.25.30.png", 0),
        ("Capture d\u2019\u00e9cran 2023-06-15 \u00e0 14.25.30.png", 0),
        ("Capture d\u2019e\u0301cran 2023-06-15 a\u0300 14.25.30.png", 0),
        ("Captura de pantalla 2023-06-15 a las 14.25.30.png", 0),
        ("20230615_022530PM.jpg", 0),
        ("2023-06-15 02:25:30 p.m..jpg", 0),
        ("2023-06-15 2.25.30\u00a0p.\u00a0m..jpg", 0),
        ("2023-06-15 0225PM.jpg", -30 * S),
        ("2023-06-15/2.25.30 PM.jpg", 0),
        ("2023-06-15/1686839130.jpg", 0),
        ("2023-06-14_10-00-00/20230615_142530.jpg", 0),
        ("192.168.1.64_2023-06-15-14-25-30.jpg", 0),
    ],
)
def test_what_stands_behind_a_clock_is_read_or_is_a_serial(path, offset):
    assert find(path).value == NOON + offset


@pytest.mark.parametrize(
    "path",
    [
        "1/2023-06-15/1234/00001-capture.jpg", "2023-06-15/000059.jpg", "2023-06-15/000060.jpg",
        "2023-06-15/142530.jpg",
        "20230615/cam/000059.jpg", "IMG_20230615_0042.jpg", "2023-06-15-0001.jpg", "IMG_20230615_17.jpg",
        "2023-06-15-0800.jpg", "2023-06-15+02:00.jpg", "20230615_20230616.jpg", "2023061514253.jpg",
        "2023-06-15/10.20.30.40/i.jpg", "2023-06-15_14.25.30.40.jpg", "2023-06-15_14:25:30:12.jpg",
        "2023-06-15_1-05.jpg", "2023-06-15_14-25-3.jpg", "2023-06-15_25-61-00.jpg", "2023/06/15/14/img.jpg",
        "2023/06/15/01/02.jpg", "2023-06-15/0225PM.jpg", "2023-06-15 \u4e0b\u53482.25.30.png",
        "2023-06-15 gegen 14.25.30.png", "14-25-30_2023-06-15.jpg", "142530_20230615.jpg",
        "2023-06-15/img_14-25-30.jpg",
        "15/06/2023/12/05/30.jpg", "15.06.2023/12/05/30.jpg", "06/15/2023/12/05.jpg", "cam/01/02/2023/10/11/12/i.jpg",
        "15-06-2023/2023/01/02.jpg", "2023-06-15 14-25-30 CEST.jpg", "20230615_142530EST.jpg",
        "2023-06-15_14-25-30_UTC-5.jpg", "2023-06-15_14-25-30-0100.jpg", "20230615T142530-0800.jpg",
        "2023-06-15T14-25-30-08.jpg", "2023-06-15T14:25:30\u221208:00.jpg", "2023-06-15_14-25-30+9999.jpg",
        "20230615_142530+0001.jpg", "2023-06-15_00-25-30_PM.jpg", "2023-06-15_14-00-00/14-25-30.jpg",
        "2023-06-15_14-25-30/exported_20240101_000000/1.jpg", "230110120030.jpg", "cam-4155551234/x.jpg",
        "2023166142530.jpg", "3f1234567890ab.jpg", "123456789.jpg", "cam_1234567890_1686839130.jpg",
        "1686839130-4000000000.jpg",
    ],
)  # fmt: skip
def test_what_may_be_a_clock_and_is_none_of_the_table_is_refused(path):
    with pytest.raises(ValueError, match="by a time pattern"):
        find(path)


def refused(path):
    with pytest.raises(ValueError, match="by a time pattern"):
        NamePattern(time_pattern="auto").time(path, None)
    return True


@pytest.mark.parametrize(
    "between",
    [
        "\ua789",
        "\u2236",
        " ",
        "~",
        "=",
        "+",
        ";",
        "'",
        "\u00b7",
        "\u2013",
        "__",
        "--",
        "/",
        " / ",
        "h/",
        "@",
        "\u3000",
        "x",
    ],
)
@pytest.mark.parametrize("date", ["2023-06-15_", "2023-06-15 ", "2023-06-15T", "20230615T", "20230615", "2023-06-15/"])
def test_no_part_of_a_clock_is_left_unread_whatever_stands_between(date, between):
    if (date, between) == ("2023-06-15/", "/"):
        return
    for clock in (f"14{between}25{between}30", f"14{between}25", f"14{between}25m30s", f"14{between}2530"):
        refused(f"{date}{clock}.jpg")


@pytest.mark.parametrize(
    "path",
    ["2023-06-15_14/25-30.jpg", "2023-06-15 14:25_30.jpg", "20230615_14h25_30.jpg", "2023-06-15T14-25/30.jpg",
     "202306151425/30.jpg", "2023-06-15/14h/25m30s.jpg", "date=2023-06-15/hour=14/minute=25/a.jpg",
     "2023-06-15/P142530.jpg", "2023-06-15/clip_1425.jpg", "2023-06-15/\u0661\u0664.jpg", "2023-06-15/\u5341\u56db.jpg",
     "2023-06-15/14/02-25-30.jpg", "2023-06-15/02/14/25-30.jpg", "2023-06-15_14-00-00/1425.jpg",
     "14h25_2023-06-15.jpg", "2023-06-15_14-00-00/20230615_x/14-25-30.jpg",
     "2023-06-15_14-25-30_2023-06-15_14-26-00_CEST.jpg", "2023-06-1514253000017.jpg"],
)  # fmt: skip
def test_numbers_that_no_camera_is_known_to_count_may_be_of_the_clock(path):
    refused(path)


SEPARATORS = st.text(st.characters(exclude_categories=["L", "N", "Cs"]), max_size=3) | st.text("-_.:/ ", max_size=2)


@given(st.sampled_from(["2023-06-15", "20230615", "2023/06/15"]), SEPARATORS, SEPARATORS, SEPARATORS, SEPARATORS)
def test_between_any_separators_a_clock_is_read_whole_or_refused(date, join, one, two, end):
    path = f"{date}{join or '_'}14{one}25{two}30{end}"
    with contextlib.suppress(ValueError):
        assert NamePattern(time_pattern="auto").time(f"{path}.jpg", None).value == NOON
    for unread in ("PM", "CEST", "\u5348\u5f8c"):
        with contextlib.suppress(ValueError):
            assert NamePattern(time_pattern="auto").time(f"{date}_022530{end}{unread}.jpg", None).value == NOON


@pytest.mark.parametrize(
    "half",
    ["PM", "pm", "(PM)", "p.m.", "\u03bc\u03bc", "CH", "\u4e0b\u5348", "\u7530\u5348\u5f8c", "nachm.", "ma\u00f1ana"],
)
def test_halves_of_a_day_are_read_beside_the_clock_or_refused(half):
    for path in ("20230615/{}/02/25/30", "2023-06-15/{}/02-25-30", "2023-06-15_02-25-30/{}/cam1"):
        refused(path.format(half) + ".jpg")
    for between in (".", "-", "__", " cam ", "~"):
        for clock in ("2023-06-15_02-25-30", "20230615_022530", "2023-06-15 2.25.30", "2023-06-15_02"):
            refused(f"{clock}{between}{half}.jpg")


@pytest.mark.parametrize(
    "zone",
    ["CET", "WET", "WEST", "CAT", "CLT", "CEST", "cest", "ET", "PYT", "CHAST", "MSK", "Europe_Berlin",
     "[Europe_Berlin]", "Eastern Standard Time", "US_Pacific", "(+02:00)", "[-0500]", "_-05", "UTC-5", "\u22120500",
     "\u20130500", "\uff0b2", "p0200", "plus02", " - 05:00"],
)  # fmt: skip
def test_zones_and_offsets_that_are_not_read_are_refused(zone):
    for between in ("_", ".", "__", " cam1 "):
        refused(f"2023-06-15_14-25-30{between}{zone}.jpg")
        refused(f"20230615_142530{between}{zone}_0001.jpg")


@pytest.mark.parametrize(
    "path", ["20230615142530-0500.jpg", "20230615_142530-0100_1.jpg", "2023-06-15_14-25-30-0500_1.jpg"]
)
def test_four_digits_behind_a_minus_that_may_be_an_offset_are_refused(path):
    refused(path)


@pytest.mark.parametrize(
    "path",
    ["cam1_20230615_142530_00017.jpg", "20230615_142530_snapshot.jpg", "2023-06-15_14-25-30_motion.jpg",
     "IMG_20230615_142530_HDR.jpg", "2023-06-15T14-25-30Z-cam3.jpg", "IMG_20230615_142530_BURST001_COVER.jpg",
     "PXL_20230615_142530123.NIGHT.jpg", "2023-06-15_14-25-30_Haust\u00fcr.jpg", "20230615_142530_NF.jpg",
     "20230615_142530_1080p.jpg", "2023-06-15_14-25-30 (2).jpg", "20230615_142530_west.jpg", "20230615_142530_cat.jpg",
     "2023-06-15_14-25-30/frame_00017.jpg", "20230615_142530_a1b2c3d4.jpg", "20230615_142530_FRONT-2.jpg",
     "2023-06-15/cam-2/14-25-30_person.jpg", "\uff12\uff10\uff12\uff13-06-15_14\uff1a25\uff1a30.jpg",
     "2023-06-15_14-25-30 - copy.jpg", "20230615_142530~2.jpg", "2023-06-15_14.25.30_800x600.jpg"],
)  # fmt: skip
def test_what_is_no_part_of_a_time_may_follow(path):
    assert NamePattern(time_pattern="auto").time(path, None).value // S == NOON // S


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_suffix_of_a_video_is_no_part_of_its_time(suffix):
    auto = NamePattern(time_pattern="auto")
    assert auto.time(f"door/2023-06-15_14-25-30{suffix}", None).value == NOON
    assert auto.time(f"door/2023-06-15_14-25-30{suffix.upper()}", None).value == NOON
    assert auto.time(f"door/2023061514{suffix}", None) == (NOON - 25 * M - 30 * S, False)


@pytest.mark.parametrize(
    "path", ["2023061514/frame_00017.jpg", "2023-06-15_14_front.jpg", "cam1_2023-06-15_14_00017.jpg"]
)
def test_an_hour_may_be_followed_by_what_is_counted(path):
    assert NamePattern(time_pattern="auto").time(path, None) == (NOON - 25 * M - 30 * S, False)


@pytest.mark.parametrize(
    "path",
    ["2023-06-15.jpg", "20230615/a.jpg", "2023/06/15.jpg", "IMG-20230615-WA0001.jpg", "2023-06-15/1920x1080/i.jpg",
     "2023-06-15/cam2/img_0001.jpg", "2023-06-15/00001-capture.jpg", "2023-06-15 (2).jpg", "2023-06-15/v1.05/a.jpg"],
)  # fmt: skip
def test_a_day_without_a_clock_is_its_midnight_and_a_guess(path):
    assert find(path) == (NOON - 14 * H - 25 * M - 30 * S, True)


@pytest.mark.parametrize(
    "path",
    ["a.jpg", "cam_12.jpg", "DSC_0001.jpg", "cam-31-12-2023.jpg", "2023-13-15.jpg", "6_15_2023_2_25_30.jpg",
     "cam-15-06-2023-11-25-30.jpg", "5.6.2023.11.25.jpg", "06_05_2023_1125_142530.jpg", "15_6_2023_14_25_30.jpg"],
)  # fmt: skip
def test_names_without_a_time(path):
    with pytest.raises(ValueError, match="say where it is by a time pattern"):
        find(path)


def test_a_date_and_a_time_that_are_apart():
    pattern = NamePattern(time_pattern=r"(?P<date>\d{4}/\d\d/\d\d)/.*/(?P<time>\d\d-\d\d-\d\d)")
    assert pattern.time("2023/06/15/cam/14-25-30.jpg", None).value == NOON


@pytest.mark.parametrize(
    "text",
    ["", "noon", "2026-13-01T00:00:00Z", "2026-02-30", "2026-01-01T25:00:00Z",
     "2026-01-01T24:00:01Z", "2026-01-01T12:00:60Z", "9999-12-31T24:00:00Z", "2026-01-01T00:00:00+99:00", "12-30",
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
    assert default.stream("cam 1/2026/a.jpg").value == "cam 1"
    assert default.stream("a.jpg").value == "default"
    pattern = NamePattern(stream_pattern=r"^(?P<stream>[^/]+/[^/]+)/")
    assert pattern.stream("site/cam/a.jpg").value == "site/cam"
    with pytest.raises(ValueError, match=r"finds no stream in 'a.jpg'"):
        pattern.stream("a.jpg")


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("2026-11-29/cam-17/a.jpg", "cam-17"),
        ("cam-17/2026-11-29/a.jpg", "cam-17"),
        ("2026/11/29/cam-17/a.jpg", "cam-17"),
        ("2026/11/cam-17/a.jpg", "cam-17"),
        ("2026/cam-17/a.jpg", "cam-17"),
        ("20261129/14/cam-17/a.jpg", "cam-17"),
        ("2026_11_29/cam-17/a.jpg", "cam-17"),
        ("2026-11-29_14-00-00/cam-17/a.jpg", "cam-17"),
        ("202611/cam-17/a.jpg", "cam-17"),
        ("site/2026-11-29/cam-17/a.jpg", "site"),
        ("2026-11-29/001/jpg/14/25/30.jpg", "001"),
        ("2026-11-29/07/a.jpg", "07"),
        ("2026-11-29/14/25/a.jpg", "default"),
        ("2026-11-29/a.jpg", "default"),
        ("2026/11/29/a.jpg", "default"),
        ("/cam-17/a.jpg", "cam-17"),
        ("11/a.jpg", "11"),
        ("1234/a.jpg", "1234"),
        ("12345678/a.jpg", "12345678"),
        ("1767247232/a.jpg", "1767247232"),
    ],
)
def test_a_folder_that_is_a_date_is_no_stream(path, stream):
    assert NamePattern().stream(path).value == stream


@pytest.mark.parametrize(
    "folders",
    ["29-11-2026", "29.11.2026", "29_11_2026", "11-29-2026", "2026-333", "2026-W48", "2026W48", "2026-W48-7",
     "Nov-29-2026", "29-Nov-2026", "29 November 2026", "November 29, 2026", "2026-Nov-29", "2026-Nov", "2026/Nov/29",
     "2026/11 November/29", "2026/W48", "2026/KW48", "2026/Q4", "29/11/2026", "11/29/2026",
     "year=2026/month=11/day=29/hour=07",
     "dt=2026-11-29", "date=20261129", "2026-11-29/2026-11-29_14", "2026-11/29"],
)  # fmt: skip
def test_folders_that_are_plainly_of_a_date_are_no_streams(folders):
    assert NamePattern().stream(f"{folders}/cam-17/a.jpg") == ("cam-17", False)
    assert NamePattern().stream(f"{folders}/a.jpg") == ("default", True)


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("images/2026-11-29/cam-17/a.jpg", "images"),
        ("images/year=2026/month=11/cam-17/a.jpg", "images"),
        ("261129/cam-17/a.jpg", "261129"),
        ("29112026/cam-17/a.jpg", "29112026"),
        ("cam_29-11-2026/a.jpg", "cam_29-11-2026"),
        ("2026-11-29/07/a.jpg", "07"),
        ("11/29/cam-17/a.jpg", "11"),
        ("a.jpg", "default"),
    ],
)
def test_a_stream_that_folders_do_not_quite_tell_is_a_guess(path, stream):
    assert NamePattern().stream(path) == (stream, True)


@pytest.mark.parametrize(
    "folder",
    ["2026112914", "29-11-26", "26-11-29", "2026 11 29", "2026\u201311\u201329", "2026\u5e7411\u670829\u65e5",
     "29 novembre 2026", "2026-KW48", "1796050448", "14", "29 novembre", "[29] 11", "\u5341\u4e00\u6708", "Nov",
     "cam-20261129", "\uff12\uff19", "-",
     "KW48", "W48", "Week 48", "stunde=14"],
)  # fmt: skip
def test_a_folder_that_may_be_a_date_is_at_least_a_guess(folder):
    assert NamePattern().stream(f"{folder}/cam-17/a.jpg").guessed


def test_a_stream_that_folders_tell_is_none():
    for path in (
        "cam-17/a.jpg",
        "cam-17/2026/11/29/a.jpg",
        "cam-17/2026-11-29/14/a.jpg",
        "data/cam-17/a.jpg",
        "Nova/a.jpg",
        "marina-2/a.jpg",
    ):
        assert not NamePattern().stream(path).guessed
    assert not NamePattern(stream_pattern="^(?P<stream>default)").stream("default/a.jpg").guessed


def test_names_that_hold_a_date():
    assert all(
        map(holds_date, ["29-11-2026", "cam-Nov-29-2026", "261129", "29112026", "dt=2026-11-29", "cam_2026-W48", "may"])
    )
    assert not any(map(holds_date, ["123456", "cam-1-2", "w48", "day-shift"]))
    assert all(map(holds_date, ["2026-11-29", "cam-2026-11-29", "20261129", "20261129_140000", "2026-11"]))
    assert not any(map(holds_date, ["cam-17", "default", "07", "12345678", "cam1767247232000", "99999999"]))
    assert not is_date("cam-2026-11-29")


def test_times():
    assert NamePattern().time("a.jpg", 5).value == 5
    with pytest.raises(ValueError, match="give a time pattern"):
        NamePattern().time("a.jpg", None)
    pattern = NamePattern(time_pattern=r"_(?P<time>[^/]+)\.jpg$")
    assert pattern.time("cam/x_1767247232.jpg", 5).value == EXPECTED
    with pytest.raises(ValueError, match="finds no time"):
        pattern.time("cam/x.jpg", 5)


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "is no regular expression"), ("(?P<other>.*)", r"write \(\?P<stream>\.\.\.\)")]
)
def test_bad_patterns_are_named(pattern, message):
    with pytest.raises(ValueError, match=message):
        NamePattern(stream_pattern=pattern)
