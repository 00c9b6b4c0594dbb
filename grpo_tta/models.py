"""Load a classifier: any open_clip model, or the packaged demo model, with class vectors from text or from a file.

The only module of the library, with the packaged demo, that touches files. Nothing is ever unpickled: weights are
safetensors, or a PyTorch file that loads with ``weights_only``; every other file is refused. The text tower is
dropped as soon as the class vectors exist. Everything that can be wrong with a model, its weights or its classes is a
``ModelError``.
"""

import difflib
import functools
import hashlib
import json
import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from grpo_tta.checks import ModelError, check_names
from grpo_tta.classifier import Classifier, PreprocessCfg, digest_tensors
from grpo_tta.device import resolve_device
from grpo_tta.preprocess import RANDOM, preprocess_of
from grpo_tta.settings.model import NAME_SCHEMES, ModelSettings

__all__ = ["DEFAULT_TEMPLATE", "Classifier", "ModelError", "ModelSettings", "PreprocessCfg", "load_classifier"]

_log = logging.getLogger(__name__)
DEFAULT_TEMPLATE = "a photo of a {}."
_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".npz")
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class _Source:
    """A loaded model before its class vectors exist."""

    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor] | None
    preprocess: PreprocessCfg
    prompts: dict[str, list[str]] | None = None


def load_classifier(
    settings: ModelSettings | None = None,
    *,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    prompts: Mapping[str, Sequence[str]] | None = None,
    class_vectors: Path | str | None = None,
    ensemble_templates: Sequence[str] | None = None,
) -> Classifier:
    """Load the model and make its class vectors, from exactly one of:

    - ``class_names`` and ``templates`` (default ``"a photo of a {}."``): mean of the unit text vectors, renormalised
      [peer: CLIP's prompt ensemble]; for the demo model a name it knows keeps its own prompts where no template is
      given;
    - ``prompts``: class -> prompts, in that order;
    - ``class_vectors``: a safetensors file with the tensor ``class_vectors`` ``[C, D]``; names from ``class_names``
      or from the file's metadata ``class_names`` (a JSON list). Any text source works, and no text tower is kept.

    With none of them the demo model has its own classes. ``ensemble_templates`` makes a second set of vectors, for
    the reward ``ensemble``. Raises ``ModelError``.
    """
    settings = settings or ModelSettings()
    _check_arguments(class_names, templates, prompts, class_vectors, ensemble_templates)
    device = _prepare(settings)
    from_file = None if class_vectors is None else _read_class_vectors(Path(class_vectors), class_names)
    source = _load_demo() if settings.name is None else _load_open_clip(settings, with_text=from_file is None)
    scale, bias = _scale_and_bias(source.model)
    ensemble = digest = None
    if from_file is not None:
        names, vectors = from_file
    else:
        by_class = _prompts_by_class(source.prompts, class_names, templates, prompts)
        names = tuple(by_class)
        _warn_of_unknown_names(names, source.prompts)
        digest = _text_digest(source.model, by_class)
        encode = _text_encoder(source, device)
        vectors = encode(by_class)
        if ensemble_templates is not None:
            ensemble = encode({name: [_fill(template, name) for template in ensemble_templates] for name in names})
    visual: nn.Module = source.model.visual  # type: ignore[assignment]
    return Classifier(
        visual,
        names,
        vectors,
        source.preprocess,
        logit_scale=scale,
        logit_bias=bias,
        device=device,
        use_autocast=settings.autocast,
        ensemble_vectors=ensemble,
        text_digest=digest,
    )


def _warn_of_unknown_names(names: Sequence[str], own: Mapping[str, list[str]] | None) -> None:
    """A model of a closed vocabulary has vectors for other words too, which mean nothing."""
    unknown = [name for name in names if own is not None and name not in own]
    if unknown:
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        _log.warning(
            "%d of %d classes are unknown to the demo model, whose vocabulary is closed: %s",
            len(unknown), len(names), some,
        )  # fmt: skip


def _prepare(settings: ModelSettings) -> torch.device:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        return resolve_device(settings.device)
    except ValueError as error:
        raise ModelError(str(error)) from error


