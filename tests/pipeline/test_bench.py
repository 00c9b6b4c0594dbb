"""``grpo-tta bench`` on a tiny model: any labelled images, rows that resume, and what is said of bad input."""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_bench import Run, assert_refused, rows_of
from pipeline_tiny_model import CLASSES, SIZE, blobs, tiny_classifier
from safetensors.torch import save_file

from grpo_tta import METHODS, Classifier, GrpoSettings
from grpo_tta.adapters.images import CanvasSpec
from grpo_tta.bench import models
from grpo_tta.bench.charts import front
from grpo_tta.bench.pictures import FilePictures, find_images, some_of
from grpo_tta.bench.rows import RowFile, key_of
from grpo_tta.bench.settings import (
    cells_of,
    name_of,
    parse_conditions,
    parse_methods,
    parse_resets,
    parse_streams,
)
from grpo_tta.demo import pictures
from grpo_tta.demo.packaged import assets_path
from grpo_tta.evaluation.corruptions import CORRUPTIONS, DEVELOPMENT
from grpo_tta.evaluation.plans import CLEAN, Condition
from grpo_tta.evaluation.stream_makers import make_plan
from grpo_tta.pipeline.cli import main
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.errors import ConfigurationError, JobError

PER_CLASS = 5
UNUSED = {"source": {"url": "unused"}, "output": {"url": "unused"}}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, five images each, never written to; and a truth file beside it."""
    folder = tmp_path_factory.mktemp("bench") / "images"
    lines = []
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            identity = f"{name}/{number}.png"
            canvas = blobs(_ref(identity))
            Image.fromarray(canvas.transpose(1, 2, 0)).save(folder / identity)
            lines.append(json.dumps({"id": identity, "label": name, "segment": "x"}))
    (folder.parent / "truth.jsonl").write_text("\n".join(lines[3:]) + "\n")
    return folder


def _ref(identity: str) -> Any:
    return type("Ref", (), {"id": identity})()


@pytest.fixture
def bench(images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command over the images with the tiny model: exit code and what was printed to both streams."""

    def load(*_: object, class_names: list[str], **__: object) -> Classifier:
        assert class_names == list(CLASSES)
        return tiny_classifier()

    monkeypatch.setattr(models, "load_classifier", load)

    def command(*flags: object) -> tuple[int, str, str]:
        code = main(["bench", "--images", str(images), *map(str, flags)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def test_a_row_a_cell_and_a_table(bench: Run, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    flags = ["--methods", "tent,grpo,zero-shot", "--streams", "null,abrupt", "--frames", 64, "--seeds", 2]
    code, said, progress = bench(*flags, "--json", out, "--pictures", tmp_path / "pictures")
    assert code == 0, progress
    rows = rows_of(out)
    assert len(rows) == 3 * 2 * 2
    assert [row["method"] for row in rows[:3]] == ["grpo", "tent", "zero-shot"]
    names = "method stream corruption severity seed n accuracy accuracy_frozen gain interval forward_equivalents"
    for row in rows:
        assert set(names.split()) | {"images_per_second", "ece", "resets", "brier"} <= row.keys()
        assert row["n"] == 64
    for method in ("grpo", "tent"):
        frozen = [row["accuracy_frozen"] for row in rows if row["method"] == method]
        assert frozen == [row["accuracy_frozen"] for row in rows if row["method"] == "zero-shot"]
    zero = [row for row in rows if row["method"] == "zero-shot"]
    grpo = [row for row in rows if row["method"] == "grpo"]
    for of_zero, of_grpo in zip(zero, grpo, strict=True):
        assert of_zero["gain"] == 0
        assert of_zero["gain_over_grpo"] == pytest.approx(-of_grpo["gain"])
    assert {(row["stream"], row["corruption"], row["severity"]) for row in rows} == {
        ("null", "clean", 0),
        ("abrupt", "development", 3),
    }
    assert re.search(r"^abrupt +development:3 +grpo +guard +128 ", said, re.MULTILINE)
    assert re.search(r"^method +cells +frozen +accuracy +gain +cost$", said, re.MULTILINE)
    assert progress.count("images/s") == 12
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["along-abrupt-development-3.svg", "along-null-clean.svg", "front.svg"]
    texts = [ElementTree.parse(tmp_path / "pictures" / name).getroot().itertext() for name in pictures]
    assert all({"grpo", "tent", "frozen"} <= {text.strip() for text in own} for own in texts)


def test_a_killed_run_goes_on_and_rows_are_as_undisturbed(bench: Run, tmp_path: Path) -> None:
    flags = ["--methods", "grpo,prior-correction", "--streams", "null,class-ordered", "--frames", 64]
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert bench(*flags, "--json", whole)[0] == 0
    lines = whole.read_text().splitlines(keepends=True)
    cut.write_text(lines[0] + lines[1][:40])
    shutil.copytree(f"{whole}.frames", f"{cut}.frames")
    code, _, progress = bench(*flags, "--json", cut)
    assert code == 0
    assert progress.count("is in the file") == 1
    timeless = [{**row, "images_per_second": 0} for row in rows_of(whole)]
    assert [{**row, "images_per_second": 0} for row in rows_of(cut)] == timeless
    before = cut.read_bytes()
    code, said, progress = bench(*flags, "--json", cut)
    assert (code, progress.count("is in the file")) == (0, 4)
    assert cut.read_bytes() == before
    assert "prior-correction" in said
    assert bench(*flags, "--json", cut, "--frames", 32)[0] == 0
    assert len(rows_of(cut)) == 8


def test_every_row_is_compared_with_grpo_whenever_that_was_measured(bench: Run, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    flags = ["--streams", "null", "--frames", 64, "--json", out]
    code, said, _ = bench("--methods", "zero-shot,tent", *flags)
    assert code == 0
    assert "gain_over_grpo" not in rows_of(out)[0]
    code, said, _ = bench("--methods", "zero-shot,tent,grpo", *flags)
    assert code == 0
    head, *lines = [line for line in said.splitlines() if line.startswith(("stream ", "null "))]
    start = head.index("over grpo")
    compared = {line.split()[2]: line[start : start + len("over grpo")].strip() for line in lines}
    (grpo,) = [row for row in rows_of(out) if row["method"] == "grpo"]
    assert float(compared["zero-shot"]) == pytest.approx(-100 * grpo["gain"], abs=0.051)
    assert (compared["grpo"], bool(compared["tent"])) == ("", True)


def test_memory_and_state_are_those_of_the_method(bench: Run, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert (
        bench("--methods", "zero-shot,grpo", "--streams", "null", "--frames", 64, "--batch-size", 16, "--json", out)[0]
        == 0
    )
    grpo, zero = rows_of(out)
    assert zero["state_kb"] == 0
    assert grpo["state_kb"] > 0
    assert grpo["memory_mb"] > zero["memory_mb"] > 0


def test_frames_do_not_depend_on_who_labels_them_or_on_the_batch(bench: Run, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    for size in (1, 32):
        flags = ["--methods", "grpo,tda", "--streams", "mixed-cameras", "--corruptions", "fog:3,contrast:4"]
        assert bench(*flags, "--frames", 64, "--batch-size", size, "--json", out)[0] == 0
    rows = rows_of(out)
    assert len({row["accuracy_frozen"] for row in rows}) == 1
    assert len({row["accuracy"] for row in rows if row["method"] == "grpo"}) == 1
    assert {row["corruption"] for row in rows} == {"fog:3+contrast:4"}


def test_controls_reset_as_often_as_the_guard(bench: Run, tmp_path: Path) -> None:
    config = tmp_path / "guard.yaml"
    settings = "probe_frames: 8, reference_probes: 4, shift_lambda: 0.1, shift_delta: 0.0, on_shift: reset"
    config.write_text(f"guard: {{settings: {{{settings}}}}}\n")
    out = tmp_path / "rows.jsonl"
    flags = ["--methods", "grpo", "--streams", "abrupt", "--corruptions", "contrast:5,fog:5", "--frames", 240]
    rules = ["--resets", "random,guard,none,periodic,true"]
    code, _, said = bench(*flags, *rules, "--config", config, "--json", out)
    assert code == 0, said
    rows = {row["resets_by"]: row for row in rows_of(out)}
    assert list(rows) == ["guard", "none", "true", "periodic", "random"]
    assert rows["guard"]["resets"] > 0
    assert rows["guard"]["detection_delays"]
    assert rows["none"]["resets"] == 0
    assert rows["true"]["resets"] == 2
    assert rows["periodic"]["resets"] == rows["random"]["resets"] == rows["guard"]["resets"]


def test_few_classes_are_asked_for_alone(bench: Run, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert bench("--methods", "zero-shot", "--streams", "few-classes-2,null", "--frames", 200, "--json", out)[0] == 0
    few, all_classes = rows_of(out)
    assert few["accuracy"] > all_classes["accuracy"]


def test_a_truth_file_names_the_images_and_variants_have_settings(images: Path, bench: Run, tmp_path: Path) -> None:
    out, tuned = tmp_path / "rows.jsonl", tmp_path / "tuned.yaml"
    tuned.write_text("method: {name: tent, settings: {learning_rate: 0.1}}\n")
    flags = ["--truth", images.parent / "truth.jsonl", "--methods", "tent", "--variant", f"tent-tuned={tuned}"]
    assert bench(*flags, "--streams", "null", "--json", out)[0] == 0
    plain, changed = rows_of(out)
    assert plain["n"] == len(CLASSES) * PER_CLASS - 3
    assert (plain["method"], changed["method"]) == ("tent", "tent-tuned")
    assert plain["settings"] != changed["settings"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--methods", "tent,magic"], r"--methods: 'magic' is none of grpo, .*grpo-episodic"),
        (["--methods", "tent,,sar"], "--methods: expected names with commas between them, got 'tent,,sar'"),
        (["--streams", "null,sudden"], "--streams: 'sudden' is none of null, "),
        (["--corruptions", "mist:3"], "--corruptions: 'mist' is none of gaussian_noise, "),
        (["--corruptions", "fog:9"], "--corruptions: severity of fog must be 1 to 5, got '9'"),
        (["--streams", "gradual", "--corruptions", "clean"], "stream gradual needs a corruption, got clean"),
        (["--streams", "abrupt", "--frames", "20"], "abrupt needs at least 60 frames, got 20"),
        (["--streams", "few-classes-10"], "few-classes-10 needs pictures of 10 classes, there are 8"),
        (["--resets", "sometimes"], "--resets: 'sometimes' is none of guard, "),
        (["--resets", "periodic"], "--resets: periodic takes the guard's number of resets: name guard too"),
        (["--seeds", "0"], "--seeds must be >= 1, got 0"),
        (["--max-images", "0"], "--max-images must be >= 1, got 0"),
        (["--batch-size", "-3"], "--batch-size must be >= 1, got -3"),
        (["--variant", "tent-tuned"], "--variant: expected LABEL=FILE.yaml, got 'tent-tuned'"),
        (["--images", "/no/such"], "--images /no/such: no such folder"),
        (["--set", "openmoji.npz"], "--set openmoji.npz is of the demo's pictures: give it or --images"),
        (["--reference", "/no/such"], "reference /no/such: .*No such file"),
    ],
)
def test_what_cannot_be_done_is_named_and_writes_nothing(
    bench: Run, tmp_path: Path, flags: list[str], said: str
) -> None:
    assert_refused(bench, tmp_path / "rows.jsonl", flags, said)


def test_a_file_that_is_no_image_or_no_row_is_named(images: Path, bench: Run, tmp_path: Path) -> None:
    other = tmp_path / "images"
    shutil.copytree(images, other)
    broken = other / CLASSES[2] / "1.png"
    broken.write_bytes(b"GIF89a")
    code, _, said = bench("--images", other, "--streams", "null", "--methods", "zero-shot")
    assert code == 1
    assert f"{broken}: " in said
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"method": "grpo"}\n')
    code, _, said = bench("--streams", "null", "--json", rows)
    assert code == 1
    assert "rows.jsonl, line 1 is no row of 'grpo-tta bench'" in said


def test_streams_are_listed(bench: Run) -> None:
    code, said, _ = bench("--streams", "help")
    assert code == 0
    assert "fixed-camera" in said


def test_methods_and_conditions_as_written() -> None:
    assert [m.label for m in parse_methods(",".join(METHODS))] == list(METHODS)
    (episodic,) = parse_methods("grpo-episodic")
    assert (episodic.name, episodic.settings) == ("grpo", GrpoSettings.episodic())
    assert episodic.of_seed(7).seed == 7
    with pytest.raises(ConfigurationError, match="name tent more than once"):
        parse_methods("tent", ["tent=/dev/null"])
    assert parse_streams("abrupt, null") == ["abrupt", "null"]
    assert parse_resets("random,guard") == ["guard", "random"]
    assert parse_conditions("fog,clean,fog:3,contrast:4") == [Condition("fog", 3), CLEAN, Condition("contrast", 4)]
    assert [c.kind for c in parse_conditions("development:5")] == list(DEVELOPMENT)
    assert len(parse_conditions("imagenet-c:1")) == 15
    assert len(parse_conditions("extra:1")) == 4
    assert len(parse_conditions("all:1,all:2")) == 2 * len(CORRUPTIONS)


def test_conditions_of_streams() -> None:
    fog, dark = Condition("fog", 3), Condition("contrast", 4)
    assert cells_of("null", [fog]) == [[CLEAN]]
    assert cells_of("class-ordered", []) == [[CLEAN]]
    assert cells_of("class-ordered", [CLEAN, fog]) == [[CLEAN], [fog]]
    assert cells_of("steady", [CLEAN, fog, dark]) == [[fog], [dark]]
    assert cells_of("abrupt", [CLEAN, fog, dark]) == [[fog, dark]]
    assert [c.kind for (c,) in cells_of("recurring", [])] == list(DEVELOPMENT)
    assert len(cells_of("gradual", [fog, Condition("fog", 5)])) == 1
    assert name_of([fog]) == ("fog", 3)
    assert name_of([fog, dark]) == ("fog:3+contrast:4", None)
    assert name_of(parse_conditions("all:2")) == ("all", 2)


def test_images_are_found_and_thinned_class_by_class(images: Path, tmp_path: Path) -> None:
    found = find_images(images, None)
    assert len(found) == len(CLASSES) * PER_CLASS
    assert found[0].id == f"{CLASSES[0]}/0.png"
    few = some_of(found, 10)
    assert few == some_of(found, 10)
    assert {image.label for image in few} == set(CLASSES)
    assert some_of(found, 100) == found
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobError, match="holds no image in a folder named like its class"):
        find_images(tmp_path / "empty", None)
    spec = CanvasSpec(SIZE, SIZE)
    with pytest.raises(ConfigurationError, match="also of 'thing 7', which is none of the 7 classes"):
        FilePictures(found, CLASSES[:-1], spec)


def test_few_canvases_are_kept(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_tta.bench.pictures._CACHE_BYTES", 7 * 3 * SIZE * SIZE)
    pictures = FilePictures(find_images(images, None), CLASSES, CanvasSpec(SIZE, SIZE))
    order = np.tile(np.arange(40), 2)
    loaded = pictures.load(order, order)
    assert np.array_equal(loaded[:40], loaded[40:])
    assert len(pictures._kept) == 7
    assert np.array_equal(loaded[3], blobs(_ref(f"{CLASSES[0]}/3.png")))


def test_names_in_the_front_do_not_cover_each_other() -> None:
    entries = [{"method": name, "cost": 1.0, "accuracy": 0.5, "accuracy_frozen": 0.5, "cells": 1} for name in "abc"]
    texts = ElementTree.fromstring(front(entries, "title")).iter("{http://www.w3.org/2000/svg}text")
    heights = sorted(float(text.get("y", 0)) for text in texts if text.text in set("abc"))
    assert np.diff(heights).min() >= 12


def test_a_row_is_known_by_what_its_figures_depend_on(bench: Run, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert bench("--methods", "zero-shot", "--streams", "null", "--json", out)[0] == 0
    rows = RowFile(out)
    (row,) = rows
    outcome = rows.outcome(key_of(row))
    assert outcome is not None
    assert outcome.right.mean() == row["accuracy"]
    assert key_of({**row, "gain": 1.0}) == key_of(row)
    assert key_of({**row, "seed": 1}) != key_of(row)
    shutil.rmtree(f"{out}.frames")
    assert RowFile(out).outcome(key_of(row)) is None
    assert bench("--methods", "zero-shot", "--streams", "null", "--json", out)[0] == 0


def test_pictures_are_of_a_packaged_set_or_of_a_file(tmp_path: Path) -> None:
    classifier, packaged, data = models.of_demo(make_config(UNUSED))
    assert (len(packaged.labels), data) == (365, "demo:fluent-emoji")
    drawings, labels = pictures()
    file = tmp_path / "few.npz"
    np.savez(file, pictures=drawings[100:200], concepts=labels[100:200])
    other, few, of_file = models.of_demo(make_config(UNUSED), str(file))
    assert re.fullmatch(r"few:[0-9a-f]{16}", of_file)
    assert other.class_names == classifier.class_names
    plan = make_plan("steady", few.labels, 40, [Condition("fog", 3)], 0)
    assert set(plan.labels) <= set(range(100, 200))
    shown = few.load(plan.pictures, plan.looks)
    assert np.array_equal(shown, packaged.load(plan.labels, plan.looks))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pictures": np.zeros((2, 72, 72, 4), np.uint8)}, "few.npz: .*concepts"),
        ({"pictures": np.zeros((2, 72, 72, 3), np.uint8), "concepts": np.arange(2)}, r"got uint8 \[2, 72, 72, 3\]"),
        (
            {"pictures": np.zeros((2, 72, 72, 4), np.uint8), "concepts": np.array([3, 365])},
            "concepts must be 0 to 364, got 3 to 365",
        ),
    ],
)
def test_a_file_that_is_no_set_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "few.npz", **arrays)
    with pytest.raises(ConfigurationError, match=said):
        models.of_demo(make_config(UNUSED), str(tmp_path / "few.npz"))
    with pytest.raises(ConfigurationError, match=r"--set must be fluent-emoji, .* or an .npz file, got 'emoji'"):
        models.of_demo(make_config(UNUSED), "emoji")


def test_another_tower_is_asked_for_the_demos_classes_by_vectors_of_its_own(tmp_path: Path) -> None:
    classifier, _, _ = models.of_demo(make_config(UNUSED))
    file, names = tmp_path / "vectors.safetensors", list(classifier.class_names)
    vectors = {"class_vectors": classifier.class_vectors.flip(0).contiguous()}
    config = make_config(
        {**UNUSED, "model": {"name": f"local-dir:{assets_path()}"}, "labels": {"class_vectors": str(file)}}
    )
    save_file(vectors, file, metadata={"class_names": json.dumps(names)})
    other, packaged, _ = models.of_demo(config)
    assert list(other.class_names) == names
    torch.testing.assert_close(other.class_vectors, vectors["class_vectors"])
    assert len(packaged.labels) == 365
    save_file(vectors, file, metadata={"class_names": json.dumps(names[::-1])})
    with pytest.raises(ConfigurationError, match="they must be of the demo's 365 classes in their order"):
        models.of_demo(config)
