"""`StreamLabeler`: events of streams and their states in, records and the new states out. It knows no Beam.

Streams go through the model together, in rounds (`label.rounds`). While one round is labelled the images of the next
are fetched and decoded in threads. What cannot be read becomes a dead letter and the round is as if it had not been
there. A stream's part of a round ends at the method's cadence and at the guard's probes, so that updates and the
guard's decisions fall on the same frames however the events were batched; its labels depend on the streams beside it by
rounding only. The states given are never modified: an exception leaves the caller with those it had.

Of a round that makes the model raise, the images at fault become dead letters too (`label.isolation`), and the others
are stepped without them; where none is at fault the exception is the caller's.

An event whose time was capped does not make others late. A prediction that is not finite is never a label: the frozen
encoder's stands in for it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
import torch

from grpo_tta.adapters.events import ImageRef, seed_of
from grpo_tta.adapters.images import ImageError
from grpo_tta.adapters.storage.fetch import PermanentFetchError
from grpo_tta.guard import Decision, DriftGuard
from grpo_tta.guard.guarded import Guarded, GuardedMethod
from grpo_tta.pipeline.label.isolation import at_fault, wants_memory
from grpo_tta.pipeline.label.labeled import BatchTiming, Labeled
from grpo_tta.pipeline.label.reader import Canvas, Read, ReadAhead
from grpo_tta.pipeline.label.records import RecordMaker, WindowedRef, dead_letter
from grpo_tta.pipeline.label.rounds import Asked, Lane, Rounds
from grpo_tta.pipeline.windows import Window, Windows
from grpo_tta.schemas import SkipReason
from grpo_tta.state import StreamState, tensor_bytes
from grpo_tta.types import Batch, Method, Prediction, Report, State

_log = logging.getLogger(__name__)

_GREY = 127
Frame = tuple[WindowedRef, Canvas]
Part = tuple[Lane, list[Frame]]
"""Images of one stream."""
T = TypeVar("T")


class StreamLabeler:
    """Labels streams with one read-only model; holds nothing of any stream.

    ``allowed_lateness`` is in microseconds. ``max_batch_size``: images of a round, of all streams together; those
    of two more rounds are decoded ahead. ``readers``: threads.
    """

    def __init__(
        self,
        method: Method,
        guard: DriftGuard,
        make: RecordMaker,
        read: Read,
        windows: Windows,
        *,
        settings_fingerprint: str,
        allowed_lateness: int,
        max_batch_size: int,
        readers: int,
    ) -> None:
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size must be >= 1, got {max_batch_size}")
        if readers < 1:
            raise ValueError(f"readers must be >= 1, got {readers}")
        self.method = method
        self.guard = guard
        self._guarded = GuardedMethod(method, guard)
        self.make = make
        self.load_seconds = 0.0
        """What loading the model took, and how large it is: set by who loaded it, for metrics."""
        self.model_bytes = 0
        self.labelled = 0
        """Images since the process began; for people who watch."""
        self._read = read
        self._windows = windows
        self._settings_fingerprint = settings_fingerprint
        self._allowed_lateness = allowed_lateness
        self._max_batch_size = max_batch_size
        self._readers = readers
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """End the reading threads; the next call of `label` begins new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def initial_state(self) -> StreamState:
        """The state of a stream that nothing was seen of yet; all of them share its tensors, which nobody modifies."""
        method, guard = self._fresh
        return StreamState(
            method=dict(method),
            guard=dict(guard),
            counters={},
            position={},
            fingerprint=self.make.model_fingerprint,
            method_name=self.method.name,
            settings_fingerprint=self._settings_fingerprint,
        )

    @cached_property
    def largest_state_bytes(self) -> int:
        """Of a stream's tensors, the method's and the guard's."""
        return tensor_bytes(self._fresh[0], self.method.most_rows) + self.guard.largest_state_bytes()

    @cached_property
    def _fresh(self) -> tuple[State, State]:
        return self.method.initial_state(), self.guard.initial_state()

    def in_windows(self, refs: Sequence[ImageRef]) -> list[WindowedRef]:
        """One stream's events of a slice, which ascend in time, each with the run that it is in."""
        runs = self._windows.runs([ref.event_time for ref in refs])
        return [WindowedRef(ref, run) for ref, run in zip(refs, runs, strict=True)]

    def label(self, events: Sequence[WindowedRef], state: StreamState, *, reset: bool = False) -> Labeled:
        """`label_many` of one stream."""
        ((_, labeled),) = self.label_many([Asked("", list(events), state, reset)])
        return labeled

    def label_many(self, streams: Iterable[Asked]) -> Iterator[tuple[str, Labeled]]:
        """Step through the events of ``streams``, which are taken as there is room for them in a round; each is given
        out when it is through."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._readers, thread_name_prefix="read-image")
        images = ReadAhead(self._pool, self._read)
        rounds = Rounds(
            streams,
            self._opened,
            self._guarded.room,
            lambda lane, most: _readable(lane, most, images),
            self._max_batch_size,
        )
        try:
            images.begin(rounds.likely([]))
            done: list[Lane] = []
            while (parts := rounds.next()) or (done := list(rounds.done())):
                images.begin(rounds.likely(parts))
                learnt, late, shed = _sorted_out(parts)
                self._done(learnt, self._stepped, self._take_all)
                self._done(late, self._predicted, partial(self._record_unlearnt, late=True))
                self._done(shed, self._predicted, partial(self._record_unlearnt, late=False))
                del learnt, late, shed, parts
                yield from ((lane.name, lane.out) for lane in [*done, *rounds.done()])
                done = []
        finally:
            images.close()

    def _opened(self, asked: Asked) -> Lane:
        """A stream with its events, the late ones first."""
        state, events = asked.state, asked.events
        out = Labeled(replace(state, counters=dict(state.counters), position=dict(state.position)))
        if asked.reset:
            decision, guard_state = self.guard.manual(state.guard)
            after = decision.applied(self.method, state.method)
            placed = self._placed(events[:1], _window(state))
            self._apply(placed, decision, state.method, guard_state, after, out)
        late = self._late(asked)
        placed = self._placed_late(events[:late], _window(state)) + list(events[late:])
        return Lane(asked.name, placed, out, late, asked.shed)

    def _late(self, asked: Asked) -> int:
        """How many of the first events are not to be learnt from."""
        position = asked.state.position
        if "event_time" not in position:
            return 0
        newest = int(position["event_time"])
        if asked.once:
            learnt = (newest, str(position["coordinate"]))
            return sum((event.ref.event_time, event.ref.coordinate) <= learnt for event in asked.events)
        return sum(event.ref.event_time < newest - self._allowed_lateness for event in asked.events)

    def _done(
        self, parts: list[Part], compute: Callable[[list[Part]], T], keep: Callable[[list[Part], T], None]
    ) -> None:
        """``compute`` and then ``keep`` the parts without those of their images that make the model raise. Only
        ``keep`` changes anything."""
        while parts := [(lane, frames) for lane, frames in parts if frames]:
            started = time.monotonic()
            try:
                computed = compute(parts)
            except Exception as error:
                if wants_memory(error):
                    error.add_note(f"max_batch_size is {self._max_batch_size}: a lower one needs less memory")
                _isolate(parts, compute, error)
                continue
            keep(parts, computed)
            canvases = [canvas for _, frames in parts for _, canvas in frames]
            self.labelled += len(canvases)
            size = sum(canvas.nbytes for canvas in canvases)
            parts[0][0].out.batches.append(BatchTiming(len(canvases), size, time.monotonic() - started))
            return

    def _stepped(self, parts: list[Part]) -> list[Guarded]:
        states = [lane.out.state for lane, _ in parts]
        batches = [_batch(frames) for _, frames in parts]
        return self._guarded.step_many(batches, [s.method for s in states], [s.guard for s in states])

    def _take_all(self, parts: list[Part], stepped: list[Guarded]) -> None:
        for (lane, frames), guarded in zip(parts, stepped, strict=True):
            self._take([event for event, _ in frames], guarded, lane.out)

    def _predicted(self, parts: list[Part]) -> list[Prediction]:
        """Of images that are not learnt from."""
        batches = [_batch(frames) for _, frames in parts]
        predictions = self.method.predict_many(batches, [lane.out.state.method for lane, _ in parts])
        return [
            prediction
            if bool(torch.isfinite(prediction.probabilities).all())
            else Prediction(self._guarded.frozen(batch))
            for batch, prediction in zip(batches, predictions, strict=True)
        ]

    def _record_unlearnt(self, parts: list[Part], predictions: list[Prediction], *, late: bool) -> None:
        """Note labels that nothing was learnt from: of late images, or of a partition that is too far behind."""
        for (lane, frames), prediction in zip(parts, predictions, strict=True):
            out, count, events = lane.out, len(frames), [event for event, _ in frames]
            counters, kind = out.state.counters, "late" if late else "shed"
            if late:
                out.late += count
            else:
                out.shed += count
                events = self._advance(events, out.state)
            updates = [counters.get("updates", 0)] * count
            out.labels += self.make.labels(events, prediction, updates, late=late, shed=not late)
            counters[kind] = counters.get(kind, 0) + count

    def _take(self, events: list[WindowedRef], stepped: Guarded, out: Labeled) -> None:
        """Note what a stream's part of a round gave."""
        decision, report = stepped.decision, stepped.report
        self._count_skipped(out.state.method, stepped.method, report, decision, out)
        if decision.serve_frozen and decision.action != "reset":
            report = replace(report, updates=())
        events = self._advance(events, out.state)
        self._record(events, stepped.prediction, report, out, decision)
        self._apply(events, decision, stepped.method, stepped.guard, stepped.after, out)

    def _count_skipped(self, before: State, after: State, report: Report, decision: Decision, out: Labeled) -> None:
        """Updates fall due at multiples of the cadence."""
        cadence = self.method.cadence
        if cadence is None:
            return
        made = 0 if decision.serve_frozen else len(report.updates)
        skipped = int(after["frames"]) // cadence - int(before["frames"]) // cadence - made
        if skipped > 0:
            reason: SkipReason = "ill" if decision.serve_frozen else "method" if report.finite else "nonfinite"
            out.skipped[reason] += skipped

    def _apply(
        self,
        events: Sequence[WindowedRef],
        decision: Decision,
        before: State,
        guard_state: State,
        after: State,
        out: Labeled,
    ) -> None:
        """Note what the guard decided on the last of ``events``, which made the method's state ``after`` of
        ``before``; the state is written last."""
        if decision.action == "reset":
            self._record_reset(events[-1], decision, int(before.get("frames", 0)), out)
        frame = out.state.counters.get("frames", 0)
        out.drift += [self.make.drift(events[-1], found, frame=frame) for found in decision.events]
        out.state = replace(out.state, method=after, guard=guard_state)

    def _placed(self, events: Sequence[WindowedRef], open_session: Window | None) -> list[WindowedRef]:
        """The events in their windows, ``open_session`` being the one before."""
        times, runs = [event.ref.event_time for event in events], [event.window for event in events]
        windows = self._windows.place(times, runs, open_session)
        return [replace(event, window=window) for event, window in zip(events, windows, strict=True)]

    def _placed_late(self, late: Sequence[WindowedRef], open_session: Window | None) -> list[WindowedRef]:
        """The same for late events: those from before the open session make windows of their own."""
        before = sum(open_session is None or event.ref.event_time < open_session[0] for event in late)
        return self._placed(late[:before], None) + self._placed(late[before:], open_session)

    def _advance(self, events: list[WindowedRef], state: StreamState) -> list[WindowedRef]:
        """The events in their windows; notes how far the stream has come."""
        position, placed = state.position, self._placed(events, _window(state))
        position["window_start"], position["window_end"] = placed[-1].window
        position["coordinate"] = placed[-1].ref.coordinate
        times = [event.ref.event_time for event in placed if not event.ref.time_capped]
        if times:
            position["event_time"] = max(int(position.get("event_time", times[-1])), times[-1])
        return placed

    def _record(
        self, events: list[WindowedRef], prediction: Prediction, report: Report, out: Labeled, decision: Decision
    ) -> None:
        counters, warming_up = out.state.counters, decision.warming_up
        before, updates = counters.get("updates", 0), list(report.updates)
        cuts = _ends(updates, int(out.state.method.get("frames", 0)), len(events))
        counts = [before + sum(cut <= i for cut in cuts) for i in range(len(events))]
        out.labels += self.make.labels(events, prediction, counts, ill=decision.serve_frozen)
        frames = counters.get("frames", 0)
        for number, (update, cut) in enumerate(zip(updates, cuts, strict=True), start=1):
            out.adaptation.append(
                self.make.update(
                    events[cut - 1], update, frame=frames + cut, update_count=before + number, warming_up=warming_up
                )
            )
        counters["frames"] = frames + len(events)
        counters["updates"] = before + len(updates)
        out.forward_equivalents += report.forward_equivalents

    def _record_reset(self, event: WindowedRef, decision: Decision, frames_since_reset: int, out: Labeled) -> None:
        counters = out.state.counters
        cause = decision.cause
        if cause is None:
            raise ValueError("a reset decision names its cause, got None")
        counters[f"resets_{cause}"] = counters.get(f"resets_{cause}", 0) + 1
        out.state.position["reset_time"] = event.ref.event_time
        out.state.position["reset_cause"] = cause
        frame = counters.get("frames", 0)
        _log.info("stream %s: reset at frame %d, cause %s", event.ref.stream, frame, cause)
        out.adaptation.append(
            self.make.reset(
                event,
                cause,
                frame=frame,
                frames_since_reset=frames_since_reset,
                update_count=counters.get("updates", 0),
                warming_up=decision.warming_up,
            )
        )


