"""The cells of a comparison, one after another: streams outside, methods inside, each written when it was measured."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from grpo_tta.bench.rows import Outcome, Row, RowFile, key_of
from grpo_tta.bench.settings import BenchMethod, name_of, short_digest
from grpo_tta.classifier import Classifier
from grpo_tta.evaluation.cells import GuardChoice, ResetRule, measured, narrowed, run_cell
from grpo_tta.evaluation.measures import paired_accuracy
from grpo_tta.evaluation.memory import peak_bytes
from grpo_tta.evaluation.plans import Condition, KeptFrames, Pictures, Plan
from grpo_tta.evaluation.stream_makers import STREAMS, make_plan
from grpo_tta.methods import create_method
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.types import Method

BASE = "grpo"
"""The label that other rows are compared with, where it is among the methods."""
_FRAME_BYTES = 256 * 2**20
"""Of one stream, kept for the next method."""


@dataclass(frozen=True)
class Bench:
    """Everything that is compared. ``streams``: names with the conditions of one stream each."""

    classifier: Classifier
    pictures: Pictures
    data: str
    """What tells these pictures from others."""
    methods: Sequence[BenchMethod]
    streams: Sequence[tuple[str, Sequence[Condition]]]
    rules: Sequence[ResetRule]
    guard: GuardChoice
    seeds: int
    frames: int
    batch_size: int

    def plan(self, stream: str, conditions: Sequence[Condition], seed: int) -> Plan:
        """The stream itself; raises `ConfigurationError` where it cannot be made of these pictures."""
        try:
            return make_plan(stream, self.pictures.labels, self.frames, conditions, seed)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error

    def key(
        self, method: BenchMethod, rule: ResetRule, stream: str, conditions: Sequence[Condition], seed: int
    ) -> dict[str, Any]:
        """The columns that say which cell it is."""
        corruption, severity = name_of(conditions)
        reference = self.guard.reference
        guard = [asdict(self.guard.settings), None if reference is None else reference.fingerprint]
        return {
            "method": method.label,
            "settings": method.digest,
            "stream": stream,
            "corruption": corruption,
            "severity": None if stream == "gradual" else severity,
            "seed": seed,
            "frames": self.frames * STREAMS[stream].longer,
            "resets_by": rule,
            "batch_size": self.batch_size,
            "model": self.classifier.fingerprint,
            "data": self.data,
            "guard": short_digest(guard),
        }


def check(bench: Bench) -> None:
    """Make every stream once, so that one that cannot be made stops before anything is measured; raises
    `ConfigurationError`."""
    for stream, conditions in bench.streams:
        bench.plan(stream, conditions, 0)


def run_bench(bench: Bench, rows: RowFile, say: Callable[[Row, bool], None]) -> list[Row]:
    """The rows of all cells, in order; what ``rows`` has already is not measured again. ``say(row, new)`` is told of
    each. A control of a run without resets, or resets at the changes of a stream without any, is no cell."""
    made: list[Row] = []
    for stream, conditions in bench.streams:
        for seed in range(bench.seeds):
            made += run_seed(bench, stream, conditions, seed, rows, say)
    return made


def run_seed(
    bench: Bench,
    stream: str,
    conditions: Sequence[Condition],
    seed: int,
    rows: RowFile,
    say: Callable[[Row, bool], None],
) -> list[Row]:
    """The same of one stream with one seed: its frames are made once for all methods."""
    made: list[Row] = []
    plan = bench.plan(stream, conditions, seed)
    frames = KeptFrames(plan, bench.pictures, bench.batch_size, _FRAME_BYTES)
    classifier = bench.classifier if plan.classes is None else narrowed(bench.classifier, plan.classes)
    for method, rule in _cells(bench, plan):
        key = bench.key(method, rule, stream, conditions, seed)
        count = 0
        if rule in ("periodic", "random"):
            count = (rows.get(key_of({**key, "resets_by": "guard"})) or {"resets": 0})["resets"]
            if not count:
                continue
        row = rows.get(key_of(key))
        new = row is None
        if row is None:
            row = _measure(bench, method, rule, key, plan, frames, classifier, rows, count)
        else:
            row |= _over_base(bench, method, key, rows.outcome(key_of(key)), rows)
        made.append(row)
        say(row, new)
    return made


def _cells(bench: Bench, plan: Plan) -> Iterator[tuple[BenchMethod, ResetRule]]:
    for method in bench.methods:
        for rule in bench.rules:
            if rule != "true" or plan.changes:
                yield method, rule


def _measure(
    bench: Bench,
    method: BenchMethod,
    rule: ResetRule,
    key: dict[str, Any],
    plan: Plan,
    frames: KeptFrames,
    classifier: Classifier,
    rows: RowFile,
    count: int,
) -> Row:
    made = create_method(method.name, classifier, method.of_seed(key["seed"]))
    result = run_cell(
        made,
        classifier,
        plan,
        frames,
        rule=rule,
        guard=bench.guard,
        count=count,
        seed=key["seed"],
    )
    detections = np.array(result.detections, dtype=np.int64)
    outcome = Outcome(result.labels, result.right, result.frozen_right, detections)
    memory = (
        peak_bytes(made, itertools.islice(frames, _batches_of_two_updates(made, bench.batch_size)), classifier.device)
        / 1e6
    )
    row = {**key, **measured(result, plan), "memory_mb": memory}
    row |= _over_base(bench, method, key, outcome, rows)
    rows.append(row, outcome)
    return row


def _batches_of_two_updates(method: Method, batch_size: int) -> int:
    """As few as show what a step and what an update hold at their largest."""
    return -(-2 * (method.cadence or 1) // batch_size)


def _over_base(
    bench: Bench, method: BenchMethod, key: dict[str, Any], outcome: Outcome | None, rows: RowFile
) -> dict[str, Any]:
    """Columns that compare a cell with that of ``BASE``: under its own rule, else under the first; none where either's
    frames are not kept. Also of rows that were measured before the base's were."""
    base = next((other for other in bench.methods if other.label == BASE), None)
    if base is None or outcome is None or method.label == BASE:
        return {}
    of_base = {**key, "method": base.label, "settings": base.digest}
    other = rows.outcome(key_of(of_base)) or rows.outcome(key_of({**of_base, "resets_by": bench.rules[0]}))
    if other is None:
        return {}
    paired = paired_accuracy(outcome.right, other.right, outcome.labels)
    return {"gain_over_grpo": paired.gain, "interval_over_grpo": list(paired.interval)}
