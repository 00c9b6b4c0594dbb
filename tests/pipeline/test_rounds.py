"""Streams of a slice together: rounds, refills, late events, resets and dead letters of each apart."""

from collections.abc import Iterable, Iterator

import pytest
from pipeline_fakes import CountingMethod, canvas, dump, events, level_of, make_labeler, make_ref, reading, windowed

from grpo_tta.adapters.images import CorruptImage
from grpo_tta.guard import GuardSettings
from grpo_tta.pipeline.label.labeled import Labeled
from grpo_tta.pipeline.label.rounds import Asked
from grpo_tta.state import encode_state

GUARD = GuardSettings(
    on_shift="reset", probe_frames=6, reference_probes=3, collapse_probes=2, cooldown_frames=0, backstop_frames=0
)


class Rounds(CountingMethod):
    """Notes how many images of each stream a step has."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def step_many(self, batches, states):
        self.seen.append([len(batch) for batch in batches])
        return super().step_many(batches, states)


def asked(labeler, counts: Iterable[int], **changes) -> Iterator[Asked]:
    for number, count in enumerate(counts):
        name = f"cam-{number:02d}"
        yield Asked(name, events(count, stream=name), labeler.initial_state(), **changes)


def everything(out: Labeled):
    kinds = (out.labels, out.adaptation, out.drift, out.dead_letters)
    return [dump(kind) for kind in kinds], encode_state(out.state), out.late, out.counters()


def test_a_round_is_filled_from_streams_in_their_order_each_up_to_its_border() -> None:
    method = Rounds(cadence=4)
    labeler = make_labeler(method, max_batch_size=10)
    out = dict(labeler.label_many(asked(labeler, [6, 1, 9, 3])))
    assert method.seen == [[4, 1, 4, 1], [2, 4, 2], [1]]
    assert [(name, len(labeled.labels)) for name, labeled in out.items()] == [
        ("cam-01", 1),
        ("cam-00", 6),
        ("cam-03", 3),
        ("cam-02", 9),
    ]
    assert sum(batch.images for labeled in out.values() for batch in labeled.batches) == 19


@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_every_stream_comes_out_as_it_does_alone_whatever_the_rounds(size: int) -> None:
    def unreadable(ref, repaired):
        if ref.id in ("cam-01/0003.png", "cam-03/0000.png"):
            raise CorruptImage("cut off")
        return canvas(level_of(ref))

    labeler = make_labeler(guard=GUARD, read=unreadable, max_batch_size=size)
    counts = [30, 7, 0, 12, 1, 40]
    together = dict(labeler.label_many(asked(labeler, counts)))
    assert len(together) == len(counts)
    for one in asked(labeler, counts):
        assert everything(together[one.name]) == everything(labeler.label(one.events, one.state)), one.name


def test_the_same_slice_makes_the_same_rounds() -> None:
    seen = []
    for _ in range(2):
        method = Rounds(cadence=5)
        labeler = make_labeler(method, guard=GUARD, max_batch_size=16)
        list(labeler.label_many(asked(labeler, [30, 7, 12, 1, 40])))
        seen.append(method.seen)
    assert seen[0] == seen[1]
    assert max(map(sum, seen[0])) == 16


def test_an_image_at_fault_is_a_dead_letter_of_its_own_stream_alone() -> None:
    method = CountingMethod(fail_at=252)

    def read(ref, repaired):
        return canvas(252 if ref.id == "cam-01/0002.png" else level_of(ref))

    labeler = make_labeler(method, read=read, max_batch_size=12)
    out = dict(labeler.label_many(asked(labeler, [4, 4, 4])))
    assert {name: len(labeled.dead_letters) for name, labeled in out.items()} == {"cam-00": 0, "cam-01": 1, "cam-02": 0}
    assert {name: len(labeled.labels) for name, labeled in out.items()} == {"cam-00": 4, "cam-01": 3, "cam-02": 4}
    (letter,) = out["cam-01"].dead_letters
    assert letter.stage == "step"


def test_late_events_of_many_streams_are_labelled_apart_from_the_others() -> None:
    labeler = make_labeler(max_batch_size=6)
    first = dict(labeler.label_many(asked(labeler, [90, 90, 90])))
    later = []
    for name, labeled in first.items():
        refs = [make_ref(500 + n, name, second=n) for n in range(5)] + [make_ref(n, name) for n in range(90, 97)]
        later.append(Asked(name, windowed(refs), labeled.state, reset=name == "cam-01"))
    out = dict(labeler.label_many(later))
    for one in later:
        assert [label.late for label in out[one.name].labels] == [True] * 5 + [False] * 7
        expected = labeler.label(one.events, one.state, reset=one.reset)
        assert everything(out[one.name]) == everything(expected)
    assert [row.cause for row in out["cam-01"].adaptation if row.reset] == ["manual"]


@pytest.mark.parametrize("what", ["labelled", "unreadable", "late"])
def test_no_more_streams_are_open_than_fill_some_rounds(what: str) -> None:
    opened, done = 0, 0
    errors = {f"cam-{n:02d}/0000.png": CorruptImage("cut off") for n in range(300)} if what == "unreadable" else {}
    labeler = make_labeler(read=reading(errors), max_batch_size=4)
    state = labeler.initial_state()
    if what == "late":
        state = labeler.label(events(1, start=1000), state).state

    def counted() -> Iterator[Asked]:
        nonlocal opened
        for number in range(100):
            opened += 1
            name = f"cam-{number:02d}"
            yield Asked(name, events(1, stream=name), state)
            assert opened - done <= 16

    for _, labeled in labeler.label_many(counted()):
        done += 1
        assert labeled.late == (what == "late")
        assert len(labeled.dead_letters) == (what == "unreadable")
    assert (opened, done) == (100, 100)
