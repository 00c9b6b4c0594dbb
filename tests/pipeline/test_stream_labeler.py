"""One stream's events and state in, records and the new state out."""

import gc
import threading
from dataclasses import replace

import pytest
import torch
from pipeline_fakes import (
    CountingMethod,
    canvas,
    changed,
    dump,
    events,
    level_of,
    make_labeler,
    make_ref,
    reading,
    windowed,
)
from pipeline_tiny_model import CLASSES, blobs, tiny_classifier

from grpo_tta import GrpoSettings, create_method
from grpo_tta.adapters.images import CorruptImage
from grpo_tta.adapters.storage.fetch import ForbiddenByPolicy, NotFound, TransientFetchError
from grpo_tta.guard import GuardSettings
from grpo_tta.pipeline.label.rounds import Asked
from grpo_tta.pipeline.windows import SECOND, Windows
from grpo_tta.schemas import AdaptationLog
from grpo_tta.state import encode_state
from grpo_tta.types import Prediction

GUARD = GuardSettings(
    on_shift="reset",
    probe_frames=4,
    reference_probes=3,
    collapse_probes=2,
    cooldown_frames=0,
    backstop_frames=0,
    regret_threshold=1e9,
)


class Batches(CountingMethod):
    """Notes the sizes of the batches it is given."""

    def __init__(self, **options):
        super().__init__(**options)
        self.sizes = []

    def step(self, batch, state):
        self.sizes.append(len(batch))
        return super().step(batch, state)


def everything(out):
    """All that left the step, as bytes and text."""
    kinds = (out.labels, out.adaptation, out.drift, out.dead_letters)
    return [dump(kind) for kind in kinds], encode_state(out.state), out.forward_equivalents, out.late


def resets(out):
    return [row for row in out.adaptation if row.reset]


def run(labeler, parts):
    """Parts one after another, the state carried through its codec's types."""
    state, outs = labeler.initial_state(), []
    for part in parts:
        outs.append(labeler.label(part, state))
        state = outs[-1].state
    return outs


# ---- batches ----------------------------------------------------------------------------------------------------


def test_batches_are_cut_at_the_cadence_since_the_initial_state():
    method = Batches(cadence=4)
    labeler = make_labeler(method, max_batch_size=3)
    state = labeler.label(events(6), labeler.initial_state()).state
    assert method.sizes == [3, 1, 2]
    labeler.label(events(5, start=6), state)
    assert method.sizes == [3, 1, 2, 2, 3]


def test_without_a_cadence_batches_are_as_large_as_allowed():
    method = Batches(cadence=None)
    make_labeler(method, max_batch_size=5).label(events(12), make_labeler(method).initial_state())
    assert method.sizes == [5, 5, 2]


def test_batches_end_at_the_guards_probes():
    method = Batches(cadence=None)
    labeler = make_labeler(method, replace(GUARD, probe_frames=6), max_batch_size=5)
    labeler.label(events(14), labeler.initial_state())
    assert method.sizes == [5, 1, 5, 1, 2]


@pytest.mark.parametrize("size", [1, 3, 7, 32])
def test_the_size_of_a_batch_changes_nothing_for_exact_arithmetic(size):
    guard = replace(GUARD, shift_lambda=1e9)
    method = CountingMethod(collapse_after=3)
    expected = everything(run(make_labeler(method, guard, max_batch_size=4), [events(70)])[0])
    found = everything(run(make_labeler(method, guard, max_batch_size=size), [events(70)])[0])
    assert found == expected


