"""The final table: what it is made of, that it goes on after a kill, and what its report makes of rows."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks import final
from benchmarks.final_report import NATURAL, best_rival, load, natural, parts_of, report
from grpo_tta.bench.rows import KEY, Outcome, RowFile, key_of
from grpo_tta.bench.settings import parse_methods
from grpo_tta.demo.packaged import PICTURE_SETS
from grpo_tta.evaluation.corruptions import CORRUPTIONS, DEVELOPMENT
from grpo_tta.evaluation.plans import CLEAN, Condition
from grpo_tta.pipeline.errors import JobError

ROOT = Path(__file__).parents[2]
CLASSES, FRAMES = 12, 60
PARTS = [
    final.Part(["fluent-emoji"], [CLEAN, Condition("fog", 5)], parse_methods("grpo,zero-shot"), 32, 2, 2),
    final.Part(["fluent-emoji"], [Condition("fog", 5)], parse_methods("vte"), 4, 1, 1),
]
SCRIPT = """
import sys
from pathlib import Path
from benchmarks import final
from grpo_tta.bench.rows import RowFile
sys.path.insert(0, sys.argv[1])
from test_final import PARTS
if __name__ == "__main__":
    rows = RowFile(Path(sys.argv[2]))
    final.measure_all(final.missing(PARTS, rows), rows, 2)
