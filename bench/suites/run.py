"""A suite set by set: each is a comparison of its own over its own classes, and all share one file of rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grpo_tta import Classifier, ModelSettings, load_classifier
from grpo_tta.bench.pictures import FilePictures, some_of
from grpo_tta.bench.rows import Row, RowFile
from grpo_tta.bench.run import Bench, check, run_bench
from grpo_tta.bench.settings import BenchMethod
from grpo_tta.bench.suites.datasets import DATASETS, Dataset, LabelledImages, Suite, prompts_of
from grpo_tta.bench.suites.published import MEAN, PUBLISHED
from grpo_tta.bench.suites.reading import read
from grpo_tta.bench.tables import condition_of
from grpo_tta.checks import ModelError
from grpo_tta.evaluation.cells import GuardChoice, ResetRule
from grpo_tta.evaluation.corruptions import CORRUPTIONS
from grpo_tta.evaluation.plans import CLEAN, Condition
from grpo_tta.images import canvas_spec
from grpo_tta.pipeline.errors import ConfigurationError

STREAM = "steady"
IMAGENET_C = tuple(kind.name for kind in CORRUPTIONS.values() if not kind.extra)
DEFAULT_CONDITIONS = tuple(Condition(kind, 5) for kind in IMAGENET_C)


@dataclass(frozen=True)
class Part:
    """One set; of ImageNet-C one kind and severity."""

    dataset: Dataset
    condition: Condition | None = None

    @property
    def name(self) -> str:
        """For people: ``imagenet-a``, ``imagenet-c fog:5``."""
        return f"{self.dataset.name} {self.condition.name}" if self.condition else self.dataset.name


@dataclass(frozen=True)
class SuiteBench:
    """What every part is run with. ``templates`` empty: each set's own; ``frames`` and ``most`` ``None``: all
    images."""

    data: Path
    model: ModelSettings
    templates: Sequence[str]
    methods: Sequence[BenchMethod]
    rules: Sequence[ResetRule]
    guard: GuardChoice
    seeds: int
    most: int | None
    frames: int | None
    batch_size: int


@dataclass(frozen=True)
class _SetBench(Bench):
    """A comparison whose rows say which set they are of; ``columns`` also takes the place of what a stream of clean
    frames would say of corruption and severity, since ImageNet-C's images are corrupted as they come."""

    columns: Mapping[str, Any]

    def key(
        self, method: BenchMethod, rule: ResetRule, stream: str, conditions: Sequence[Condition], seed: int
    ) -> dict[str, Any]:
        return {**super().key(method, rule, stream, conditions, seed), **self.columns}


def parts_of(datasets: Sequence[Dataset], conditions: Sequence[Condition]) -> list[Part]:
    """Sets as they are; of ImageNet-C a part for each condition."""
    return [
        Part(dataset, condition)
        for dataset in datasets
        for condition in (conditions if dataset.suite == "corruption" else [None])
    ]


def run_suite(
    suite: SuiteBench, parts: Sequence[Part], rows: RowFile, say: Callable[[Row, bool], None]
) -> Iterator[list[Row]]:
    """The rows of each part in turn; what ``rows`` has is not measured again. Raises as `read`, `Bench` and the model
    do. A classifier is kept while parts ask for the same texts."""
    texts: dict[str, list[str]] = {}
    classifier: Classifier | None = None
    for part in parts:
        found = read(part.dataset, suite.data, part.condition)
        wanted = prompts_of(part.dataset, found.names, suite.templates)
        if classifier is None or wanted != texts:
            texts, classifier = wanted, _classifier(suite.model, wanted)
        bench = _bench_of(suite, part, found, classifier)
        check(bench)
        yield run_bench(bench, rows, say)


def _classifier(model: ModelSettings, texts: Mapping[str, Sequence[str]]) -> Classifier:
    try:
        return load_classifier(model, prompts=texts)
    except ModelError as error:
        raise ConfigurationError(str(error)) from error


def _bench_of(suite: SuiteBench, part: Part, found: LabelledImages, classifier: Classifier) -> _SetBench:
    images = some_of(found.images, suite.most)
    pictures = FilePictures(images, tuple(found.names), canvas_spec(classifier))
    frames = suite.frames or len(images)
    columns: dict[str, Any] = {
        "suite": part.dataset.suite,
        "dataset": part.dataset.name,
        "images": found.split,
        "published_images": part.dataset.test_images == len(images) == frames,
        "template": " | ".join(suite.templates) or part.dataset.template,
    }
    if part.condition is not None:
        columns |= {"corruption": part.condition.kind, "severity": part.condition.severity}
    return _SetBench(
        classifier,
        pictures,
        f"{part.dataset.name}:{pictures.digest}",
        suite.methods,
        [(STREAM, [CLEAN])],
        suite.rules,
        suite.guard,
        suite.seeds,
        frames,
        suite.batch_size,
        columns,
    )


def orientation(suite: Suite, rows: Sequence[Row]) -> list[list[str]]:
    """Measured and published accuracies side by side, the head first: a line for each method, and columns for what the
    published figures are of. ``*``: not over as many images as the published test set has."""
    published = [entry for entry in PUBLISHED if entry.suite == suite]
    columns = [*dict.fromkeys(name for entry in published for name in entry.figures if name != MEAN), MEAN]
    lines = [["", "method", *columns, "source"]]
    for method, cells in _measured(rows).items():
        cells[MEAN] = _mean(suite, cells)
        lines.append(["measured", method, *(_cell(cells.get(name)) for name in columns), ""])
    for entry in published:
        figures = [f"{entry.figures[name]:.2f}" if name in entry.figures else "" for name in columns]
        lines.append(["published", entry.method, *figures, entry.source])
    return lines


_Figure = tuple[float, bool]


def _measured(rows: Sequence[Row]) -> dict[str, dict[str, _Figure | None]]:
    """By method, the frozen encoder first, and column: accuracy in per cent, and whether it is over the published
    images. Seeds are joined."""
    found: dict[str, dict[str, list[Row]]] = {}
    frozen: dict[str, list[Row]] = {}
    for row in rows:
        column = condition_of(row) if row["suite"] == "corruption" else row["dataset"]
        frozen.setdefault(column, []).append(row)
        label = f"{row['method']}, resets by {row['resets_by']}"
        found.setdefault(label, {}).setdefault(column, []).append(row)
    lines: dict[str, dict[str, _Figure | None]] = {"frozen encoder": _joined(frozen, "accuracy_frozen")}
    return lines | {label: _joined(cells, "accuracy") for label, cells in found.items()}


def _joined(cells: Mapping[str, Sequence[Row]], column: str) -> dict[str, _Figure | None]:
    return {
        name: (100 * float(np.mean([row[column] for row in rows])), all(row["published_images"] for row in rows))
        for name, rows in cells.items()
    }


def _mean(suite: Suite, cells: Mapping[str, _Figure | None]) -> _Figure | None:
    """Over all that the published mean is over, or none."""
    wanted = [name for name, dataset in DATASETS.items() if dataset.suite == suite and name != "imagenet"]
    if suite == "corruption":
        wanted = [condition.name for condition in DEFAULT_CONDITIONS]
    figures = [figure for name in wanted if (figure := cells.get(name)) is not None]
    if len(figures) < len(wanted):
        return None
    return float(np.mean([value for value, _ in figures])), all(whole for _, whole in figures)


def _cell(figure: _Figure | None) -> str:
    return "" if figure is None else f"{figure[0]:.2f}{'' if figure[1] else '*'}"
