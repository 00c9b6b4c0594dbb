"""Whether a stream's input has shifted: the distance of its probes to a reference, beside what they vary by themselves.

A probe's row is the mean of the residuals of its frames in the metric of a reference. Its squared distance ``d`` to the
reference's mean is compared with what it would be if the input had stayed:

    e = v (1 + 1 / m) + max(0, 1 / k + 1 / k_m - 2 / C)

``v`` is the variance of the stream's own rows about their running mean, so that runs of a class, whose probes lie far
apart, are expected to; ``m`` the probes that the reference's mean is of; the rest is what another choice of classes
moves a mean by: ``k`` and ``k_m`` are the classes that the stream shows now and that the reference's mean has seen.
The excess ``d - e``, in deviations of such distances, goes into a one-sided Page-Hinkley test. Its weight is less where
rows resemble the one before, since 16 probes of a scene are one observation, and where few classes are shown. [ours]

When the input has shifted the mean is made anew of the next four probes, from the first one on, and of more where they
show few classes; the metric stays, so a second change is seen while the new mean is being made, and no probe goes into
it while the test is above 0. What the stream varies by is then what it was before the test rose. [ours] Everything is a
pure function of a stream's columns.

Columns: ``residual_sums`` ``[D]`` of the probe under way. While the stream makes a reference of its own: ``rows``, the
mean residuals so far, each less the one before and the first one twice, int8 ``[n + 1, D]`` in steps of ``row_steps``
``[n + 1]``, ``within`` float16 ``[D]``, the mean variance of a probe's frames, and ``square_sums`` ``[D]`` of the probe
under way. Then ``metric``, ``expected``, ``deviation`` of that one, and of any reference: ``mean``, as the stream goes
on with it, ``[D]``, of ``known`` probes that showed ``mean_classes``; ``making``, 1 while it is made anew; ``middle``,
running mean of rows ``[D]``; ``last`` row ``[D]``; ``course``, a `Course`, and ``settled``, that of when Page-Hinkley
was last at 0; its ``statistic``; ``excess``, the sum of ``d - e`` over the ``raised`` probes since.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from grpo_tta.guard.reference import Reference, shown_classes
from grpo_tta.guard.signal import Seen, Signal, tensor_of
from grpo_tta.settings import GuardSettings
from grpo_tta.types import State
from grpo_tta.whitening import in_bytes, unexplained

_MEMORY = 32
"""Of the course, in probes."""
_ANEW = 4
"""Probes that a mean made anew is of, if they show enough classes: more would take a drift that goes on slowly with
them. [ours]"""
_PRIOR = 8.0
"""Probes that the reference's variance counts beside the stream's."""
_HIGHEST_SCORE = 8.0
"""Of a probe: so much evidence it may bring alone."""
_ENOUGH_CLASSES = 40.0
_ENOUGH_SHARE = 0.9
_MOST_LIKE = 0.99


class Course(NamedTuple):
    """What a stream's rows vary by, in the reference's metric."""

    probes: float
    """That it is of, at most ``_MEMORY``."""
    variance: float
    """Mean squared distance of a row to the middle."""
    covariance: float
    """The same of a row and the one before."""
    roughness: float
    """Half of the mean squared change of a squared distance from probe to probe, as a share of the variance: a shift
    changes it once."""
    energy: float
    """The last squared distance."""

    def spread(self, reference: Reference) -> tuple[float, float, float]:
        """Variance, deviation as a share, and likeness of successive rows, with the reference's as if of 8 probes."""
        mass = _PRIOR + self.probes
        variance = (_PRIOR * reference.expected + self.probes * self.variance) / mass
        usual = reference.deviation**2
        deviation = math.sqrt(max(usual, (_PRIOR * usual + self.probes * self.roughness) / mass))
        like = self.probes * self.covariance / (mass * variance)
        return variance, deviation, min(max(like, 0.0), _MOST_LIKE)

    def after(self, row: Tensor, last: Tensor, middle: Tensor, reference: Reference) -> tuple["Course", Tensor]:
        """With one more row ``[D]``, and the middle moved towards it. As much as a score may say, a row may change: a
        shift is not what a stream varies by."""
        variance, deviation, _ = self.spread(reference)
        probes = min(self.probes + 1, float(_MEMORY))
        share = probes / (probes + 1)
        offset = row - middle
        middle = middle + offset / (probes + 1)
        energy = min(share * float(offset.square().sum()), variance * (1 + _HIGHEST_SCORE * deviation))
        covariance = min(float((row - middle) @ (last - middle)), energy)
        change = 0.5 * ((energy - self.energy) / variance) ** 2

        def mean(before: float, now: float) -> float:
            return before + (now - before) / probes

        return Course(
            probes,
            mean(self.variance, energy),
            mean(self.covariance, covariance),
            mean(self.roughness, change),
            energy,
        ), middle


