"""How well accuracy is estimated without labels: error, coverage and width of the intervals, and when nothing is said.

The demo model over fluent-emoji, online GRPO-TTA with its default settings and guard. A calibration is what ``grpo-tta
calibrate --accuracy`` makes of 500 labelled images of one seed and the development kinds of corruption; it is asked
about streams of the other seed, and never about a kind that it has seen: each is left out in turn. With ``--held-out``
the calibration of all development kinds is asked about the other kinds, severities 1, 3 and 5, of one seed.

Streams are made once and kept in ``--rows``.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.estimate_rows import IMAGES, Lab
from benchmarks.report import Bar, finish, parser
from grpo_tta import keep_freed_memory
from grpo_tta.estimate import AccuracyCalibration, Estimate, Estimates, Unknown, estimate
from grpo_tta.evaluation.accuracy import CLEAN_KIND, WINDOW, Measured, fit
from grpo_tta.evaluation.corruptions import CORRUPTIONS, DEVELOPMENT
from grpo_tta.evaluation.plans import CLEAN, Condition
from grpo_tta.evaluation.run import StreamResult
from grpo_tta.pipeline.report.answers import Answer, questions, stratified, together

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SEEDS = (0, 1)
SEVERITIES = (1, 3, 5)
FRAMES = 1000
MIXED = (CLEAN, Condition("fog", 3), Condition("gaussian_noise", 5), Condition("contrast", 4))
MIXED_FRAMES = 600
DRAWS = {"class-ordered": 1, "few-shown": 3, "skewed": 3}
BROKEN = (
    ("tent x 1", CLEAN), ("tent x 1", Condition("gaussian_noise", 5)), ("tent x 20", CLEAN),
    ("tent x 20", Condition("gaussian_noise", 5)), ("learning rate x 10", Condition("fog", 3)),
    ("learning rate x 50", Condition("fog", 3)), ("own reward", Condition("fog", 3)),
    ("certainty alone", Condition("fog", 3)),
)  # fmt: skip
FEW = (5, 10, 20, 40, 80)
FEW_SHOWN = 40
HELD_OUT_SEED, HELD_OUT_FRAMES = 0, 600
ASKED, ASK_WINDOW, ASK_REPEATS = 50, 500, 20
_ANY = datetime(2026, 1, 1, tzinfo=UTC)
HELD_OUT = tuple(kind for kind in CORRUPTIONS if kind not in DEVELOPMENT)


@dataclass
class Counts:
    """A window as an estimate takes it."""

    n: int
    frozen_n: int
    agree: int
    least_entropy: dict[int, int]
    frozen_entropy: dict[int, int]
    labels: dict[str, int]
    frozen_labels: dict[str, int]
    entropy: dict[int, int] = field(default_factory=dict)
    ill: int = 0
    resets: dict[str, int] = field(default_factory=dict)
    model_fingerprint: str = ""
    method: str = ""
    settings_fingerprint: str = ""


@dataclass(frozen=True)
class Asked:
    """A window, what was said of it, and what is true: adapted, frozen, gain."""

    kind: str
    said: Estimates
    truth: dict[str, float]

    def of(self, name: str) -> Estimate | Unknown:
        """What was said."""
        found: Estimate | Unknown = getattr(self.said, name)
        return found


def ask(window: Measured, made: AccuracyCalibration, *, ill: int = 0, resets: Iterable[str] = ()) -> Asked:
    """An estimate of a window."""
    adapted, frozen = window.adapted, window.frozen
    causes = list(resets)
    counts = Counts(
        len(window), len(window), int((adapted.predicted == frozen.predicted).sum()), adapted.histogram(),
        frozen.histogram(), adapted.counts(), frozen.counts(), ill=ill,
        resets={cause: causes.count(cause) for cause in causes},
    )  # fmt: skip
    truth = {"adapted": float(adapted.right.mean()), "frozen": float(frozen.right.mean())}
    return Asked(window.kind, estimate(counts, made), {**truth, "gain": truth["adapted"] - truth["frozen"]})


def calibration(measured: Sequence[Measured], left_out: str | None = None) -> AccuracyCalibration:
    """Without a kind."""
    fitted = fit([part for part in measured if part.kind != left_out])
    sides = (fitted.adapted, fitted.frozen, fitted.gain)
    return AccuracyCalibration("", "", "", IMAGES, WINDOW, fitted.effective_classes, *sides, "least_entropy")


def measured(result: StreamResult, kind: str) -> Measured:
    """A whole stream."""
    return Measured.of(kind, result, slice(0, len(result.labels)))


@dataclass(frozen=True)
class Answered:
    """What answers say of a window, with the estimate without labels and alone, and the truth."""

    both: Estimate
    alone: Estimate
    truth: float


def answer(said: Estimate | Unknown, sure: Floats, right: Bools) -> list[Answered]:
    """Of a window, as the page asks and combines: other images are drawn each time."""
    found = []
    for repeat in range(ASK_REPEATS):
        labels: list[Any] = [
            SimpleNamespace(coordinate=f"{repeat} {at}", id="", stream="", label="", probability=p, event_time=_ANY)
            for at, p in enumerate(sure)
        ]
        asked = questions(labels, ASKED)
        answers = [Answer(**vars(one), right=bool(right[int(one.coordinate.split()[1])])) for one, _ in asked]
        alone = stratified(answers)
        found.append(Answered(together(alone, said)[0], alone, float(right.mean())))
    return found


def _conditions(kind: str) -> list[Condition]:
    return [CLEAN] if kind == CLEAN_KIND else [Condition(kind, severity) for severity in SEVERITIES]


class Study:
    """All that is asked, from rows that are kept."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.parts = {seed: lab.calibration(seed, DEVELOPMENT) for seed in SEEDS}
        self.whole = {seed: calibration(parts) for seed, parts in self.parts.items()}

    def steady(self, size: int) -> list[Asked]:
        """Windows of clean streams and of each kind, the calibration of the other seed without the kind."""
        asked = []
        for seed in SEEDS:
            for kind in (CLEAN_KIND, *DEVELOPMENT):
                made = self._without(1 - seed, kind)
                for stream in self._streams(kind, seed):
                    asked += [ask(window, made) for window in stream.windows(size)]
        return asked

    def held_out(self) -> list[Asked]:
        """Windows of the kinds that nothing was chosen on."""
        conditions = [Condition(kind, severity) for severity in SEVERITIES for kind in HELD_OUT]
        streams = [measured(self.lab.steady(one, HELD_OUT_SEED, HELD_OUT_FRAMES), one.name) for one in conditions]
        return [ask(window, self.whole[1 - HELD_OUT_SEED]) for stream in streams for window in stream.windows(WINDOW)]

    def answered(self) -> dict[str, list[Answered]]:
        """What fifty answers say of windows of 500 of clean and development kinds: alone, and with the estimate."""
        found: dict[str, list[Answered]] = {"adapted": [], "frozen": []}
        for seed in SEEDS:
            for kind in (CLEAN_KIND, *DEVELOPMENT):
                made = self._without(1 - seed, kind)
                for condition in _conditions(kind):
                    result = self.lab.steady(condition, seed, FRAMES)
                    for start in range(0, FRAMES, ASK_WINDOW):
                        rows = slice(start, start + ASK_WINDOW)
                        said = ask(Measured.of(kind, result, rows), made)
                        for name, sure, right in (
                            ("adapted", result.confidence, result.right),
                            ("frozen", result.frozen_confidence, result.frozen_right),
                        ):
                            found[name] += answer(said.of(name), sure[rows], right[rows])
        return found

    def _without(self, seed: int, kind: str) -> AccuracyCalibration:
        return self.whole[seed] if kind == CLEAN_KIND else calibration(self.parts[seed], kind)

    def _streams(self, kind: str, seed: int) -> list[Measured]:
        return [measured(self.lab.steady(condition, seed, FRAMES), kind) for condition in _conditions(kind)]

    def mixed(self, name: str) -> list[Asked]:
        """Windows of streams that show classes unevenly, with the calibration of another seed."""
        asked = []
        for condition in MIXED:
            for draw in range(DRAWS[name]):
                stream = measured(self.lab.planned(name, condition, draw, MIXED_FRAMES), condition.kind or CLEAN_KIND)
                asked += [ask(window, self.whole[1]) for window in stream.windows(WINDOW)]
        return asked

    def few(self, classes: int, repeats: int = 20) -> list[Asked]:
        """Windows of so many classes, cut out of the streams that show forty, or of the steady ones."""
        asked, generator = [], np.random.Generator(np.random.PCG64(classes))
        for condition in MIXED:
            kind = condition.kind or CLEAN_KIND
            made = self._without(1, kind)
            shown = [self.lab.planned("few-shown", condition, draw, MIXED_FRAMES) for draw in range(3)]
            for result in (
                shown
                if classes <= FEW_SHOWN
                else [self.lab.steady(condition if kind == CLEAN_KIND else Condition(kind, 5), 0, FRAMES)]
            ):
                stream = measured(result, kind)
                for _ in range(repeats):
                    some = generator.permutation(np.unique(stream.labels))[:classes]
                    rows = np.flatnonzero(np.isin(stream.labels, some))
                    asked.append(ask(stream.part(generator.choice(rows, WINDOW, replace=len(rows) < WINDOW)), made))
        return asked

    def broken(self) -> list[tuple[str, Asked]]:
        """Windows of methods that collapse."""
        tent = calibration(self.lab.calibration(0, DEVELOPMENT, "tent"))
        asked = []
        for name, condition in BROKEN:
            result = self.lab.broken(name, condition, FRAMES)
            stream, made = measured(result, condition.name), tent if name.startswith("tent") else self.whole[1]
            for number, window in enumerate(stream.windows(WINDOW)):
                start, stop = number * WINDOW, (number + 1) * WINDOW
                resets = [cause for frame, cause in result.resets if start < frame <= stop]
                ill = int(result.ill[start:stop].sum())
                asked.append((f"{name}, {condition.name}", ask(window, made, ill=ill, resets=resets)))
        return asked