def _check_arguments(
    class_names: Sequence[str] | None,
    templates: Sequence[str] | None,
    prompts: Mapping[str, Sequence[str]] | None,
    class_vectors: Path | str | None,
    ensemble_templates: Sequence[str] | None,
) -> None:
    if prompts is not None and (class_names is not None or templates is not None or class_vectors is not None):
        raise ModelError(
            "prompts already name the classes and their texts: give no class_names, templates or class_vectors"
        )
    if class_vectors is not None and (templates is not None or ensemble_templates is not None):
        raise ModelError("class_vectors come without a text tower: give no templates with them")
    for template in (*(templates or ()), *(ensemble_templates or ())):
        if "{}" not in template:
            raise ModelError(
                f"template {template!r} has no {{}} for the class name: write for example {DEFAULT_TEMPLATE!r}"
            )
    for given, what in ((templates, "templates"), (ensemble_templates, "ensemble_templates")):
        if given is not None and (isinstance(given, str) or not given):
            raise ModelError(f"{what} must be a list of at least one text, got {given!r}")
    if class_names is not None:
        check_names(class_names)
    if prompts is not None:
        check_names(list(prompts))
        for name, texts in prompts.items():
            if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                raise ModelError(f"class {name!r} needs a list of at least one prompt, none blank, got {texts!r}")


def _prompts_by_class(
    own: dict[str, list[str]] | None,
    class_names: Sequence[str] | None,
    templates: Sequence[str] | None,
    prompts: Mapping[str, Sequence[str]] | None,
) -> dict[str, list[str]]:
    if prompts is not None:
        return dict(zip(check_names(list(prompts)), map(list, prompts.values()), strict=True))
    own = own or {}
    if class_names is None and not own:
        raise ModelError("which classes? give class_names, prompts or class_vectors")
    names = tuple(own) if class_names is None else check_names(class_names)
    if templates is None:
        return {name: own.get(name) or [_fill(DEFAULT_TEMPLATE, name)] for name in names}
    return {name: [_fill(template, name) for template in templates] for name in names}


def _fill(template: str, name: str) -> str:
    return template.replace("{}", name)


def _text_encoder(source: _Source, device: torch.device) -> Callable[[Mapping[str, Sequence[str]]], Tensor]:
    if source.tokenizer is None:
        raise ModelError("this model's text tokenizer could not be loaded: give class_vectors")
    tokenizer = source.tokenizer
    model = source.model.to(device).eval()
    vocabulary = _vocabulary(model)

    @torch.no_grad()
    def encode(by_class: Mapping[str, Sequence[str]]) -> Tensor:
        texts = [text for prompts in by_class.values() for text in prompts]
        owners = torch.tensor([row for row, prompts in enumerate(by_class.values()) for _ in prompts], device=device)
        total: Tensor | None = None
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            tokens = tokenizer(texts[start : start + _TEXTS_AT_ONCE])
            if vocabulary is not None and int(tokens.max()) >= vocabulary:
                raise ModelError(
                    f"the tokenizer does not fit the model: it gave token {int(tokens.max())}, the text tower knows "
                    f"{vocabulary}: put the model's own tokenizer and text_cfg into its folder, or give class_vectors"
                )
            tokens = tokens.to(device)
            vectors = F.normalize(model.encode_text(tokens).float(), dim=-1)  # type: ignore[operator]
            if total is None:
                total = torch.zeros(len(by_class), vectors.shape[1], device=device)
            total.index_add_(0, owners[start : start + _TEXTS_AT_ONCE], vectors)
        assert total is not None
        return F.normalize(total, dim=-1)

    return encode


def _vocabulary(model: nn.Module) -> int | None:
    """How many tokens the text tower has an embedding for; None where it keeps them in an unknown place."""
    tower = getattr(model, "text", model)
    embedding = getattr(tower, "token_embedding", None)
    inner = getattr(tower, "transformer", None)
    if embedding is None and inner is not None and hasattr(inner, "get_input_embeddings"):  # a Hugging Face tower
        embedding = inner.get_input_embeddings()
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def _text_digest(model: nn.Module, by_class: Mapping[str, Sequence[str]]) -> bytes:
    """What the class vectors are made from: equal on every machine, where their last bits need not be."""
    text = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("visual.")}
    digest = hashlib.sha256(digest_tensors(text))
    digest.update(json.dumps([[name, list(texts)] for name, texts in by_class.items()]).encode())
    return digest.digest()


def _scale_and_bias(model: nn.Module) -> tuple[float, float]:
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    if not isinstance(scale, Tensor) or scale.numel() != 1:
        raise ModelError("the model has no logit scale: it is not a contrastive image-text model")
    return float(scale.detach().exp()), float(bias.detach()) if isinstance(bias, Tensor) else 0.0


def _load_demo() -> _Source:
    from grpo_tta.demo import class_prompts, load_model

    model, tokenizer, preprocess = load_model()
    return _Source(model, tokenizer, PreprocessCfg.from_open_clip(preprocess), class_prompts())