class Shift(Signal):
    """The test of this module, over residuals in a shared reference or in one of the stream's own."""

    name = "shift"
    cause = "shift"
    message = "images look unlike the reference images"
    columns = (
        "residual_sums", "rows", "row_steps", "within", "square_sums", "metric", "expected", "deviation", "mean",
        "known", "mean_classes", "making", "middle", "last", "course", "settled", "statistic", "excess", "raised",
    )  # fmt: skip
    sums = ("residual_sums", "square_sums")

    def __init__(self, settings: GuardSettings, class_vectors: Tensor, reference: Reference | None) -> None:
        super().__init__(settings, class_vectors, reference)
        dimensions = class_vectors.shape[1]
        if reference is not None and reference.mean.shape != class_vectors.shape[1:]:
            raise ValueError(
                f"the reference has {reference.mean.numel()} dimensions, the class vectors {dimensions}: "
                "calibrate it with this model"
            )
        if reference is not None and reference.probe_frames != settings.probe_frames:
            raise ValueError(
                f"the reference has probes of {reference.probe_frames} frames, probe_frames is "
                f"{settings.probe_frames}: calibrate it with these settings"
            )

    @property
    def threshold(self) -> float:
        """``shift_lambda``, in deviations of a probe's distance."""
        return self.settings.shift_lambda

    def begun(self) -> State:
        """Compared with the shared reference from the start, or with one of its own still to make."""
        dimensions = self.class_vectors.shape[1]
        columns = nothing(dimensions) if self.reference is None else begun(self.reference)
        return {"residual_sums": torch.zeros(dimensions), **columns}

    def of_frames(self, seen: Seen, states: Sequence[State]) -> dict[str, Tensor]:
        """Residuals and their squares, ``[B, D]``."""
        residuals_of = unexplained if self.reference is None else self.reference.residuals
        residuals = residuals_of(seen.features, seen.frozen, self.class_vectors)
        making = any("rows" in state for state in states)
        return {"residual_sums": residuals, **({"square_sums": residuals.square()} if making else {})}

    def after_probe(self, means: Mapping[str, Tensor], state: State) -> State:
        """The probe compared, or taken into the reference that is being made."""
        row, shown = means["residual_sums"], tensor_of(state, "shown").float()
        return after_row(row, means.get("square_sums"), shown, self.reference, self.own(state), self.settings)

    def statistic(self, state: State) -> float | None:
        """Page-Hinkley's; ``None`` while the stream has no reference."""
        return None if "rows" in state else float(state["statistic"])

    def size(self, state: State) -> float:
        """`size`."""
        return size(state)

    def cleared(self, state: State) -> State:
        """At rest; the reference, made or in the making, stays."""
        empty = {name: torch.zeros_like(tensor_of(state, name)) for name in self.sums if name in state}
        return {**self.own(state), **empty, **at_rest()}

    def anew(self, state: State) -> State:
        """`anew`."""
        return anew(self.own(state))


def nothing(dimensions: int) -> State:
    """Columns of a stream that has a reference of its own still to make."""
    return {
        "rows": torch.zeros(0, dimensions, dtype=torch.int8),
        "row_steps": torch.zeros(0),
        "within": torch.zeros(dimensions, dtype=torch.float16),
        "square_sums": torch.zeros(dimensions),
        **at_rest(),
    }


def begun(reference: Reference) -> State:
    """Columns of a stream that is compared with ``reference`` from now on."""
    course = torch.tensor(Course(0.0, 0.0, 0.0, 0.0, reference.expected), dtype=torch.float64)
    return {
        "mean": reference.mean,
        "middle": reference.mean,
        "last": reference.mean,
        "known": reference.probes,
        "mean_classes": reference.classes,
        "making": 0,
        "course": course,
        "settled": course,
        **at_rest(),
    }


def at_rest() -> State:
    """Columns of a test that has seen nothing."""
    return {"statistic": 0.0, "excess": 0.0, "raised": 0}


def anew(state: State) -> State:
    """The columns after a shift: the mean is made of the next rows, and what the shift brought is forgotten."""
    return {**state, "known": 0, "making": 1, "course": state["settled"], **at_rest()}