def errors(asked: Iterable[Asked], name: str) -> list[float]:
    """Estimate less truth in points, where something was said."""
    found = [(one.of(name), one.truth[name]) for one in asked]
    return [100 * (said.value - truth) for said, truth in found if isinstance(said, Estimate)]


def covered(asked: Iterable[Asked], name: str) -> list[bool]:
    """Whether the truth is inside, where something was said."""
    found = [(one.of(name), one.truth[name]) for one in asked]
    return [said.low <= truth <= said.high for said, truth in found if isinstance(said, Estimate)]


def describe(title: str, asked: Sequence[Asked]) -> None:
    """A line for each side."""
    for name in ("adapted", "frozen", "gain"):
        said = [one.of(name) for one in asked]
        halves = [100 * one.half_width for one in said if isinstance(one, Estimate)]
        missed, inside = errors(asked, name), covered(asked, name)
        unknown = 100 * (len(said) - len(halves)) / len(said)
        figures = "nothing was said"
        if halves:
            figures = (
                f"error {np.mean(np.abs(missed)):.1f}, bias {np.mean(missed):+.1f}, "
                f"covered {100 * np.mean(inside):.0f} %, half-width {np.mean(halves):.1f}"
            )
        print(f"{title}, {name}: {len(said)} windows, {figures}, unknown {unknown:.0f} %", flush=True)