def test_the_size_of_a_batch_leaves_updates_and_resets_on_their_frames():
    settings = GrpoSettings(update_every=8, group_size=4)
    guard = GuardSettings(probe_frames=6, reference_probes=1000, backstop_frames=30)
    classifier = tiny_classifier()
    outs = {}
    for size in (1, 7, 32):
        labeler = make_labeler(
            create_method("grpo", classifier, settings),
            guard,
            blobs,
            vectors=classifier.class_vectors,
            names=CLASSES,
            max_batch_size=size,
        )
        outs[size] = run(labeler, [events(64)])[0]
    places = {
        size: [
            (row.frame, row.frames_since_reset, row.update_count, row.cause, row.coordinate) for row in out.adaptation
        ]
        for size, out in outs.items()
    }
    assert places[1] == places[7] == places[32]
    assert any(row.reset for row in outs[1].adaptation)
    assert sum(not row.reset for row in outs[1].adaptation) >= 5
    for size in (1, 7):
        for row, other in zip(outs[size].labels, outs[32].labels, strict=True):
            assert (row.coordinate, row.update_count, row.window_start) == (
                other.coordinate,
                other.update_count,
                other.window_start,
            )
            assert row.probability == pytest.approx(other.probability, abs=1e-4)
            gap = other.top_k[0].probability - other.top_k[1].probability
            assert row.label == other.label or gap < 1e-4


def test_stretches_give_what_one_call_gives():
    labeler = make_labeler(guard=replace(GUARD, shift_lambda=1e9))
    whole = run(labeler, [events(40)])[0]
    parts = run(labeler, [events(16), events(7, start=16), events(17, start=23)])
    assert [row for part in parts for row in dump(part.labels)] == dump(whole.labels)
    assert [row for part in parts for row in dump(part.adaptation)] == dump(whole.adaptation)
    assert encode_state(parts[-1].state) == encode_state(whole.state)


def test_no_events_no_change():
    labeler = make_labeler()
    out = labeler.label([], labeler.initial_state())
    assert everything(out) == ([[], [], [], []], encode_state(labeler.initial_state()), 0.0, 0)


