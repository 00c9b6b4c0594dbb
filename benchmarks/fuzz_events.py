"""Generated events through what a job does with them: whatever bytes a manifest's line, a Kafka
record or a file's name holds, there is exactly one event or one dead letter, and every record made of it can be
encoded, sorted, and read back by its own model. And small pictures of all formats, damaged: each has its pixels or is
refused by name, within its time; what has no checksums may be another picture.

`benchmarks.fuzz` makes rounds of them for as long as it is told; the tests of `tests/adapters/test_any_event.py` the
first rounds, and the cases that failed once. A case that fails is told with its seed.
"""

import base64
import json
import os
import random
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from kafka.consumer.fetcher import Fetcher
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c
from kafka.structs import TopicPartition

from benchmarks.faulty_pictures import campaign, pictures
from grpo_tta import Prediction
from grpo_tta.adapters.coders import BadRecordCoder, ImageRefCoder, RowCoder
from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.kafka.source import _decoded
from grpo_tta.adapters.kafka.tolerant import tolerant
from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.listing import _from_row, _to_row
from grpo_tta.adapters.storage.manifest import read_line
from grpo_tta.adapters.storage.source import list_source
from grpo_tta.guard import GuardEvent
from grpo_tta.pipeline.graph import KeyByShard
from grpo_tta.pipeline.label.records import MAX_EVENT, RecordMaker, WindowedRef, bad_record, dead_letter
from grpo_tta.pipeline.windows import Windows
from grpo_tta.schemas import WireModel
from grpo_tta.types import Update

TEXTS = (
    "", " ", "a", "cam-1", "\x00", "\x1b[31m", "\u2028", "\x85", "\f", "\r", "\ud83d", "\udcff", "\ufeff", "\uffff",
    "😀", "é", "e\u0301", "a/b", "../x", "/", "//", "a\\b", "%00", "%2e%2e/", "null", "NaN", "'\"`", "=1+1", "x" * 300,
    "ü" * 1100, "y" * 5000, "\x01" * 2000, "-1", "1e999", "s3://b/a.jpg", "s3://u:p@b/a.jpg?sig=1", "http://[::1",
    "file:///etc/x", "m.jsonl#bytes=0-10", "::", "a::b", "\u202eevil", "\u0000\ud800\U0010ffff",
)  # fmt: skip
TIMES = (
    "2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "0999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00", "1969-12-31T23:59:59Z", "0000-01-01T00:00:00Z",
    "10000-01-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T23:59:60Z", "2026-01-01",
    "2026-01-01T00:00:00", "2026-01-01T00:00:00.1234567890123Z", "-0001-01-01T00:00:00Z", "now", "", "P1D",
    "2026-01-01T00:00:00+99:99", "1767225600", "1e18", "-1e18",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**63, 2**64, 10**400, 0.1, 1e308, float("inf"), float("nan"), -0.0, [], {}, [[]],
    {"a": {"b": []}}, [None] * 100,
)  # fmt: skip
BYTES = (
    b"",
    b"\x00",
    b"\xff",
    b"\xff\xd8\xff\xe0",
    b"\xef\xbb\xbf",
    b"{}",
    b"[" * 400,
    b"\xc3\x28",
    b"a" * 3000,
    b"\r\n",
)
NOW = 1_767_225_600_000_000


class Case(NamedTuple):
    """A source, and what it holds."""

    source: str
    data: Any


