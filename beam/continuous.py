"""The step of `LabelImages` over an input that never ends: `LabelStreams` as a stateful DoFn, keyed by stream.

An event waits in the stream's state until it is certain that no older one will come: until the watermark has passed the
end of its *batch*, a stretch of event time of ``checkpoint.slice_seconds``, or an event of the stream is
``event_time.allowed_lateness`` newer. What is certain is stepped together, in order of (event time, coordinate). It
waits for the wall clock no longer than the two together, and ``checkpoint.slice_records`` events never wait: a
watermark that stands still holds nobody up.

What comes behind the newest event that was learnt from is labelled and not learnt from: it is late, or it has come
before. So an event that is read again does not adapt its stream again.

All timers are set again from the events that are left. The state of a stream that is idle for
``checkpoint.forget_after`` goes.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import torch
from apache_beam.coders import BytesCoder, TupleCoder, VarIntCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from grpo_tta.adapters.coders import ImageRefCoder
from grpo_tta.adapters.events import ImageRef
from grpo_tta.beam.states import Snapshots
from grpo_tta.pipeline.config.job import parse_duration
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.graph import KeyByShard, newest_image
from grpo_tta.pipeline.label.dofn import COUNTERS, STATES, LabelStreams, Origin

HERE = ""
"""The one partition of a pipeline's streams."""
_FIRST = -(2**62)
"""Before every event time."""


def stream_key(stream: str) -> bytes:
    """The key of a stream's state; names may hold what is no UTF-8."""
    return stream.encode("utf-8", "surrogatepass")


_STATE = beam.DoFn.StateParam(ReadModifyWriteStateSpec("state", BytesCoder()))
_HELD = beam.DoFn.StateParam(BagStateSpec("held", ImageRefCoder()))
_MARKS = beam.DoFn.StateParam(ReadModifyWriteStateSpec("marks", TupleCoder((VarIntCoder(), VarIntCoder()))))
"""How many are held, and the end of the oldest batch."""
DUE = TimerSpec("due", TimeDomain.WATERMARK)
WAITED = TimerSpec("waited", TimeDomain.REAL_TIME)
IDLE = TimerSpec("idle", TimeDomain.WATERMARK)
_DUE, _WAITED, _IDLE = (beam.DoFn.TimerParam(spec) for spec in (DUE, WAITED, IDLE))
_FIRED = beam.DoFn.TimestampParam


class _Cells(NamedTuple):
    """A stream's state and timers."""

    state: Any
    held: Any
    marks: Any
    due: Any
    waited: Any
    idle: Any


class KeyByStream(KeyByShard):
    """``(partition, record)`` -> ``(stream's key, ImageRef)``; else as `KeyByShard`, with the clock of now."""

    def __init__(self, max_future: int) -> None:
        super().__init__({}, {HERE: 1})
        self._max_future = max_future

    def process(self, element: Any) -> Iterator[Any]:
        """One record."""
        self._latest[HERE] = _now() + self._max_future
        for found in super().process(element):
            yield found if isinstance(found, beam.pvalue.TaggedOutput) else (stream_key(found[1].stream), found[1])


class LabelHere(LabelStreams):
    """`LabelStreams` in somebody's pipeline, whose streams are all of one partition without a log."""

    def __init__(self, job: ResolvedJob) -> None:
        super().__init__(job, {HERE: Origin(None, None)})
        self._threads = job.config.model.threads

    def setup(self) -> None:
        """As `LabelStreams`, and torch's threads: no driver has set them in this process."""
        super().setup()
        if self._threads:
            torch.set_num_threads(self._threads)


