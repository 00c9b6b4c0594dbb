"""How a model wants its images where open_clip cannot know: with a weight file of one's own it would take OpenAI's
mean, deviation and interpolation for any architecture."""

from collections.abc import Mapping
from typing import Any

from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from grpo_tta.checks import ModelError
from grpo_tta.settings.model import NAME_SCHEMES, ModelSettings

RANDOM = "random"
"""Instead of weights."""
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


def preprocess_of(settings: ModelSettings) -> dict[str, Any] | None:
    """Of open_clip's configuration what it does not know by itself; ``None`` where it does. Raises ``ModelError``."""
    given, name = settings.preprocess, settings.name
    assert name is not None
    architecture = "" if name.startswith(NAME_SCHEMES) else name.replace("/", "-")
    tags = list_pretrained_tags_by_model(architecture) if architecture else []
    by_tag = {tag: _tag_preprocess(architecture, tag) for tag in tags}
    if isinstance(given, str):
        if given not in by_tag:
            raise ModelError(f"preprocess {given!r} is no tag of {name} ({', '.join(tags) or 'it has none'})")
        return by_tag[given]
    if given is not None:
        return _own_preprocess(given)
    if settings.pretrained in (None, RANDOM, *tags) or not tags:
        return None
    first = by_tag[tags[0]]
    other = next((tag for tag in tags if by_tag[tag] != first), None)
    if other is not None:
        raise ModelError(
            f"pretrained {settings.pretrained!r} is a file, and the published weights of {name} want their images in "
            f"different ways ({tags[0]}: {first}; {other}: {by_tag[other]}): say which by model.preprocess, a tag "
            f"({', '.join(tags)}) or {', '.join(_PREPROCESS)}"
        )
    return first


def _tag_preprocess(architecture: str, tag: str) -> dict[str, Any]:
    known = get_pretrained_cfg(architecture, tag)
    found = {key: known[key] for key in _PREPROCESS if known.get(key) is not None}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _own_preprocess(given: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(given) - set(_PREPROCESS))
    if unknown or not given:
        raise ModelError(f"preprocess has {', '.join(_PREPROCESS)}, got {', '.join(unknown) or 'none of them'}")
    for key in ("mean", "std"):
        numbers = given.get(key, [1.0] * 3)
        if not isinstance(numbers, list) or len(numbers) != 3 or not all(type(one) in (int, float) for one in numbers):
            raise ModelError(f"preprocess.{key} must be three numbers, got {numbers!r}")
    for key, known in (("interpolation", ("bicubic", "bilinear")), ("resize_mode", ("shortest", "longest", "squash"))):
        if given.get(key, known[0]) not in known:
            raise ModelError(f"preprocess.{key} must be one of {', '.join(known)}, got {given[key]!r}")
    return dict(given)
