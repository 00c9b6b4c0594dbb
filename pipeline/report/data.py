"""What the page shows of a job, as plain data: the overview of all streams, and the details of some.

Shares in series are whole thousandths, times whole seconds: a page of many streams is mostly these. Texts stay as they
are; the page makes them text (`pipeline.report.page`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from grpo_tta.estimate import FEWEST, Estimate, Unknown
from grpo_tta.pipeline.report.answers import Answered, together
from grpo_tta.pipeline.report.pictures import Choice, Thumbnails, shown_shifts
from grpo_tta.pipeline.report.read import Cause, StreamOutputs
from grpo_tta.pipeline.report.states import Judgement, size_word
from grpo_tta.pipeline.report.stretches import microseconds
from grpo_tta.pipeline.report.windows import Estimator, StreamWindow, Windows, changes, label_mix
from grpo_tta.schemas import DriftEvent, LabeledImage

SPARK_POINTS = 60
_SHORT = {
    "uncalibrated": "not calibrated",
    "few_images": "too few images",
    "few_classes": "too few classes",
    "no_frozen": "no frozen labels",
    "ill": "guard is ill",
    "collapse": "adaptation failed",
    "sharpened": "adaptation too sure",
    "too_wide": "calibration too wide",
    "answered": "not answered for",
}
WORDS = {
    "Estimated accuracy": "made without labels, of how sure the model is, with an interval that holds nine times in "
    "ten for changes like those it was calibrated on. It cannot see images of things that are none of the classes: "
    "check it by answers (--ask).",
    "Gain": "estimated accuracy with adaptation less that without, in points.",
    "Agreement": "share of labels that the frozen encoder gives too. It is no accuracy: where adaptation helps most, "
    "it is low.",
    "Classes": "so many equally frequent classes are as varied as the labels. A sudden fall means that few things are "
    "shown, or that adaptation has gone wrong.",
    "Size of a shift": "how far features moved, in standard deviations of a frame: under 0.3 small, from 0.8 on large. "
    "It is no severity: a small shift may cost much accuracy, and a large one little.",
}


@dataclass(frozen=True)
class Told:
    """All that is known of one stream before it is drawn."""

    stream: StreamOutputs
    windows: Windows
    judgement: Judgement
    estimates: Estimator


def thousandths(value: float | None) -> int | None:
    """A share as a series holds it."""
    return None if value is None else round(1000 * value)


def said(estimate: Estimate | Unknown | None) -> dict[str, Any]:
    """``value``, ``low``, ``high``; or ``unknown``, with why, and in a word or two."""
    if isinstance(estimate, Estimate):
        return asdict(estimate)
    if estimate is None:
        return {"unknown": "there is no image", "short": "no image"}
    return {"unknown": estimate.message, "short": _SHORT[estimate.cause]}


def seconds(time: datetime) -> int:
    """Since the epoch."""
    return int(time.timestamp())


def overview_of(told: Told) -> dict[str, Any]:
    """A stream's row, but for the page that has its view."""
    windows, stream = told.windows.shown, told.stream
    latest = told.windows.newest
    estimates = latest.estimates if latest is not None else None
    model, method, _ = stream.stretches.kinds[stream.stretches.kind[-1]]
    return {
        "name": stream.name,
        "model": f"{method}, model {model}",
        "state": told.judgement.state,
        "reasons": told.judgement.reasons,
        "next": [asdict(step) for step in told.judgement.next],
        "size": next((event.size for event in reversed(stream.drift) if event.signal == "shift"), None),
        "images": stream.images,
        "shifts": sum(event.signal == "shift" for event in stream.drift),
        "dead": sum(cause.count for cause in stream.dead),
        "first": seconds(windows[0].start) if windows else None,
        "last": None if stream.last is None else seconds(stream.last),
        "estimate": said(estimates.adapted if estimates else None),
        "frozen": said(estimates.frozen if estimates else None),
        "gain": said(estimates.gain if estimates else None),
        "latest": latest.n if latest else 0,
        "confidence": latest.confidence if latest else None,
        "agreement": latest.agreement if latest else None,
        "classes": latest.classes if latest and latest.n >= FEWEST else None,
        "spark": spark_of(windows, stream.drift),
    }