@pytest.mark.parametrize("name", ["max_batch_size", "readers"])
def test_a_size_under_one_is_named(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        make_labeler(**{name: 0})


# ---- what cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 3, 6, 10])
def test_an_unreadable_event_leaves_the_batch_as_if_it_had_not_been_there(number):
    classifier = tiny_classifier()

    def labeler(read):
        method = create_method("grpo", classifier, GrpoSettings(update_every=4, group_size=4))
        return make_labeler(method, GUARD, read, vectors=classifier.class_vectors, names=CLASSES)

    def read(ref, repaired):
        if ref.id == f"cam/{number:04d}.png":
            raise CorruptImage("cut off")
        return blobs(ref)

    all_events = events(11)
    found = run(labeler(read), [all_events])[0]
    without = run(labeler(blobs), [all_events[:number] + all_events[number + 1 :]])[0]
    (letter,) = found.dead_letters
    assert (letter.coordinate, letter.stage) == (all_events[number].ref.coordinate, "decode_image")
    assert (letter.error_class, letter.error_message) == ("CorruptImage", "cut off")
    assert dump(found.labels) == dump(without.labels)
    assert dump(found.adaptation) == dump(without.adaptation)
    assert encode_state(found.state) == encode_state(without.state)


def test_every_event_becomes_a_label_or_a_dead_letter():
    errors = {
        "cam/0001.png": NotFound("gone"),
        "cam/0002.png": ForbiddenByPolicy("not allowed"),
        "cam/0005.png": CorruptImage("cut off"),
    }
    labeler = make_labeler(read=reading(errors))
    out = labeler.label(events(9), labeler.initial_state())
    assert [(row.id, row.stage) for row in out.dead_letters] == [
        ("cam/0001.png", "fetch"),
        ("cam/0002.png", "policy"),
        ("cam/0005.png", "decode_image"),
    ]
    assert {row.id for row in out.labels} == {f"cam/{number:04d}.png" for number in (0, 3, 4, 6, 7, 8)}
    counters = out.counters()
    assert (counters.events, counters.labels, counters.dead_letters) == (9, 6, 3)


def test_a_stream_of_unreadable_events_keeps_its_state():
    labeler = make_labeler(read=reading({event.ref.id: NotFound("gone") for event in events(5)}))
    out = labeler.label(events(5), labeler.initial_state())
    assert len(out.dead_letters) == 5
    assert encode_state(out.state) == encode_state(labeler.initial_state())


@pytest.mark.parametrize("error", [TransientFetchError("503"), OSError("unknown"), MemoryError()])
def test_what_is_not_permanent_fails_the_stretch(error):
    labeler = make_labeler(read=reading({"cam/0006.png": error}))
    state = labeler.label(events(5), labeler.initial_state()).state
    before = encode_state(state)
    with pytest.raises(type(error)):
        labeler.label(events(5, start=5), state)
    assert encode_state(state) == before


def test_a_failing_step_leaves_the_state_it_was_given():
    method = CountingMethod()
    labeler = make_labeler(method, GUARD)
    state = labeler.label(events(6), labeler.initial_state()).state
    before = encode_state(state)
    method.fail_always = True
    with pytest.raises(ArithmeticError, match="the step failed"):
        labeler.label(events(10, start=6), state)
    assert encode_state(state) == before
    method.fail_always = False
    again = labeler.label(events(10, start=6), state)
    assert len(again.labels) == 10


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("number", [6, 9, 15])
def test_an_image_that_the_model_cannot_step_is_a_dead_letter_and_the_others_are_labelled(number, late):
    def label(method, seen):
        labeler = make_labeler(method, GUARD, allowed_lateness=0)
        state = labeler.label(events(6), labeler.initial_state()).state
        if late:
            state.position["event_time"] = make_ref(1000).event_time
        return labeler.label(seen, state)

    seen = events(10, start=6)
    out = label(CountingMethod(fail_at=level_of(make_ref(number))), seen)
    without = label(CountingMethod(), [event for event in seen if event.ref != make_ref(number)])
    assert out.labels == without.labels
    assert encode_state(out.state) == encode_state(without.state)
    (letter,) = out.dead_letters
    assert (letter.coordinate, letter.stage) == (make_ref(number).coordinate, "step")
    assert (letter.error_class, letter.error_message) == ("ArithmeticError", "the step failed")


class Odd(CountingMethod):
    """Raises ``error`` in ``call`` at an image of level 3, or at any where ``always``."""

    call = "step"
    error: Exception = ArithmeticError("odd")
    always = False
    left = 10**9

    def _check(self, call, batch):
        if call == self.call and self.left and (self.always or (batch.canvases == level_of(make_ref(3))).any()):
            self.left -= 1
            raise self.error

    def step(self, batch, state):
        self._check("step", batch)
        return super().step(batch, state)

    def predict(self, batch, state):
        self._check("predict", batch)
        return super().predict(batch, state)


def odd(**fields):
    method = Odd()
    for name, value in fields.items():
        setattr(method, name, value)
    return method


OF_TORCH = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")


@pytest.mark.parametrize("error", [MemoryError(), OF_TORCH, torch.OutOfMemoryError("CUDA out of memory")])
def test_want_of_memory_is_no_images_fault(error):
    labeler = make_labeler(odd(error=error))
    with pytest.raises(type(error)):
        labeler.label(events(5), labeler.initial_state())


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_fault_that_passes_fails_the_slice(times):
    labeler = make_labeler(odd(left=times), max_batch_size=4)
    with pytest.raises(ArithmeticError):
        labeler.label(events(8), labeler.initial_state())


def test_a_fault_of_the_call_itself_is_no_late_images_fault():
    labeler = make_labeler(odd(call="predict", always=True), allowed_lateness=0)
    state = labeler.label(events(6), labeler.initial_state()).state
    with pytest.raises(ArithmeticError):
        labeler.label(events(2), state)
    only_step = make_labeler(odd(call="step", always=True), allowed_lateness=0)
    assert len(only_step.label(events(2), state).labels) == 2


def test_an_image_that_even_the_frozen_encoder_cannot_take_is_a_dead_letter():
    method = odd(call="predict")
    step = method.step

    def not_finite(batch, state):
        prediction, after, report = step(batch, state)
        odd_ones = (batch.canvases == level_of(make_ref(3))).flatten(1).any(1)
        return Prediction(prediction.probabilities.masked_fill(odd_ones[:, None], torch.nan)), after, report

    method.step = not_finite
    labeler = make_labeler(method)
    out = labeler.label(events(8), labeler.initial_state())
    assert [letter.coordinate for letter in out.dead_letters] == [make_ref(3).coordinate]
    assert len(out.labels) == 7


def test_images_are_read_ahead_within_a_bound():
    started, release, lock = [], threading.Event(), threading.Lock()

    def read(ref, repaired):
        with lock:
            started.append(ref.id)
        if ref.id == "cam/0000.png":
            assert release.wait(10)
        return canvas(level_of(ref))

    labeler = make_labeler(read=read, max_batch_size=4, readers=3)
    done = threading.Thread(target=lambda: labeler.label(events(60), labeler.initial_state()))
    done.start()
    for _ in range(1000):
        if len(started) >= 8:
            break
        threading.Event().wait(0.005)
    threading.Event().wait(0.05)
    assert len(started) == 8  # the batch that is waited for and the next
    release.set()
    done.join(10)
    assert len(started) == 60


def test_the_readers_end_with_their_labeler():
    labeler = make_labeler(readers=3)
    labeler.label(events(10), labeler.initial_state())
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("read-image")]
    assert mine
    ours = {id(thread) for thread in labeler._pool._threads}
    mine = [thread for thread in mine if id(thread) in ours]
    del labeler
    gc.collect()
    for thread in mine:
        thread.join(5)
        assert not thread.is_alive()


