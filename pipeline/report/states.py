"""The state of a stream as its outputs tell it, why in words, and what to do about it. Pure.

From the worst: ``ill``, ``degraded``, ``drifted``, ``silent``, ``unknown``, ``normal``. A stream is in the first one
that holds; what else holds is among the reasons.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from grpo_tta.estimate import FEWEST, AccuracyCalibration, Estimate, Unknown
from grpo_tta.pipeline.report.read import StreamOutputs
from grpo_tta.pipeline.report.windows import StreamWindow
from grpo_tta.pipeline.watch.streams import FLOOR, STATES, State

QUIET_AT_LEAST = timedelta(hours=1)
QUIET_PAUSES = 3
"""A stream is silent after so many times its own longest pause, and at least `QUIET_AT_LEAST`."""
_SIZES = ((0.3, "small"), (0.8, "medium"), (float("inf"), "large"))


@dataclass(frozen=True)
class Step:
    """A sentence on what to do, and a command line that does it."""

    text: str
    command: str | None = None


@dataclass(frozen=True)
class Judgement:
    """A stream's state with reasons, sentences, and next steps, the first ones first."""

    state: State
    reasons: list[str]
    next: list[Step]


def size_word(size: float) -> str:
    """What a shift of so many standard deviations is called."""
    return next(word for bound, word in _SIZES if size < bound)


def floor_of(floor: float | None, calibration: AccuracyCalibration | None) -> float | None:
    """The accuracy under which a stream is degraded: as given, or else by the calibration; None without either."""
    if floor is not None or calibration is None:
        return floor
    return max(0.0, calibration.adapted.accuracy - FLOOR)


def judge(
    stream: StreamOutputs,
    windows: Sequence[StreamWindow],
    newest: datetime | None,
    floor: float | None,
    *,
    calibrated: bool,
    out: str,
) -> Judgement:
    """``newest``: the end of the last stretch with an image of any stream; ``floor``: see `floor_of`; ``out``: where
    the job's outputs lie."""
    latest = windows[-1] if windows else None
    found: dict[State, str] = {}
    if latest is not None and latest.ill:
        found["ill"] = "Adaptation went wrong repeatedly, so labels are the frozen encoder's for now."
    adapted = latest.estimates.adapted if latest is not None else None
    if isinstance(adapted, Estimate) and floor is not None and adapted.high < floor:
        found["degraded"] = (
            f"Estimated accuracy is {_percent(adapted.value)} ({100 * adapted.low:.0f} to {_percent(adapted.high)}), "
            f"under the floor of {_percent(floor)}."
        )
    if (said := _drifted(stream)) is not None:
        found["drifted"] = said
    if (said := _silent(stream, newest)) is not None:
        found["silent"] = said
    if latest is None or latest.n < FEWEST:
        found["unknown"] = _few(latest)
    elif calibrated and isinstance(adapted, Unknown):
        found["unknown"] = f"Accuracy cannot be estimated: {adapted.message}."
    state: State = next((one for one in STATES if one in found), "normal")
    reasons = [found[one] for one in STATES if one in found] or [_normal(adapted)]
    if stream.dead:
        events = sum(cause.count for cause in stream.dead)
        reasons.append(f"{events} dead letter{'' if events == 1 else 's'}, most often {stream.dead[0].name}.")
    return Judgement(state, reasons, _steps(state, stream, adapted, out))


def _few(latest: StreamWindow | None) -> str:
    if latest is None:
        return "No image yet."
    return f"Only {latest.n} images in the newest window: too few to say anything."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _normal(adapted: Estimate | Unknown | None) -> str:
    if isinstance(adapted, Estimate):
        return f"No shift, and an estimated accuracy of {_percent(adapted.value)}."
    return "No shift was noticed."


def _drifted(stream: StreamOutputs) -> str | None:
    shifts = [event for event in stream.drift if event.signal == "shift"]
    if not shifts:
        return None
    last = shifts[-1]
    size = "" if last.size is None else f"; {size_word(last.size)}, size {last.size:.2f}"
    times = "" if len(shifts) == 1 else f"{len(shifts)} times, last "
    return f"The input shifted {times}at {last.event_time:%H:%M:%S} on {_day(last.event_time)}{size}."


def _silent(stream: StreamOutputs, newest: datetime | None) -> str | None:
    last = stream.last
    if last is None or newest is None:
        return None
    rows = stream.stretches.part(stream.stretches.totals["n"] > 0)
    pauses = (*(rows.end - rows.start).tolist(), *(rows.start[1:] - rows.end[:-1]).tolist())
    longest = timedelta(microseconds=max(pauses))
    if newest - last <= max(QUIET_AT_LEAST, QUIET_PAUSES * longest):
        return None
    return f"No image since {last:%H:%M} on {_day(last)}, while other streams went on for {_span(newest - last)}."


def _day(time: datetime) -> str:
    return f"{time.day} {time:%b %Y}"


def _span(length: timedelta) -> str:
    hours = length / timedelta(hours=1)
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} hours" if hours >= 2 else "an hour"


def _steps(state: State, stream: StreamOutputs, adapted: Estimate | Unknown | None, out: str) -> list[Step]:
    """What somebody on call does, in order."""
    asking = shlex.join(["grpo-tta", "report", "--out", out, "--ask", "50", "--stream", stream.name])
    ask = Step("Check the accuracy: say of 50 images whether the label is right.", asking)
    steps: dict[State, list[Step]] = {
        "ill": [
            Step("Take the frozen labels (frozen_label) until this is settled."),
            Step("Lower method.settings.learning_rate, raise method.settings.pull, or lower dispersion_weight."),
            Step(
                "Label some of these images with --method zero-shot: if that is bad too, the model does not fit them."
            ),
        ],
        "degraded": [
            Step("Compare the pictures before and after: a dirty lens, a moved camera, night, another exposure?"),
            ask,
            Step("If the conditions are here to stay, label some images and compare methods with grpo-tta bench."),
        ],
        "drifted": [
            Step("Look at the pictures before and after the shift: is the new condition meant to be?"),
            Step("If it is, nothing: the guard takes it for normal from now on, and adaptation goes on in it."),
            ask,
        ],
        "silent": [
            Step("Check the camera, its network, and the path or topic that it writes to."),
            Step("Look at the dead letters: a stream whose images arrive broken is silent too."),
        ],
        "unknown": [ask, Step("Wait for more images, or report a longer time (--since).")],
        "normal": [Step("Nothing.")],
    }
    made = steps[state]
    if state == "unknown" and not stream.images:
        made = [Step("Wait for an image that can be labelled, or report a longer time (--since).")]
    if state == "unknown" and isinstance(adapted, Unknown) and adapted.cause in ("sharpened", "collapse"):
        made = [Step("Compare label and frozen_label: the frozen encoder's estimate still holds."), *made]
    if stream.dead and state != "silent":
        made = [*made, Step("See the dead letters below: those images have no label.")]
    return made
