"""`StreamLabeler`: events of one stream and its state in, records and the new state out. It knows no Beam.

Images are fetched and decoded in threads while the model works on the batch before. What cannot be read becomes a
dead letter and the batch is as if it had not been there. Batches are cut at the method's cadence and at the guard's
probes, so that updates and the guard's decisions fall on the same frames however the events were batched. The state
given is never modified: an exception leaves the caller with the state it had.

Of a batch that makes the model raise, the images at fault become dead letters too (`label.isolation`), and the others
are stepped as if those had not been there; where none is at fault the exception is the caller's.

An event whose time was capped does not make others late. A prediction that is not finite is never a label: the frozen
encoder's stands in for it.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from grpo_tta.adapters.events import ImageRef, seed_of
from grpo_tta.adapters.images import ImageError
from grpo_tta.adapters.storage.fetch import PermanentFetchError
from grpo_tta.guard import Decision, DriftGuard
from grpo_tta.pipeline.label.isolation import at_fault
from grpo_tta.pipeline.label.reader import Canvas, Read, ReadAhead
from grpo_tta.pipeline.label.records import RecordMaker, WindowedRef, dead_letter
from grpo_tta.pipeline.windows import Window, Windows
from grpo_tta.schemas import AdaptationLog, Counters, DeadLetter, DriftEvent, LabeledImage, SkipReason
from grpo_tta.state import StreamState
from grpo_tta.types import Batch, Method, Prediction, Report, State

_log = logging.getLogger(__name__)

_GREY = 127


T = TypeVar("T")


class BatchTiming(NamedTuple):
    """One batch through the model."""

    images: int
    bytes: int
    """Of its canvases."""
    seconds: float


class _Stepped(NamedTuple):
    """A batch through method and guard."""

    prediction: Prediction
    """What labels come from."""
    method_state: State
    report: Report
    decision: Decision
    guard_state: State


@dataclass
class Labeled:
    """What some of one stream's events became. ``labels`` and ``dead_letters`` together are the events."""

    state: StreamState
    labels: list[LabeledImage] = field(default_factory=list)
    adaptation: list[AdaptationLog] = field(default_factory=list)
    drift: list[DriftEvent] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    forward_equivalents: float = 0.0
    late: int = 0
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    """Updates that were due and not made, by reason."""
    batches: list[BatchTiming] = field(default_factory=list)

    def counters(self) -> Counters:
        """Their totals."""
        return Counters(
            events=len(self.labels) + len(self.dead_letters),
            labels=len(self.labels),
            dead_letters=len(self.dead_letters),
            updates=sum(not row.reset for row in self.adaptation),
            late=self.late,
            updates_skipped=dict(self.skipped),
            drift_events=Counter(event.signal for event in self.drift),
            resets=Counter(row.cause for row in self.adaptation if row.cause is not None),
            forward_equivalents=self.forward_equivalents,
        )