# ---- windows and lateness ---------------------------------------------------------------------------------------


def test_a_late_event_is_labelled_flagged_and_not_learnt_from():
    labeler = make_labeler(allowed_lateness=30 * SECOND)
    state = labeler.label(events(8, start=100), labeler.initial_state()).state
    before = encode_state(state)
    late = [make_ref(500, second=76.9)]
    out = labeler.label(windowed(late), state)
    (label,) = out.labels
    assert label.late
    assert label.update_count == 2
    assert label.label == ("ant", "bee", "cat", "dog")[(level_of(late[0]) + 2) % 4]
    assert out.late == out.counters().late == 1
    assert encode_state(out.state) != before
    assert out.state.counters == {**state.counters, "late": 1}
    assert encode_state(replace(out.state, counters=state.counters)) == before
    assert out.adaptation == out.drift == []


def test_a_shed_stream_is_labelled_flagged_and_goes_on_where_it_was():
    labeler = make_labeler(read=reading({"cam/0110.png": NotFound("gone")}))
    state = labeler.label(events(8, start=100), labeler.initial_state()).state
    asked = [Asked(name, [*windowed([make_ref(500, second=1)]), *events(5, start=108)], state, shed=shed)
             for name, shed in (("a", True), ("b", False))]  # fmt: skip
    out = dict(labeler.label_many(asked))
    shed = out["a"]
    assert [(label.late, label.shed) for label in shed.labels] == [(True, False), *[(False, True)] * 4]
    assert [label.shed for label in out["b"].labels] == [False] * 5
    assert (len(shed.dead_letters), shed.counters().shed, shed.counters().late) == (1, 4, 1)
    assert shed.adaptation == shed.drift == []
    assert (shed.state.method, shed.state.guard) == (state.method, state.guard)
    assert shed.state.position == out["b"].state.position
    again = labeler.label(events(3, start=113), shed.state)
    assert again.state.method["frames"] == int(state.method["frames"]) + 3