"""


def here(units: Sequence[final.Unit], jobs: int) -> Iterator[Any]:
    """As the pool, in this process."""
    for unit in units:
        yield unit, final.measure(unit), 0.0


def timeless(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines()
    rows = {key_of(row): {**row, "images_per_second": 0} for row in map(json.loads, lines)}
    for row in rows.values():  # only of rows that were measured with grpo's; the report compares all
        row.pop("gain_over_grpo", None)
        row.pop("interval_over_grpo", None)
    assert len(rows) == len(lines), "a cell was measured twice"
    return rows


def test_the_tables_are_what_they_say() -> None:
    for part in final.table(development=True):
        assert list(part.sets) == ["fluent-emoji"]
        assert {condition.kind for condition in part.conditions} <= {None, *DEVELOPMENT}
    first, *natural, long, main, others = final.table(development=False)
    assert first == replace(main, runs=1)
    assert len(main.sets) == 2
    assert not {"fluent-emoji", *PICTURE_SETS} & {Path(name).stem for name in main.sets}
    assert len(main.conditions) == len(others.conditions) == 1 + 2 * len(CORRUPTIONS)
    assert [method.label for method in main.methods][:2] == ["grpo", "whitened"]
    assert {method.label for method in others.methods} >= {"zero-shot", "tent", "sar", "deyo", "dota", "batclip"}
    assert [part.stream for part in natural] == list(NATURAL)
    assert all(part.conditions == [CLEAN] and part.runs == part.seeds for part in natural)
    packaged = replace(long, sets=list(PICTURE_SETS)[: len(long.sets)])  # the real ones are not shipped
    units = final.missing([packaged], RowFile(None))
    assert {unit.frames for unit in units} == {4000}
    twice = [replace(packaged, runs=runs, every=1, frames=100) for runs in (1, 2)]
    assert len(final.missing(twice, RowFile(None))) == 2 * len(packaged.sets) * len(packaged.conditions)
    assert len(units) == -(-len(main.sets) * len(long.conditions) // 8)
    assert [part.methods[0].label for part in final.only([main, others], ["tda-tuned"])] == ["tda-tuned"]


def test_every_tower_is_measured_by_rows_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(final, "of_demo", lambda config, name: asked.append((config.model.name, name)))
    final._material.cache_clear()
    for tower in final.TOWERS:
        final._material(tower, "fluent-emoji")
    final._material.cache_clear()
    assert asked == [(None, "fluent-emoji"), ("local-dir:build/towers/efficientnet", "fluent-emoji")]


def test_each_cell_has_runs_with_some_of_the_seeds_and_all_seeds_are_used() -> None:
    part = final.Part(
        ["fluent-emoji", "fluent-emoji-high-contrast"],
        [CLEAN, *(Condition("fog", n) for n in (1, 2, 3))],
        parse_methods("grpo"),
        8,
        5,
        2,
    )
    units = final.missing([part], RowFile(None))
    cells = {(unit.set_name, unit.condition) for unit in units}
    assert len(cells) == 8
    assert len(units) == 16
    assert len({(unit.set_name, unit.condition, unit.seed) for unit in units}) == 16
    assert {unit.seed for unit in units} == set(range(5))
    assert {(unit.set_name, unit.condition) for unit in units[:8]} == cells


def test_settings_that_were_chosen_are_methods_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tent.yaml").write_text("method: {name: tent, settings: {learning_rate: 0.1}}\n")
    monkeypatch.setattr(final, "TUNED", tmp_path)
    published, tuned = final.methods(["tent", "tent-tuned"])
    assert (published.label, published.settings.learning_rate) == ("tent", 0.001)
    assert (tuned.label, tuned.name, tuned.settings.learning_rate) == ("tent-tuned", "tent", 0.1)


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_two_processes_share_the_cells_and_a_killed_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed, script = tmp_path / "killed.jsonl", tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(Path(__file__).parent), str(killed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            while not (killed.exists() and killed.read_bytes()):  # three processes load torch before the first row
                assert process.poll() is None
                time.sleep(0.02)
            children = psutil.Process(process.pid).children()
        finally:
            process.kill()
    assert not psutil.wait_procs(children, timeout=30)[1], "processes outlive a run that was killed"
    with killed.open("a") as file:
        file.write('{"method": "gr')
    monkeypatch.setattr(final, "_measured", here)
    whole = tmp_path / "whole.jsonl"
    for path in (killed, whole):
        rows = RowFile(path)
        left = final.missing(PARTS, rows)
        assert len(left) == 5 or path == killed
        final.measure_all(left, rows, 1)
        assert final.missing(PARTS, RowFile(path)) == []
    assert timeless(killed) == timeless(whole)
    assert len(timeless(whole)) == 2 * 2 * 2 + 1
    capsys.readouterr()
    report(RowFile(killed))
    said = capsys.readouterr().out
    assert "shifted: 1 cells of 32 frames with 2 seeds, 2 runs" in said
    assert "shifted: 1 cells of 4 frames with 1 seeds, 1 runs" in said


class Made:
    """Rows in memory of methods that are right in a given share of cases."""

    def __init__(self) -> None:
        self.rows = RowFile(None)
        self.labels = np.arange(FRAMES) % CLASSES

    def add(self, method: str, gain: int, *, kind: str = "fog", data: str = "demo:fluent-emoji", **more: Any) -> None:
        """``gain`` frames of each class's five more than the frozen encoder's two."""
        turn = np.arange(FRAMES) // CLASSES
        right, frozen = turn < 2 + gain, turn < 2
        row = dict.fromkeys(KEY, "x") | {"method": method, "data": data, "corruption": kind}
        row |= {"stream": "null" if kind == "clean" else "steady", "severity": 0 if kind == "clean" else 3}
        row |= {"resets_by": "none", "seed": 0, "frames": FRAMES, "ece": 0.3, "ece_frozen": 0.25}
        row |= {"accuracy": right.mean(), "accuracy_frozen": frozen.mean()}
        row |= {"forward_equivalents": 4.0, "reporting_equivalents": 0.0, **more}
        self.rows.append(row, Outcome(self.labels, right, frozen, np.zeros(0, dtype=np.int64)))


def test_gains_by_part_and_against_the_best_rival_at_no_more_cost(capsys: pytest.CaptureFixture[str]) -> None:
    made = Made()
    openmoji = "openmoji:0123456789abcdef"
    for kind, data, more in (
        ("fog", "demo:fluent-emoji", (2, 1, 3, 0)),
        ("shot_noise", "demo:fluent-emoji", (1, 2, 3, 0)),
        ("speckle_noise", openmoji, (-1, -1, 3, 0)),
        ("clean", openmoji, (0, 0, 0, 0)),
    ):
        for method, gain in zip(("grpo", "tent", "sar", "zero-shot"), more, strict=True):
            cost = {"tent": 5.0, "sar": 6.0}.get(method, 4.0)
            spent = {"forward_equivalents": cost, "reporting_equivalents": 1.0 if method == "tent" else 0.0}
            made.add(method, gain, kind=kind, data=data, **spent)
    bars, details = report(made.rows)
    (results,) = load(made.rows)
    assert best_rival(results) == "tent"  # sar costs more
    by_part = details["gain"].items()
    gains = {title: {name: entry["mean"] for name, entry in parts["grpo"].items()} for title, parts in by_part}
    assert gains["by family"] == pytest.approx({"noise": 0.2, "weather": 0.4, "extra": -0.2})
    assert gains["by set"] == pytest.approx({"fluent-emoji": 0.3, "openmoji": -0.2})
    assert gains["by severity"] == pytest.approx({"severity 3": 0.4 / 3})
    assert gains["on development and held-out data"] == pytest.approx({"development": 0.4, "held out": 0.0})
    assert gains["on clean frames"] == {"openmoji": 0.0}
    assert list(gains["along the runs"].values()) == pytest.approx([0, -1 / 3, 2 / 3, 1 / 3, 0])
    assert list(details["methods"]["grpo"]["below"]) == ["openmoji, speckle_noise:3"]
    figures = {bar.name.strip(): (bar.figure, bar.reached) for bar in bars}
    assert figures["mean gain over the shifted cells"] == (pytest.approx(40 / 3), True)
    assert figures["shifted cells that may lose more than 1 point"] == (1, False)
    assert figures["calibration error, more than the frozen encoder's"] == (pytest.approx(5), False)
    assert figures["ahead of tent, the best at no more cost"] == (pytest.approx(0, abs=1e-9), False)
    assert figures["noise"] == (pytest.approx(5), False)
    assert figures["clean, openmoji: lower end of the gain's interval"] == (pytest.approx(0), True)
    assert figures["first fifth of the frames"] == (pytest.approx(0, abs=1e-9), True)
    assert figures["noise: lower end of the interval"] == (pytest.approx(-20), False)
    assert figures["weather: lower end of the interval"] == (pytest.approx(20), True)
    assert "openmoji, speckle_noise:3: -20.00 (-20.0 -20.0)" in capsys.readouterr().out


def test_only_the_last_settings_of_a_method_count_and_cells_that_all_have() -> None:
    made = Made()
    for kind in ("fog", "snow"):
        made.add("grpo", 1, kind=kind)
        made.add("tent", 3, kind=kind, settings="old")
    made.add("tent", 2, settings="new")
    made.add("tent", 3, kind="snow", resets_by="guard", settings="new")
    made.add("vte", 3, frames=30)
    results, others = load(made.rows)
    assert [run[1] for run in results.runs] == ["fog"]
    assert results.gain("tent", results.shifted).mean == pytest.approx(0.4)
    assert results.ahead("grpo", "tent", results.shifted).mean == pytest.approx(-0.2)
    assert list(others.rows) == ["vte"]


def test_methods_with_fewer_seeds_stand_beside_grpo_in_a_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    made = Made()
    for seed in range(2):
        made.add("grpo", 1, seed=seed)
        made.add("tent", 2, seed=seed)
    made.add("sar", 3, seed=1)
    main, others = load(made.rows)
    assert (list(main.rows), len(main.runs)) == (["grpo", "tent"], 2)
    assert (list(others.rows), [run[3] for run in others.runs]) == (["grpo", "sar"], [1])
    assert others.ahead("grpo", "sar", others.shifted).mean == pytest.approx(-0.4)
    report(made.rows)
    assert "grpo ahead of sar" in capsys.readouterr().out


def test_intervals_are_over_classes_and_seeds_make_one_cell() -> None:
    made, rng = Made(), np.random.default_rng(0)
    for seed in range(3):
        made.add("grpo", 1, seed=seed)
        outcome = made.rows.outcome(key_of(list(made.rows)[-1]))
        assert outcome is not None
        outcome.right[:] = outcome.labels < rng.integers(4, 9)
    (results,) = load(made.rows)
    assert [name for name, _ in results.cells.items()] == ["fluent-emoji, fog:3"]
    gain = results.gain("grpo", results.shifted)
    assert gain.low < gain.mean - 0.1
    assert gain.high > gain.mean + 0.1
    assert parts_of(results)["by family"].keys() == {"weather"}


def test_what_cannot_be_reported_is_named() -> None:
    made = Made()
    made.add("tent", 1)
    with pytest.raises(JobError, match="rows hold none of grpo"):
        load(made.rows)
    made.add("grpo", 1, kind="snow")
    with pytest.raises(JobError, match="no cell was measured with all of tent, grpo"):
        load(made.rows)
    made.labels = made.labels[::-1].copy()
    made.add("grpo", 1)
    with pytest.raises(JobError, match="grpo was measured on other frames than tent"):
        load(made.rows)
    clean = Made()
    clean.add("grpo", 0, kind="clean")
    with pytest.raises(JobError, match="no shifted cell"):
        report(clean.rows)


def test_rows_without_their_frames_are_named(tmp_path: Path) -> None:
    made = Made()
    made.add("grpo", 1)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made.rows))
    with pytest.raises(JobError, match=r"rows of grpo lack their frames: keep the folder \.frames"):
        load(RowFile(tmp_path / "rows.jsonl"))


def test_a_report_measures_nothing_and_draws_the_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = RowFile(tmp_path / "rows.jsonl")
    made = Made()
    made.rows = rows
    made.add("grpo", 2)
    made.add("tent", 1)
    monkeypatch.setattr(final, "measure_all", None)
    picture = tmp_path / "front.svg"
    monkeypatch.setattr(sys, "argv", ["final", "--report", str(tmp_path / "rows.jsonl"), "--picture", str(picture)])
    assert final.main() == 1  # a bar is missed: Made says that calibration is 5 points worse
    assert "ahead of tent" in capsys.readouterr().out
    assert {"grpo", "tent"} <= set(picture.read_text().replace("<", ">").split(">"))


def test_clean_frames_of_few_classes_are_a_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    made = Made()
    for method, gain in (("grpo", 2), ("tent", 1)):
        made.add(method, 1)
        for seed, stream in itertools.product(range(2), NATURAL):
            made.add(method, gain, kind="clean", stream=stream, seed=seed)
    for stream in NATURAL[1:]:
        made.add("sar", 3, kind="clean", stream=stream)  # not on all of them
    results = natural(made.rows)
    assert results is not None
    assert set(results.rows) == {"grpo", "tent"}
    assert len(results.runs) == 2 * len(NATURAL)
    assert (results.counts > 0).sum() == CLASSES * (2 + 2 * (len(NATURAL) - 1)), "classes of another draw are others"
    bars, details = report(made.rows)
    figures = {bar.name.strip(): bar.figure for bar in bars}
    assert figures["clean frames of new hands: mean gain"] == pytest.approx(40)
    assert figures["ahead of tent: lower end of the interval"] == pytest.approx(20)
    assert details["natural"]["grpo"]["few-classes-20"]["mean"] == pytest.approx(0.4)
    assert "few-classes-40" in capsys.readouterr().out
