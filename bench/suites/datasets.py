"""The sets of the suites as data: where each is looked for, what its classes are called, which of its images count.

Folders are those of CoOp's instructions, of TPT's code and of torchvision, below one folder of all sets. Templates,
renamed classes and split files are CoOp's (its ``trainers/zsclip.py`` and ``datasets/``); numbers of test images are
those of the published splits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from grpo_tta.bench.pictures import ImageFile
from grpo_tta.pipeline.errors import ConfigurationError

Suite = Literal["natural", "corruption", "cross-domain"]
OPENAI = "openai"
"""As the only template: all 80 of OpenAI's for ImageNet, as open_clip has them."""


@dataclass(frozen=True)
class Dataset:
    """One set. ``layout`` is what its folder holds, for people."""

    name: str
    suite: Suite
    folders: tuple[str, ...]
    """Below the folder of all sets; the first that exists is taken."""
    layout: str
    test_images: int
    """How many the published test set has."""
    template: str = "a photo of a {}."
    classes: Literal["wnids", "wnids-a", "wnids-r", "indices", "own"] = "own"
    """Folders are named by ImageNet's wnids (all, or those of -A or -R), by its class indices, or as classes are."""
    images: str = ""
    """The folder of the images below the set's, where there is one."""
    split: str = ""
    """CoOp's file that says which images are for testing, and what the classes are called."""
    torchvision: str = ""
    """The class of ``torchvision.datasets`` that knows the test images where there is no split file."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Folder to class name, where folders name the classes and underscores are not all that is in the way."""
    dropped: tuple[str, ...] = ()
    """Folders that are no classes."""


@dataclass(frozen=True)
class LabelledImages:
    """Test images whose ``label`` is a key of ``names``: all classes in order, with what each is called in a prompt.
    ``split`` says which images these are."""

    images: Sequence[ImageFile]
    names: Mapping[str, str]
    split: str


_LIST = (
    Dataset(
        "imagenet",
        "natural",
        ("imagenet/images/val", "imagenet/val", "ImageNet/images/val", "ImageNet/val"),
        "n01440764/*.JPEG and 999 more",
        50_000,
        classes="wnids",
    ),
    Dataset(
        "imagenet-a",
        "natural",
        ("imagenet-adversarial/imagenet-a", "imagenet-a"),
        "n01498041/*.jpg and 199 more",
        7_500,
        classes="wnids-a",
    ),
    Dataset(
        "imagenet-v2",
        "natural",
        ("imagenetv2/imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency-format-val"),
        "0/*.jpeg to 999/*.jpeg, class indices",
        10_000,
        classes="indices",
    ),
    Dataset(
        "imagenet-r",
        "natural",
        ("imagenet-rendition/imagenet-r", "imagenet-r"),
        "n01443537/*.jpg and 199 more",
        30_000,
        classes="wnids-r",
    ),
    Dataset(
        "imagenet-sketch",
        "natural",
        ("imagenet-sketch/images", "imagenet-sketch/sketch", "imagenet-sketch", "ImageNet-Sketch", "sketch"),
        "n01440764/*.JPEG and 999 more",
        50_889,
        classes="wnids",
    ),
    Dataset(
        "imagenet-c",
        "corruption",
        ("imagenet-c", "ImageNet-C", "imagenetc"),
        "gaussian_noise/5/n01440764/*.JPEG: kind, severity, wnid; kinds may lie in folders of their family",
        50_000,
        classes="wnids",
    ),
    Dataset(
        "flower102",
        "cross-domain",
        ("oxford_flowers", "Flower102", "flowers-102"),
        "jpg/image_00001.jpg",
        2_463,
        template="a photo of a {}, a type of flower.",
        images="jpg",
        split="split_zhou_OxfordFlowers.json",
        torchvision="Flowers102",
    ),
    Dataset(
        "dtd",
        "cross-domain",
        ("dtd", "DTD"),
        "images/banded/*.jpg",
        1_692,
        template="{} texture.",
        images="images",
        split="split_zhou_DescribableTextures.json",
        torchvision="DTD",
    ),
    Dataset(
        "pets",
        "cross-domain",
        ("oxford_pets", "OxfordPets", "oxford-iiit-pet"),
        "images/Abyssinian_1.jpg and annotations/test.txt",
        3_669,
        template="a photo of a {}, a type of pet.",
        images="images",
        split="split_zhou_OxfordPets.json",
    ),
    Dataset(
        "cars",
        "cross-domain",
        ("stanford_cars", "StanfordCars"),
        "cars_test/00001.jpg, and without the split file cars_test_annos_withlabels.mat and devkit/cars_meta.mat",
        8_041,
        split="split_zhou_StanfordCars.json",
        torchvision="StanfordCars",
    ),
    Dataset(
        "ucf101",
        "cross-domain",
        ("ucf101", "UCF101"),
        "UCF-101-midframes/Apply_Eye_Makeup/*.jpg",
        3_783,
        template="a photo of a person doing {}.",
        images="UCF-101-midframes",
        split="split_zhou_UCF101.json",
    ),
    Dataset(
        "caltech101",
        "cross-domain",
        ("caltech-101", "caltech101", "Caltech101"),
        "101_ObjectCategories/accordion/*.jpg",
        2_465,
        images="101_ObjectCategories",
        split="split_zhou_Caltech101.json",
        renamed={"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"},
        dropped=("BACKGROUND_Google", "Faces_easy"),
    ),
    Dataset(
        "food101",
        "cross-domain",
        ("food-101", "Food101"),
        "images/apple_pie/*.jpg and meta/test.json",
        30_300,
        template="a photo of {}, a type of food.",
        images="images",
        split="split_zhou_Food101.json",
        torchvision="Food101",
    ),
    Dataset(
        "sun397",
        "cross-domain",
        ("sun397", "SUN397"),
        "SUN397/a/abbey/*.jpg",
        19_850,
        images="SUN397",
        split="split_zhou_SUN397.json",
    ),
    Dataset(
        "aircraft",
        "cross-domain",
        ("fgvc_aircraft", "fgvc-aircraft-2013b/data"),
        "images/*.jpg, variants.txt and images_variant_test.txt",
        3_333,
        template="a photo of a {}, a type of aircraft.",
        images="images",
    ),
    Dataset(
        "eurosat",
        "cross-domain",
        ("eurosat", "EuroSAT"),
        "2750/AnnualCrop/*.jpg",
        8_100,
        template="a centered satellite photo of {}.",
        images="2750",
        split="split_zhou_EuroSAT.json",
        renamed={
            "AnnualCrop": "Annual Crop Land",
            "HerbaceousVegetation": "Herbaceous Vegetation Land",
            "Highway": "Highway or Road",
            "Industrial": "Industrial Buildings",
            "Pasture": "Pasture Land",
            "PermanentCrop": "Permanent Crop Land",
            "Residential": "Residential Buildings",
            "SeaLake": "Sea or Lake",
        },
    ),
)
DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in _LIST}