class StreamLabeler:
    """Labels streams with one read-only model; holds nothing of any stream.

    ``allowed_lateness`` is in microseconds. ``read_ahead`` bounds the decoded images in memory, ``readers`` the
    threads.
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
        self._read_ahead = 2 * max_batch_size + readers
        self._readers = readers
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """End the reading threads; the next call of `label` begins new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def initial_state(self) -> StreamState:
        """The state of a stream that nothing was seen of yet."""
        return StreamState(
            method=self.method.initial_state(),
            guard=self.guard.initial_state(),
            counters={},
            position={},
            fingerprint=self.make.model_fingerprint,
            method_name=self.method.name,
            settings_fingerprint=self._settings_fingerprint,
        )

    def in_windows(self, refs: Sequence[ImageRef]) -> list[WindowedRef]:
        """One stream's events of a slice, which ascend in time, each with the run that it is in."""
        runs = self._windows.runs([ref.event_time for ref in refs])
        return [WindowedRef(ref, run) for ref, run in zip(refs, runs, strict=True)]

    @contextmanager
    def reading(self, refs: Iterable[ImageRef]) -> Iterator[ReadAhead]:
        """Read the images of ``refs`` ahead, whosever they are: `label` is then called with them in that order."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._readers, thread_name_prefix="read-image")
        ahead = ReadAhead(self._pool, self._read, refs, self._read_ahead)
        try:
            yield ahead
        finally:
            ahead.close()

    def label(
        self,
        events: Sequence[WindowedRef],
        state: StreamState,
        *,
        reset: bool = False,
        images: ReadAhead | None = None,
    ) -> Labeled:
        """Step through ``events``, which are one stream's in order of (event time, coordinate).

        ``reset``: before the first of them, as asked for from outside; its log record names that event. ``images``: of
        these events, and of others behind them; by default their own.
        """
        if images is None:
            with self.reading(event.ref for event in events) as images:
                return self.label(events, state, reset=reset, images=images)
        out = Labeled(replace(state, counters=dict(state.counters), position=dict(state.position)))
        if reset:
            decision, guard_state = self.guard.manual(state.guard)
            self._apply(self._placed(events[:1], _window(state)), decision, state.method, guard_state, out)
        newest = state.position.get("event_time")
        on_time = events
        if newest is not None:
            horizon = int(newest) - self._allowed_lateness
            late = [event for event in events if event.ref.event_time < horizon]
            on_time = events[len(late) :]
            late = self._placed_late(late, _window(state))
            self._run(late, images, out, lambda: self._max_batch_size, self._predicted, self._record_late)
        self._run(on_time, images, out, lambda: self._next_cut(out.state), self._stepped, self._take)
        return out

    def _next_cut(self, state: StreamState) -> int:
        limit, cadence = self._max_batch_size, self.method.cadence
        if cadence is not None:
            limit = min(limit, cadence - int(state.method.get("frames", 0)) % cadence)
        if self.guard.settings.enabled:
            probe = self.guard.settings.probe_frames
            limit = min(limit, probe - int(state.guard.get("frames", 0)) % probe)
        return limit

    def _run(
        self,
        events: Sequence[WindowedRef],
        images: ReadAhead,
        out: Labeled,
        limit: Callable[[], int],
        compute: Callable[[Batch, StreamState], T],
        keep: Callable[[list[WindowedRef], T, Labeled], None],
    ) -> None:
        """``compute`` and then ``keep`` readable images in batches of at most ``limit()``, asked at each; the rest goes
        to the dead letters. Only ``keep`` changes anything."""
        batch: list[WindowedRef] = []
        canvases: list[Canvas] = []
        for event in events:
            try:
                canvas = images.take(event.ref)
            except (PermanentFetchError, ImageError) as error:
                stage = error.stage if isinstance(error, PermanentFetchError) else "decode_image"
                out.dead_letters.append(dead_letter(event.ref, stage, error))
                continue
            batch.append(event)
            canvases.append(canvas)
            if len(batch) >= limit() and self._done(batch, canvases, out, compute, keep):
                batch, canvases = [], []
        while batch and not self._done(batch, canvases, out, compute, keep):
            pass

    def _done(
        self,
        events: list[WindowedRef],
        canvases: list[Canvas],
        out: Labeled,
        compute: Callable[[Batch, StreamState], T],
        keep: Callable[[list[WindowedRef], T, Labeled], None],
    ) -> bool:
        """Whether the batch is done; if not, those that make the model raise have left it for the dead letters, and it
        may be filled up."""
        started = time.monotonic()
        try:
            computed = compute(self._batch(events, canvases), out.state)
        except Exception as error:
            bad = at_fault(
                len(events),
                lambda some: compute(self._batch([events[i] for i in some], [canvases[i] for i in some]), out.state),
                lambda: compute(self._batch(events[:1], [np.full_like(canvases[0], _GREY)]), out.state),
                error,
            )
            for place, raised in sorted(bad.items(), reverse=True):
                ref = events[place].ref
                _log.warning("stream %s: %s cannot be stepped", ref.stream, ref.coordinate, exc_info=raised)
                out.dead_letters.append(dead_letter(ref, "step", raised))
                del events[place], canvases[place]
            return False
        keep(events, computed, out)
        self.labelled += len(events)
        size = sum(canvas.nbytes for canvas in canvases)
        out.batches.append(BatchTiming(len(events), size, time.monotonic() - started))
        return True

    def _batch(self, events: list[WindowedRef], canvases: list[Canvas]) -> Batch:
        seeds = torch.tensor([seed_of(event.ref.id) for event in events], dtype=torch.int64)
        return Batch(torch.from_numpy(np.stack(canvases)), seeds)

    def _predicted(self, batch: Batch, state: StreamState) -> Prediction:
        """Of late images."""
        prediction = self.method.predict(batch, state.method)
        if not bool(torch.isfinite(prediction.probabilities).all()):
            return Prediction(self._frozen(batch))
        return prediction

    def _record_late(self, events: list[WindowedRef], prediction: Prediction, out: Labeled) -> None:
        counts = [out.state.counters.get("updates", 0)] * len(events)
        out.labels += self.make.labels(events, prediction, counts, late=True)
        out.late += len(events)
        out.state.counters["late"] = out.state.counters.get("late", 0) + len(events)

    def _frozen(self, batch: Batch) -> Tensor:
        """Probabilities ``[B, C]`` of a method that has learnt nothing, which are the frozen encoder's."""
        return self.method.predict(batch, self.method.initial_state()).probabilities

    def _stepped(self, batch: Batch, state: StreamState) -> _Stepped:
        """Method and guard over a batch."""
        prediction, method_state, report = self.method.step(batch, state.method)
        decision, guard_state = self.guard.step(report, state.guard)
        finite = bool(torch.isfinite(prediction.probabilities).all())
        if decision.serve_frozen or not finite:
            frozen = prediction.frozen if prediction.frozen is not None else self._frozen(batch)
            prediction = Prediction(frozen, frozen)
        return _Stepped(prediction, method_state, report, decision, guard_state)

    def _take(self, events: list[WindowedRef], stepped: _Stepped, out: Labeled) -> None:
        """Note what a batch gave."""
        _, method_state, report, decision, guard_state = stepped
        self._count_skipped(out.state.method, method_state, report, decision, out)
        if decision.serve_frozen and decision.action != "reset":
            report = replace(report, updates=())
        events = self._advance(events, out.state)
        self._record(events, stepped.prediction, report, out, warming_up=decision.warming_up)
        self._apply(events, decision, method_state, guard_state, out)

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
        self, events: Sequence[WindowedRef], decision: Decision, method_state: State, guard_state: State, out: Labeled
    ) -> None:
        """Do what the guard decided on the last of ``events``, and note it; the state is written last."""
        if decision.action == "reset":
            self._record_reset(events[-1], decision, int(method_state.get("frames", 0)), out)
        method_state = decision.applied(self.method, method_state)
        frame = out.state.counters.get("frames", 0)
        out.drift += [self.make.drift(events[-1], found, frame=frame) for found in decision.events]
        out.state = replace(out.state, method=method_state, guard=guard_state)

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
        self, events: list[WindowedRef], prediction: Prediction, report: Report, out: Labeled, *, warming_up: bool
    ) -> None:
        counters = out.state.counters
        before, updates = counters.get("updates", 0), list(report.updates)
        cuts = _ends(updates, int(out.state.method.get("frames", 0)), len(events))
        counts = [before + sum(cut <= i for cut in cuts) for i in range(len(events))]
        out.labels += self.make.labels(events, prediction, counts, late=False)
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


def _window(state: StreamState) -> Window | None:
    """The window that the stream's newest step fell into."""
    if "window_start" not in state.position:
        return None
    return int(state.position["window_start"]), int(state.position["window_end"])


def _ends(updates: Sequence[object], frames_before: int, images: int) -> list[int]:
    """For each update, how many of the batch's images came before it (1 to ``images``)."""
    return [min(max(int(getattr(update, "frame")) - frames_before, 1), images) for update in updates]  # noqa: B009