def _sorted_out(parts: list[tuple[Lane, bool, list[Frame]]]) -> tuple[list[Part], list[Part], list[Part]]:
    """A round's images that are learnt from, late ones, and those of a partition that is too far behind."""
    late = [(lane, frames) for lane, is_late, frames in parts if is_late]
    on_time = [(lane, frames) for lane, is_late, frames in parts if not is_late]
    return [part for part in on_time if not part[0].shed], late, [part for part in on_time if part[0].shed]


def _readable(lane: Lane, most: int, images: ReadAhead) -> list[Frame]:
    """The lane's next events whose images can be read, late ones apart; the others go to the dead letters."""
    frames: list[Frame] = []
    stop = lane.late if lane.next < lane.late else len(lane.events)
    images.begin(lane.events[lane.next : lane.next + most])
    while len(frames) < most and lane.next < stop:
        event = lane.events[lane.next]
        lane.next += 1
        try:
            canvas, repairs = images.take(event)
        except (PermanentFetchError, ImageError) as error:
            stage = error.stage if isinstance(error, PermanentFetchError) else "decode_image"
            lane.out.dead_letters.append(dead_letter(event.ref, stage, error))
            images.begin(lane.events[lane.next : lane.next + most - len(frames)])
            continue
        frames.append((event, canvas))
        for kind in repairs:
            lane.out.repaired(kind, event.ref.coordinate)
    return frames


