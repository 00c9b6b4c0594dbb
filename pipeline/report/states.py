"""Why a stream is in its states (`pipeline.watch.streams`), in words, and what to do about it. Pure."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from grpo_tta.estimate import FEWEST, Estimate, Unknown
from grpo_tta.pipeline.report.read import StreamOutputs
from grpo_tta.pipeline.report.stretches import time_of
from grpo_tta.pipeline.report.windows import StreamWindow
from grpo_tta.pipeline.watch.streams import PAUSES, Facts, State, states_of, usual_pause
from grpo_tta.schemas.monitor import Shift

_SIZES = ((0.3, "small"), (0.8, "medium"), (float("inf"), "large"))


@dataclass(frozen=True)
class Step:
    """A sentence on what to do, and a command line that does it."""

    text: str
    command: str | None = None


@dataclass(frozen=True)
class Judgement:
    """A stream's worst state, the reasons for all that hold, in sentences, and next steps, the first ones first."""

    state: State
    reasons: list[str]
    next: list[Step]


def size_word(size: float) -> str:
    """What a shift of so many standard deviations is called."""
    return next(word for bound, word in _SIZES if size < bound)


def judge(
    stream: StreamOutputs,
    newest: StreamWindow | None,
    now: datetime,
    floor: float | None,
    *,
    calibrated: bool,
    out: str,
) -> Judgement:
    """``newest``: the stream's newest window; ``now``: in event time; ``floor``: see `floor_of`; ``out``: where the
    job's outputs lie."""
    adapted = newest.estimates.adapted if newest is not None else None
    if not calibrated and isinstance(adapted, Unknown):  # else answers told it
        adapted = None
    shifted = stream.shifts[-1].event_time if stream.shifts else None
    facts = Facts(
        newest.n if newest is not None else 0,
        newest.ill if newest is not None else 0,
        adapted,
        shifted,
        stream.last,
        usual_pause(_stretches(stream)),
    )
    states = states_of(facts, now, floor)
    told_by_ill = "unknown" in states and isinstance(adapted, Unknown) and adapted.cause == "ill"
    told = [state for state in states if not (state == "unknown" and told_by_ill)]
    reasons = [_reason(state, stream, facts, now, floor) for state in told]
    answers = newest.answers if newest is not None else 0
    if answers:
        reasons.append(f"The accuracy includes {answers} answer{'' if answers == 1 else 's'}.")
    if stream.dead:
        events = sum(cause.count for cause in stream.dead)
        reasons.append(f"{events} dead letter{'' if events == 1 else 's'}, most often {stream.dead[0].name}.")
    return Judgement(states[0], reasons, _steps(states[0], stream, adapted, [] if answers else [_ask(stream, out)]))


def _stretches(stream: StreamOutputs) -> list[tuple[datetime, datetime]]:
    """The newest ones with images, of which pauses are made."""
    rows = stream.stretches.part(stream.stretches.totals["n"] > 0)
    pairs = sorted(set(zip(rows.start.tolist(), rows.end.tolist(), strict=True)))[-PAUSES - 1 :]
    return [(time_of(start), time_of(end)) for start, end in pairs]


def _reason(state: State, stream: StreamOutputs, facts: Facts, now: datetime, floor: float | None) -> str:
    adapted = facts.adapted
    if state == "ill":
        return "Adaptation went wrong repeatedly, so labels are the frozen encoder's for now."
    if state == "degraded" and isinstance(adapted, Estimate) and floor is not None:
        return (
            f"Estimated accuracy is {_percent(adapted.value)} ({100 * adapted.low:.0f} to {_percent(adapted.high)}), "
            f"under the floor of {_percent(floor)}."
        )
    if state == "drifted":
        return _shifted(stream.shifts)
    if state == "silent" and facts.last is not None:
        return f"No image since {facts.last:%H:%M} on {_day(facts.last)}: for {_span(now - facts.last)}."
    if state == "unknown" and isinstance(adapted, Unknown) and facts.images >= FEWEST:
        return f"Accuracy cannot be estimated: {adapted.message}."
    if state == "unknown":
        few = f"Only {facts.images} images in the newest window: too few to say anything."
        return few if facts.images else "No image yet."
    said = _shifted(stream.shifts) if stream.shifts else "No shift was noticed."
    return f"{said} Estimated accuracy is {_percent(adapted.value)}." if isinstance(adapted, Estimate) else said


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _shifted(shifts: Sequence[Shift]) -> str:
    last = shifts[-1]
    size = "" if last.thousandths is None else _size(last.thousandths / 1000)
    noticed = "A shift was noticed" if len(shifts) == 1 else f"{len(shifts)} shifts were noticed, the last"
    return f"{noticed} at {last.event_time:%H:%M:%S} on {_day(last.event_time)}{size}."


def _size(size: float) -> str:
    return f"; {size_word(size)}, size {size:.2f}"


def _day(time: datetime) -> str:
    return f"{time.day} {time:%b %Y}"


def _span(length: timedelta) -> str:
    hours = length / timedelta(hours=1)
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} hours" if hours >= 2 else "an hour"


def _ask(stream: StreamOutputs, out: str) -> Step:
    asking = shlex.join(["grpo-tta", "report", "--out", out, "--ask", "50", "--stream", stream.name])
    return Step("Check the accuracy: say of 50 images whether the label is right.", asking)


def _steps(state: State, stream: StreamOutputs, adapted: Estimate | Unknown | None, ask: list[Step]) -> list[Step]:
    """What somebody on call does, in order."""
    causes = "a dirty lens, a moved camera, night, another exposure?"
    look = "Compare the pictures before and after" if stream.shifts else "Look at the least sure pictures below"
    steps: dict[State, list[Step]] = {
        "ill": [
            Step("Take the frozen labels (frozen_label) until this is settled."),
            Step("Lower method.settings.learning_rate, raise method.settings.pull, or lower dispersion_weight."),
            Step(
                "Label some of these images with --method zero-shot: if that is bad too, the model does not fit them."
            ),
        ],
        "degraded": [
            Step(f"{look}: {causes}"),
            *ask,
            Step("If the conditions are here to stay, label some images and compare methods with grpo-tta bench."),
        ],
        "drifted": [
            Step("Look at the pictures before and after the shift: is the new condition meant to be?"),
            Step("If it is, nothing: the guard takes it for normal from now on, and adaptation goes on in it."),
            *ask,
        ],
        "silent": [
            Step("Check the camera, its network, and the path or topic that it writes to."),
            Step("Look at the dead letters: a stream whose images arrive broken is silent too."),
        ],
        "unknown": [*ask, Step("Wait for more images, or report a longer time (--since).")],
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
