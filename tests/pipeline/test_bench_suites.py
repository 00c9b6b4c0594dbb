"""``grpo-tta bench --suite`` over tiny trees in the published layouts, with a tiny random open_clip model."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pipeline_bench import Run, assert_refused, rows_of
from safetensors.torch import save_file

from grpo_tta.bench.suites.datasets import DATASETS, datasets_of, prompts_of
from grpo_tta.bench.suites.published import MEAN, PUBLISHED
from grpo_tta.bench.suites.reading import ALL, read, wnids
from grpo_tta.bench.suites.run import DEFAULT_CONDITIONS, IMAGENET_C
from grpo_tta.evaluation.plans import Condition
from grpo_tta.pipeline.cli import main
from grpo_tta.pipeline.cli.suites import SUITES
from grpo_tta.pipeline.errors import ConfigurationError

SIZE = 32
TENCH, SHARK, JELLYFISH = "n01440764", "n01484850", "n01910747"  # classes 0 and 2; and one of -A and -R


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path.name).encode()))
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((SIZE, SIZE)).save(path)


def pictures(root: Path, names: Iterable[str]) -> None:
    for name in names:
        picture(root / name)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as open_clip saves one."""
    folder = tmp_path_factory.mktemp("tiny-clip")
    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": SIZE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = open_clip.CLIP(**config).state_dict()
    save_file(weights, folder / "open_clip_model.safetensors")
    preprocess = {"size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


@pytest.fixture
def bench(model: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*flags: object) -> tuple[int, str, str]:
        code = main(["bench", "--model", f"local-dir:{model}", "--threads", "1", *map(str, flags)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def natural(data: Path) -> Path:
    for root in ("imagenet/images/val", "imagenet-sketch/images"):
        pictures(data / root, [f"{TENCH}/a.JPEG", f"{TENCH}/b.JPEG", f"{SHARK}/c.JPEG"])
    for root in ("imagenet-adversarial/imagenet-a", "imagenet-rendition/imagenet-r"):
        pictures(data / root, [f"{JELLYFISH}/a.jpg", f"{JELLYFISH}/b.jpg"])
        (data / root / "README.txt").write_text("no image")
    pictures(data / "imagenetv2/imagenetv2-matched-frequency-format-val", ["0/a.jpeg", "2/b.jpeg", "10/c.jpeg"])
    return data


def split_file(path: Path, root: str = "") -> None:
    def entries(*numbers: int) -> list[list[Any]]:
        return [
            [f"{root}{number}.jpg", label, ("b_one", "a two")[label]] for number, label in ((n, n % 2) for n in numbers)
        ]

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"train": entries(1, 2), "val": [], "test": entries(4, 6, 8)}))


def test_a_natural_suite_is_a_row_a_set_and_method_and_goes_on(bench: Run, tmp_path: Path) -> None:
    data, out = natural(tmp_path / "data"), tmp_path / "rows.jsonl"
    flags = ["--suite", "natural", "--data", data, "--methods", "grpo,grpo-episodic,zero-shot", "--json", out]
    code, said, progress = bench(*flags)
    assert code == 0, progress
    rows = rows_of(out)
    names = [dataset.name for dataset in datasets_of("natural", None)]
    assert names == ["imagenet", "imagenet-a", "imagenet-v2", "imagenet-r", "imagenet-sketch"]
    methods = ["grpo", "grpo-episodic", "zero-shot"]
    assert [(row["dataset"], row["method"]) for row in rows] == [(name, m) for name in names for m in methods]
    assert {row["stream"] for row in rows} == {"steady"}
    assert {(row["corruption"], row["severity"]) for row in rows} == {("clean", 0)}
    assert [row["n"] for row in rows[::3]] == [3, 2, 3, 2, 3]
    assert "imagenet-a: 2 images of 200 classes (as published); the published test set has 7500" in progress
    assert "imagenet-v2: 3 images of 1000 classes" in progress
    zero = np.mean(
        [100 * row["accuracy"] for row in rows if row["method"] == "zero-shot" and row["dataset"] != names[0]]
    )
    assert re.search(rf"^measured +frozen encoder +.* {zero:.2f}\*$", said, re.MULTILINE)
    assert re.search(
        r"^published +ZERO, template ensemble +71.17 .* 64.83 +ZERO, repository, nds.png$", said, re.MULTILINE
    )
    before = out.read_bytes()
    code, _, progress = bench(*flags)
    assert (code, progress.count("is in the file")) == (0, 15)
    assert out.read_bytes() == before
    assert bench(*flags, "--datasets", "a", "--template", "art of a {}")[0] == 0
    assert len(rows_of(out)) == 18
    assert rows_of(out)[-1]["model"] != rows[3]["model"]


