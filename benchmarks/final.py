"""The final table: methods against the frozen encoder and each other: all corruptions, unseen drawings, two towers.

Everything that the table depends on stands below, and was fixed before a row was read: nothing is tuned after it.
``--development`` is the same on development data alone, for choosing settings. Rows are kept beside it; the same
command goes on after a kill, and measures what was added.
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
from typing import Any

import torch

from benchmarks.final_report import NATURAL, RESETS, report
from benchmarks.report import finish, parser
from grpo_tta import GuardSettings, keep_freed_memory
from grpo_tta.bench.charts import front
from grpo_tta.bench.models import DEMO_SET, of_demo
from grpo_tta.bench.rows import Outcome, Row, RowFile, key_of
from grpo_tta.bench.run import Bench, run_seed
from grpo_tta.bench.settings import BenchMethod, parse_methods
from grpo_tta.classifier import Classifier
from grpo_tta.evaluation.cells import GuardChoice
from grpo_tta.evaluation.corruptions import CORRUPTIONS, DEVELOPMENT
from grpo_tta.evaluation.plans import CLEAN, Condition, ScenePictures
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.errors import ConfigurationError, JobError

SETS = ("build/demo/pictures/emojione-monotone.npz", "build/demo/pictures/streamline-emojis.npz")
"""Two vendors' drawings that neither a tower nor a setting was chosen with, and that nobody had looked at."""
TOWERS: dict[str, dict[str, Any]] = {
    "packaged": {},
    "efficientnet": {
        "model": {"name": "local-dir:build/towers/efficientnet"},
        "labels": {"class_vectors": "build/towers/efficientnet/class_vectors.safetensors"},
    },
}
"""What is configured of each; `make towers` builds the second. Each has rows and a report of its own."""
SEVERITIES = (3, 5)
FRAMES, SEEDS = 1000, 5
"""Seeds take turns over the cells, so that all of them stand behind a table."""
METHODS = ("grpo", "whitened", "batclip-tuned", "deyo-tuned", "tda-tuned")
RUNS = 2
"""Of each cell, of these: the method, what it learns from, the three best rivals on both towers' development data."""
OTHERS = (
    "zero-shot",
    "prior-correction-tuned",
    "dota",
    "dota-tuned",
    "batclip",
    "tda",
    "tent",
    "tent-tuned",
    "sar",
    "deyo",
)
"""One run a cell."""
LONG, LONG_METHODS = 4000, ("grpo", "whitened", "batclip-tuned")
"""Frames of every eighth cell once more."""
TUNED = Path("benchmarks/tuned")
"""``NAME.yaml`` holds a method section with settings of the method ``NAME`` that were chosen on development data; such
a method is called ``NAME-tuned``."""
BATCH = 32
OUT = {False: Path("out/final"), True: Path("out/development")}


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
    every: int = 1
    """Only each so many-th of the cells."""
    stream: str | None = None
    """Its name in ``STREAMS``; by default classes at random."""


@dataclass(frozen=True)
class Unit:
    """What a process does at a time: one cell with one seed, its frames made once for all methods."""

    tower: str
    set_name: str
    stream: str
    condition: Condition
    seed: int
    frames: int
    methods: Sequence[BenchMethod]

    @property
    def bench(self) -> Bench:
        """As `run_seed` takes it; without a guard."""
        classifier, pictures, data = _material(self.tower, self.set_name)
        streams = [(self.stream, [self.condition])]
        guard = GuardChoice(GuardSettings(enabled=False))
        return Bench(classifier, pictures, data, self.methods, streams, [RESETS], guard, 1, self.frames, BATCH)


@cache
def _material(tower: str, set_name: str) -> tuple[Classifier, ScenePictures, str]:
    config = make_config({"source": {"url": "unused"}, "output": {"url": "unused"}, **TOWERS[tower]})
    return of_demo(config, set_name)


