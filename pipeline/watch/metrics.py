"""Prometheus metrics of a live job.

One registry a process; every series that can be named is there from the start, a gauge of what is not known yet as not
a number. Streams are no labels, there may be thousands, but for as many of the worst as `watch_streams` is told. What a
slice's commit counts is counted when it is committed, so a slice that runs again is not counted twice; histograms are
fed while it runs. Where the guards stand is a gauge of the last slice: the stream that is nearest to a reset, over all
streams that had images in it. States of streams change with time too: their gauges are set when somebody asks
(`scraped`).
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from grpo_tta import Standing
from grpo_tta.adapters.kafka.positions import SkippedRange
from grpo_tta.estimate import AccuracyCalibration, Estimate
from grpo_tta.guard import SIGNALS
from grpo_tta.pipeline.watch.notices import KINDS
from grpo_tta.pipeline.watch.streams import STATES, StreamBoard
from grpo_tta.schemas import AdaptationLog, DriftSignal, LabeledImage, MonitorRecord, ResetCause, SkipReason

_log = logging.getLogger(__name__)
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_AGES = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 1800, 7200, 86400)

REGISTRY = CollectorRegistry()
SAMPLES = Counter("tta_samples", "Images labelled", registry=REGISTRY)
DEAD_LETTERS = Counter("tta_dead_letters", "Events that could not be labelled", registry=REGISTRY)
LATE = Counter("tta_late_samples", "Images labelled and not learnt from, for they were late", registry=REGISTRY)
SHED = Counter(
    "tta_shed_samples", "Images labelled and not learnt from, for their partition was too far behind", registry=REGISTRY
)
UPDATES = Counter("tta_updates", "Parameter updates", registry=REGISTRY)
UPDATES_SKIPPED = Counter("tta_updates_skipped", "Updates due and not made", ["reason"], registry=REGISTRY)
RESETS = Counter("tta_resets", "Streams set back to the frozen encoder", ["cause"], registry=REGISTRY)
DETECTIONS = Counter("tta_drift_detections", "What the guards noticed", ["signal"], registry=REGISTRY)
STATISTIC = Gauge("tta_drift_statistic", "The highest of a stream's in the last slice", ["signal"], registry=REGISTRY)
THRESHOLD = Gauge("tta_drift_threshold", "Over which a statistic is a detection", ["signal"], registry=REGISTRY)
SINCE_RESET = Gauge("tta_samples_since_reset", "The fewest of a stream's in the last slice", registry=REGISTRY)
WARMING_UP = Gauge(
    "tta_detector_warming_up", "Share of the last slice's streams whose reference is still to be made",
    registry=REGISTRY,
)  # fmt: skip
FORGOTTEN = Counter(
    "tta_streams_forgotten", "Streams dropped, which had shown no image for checkpoint.forget_after", registry=REGISTRY
)
SLICES = Counter("tta_slices", "Slices committed", registry=REGISTRY)
SLICE_SECONDS = Histogram("tta_slice_seconds", "Of a slice, from plan to commit", buckets=_AGES, registry=REGISTRY)
FAILURES = Counter("tta_slice_failures", "Slices dropped and tried again", registry=REGISTRY)
LAG = Gauge("tta_lag_records", "Records between position and end", ["partition"], registry=REGISTRY)
NOTICES = Counter("tta_notices", "Events capped, guessed or repaired, and taken", ["kind"], registry=REGISTRY)
PASSED_OVER = Gauge(
    "tta_passed_over", "Files of a followed source that are no events by their names, by the last look", ["suffix"],
    registry=REGISTRY,
)  # fmt: skip
SKIPPED = Counter("tta_positions_skipped", "Positions the log does not hold any more", registry=REGISTRY)
OWNED = Gauge("tta_partitions_owned", "Partitions this process owns", registry=REGISTRY)
ENTROPY = Histogram(
    "tta_prediction_entropy_ratio", "Mean entropy of an update's predictions over ln C", buckets=_SHARES,
    registry=REGISTRY,
)  # fmt: skip
DISAGREEMENT = Histogram(
    "tta_source_disagreement_ratio", "Share of an update's labels that differ from the frozen encoder's",
    buckets=_SHARES, registry=REGISTRY,
)  # fmt: skip
MARGINAL_ENTROPY = Histogram(
    "tta_marginal_entropy_ratio", "Entropy of a stream's mean prediction over ln C, once a slice", buckets=_SHARES,
    registry=REGISTRY,
)  # fmt: skip
STATE_BYTES = Histogram(
    "tta_state_bytes", "Of a stream's encoded state", buckets=[2.0**power for power in range(10, 25)],
    registry=REGISTRY,
)  # fmt: skip
AGE = Histogram("tta_event_age_seconds", "From an image's event time to its label", buckets=_AGES, registry=REGISTRY)
PROBABILITY = Histogram("tta_label_probability", "Of an image's best class", buckets=_SHARES, registry=REGISTRY)
AGREEING = Counter("tta_agreeing_samples", "Images whose label is the frozen encoder's too", registry=REGISTRY)
CAUSES = Counter(
    "tta_dead_letters_by_cause", "Events that could not be labelled", ["stage", "error_class"], registry=REGISTRY
)
STREAMS = Gauge("tta_streams", "Streams that this process has labelled", ["state"], registry=REGISTRY)
NOT_SHOWN = Gauge("tta_streams_not_shown", "Streams without series of their own", registry=REGISTRY)
ACCURACY = Gauge(
    "tta_estimated_accuracy_ratio", "Over all streams of which something can be said; not a number without one",
    ["model", "bound"], registry=REGISTRY,
)  # fmt: skip
STREAM_ACCURACY = Gauge(
    "tta_stream_estimated_accuracy_ratio", "Of one stream; absent where it is unknown", ["stream", "model", "bound"],
    registry=REGISTRY,
)  # fmt: skip
STREAM_STATE = Gauge("tta_stream_state", "1 for the state that a stream is in", ["stream", "state"], registry=REGISTRY)
STREAM_SIZE = Gauge(
    "tta_stream_drift_size", "Of a stream's last shift, in standard deviations of a frame", ["stream"],
    registry=REGISTRY,
)  # fmt: skip
REST_SIZE = Gauge(
    "tta_streams_not_shown_drift_size", "Sum of tta_stream_drift_size of the streams without series of their own",
    registry=REGISTRY,
)  # fmt: skip
_BOUNDS = ("value", "low", "high")
for _counter, _values in (
    (RESETS, get_args(ResetCause)), (DETECTIONS, get_args(DriftSignal)), (UPDATES_SKIPPED, get_args(SkipReason)),
    (STREAMS, STATES), (NOTICES, KINDS),
):  # fmt: skip
    for _value in _values:
        _counter.labels(_value)
for _signal in SIGNALS:
    STATISTIC.labels(_signal.name).set(math.nan)
    THRESHOLD.labels(_signal.name).set(math.nan)
for _model in ("adapted", "frozen"):
    for _bound in _BOUNDS:
        ACCURACY.labels(_model, _bound).set(math.nan)
_recent: deque[float] = deque(maxlen=2000)
"""Ages of the newest labels, for people who watch the progress."""
_slice_runs = False
"""Whether a slice runs by this process: in a worker, or in another's pipeline, none would ever end what is kept."""
_standings: list[Standing] = []
"""Of the streams of the running slice."""
_monitors: list[MonitorRecord] = []
"""Of the slice that is not yet committed."""
_board = StreamBoard(None, time.monotonic)
_shown = 0
_lock = threading.Lock()
"""Of the board and the gauges of streams: many may ask while the job goes on."""