def steady_bars(study: Study) -> list[Bar]:
    """B1, B2, B8."""
    bars = []
    for size, most, widest in ((200, (3.5, 4.0), (10.5, 12.5)), (500, (2.8, 3.2), (9.0, 10.0))):
        asked = study.steady(size)
        describe(f"windows of {size}", asked)
        for name, error, width in zip(("adapted", "frozen"), most, widest, strict=True):
            title = f"{name}, {size}"
            by_kind = {kind: covered([one for one in asked if one.kind == kind], name) for kind in kinds_of(asked)}
            said = [one.of(name) for one in asked]
            halves = [100 * one.half_width for one in said if isinstance(one, Estimate)]
            bars += [
                Bar(f"{title}: mean error", float(np.mean(np.abs(errors(asked, name)))), error, True, " points"),
                Bar(f"{title}: coverage", 100 * float(np.mean(covered(asked, name))), 90, unit=" %"),
                Bar(
                    f"{title}: in the worst kind",
                    100 * min(float(np.mean(inside)) for inside in by_kind.values()),
                    80,
                    unit=" %",
                ),
                Bar(f"{title}: half-width", float(np.mean(halves)), width, True, " points"),
                Bar(f"{title}: unknown", 100 - 100 * len(halves) / len(said), 5, True, " %"),
            ]
        pairs = [(one.of("gain"), one.truth["gain"]) for one in asked]
        sure = [(said.value, truth) for said, truth in pairs if isinstance(said, Estimate) and abs(said.value) > 0.05]
        if sure:
            right = 100 * float(np.mean([said * truth > 0 for said, truth in sure]))
            bars.append(Bar(f"sign of a gain over 5 points, {size} ({len(sure)} windows)", right, 95, unit=" %"))
    return bars