def test_as_old_as_allowed_is_not_late():
    labeler = make_labeler(allowed_lateness=30 * SECOND)
    state = labeler.label(events(8, start=100), labeler.initial_state()).state
    out = labeler.label(windowed([make_ref(500, second=77.0)]), state)
    assert [label.late for label in out.labels] == [False]
    assert out.state.method["frames"] == 9
    assert out.state.position["event_time"] == 107 * SECOND


def test_late_events_come_before_the_others_and_both_are_accounted_for():
    labeler = make_labeler(read=reading({"cam/0501.png": NotFound("gone")}))
    state = labeler.label(events(8, start=100), labeler.initial_state()).state
    refs = [make_ref(500, second=1), make_ref(501, second=2), make_ref(502, second=3), *map(make_ref, range(108, 113))]
    out = labeler.label(windowed(refs), state)
    assert [label.late for label in out.labels] == [True, True] + [False] * 5
    assert len(out.dead_letters) == 1
    alone = labeler.label(events(5, start=108), state)
    assert dump(out.labels[2:]) == dump(alone.labels)
    assert out.state.method["sum"] == alone.state.method["sum"]


def test_a_capped_time_makes_nobody_late():
    labeler = make_labeler()
    state = labeler.label(events(8, start=100), labeler.initial_state()).state
    (capped,) = windowed([make_ref(999, second=700)])
    out = labeler.label([changed(capped, time_capped=True)], state)
    assert [(label.late, label.time_capped) for label in out.labels] == [(False, True)]
    assert out.state.position["event_time"] == 107 * SECOND
    assert [label.late for label in labeler.label(events(4, start=108), out.state).labels] == [False] * 4


def test_a_stream_that_began_with_a_capped_time_has_no_newest():
    labeler = make_labeler()
    (capped,) = windowed([make_ref(999, second=700)])
    state = labeler.label([changed(capped, time_capped=True)], labeler.initial_state()).state
    assert "event_time" not in state.position
    assert [label.late for label in labeler.label(events(4), state).labels] == [False] * 4


def test_a_session_that_a_slice_cut_keeps_its_start():
    windows = Windows("session", 10 * SECOND, 1000 * SECOND)
    labeler = make_labeler(windows=windows)
    refs = [make_ref(number) for number in (*range(20), *range(40, 44))]
    whole = windowed(refs, windows)
    state = labeler.label(windowed(refs[:7], windows), labeler.initial_state()).state
    out = labeler.label(windowed(refs[7:], windows), state)
    assert [(row.window_start, row.window_end) for row in out.labels] == [
        (row.window_start, row.window_end) for row in labeler.label(whole, labeler.initial_state()).labels[7:]
    ]
    assert len({row.window_start for row in out.labels}) == 2


@pytest.mark.parametrize("size", [1, 7, 12])
def test_long_sessions_begin_where_they_do_in_one_run(size):
    windows = Windows("session", 10 * SECOND, 60 * SECOND)
    labeler = make_labeler(windows=windows)
    refs = [make_ref(number, second=5 * number) for number in range(30)]
    parts = [windowed(refs[start : start + size], windows) for start in range(0, len(refs), size)]
    (whole,) = run(labeler, [windowed(refs, windows)])
    labels = [label for out in run(labeler, parts) for label in out.labels]
    starts = [label.window_start for label in labels]
    assert starts == [label.window_start for label in whole.labels]
    assert sorted({start.timestamp() for start in starts}) == [0, 60, 120]
    ends = {label.window_start: label.window_end for label in labels}
    assert ends == {label.window_start: label.window_end for label in whole.labels}


def test_late_events_from_before_the_open_session_have_windows_of_their_own():
    windows = Windows("session", 100 * SECOND, 1000 * SECOND)
    labeler = make_labeler(windows=windows)
    state = labeler.label(windowed([make_ref(number) for number in (200, 260, 320)], windows), labeler.initial_state())
    late = windowed([make_ref(500, second=10), make_ref(501, second=90), make_ref(502, second=230)], windows)
    out = labeler.label(late, state.state)
    assert [(row.window_start.timestamp(), row.window_end.timestamp()) for row in out.labels] == [
        (10, 190),
        (10, 190),
        (200, 420),
    ]
    assert out.state.position == state.state.position