def note_skipped(skipped: SkippedRange) -> None:
    """Positions that were passed over are never passed over silently."""
    SKIPPED.inc(max(skipped.resumed - skipped.wanted, 0))
    _log.warning("%s", skipped.message())


def note_passed_over(counts: Mapping[str, int]) -> None:
    """What the last look at a followed source passed over, by suffix."""
    PASSED_OVER.clear()
    for suffix, count in counts.items():
        PASSED_OVER.labels(suffix).set(count)


def observe_labels(labels: list[LabeledImage], now: float) -> None:
    """The ages of images at the moment they are labelled; ``now`` in seconds since the epoch."""
    for label in labels:
        PROBABILITY.observe(label.probability)
        age = max(now - label.event_time.timestamp(), 0.0)
        AGE.observe(age)
        _recent.append(age)


def recent_age(share: float) -> float | None:
    """The age that ``share`` of the newest labels stay under, in seconds; forgets them."""
    ages = sorted(_recent)
    _recent.clear()
    return ages[min(int(share * len(ages)), len(ages) - 1)] if ages else None


def observe_updates(rows: list[AdaptationLog]) -> None:
    """Entropy and disagreement of every update."""
    for row in rows:
        if row.entropy is not None and row.disagreement is not None:
            ENTROPY.observe(row.entropy)
            DISAGREEMENT.observe(row.disagreement)


