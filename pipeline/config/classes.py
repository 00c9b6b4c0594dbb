"""What to tell apart, from a file: one class a line, or a YAML or JSON mapping class -> prompts.

Repeated classes are refused with their place, blank lines are passed over. In YAML every scalar is text: a class may be
called ``no``.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grpo_tta.adapters.lines import text_lines, whole_text
from grpo_tta.checks import class_name
from grpo_tta.pipeline.config.yaml_file import parse_yaml
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.schemas.base import encodable

ClassNames = list[str]
Prompts = dict[str, list[str]]


def read_labels(path: str) -> tuple[ClassNames | None, Prompts | None]:
    """Class names, or a mapping class -> prompts, by the file's ending; raises `ConfigurationError`."""
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".json":
            return None, _prompts(json.loads(whole_text(path), object_pairs_hook=_unique))
        if suffix in (".yaml", ".yml"):
            return None, _prompts(parse_yaml(whole_text(path), texts=True))
        return _names(path), None
    except OSError as error:
        raise ConfigurationError(f"labels file {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"labels file {path}: {error}") from error


def _names(path: str) -> ClassNames:
    seen: dict[str, int] = {}
    for number, line in text_lines(path):
        name = class_name(line)
        if name in seen:
            raise ValueError(f"{name!r} is in line {seen[name]} and in line {number}")
        seen[name] = number
    if not seen:
        raise ValueError("no classes in it")
    return list(seen)


def _unique(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        name = class_name(str(key))
        if not name:
            raise ValueError("a class is blank")
        if name in found:
            raise ValueError(f"{name!r} is in it twice")
        found[name] = value
    return found


def _prompts(loaded: Any) -> Prompts:
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"expected a mapping class -> prompts, got {type(loaded).__name__}")
    return _unique((name, _texts(name, value)) for name, value in loaded.items())


def _texts(name: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"class {name!r}: expected a prompt or a list of prompts, got {value!r}")
    if any("\0" in text or encodable(text) != text for text in texts):
        raise ValueError(f"class {name!a}: a prompt holds NUL or half a character: {value!a}")
    return texts