def table(development: bool) -> list[Part]:
    """All that is measured, in this order; a run that is in two parts is measured once."""
    sets, kinds = ([DEMO_SET], DEVELOPMENT) if development else (SETS, tuple(CORRUPTIONS))
    conditions = [CLEAN, *(Condition(kind, severity) for kind in kinds for severity in SEVERITIES)]
    main = Part(sets, conditions, methods(METHODS), FRAMES, SEEDS, RUNS)
    return [
        replace(main, runs=1),
        *(Part(sets, [CLEAN], methods(METHODS), FRAMES, SEEDS, SEEDS, stream=stream) for stream in NATURAL),
        Part(sets, conditions[1:], methods(LONG_METHODS), LONG, SEEDS, 1, every=8),
        main,
        Part(sets, conditions, methods(OTHERS), FRAMES, SEEDS, 1),
    ]


def only(parts: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """The same with these of the methods; parts that have none of them are left out."""
    some = [replace(part, methods=[method for method in part.methods if method.label in names]) for part in parts]
    return [part for part in some if part.methods]


def methods(names: Sequence[str]) -> list[BenchMethod]:
    """Of these names, in the order published, tuned; raises `ConfigurationError` for an unknown one."""
    plain = [name for name in names if not name.endswith("-tuned")]
    tuned = [f"{name}={TUNED / name.removesuffix('-tuned')}.yaml" for name in names if name.endswith("-tuned")]
    return parse_methods(",".join(plain), tuned)


def missing(parts: Sequence[Part], rows: RowFile, tower: str = "packaged") -> list[Unit]:
    """What is to be measured, with the methods that no row is there of; a run of every cell before the next run."""
    units: list[Unit] = []
    known: set[str] = set()
    for part in parts:
        cells = list(itertools.product(part.sets, part.conditions))[:: part.every]
        for run, (number, (set_name, condition)) in itertools.product(range(part.runs), enumerate(cells)):
            seed = (number + run) % part.seeds
            stream = part.stream or ("null" if condition == CLEAN else "steady")
            unit = Unit(tower, set_name, stream, condition, seed, part.frames, part.methods)
            keys = [unit.bench.key(method, RESETS, unit.stream, [condition], seed) for method in part.methods]
            found = {key_of(key): method for method, key in zip(part.methods, keys, strict=True)}
            left = [method for key, method in found.items() if key not in known and rows.get(key) is None]
            known.update(found)
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
        where = f"{Path(unit.set_name).stem}, {unit.stream}, {unit.condition.name}, seed {unit.seed}"
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
    flags.add_argument("--tower", choices=TOWERS, default="packaged", help="default: packaged")
    flags.add_argument("--development", action="store_true", help="development data only, rows in out/development")
    flags.add_argument("--only", metavar="NAME,...", help="measure these of the methods now, the others another time")
    flags.add_argument("--jobs", type=int, default=2, help="processes of one thread each (default: 2)")
    flags.add_argument("--report", nargs="?", const="", metavar="ROWS", help="measure nothing, print what rows say")
    flags.add_argument("--picture", type=Path, metavar="FILE", help="accuracy against cost, as SVG")
    arguments = flags.parse_args()
    if arguments.jobs < 1:
        flags.error(f"--jobs must be >= 1, got {arguments.jobs}")
    path = Path(arguments.report) if arguments.report else OUT[arguments.development] / f"{arguments.tower}.jsonl"
    if arguments.report is not None and not path.is_file():
        flags.error(f"--report: no file {path}")
    rows = RowFile(path)
    try:
        if arguments.report is None:
            parts = table(arguments.development)
            if arguments.only is not None:
                parts = only(parts, arguments.only.split(","))
            measure_all(missing(parts, rows, arguments.tower), rows, arguments.jobs)
        bars, details = report(rows)
    except (ConfigurationError, JobError) as error:
        flags.error(str(error))
    if arguments.picture is not None:
        entries = [{"method": label, **means} for label, means in details["methods"].items()]
        arguments.picture.write_text(front(entries, "The shifted cells"), encoding="utf-8")
    return finish(arguments, bars, details)


if __name__ == "__main__":
    sys.exit(main())
