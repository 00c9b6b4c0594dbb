"""The final table: methods against the frozen encoder and each other, over all corruptions and all sets of drawings.

Everything that the table depends on stands below, and was fixed before it was printed: it is printed once, and nothing
is tuned after it. ``--development`` is the same on development data alone, for choosing settings. Rows are kept beside
it; the same command goes on after a kill, and measures what was added.
"""

import itertools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from benchmarks.final_report import report
from benchmarks.report import finish, parser
from grpo_tta import GuardSettings, keep_freed_memory
from grpo_tta.classifier import Classifier
from grpo_tta.evaluation.cells import GuardChoice
from grpo_tta.evaluation.corruptions import CORRUPTIONS, DEVELOPMENT
from grpo_tta.evaluation.plans import CLEAN, Condition, ScenePictures
from pipeline.bench.charts import front
from pipeline.bench.models import DEMO_SET, of_demo
from pipeline.bench.rows import Outcome, Row, RowFile, key_of
from pipeline.bench.run import Bench, run_seed
from pipeline.bench.settings import BenchMethod, parse_methods
from pipeline.config import make_config
from pipeline.errors import ConfigurationError, JobError

SETS = (DEMO_SET, "fluent-emoji-high-contrast", "build/demo/pictures/openmoji.npz")
SEVERITIES = (3, 5)
FRAMES, SEEDS, RUNS = 1000, 5, 1
"""Of each cell ``RUNS`` are measured, with the seeds in turn, so that all of them stand behind a table. Eleven methods
take about a minute a run. Two runs were planned; there was time for one, and that was settled before any was read."""
METHODS = ("grpo", "batclip", "tent", "sar", "tda", "prior-correction", "zero-shot")
EPISODIC_METHODS = ("grpo-episodic", "zero", "vte", "tpt-norm", "rlcf")
"""Tens to hundreds of forward-equivalents an image: fewer frames, and these cells only."""
EPISODIC_FRAMES, EPISODIC_SEVERITY = 500, 3
EPISODIC_KINDS = ("shot_noise", "motion_blur", "snow", "pixelate")
TUNED = Path("benchmarks/tuned")
"""``NAME.yaml`` holds a method section with settings of the method ``NAME`` that were chosen on development data; it is
measured too, as ``NAME-tuned``."""
BATCH = 32
OUT = {False: Path("out/final/rows.jsonl"), True: Path("out/development/rows.jsonl")}


@dataclass(frozen=True)
class Part:
    """Cells that are measured with the same methods: each set under each condition. The cell of number ``n`` has the
    runs of seeds ``n + 2 k`` modulo ``seeds``, for ``k`` from 0 to ``runs - 1``."""

    sets: Sequence[str]
    conditions: Sequence[Condition]
    methods: Sequence[BenchMethod]
    frames: int
    seeds: int
    runs: int


@dataclass(frozen=True)
class Unit:
    """What a process does at a time: one cell with one seed, its frames made once for all methods."""

    set_name: str
    condition: Condition
    seed: int
    frames: int
    methods: Sequence[BenchMethod]

    @property
    def stream(self) -> str:
        """Its name in ``STREAMS``."""
        return "null" if self.condition == CLEAN else "steady"

    @property
    def bench(self) -> Bench:
        """As `run_seed` takes it: the guard as in ``grpo-tta label``, for every method alike."""
        classifier, pictures, data = _material(self.set_name)
        streams = [(self.stream, [self.condition])]
        guard = GuardChoice(GuardSettings())
        return Bench(classifier, pictures, data, self.methods, streams, ["guard"], guard, 1, self.frames, BATCH)


@cache
def _material(set_name: str) -> tuple[Classifier, ScenePictures, str]:
    return of_demo(make_config({"source": {"url": "unused"}, "output": {"url": "unused"}}), set_name)


def table(development: bool) -> list[Part]:
    """All that is measured."""
    sets, kinds = ([DEMO_SET], DEVELOPMENT) if development else (SETS, tuple(CORRUPTIONS))
    conditions = [CLEAN, *(Condition(kind, severity) for kind in kinds for severity in SEVERITIES)]
    few = [Condition(kind, EPISODIC_SEVERITY) for kind in (DEVELOPMENT if development else EPISODIC_KINDS)]
    return [
        Part(sets, conditions, _methods(METHODS), FRAMES, SEEDS, RUNS),
        Part(sets, few, _methods(EPISODIC_METHODS), EPISODIC_FRAMES, 1, 1),
    ]