class Maker:
    """Cases of a seed, one after another."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def text(self) -> str:
        draw = self.draw
        parts = [draw.choice(TEXTS) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
        if draw.random() < 0.2:
            parts.append("".join(chr(draw.randrange(0x110000)) for _ in range(draw.randrange(8))))
        return "".join(parts)

    def event(self) -> dict[str, Any]:
        draw = self.draw
        event: dict[str, Any] = {
            "schema_version": "1", "id": f"i{draw.randrange(99)}", "stream": draw.choice(("cam", "ü", "s" * 256)),
            "event_time": draw.choice((TIMES[0], draw.choice(TIMES))),
            "uri": draw.choice(("a.jpg", "s3://b/a.jpg", "/d/a.jpg")),
        }  # fmt: skip
        if draw.random() < 0.3:
            del event["uri"]
            event["data"] = base64.b64encode(draw.randbytes(draw.randrange(40))).decode()
        if draw.random() < 0.3:
            event["attributes"] = {self.text(): self.text() for _ in range(draw.choice((1, 3, 70)))}
        if draw.random() < 0.2:
            event["content_type"] = draw.choice(("image/jpeg", "Image/PNG", self.text()))
        for _ in range(draw.choice((0, 0, 1, 2))):
            name = draw.choice([*event, "extra", self.text()])
            event[name] = draw.choice((self.text(), draw.choice(VALUES), draw.choice(TIMES)))
        return event

    def json(self) -> bytes:
        """An event, or what was one."""
        draw, ascii_only = self.draw, self.draw.random() < 0.7
        text = json.dumps(self.event(), ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        kind = draw.random()
        if kind < 0.05:
            return draw.choice((b"[", b'{"a":', b"[" * 9 + b'{"id":')) * draw.choice((150, 199, 201, 300, 2000, 30_000))
        if kind < 0.12:
            return b'{"id":' + draw.choice((b"1" * 5000, b"-" * 50, b'"\\ud83d"', b'"\\u0000"', b"1e9999")) + b"}"
        return self.spoilt(text) if kind < 0.3 else text

    def spoilt(self, data: bytes) -> bytes:
        """With some of its bytes changed, left out, doubled or put in."""
        draw, changed = self.draw, bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 8))):
            at = draw.randrange(len(changed) + 1)
            kind = draw.randrange(4)
            if kind == 0:
                changed[at : at + 1] = bytes([draw.randrange(256)])
            elif kind == 1:
                del changed[at : at + draw.choice((1, 1, 20))]
            elif kind == 2:
                changed[at:at] = draw.choice(BYTES)
            else:
                changed[at:at] = changed[at : at + 10]
        return bytes(changed)

    def line(self) -> bytes:
        """Of a manifest: no line's end within, and not blank."""
        line = self.json().replace(b"\n", b" ")
        return line if line.removeprefix(b"\xef\xbb\xbf").strip() else b"{}"

    def record(self) -> dict[str, Any]:
        """Of a topic: key, value, time, headers by their bytes."""
        draw = self.draw

        def some() -> bytes:
            return draw.choice((draw.choice(BYTES), self.text().encode("utf-8", "surrogatepass"), draw.randbytes(5)))

        names = (b"content_type", b"id", b"stream", b"event_time", b"schema_version", b"attribute.a", b"x")
        headers = [
            (draw.choice(names) if draw.random() < 0.9 else some(), None if draw.random() < 0.1 else some())
            for _ in range(draw.randrange(5))
        ]
        value: bytes | None = self.json()
        if draw.random() < 0.5:
            headers.insert(0, (b"content_type", draw.choice((b"image/jpeg", b"Image/JPEG", b"image/"))))
            value = draw.choice((b"\xff\xd8jpeg", some(), None))
        if draw.random() < 0.3:
            headers.append((b"event_time", draw.choice(TIMES).encode()))
        key = draw.choice((b"cam", None, some()))
        return {"key": key, "value": value, "headers": headers, "timestamp": draw.choice((1, -1, 2**62, 10**12))}

    def name(self) -> bytes:
        """Of a file in a folder: no slash, no NUL, at most 200 bytes."""
        draw = self.draw
        stem = draw.choice(
            (draw.randbytes(draw.randrange(1, 30)), self.text().encode("utf-8", "surrogatepass"), b"20230615_142530")
        )
        suffix = draw.choice((b".jpg", b".JPG", b".png", b".jpeg\xff.webp"))
        stem = stem.replace(b"/", b"_").replace(b"\x00", b"_")[:180].lstrip(b".")
        return (stem or b"x") + suffix


class Checker:
    """Makes all records of a case as a job would; raises AssertionError, or whatever the job would have raised."""

    def __init__(self) -> None:
        self.make = RecordMaker(("cat", "dog"), "model", "grpo", top_k=2, min_probability=0.0)
        self.windows = Windows("fixed", 60_000_000, 3_600_000_000)
        self.key = KeyByShard({"p": NOW + 600_000_000}, {"p": 4})
        self.prediction = Prediction(torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]]))
        self.update = Update(1, 1, 1, *[0.5] * 9)

    def __call__(self, record: ImageRef | BadRecord) -> bool:
        """Whether it is an event."""
        if isinstance(record, BadRecord):
            assert BadRecordCoder().decode(BadRecordCoder().encode(record)) == record
            assert _from_row(json.loads(_to_row(record)[2]), record.position) == record
            self.written(bad_record(record))
            return False
        data, listed = record.data, record._replace(data=None)
        assert ImageRefCoder().decode(ImageRefCoder().encode(record)) == record
        back = _from_row(json.loads(_to_row(listed)[2]), record.position)
        assert isinstance(back, ImageRef)
        assert back._replace(data=data) == record
        (ref,) = [item[1] for item in self.key.process(("p", record)) if isinstance(item, tuple)]
        (window,) = self.windows.runs([ref.event_time])
        event = WindowedRef(ref, window)
        for made in (
            *self.make.labels([event], self.prediction, [0], late=False),
            self.make.update(event, self.update, frame=1, update_count=1, warming_up=False),
            self.make.reset(event, "shift", frame=1, frames_since_reset=1, update_count=1, warming_up=False),
            self.make.drift(event, GuardEvent("shift", 2.0, 1.0, 1, True, "it moved"), frame=1),
            self.make.foreign_state(event, "another model", frame=1),
            dead_letter(ref, "fetch", OSError(f"{ref.uri}: not there")),
        ):
            self.written(made)
        return True

    def written(self, record: WireModel) -> None:
        """Encoded and read back by its own model; rows travel and sort."""
        row = Row.of(record)
        assert row.record() == record
        assert RowCoder().decode(RowCoder().encode(row)) == row
        assert b"\n" not in row.value
        row.stream.encode()
        event = getattr(record, "event", None) or ""
        assert len(event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)) <= MAX_EVENT