def _load_open_clip(settings: ModelSettings, *, with_text: bool) -> _Source:
    name = settings.name
    assert name is not None
    if not name.startswith(NAME_SCHEMES):
        _check_architecture(name, settings.pretrained)
    elif name.startswith("local-dir:"):
        _check_directory(Path(name.removeprefix("local-dir:")))
    weights = None if settings.pretrained == RANDOM else settings.pretrained
    preprocess = preprocess_of(settings)
    where = f"model {name!r}" + (f" with pretrained {weights!r}" if weights else "")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = open_clip.create_model(
                name,
                pretrained=weights,
                require_pretrained=settings.pretrained != RANDOM,
                weights_only=True,
                force_preprocess_cfg=preprocess,
            )
    except pickle.UnpicklingError as error:
        raise ModelError(f"{where} holds pickled objects, which are never loaded: {_SAFE_WAY}") from error
    except Exception as error:
        if "weights_only" in str(error) or "TorchScript" in str(error):
            raise ModelError(f"{where} is not a plain weight file: {_SAFE_WAY}") from error
        raise ModelError(f"{where} could not be loaded: {_first_line(error)}") from error
    tokenizer = None
    if with_text:
        try:
            tokenizer = _tokenizer(name)
        except Exception as error:
            raise ModelError(
                f"the tokenizer of {where} could not be loaded ({_first_line(error)}): "
                "install what it names, or give class_vectors"
            ) from error
    return _Source(model, tokenizer, PreprocessCfg.from_open_clip(open_clip.get_model_preprocess_cfg(model)))


@functools.lru_cache(maxsize=1)
def _tokenizer(name: str) -> Callable[..., Tensor]:
    """Many suites and templates of one model are encoded one after another; to read the vocabulary takes longer than a
    small model's text."""
    tokenizer: Callable[..., Tensor] = open_clip.get_tokenizer(name)
    return tokenizer


_SAFE_WAY = "convert it to safetensors, or save its state_dict alone"


def _check_architecture(name: str, pretrained: str | None) -> None:
    known = open_clip.list_models()
    architecture = name.replace("/", "-")
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "see open_clip.list_models()"
        raise ModelError(f"model {name!r} is not an open_clip architecture: {hint}")
    if pretrained == RANDOM:
        return
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    some = ", ".join(tags) if tags else "none has been published"
    if pretrained is None:
        raise ModelError(f"model {name!r} needs weights: give pretrained a local file or a tag ({some})")
    if pretrained in tags:
        return
    path = Path(pretrained)
    if not path.is_file():
        raise ModelError(f"pretrained {pretrained!r} is neither a file nor a tag of {name} ({some})")
    if path.suffix not in _WEIGHT_FILES:
        raise ModelError(f"pretrained {pretrained!r} must end in one of {', '.join(_WEIGHT_FILES)}")


def _check_directory(path: Path) -> None:
    if not (path / "open_clip_config.json").is_file():
        raise ModelError(f"local-dir {str(path)!r} has no open_clip_config.json: give a folder saved by open_clip")
    if not any(file.suffix in _WEIGHT_FILES for file in path.iterdir()):
        raise ModelError(
            f"local-dir {str(path)!r} holds no weights: put open_clip_model.safetensors beside the configuration"
        )


def _read_class_vectors(path: Path, class_names: Sequence[str] | None) -> tuple[tuple[str, ...], Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if "class_vectors" not in file.keys():  # noqa: SIM118
                raise ModelError(f"{str(path)!r} has no tensor 'class_vectors', only {sorted(file.keys())}")
            vectors: Tensor = file.get_tensor("class_vectors")
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"class vectors {str(path)!r} cannot be read as safetensors: {_first_line(error)}") from error
    if class_names is not None:
        names = check_names(class_names)
    elif "class_names" in metadata:
        names = _names_from_metadata(metadata["class_names"], path)
    else:
        raise ModelError(f"{str(path)!r} names no classes: give class_names, or metadata 'class_names' as a JSON list")
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise ModelError(
            f"class vectors {str(path)!r} are {list(vectors.shape)}, but there are {len(names)} class names"
        )
    if not vectors.is_floating_point():
        raise ModelError(f"class vectors {str(path)!r} must be floating point, got {vectors.dtype}")
    return names, vectors


def _names_from_metadata(text: str, path: Path) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"metadata 'class_names' of {str(path)!r} is not JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"metadata 'class_names' of {str(path)!r} must be a JSON list of texts")
    return check_names(names)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