class LabelContinuously(LabelHere):
    """``(stream's key, ImageRef)`` -> ``(partition, Row)``, and the tagged output ``states``. The time of an output is
    the end of its event's batch. ``states``: where the states of streams that this run has not seen may lie."""

    def __init__(self, job: ResolvedJob, states: str | None) -> None:
        super().__init__(job)
        config = job.config
        self.once = True
        self._states = states
        self._batch = parse_duration(config.checkpoint.slice_seconds)
        self._lateness = parse_duration(config.event_time.allowed_lateness)
        self._most = config.checkpoint.slice_records
        self._forget = parse_duration(config.checkpoint.forget_after)

    def setup(self) -> None:
        """As `LabelHere`; no state is read before its stream comes."""
        super().setup()
        self._snapshots = None if self._states is None else Snapshots(self._states)

    def process(
        self,
        element: Any,
        state: Any = _STATE,
        held: Any = _HELD,
        marks: Any = _MARKS,
        due: Any = _DUE,
        waited: Any = _WAITED,
        idle: Any = _IDLE,
    ) -> Iterator[Any]:
        """One event, held."""
        ref = element[1]
        count, oldest = marks.read() or (0, 0)
        held.add(ref)
        if not count:
            waited.set(self._patience())
        if not count or self._end(ref.event_time) < oldest:
            oldest = self._end(ref.event_time)
            due.set(Timestamp(micros=oldest))
        marks.write((count + 1, oldest))
        if count + 1 >= self._most:
            yield from self._step(_FIRST, _Cells(state, held, marks, due, waited, idle))

    @on_timer(DUE)
    def is_due(
        self,
        fired: Any = _FIRED,
        state: Any = _STATE,
        held: Any = _HELD,
        marks: Any = _MARKS,
        due: Any = _DUE,
        waited: Any = _WAITED,
        idle: Any = _IDLE,
    ) -> Iterator[Any]:
        """The watermark has passed the end of the oldest batch."""
        yield from self._step(fired.micros, _Cells(state, held, marks, due, waited, idle))

    @on_timer(WAITED)
    def has_waited(
        self,
        state: Any = _STATE,
        held: Any = _HELD,
        marks: Any = _MARKS,
        due: Any = _DUE,
        waited: Any = _WAITED,
        idle: Any = _IDLE,
    ) -> Iterator[Any]:
        """No watermark came: step whatever is held."""
        yield from self._step(None, _Cells(state, held, marks, due, waited, idle))

    @on_timer(IDLE)
    def is_idle(self, state: Any = _STATE) -> None:
        """Forget the stream."""
        state.clear()
        Metrics.counter(LabelStreams, "forgotten").inc()

    def _step(self, upto: int | None, cells: _Cells) -> Iterator[Any]:
        """Step the events up to ``upto``, and those that are older than the newest one by the allowed lateness; without
        ``upto``, or where too many are held and none of them is old enough, all."""
        refs = list(cells.held.read())
        ready, left = refs, list[ImageRef]()
        if upto is not None:
            upto = max(upto, max((ref.event_time for ref in refs), default=upto) - self._lateness)
            ready, left = [r for r in refs if r.event_time <= upto], [r for r in refs if r.event_time > upto]
        if not ready and len(left) >= self._most:
            ready, left = refs, []
        if not ready:
            return
        cells.held.clear()
        for ref in left:
            cells.held.add(ref)
        if left:
            oldest = min(self._end(ref.event_time) for ref in left)
            cells.marks.write((len(left), oldest))
            cells.due.set(Timestamp(micros=oldest))
            cells.waited.set(self._patience())
        else:
            cells.marks.clear()
            cells.due.clear()
            cells.waited.clear()
        yield from self._stepped(ready, cells.state, cells.idle)

    def _stepped(self, refs: list[ImageRef], state: Any, idle: Any) -> Iterator[Any]:
        """What a shard of this one stream gives."""
        stream, newest = refs[0].stream, max(ref.event_time for ref in refs)
        found = state.read()
        if found is None:
            found = self._snapshot(stream, newest)
        self.brought = {} if found is None else {stream: found}
        for given in super().process(((HERE, 0), refs)):
            tag = getattr(given, "tag", None)
            if tag == STATES:
                encoded = given.value[1]
                state.write(encoded)
                idle.set(Timestamp(micros=max(newest, _now()) + self._forget))
                yield beam.pvalue.TaggedOutput(STATES, self._at((stream, encoded), newest))
            elif tag != COUNTERS:
                row = given[1]
                yield self._at(given, newest if row.kind == "monitor" else row.time)

    def _snapshot(self, stream: str, newest: int) -> bytes | None:
        """The state that an earlier run left, unless the stream has been idle since for too long."""
        found = None if self._snapshots is None else self._snapshots.get(stream)
        if found is None or newest - (newest_image(found) or newest) > self._forget:
            return None
        return found

    def _at(self, output: Any, event_time: int) -> TimestampedValue:
        return TimestampedValue(output, Timestamp(micros=self._end(event_time)))

    def _end(self, event_time: int) -> int:
        """The last microsecond of the batch."""
        return (event_time // self._batch + 1) * self._batch - 1

    def _patience(self) -> Timestamp:
        return Timestamp(micros=_now() + self._batch + self._lateness)


def _now() -> int:
    return round(time.time() * 1e6)