def observe_guard(standing: Standing, thresholds: Mapping[str, float]) -> None:
    """Where a stream's guard stands after its last image of a slice, and above what the guard acts."""
    if standing.marginal_entropy is not None:
        MARGINAL_ENTROPY.observe(standing.marginal_entropy)
    for signal, threshold in thresholds.items():
        THRESHOLD.labels(signal).set(threshold)
    if _slice_runs:
        _standings.append(standing)


def begin_slice() -> None:
    """What was noted of guards is of a slice that is over or was dropped."""
    global _slice_runs
    _slice_runs = True
    _standings.clear()
    _monitors.clear()


def end_slice() -> None:
    """The gauges of all that `observe_guard` was told of; without a stream they stay as they are."""
    global _slice_runs
    _slice_runs = False
    if not _standings:
        return
    for signal in {signal for one in _standings for signal in one.statistics}:
        STATISTIC.labels(signal).set(max(one.statistics.get(signal, 0.0) for one in _standings))
    SINCE_RESET.set(min(one.frames_since_reset for one in _standings))
    WARMING_UP.set(sum(one.warming_up for one in _standings) / len(_standings))


def forget_lag(partition: str) -> None:
    """The partition is another's now."""
    with suppress(KeyError):
        LAG.remove(partition)


def watch_streams(
    calibration: AccuracyCalibration | None, shown: int, now: Callable[[], float] = time.monotonic
) -> None:
    """Forget all streams; from now on estimate by ``calibration``, and give the ``shown`` worst streams series."""
    global _board, _shown
    with _lock:
        _board, _shown = StreamBoard(calibration, now), shown


def observe_monitor(records: Iterable[MonitorRecord]) -> None:
    """What the running slice adds up to."""
    if _slice_runs:
        _monitors.extend(records)


def commit_slice() -> None:
    """What `observe_monitor` was told of counts."""
    for record in _monitors:
        AGREEING.inc(record.agree)
        for cause, count in record.dead_letters.items():
            CAUSES.labels(*cause.split("/", 1)).inc(count)
    with _lock:
        _board.add(_monitors)
    _monitors.clear()


def drop_streams(names: Iterable[str]) -> None:
    """They are another process's now, or forgotten."""
    with _lock:
        _board.drop(names)


def scraped() -> bytes:
    """All metrics as they are now, as Prometheus reads them."""
    with _lock:
        _show_streams()
        return generate_latest(REGISTRY)


def _show_streams() -> None:
    seen = _board.seen()
    for state in STATES:
        STREAMS.labels(state).set(sum(one.state == state for one in seen.values()))
    for model in ("adapted", "frozen"):
        known = [(one.images, getattr(one.estimates, model)) for one in seen.values()]
        said = [(images, found) for images, found in known if isinstance(found, Estimate)]
        total = sum(images for images, _ in said)
        for bound in _BOUNDS:
            mean = sum(images * getattr(found, bound) for images, found in said) / total if total else math.nan
            ACCURACY.labels(model, bound).set(mean)
    for gauge in (STREAM_ACCURACY, STREAM_STATE, STREAM_SIZE):
        gauge.clear()
    for name, one in list(seen.items())[:_shown]:
        STREAM_SIZE.labels(name).set(one.size)
        for state in STATES:
            STREAM_STATE.labels(name, state).set(one.state == state)
        for model in ("adapted", "frozen"):
            found = getattr(one.estimates, model)
            if isinstance(found, Estimate):
                for bound in _BOUNDS:
                    STREAM_ACCURACY.labels(name, model, bound).set(getattr(found, bound))
    rest = list(seen.values())[_shown:]
    NOT_SHOWN.set(len(rest))
    REST_SIZE.set(sum(one.size for one in rest))