def after_row(
    row: Tensor, squares: Tensor | None, shown: Tensor, shared: Reference | None, state: State, settings: GuardSettings
) -> State:
    """The columns with one more probe, whose mean residual is ``row`` ``[D]``, compared with the ``shared`` reference
    or the stream's own, or taken, with its mean ``squares`` ``[D]``, into one that is still to be made. ``shown``
    ``[C]``: fading sums of the frozen probabilities."""
    if "rows" in state:
        assert squares is not None
        return _made(row, squares, shown, state, settings)
    if shared is not None:
        return _compared(shared.placed(row), shown, shared, state, settings)
    numbers = float(state["expected"]), float(state["deviation"])
    own = Reference(tensor_of(state, "mean"), tensor_of(state, "metric"), *numbers, 1.0, 1, settings.probe_frames)
    return _compared(own.placed(row), shown, own, state, settings)


def _made(row: Tensor, squares: Tensor, shown: Tensor, state: State, settings: GuardSettings) -> State:
    rows, steps = tensor_of(state, "rows"), tensor_of(state, "row_steps")
    for _ in range(1 if len(rows) else 2):
        rows, steps = _with_row(rows, steps, row)
    probes = len(rows) - 1
    within = torch.lerp(tensor_of(state, "within").float(), squares - row.square(), 1 / probes)
    if probes < settings.reference_probes:
        return {**state, "rows": rows, "row_steps": steps, "within": within.half()}
    means = (rows * steps[:, None]).cumsum(0)[1:]
    variances = within + means.var(0, unbiased=False)
    made = Reference.from_probes(means, variances, shown_classes(shown), settings.probe_frames)
    rest = {name: value for name, value in state.items() if name not in nothing(0)}
    own: State = {"metric": made.metric, "expected": made.expected, "deviation": made.deviation}
    return {**rest, **own, **begun(made)}


def _with_row(rows: Tensor, steps: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """What ``row`` has beyond the sum of the rows that are kept, kept too."""
    rest = row - (rows * steps[:, None]).sum(0)
    return torch.cat([rows, in_bytes(rest)[None]]), torch.cat([steps, rest.abs().amax()[None] / 127])


def _compared(row: Tensor, shown: Tensor, reference: Reference, state: State, settings: GuardSettings) -> State:
    classes, known = shown_classes(shown), int(state["known"])
    mean, course = tensor_of(state, "mean"), Course(*tensor_of(state, "course").tolist())
    if not known:
        return {**state, "mean": row, "middle": row, "last": row, "known": 1, "mean_classes": classes}
    variance, deviation, like = course.spread(reference)
    mean_classes = float(state["mean_classes"])
    chosen = max(0.0, 1 / classes + 1 / mean_classes - 2 / len(shown))
    expected = variance * (1 + 1 / known) + chosen
    excess = float((row - mean).square().sum()) - expected
    score = min(excess / (deviation * expected), _HIGHEST_SCORE)
    enough = min(_ENOUGH_CLASSES, _ENOUGH_SHARE * len(shown))
    weight = min(1.0, min(classes, mean_classes) / enough) ** 2 * (1 - like) / (1 + like)
    statistic = max(0.0, float(state["statistic"]) + weight * (score - settings.shift_delta))
    course, middle = course.after(row, tensor_of(state, "last"), tensor_of(state, "middle"), reference)
    numbers = torch.tensor(course, dtype=torch.float64)
    if state["making"] and not statistic:
        mean, known, mean_classes = mean + (row - mean) / (known + 1), known + 1, classes
    least = min(_ANEW, settings.reference_probes)
    making = known < least or (mean_classes < enough and known < settings.reference_probes)
    return {
        **state,
        "mean": mean,
        "middle": middle,
        "last": row,
        "known": known,
        "mean_classes": mean_classes,
        "making": int(bool(state["making"]) and making),
        "course": numbers,
        "settled": state["settled"] if statistic else numbers,
        "statistic": statistic,
        "excess": float(state["excess"]) + excess if statistic else 0.0,
        "raised": int(state["raised"]) + 1 if statistic else 0,
    }


def size(state: State) -> float:
    """How large the shift is that the test has risen by: the root of the mean excess, so in standard deviations of a
    frame in the reference; comparable over streams. 0 while the test is at rest."""
    raised = int(state["raised"])
    return math.sqrt(max(0.0, float(state["excess"]) / raised)) if raised else 0.0