def spark_of(windows: Sequence[StreamWindow], drift: Sequence[DriftEvent]) -> dict[str, Any]:
    """The small line of a row: estimates where there are any, else mean probabilities; marks are thousandths of it."""
    step = -(-len(windows) // SPARK_POINTS) or 1
    shown = windows[::step]
    estimates = [window.estimates.adapted for window in shown]
    if any(isinstance(one, Estimate) for one in estimates):
        series: dict[str, Any] = {
            part: [thousandths(getattr(one, name)) if isinstance(one, Estimate) else None for one in estimates]
            for part, name in (("values", "value"), ("low", "low"), ("high", "high"))
        }
        frozen = [window.estimates.frozen for window in shown]
        if any(isinstance(one, Estimate) for one in frozen):
            series["frozen"] = [thousandths(one.value) if isinstance(one, Estimate) else None for one in frozen]
    else:
        series = {"values": [thousandths(window.confidence) for window in shown]}
    return {**series, "marks": _marks(shown, drift)}


def _marks(shown: Sequence[StreamWindow], drift: Sequence[DriftEvent]) -> list[int]:
    """Where shifts were noticed, in thousandths from the first point to the last; a point is in the middle of its
    window."""
    if len(shown) < 2:
        return []
    middles = [(window.start.timestamp() + window.end.timestamp()) / 2 for window in shown]
    times = [event.event_time.timestamp() for event in drift if event.signal == "shift"]
    return [round(place) for place in np.interp(times, middles, np.linspace(0, 1000, len(shown)))]


def details_of(told: Told, answered: Sequence[Answered], truth: dict[str, Any] | None) -> dict[str, Any]:
    """A stream's own view but for its pictures."""
    stream, windows = told.stream, told.windows.shown
    frozen = [thousandths(window.frozen_confidence) for window in windows]
    return {
        **_times(windows),
        "step": _step(windows),
        "images": [window.n for window in windows],
        "late": int(stream.stretches.totals["late"].sum()),
        "resets": sum(event.reset for event in stream.drift),
        "confidence": [thousandths(window.confidence) for window in windows],
        "frozen_confidence": frozen if any(value is not None for value in frozen) else None,
        "estimate": _estimates(windows),
        "mix": _mix(told.windows),
        "events": [_event(event) for event in stream.drift],
        "changed": _changed(stream, told.windows),
        "dead": [cause_of(cause) for cause in stream.dead],
        "answers": [_answers(told, one) for one in answered],
        "truth": truth,
    }


def inside(view: dict[str, Any]) -> list[bool]:
    """Whether the accuracy by the truth file lies inside the interval, of each window that has both."""
    if not view["truth"] or not view["estimate"]:
        return []
    ends = zip(view["truth"]["adapted"], view["estimate"]["low"], view["estimate"]["high"], strict=True)
    return [low <= value <= high for value, low, high in ends if None not in (value, low)]


def pictures_of(drift: Sequence[DriftEvent], choice: Choice, thumbnails: Thumbnails) -> dict[str, Any]:
    """The pictures of a stream's own view."""
    return {
        "drifts": _drifts(drift, choice, thumbnails),
        "unsure": [picture(label, thumbnails) for label in choice.unsure],
        "disagree": [picture(label, thumbnails) for label in choice.disagree],
    }


def _times(windows: Sequence[StreamWindow]) -> dict[str, Any]:
    starts = [seconds(window.start) for window in windows]
    return {
        "time": starts,
        "seconds": [seconds(window.end) - start for window, start in zip(windows, starts, strict=True)],
    }


def _step(windows: Sequence[StreamWindow]) -> str:
    """How much a point of the timeline stands for, in words."""
    if not windows:
        return "nothing"
    images = sorted(window.n for window in windows)
    least, most = images[0], images[-1]
    return f"{least:,} images" if least == most else f"{least:,} to {most:,} images"


def _estimates(windows: Sequence[StreamWindow]) -> dict[str, Any] | None:
    adapted = [window.estimates.adapted for window in windows]
    frozen = [window.estimates.frozen for window in windows]
    if not any(isinstance(one, Estimate) for one in (*adapted, *frozen)):
        return None

    def series(estimates: Iterable[Estimate | Unknown], part: str) -> list[int | None]:
        return [thousandths(getattr(one, part)) if isinstance(one, Estimate) else None for one in estimates]

    made: dict[str, Any] = {part: series(adapted, part) for part in ("value", "low", "high")}
    made["frozen"] = series(frozen, "value") if any(isinstance(one, Estimate) for one in frozen) else None
    return made


def _mix(windows: Windows) -> dict[str, Any]:
    names, columns = label_mix(windows)
    return {
        "names": names,
        "time": [seconds(start) for start, _, _ in columns],
        "seconds": [int(length.total_seconds()) for _, length, _ in columns],
        "shares": [[thousandths(shares[at]) for _, _, shares in columns] for at in range(len(names))],
    }


def _event(event: DriftEvent) -> dict[str, Any]:
    return {
        "time": seconds(event.event_time),
        "signal": event.signal,
        "size": event.size,
        "reset": event.reset,
        "message": event.message,
    }


def _drifts(drift: Sequence[DriftEvent], choice: Choice, thumbnails: Thumbnails) -> list[dict[str, Any]]:
    return [
        {
            **_event(event),
            "size_word": None if event.size is None else size_word(event.size),
            "before_text": choice.before_text.get(at, "none"),
            "before": [picture(label, thumbnails) for label in choice.before.get(at, ())],
            "after": [picture(label, thumbnails) for label in choice.after.get(at, ())],
        }
        for at, event in reversed(shown_shifts(drift).items())
    ]


def picture(label: LabeledImage, thumbnails: Thumbnails) -> dict[str, Any]:
    """One image with its label."""
    made = thumbnails.of(label)
    return {
        "image": made if isinstance(made, int) else None,
        "missing": made if isinstance(made, str) else None,
        "label": label.label,
        "probability": label.probability,
        "frozen": label.frozen_label,
        "time": seconds(label.event_time),
        "id": label.id,
        "coordinate": label.coordinate,
    }


def _changed(stream: StreamOutputs, told: Windows) -> dict[str, Any]:
    """Before and after the last shift; without one, the first and the last half of the time."""
    windows = told.shown
    shifts = [event.event_time for event in stream.drift if event.signal == "shift"]
    cut = next((at for at, window in enumerate(windows) if shifts and window.end > shifts[-1]), 0)
    what = "Before the last shift and after it"
    if not 0 < cut < len(windows):
        cut, what = len(windows) // 2, "The first half of the time and the second"
    if not 0 < cut < len(windows):
        return {"what": what, "rows": []}
    before, after = (
        dict(zip(told.names, part.sum(0).tolist(), strict=True)) for part in (told.labels[:cut], told.labels[cut:])
    )
    return {"what": what, "rows": [asdict(change) for change in changes(before, after)]}


def cause_of(cause: Cause) -> dict[str, Any]:
    """Dead letters of one cause, with an example."""
    letter = cause.example
    return {
        "cause": cause.name,
        "count": cause.count,
        "message": letter.error_message if letter else None,
        "coordinate": letter.coordinate if letter else None,
    }


def _answers(told: Told, answered: Answered) -> dict[str, Any]:
    without = _without(told, answered)
    combined, agree = together(answered.alone, without)
    times = f"{answered.start:%d %b %H:%M} to {answered.end:%d %b %H:%M}"
    text = f"{answered.right} of {answered.n} labels from {times} were right."
    if not agree:
        text += " The intervals of answers and estimate do not meet: the answers count alone."
    return {
        "text": text,
        "answers": said(answered.alone),
        "estimate": said(without),
        "together": said(combined),
    }


def _without(told: Told, answered: Answered) -> Estimate | Unknown:
    """The estimate without labels of the stretch of time that the questions were drawn from."""
    rows, start, end = told.stream.stretches, microseconds(answered.start), microseconds(answered.end)
    met = rows.part((rows.totals["n"] > 0) & (rows.start <= end) & (rows.end > start))
    if not len(met):
        return Unknown("few_images", "the outputs do not hold the images that were asked about any more")
    return told.estimates(met.part(met.kind == met.kind[-1]).joined([0]))[0].adapted