def _isolate(parts: list[Part], compute: Callable[[list[Part]], object], error: Exception) -> None:
    """Take the images at fault out of ``parts``, to the dead letters; raises ``error`` where there is none."""
    places = [(number, frame) for number, (_, frames) in enumerate(parts) for frame in frames]

    def some(chosen: Sequence[int], *, grey: bool = False) -> object:
        kept: dict[int, list[Frame]] = {}
        for place in chosen:
            number, frame = places[place]
            kept.setdefault(number, []).append(_grey(frame) if grey else frame)
        return compute([(parts[number][0], frames) for number, frames in kept.items()])

    bad = at_fault(len(places), some, lambda place: some([place], grey=True), error)
    for place, raised in bad.items():
        number, frame = places[place]
        lane, frames = parts[number]
        event = frame[0].ref
        _log.warning("stream %s: %s cannot be stepped", event.stream, event.coordinate, exc_info=raised)
        lane.out.dead_letters.append(dead_letter(event, "step", raised))
        frames[:] = [own for own in frames if own is not frame]


def _batch(frames: Sequence[Frame]) -> Batch:
    seeds = torch.tensor([seed_of(event.ref.id) for event, _ in frames], dtype=torch.int64)
    return Batch(torch.from_numpy(np.stack([canvas for _, canvas in frames])), seeds)


def _grey(frame: Frame) -> Frame:
    return frame[0], np.full_like(frame[1], _GREY)


def _window(state: StreamState) -> Window | None:
    """The window that the stream's newest step fell into."""
    if "window_start" not in state.position:
        return None
    return int(state.position["window_start"]), int(state.position["window_end"])


def _ends(updates: Sequence[object], frames_before: int, images: int) -> list[int]:
    """For each update, how many of the batch's images came before it (1 to ``images``)."""
    return [min(max(int(getattr(update, "frame")) - frames_before, 1), images) for update in updates]  # noqa: B009
