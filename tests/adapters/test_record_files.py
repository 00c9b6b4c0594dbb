import io
import itertools
import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.parquet import arrow_schema
from grpo_tta.adapters.storage.sink import RecordFiles, file_digest, read_file, read_records
from grpo_tta.schemas import AdaptationLog, ClassProbability, DeadLetter, DriftEvent, LabeledImage, MonitorRecord
from grpo_tta.schemas.monitor import Sample, Shift


def rows(records):
    return [Row.of(record) for record in records]


TIME = datetime(2026, 1, 1, tzinfo=UTC)
FIXED = {"model_fingerprint": "m", "method": "grpo"}


def label(i, **fields):
    return LabeledImage(
        **{
            "coordinate": f"c{i:03d}",
            "id": f"ü {i}",
            "stream": f"s{i % 3}",
            "event_time": TIME + timedelta(seconds=i // 2, microseconds=1),
            "window_start": TIME,
            "window_end": TIME + timedelta(minutes=1),
            "label": "cat",
            "probability": 0.5,
            "top_k": [ClassProbability(label="cat", probability=0.5), ClassProbability(label="dog", probability=0.25)],
            "update_count": i,
            **FIXED,
            **fields,
        }
    )


def log(i, **fields):
    return AdaptationLog(
        **{
            "stream": "s",
            "coordinate": "c",
            "event_time": TIME,
            "window_start": TIME,
            "window_end": TIME,
            "frame": i,
            "frames_since_reset": i,
            "update_count": i,
            **FIXED,
            **fields,
        }
    )


DEAD = [
    DeadLetter(coordinate="c1", stage="fetch", error_class="NotFound", error_message="m", event={"id": "i", "n": [1]}),
    DeadLetter(coordinate="c2", stage="source", error_class="E", error_message="m", event="a line"),
    DeadLetter(coordinate="c3", stage="source", error_class="E", error_message="m", stream="s", event_time=TIME),
]
RECORDS = {
    "labels": [label(i, attributes={"b": "2", "a": "1"} if i % 2 else None, late=i == 3) for i in range(7)],
    "adaptation": [log(1, loss=0.5), log(2, reset=True, cause="shift")],
    "drift": [
        DriftEvent(
            stream="s", coordinate="c", event_time=TIME, frame=3, signal="shift", reset=True, message="m", **FIXED
        )
    ],
    "dead_letters": DEAD,
    "monitor": [
        MonitorRecord(
            bucket_seconds=60,
            coordinate="c",
            settings_fingerprint="f",
            n=3,
            entropy={7: 2, 99: 1},
            labels={"a": 3},
            resets={"shift": 1},
            shifts=[Shift(event_time=TIME, coordinate="c", thousandths=3, reset=False)],
            least_sure=[Sample(coordinate="c", label="a", millionths=5)],
            **FIXED,
            **known,
        )
        for known in ({"stream": "s", "bucket_start": TIME}, {})
    ],
}


@pytest.fixture
def store(tmp_path):
    return ObjectStore(str(tmp_path))


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
@pytest.mark.parametrize("kind", RECORDS)
def test_records_come_back(store, file_format, kind):
    records = RECORDS[kind]
    path, digest = RecordFiles(store, kind, file_format).write("part-0-000", rows(records))
    assert path == f"{kind}/part-0-000.{file_format}"
    with store.open_read(path) as file:
        assert file_digest(file) == digest
    found = list(read_records(store.url, kind, type(records[0])))
    assert len(found) == len(records)
    assert sorted(found, key=str) == sorted(records, key=str)


def test_a_days_folder_may_come_before_the_name(store):
    path, _ = RecordFiles(store, "labels").write("2026-01-31/t-0-000", rows(RECORDS["labels"]))
    assert path == "labels/2026-01-31/t-0-000.jsonl"
    found = list(read_records(store.url, "labels", type(RECORDS["labels"][0])))
    assert sorted(found, key=str) == sorted(RECORDS["labels"], key=str)
    for stem in ("2026-01/t-0", "../t-0", "2026-01-31/", "a/t-0"):
        with pytest.raises(ValueError, match="file name must be"):
            RecordFiles(store, "labels").path(stem)


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_bytes_do_not_depend_on_the_order_of_arrival(store, file_format):
    files = RecordFiles(store, "labels", file_format)
    twins = [label(1), label(1, label="dog"), label(1, label="bird"), label(4)]
    contents = {
        store.read(files.write(f"f{i}", rows(order)).name) for i, order in enumerate(itertools.permutations(twins))
    }
    assert len(contents) == 1


def test_rows_are_sorted_by_stream_time_and_coordinate(store):
    RecordFiles(store, "labels").write("f", rows(reversed(RECORDS["labels"])))
    keys = [(r.stream, r.event_time, r.coordinate) for r in read_records(store.url, "labels", LabeledImage)]
    assert keys == sorted(keys)


def test_an_update_stands_before_the_reset_it_led_to(store):
    update, reset = log(5, images=32), log(5, reset=True, cause="shift")
    RecordFiles(store, "adaptation").write("f", rows([reset, update]))
    assert list(read_records(store.url, "adaptation", AdaptationLog)) == [update, reset]


def test_no_records_no_file(store):
    assert RecordFiles(store, "labels").write("f", []) is None
    assert store.names() == []
    assert list(read_records(store.url, "labels", LabeledImage)) == []


def test_json_lines_are_plain(store):
    name = RecordFiles(store, "labels").write("f", rows([label(1)])).name
    line = json.loads(store.read(name))
    assert line["event_time"] == "2026-01-01T00:00:00.000001Z"
    assert line["id"] == "ü 1"
    assert "frozen_label" not in line
    assert store.read(name).endswith(b"}\n")


def test_the_parquet_schema_follows_from_the_model(store):
    schema = arrow_schema(LabeledImage)
    assert schema.field("event_time").type == pa.timestamp("us", tz="UTC")
    assert not schema.field("event_time").nullable
    assert schema.field("frozen_probability").nullable
    assert schema.field("top_k").type == pa.list_(
        pa.field(
            "item",
            pa.struct([pa.field("label", pa.string(), False), pa.field("probability", pa.float64(), False)]),
            False,
        )
    )
    assert schema.field("attributes").type == pa.map_(pa.string(), pa.string())
    assert schema.field("late").type == pa.bool_()
    assert arrow_schema(DeadLetter).field("event").type == pa.string()
    assert arrow_schema(AdaptationLog).field("cause").type == pa.string()
    name = RecordFiles(store, "labels", "parquet").write("f", rows(RECORDS["labels"])).name
    table = pq.read_table(io.BytesIO(store.read(name)))
    assert table.column("event_time").to_pylist() == sorted_times(RECORDS["labels"])


def sorted_times(records):
    return [record.event_time for record in sorted(records, key=lambda r: (r.stream, r.event_time, r.coordinate))]


def test_files_are_read_in_the_order_of_their_names(store):
    files = RecordFiles(store, "labels")
    for i in (2, 0, 1):
        files.write(f"p-{i}", rows([label(i)]))
    store.write("labels/readme.txt", b"not a record")
    assert [r.update_count for r in read_records(store.url, "labels", LabeledImage)] == [0, 1, 2]


def test_a_broken_line_is_named(store):
    store.write("labels/f.jsonl", RecordFiles(store, "x").path("f").encode() + b"\n")
    with pytest.raises(ValueError, match=r"labels/f.jsonl, line 1"):
        list(read_records(store.url, "labels", LabeledImage))


def parquet(**row):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row]), out)
    return out.getvalue()


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"PAR1" + bytes(40) + b"PAR1", parquet(x=1), parquet(stream="s", label=1)]
)
def test_a_parquet_file_of_no_such_records_is_named_in_a_line(store, data):
    store.write("labels/f.parquet", data)
    for streams in (None, ["s"]):
        with pytest.raises(ValueError, match=r"labels/f.parquet: ") as raised:
            list(read_file(store, "labels/f.parquet", LabeledImage, streams))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda store: RecordFiles(store, "labels", "csv"), "one of jsonl, parquet, got 'csv'"),
        (lambda store: RecordFiles(store, "a/b"), "one plain name, got 'a/b'"),
        (lambda store: RecordFiles(store, "labels").write("../x", []), r"letters, digits.*got '../x'"),
        (lambda store: RecordFiles(store, "labels").write("", []), "got ''"),
    ],
)
def test_bad_names_are_refused(store, build, message):
    with pytest.raises(ValueError, match=message):
        build(store)


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_of_some_streams_only_their_records_are_checked(store, file_format, monkeypatch):
    name = RecordFiles(store, "labels", file_format).write("f", rows([label(i) for i in range(9)])).name
    checked = []
    for way in ("model_validate", "model_validate_json"):
        check = getattr(LabeledImage, way)
        monkeypatch.setattr(LabeledImage, way, lambda one, check=check: checked.append(one) or check(one))
    assert [one.coordinate for one in read_file(store, name, LabeledImage, {"s1", "none"})] == ["c001", "c004", "c007"]
    assert len(checked) == 3


@pytest.mark.parametrize("line", ["no json", "[]", '{"coordinate": "c"}'])
def test_a_line_without_a_stream_is_named_where_streams_are_asked_for(store, line):
    store.write("labels/f.jsonl", line.encode())
    with pytest.raises(ValueError, match="line 1"):
        list(read_file(store, "labels/f.jsonl", LabeledImage, {"s1"}))
