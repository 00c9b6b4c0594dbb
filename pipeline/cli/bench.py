"""``grpo-tta bench``: its flags, and from them the comparison, its table and its pictures."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_tta.pipeline.cli.console import say

if TYPE_CHECKING:
    from grpo_tta.bench.rows import Row, RowFile
    from grpo_tta.bench.run import Bench
    from grpo_tta.bench.settings import BenchMethod
    from grpo_tta.evaluation.cells import ResetRule
    from grpo_tta.pipeline.config.job import JobConfig

_DEMO_FRAMES = 1200
_JOB_FLAGS = ("--labels", "--template", "--class-vectors", "--model", "--pretrained", "--device", "--threads")
_STREAMS = "null,abrupt"
_GUARD_FLAGS = ("--on-shift", "--reference")


def add_bench_flags(parser: argparse.ArgumentParser) -> None:
    """All flags of the command."""
    from grpo_tta.pipeline.cli.flags import add_some_flags
    from grpo_tta.pipeline.cli.suites import SUITES

    add = parser.add_argument
    add("--images", metavar="DIR", help="labelled images, a folder a class (default: scenes of the demo's pictures)")
    add("--set", metavar="NAME", help="without --images: fluent-emoji (default), another packaged set, or FILE.npz")
    add(
        "--truth",
        metavar="FILE.jsonl",
        help='with --images: lines {"id": path below DIR, "label":} in place of folders',
    )
    add("--suite", choices=SUITES, help="the published evaluation, over the sets in --data, in place of streams")
    add("--data", metavar="DIR", help="with --suite: the folder that the sets' folders are in")
    add("--datasets", metavar="NAME,...", help="with --suite: some of its sets, as in a,r,sketch (default: all)")
    add("--methods", default="grpo,tent,zero-shot", metavar="NAME,...", help="default: grpo,tent,zero-shot")
    add("--variant", action="append", default=[], metavar="LABEL=FILE.yaml", help="one more, set by a file; repeatable")
    add("--streams", metavar="NAME,...", help="default: null,abrupt; 'help' lists them")
    add("--corruptions", default="", metavar="KIND:SEVERITY,...", help="also clean, and groups such as development:3")
    add("--resets", default="guard", metavar="RULE,...", help="guard (default), none, true, periodic, random")
    add("--seeds", type=int, default=1, metavar="N", help="of stream and method (default: 1)")
    add("--max-images", type=int, metavar="N", help="of different images (default: all)")
    add("--frames", type=int, metavar="N", help=f"of a stream (default: as images; of the demo: {_DEMO_FRAMES})")
    add("--batch-size", type=int, default=32, metavar="N", help="images a step (default: 32)")
    add("--json", metavar="FILE", help="a row a cell, written as it is made; cells that are in it are not run again")
    add("--pictures", metavar="DIR", help="write front.svg and along-STREAM-CONDITION.svg there")
    add("--config", metavar="FILE.yaml", help="model, labels, guard, and the settings of the method it names")
    add_some_flags(parser, (*_JOB_FLAGS, *_GUARD_FLAGS))


def bench(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """Measure what is not yet in the file; print the table of all cells asked for."""
    from grpo_tta.bench import run
    from grpo_tta.bench.rows import RowFile
    from grpo_tta.bench.tables import means_table, table
    from grpo_tta.pipeline.cli.columns import print_columns
    from grpo_tta.pipeline.cli.suites import run_suite

    if flags.streams == "help":
        return _list_streams()
    config, methods, rules = _chosen(flags)
    if flags.suite is not None:
        return run_suite(flags, config, methods, rules)
    made = _bench(flags, config, methods, rules)
    run.check(made)
    rows = RowFile(Path(flags.json) if flags.json else None)
    total = len(made.streams) * made.seeds * len(made.methods) * len(made.rules)
    done = run.run_bench(made, rows, _Progress(total))
    print_columns(table(done, rows))
    print()
    print_columns(means_table(done))
    if flags.pictures:
        _draw(Path(flags.pictures), made, done, rows)
    return 0


class _Progress:
    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0

    def __call__(self, row: "Row", new: bool) -> None:
        from grpo_tta.bench.tables import condition_of

        self._done += 1
        what = f"gain {100 * row['gain']:+.1f}, {row['images_per_second']:.0f} images/s" if new else "is in the file"
        cell = f"{row['stream']}, {condition_of(row)}, seed {row['seed']}, {row['method']}, {row['resets_by']}"
        say(f"{self._done}/{self._total} {cell}: {what}", done=self._done, total=self._total, **row)


def _list_streams() -> int:
    from grpo_tta.evaluation.stream_makers import STREAMS
    from grpo_tta.pipeline.cli.columns import print_columns

    print_columns(
        [["stream", "conditions", "what it is"], *([n, kind.uses, kind.about] for n, kind in STREAMS.items())]
    )
    return 0


def _chosen(flags: argparse.Namespace) -> "tuple[JobConfig, list[BenchMethod], list[ResetRule]]":
    """What every comparison is run with."""
    from grpo_tta.bench.settings import parse_methods, parse_resets
    from grpo_tta.pipeline.cli.flags import job_values
    from grpo_tta.pipeline.config.job import make_config
    from grpo_tta.pipeline.errors import ConfigurationError

    for flag in ("seeds", "max_images", "frames", "batch_size"):
        value = getattr(flags, flag)
        if value is not None and value < 1:
            raise ConfigurationError(f"--{flag.replace('_', '-')} must be >= 1, got {value}")
    if flags.truth and not flags.images:
        raise ConfigurationError(f"--truth {flags.truth} goes with --images")
    if flags.set and flags.images:
        raise ConfigurationError(f"--set {flags.set} is of the demo's pictures: give it or --images")
    values = job_values(flags, [])
    config = make_config({**values, "source": {"url": "unused"}, "output": {"url": "unused"}})
    methods = parse_methods(flags.methods, flags.variant, _own(values, config))
    return config, methods, parse_resets(flags.resets)


def _bench(
    flags: argparse.Namespace, config: "JobConfig", methods: "Sequence[BenchMethod]", rules: "Sequence[ResetRule]"
) -> "Bench":
    from grpo_tta import DriftGuard, keep_freed_memory
    from grpo_tta.bench.run import Bench
    from grpo_tta.bench.settings import cells_of, parse_conditions, parse_streams
    from grpo_tta.evaluation.cells import GuardChoice
    from grpo_tta.pipeline.errors import ConfigurationError
    from grpo_tta.pipeline.label.load import load_reference

    if flags.data or flags.datasets:
        raise ConfigurationError("--data and --datasets go with --suite")
    given = parse_conditions(flags.corruptions) if flags.corruptions else []
    streams = [
        (name, conditions) for name in parse_streams(flags.streams or _STREAMS) for conditions in cells_of(name, given)
    ]
    keep_freed_memory()
    classifier, pictures, data, frames = _pictures(flags, config)
    guard = GuardChoice(config.guard.settings, load_reference(config, classifier))
    try:
        DriftGuard(guard.settings, classifier.class_vectors, guard.reference)
    except ValueError as error:
        raise ConfigurationError(f"--reference {flags.reference}: {error}") from error
    return Bench(classifier, pictures, data, methods, streams, rules, guard, flags.seeds, frames, flags.batch_size)


def _own(values: dict[str, Any], config: "JobConfig") -> "BenchMethod | None":
    """The method of the configuration file, where one names it."""
    from grpo_tta.bench.settings import BenchMethod

    name = config.method.name
    return BenchMethod(name, name, config.method.settings) if "method" in values else None


def _pictures(flags: argparse.Namespace, config: "JobConfig") -> tuple[Any, Any, str, int]:
    """Classifier, pictures, what tells them from others, frames of a stream."""
    from grpo_tta.bench.models import DEMO_SET, of_demo, of_images

    if flags.images is None:
        classifier, scenes, data = of_demo(config, flags.set or DEMO_SET)
        return classifier, scenes, data, flags.frames or flags.max_images or _DEMO_FRAMES
    classifier, files = of_images(config, Path(flags.images), flags.truth, flags.max_images)
    return classifier, files, files.digest, flags.frames or len(files.labels)


def _draw(folder: Path, made: "Bench", rows: Sequence["Row"], kept: "RowFile") -> None:
    """The front over all cells; each stream of seed 0 along its frames."""
    from grpo_tta.bench.charts import along, front
    from grpo_tta.bench.rows import key_of
    from grpo_tta.bench.tables import condition_of, means

    folder.mkdir(parents=True, exist_ok=True)
    entries = means(rows)
    (folder / "front.svg").write_text(front(entries, f"Mean of {entries[0]['cells']} cells"), encoding="utf-8")
    for stream, conditions in made.streams:
        plan = made.plan(stream, conditions, 0)
        names = [plan.conditions[plan.condition[start]].name for start in (0, *plan.changes)]
        runs = []
        for method in made.methods:
            key = key_of(made.key(method, made.rules[0], stream, conditions, 0))
            row, outcome = kept.get(key), kept.outcome(key)
            if row is not None and outcome is not None:
                runs.append((row, outcome))
        if runs:
            where = f"{stream}-{condition_of(runs[0][0])}".replace(":", "-").replace("+", "-")
            window = max(1, min(500, len(plan) // 8))
            picture = along(runs, plan.changes, names, f"{stream}, {condition_of(runs[0][0])}, seed 0", window)
            (folder / f"along-{where}.svg").write_text(picture, encoding="utf-8")
    print(f"\npictures in {folder}")
