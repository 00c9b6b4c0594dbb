"""``grpo-tta bench --suite``: the published sets one after another, their table, and published figures beside it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_tta.pipeline.cli.console import say

if TYPE_CHECKING:
    from grpo_tta.bench.rows import Row
    from grpo_tta.bench.settings import BenchMethod
    from grpo_tta.bench.suites.run import Part
    from grpo_tta.evaluation.cells import ResetRule
    from grpo_tta.evaluation.plans import Condition
    from grpo_tta.pipeline.config.job import JobConfig

SUITES = ("natural", "corruption", "cross-domain")
"""Those of `bench.suites.datasets.Suite`, spelt here so that ``--help`` need not import torch."""
_NOT_WITH = ("images", "truth", "pictures", "labels", "class_vectors", "reference")


def run_suite(
    flags: argparse.Namespace, config: "JobConfig", methods: "Sequence[BenchMethod]", rules: "Sequence[ResetRule]"
) -> int:
    """Look at every set first, so that one that is missing stops before anything is measured; then measure what is not
    yet in the file."""
    from grpo_tta import keep_freed_memory
    from grpo_tta.bench.rows import RowFile
    from grpo_tta.bench.suites import run
    from grpo_tta.bench.suites.datasets import datasets_of
    from grpo_tta.bench.tables import means_table, table
    from grpo_tta.evaluation.cells import GuardChoice
    from grpo_tta.pipeline.cli.columns import print_columns

    _check(flags, config)
    data = Path(flags.data)
    parts = run.parts_of(datasets_of(flags.suite, flags.datasets), _conditions(flags))
    _look(parts, data)
    keep_freed_memory()
    suite = run.SuiteBench(
        data,
        config.model,
        config.labels.templates,
        methods,
        rules,
        GuardChoice(config.guard.settings),
        flags.seeds,
        flags.max_images,
        flags.frames,
        flags.batch_size,
    )
    rows = RowFile(Path(flags.json) if flags.json else None)
    done = [row for of_part in run.run_suite(suite, parts, rows, _say) for row in of_part]
    print_columns(table(done, rows))
    print()
    print_columns(means_table(done))
    print("\nFor orientation (published: CLIP ViT-B/16 of OpenAI unless the method says otherwise, other protocols):")
    print_columns(run.orientation(flags.suite, done))
    if not all(row["published_images"] for row in done):
        print("* not over as many images as the published test set has")
    return 0


def _check(flags: argparse.Namespace, config: "JobConfig") -> None:
    from grpo_tta.pipeline.errors import ConfigurationError

    given = [name for name in _NOT_WITH if getattr(flags, name)]
    if given:
        raise ConfigurationError(f"--{given[0].replace('_', '-')} does not go with --suite")
    if flags.streams is not None:
        raise ConfigurationError(f"--streams {flags.streams}: a suite's sets are steady streams of clean frames")
    if flags.corruptions and flags.suite != "corruption":
        raise ConfigurationError(f"--corruptions goes with --suite corruption, not with {flags.suite}")
    if config.labels.file or config.labels.class_vectors or config.guard.reference:
        raise ConfigurationError("labels.file, labels.class_vectors and guard.reference do not go with --suite")
    if not flags.data:
        raise ConfigurationError("--suite needs --data DIR, the folder that the sets' folders are in")
    if config.model.name is None:
        raise ConfigurationError("--suite needs --model: the demo model knows only what it was taught to draw")


def _conditions(flags: argparse.Namespace) -> "Sequence[Condition]":
    from grpo_tta.bench.settings import parse_conditions
    from grpo_tta.bench.suites.run import DEFAULT_CONDITIONS
    from grpo_tta.evaluation.plans import CLEAN
    from grpo_tta.pipeline.errors import ConfigurationError

    if not flags.corruptions:
        return DEFAULT_CONDITIONS
    conditions = parse_conditions(flags.corruptions, severity=5)
    if CLEAN in conditions:
        raise ConfigurationError("--corruptions: ImageNet-C has no clean images: take --suite natural")
    return conditions


def _look(parts: "Sequence[Part]", data: Path) -> None:
    """Say how many images were found where; all that is missing is told at once."""
    from grpo_tta.bench.suites.reading import ALL, read
    from grpo_tta.pipeline.errors import ConfigurationError

    missing = []
    for part in parts:
        try:
            found = read(part.dataset, data, part.condition)
        except ConfigurationError as error:
            missing.append(str(error))
            continue
        count, published = len(found.images), part.dataset.test_images
        what = f"{part.name}: {count} images of {len(found.names)} classes ({found.split})"
        if found.split == ALL:
            what += f"; no {part.dataset.split} there, so training images are among them"
        if count != published:
            what += f"; the published test set has {published}"
        say(what)
    if missing:
        raise ConfigurationError("\n".join(missing) + "\n(--datasets NAME,... takes some of the sets only)")


def _say(row: "Row", new: bool) -> None:
    what = "is in the file"
    if new:
        accuracies = f"{100 * row['accuracy']:.2f}, frozen {100 * row['accuracy_frozen']:.2f}"
        what = f"{accuracies}, {row['images_per_second']:.0f} images/s"
    of = f" {row['corruption']}:{row['severity']}" if row["severity"] else ""
    cell = f"{row['dataset']}{of}, seed {row['seed']}, {row['method']}, {row['resets_by']}"
    say(f"{cell}: {what}", **row)
