"""Loading: every source of weights and of class vectors, and a message with a way out for everything that is wrong."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from grpo_tta import ModelError, ModelSettings, load_classifier
from grpo_tta.preprocess import preprocess_of

NAMES = ["cat", "dog", "red fox"]


@pytest.fixture(scope="module")
def architecture(model_folder: Path) -> str:
    """The small model as a named open_clip architecture."""
    config = json.loads((model_folder / "open_clip_config.json").read_text())["model_cfg"]
    path = model_folder / "registry" / "test-small-clip.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path.parent)
    return path.stem


@pytest.fixture
def local(model_folder: Path) -> ModelSettings:
    return ModelSettings(name=f"local-dir:{model_folder}", device="cpu")


@pytest.fixture
def vector_file(tmp_path: Path) -> Callable[..., Path]:
    def make(vectors: torch.Tensor, names: Any = NAMES, tensor: str = "class_vectors") -> Path:
        metadata = None if names is None else {"class_names": names if isinstance(names, str) else json.dumps(names)}
        save_file({tensor: vectors}, tmp_path / "vectors.safetensors", metadata)
        return tmp_path / "vectors.safetensors"

    return make


def test_a_folder_saved_by_open_clip(local: ModelSettings) -> None:
    classifier = load_classifier(local, class_names=NAMES)
    assert classifier.class_names == tuple(NAMES)
    assert classifier.preprocess.size == (32, 32)
    assert classifier.preprocess.resize_mode == "squash"
    assert classifier.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert load_classifier(local, class_names=NAMES).fingerprint == classifier.fingerprint
    assert load_classifier(local, class_names=[*NAMES, "owl"]).fingerprint != classifier.fingerprint


def test_class_vectors_are_the_mean_of_unit_text_vectors(local: ModelSettings, model_folder: Path) -> None:
    templates = ["a photo of a {}.", "a drawing of {}, a {}"]
    classifier = load_classifier(local, class_names=NAMES, templates=templates)
    model = open_clip.create_model(f"local-dir:{model_folder}").eval()
    texts = ["a photo of a red fox.", "a drawing of red fox, a red fox"]
    with torch.no_grad():
        vectors = F.normalize(model.encode_text(open_clip.get_tokenizer("ViT-B-32", context_length=16)(texts)), dim=-1)
    torch.testing.assert_close(classifier.class_vectors[2], F.normalize(vectors.mean(0), dim=0))
    by_prompts = load_classifier(local, prompts={name: [t.replace("{}", name) for t in templates] for name in NAMES})
    torch.testing.assert_close(by_prompts.class_vectors, classifier.class_vectors)
    assert by_prompts.fingerprint == classifier.fingerprint


def test_a_tokenizer_that_does_not_fit_the_model_is_named(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("registry"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["vocab_size"] = 1000
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["token_embedding.weight"] = weights["token_embedding.weight"][:1000].clone()
    save_file(weights, folder / "open_clip_model.safetensors")
    settings = ModelSettings(name=f"local-dir:{folder}", device="cpu")
    with pytest.raises(ModelError, match=r"gave token 49407, the text tower knows 1000: .* or give class_vectors"):
        load_classifier(settings, class_names=NAMES)


def test_ensemble_templates_make_a_second_set_of_vectors(local: ModelSettings) -> None:
    classifier = load_classifier(local, class_names=NAMES, ensemble_templates=["a photo of a {}.", "art of a {}"])
    assert classifier.ensemble_vectors is not None
    assert classifier.ensemble_vectors.shape == classifier.class_vectors.shape
    assert not torch.allclose(classifier.ensemble_vectors, classifier.class_vectors)


def test_the_text_tower_is_dropped(local: ModelSettings) -> None:
    classifier = load_classifier(local, class_names=NAMES)
    held = sum(tensor.numel() for tensor in classifier.visual.state_dict().values())
    assert held < 200_000, "the token embedding alone is 1.5 million numbers"


def test_class_vectors_from_a_file(local: ModelSettings, vector_file: Callable[..., Path]) -> None:
    vectors = torch.randn(3, 32)
    classifier = load_classifier(local, class_vectors=vector_file(vectors))
    assert classifier.class_names == tuple(NAMES)
    torch.testing.assert_close(classifier.class_vectors, F.normalize(vectors, dim=-1))
    renamed = load_classifier(local, class_vectors=vector_file(vectors, None), class_names=["a", "b", "c"])
    assert renamed.class_names == ("a", "b", "c")
    assert renamed.fingerprint == classifier.fingerprint


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_an_architecture_with_a_local_weight_file(
    architecture: str, model_folder: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    weights = load_file(model_folder / "open_clip_model.safetensors")
    if suffix == ".pt":
        torch.save({"state_dict": weights}, path)
    else:
        save_file(weights, path)
    classifier = load_classifier(ModelSettings(architecture, str(path), "cpu"), class_names=NAMES)
    expected = load_classifier(ModelSettings(f"local-dir:{model_folder}", device="cpu"), class_names=NAMES)
    torch.testing.assert_close(classifier.class_vectors, expected.class_vectors)


OPENAI_MEAN = [0.48145466, 0.4578275, 0.40821073]


@pytest.mark.parametrize(
    ("name", "pretrained", "given", "expected"),
    [
        ("MobileCLIP-S1", "own.pt", None, {"mean": [0.0] * 3, "interpolation": "bilinear"}),
        ("ViT-B-16-SigLIP", "own.pt", None, {"mean": [0.5] * 3, "resize_mode": "squash"}),
        ("ViT-B-32", "own.pt", None, {"mean": OPENAI_MEAN, "interpolation": "bicubic"}),
        ("ViT-B/32", "own.pt", None, {"mean": OPENAI_MEAN}),
        ("ViT-L-14", "own.pt", "openai", {"mean": OPENAI_MEAN}),
        ("ViT-L-14", "own.pt", "laion2b_s32b_b82k", {"mean": [0.5] * 3}),
        ("ViT-L-14", "own.pt", {"mean": [0, 0.5, 1]}, {"mean": [0, 0.5, 1]}),
    ],
)
def test_how_a_weight_file_wants_its_images(name: str, pretrained: str, given: Any, expected: dict[str, Any]) -> None:
    found = preprocess_of(ModelSettings(name, pretrained, preprocess=given))
    assert found is not None
    assert found.items() >= expected.items()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("ViT-L-14", "own.pt", None), "is a file, and the published .* of ViT-L-14 .*say which by model.preprocess"),
        (("ViT-H-14", "own.pt", None), "shortest.*squash"),
        (("ViT-L-14", "own.pt", "no-tag"), "preprocess 'no-tag' is no tag of ViT-L-14"),
        (("RN50", "own.pt", {"size": 3}), "got size"),
        (("RN50", "own.pt", {"mean": [1, 2]}), "preprocess.mean must be three numbers"),
        (("RN50", "own.pt", {"interpolation": "best"}), "preprocess.interpolation must be one of bicubic"),
        ((None, None, "openai"), "the demo model has its own"),
    ],
)
def test_how_a_weight_file_wants_its_images_is_asked_where_nobody_knows(settings: Any, said: str) -> None:
    name, pretrained, given = settings
    with pytest.raises(ModelError, match=said):
        preprocess_of(ModelSettings(name, pretrained, preprocess=given))


def test_what_open_clip_knows_is_left_to_it() -> None:
    for settings in (ModelSettings("ViT-L-14", "openai"), ModelSettings("ViT-L-14", "random")):
        assert preprocess_of(settings) is None


def test_random_weights_are_the_same_every_time(architecture: str) -> None:
    settings = ModelSettings(architecture, "random", "cpu")
    torch.manual_seed(1)
    first = load_classifier(settings, class_names=NAMES)
    torch.manual_seed(2)
    assert load_classifier(settings, class_names=NAMES).fingerprint == first.fingerprint


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickled_objects_are_refused_and_never_run(architecture: str, tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    with pytest.raises(ModelError, match="never loaded: convert it to safetensors"):
        load_classifier(ModelSettings(architecture, str(tmp_path / "trap.pt"), "cpu"), class_names=NAMES)
    assert not (tmp_path / "sprung").exists()


def test_torchscript_archives_are_refused(architecture: str, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(ModelError, match="not a plain weight file: convert it to safetensors"):
        load_classifier(ModelSettings(architecture, str(tmp_path / "script.pt"), "cpu"), class_names=NAMES)


def test_weights_of_another_model_are_refused(architecture: str, tmp_path: Path) -> None:
    save_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other.safetensors' could not be loaded: .+"):
        load_classifier(ModelSettings(architecture, str(tmp_path / "other.safetensors"), "cpu"), class_names=NAMES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "ViT-B-33"}, "model 'ViT-B-33' is not an open_clip architecture: did you mean .*ViT-B-32"),
        ({"name": "%%"}, "'%%' is not an open_clip architecture: see open_clip.list_models"),
        ({"name": "ViT-B-32"}, "model 'ViT-B-32' needs weights: give pretrained a local file or a tag .*openai"),
        ({"name": "ViT-B-32", "pretrained": "opnai"}, "pretrained 'opnai' is neither a file nor a tag of ViT-B-32"),
        ({"name": "local-dir:/no/such"}, "local-dir '/no/such' has no open_clip_config.json"),
    ],
)
def test_a_model_that_is_not_there(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_classifier(ModelSettings(**settings, device="cpu"), class_names=NAMES)


def test_a_weight_file_of_an_unknown_kind(architecture: str, tmp_path: Path) -> None:
    (tmp_path / "weights.zip").write_bytes(b"")
    with pytest.raises(ModelError, match=r"weights.zip' must end in one of .safetensors"):
        load_classifier(ModelSettings(architecture, str(tmp_path / "weights.zip"), "cpu"), class_names=NAMES)


def test_a_folder_without_weights(model_folder: Path, tmp_path: Path) -> None:
    shutil.copy(model_folder / "open_clip_config.json", tmp_path)
    with pytest.raises(ModelError, match=r"holds no weights: put open_clip_model\.safetensors"):
        load_classifier(ModelSettings(f"local-dir:{tmp_path}", device="cpu"), class_names=NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": " "}, "model name must not be blank"),
        ({"pretrained": "openai"}, "the demo model has its own weights"),
        ({"name": "hf-hub:a/b", "pretrained": "x"}, "model 'hf-hub:a/b' has its own weights"),
        ({"threads": 0}, "threads must be >= 1, got 0"),
    ],
)
def test_settings_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelSettings(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "which classes\\? give class_names, prompts or class_vectors"),
        ({"class_names": ["a", "a"]}, "class name 'a' appears twice"),
        ({"class_names": NAMES, "templates": ["a photo"]}, "template 'a photo' has no {} for the class name"),
        ({"class_names": NAMES, "templates": []}, "templates must be a list of at least one text"),
        ({"class_names": NAMES, "ensemble_templates": ["{}", "x"]}, "template 'x' has no {}"),
        ({"prompts": {"a": ["x"], "b": []}}, "class 'b' needs a list of at least one prompt"),
        ({"prompts": {"a": ["x"], "b": "y"}}, "class 'b' needs a list of at least one prompt"),
        ({"prompts": {"a": ["x"], "b": [" "]}}, "class 'b' needs a list of at least one prompt, none blank"),
        ({"prompts": {"a": ["x"], "b": ["y"]}, "class_names": NAMES}, "prompts already name the classes"),
        ({"class_vectors": "x", "templates": ["{}"]}, "give no templates with them"),
        ({"class_vectors": "/no/such.safetensors"}, "'/no/such.safetensors' cannot be read as safetensors"),
    ],
)
def test_classes_that_mean_nothing(local: ModelSettings, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_classifier(local, **arguments)


@pytest.mark.parametrize(
    ("vectors", "names", "tensor", "message"),
    [
        (torch.randn(3, 16), NAMES, "class_vectors", "class_vectors are 16 wide, the visual tower gives 32"),
        (torch.randn(3, 32), None, "class_vectors", "names no classes: give class_names, or metadata"),
        (torch.randn(2, 32), NAMES, "class_vectors", r"are \[2, 32\], but there are 3 class names"),
        (torch.randn(3, 32), NAMES, "text", r"has no tensor 'class_vectors', only \['text'\]"),
        (torch.ones(3, 32, dtype=torch.int64), NAMES, "class_vectors", "must be floating point, got torch.int64"),
        (torch.randn(3, 32), "not json", "class_vectors", "is not JSON"),
        (torch.randn(3, 32), {"a": 1}, "class_vectors", "must be a JSON list of texts"),
        (torch.randn(3, 32), ["a", "a", "b"], "class_vectors", "class name 'a' appears twice"),
    ],
)
def test_vector_files_that_do_not_fit(
    local: ModelSettings,
    vector_file: Callable[..., Path],
    vectors: torch.Tensor,
    names: Any,
    tensor: str,
    message: str,
) -> None:
    with pytest.raises(ModelError, match=message):
        load_classifier(local, class_vectors=vector_file(vectors, names, tensor))


def test_a_text_file_called_safetensors(local: ModelSettings, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_text("cat\ndog\n")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_classifier(local, class_vectors=tmp_path / "x.safetensors")


def test_a_model_that_is_not_contrastive_has_no_scale() -> None:
    from grpo_tta.models import _scale_and_bias

    with pytest.raises(ModelError, match="the model has no logit scale"):
        _scale_and_bias(torch.nn.Linear(2, 2))
    model = torch.nn.Module()
    model.logit_scale = torch.nn.Parameter(torch.tensor(0.0))
    model.logit_bias = torch.nn.Parameter(torch.tensor([-10.0]))
    assert _scale_and_bias(model) == (1.0, -10.0)


def test_the_demo_model_has_its_own_classes_and_prompts(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = {"cat": ["an icon of a cat", "a drawing of a cat"], "dog": ["an icon of a dog"]}
    preprocess = json.loads((model_folder / "open_clip_config.json").read_text())["preprocess_cfg"]

    def load_model() -> tuple[Any, Any, dict[str, Any]]:
        name = f"local-dir:{model_folder}"
        return open_clip.create_model(name).eval(), open_clip.get_tokenizer(name), preprocess

    demo = SimpleNamespace(load_model=load_model, class_prompts=lambda: prompts)
    monkeypatch.setitem(sys.modules, "grpo_tta.demo", demo)
    own = load_classifier()
    assert own.class_names == ("cat", "dog")
    assert load_classifier(prompts=prompts).fingerprint == own.fingerprint
    chosen = load_classifier(class_names=["dog", "red fox"])
    torch.testing.assert_close(chosen.class_vectors[0], own.class_vectors[1])
    other = load_classifier(class_names=["dog", "red fox"], templates=["a photo of a {}."])
    torch.testing.assert_close(other.class_vectors[1], chosen.class_vectors[1])
    assert not torch.allclose(other.class_vectors[0], chosen.class_vectors[0])


def test_threads_are_set_for_the_process(local: ModelSettings) -> None:
    before = torch.get_num_threads()
    try:
        load_classifier(ModelSettings(local.name, device="cpu", threads=1), class_names=NAMES)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_device_that_is_not_there(model_folder: Path) -> None:
    with pytest.raises(ModelError, match="device must be 'auto', 'cpu', 'cuda'"):
        load_classifier(ModelSettings(f"local-dir:{model_folder}", device="tpu"), class_names=NAMES)