def manifest(maker: Maker, folder: str, count: int) -> Iterator[tuple[bytes, ImageRef | BadRecord]]:
    """Lines, each with what became of it; inline data is fetched as it is later."""
    lines = [maker.line() for _ in range(count)]
    path = os.path.join(folder, "m.jsonl")
    ends = maker.draw.choice((b"\n", b"\r\n"))
    data = b"\xef\xbb\xbf" + ends.join(lines)
    with open(path, "wb") as file:
        file.write(data)
    found = list(list_source(path))
    assert len(found) == count, f"{len(found)} outcomes of {count} lines"
    for line, record in zip(lines, found, strict=True):
        if isinstance(record, ImageRef) and record.size >= 0 and record.uri is not None:
            start, stop = record.uri.rpartition("=")[2].split("-")
            assert len(read_line(data[int(start) : int(stop)], record.id)) == record.size
        yield line, record


def topic(maker: Maker, folder: str, count: int) -> Iterator[tuple[Any, ImageRef | BadRecord]]:
    """Records as the client library reads them from a broker's bytes, each with what became of it."""
    builder = new_batch(maker.draw.randrange(5))
    records = [maker.record() for _ in range(count)]
    for offset, record in enumerate(records):
        headers = [(name.decode("utf-8", "surrogateescape"), value) for name, value in record["headers"]]
        builder.append(offset, record["timestamp"], record["key"], record["value"], RawNames(headers))
    data = bytearray(builder.build())
    if maker.draw.random() < 0.1:
        at = maker.draw.randrange(61, len(data))
        data[at] ^= 1 << maker.draw.randrange(8)
        if maker.draw.random() < 0.8:
            data[17:21] = struct.pack(">I", calc_crc32c(memoryview(data)[21:]))
    parsed = read_batches(bytes(data))
    found = list(parsed.record_iterator)
    assert sorted({one.offset for one in found}) == [one.offset for one in found]
    assert parsed.next_fetch_offset == count, "the position did not move on"
    for record in found:
        yield records[min(record.offset, count - 1)], _decoded(record)


def new_batch(codec: int = 0) -> DefaultRecordBatchBuilder:
    """One that a producer fills."""
    return DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=2**30,
    )  # fmt: skip


def read_batches(data: bytes) -> Any:
    """What the client library makes of a broker's bytes, read tolerantly."""
    consumer = SimpleNamespace(_fetcher=SimpleNamespace(PartitionRecords=Fetcher.PartitionRecords))
    with tolerant(consumer):
        return consumer._fetcher.PartitionRecords(0, TopicPartition("t", 0), MemoryRecords(data))


class RawNames(list):  # type: ignore[type-arg]
    """Headers whose names are written by their bytes, UTF-8 or not, as another client writes them."""

    def __iter__(self) -> Any:
        for name, value in super().__iter__():
            yield _Name(name), value


class _Name(str):
    def encode(self, *_: Any) -> bytes:
        return super().encode("utf-8", "surrogateescape")


def names(maker: Maker, folder: str, count: int) -> Iterator[tuple[bytes, ImageRef | BadRecord]]:
    """Names of files, each with what became of it."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        wanted = {maker.name() for _ in range(count)}
        for name in wanted:
            with open(os.path.join(os.fsencode(root), name), "wb"):
                pass
        pattern = maker.draw.choice((None, None, "auto", r"(?P<time>[0-9_.-]{4,})", r"^(?P<time>.+)\."))
        found = list(list_source(root, time_pattern=pattern))
        assert len(found) == len(wanted), f"{len(found)} outcomes of {len(wanted)} files"
        for record in found:
            yield record.coordinate.encode(), record


SOURCES: dict[str, Callable[[Maker, str, int], Iterator[tuple[Any, ImageRef | BadRecord]]]] = {
    "manifest": manifest,
    "topic": topic,
    "names": names,
}


def run_round(seed: int, folder: str, counts: Counter[str], checker: Checker, events: int = 100) -> None:
    """``events`` of each source. Raises what a job would have raised, with the seed and the case in a note."""
    maker = Maker(seed)
    for source, make in SOURCES.items():
        case: Any = None
        try:
            for item, record in make(maker, folder, events):
                case = item
                counts[source] += 1
                counts[f"{source}: events"] += checker(record)
        except Exception as error:
            error.add_note(f"seed {seed}, {source}: {case!r:.2000}")
            raise


def run_pictures(seed: int, counts: Counter[str]) -> None:
    """Each small picture of `faulty_pictures` once, of all formats, damaged. Raises AssertionError where one is wrong,
    with its seed."""
    outcomes = campaign(seed, len(pictures()))
    for what, count in outcomes.counts.items():
        said = what.partition(" ")[2]
        counts["pictures"] += count
        counts[f"pictures: {said if said in ('the same', 'another picture') else 'refused'}"] += count
    assert not outcomes.wrong, "\n".join(outcomes.wrong)
