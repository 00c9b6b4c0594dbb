"""Right-or-wrong answers of a person on some of a stream's images, and what they say of its accuracy.

Images are drawn in five strata of equal size by the label's probability, the same number from each, by hash, so that
the same outputs give the same questions. The answers alone give a stratified estimate; together with the estimate
without labels they are weighted by precision, unless the two intervals do not meet: then the answers count alone.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from pydantic import ConfigDict, TypeAdapter, ValidationError

from grpo_tta.adapters.json_event import check_keys, problems
from grpo_tta.adapters.lines import text_lines
from grpo_tta.estimate import Estimate, Unknown
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.report.read import best_of
from grpo_tta.pipeline.report.windows import StreamWindow
from grpo_tta.schemas import LabeledImage
from grpo_tta.schemas.rfc3339 import given_time, parse_rfc3339

STRATA = 5
_Z = 1.6448536


@dataclass(frozen=True)
class Question:
    """One image to answer for. ``label``: the best class, however unsure. ``weight``: the share of the window's images
    that its stratum has."""

    coordinate: str
    id: str
    stream: str
    label: str
    stratum: int
    weight: float
    window_start: str
    window_end: str


@dataclass(frozen=True)
class Answer(Question):
    """``right``: whether the label is what the image shows."""

    right: bool
    __pydantic_config__ = ConfigDict(extra="forbid")


_ANSWER = TypeAdapter(Answer)


@dataclass(frozen=True)
class Answered:
    """What answers say of one window of a stream."""

    stream: str
    start: datetime
    end: datetime
    n: int
    right: int
    alone: Estimate


def questions(labels: Iterable[LabeledImage], number: int) -> list[tuple[Question, LabeledImage]]:
    """``number`` images of a window, as evenly over the strata as they go, in an order that tells nothing of them."""
    ordered = sorted(labels, key=lambda label: (label.probability, label.coordinate))
    if not ordered:
        return []
    start, end = (pick(label.event_time for label in ordered).isoformat() for pick in (min, max))
    asked = []
    for stratum in range(STRATA):
        part = ordered[len(ordered) * stratum // STRATA : len(ordered) * (stratum + 1) // STRATA]
        wanted = number * (stratum + 1) // STRATA - number * stratum // STRATA
        for label in sorted(part, key=lambda label: _drawn(label.coordinate))[:wanted]:
            weight = len(part) / len(ordered)
            best = best_of(label)
            question = Question(label.coordinate, label.id, label.stream, best, stratum, weight, start, end)
            asked.append((question, label))
    return sorted(asked, key=lambda pair: _drawn("order " + pair[0].coordinate))


def _drawn(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def read_answers(path: str) -> list[Answer]:
    """Those of a file that an asking page saved; the last answer for an image counts.

    Raises `ConfigurationError` naming the line that is none.
    """
    found: dict[str, Answer] = {}
    try:
        for number, line in text_lines(path):
            answer = _answer(line, number)
            found[answer.coordinate] = answer
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--answers {path}: {error}") from error
    return list(found.values())


def _answer(line: str, number: int) -> Answer:
    try:
        made = _ANSWER.validate_json(line, strict=True)
        check_keys(line)
        _check(made)
    except ValidationError as error:
        raise ValueError(f"line {number}: it is no answer: {problems(error)}") from error
    except ValueError as error:
        raise ValueError(f"line {number}: it is no answer: {error}") from error
    return made


def _check(made: Answer) -> None:
    if not 0 <= made.stratum < STRATA or not 0 < made.weight <= 1:
        raise ValueError(f"stratum is 0 to {STRATA - 1}, weight a share")
    if not given_time(made.window_start) <= given_time(made.window_end):
        raise ValueError("window_end is before window_start")


def to_lines(answers: Sequence[Answer]) -> str:
    """As a page saves them."""
    return "".join(json.dumps(asdict(answer)) + "\n" for answer in answers)


def summed(answers: Iterable[Answer]) -> list[Answered]:
    """By stream and window, in order of time."""
    groups: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.stream, answer.window_start, answer.window_end), []).append(answer)
    return [
        Answered(
            stream,
            parse_rfc3339(start),
            parse_rfc3339(end),
            len(group),
            sum(answer.right for answer in group),
            stratified(group),
        )
        for (stream, start, end), group in sorted(groups.items())
    ]


def stratified(answers: Sequence[Answer]) -> Estimate:
    """The accuracy of a window by answers in its strata, with its 90 % interval.

    A stratum without an answer is taken for the mean of the others. The variance of a stratum is that of its share with
    half an answer of either kind added, so that ten right answers of ten are not certain.
    """
    strata: dict[int, list[Answer]] = {}
    for answer in answers:
        strata.setdefault(answer.stratum, []).append(answer)
    total = sum(group[0].weight for group in strata.values())
    value = variance = 0.0
    for group in strata.values():
        n, right, weight = len(group), sum(answer.right for answer in group), group[0].weight / total
        smooth = (right + 0.5) / (n + 1)
        value += weight * right / n
        variance += weight**2 * smooth * (1 - smooth) / n
    half = _Z * math.sqrt(variance)
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0))


def together(alone: Estimate, without: Estimate | Unknown) -> tuple[Estimate, bool]:
    """Answers and the estimate without labels by precision, and whether they agree; answers alone where they do not, or
    where there is no estimate."""
    if isinstance(without, Unknown):
        return alone, True
    if alone.high < without.low or without.high < alone.low:
        return alone, False
    one, other = (max(estimate.half_width, 1e-6) ** -2 for estimate in (alone, without))
    value = (one * alone.value + other * without.value) / (one + other)
    half = (one + other) ** -0.5
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0)), True


def with_answers(window: StreamWindow | None, answered: Iterable[Answered]) -> StreamWindow | None:
    """The window with the estimate that answers about images of its time leave, the newest ones last. Nobody answered
    for frozen labels, so there is no gain then."""
    if window is None:
        return None
    adapted, count = window.estimates.adapted, 0
    for one in answered:
        if one.start < window.end and window.start <= one.end:
            adapted, _ = together(one.alone, adapted)
            count += one.n
    if not count:
        return window
    gain = Unknown("answered", "answers are in the accuracy, and there are none for frozen labels")
    return replace(window, estimates=replace(window.estimates, adapted=adapted, gain=gain), answers=count)