def kinds_of(asked: Iterable[Asked]) -> list[str]:
    """In order."""
    return sorted({one.kind for one in asked})


def mix_bars(study: Study) -> list[Bar]:
    """B4, B5."""
    bars = []
    for classes in FEW:
        asked = study.few(classes)
        describe(f"{classes} classes", asked)
        for name in ("adapted", "frozen"):
            inside = covered(asked, name)
            if classes == FEW[0]:
                bars.append(Bar(f"{name}, {classes} classes: unknown", 100 - 100 * len(inside) / len(asked), 100))
            elif inside:
                bars.append(Bar(f"{name}, {classes} classes: coverage", 100 * float(np.mean(inside)), 90, unit=" %"))
    for stream in DRAWS:
        asked = study.mixed(stream)
        describe(stream, asked)
        found = {name: covered(asked, name) for name in ("adapted", "frozen")}
        bars += [
            Bar(f"{name}, {stream}: coverage", 100 * float(np.mean(inside)), 85, unit=" %")
            for name, inside in found.items()
            if inside
        ]
    return bars


def broken_bar(study: Study) -> Bar:
    """B6."""
    worst = 0.0
    for name, one in study.broken():
        said = one.of("adapted")
        told = f"unknown ({said.cause})" if isinstance(said, Unknown) else f"{100 * said.value:.0f}"
        print(f"{name}: true {100 * one.truth['adapted']:.0f}, estimate {told}", flush=True)
        if isinstance(said, Estimate):
            worst = max(worst, 100 * (said.low - one.truth["adapted"]))
    return Bar("methods that collapse: lower end above the truth, at most", worst, 0, True, " points")


def answer_bars(study: Study) -> list[Bar]:
    """B7."""
    bars = []
    for name, found in study.answered().items():
        truth = np.array([one.truth for one in found])
        for what in ("alone", "both"):
            made: list[Estimate] = [getattr(one, what) for one in found]
            value, low, high = (np.array([getattr(one, part) for one in made]) for part in ("value", "low", "high"))
            half = 100 * float((high - low).mean()) / 2
            inside = 100 * float(((low <= truth) & (truth <= high)).mean())
            error = 100 * float(np.abs(value - truth).mean())
            print(f"{ASKED} answers, {name}, {what}: error {error:.1f}, half-width {half:.1f}, covered {inside:.0f} %")
        bars += [
            Bar(f"{name}, {ASKED} answers and estimate: half-width", half, 5.5, True, " points"),
            Bar(f"{name}, {ASKED} answers and estimate: coverage", inside, 88, unit=" %"),
        ]
    return bars


def held_out_bars(study: Study) -> list[Bar]:
    """B3."""
    asked = study.held_out()
    describe("held-out kinds", asked)
    for kind in kinds_of(asked):
        describe(kind, [one for one in asked if one.kind == kind])
    bars = []
    for name in ("adapted", "frozen"):
        bars.append(Bar(f"{name}, held out: coverage", 100 * float(np.mean(covered(asked, name))), 85, unit=" %"))
        bars.append(Bar(f"{name}, held out: mean error", float(np.mean(np.abs(errors(asked, name)))), 5, True))
    return bars


def main() -> int:
    """Print a line a question, and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--rows", type=Path, default=Path("out/estimate"), metavar="DIR", help="default: out/estimate")
    flags.add_argument("--held-out", action="store_true", help="only the kinds that nothing was chosen on")
    arguments = flags.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    study = Study(Lab(arguments.rows))
    if arguments.held_out:
        return finish(arguments, held_out_bars(study))
    return finish(arguments, [*steady_bars(study), *mix_bars(study), *answer_bars(study), broken_bar(study)])


if __name__ == "__main__":
    sys.exit(main())