def test_imagenet_classes_by_wnid_and_by_index(tmp_path: Path) -> None:
    data = natural(tmp_path)
    found = read(DATASETS["imagenet-v2"], data)
    assert {image.id: found.names[image.label] for image in found.images} == {
        "0/a.jpeg": "tench",
        "2/b.jpeg": "great white shark",
        "10/c.jpeg": "brambling",
    }
    of_all = read(DATASETS["imagenet-sketch"], data)
    assert [of_all.names[image.label] for image in of_all.images] == ["tench", "tench", "great white shark"]
    assert list(of_all.names) == sorted(of_all.names) == list(wnids())
    hard = read(DATASETS["imagenet-a"], data)
    assert (len(hard.names), hard.names[JELLYFISH]) == (200, "jellyfish")
    assert TENCH not in hard.names
    picture(data / "imagenet-adversarial/imagenet-a" / TENCH / "a.jpg")
    with pytest.raises(ConfigurationError, match=f"imagenet-a: images in {TENCH} in .*expected imagenet-adversarial/"):
        read(DATASETS["imagenet-a"], data)
    picture(data / "imagenet/images/val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(ConfigurationError, match=r"imagenet: images in no folder of a class in .*n01440764/"):
        read(DATASETS["imagenet"], data)


def test_imagenet_c_is_taken_as_it_is(bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("its images are corrupted already")

    monkeypatch.setattr("grpo_tta.evaluation.plans.corrupt", refuse)
    data, out = tmp_path / "data", tmp_path / "rows.jsonl"
    for kind in IMAGENET_C:
        family = "noise/" if kind.endswith("noise") else ""
        pictures(data / "imagenet-c" / f"{family}{kind}" / "5", [f"{TENCH}/a.JPEG", f"{SHARK}/b.JPEG"])
    flags = ["--suite", "corruption", "--data", data, "--methods", "tent,zero-shot", "--json", out]
    code, said, progress = bench(*flags)
    assert code == 0, progress
    assert [(row["corruption"], row["severity"]) for row in rows_of(out)[::2]] == [(kind, 5) for kind in IMAGENET_C]
    assert len(DEFAULT_CONDITIONS) == 15
    assert re.search(r"^measured +tent, resets by guard +\d+\.\d\d\* +\d+\.\d\d\*$", said, re.MULTILINE)
    code, _, progress = bench(*flags, "--corruptions", "fog,fog:3")
    assert code == 2
    assert "imagenet-c: no fog/3 in" in progress
    assert "fog/5" not in progress
    pictures(data / "imagenet-c/fog/3", [f"{TENCH}/a.JPEG", f"{SHARK}/b.JPEG"])
    assert bench(*flags, "--corruptions", "fog,fog:3")[0] == 0
    assert [(row["corruption"], row["severity"]) for row in rows_of(out)[30:]] == [("fog", 3)] * 2


def test_a_split_file_says_which_images_and_what_classes_are_called(tmp_path: Path) -> None:
    pictures(tmp_path / "oxford_flowers/jpg", [f"{number}.jpg" for number in range(9)])
    split_file(tmp_path / "oxford_flowers/split_zhou_OxfordFlowers.json")
    found = read(DATASETS["flower102"], tmp_path)
    assert [image.id for image in found.images] == ["4.jpg", "6.jpg", "8.jpg"]
    assert list(found.names.values()) == ["b one", "a two"]
    assert {found.names[image.label] for image in found.images} == {"b one"}
    assert found.split == "split_zhou_OxfordFlowers.json"
    assert list(prompts_of(DATASETS["flower102"], found.names, ()).values())[1] == [
        "a photo of a a two, a type of flower."
    ]
    (tmp_path / "oxford_flowers/jpg/6.jpg").unlink()
    with pytest.raises(
        ConfigurationError, match=r"flower102: 1 of 3 images .* missing, the first is .*6\.jpg; expected"
    ):
        read(DATASETS["flower102"], tmp_path)
    (tmp_path / "oxford_flowers/split_zhou_OxfordFlowers.json").write_text('{"train": []}')
    with pytest.raises(ConfigurationError, match=r"OxfordFlowers\.json is no split file"):
        read(DATASETS["flower102"], tmp_path)


def test_a_split_file_may_lie_above_and_its_paths_begin_at_the_set(tmp_path: Path) -> None:
    pictures(tmp_path / "StanfordCars/cars_test", [f"{number}.jpg" for number in (4, 6, 8)])
    split_file(tmp_path / "split_zhou_StanfordCars.json", "cars_test/")
    assert [image.path.is_file() for image in read(DATASETS["cars"], tmp_path).images] == [True] * 3
    pictures(tmp_path / "Caltech101", [f"{number}.jpg" for number in (4, 6, 8)])
    split_file(tmp_path / "split_zhou_Caltech101.json")
    assert len(read(DATASETS["caltech101"], tmp_path).images) == 3


def test_without_a_split_file_the_sets_own_test_images(tmp_path: Path) -> None:
    pictures(tmp_path / "dtd/dtd/images", ["banded/a.jpg", "polka-dotted/b.jpg", "polka-dotted/c.jpg"])
    (tmp_path / "dtd/dtd/labels").mkdir()
    (tmp_path / "dtd/dtd/labels/test1.txt").write_text("banded/a.jpg\npolka-dotted/c.jpg\n")
    pictures(tmp_path / "food-101/images", ["apple_pie/1.jpg", "apple_pie/2.jpg", "sushi/3.jpg"])
    (tmp_path / "food-101/meta").mkdir()
    (tmp_path / "food-101/meta/test.json").write_text('{"sushi": ["sushi/3"], "apple_pie": ["apple_pie/2"]}')
    pictures(tmp_path / "oxford-iiit-pet/images", ["Abyssinian_1.jpg", "great_pyrenees_2.jpg", "great_pyrenees_3.jpg"])
    (tmp_path / "oxford-iiit-pet/annotations").mkdir()
    (tmp_path / "oxford-iiit-pet/annotations/test.txt").write_text("great_pyrenees_3 2 2 1\nAbyssinian_1 1 1 1\n")
    pictures(tmp_path / "fgvc-aircraft-2013b/data/images", ["001.jpg", "002.jpg"])
    (tmp_path / "fgvc-aircraft-2013b/data/variants.txt").write_text("707-320\nA340 200\n")
    (tmp_path / "fgvc-aircraft-2013b/data/images_variant_test.txt").write_text("002 707-320\n001 A340 200\n")

    def pairs(name: str) -> list[tuple[str, str]]:
        found = read(DATASETS[name], tmp_path)
        assert found.split != ALL
        return [(image.path.name, found.names[image.label]) for image in found.images]

    assert pairs("dtd") == [("a.jpg", "banded"), ("c.jpg", "polka-dotted")]
    assert pairs("food101") == [("3.jpg", "sushi"), ("2.jpg", "apple pie")]
    assert pairs("pets") == [("great_pyrenees_3.jpg", "great pyrenees"), ("Abyssinian_1.jpg", "abyssinian")]
    assert pairs("aircraft") == [("002.jpg", "707-320"), ("001.jpg", "A340 200")]
    (tmp_path / "fgvc-aircraft-2013b/data/images_variant_test.txt").write_text("002 Concorde\n")
    with pytest.raises(ConfigurationError, match=r"aircraft: .*'Concorde' of the test images is not in variants\.txt"):
        read(DATASETS["aircraft"], tmp_path)


@pytest.mark.parametrize(
    ("name", "files", "called"),
    [
        (
            "caltech101",
            [f"101_ObjectCategories/{name}/1.jpg" for name in ("BACKGROUND_Google", "Faces_easy", "Faces", "car_side")],
            ["face", "car side"],
        ),
        ("sun397", ["SUN397/a/abbey/1.jpg", "SUN397/a/apse/indoor/2.jpg"], ["abbey", "indoor apse"]),
        (
            "ucf101",
            ["UCF-101-midframes/Apply_Lipstick/1.jpg", "UCF-101-midframes/YoYo/2.jpg"],
            ["Apply Lipstick", "Yo Yo"],
        ),
        ("eurosat", ["2750/AnnualCrop/1.jpg", "2750/River/2.jpg"], ["Annual Crop Land", "River"]),
    ],
)
def test_a_folder_a_class_where_nothing_says_more(
    tmp_path: Path, name: str, files: list[str], called: list[str]
) -> None:
    pictures(tmp_path / DATASETS[name].folders[0], files)
    found = read(DATASETS[name], tmp_path)
    assert (len(found.images), list(found.names.values()), found.split) == (2, called, ALL)


def test_a_cross_domain_set_says_that_training_images_are_in_it(bench: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "eurosat/2750", ["River/1.jpg", "River/2.jpg", "Forest/3.jpg"])
    out = tmp_path / "rows.jsonl"
    flags = ["--suite", "cross-domain", "--data", tmp_path, "--datasets", "eurosat", "--methods", "zero-shot"]
    code, said, progress = bench(*flags, "--max-images", 2, "--json", out)
    assert code == 0, progress
    (row,) = rows_of(out)
    assert (row["n"], row["images"], row["published_images"]) == (2, ALL, False)
    assert row["template"] == "a centered satellite photo of {}."
    assert "no split_zhou_EuroSAT.json there, so training images are among them; the published test" in progress
    assert re.search(r"^eurosat +clean +zero-shot +guard +2 ", said, re.MULTILINE)
    assert re.search(r"^measured +zero-shot, resets by guard$", said, re.MULTILINE), "no mean of one set of ten"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--suite", "natural"], "--suite needs --data DIR"),
        (
            ["--suite", "natural", "--data", "/no/such"],
            r"(?s)imagenet: no imagenet/images/val or .*imagenet-sketch: no .*",
        ),
        (
            ["--suite", "natural", "--data", "/", "--datasets", "a,dtd"],
            "--datasets: 'dtd' is none of the natural suite's",
        ),
        (["--suite", "natural", "--data", "/", "--streams", "abrupt"], "--streams abrupt: a suite's sets are steady"),
        (["--suite", "natural", "--data", "/", "--corruptions", "fog"], "--corruptions goes with --suite corruption"),
        (["--suite", "corruption", "--data", "/", "--corruptions", "clean"], "ImageNet-C has no clean images"),
        (["--suite", "natural", "--data", "/", "--images", "/"], "--images does not go with --suite"),
        (["--suite", "natural", "--data", "/", "--reference", "x"], "--reference does not go with --suite"),
        (
            ["--suite", "cross-domain", "--data", "/no/such"],
            r"cars: no stanford_cars or .*split_zhou_StanfordCars\.json",
        ),
        (["--data", "/"], "--data and --datasets go with --suite"),
    ],
)
def test_what_cannot_be_done_is_named_and_writes_nothing(
    bench: Run, tmp_path: Path, flags: list[str], said: str
) -> None:
    assert_refused(bench, tmp_path / "rows.jsonl", flags, said)