def test_a_late_event_within_the_stepped_session_is_logged_with_it():
    windows = Windows("session", 100 * SECOND, 1000 * SECOND)
    labeler = make_labeler(windows=windows)
    state = labeler.label(windowed([make_ref(0), make_ref(60), make_ref(120)], windows), labeler.initial_state()).state
    out = labeler.label(windowed([make_ref(500, second=30)], windows), state)
    (label,) = out.labels
    assert label.late
    assert (label.window_start.timestamp(), label.window_end.timestamp()) == (0, 220)
    assert out.state.position == state.position


# ---- counts, updates, resets ------------------------------------------------------------------------------------


def test_update_counts_are_those_behind_the_label():
    labeler = make_labeler(max_batch_size=3)
    out = run(labeler, [events(10)])[0]
    assert [label.update_count for label in out.labels] == [0] * 4 + [1] * 4 + [2] * 2
    assert [(row.frame, row.update_count, row.coordinate) for row in out.adaptation] == [
        (4, 1, make_ref(3).coordinate),
        (8, 2, make_ref(7).coordinate),
    ]
    expected = [(level_of(make_ref(number)) + number // 4) % 4 for number in range(10)]
    assert [label.label for label in out.labels] == [("ant", "bee", "cat", "dog")[index] for index in expected]
    assert out.forward_equivalents == 40.0


def check_reset(labeler, out, cause, frame):
    """One reset of ``cause`` at ``frame``, to exactly the initial state, counters kept."""
    (reset,) = resets(out)
    assert (reset.cause, reset.frame) == (cause, frame)
    assert out.counters().resets == {cause: 1}
    assert out.state.counters[f"resets_{cause}"] == 1
    assert out.state.counters["frames"] == frame
    assert out.state.counters["updates"] == sum(not row.reset for row in out.adaptation)
    initial = labeler.initial_state()
    blank = replace(initial, guard={}, position=out.state.position, counters=out.state.counters)
    assert encode_state(replace(out.state, guard={})) == encode_state(blank)
    events_of_cause = [event for event in out.drift if event.signal == cause and event.reset]
    assert [event.frame for event in events_of_cause] == [frame]
    return reset


def test_the_log_says_while_the_guard_makes_its_reference():
    guard = replace(GUARD, probe_frames=4, reference_probes=3, shift_lambda=1e9, collapse_threshold=1e9)
    out = run(make_labeler(CountingMethod(), guard), [events(20)])[0]
    assert [(row.frame, row.warming_up) for row in out.adaptation] == [
        (4, True), (8, True), (12, False), (16, False), (20, False),
    ]  # fmt: skip


def test_a_forced_collapse_resets():
    labeler = make_labeler(CountingMethod(collapse_after=0), replace(GUARD, shift_lambda=1e9))
    out = run(labeler, [events(8)])[0]
    reset = check_reset(labeler, out, "collapse", 8)
    assert (reset.frames_since_reset, reset.update_count) == (8, 2)
    again = labeler.label(events(8, start=8), out.state)
    assert resets(again)[0].frame == 16
    assert [label.update_count for label in again.labels] == [2] * 4 + [3] * 4
    assert again.state.counters["resets_collapse"] == 2


def test_a_collapse_of_the_packaged_model_under_a_huge_learning_rate_resets():
    from grpo_tta import load_classifier
    from grpo_tta.demo import pictures, scenes

    classifier = load_classifier()
    drawn = pictures()[0]
    frames = scenes(drawn, [number % len(drawn) for number in range(64)], list(range(64)))
    labeler = make_labeler(
        create_method("grpo", classifier, GrpoSettings(update_every=8, learning_rate=1.0, pull=0.0)),
        GuardSettings(probe_frames=16, collapse_probes=2),
        lambda ref, repaired: frames[int(ref.id[4:8])],
        vectors=classifier.class_vectors,
        names=classifier.class_names,
        max_batch_size=16,
    )
    out = run(labeler, [events(64)])[0]
    assert {row.cause for row in resets(out)} == {"collapse"}
    first = resets(out)[0].frame
    check = run(labeler, [events(first)])[0]
    check_reset(labeler, check, "collapse", first)


def shifted(ref, repaired=None):
    """From image 16 on always of one class."""
    number = int(ref.id[4:8])
    return canvas(number if number < 16 else 2)


def test_a_camera_that_always_shows_the_same_is_no_shift():
    labeler = make_labeler(guard=GUARD, read=lambda ref, repaired: canvas(2))
    out = run(labeler, [events(80)])[0]
    assert out.drift == []
    assert len(out.labels) == 80


def test_a_shift_of_the_input_resets():
    labeler = make_labeler(guard=GUARD, read=shifted)
    check_reset(labeler, run(labeler, [events(28)])[0], "shift", 28)


def test_after_a_shift_the_method_says_what_is_kept():
    class Keeping(CountingMethod):
        def after_shift(self, state, *, reset):
            return {**(self.initial_state() if reset else state), "sum": state["sum"], "updates": 7}

    labeler = make_labeler(Keeping(), guard=GUARD, read=shifted)
    out = run(labeler, [events(28)])[0]
    assert [reset.cause for reset in resets(out)] == ["shift"]
    assert out.state.method["frames"] == 0
    assert out.state.method["sum"] > 0
    noticing = make_labeler(Keeping(), guard=replace(GUARD, on_shift="event"), read=shifted)
    state = run(noticing, [events(28)])[0].state.method
    assert (state["frames"], state["updates"]) == (28, 7)
    collapsing = make_labeler(Keeping(broken_at=5), GUARD)
    assert run(collapsing, [events(8)])[0].state.method["sum"] == 0


def test_a_shift_that_is_only_reported_leaves_the_state():
    labeler = make_labeler(guard=replace(GUARD, on_shift="event"), read=shifted)
    out = run(labeler, [events(32)])[0]
    assert resets(out) == []
    assert [event.signal for event in out.drift] == ["shift"]
    assert not out.drift[0].reset
    assert out.state.method["frames"] == 32


def test_a_prediction_that_is_not_finite_resets_and_the_frozen_label_stands_in():
    labeler = make_labeler(CountingMethod(broken_at=5), GUARD)
    out = run(labeler, [events(8)])[0]
    check_reset(labeler, out, "nonfinite", 8)
    assert [label.label for label in out.labels[4:]] == [label.frozen_label for label in out.labels[4:]]
    assert out.labels[0].label == out.labels[0].frozen_label
    text = resets(out)[0].model_dump_json(exclude_none=True)
    assert AdaptationLog.model_validate_json(text).cause == "nonfinite"


def test_a_late_label_that_is_not_finite_is_the_frozen_ones():
    class Broken(CountingMethod):
        def predict(self, batch, state):
            found = super().predict(batch, state)
            if state["updates"]:
                found.probabilities.fill_(float("nan"))
            return found

    labeler = make_labeler(Broken())
    state = labeler.label(events(8, start=100), labeler.initial_state()).state
    ref = make_ref(500, second=1)
    (label,) = labeler.label(windowed([ref]), state).labels
    assert label.label == ("ant", "bee", "cat", "dog")[level_of(ref) % 4]


def test_where_no_frozen_label_was_made_one_is_when_the_prediction_is_not_finite():
    class Unpaired(CountingMethod):
        def step(self, batch, state):
            prediction, state, report = super().step(batch, state)
            return replace(prediction, frozen=None), state, report

    out = run(make_labeler(Unpaired(broken_at=5), GUARD), [events(8)])[0]
    assert [label.frozen_label for label in out.labels[:4]] == [None] * 4
    names = ("ant", "bee", "cat", "dog")
    assert [label.label for label in out.labels[4:]] == [names[level_of(make_ref(n)) % 4] for n in range(4, 8)]


def test_a_gated_stream_has_frozen_labels_where_it_learns_whatever_the_batches_and_slices():
    classifier = tiny_classifier()
    settings = GrpoSettings(update_every=4, group_size=4, gate_frames=8)
    method = create_method("grpo", classifier, settings)
    options = {"vectors": classifier.class_vectors, "names": CLASSES}
    guard = replace(GUARD, shift_lambda=1e9, collapse_threshold=1e9)
    whole = run(make_labeler(method, guard, blobs, max_batch_size=32, **options), [events(70)])[0]
    learnt = {*range(8), *range(32, 36), *range(64, 68)}
    assert {n for n, label in enumerate(whole.labels) if label.frozen_label is not None} == learnt
    assert [row.frame for row in whole.adaptation] == [4, 8, 36, 68]
    assert whole.forward_equivalents == 70 + 3 * len(learnt)
    cut = run(make_labeler(method, guard, blobs, max_batch_size=3, **options), [events(37), events(33, start=37)])
    assert [label.label for out in cut for label in out.labels] == [label.label for label in whole.labels]
    assert [row.frame for out in cut for row in out.adaptation] == [4, 8, 36, 68]
    assert sum(out.forward_equivalents for out in cut) == whole.forward_equivalents


def test_the_backstop_resets_a_stream_without_a_reference():
    labeler = make_labeler(guard=replace(GUARD, reference_probes=1000, backstop_frames=12))
    out = run(labeler, [events(12)])[0]
    check_reset(labeler, out, "scheduled", 12)


def test_the_backstop_pulls_a_stream_that_is_watched():
    guard = replace(GUARD, shift_lambda=1e9, backstop_frames=20, backstop_pull=0.5)
    labeler = make_labeler(guard=guard)
    out = run(labeler, [events(20)])[0]
    assert resets(out) == []
    assert [(event.signal, event.reset) for event in out.drift] == [("scheduled", False)]
    assert float(out.state.method["sum"]) == sum(level_of(make_ref(number)) for number in range(20)) / 2


def test_an_ill_stream_is_served_by_the_frozen_encoder_and_learns_nothing():
    guard = replace(GUARD, shift_lambda=1e9, cooldown_frames=8)
    labeler = make_labeler(CountingMethod(collapse_after=1), guard)
    out = run(labeler, [events(48)])[0]
    assert [row.frame for row in resets(out)] == [16, 32, 48]
    assert [event.signal for event in out.drift] == ["collapse"] * 3 + ["ill"]
    ill = labeler.label(events(76, start=48), out.state)
    assert all(label.label == label.frozen_label for label in ill.labels)
    assert ill.adaptation == []
    assert out.counters().updates_skipped == {"ill": 1}  # of the batch that made it so
    assert ill.counters().updates_skipped == {"ill": 19}
    assert {label.update_count for label in ill.labels} == {12}
    assert ill.state.method["sum"] == 0
    well = labeler.label(events(8, start=124), ill.state)
    assert any(not row.reset for row in well.adaptation)


def test_a_disabled_guard_resets_nothing():
    out = run(make_labeler(CountingMethod(collapse_after=1, broken_at=30)), [events(64)])[0]
    assert resets(out) == out.drift == []
    assert len(out.labels) == 64


def test_tensors_of_the_given_state_are_not_written_to():
    labeler = make_labeler(guard=GUARD)
    state = labeler.label(events(5), labeler.initial_state()).state
    tensors = {name: value.clone() for name, value in state.guard.items() if isinstance(value, torch.Tensor)}
    labeler.label(events(30, start=5), state)
    for name, value in tensors.items():
        assert torch.equal(state.guard[name], value)