def datasets_of(suite: Suite, text: str | None) -> list[Dataset]:
    """All sets of a suite, or those named with commas between them (``a`` is ``imagenet-a``), in the suite's order.

    Raises `ConfigurationError` for a name that is none of the suite's.
    """
    known = [dataset for dataset in DATASETS.values() if dataset.suite == suite]
    if text is None:
        return known
    given = {name.strip().lower() for name in text.split(",")}
    short = {dataset.name: dataset.name.removeprefix("imagenet-") for dataset in known}
    strange = sorted(given - short.keys() - set(short.values()))
    if strange:
        names = ", ".join(short.values())
        raise ConfigurationError(f"--datasets: {strange[0]!r} is none of the {suite} suite's: {names}")
    return [dataset for dataset in known if dataset.name in given or short[dataset.name] in given]


def folder_of(dataset: Dataset, data: Path) -> Path:
    """The set's folder below the folder of all sets; raises `ConfigurationError` with the layout it looked for."""
    found = next((data / name for name in dataset.folders if (data / name).is_dir()), None)
    if found is None:
        raise ConfigurationError(f"{dataset.name}: no {' or '.join(dataset.folders)} in {data}; {expected(dataset)}")
    return found


def expected(dataset: Dataset) -> str:
    """What its folder should hold, for a message."""
    split = f", best with CoOp's {dataset.split} beside it" if dataset.split else ""
    return f"expected {dataset.folders[0]}/ with {dataset.layout}{split}"


def prompts_of(dataset: Dataset, names: Mapping[str, str], templates: Sequence[str]) -> dict[str, list[str]]:
    """The texts of every class: of the templates given, of OpenAI's where ``openai`` is the only one, or of the set's.

    Raises `ConfigurationError` for a template without a place for the class.
    """
    chosen = list(templates) or [dataset.template]
    if chosen == [OPENAI]:
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        chosen = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    for template in chosen:
        if "{}" not in template:
            raise ConfigurationError(f"--template: {template!r} has no {{}} for the class name and is not {OPENAI!r}")
    return {key: [template.replace("{}", name) for template in chosen] for key, name in names.items()}
