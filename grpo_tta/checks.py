"""The rules that settings are held to, with one wording for all of them: field, rule, value; and what is
raised for a model that cannot be used."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any


class ModelError(ValueError):
    """A model, its weights, its classes or its prompts cannot be used; the message names the value and the way out."""


def described(schema: dict[str, Any], kind: type[Any]) -> None:
    """Give a class's JSON schema the docstrings under its fields, and under those that it inherits. pydantic's own
    ``use_attribute_docstrings`` reads the sources at every import."""
    import ast
    import inspect

    for base in kind.__mro__[-2::-1]:
        (made,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(made, ast.ClassDef)
        for field, text in pairwise(made.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                found = schema["properties"].get(ast.unparse(field.target), {})
                found["description"] = inspect.cleandoc(ast.literal_eval(text.value))


AS_SECTION: dict[str, Any] = {"extra": "forbid", "json_schema_extra": described}
"""What pydantic is told of settings that are a section of a configuration."""


def check_fields(
    settings: object,
    *,
    choices: Mapping[str, Sequence[str]] | None = None,
    at_least: Mapping[str, int] | None = None,
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    shares: Sequence[str] = (),
    optional_positive: Sequence[str] = (),
) -> None:
    """Raise ``ValueError`` for the first field of ``settings`` that breaks its rule.

    ``shares`` are at most 1 (their lower end is theirs to state as positive or not negative); ``optional_positive``
    may be ``None``.
    """
    for name, allowed in (choices or {}).items():
        if getattr(settings, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(settings, name)!r}")
    for name, least in (at_least or {}).items():
        if getattr(settings, name) < least:
            raise ValueError(f"{name} must be >= {least}, got {getattr(settings, name)}")
    _check_numbers(settings, positive, not_negative, shares)
    for name in optional_positive:
        value = getattr(settings, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be > 0, got {value}")


def _check_numbers(
    settings: object, positive: Sequence[str], not_negative: Sequence[str], shares: Sequence[str]
) -> None:
    for name in (*positive, *not_negative):
        if not math.isfinite(getattr(settings, name)):
            raise ValueError(f"{name} must be finite, got {getattr(settings, name)}")
    for name in positive:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name} must be > 0, got {getattr(settings, name)}")
    for name in not_negative:
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} must be >= 0, got {getattr(settings, name)}")
    for name in shares:
        if getattr(settings, name) > 1:
            raise ValueError(f"{name} must be <= 1, got {getattr(settings, name)}")


def is_whole(text: str) -> bool:
    """Whether a text is a whole number and nothing else, in ASCII digits: ``int`` takes those of every script."""
    return text.isascii() and text.isdecimal()


def class_name(text: str) -> str:
    """A class's name as it is kept: composed (NFC), without surrounding blanks."""
    return unicodedata.normalize("NFC", text).strip()


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """At least two class names, none blank, none twice, no two that look alike, else ``ModelError``; each as
    `class_name` keeps it."""
    kept = tuple(class_name(name) for name in names)
    if len(kept) < 2:
        raise ModelError(f"at least two classes are needed, got {len(kept)}")
    seen: dict[str, int] = {}
    looks: dict[str, str] = {}
    for position, name in enumerate(kept, start=1):
        look = _look(name)
        if not look:
            raise ModelError(f"class name number {position} is blank")
        if name in seen:
            raise ModelError(f"class name {name!r} appears twice, as number {seen[name]} and number {position}")
        if look in looks:
            first = looks[look]
            raise ModelError(
                f"class names number {seen[first]} and number {position} look alike: {first!a} and {name!a}"
            )
        seen[name], looks[look] = position, name
    return kept


_TWINS = str.maketrans("АВЕЅІЈКМНОРСТУХаесорѕіјухΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABESIJKMHOPCTYXaecopsijyxABEZHIKMNOPTYXo")
"""Cyrillic and Greek letters that are drawn as Latin ones."""


def _look(name: str) -> str:
    """Equal for names that a reader cannot tell apart: without what has no width, one kind of blank, one of each
    letter and digit."""
    text = unicodedata.normalize("NFKC", name).translate(_TWINS)
    visible = "".join(letter for letter in text if unicodedata.category(letter) not in ("Cf", "Cc") or letter.isspace())
    return re.sub(r"\s+", " ", re.sub("[\ufe00-\ufe0f]", "", visible)).strip()
