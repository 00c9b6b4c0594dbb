"""Whatever bytes a source holds, there is one event or one dead letter, and all records of it are read back by their
own models: the first rounds of `benchmarks.fuzz_events`, and the cases that failed once."""

import json
from collections import Counter

import pytest

from benchmarks import faulty_pictures
from benchmarks.faulty_pictures import pictures
from benchmarks.fuzz_bytes import TARGETS, Place, kept, run
from benchmarks.fuzz_events import SOURCES, TIMES, Checker, run_pictures, run_round
from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.images import FORMATS
from grpo_tta.adapters.kafka.wire import coordinate_of, decode_record
from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.manifest import read_manifest
from grpo_tta.schemas import DeadLetter

ROUNDS = 34


class Record:
    topic, partition, offset, timestamp, key, headers = "t", 0, 7, 1, b"cam", ()

    def __init__(self, value):
        self.value = value


def line(**fields):
    event = {"schema_version": "1", "id": "i", "stream": "s", "event_time": TIMES[0], "uri": "/d/a.jpg", **fields}
    return json.dumps(event).encode()


ONCE_FAILED = [
    *(line(event_time=time) for time in TIMES[1:5]),
    line(event_time=-62_135_596_800),
    line(event_time=10**30),
    *(line(**{name: "x\ud83d"}) for name in ("id", "stream", "uri", "content_type", "event_time", "extra")),
    line(attributes={"\udcff": "a"}),
    line(attributes={"a": "\ud800"}),
    b"[" * 100_000,
    b'{"a":' * 200_000,
    b'{"id":' + b"9" * 100_000 + b"}",
    b'{"id": NaN, "x": -Infinity, "y": 1e999}',
    b'{"id": "\\u0000", "stream": "\x00"}',
    b"\xff\xfe{\x00}\x00",
]


@pytest.mark.parametrize("text", ONCE_FAILED, ids=lambda text: text[:40].decode(errors="replace"))
def test_what_failed_once_is_an_event_or_a_dead_letter_of_both_sources(tmp_path, text):
    (tmp_path / "m.jsonl").write_bytes(line(id="before") + b"\n" + text + b"\n" + line(id="after") + b"\n")
    before, listed, after = read_manifest(str(tmp_path / "m.jsonl"))
    assert (before.id, after.id) == ("before", "after")
    read = decode_record(Record(text))
    assert type(listed) is type(read)
    assert read.coordinate == coordinate_of("t", 0, 7)
    check = Checker()
    for record in (before, listed, after, read):
        assert check(record) is isinstance(record, ImageRef)


def test_a_record_is_encodable_whatever_its_texts_are():
    letter = DeadLetter(
        coordinate="a\udcff", stage="fetch", error_class="E", error_message="\ud83d", event={"\ud800": ["\udfff"]}
    )
    assert letter.coordinate == "a\\udcff"
    assert Row.of(letter).record() == letter


def test_thousands_of_generated_events(tmp_path):
    counts: Counter[str] = Counter()
    check = Checker()
    for seed in range(ROUNDS):
        run_round(seed, str(tmp_path), counts, check)
    assert sum(counts[source] for source in SOURCES) >= 10_000 * 0.9
    for source in SOURCES:
        accepted = counts[f"{source}: events"] / counts[source]
        assert 0.05 < accepted < 0.9, f"{source}: {accepted:.0%} are events, the generator tests one side only"


def test_the_kept_corpus_stops_nothing(tmp_path):
    place = Place(tmp_path, Checker())
    tried = Counter(run(data, place) for _, data in kept())
    assert tried.keys() == {target.__name__ for target in TARGETS}


def test_a_round_of_damaged_pictures(monkeypatch):
    counts: Counter[str] = Counter()
    for seed in range(3):
        run_pictures(seed, counts)
    assert counts["pictures"] == 3 * len(pictures())
    assert {name.split()[0] for name in pictures()} == set(FORMATS)
    assert min(counts[f"pictures: {said}"] for said in ("the same", "another picture", "refused")) > 0
    monkeypatch.setattr(faulty_pictures, "damaged", lambda data, draw: Damaged())
    with pytest.raises(AssertionError, match=r"seed 9, number .*: !"):
        run_pictures(9, counts)


class Damaged(bytes):
    def __len__(self):
        raise KeyError


def test_a_case_that_fails_tells_its_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(Checker, "written", lambda self, record: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        run_round(3, str(tmp_path), Counter(), Checker())
    assert caught.value.__notes__[0].startswith("seed 3, manifest: ")