def test_the_demo_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--suite", "natural", "--data", str(tmp_path)]) == 2
    assert "--suite needs --model" in capsys.readouterr().err


def test_what_torchvision_cannot_read_names_the_split_file(tmp_path: Path) -> None:
    pictures(tmp_path / "stanford_cars/cars_test", ["1.jpg"])
    with pytest.raises(
        ConfigurationError, match=r"cars: no split_zhou_StanfordCars.json in .*StanfordCars says: .*expected"
    ):
        read(DATASETS["cars"], tmp_path)
    pictures(tmp_path / "imagenet-c/fog/5", [f"{TENCH}/a.JPEG"])
    with pytest.raises(ConfigurationError, match="no fog/2 in"):
        read(DATASETS["imagenet-c"], tmp_path, Condition("fog", 2))


def test_a_template_needs_a_place_for_the_class() -> None:
    with pytest.raises(ConfigurationError, match=r"--template: 'a photo' has no \{\}"):
        prompts_of(DATASETS["dtd"], {"a": "a"}, ["a photo"])
    assert prompts_of(DATASETS["dtd"], {"a": "x y"}, ()) == {"a": ["x y texture."]}
    assert len(prompts_of(DATASETS["dtd"], {"a": "x y"}, ["openai"])["a"]) == 80


def test_published_figures_agree_with_their_own_means() -> None:
    """But for DiffTPT, whose source gives a mean that is not that of its figures."""
    assert {entry.suite for entry in PUBLISHED} == set(SUITES) == {dataset.suite for dataset in DATASETS.values()}
    four = [f"imagenet-{name}" for name in ("a", "v2", "r", "sketch")]
    whole = [entry for entry in PUBLISHED if {*four, MEAN} <= entry.figures.keys() and entry.method != "DiffTPT"]
    assert len(whole) > 30
    for entry in whole:
        assert np.mean([entry.figures[name] for name in four]) == pytest.approx(entry.figures[MEAN], abs=0.0051), entry