def _methods(names: Sequence[str]) -> list[BenchMethod]:
    files = [(name, TUNED / f"{name}.yaml") for name in names]
    return parse_methods(",".join(names), [f"{name}-tuned={file}" for name, file in files if file.is_file()])


def missing(parts: Sequence[Part], rows: RowFile) -> list[Unit]:
    """What is to be measured, with the methods that no row is there of; a run of every cell before the next run."""
    units = []
    for part in parts:
        cells = list(itertools.product(part.sets, part.conditions))
        for run, (number, (set_name, condition)) in itertools.product(range(part.runs), enumerate(cells)):
            seed = (number + run) % part.seeds
            unit = Unit(set_name, condition, seed, part.frames, part.methods)
            keys = [unit.bench.key(method, "guard", unit.stream, [condition], seed) for method in part.methods]
            left = [method for method, key in zip(part.methods, keys, strict=True) if rows.get(key_of(key)) is None]
            if left:
                units.append(replace(unit, methods=left))
    return units


def measure(unit: Unit) -> list[tuple[Row, Outcome]]:
    """The rows of one unit with their frames; every process calls it for units of its own."""
    rows = RowFile(None)
    made = run_seed(unit.bench, unit.stream, [unit.condition], unit.seed, rows, lambda row, new: None)
    outcomes = [rows.outcome(key_of(row)) for row in made]
    return [(row, outcome) for row, outcome in zip(made, outcomes, strict=True) if outcome is not None]


def measure_all(units: Sequence[Unit], rows: RowFile, jobs: int) -> None:
    """In ``jobs`` processes of one thread each; this one alone writes ``rows``, as units come back. After a kill, what
    the units under way had measured is measured again."""
    for number, (unit, made, seconds) in enumerate(_measured(units, jobs), start=1):
        for row, outcome in made:
            rows.append(row, outcome)
        where = f"{Path(unit.set_name).stem}, {unit.condition.name}, seed {unit.seed}"
        print(f"{number}/{len(units)} {where}: {len(made)} methods, {seconds:.0f} s", file=sys.stderr, flush=True)


def _measured(units: Sequence[Unit], jobs: int) -> Iterator[tuple[Unit, list[tuple[Row, Outcome]], float]]:
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin)
    try:
        running = {pool.submit(_timed, unit): unit for unit in units}
        for done in as_completed(running):
            yield running[done], *done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _timed(unit: Unit) -> tuple[list[tuple[Row, Outcome]], float]:
    started = time.perf_counter()
    return measure(unit), time.perf_counter() - started


def _begin() -> None:
    """Of a process of the pool: it ends with its parent, however that ended."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(1)


def main() -> int:
    """Measure what is missing; print the table and the bars."""
    flags = parser(__doc__)
    flags.add_argument("--development", action="store_true", help="development data only, rows in out/development")
    flags.add_argument("--jobs", type=int, default=2, help="processes of one thread each (default: 2)")
    flags.add_argument("--report", nargs="?", const="", metavar="ROWS", help="measure nothing, print what rows say")
    flags.add_argument("--picture", type=Path, metavar="FILE", help="accuracy against cost, as SVG")
    arguments = flags.parse_args()
    if arguments.jobs < 1:
        flags.error(f"--jobs must be >= 1, got {arguments.jobs}")
    path = Path(arguments.report) if arguments.report else OUT[arguments.development]
    if arguments.report is not None and not path.is_file():
        flags.error(f"--report: no file {path}")
    rows = RowFile(path)
    try:
        if arguments.report is None:
            measure_all(missing(table(arguments.development), rows), rows, arguments.jobs)
        bars, details = report(rows)
    except (ConfigurationError, JobError) as error:
        flags.error(str(error))
    if arguments.picture is not None:
        entries = [{"method": label, **means} for label, means in details["methods"].items()]
        arguments.picture.write_text(front(entries, "The shifted cells"), encoding="utf-8")
    return finish(arguments, bars, details)


if __name__ == "__main__":
    sys.exit(main())
